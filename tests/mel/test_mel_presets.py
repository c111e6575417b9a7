"""Tests of presets against numbers that numpy computes here, as in the sources of the models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from test_mel import slow_filters

import rtspecinv
from rtspecinv import Compression, Mel, MelConfig, diagnose
from rtspecinv.measure import clip as demo_clip
from rtspecinv.mel.models import CONFIGS
from rtspecinv.metrics import sc

CLIP = demo_clip.render()[30000:52000].astype(np.float64)
NEAR = 1e-6  # relative to values up to 255 of either sign


def magnitude(samples, n_fft, hop, win=None, padding=None, period=None):
    """Return |STFT| of samples reflected at the ends, with a Hann window of `win` samples and this period."""
    win = win or n_fft
    padding = n_fft // 2 if padding is None else padding
    padded = np.pad(samples, padding, mode="reflect")
    window = np.zeros(n_fft)
    left = (n_fft - win) // 2
    window[left : left + win] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win) / (period or win))
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
    mel = slaney(2048, 20000, 80, 0, 10000) @ magnitude(emphasised(x), 2048, 250, 1000)
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


def cosyvoice2(x):
    return hifigan(x, 24000, 80, 8000, 1920, 480)


def matcha(x):
    return (hifigan(x) + 5.536622) / 2.116101


def emphasised(x):
    return np.append(x[0], x[1:] - 0.97 * x[:-1])


def wav2lip(x):
    mel = slaney(800, 16000, 80, 55, 7600) @ magnitude(emphasised(x), 800, 200)
    level = 20 * np.log10(np.maximum(np.exp(-100 / 20 * np.log(10)), mel)) - 20
    return np.clip(2 * 4 * (level + 100) / 100 - 4, -4, 4)


def nemo_asr(x):
    power = magnitude(emphasised(x), 512, 160, 400, period=399) ** 2
    return np.log(slaney(512, 16000, 80, 0, 8000) @ power + 2**-24)


def nemo_hifigan(x):
    spectrum = magnitude(x, 1024, 256, padding=384, period=1023)
    return np.log(np.maximum(slaney(1024, 22050, 80, 0, 8000) @ spectrum, 1e-5))


def riffusion(x):
    mel = htk(17640, 44100, 512, 0, 10000) @ magnitude(x * 32768, 17640, 441, 4410)
    return np.flip(255 - 255 * (mel / 30e6) ** 0.25, 0)


def kaldi(x, n_mels, window):
    """Return features as compute-fbank-feats and torchaudio compute them, without dither, for -1 to 1."""
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
    "cosyvoice2": cosyvoice2,
    "matcha": matcha,
    "wav2lip": wav2lip,
    "nemo-asr": nemo_asr,
    "nemo-hifigan": nemo_hifigan,
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
    """Whisper drops the last frame before it computes the largest value."""
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
    compression = replace(config.compression, mean=cast(Any, mean), std=cast(Any, std))
    mel = Mel(replace(config, compression=compression), dtype=torch.float64)
    samples = torch.from_numpy(CLIP)
    expected = (parallel_wavegan(CLIP) - mean[:, None]) / std[:, None]
    assert np.abs(mel(samples).numpy() - expected).max() < NEAR
    assert torch.allclose(mel.expand(mel(samples)), mel.linear(samples), rtol=1e-3, atol=1e-9)


def test_nemos_normalised_features_come_back_with_their_statistics():
    """With normalize: "per_feature", the features contain neither mean nor deviation of a band."""
    levels = nemo_asr(CLIP)
    mean, std = levels.mean(1), levels.std(1, ddof=1) + 1e-5
    config = CONFIGS["nemo-asr"]
    normalised = Mel(replace(config, compression=replace(config.compression, mean=mean, std=std)))
    given = torch.from_numpy((levels - mean[:, None]) / std[:, None]).float()
    wanted = rtspecinv.presets["nemo-asr"]
    assert sc(normalised.expand(given), wanted.expand(torch.from_numpy(levels).float())) < -90


@pytest.mark.parametrize(
    ("window", "values", "error"),
    [("povey", HANN**0.85, 1e-12), ("hann", HANN, 1e-12), ("hamming", 0.08 + 0.92 * HANN, 0.01)],
)
def test_preemphasis_within_frames_is_a_filter_of_the_samples(window, values, error):
    """Inversion undoes a filter of all samples. Within a frame, only its first sample has another value,
    which Kaldi's window multiplies by 0; the mean that is subtracted changes only the main lobe at 0 Hz."""
    config = replace(CONFIGS["kaldi-fbank"], window=window)
    samples = torch.from_numpy(CLIP)
    found = Mel(config, dtype=torch.float64)._by_frame(samples)
    frames = np.stack([CLIP[start : start + 400] for start in range(0, len(CLIP) - 399, 160)])
    inner = np.concatenate([frames[:, :1], frames[:, 1:] - 0.97 * frames[:, :-1]], 1)
    inner[1:, 0] -= 0.97 * CLIP[159 : 160 * len(inner) - 1 : 160]  # the filter of all samples
    spectra = np.fft.rfft((inner - 0.03 * frames.mean(1, keepdims=True)) * values, 512)
    off = np.abs(found.numpy()[:, 1:] - np.abs(spectra.T[:, 1:]))
    assert np.linalg.norm(off) / np.linalg.norm(spectra) < error
    plain = np.abs(np.fft.rfft(inner * values, 512).T[3:, 1:])  # of a filter alone, above the main lobe
    assert np.linalg.norm(found.numpy()[3:, 1:] - plain) / np.linalg.norm(plain) < error + 1e-3


def test_logarithm_of_1_plus_x():
    """jordipons/musicnn, musicnn/extractor.py (batch_data), configuration.py: log10(10000 x + 1), powers."""
    mel = slaney(512, 16000, 96, 0, 8000) @ magnitude(CLIP, 512, 256) ** 2
    compression = Compression("log1p", reference=1e-4, gain=1 / np.log(10))
    config = MelConfig(16000, 512, 256, n_mels=96, power=2, compression=compression)
    found = Mel(config, dtype=torch.float64)(torch.from_numpy(CLIP))
    assert np.abs(found.numpy() - np.log10(10000 * mel + 1)).max() < NEAR
    assert sc(Mel(config, dtype=torch.float64).expand(found), torch.from_numpy(mel)) < -90


def test_features_of_16_bits():
    """The documented conversion of powers of samples up to 32768 gives the same sound."""
    config = CONFIGS["kaldi-fbank"]
    floor = config.compression.floor
    compression = replace(config.compression, floor=floor / 2**30, reference=1 / 2**30)
    mel = Mel(replace(config, compression=compression), dtype=torch.float64)
    assert np.abs(mel(torch.from_numpy(CLIP)).numpy() - kaldi(32768 * CLIP, 80, HANN**0.85)).max() < 1e-6


@pytest.mark.parametrize(("name", "least"), [("kaldi-fbank", -26), ("ast", -26)])
def test_kaldis_features_come_back(name, least):
    """Inversion of features computed here returns sound at the original level."""
    preset = rtspecinv.presets[name]
    found = preset.invert(torch.from_numpy(SOURCES[name](CLIP)).float())
    samples = torch.from_numpy(CLIP).float()
    assert sc(preset.linear(found), preset.linear(samples)[:, : preset(found).shape[-1]]) < least
    level = found.square().mean() / samples[: len(found)].square().mean()
    assert 0.9 < level < 1.1
