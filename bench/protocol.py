"""Recordings, settings and measures of quality and time that the benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

import rtspecinv
from rtspecinv.measure import clip as demo_clip
from rtspecinv.measure import timing
from rtspecinv.measure.quality import EDGE_FRAMES, inner_convergence
from rtspecinv.measure.timing import Setting

CLIP_SECONDS = 4.0
SUFFIXES = {".flac", ".mp3", ".ogg", ".wav"}


class NoRecordings(Exception):
    """No recordings were found; the message states what to pass."""


def gauss_window(n_fft: int) -> Tensor:
    """Return the truncated Gaussian window of LTFAT, `exp(-pi t^2 / (0.17055 n_fft^2))`."""
    return torch.exp(-torch.pi * (torch.arange(n_fft) / n_fft - 0.5) ** 2 / 0.17055)


WINDOWS: dict[str, Callable[[int], Tensor]] = {  # periodic
    "Hann": torch.hann_window,
    "square-root Hann": lambda n_fft: torch.hann_window(n_fft).sqrt(),
    "Hamming": torch.hamming_window,
    "Gauss": gauss_window,
    "Kaiser": torch.kaiser_window,  # beta 12
}


@dataclass(frozen=True)
class Configuration:
    """Sample rate and transform of the magnitudes."""

    sample_rate: int
    n_fft: int
    hop_length: int
    window: str = "Hann"

    def __str__(self) -> str:
        return f"{self.sample_rate / 1000:g} kHz {self.name}"

    @property
    def name(self) -> str:
        """Name of the transform in tables."""
        return f"{self.n_fft}/{self.hop_length}"

    def magnitude(self, samples: Tensor) -> Tensor:
        """Return magnitudes `(*batch, n_freq, n_frames)` by `torch.stft`."""
        window = WINDOWS[self.window](self.n_fft)
        return torch.stft(
            samples, self.n_fft, self.hop_length, window=window, center=True, return_complex=True
        ).abs()

    def inverter(self, **options: Any) -> rtspecinv.StreamingInverter:
        window = "hann" if self.window == "Hann" else WINDOWS[self.window](self.n_fft)
        stft = rtspecinv.STFT(self.n_fft, self.hop_length, window=window)
        return rtspecinv.StreamingInverter(stft, **options)

    def setting(self, look_ahead: int, n_iter: int) -> Setting:
        """Return the parameters of a stream with this configuration."""
        return Setting(self.sample_rate, self.n_fft, self.hop_length, look_ahead, n_iter)


STANDARD = Configuration(22050, 1024, 256)
LONG = Configuration(22050, 2048, 512)
SHORT = Configuration(16000, 512, 128)
DENSE = Configuration(22050, 1024, 128)


@dataclass(frozen=True)
class Clips:
    """Clips of equal length: their names, and their samples `(n_clips, n_samples)`."""

    names: tuple[str, ...]
    samples: Tensor

    def __add__(self, other: Clips) -> Clips:
        return Clips(self.names + other.names, torch.cat([self.samples, other.samples]))


def files_in(folder: Path) -> list[Path]:
    """Return the recordings in a folder, sorted by name."""
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not found:
        raise NoRecordings(f"No recordings (WAV, FLAC, OGG, MP3) in {folder}: pass --audio DIR")
    return found


def read_clips(files: Sequence[Path], rate: int, begin: float = 0.5, speed: float = 1.0) -> Clips:
    """Return 4 s of every file in mono, or of the demo clip if there are no files.

    If a file ends less than 4 s after `begin`, its last 4 s are read; files shorter than 4 s are left out.
    """
    clips = {}
    for path in files:
        found = _read(path, begin, CLIP_SECONDS * speed)
        if found is not None:
            clips[path.stem] = _to_length(soxr.resample(found[0], found[1] * speed, rate), rate)
    if not files:
        start, audio = round(begin * demo_clip.SAMPLE_RATE), demo_clip.render()
        stop = start + round(CLIP_SECONDS * speed * demo_clip.SAMPLE_RATE)
        cut = audio[start:stop] if stop <= len(audio) else audio[start - stop :]
        clips["demo"] = _to_length(soxr.resample(cut, demo_clip.SAMPLE_RATE * speed, rate), rate)
    if not clips:
        raise NoRecordings(
            f"No recording is as long as {CLIP_SECONDS:g} s: pass --audio DIR with longer ones"
        )
    return Clips(tuple(clips), torch.from_numpy(np.stack(list(clips.values()))))


def _read(path: Path, begin: float, seconds: float) -> tuple[np.ndarray, int] | None:
    """Return mono samples and their sample rate."""
    with soundfile.SoundFile(path) as file:
        n_samples = round(seconds * file.samplerate)
        if len(file) < n_samples:
            return None
        file.seek(min(round(begin * file.samplerate), len(file) - n_samples))
        return file.read(n_samples, dtype="float32", always_2d=True).mean(1), file.samplerate


def _to_length(samples: np.ndarray, rate: int) -> np.ndarray:
    n_samples = round(CLIP_SECONDS * rate)
    return np.pad(samples, (0, max(0, n_samples - len(samples))))[:n_samples]


def invert(configuration: Configuration, magnitude: Tensor, **options: Any) -> Tensor:
    """Return samples of magnitudes `(*batch, n_freq, n_frames)`; the clips are streams of one inverter."""
    inverter = configuration.inverter(batch_shape=magnitude.shape[:-2], **options)
    return inverter.run(magnitude)


def convergence(
    configuration: Configuration, output: Tensor, magnitude: Tensor, begin: int = EDGE_FRAMES
) -> Tensor:
    """Return spectral convergence of samples against magnitudes from frame `begin` on, `(n_clips,)`, dB."""
    return inner_convergence(configuration.magnitude(output), magnitude, begin)


def convergence_elsewhere(configuration: Configuration, output: Tensor, clean: Tensor) -> Tensor:
    """Return the spectral convergence with another transform, Gaussian window 2048/128, `(n_clips,)`, dB."""
    n_fft, hop_length = 2048, 128
    time_ = torch.arange(n_fft) - n_fft / 2
    window = torch.exp(-torch.pi * time_**2 / (n_fft * hop_length))
    edge = EDGE_FRAMES * configuration.hop_length
    magnitudes = [
        torch.stft(
            s[..., edge : output.shape[-1] - edge],
            n_fft,
            hop_length,
            window=window,
            center=False,
            return_complex=True,
        )
        for s in (output, clean)
    ]
    return rtspecinv.metrics.spectral_convergence(magnitudes[0].abs(), magnitudes[1].abs())


def opinions(configuration: Configuration, output: Tensor, clips: Clips) -> np.ndarray:
    """Return wideband PESQ of every clip named speech_*."""
    scores = [
        _speech_scores(samples, clean, configuration.sample_rate)[0]
        for name, clean, samples in zip(clips.names, clips.samples, output, strict=True)
        if name.startswith("speech_")
    ]
    return np.array(scores)


def speech_quality(configuration: Configuration, output: Tensor, clips: Clips) -> tuple[float, float]:
    """Return wideband PESQ and ESTOI, means over the clips named speech_*; nan if there are none."""
    scores = [
        _speech_scores(samples, clean, configuration.sample_rate)
        for name, clean, samples in zip(clips.names, clips.samples, output, strict=True)
        if name.startswith("speech_")
    ]
    means = np.mean(scores, 0) if scores else (np.nan, np.nan)
    return float(means[0]), float(means[1])


def _speech_scores(samples: Tensor, clean: Tensor, rate: int) -> tuple[float, float]:
    try:
        opinion = rtspecinv.metrics.pesq(samples, clean, rate)
    except ImportError:  # pesq may be missing, because its installation compiles C
        opinion = np.nan
    return opinion, rtspecinv.metrics.estoi(samples, clean, rate)


@dataclass(frozen=True)
class Score:
    """Quality of an inversion: convergences `(n_clips,)`, dB; PESQ and ESTOI, means over clips of speech."""

    convergence: Tensor
    elsewhere: Tensor
    pesq: float
    estoi: float


def score(
    configuration: Configuration, clips: Clips, magnitude: Tensor | None = None, **options: Any
) -> Score:
    """Invert the magnitudes of clips, or the given ones in their place, and return the quality."""
    given = configuration.magnitude(clips.samples) if magnitude is None else magnitude
    output = invert(configuration, given, **options)
    return Score(
        convergence(configuration, output, given),
        convergence_elsewhere(configuration, output, clips.samples),
        *speech_quality(configuration, output, clips),
    )


def seam_ratio(output: Tensor, hop_length: int, latency: int) -> Tensor:
    """Return the RMS second difference across hop boundaries over that elsewhere, `(n_clips,)`."""
    bent = output.diff(n=2).double()  # item i belongs to sample i + 1
    phase = (torch.arange(bent.shape[-1]) + 1 + latency) % hop_length
    across = (phase == 0) | (phase == hop_length - 1)
    return (bent[..., across].square().mean(-1) / bent[..., ~across].square().mean(-1)).sqrt()


def tone(rate: int) -> Tensor:
    """Return an amplitude-modulated tone of 110 Hz with harmonics up to 2 kHz, `(n_samples,)`."""
    seconds = torch.arange(round(CLIP_SECONDS * rate), dtype=torch.float64) / rate
    harmonics = torch.arange(1, 20, dtype=torch.float64)[:, None]
    parts = torch.sin(2 * torch.pi * 110 * harmonics * seconds) / harmonics.square()
    return (0.3 * parts.sum(0) * (1 + 0.5 * torch.sin(2 * torch.pi * 6 * seconds))).float()


def energy_above(samples: Tensor, rate: int, frequency: float) -> float:
    """Return the share of the energy above a frequency, in the middle half of samples `(n_samples,)`, dB."""
    n_samples = samples.shape[-1] // 2
    middle = samples[n_samples // 2 :][:n_samples].double()
    window = torch.signal.windows.blackman(n_samples, dtype=torch.float64)
    power = torch.fft.rfft(middle * window).abs().square()
    return float(10 * torch.log10(power[round(frequency / rate * n_samples) :].sum() / power.sum()))


def push_seconds(
    configuration: Configuration, magnitude: Tensor, n_pushes: int = 300, **options: Any
) -> tuple[float, float]:
    """Return median and shortest time of a push of one stream, for frames of `(n_freq, n_frames)`."""
    seconds = timing.push_seconds(configuration.inverter(**options), magnitude, n_pushes)
    return float(np.median(seconds)), float(seconds.min())
