"""Tests of presets against numbers that numpy computes here, as in the sources of the models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_mel import slow_filters

import rtspecinv
from rtspecinv import Mel, diagnose
from rtspecinv.measure import clip as demo_clip
from rtspecinv.mel.models import CONFIGS
from rtspecinv.metrics import sc

CLIP = demo_clip.render()[30000:52000].astype(np.float64)
NEAR = 1e-6  # relative to values up to 255 of either sign


def magnitude(samples, n_fft, hop, win=None, padding=None):
    """|STFT| of samples that are reflected at the ends, periodic Hann window of `win` samples."""
    win = win or n_fft
    padding = n_fft // 2 if padding is None else padding
    padded = np.pad(samples, padding, mode="reflect")
    window = np.zeros(n_fft)
    left = (n_fft - win) // 2
    window[left : left + win] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win) / win)
    starts = range(0, len(padded) - n_fft + 1, hop)
    return np.abs(np.stack([np.fft.rfft(padded[s : s + n_fft] * window) for s in starts], 1))


def slaney(n_fft, rate, n_mels, fmin, fmax):
    return slow_filters(n_fft, rate, n_mels, fmin, fmax, "slaney", True)


def htk(n_fft, rate, n_mels, fmin, fmax):
    return slow_filters(n_fft, rate, n_mels, fmin, fmax, "htk", False)


def hifigan(x, rate=22050, n_mels=80, fmax=8000, n_fft=1024, hop=256, epsilon=1e-9):
    spectrum = np.sqrt(magnitude(x, n_fft, hop, padding=(n_fft - hop) // 2) ** 2 + epsilon)
    return np.log(np.maximum(slaney(n_fft, rate, n_mels, 0, fmax) @ spectrum, 1e-5))


def tacotron2(x):
    return np.log(np.maximum(slaney(1024, 22050, 80, 0, 8000) @ magnitude(x, 1024, 256), 1e-5))


def tacotron(x):
    emphasised = np.append(x[0], x[1:] - 0.97 * x[:-1])
    mel = slaney(2048, 20000, 80, 0, 10000) @ magnitude(emphasised, 2048, 250, 1000)
    return np.clip((20 * np.log10(np.maximum(1e-5, mel)) + 100) / 100, 0, 1)


def vocos(x, least):
    return np.log(np.maximum(htk(1024, 24000, 100, 0, 12000) @ magnitude(x, 1024, 256), least))


def whisper(x, n_mels):
    power = magnitude(x, 400, 160)[:, :-1] ** 2
    log = np.log10(np.maximum(slaney(400, 16000, n_mels, 0, 8000) @ power, 1e-10))
    return (np.maximum(log, log.max() - 8.0) + 4.0) / 4.0


def parallel_wavegan(x, rate=22050):
    return np.log10(np.maximum(1e-10, slaney(1024, rate, 80, 80, 7600) @ magnitude(x, 1024, 256)))


def coqui(x):
    mel = slaney(1024, 22050, 80, 0, 11025) @ magnitude(x, 1024, 256)
    level = 20 * np.log10(np.maximum(1e-8, mel)) - 20
    return np.clip(2 * 4 * (level + 100) / 100 - 4, -4, 4)


def riffusion(x):
    mel = htk(17640, 44100, 512, 0, 10000) @ magnitude(x * 32768, 17640, 441, 4410)
    return np.flip(255 - 255 * (mel / 30e6) ** 0.25, 0)


def kaldi(x, n_mels, window):
    """As compute-fbank-feats, and torchaudio's, do it: no dither, samples within -1 to 1."""
    frames = np.stack([x[start : start + 400] for start in range(0, len(x) - 399, 160)])
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    power = np.abs(np.fft.rfft(frames * window, 512)) ** 2

    def to_mel(f):
        return 1127 * np.log(1 + f / 700)

    edges = np.linspace(to_mel(20), to_mel(8000), n_mels + 2)[:, None]
    at = to_mel(np.arange(257) * 16000 / 512)
    rising, falling = (
        (at - edges[:-2]) / np.diff(edges[:-1], axis=0),
        (edges[2:] - at) / np.diff(edges[1:], axis=0),
    )
    bank = np.maximum(0, np.minimum(rising, falling))
    bank[:, 256] = 0
    return np.log(np.maximum(bank @ power.T, np.finfo(np.float32).eps))


HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)

SOURCES = {
    "hifigan-22k": hifigan,
    "bigvgan-22k-80": hifigan,
    "bigvgan-v2-22k-80": lambda x: hifigan(x, fmax=11025),
    "bigvgan-24k-100": lambda x: hifigan(x, 24000, 100, 12000),
    "bigvgan-v2-44k-128": lambda x: hifigan(x, 44100, 128, 22050, 2048, 512),
    "tacotron2": tacotron2,
    "tacotron": tacotron,
    "vits-ljs": lambda x: hifigan(x, fmax=11025, epsilon=1e-6),
    "vocos-24k": lambda x: vocos(x, 1e-7),
    "f5-tts": lambda x: vocos(x, 1e-5),
    "whisper": lambda x: whisper(x, 80),
    "whisper-large-v3": lambda x: whisper(x, 128),
    "parallel-wavegan": parallel_wavegan,
    "coqui": coqui,
    "speecht5": lambda x: parallel_wavegan(x, 16000),
    "kaldi-fbank": lambda x: kaldi(x, 80, HANN**0.85),
    "ast": lambda x: (kaldi(x, 128, HANN) + 4.2677393) / (2 * 4.5689974),
    "riffusion": riffusion,
}


def test_all_are_tested():
    assert set(SOURCES) == set(rtspecinv.presets) == set(CONFIGS)
    assert len(rtspecinv.presets) == len(SOURCES)
    assert repr(rtspecinv.presets).startswith("presets: hifigan-22k, ")


@pytest.mark.parametrize("name", SOURCES)
def test_numbers_are_those_of_the_source(name):
    expected = SOURCES[name](CLIP)
    found = Mel(CONFIGS[name], dtype=torch.float64)(torch.from_numpy(CLIP)).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < NEAR
    assert expected.std() > 0.1
    # In float32 small values are rounded, which changes logarithms; the sound is equal within -90 dB.
    preset = rtspecinv.presets[name]
    found, expected = preset(torch.from_numpy(CLIP).float()), torch.from_numpy(expected.copy()).float()
    assert sc(preset.expand(found), preset.expand(expected)) < -90


def test_a_frame_that_is_dropped_is_no_peak():
    """Whisper drops the last frame before it looks for the largest value."""
    samples = np.where(np.arange(4000) < 3900, 1e-4, 0.5) * np.sin(0.5 * np.arange(4000))
    found = Mel(CONFIGS["whisper"], dtype=torch.float64)(torch.from_numpy(samples)).numpy()
    assert np.abs(found - whisper(samples, 80)).max() < NEAR
    short = Mel(replace(CONFIGS["whisper"], center=False))
    assert short(torch.ones(400)).shape == (80, 0)


def test_an_unknown_name_gets_the_nearest():
    for ask in (lambda name: rtspecinv.presets[name], lambda name: diagnose(CLIP, preset=name)):
        with pytest.raises(
            KeyError, match=r"^Parameter preset='hifigan22k' is not one of.*mean 'hifigan-22k'"
        ):
            ask("hifigan22k")
    assert "hifigan" not in rtspecinv.presets
    assert rtspecinv.presets.get("hifigan") is None


def test_statistics_are_undone():
    config = CONFIGS["parallel-wavegan"]
    mean, std = np.linspace(-3, -1, 80), np.linspace(0.5, 1, 80)
    compression = replace(config.compression, mean=mean, std=std)  # type: ignore[arg-type]
    mel = Mel(replace(config, compression=compression), dtype=torch.float64)
    samples = torch.from_numpy(CLIP)
    expected = (parallel_wavegan(CLIP) - mean[:, None]) / std[:, None]
    assert np.abs(mel(samples).numpy() - expected).max() < NEAR
    assert torch.allclose(mel.expand(mel(samples)), mel.linear(samples), rtol=1e-3, atol=1e-9)


def test_features_of_16_bits():
    """As the documentation says it: the powers of samples up to 32768, and the same sound."""
    config = CONFIGS["kaldi-fbank"]
    floor = config.compression.floor
    compression = replace(config.compression, floor=floor / 2**30, reference=1 / 2**30)
    mel = Mel(replace(config, compression=compression), dtype=torch.float64)
    assert np.abs(mel(torch.from_numpy(CLIP)).numpy() - kaldi(32768 * CLIP, 80, HANN**0.85)).max() < 1e-6


@pytest.mark.parametrize(("name", "least"), [("kaldi-fbank", -26), ("ast", -26)])
def test_kaldis_features_come_back(name, least):
    """Of numbers that were made here, as loud as they were."""
    preset = rtspecinv.presets[name]
    found = preset.invert(torch.from_numpy(SOURCES[name](CLIP)).float())
    samples = torch.from_numpy(CLIP).float()
    assert sc(preset.linear(found), preset.linear(samples)[:, : preset(found).shape[-1]]) < least
    level = found.square().mean() / samples[: len(found)].square().mean()
    assert 0.9 < level < 1.1
