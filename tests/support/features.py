"""Kinds of features that are in use, computed in numpy, and sounds to compute them from.

A kind states the true properties of its features: the values that the fields of a `Diagnosis` may have, and
the presets that make these features.

Sources: those of the presets in `rtspecinv/mel/models.py`; Kaldi, feat/feature-fbank.cc,
feat/mel-computations.cc; YuanGongND/ast, src/dataloader.py; NVIDIA/NeMo, parts/preprocessing/features.py;
auspicious3000/autovc, make_spect.py; Rudrabha/Wav2Lip, audio.py; FunAudioLLM/CosyVoice,
matcha/utils/audio.py; librosa, core/spectrum.py, feature/spectral.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

import rtspecinv

Array = np.ndarray


@dataclass(frozen=True)
class Kind:
    """Features of samples within -1 to 1, and their true properties.

    Attributes:
        make: function that returns the features of samples `(n_samples,)`.
        rate: sample rate, Hz.
        values: true value of `Diagnosis.values`, which may also be unknown.
        presets: names of the presets that make the same features.
        transposed: whether frames come first, default: False.
        flipped: whether the highest band comes first, default: False.
        area_norm: whether bands have the same area, default: there are no bands.
        power: 1 for magnitudes, 2 for powers, default: neither.
        mel: whether the features are a mel spectrogram, default: True.
    """

    make: Callable[[Array], Array]
    rate: int
    values: str
    presets: tuple[str, ...] = ()
    transposed: bool = False
    flipped: bool = False
    area_norm: bool | None = None
    power: int | None = None
    mel: bool = True


def voice(rate: int, seconds: float = 2.0, seed: int = 0) -> Array:
    """Return gliding harmonics with two formants and pauses, hiss between them, and quiet noise."""
    random, t = np.random.default_rng(seed), np.arange(round(rate * seconds)) / rate
    pitch = 125 + 20 * seed + 30 * np.sin(2 * np.pi * 1.3 * t) + 10 * t
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formants = ((600 + 40 * seed, 250), (2100, 400))
    x = np.zeros_like(t)
    for k in range(1, int(0.45 * rate / 200)):
        gain = 1 + sum(2 * np.exp(-(((125 * k - f) / width) ** 2)) for f, width in formants)
        x += np.sin(k * phase) / k * gain
    x *= np.clip(np.sin(2 * np.pi * 2.1 * t), 0, 1) ** 0.5
    fricative = high(random.standard_normal(len(t)), rate, 3000) * (np.sin(2 * np.pi * 2.1 * t + 3.6) > 0.7)
    x += 0.3 * fricative + 0.004 * random.standard_normal(len(t))
    return 0.4 * x / np.abs(x).max()


def high(x: Array, rate: int, lowest: float) -> Array:
    """Return the part of a sound above a frequency in Hz."""
    spectrum = np.fft.rfft(x)
    spectrum *= 1 / (1 + (lowest / np.maximum(1, np.fft.rfftfreq(len(x), 1 / rate))) ** 8)
    return np.fft.irfft(spectrum, len(x))


def hiss(rate: int, seconds: float = 2.0, seed: int = 0) -> Array:
    """Return a steady hiss whose level rises with frequency: the second difference of noise."""
    x = np.diff(np.random.default_rng(seed).standard_normal(round(rate * seconds) + 2), n=2)
    return 0.3 * x / np.abs(x).max()


def cymbals(rate: int, seconds: float = 2.0, seed: int = 0) -> Array:
    """Return strokes of many inharmonic partials and noise, mostly above 4 kHz, and the noise of a room."""
    random, t = np.random.default_rng(seed), np.arange(round(rate * seconds)) / rate
    since = t % 0.5
    ring = sum(np.sin(2 * np.pi * f * since) for f in random.uniform(3500, 0.48 * rate, 60)) / 8
    x = (ring + random.standard_normal(len(t))) * np.exp(-7 * since)
    return 0.5 * high(x, rate, 4000) / 4 + 1e-4 * random.standard_normal(len(t))


def chord(rate: int, seconds: float = 2.0, seed: int = 0) -> Array:
    """Return plucked strings: decaying harmonics of four notes, one after the other."""
    random, t = np.random.default_rng(seed), np.arange(round(rate * seconds)) / rate
    x = 1e-4 * random.standard_normal(len(t))
    for i, note in enumerate((220.0, 277.2, 329.6, 440.0)):
        since = np.maximum(t - 0.4 * i, 0)
        for k in range(1, 20):
            if k * note < 0.45 * rate:
                x += 0.15 / k * np.sin(2 * np.pi * k * note * since) * np.exp(-(1 + 0.4 * k) * since)
    return 0.5 * x / np.abs(x).max()


SOUNDS = {"voice": voice, "hiss": hiss, "cymbals": cymbals, "chord": chord}


def spectrum(x: Array, n_fft: int, hop: int, window: Array | None = None, pad: int | None = None) -> Array:
    """Return magnitudes `(n_fft // 2 + 1, n_frames)`, centred, or with `pad` zeros on each side."""
    pad = n_fft // 2 if pad is None else pad
    x = np.pad(x, pad, mode="reflect" if pad else "constant")
    window = np.hanning(n_fft + 1)[:-1] if window is None else window
    before = (n_fft - len(window)) // 2
    window = np.pad(window, (before, n_fft - len(window) - before))
    frames = np.lib.stride_tricks.sliding_window_view(x, n_fft)[::hop]
    return np.abs(np.fft.rfft(frames * window)).T


def bank(
    rate: int, n_fft: int, n_mels: int, fmin: float = 0, fmax: float | None = None, htk: bool = False
) -> Array:
    """Return triangles `(n_mels, n_fft // 2 + 1)`: Slaney's scale and area, or HTK's scale and height 1."""

    def hertz(mel: Array) -> Array:
        if htk:
            return 700 * (10 ** (mel / 2595) - 1)
        return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))

    def mels(f: float) -> float:
        if htk:
            return 2595 * np.log10(1 + f / 700)
        return f * 3 / 200 if f < 1000 else 15 + 27 * np.log(f / 1000) / np.log(6.4)

    edges = hertz(np.linspace(mels(fmin), mels(fmax or rate / 2), n_mels + 2))[:, None]
    f = np.arange(n_fft // 2 + 1) * rate / n_fft
    rise, fall = (f - edges[:-2]) / np.diff(edges, axis=0)[:-1], (edges[2:] - f) / np.diff(edges, axis=0)[1:]
    triangles = np.clip(np.minimum(rise, fall), 0, None)
    return triangles if htk else triangles * 2 / (edges[2:] - edges[:-2])


def preemphasised(x: Array, a: float = 0.97) -> Array:
    return np.append(x[:1], x[1:] - a * x[:-1])


def kaldi(x: Array, n_mels: int = 80, a: float = 0.97, scale: float = 1.0, povey: float = 0.85) -> Array:
    """Return Kaldi's filter bank features `(n_frames, n_mels)` at 16 kHz, without dither."""
    frames = scale * np.lib.stride_tricks.sliding_window_view(x, 400)[::160]
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - a * np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** povey
    power = np.abs(np.fft.rfft(frames * window, 512)) ** 2
    mel = 1127 * np.log(1 + np.arange(257) * 16000 / 512 / 700)
    low, high = 1127 * np.log(1 + np.array([20, 8000]) / 700)
    edges = np.linspace(low, high, n_mels + 2)[:, None]
    step = edges[1] - edges[0]
    triangles = np.clip(1 - np.abs(mel - edges[1:-1]) / step, 0, None)
    return np.log(np.maximum(power @ triangles.T, 2**-23))


def ast(x: Array) -> Array:
    """Return Kaldi features with a Hann window, normalized by the statistics of AudioSet."""
    return (kaldi(x, 128, povey=1.0) + 4.2677393) / (2 * 4.5689974)


def db(x: Array, floor: float = 1e-5, top: float | None = None) -> Array:
    """Return `20 log10` of magnitudes; values more than `top` dB below the largest are raised to that."""
    found = 20 * np.log10(np.maximum(x, floor))
    return found if top is None else np.maximum(found, found.max() - top)


def autovc(x: Array) -> Array:
    """Return AutoVC's features, 0 to 1 for -100 to 0 dB relative to 16 dB, `(n_frames, 80)`."""
    mel = bank(16000, 1024, 80, 90, 7600) @ spectrum(x, 1024, 256)
    return np.clip((db(mel) - 16 + 100) / 100, 0, 1).T


def librosa_mel(x: Array, n_mels: int = 128) -> Array:
    """Return librosa.feature.melspectrogram with its defaults: powers."""
    return bank(22050, 2048, n_mels) @ spectrum(x, 2048, 512) ** 2


def power_db(x: Array) -> Array:
    """Return librosa.power_to_db(..., ref=np.max)."""
    mel = librosa_mel(x)
    found = 10 * np.log10(np.maximum(mel, 1e-10)) - 10 * np.log10(mel.max())
    return np.maximum(found, -80.0)


def nemo(x: Array) -> Array:
    window = np.hanning(400)
    mel = bank(16000, 512, 80) @ spectrum(preemphasised(x), 512, 160, window) ** 2
    found = np.log(mel + 2.0**-24)
    return (found - found.mean(1, keepdims=True)) / (found.std(1, ddof=1, keepdims=True) + 1e-5)


def whitened(x: Array) -> Array:
    mel = np.log(np.maximum(bank(22050, 1024, 80, 0, 8000) @ spectrum(x, 1024, 256), 1e-5))
    return (mel - mel.mean()) / mel.std()


def cosyvoice(x: Array) -> Array:
    """Return CosyVoice's features: 24 kHz, 1920/480, 80 bands up to 8 kHz."""
    mel = bank(24000, 1920, 80, 0, 8000) @ np.sqrt(spectrum(x, 1920, 480, pad=720) ** 2 + 1e-9)
    return np.log(np.maximum(mel, 1e-5))


def cosyvoice_wide(x: Array) -> Array:
    mel = bank(24000, 1920, 80) @ np.sqrt(spectrum(x, 1920, 480, pad=720) ** 2 + 1e-9)
    return np.log(np.maximum(mel, 1e-5))


def matcha(x: Array) -> Array:
    """Return Matcha-TTS's features: those of HiFi-GAN, normalised with the statistics of LJ Speech."""
    mel = bank(22050, 1024, 80, 0, 8000) @ np.sqrt(spectrum(x, 1024, 256, pad=384) ** 2 + 1e-9)
    return (np.log(np.maximum(mel, 1e-5)) + 5.536622) / 2.116101


def wav2lip(x: Array) -> Array:
    """Return Wav2Lip's features: -4 to 4 for -100 to 0 dB relative to 20 dB."""
    mel = bank(16000, 800, 80, 55, 7600) @ spectrum(preemphasised(x), 800, 200)
    return np.clip(8 * (db(mel) - 20 + 100) / 100 - 4, -4, 4)


def mfcc(x: Array, n: int = 20) -> Array:
    levels = power_db(x)
    n_mels = len(levels)
    rows, at = np.arange(n)[:, None], np.arange(n_mels) + 0.5
    return np.sqrt(2 / n_mels) * np.cos(np.pi / n_mels * rows * at) @ levels


def chroma(x: Array) -> Array:
    """Return powers of the twelve notes, each frame divided by its largest value."""
    power = spectrum(x, 2048, 512) ** 2
    f = np.fft.rfftfreq(2048, 1 / 22050)[2:]
    note = np.rint(12 * np.log2(f / 440)).astype(int) % 12
    found = np.stack([power[2:][note == n].sum(0) for n in range(12)])
    return found / np.maximum(found.max(0), 1e-10)


def linear(x: Array) -> Array:
    return spectrum(x, 1024, 256)


def grey(x: Array) -> Array:
    levels = np.clip((db(linear(x)) + 60) / 90, 0, 1)
    return np.rint(255 * levels[::-1]).astype(np.uint8)


def preset(name: str) -> Callable[[Array], Array]:
    return lambda x: rtspecinv.presets[name](torch.from_numpy(x.astype(np.float32))).numpy()


_HIFIGAN = preset("hifigan-22k")
_TWINS = ("hifigan-22k", "bigvgan-22k-80")
_LN = {"values": "ln", "power": 1, "area_norm": True}

KINDS: dict[str, Kind] = {
    "linear magnitudes": Kind(linear, 22050, "linear", power=1),
    "linear powers": Kind(lambda x: linear(x) ** 2, 22050, "linear", power=2),
    "linear, dB": Kind(lambda x: db(linear(x)), 22050, "dB", power=1),
    "linear, ln": Kind(lambda x: np.log(np.maximum(linear(x), 1e-5)), 22050, "ln", power=1),
    "linear, log10 of powers": Kind(
        lambda x: np.log10(np.maximum(linear(x) ** 2, 1e-10)), 22050, "log10", power=2
    ),
    "linear, ln(1 + x)": Kind(lambda x: np.log1p(linear(x)), 22050, "log1p", power=1),
    "linear, (frames, frequencies)": Kind(lambda x: linear(x).T, 22050, "linear", power=1, transposed=True),
    "linear, upside down": Kind(lambda x: linear(x)[::-1], 22050, "linear", power=1, flipped=True),
    "tacotron": Kind(preset("tacotron"), 20000, "unit", ("tacotron",), area_norm=True),
    "tacotron2": Kind(preset("tacotron2"), 22050, "ln", ("tacotron2",), area_norm=True, power=1),
    "hifigan-22k": Kind(_HIFIGAN, 22050, "ln", _TWINS, area_norm=True, power=1),
    "vocos-24k": Kind(preset("vocos-24k"), 24000, "ln", ("vocos-24k",), area_norm=False, power=1),
    "bigvgan-24k-100": Kind(
        preset("bigvgan-24k-100"), 24000, "ln", ("bigvgan-24k-100",), area_norm=True, power=1
    ),
    "whisper": Kind(preset("whisper"), 16000, "whisper", ("whisper",), area_norm=True, power=2),
    "coqui": Kind(preset("coqui"), 22050, "symmetric", ("coqui",), area_norm=True),
    "speecht5": Kind(preset("speecht5"), 16000, "log10", ("speecht5",), area_norm=True, power=1),
    "hifigan, (frames, mels)": Kind(
        lambda x: _HIFIGAN(x).T, 22050, "ln", _TWINS, True, area_norm=True, power=1
    ),
    "hifigan, upside down": Kind(
        lambda x: _HIFIGAN(x)[::-1], 22050, "ln", _TWINS, flipped=True, area_norm=True, power=1
    ),
    "hifigan, float16": Kind(
        lambda x: _HIFIGAN(x).astype(np.float16), 22050, "ln", _TWINS, area_norm=True, power=1
    ),
    "Kaldi, 40 bands": Kind(lambda x: kaldi(x, 40), 16000, "ln", transposed=True, area_norm=False, power=2),
    "Kaldi, 80 bands": Kind(kaldi, 16000, "ln", transposed=True, area_norm=False, power=2),
    "Kaldi, 128 bands": Kind(lambda x: kaldi(x, 128), 16000, "ln", transposed=True, area_norm=False, power=2),
    "Kaldi, no pre-emphasis": Kind(
        lambda x: kaldi(x, a=0), 16000, "ln", transposed=True, area_norm=False, power=2
    ),
    "Kaldi, 16-bit samples": Kind(
        lambda x: kaldi(x, scale=32768), 16000, "ln", transposed=True, area_norm=False, power=2
    ),
    "AST": Kind(ast, 16000, "scaled", transposed=True, area_norm=False, power=2),
    "NeMo, each band normalised": Kind(nemo, 16000, "standard", area_norm=True, power=2),
    "mean 0, variance 1": Kind(whitened, 22050, "standard", area_norm=True, power=1),
    "AutoVC": Kind(autovc, 16000, "unit", transposed=True, area_norm=True),
    "librosa, power mel": Kind(librosa_mel, 22050, "linear", area_norm=True, power=2),
    "librosa, dB under the loudest": Kind(power_db, 22050, "dB", area_norm=True, power=2),
    "mel, log10": Kind(
        lambda x: np.log10(np.maximum(librosa_mel(x, 80), 1e-10)), 22050, "log10", area_norm=True, power=2
    ),
    "mel, ln(1 + x)": Kind(lambda x: np.log1p(librosa_mel(x, 80)), 22050, "log1p", area_norm=True, power=2),
    "CosyVoice 2": Kind(cosyvoice, 24000, "ln", ("cosyvoice2",), area_norm=True, power=1),
    "CosyVoice 2, up to 12 kHz": Kind(cosyvoice_wide, 24000, "ln", area_norm=True, power=1),
    "Matcha": Kind(matcha, 22050, "scaled", ("matcha",), area_norm=True, power=1),
    "Wav2Lip": Kind(wav2lip, 16000, "symmetric", ("wav2lip",), area_norm=True),
    "MFCC, 20": Kind(mfcc, 22050, "cepstrum", mel=False),
    "MFCC, 40": Kind(lambda x: mfcc(x, 40), 22050, "cepstrum", mel=False),
    "chroma": Kind(chroma, 22050, "chroma", mel=False),
    "samples": Kind(lambda x: x, 22050, "samples", mel=False),
    "samples, two channels": Kind(lambda x: np.stack([x, np.roll(x, 7)]), 22050, "samples", mel=False),
    "picture": Kind(grey, 22050, "grey", mel=False),
    "silence": Kind(lambda x: np.full((80, 100), np.log(1e-5)), 22050, "silence", mel=True),
}


def untrue(kind: Kind, found: rtspecinv.Diagnosis) -> list[str]:
    """Return the false statements of a diagnosis about features of this kind."""
    open_values = {"unknown"} | ({"small"} if kind.values in ("linear", "log1p") else set())
    text = str(found)
    wrong = {
        f"values are {found.values}": found.values not in {kind.values} | open_values,
        "upside down": ("upside down" in text or "flip" in text) and not kind.flipped,
        f"layout {found.layout}": bool(found.layout)
        and kind.mel
        and kind.transposed != ("(..., frames" in found.layout),
        "to be transposed": "array.mT" in text and not kind.transposed,
        f"area norm {found.area_norm}": found.area_norm not in (None, kind.area_norm),
        f"power {found.power}": found.power not in (None, kind.power),
        f"not {kind.presets}, but {found.presets}": not set(kind.presets) <= set(found.presets),
        "a preset of no mel spectrogram": not kind.mel and bool(found.presets),
        "certain of the preset": bool(found.presets) and "cannot tell: wh" not in text,
        "not refused": not kind.mel and kind.values != "grey" and not found.problems,
    }
    return [claim for claim, is_wrong in wrong.items() if is_wrong]


def instructions(found: rtspecinv.Diagnosis) -> list[str]:
    """Return the expressions that the diagnosis tells to pass unconditionally."""
    texts = [part for problem in found.problems for part in problem.split("; ")]
    said = [text.split("pass ", 1) for text in texts if "pass " in text and not re.search(r"\bif\b", text)]
    return [part for _, part in said if part.startswith(("array", "numpy"))]


def obeyed(array: Array, found: rtspecinv.Diagnosis) -> Array:
    """Return the features after all instructions are followed; a flip includes its transposition."""
    said = instructions(found)
    said = [
        text for text in said if not (text == "array.mT" and any("array.mT" in t and t != text for t in said))
    ]
    for text in said:
        array = eval(text, {"array": array, "numpy": np})
    return array
