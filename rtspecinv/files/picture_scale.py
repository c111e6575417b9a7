"""Meaning of the grey values of a picture: magnitudes in dB on a frequency scale, or mel values.

A row is a frequency, the top row the highest; a column is a frame. Black is silence, white the largest value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rtspecinv.common.checks import MOST_RATE, choice, count, finite, keep
from rtspecinv.common.masks import unmasked
from rtspecinv.common.printable import printable
from rtspecinv.conventions import half_spectrum
from rtspecinv.files.metadata import MEL, understand
from rtspecinv.mel.config import MelConfig

Array = np.ndarray[Any, Any]
SCALES = ("linear", "log", "mel")
MOST_VALUES = 2**26  # largest number of magnitudes or grey levels in memory
_BLOCK = 256  # number of frames converted at once


@dataclass(frozen=True)
class PictureScale:
    """Magnitudes of grey levels u from 0 to 1: `white * 10**((u - 1) range_db / 20)`, and 0 for u = 0.

    Args:
        sample_rate: sample rate, Hz.
        n_fft: length of a frame in samples; frames have `n_fft // 2 + 1` frequencies.
        scale: frequency scale of the rows: "linear", "log", or "mel" (`log10(1 + f / 700)`).
        fmin, fmax: frequencies of the lowest and the highest row, Hz; default: 0 (20 for "log") and half the
            sample rate. Frequencies outside are silent.
        white: magnitude of white.
        range_db: level of black below white, dB.

    Raises:
        ValueError: a parameter is out of range.

    Source of the mel scale: O'Shaughnessy 1987.
    """

    sample_rate: float
    n_fft: int
    scale: str = "linear"
    fmin: float | None = None
    fmax: float | None = None
    white: float = 1.0
    range_db: float = 80.0

    def __post_init__(self) -> None:
        keep(self, partial(choice, SCALES), "scale")
        keep(self, partial(finite, 0, MOST_RATE, above=True), "sample_rate")
        keep(self, partial(count, 2), "n_fft")
        keep(self, finite, *(name for name in ("fmin", "fmax") if getattr(self, name) is not None))
        keep(self, partial(finite, 1e-30, 1e30), "white")
        keep(self, partial(finite, 1, 200), "range_db")
        least = 0 if self.scale != "log" else 1e-3
        if not least <= self.lowest < self.highest <= self.sample_rate / 2:
            way_out = ": a logarithmic scale begins above 0" if self.scale == "log" else ""
            raise ValueError(
                f"Parameters fmin={self.fmin}, fmax={self.fmax} are not {least} <= fmin < fmax <= "
                f"{self.sample_rate / 2:g}, half of sample_rate={self.sample_rate}{way_out}"
            )

    @property
    def lowest(self) -> float:
        """Frequency of the bottom row, Hz."""
        return (20.0 if self.scale == "log" else 0.0) if self.fmin is None else self.fmin

    @property
    def highest(self) -> float:
        """Frequency of the top row, Hz."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax

    @property
    def texts(self) -> dict[str, str]:
        """The scale as texts for the metadata of a picture."""
        numbers = {"fmin": self.lowest, "fmax": self.highest, "white": self.white, "range_db": self.range_db}
        return {"scale": self.scale, **{name: repr(float(number)) for name, number in numbers.items()}}

    def levels(self, magnitude: npt.ArrayLike, height: int | None = None) -> npt.NDArray[np.float32]:
        """Return grey levels `(height, n_frames)` of magnitudes `(n_freq, n_frames)`, one-sided or two-sided.

        A row shows the mean power of the frequencies around it, weighted by a triangle that reaches to the
        neighbouring rows; where rows are closer than frequencies, levels are interpolated. The default of
        `height` is one row per frequency. Raises `ValueError` for more than `MOST_VALUES` values.
        """
        values = half_spectrum(np.asarray(unmasked(magnitude, "magnitude")), self.n_fft)
        n_freq, n_frames = values.shape
        height = n_freq if height is None else count(1, height=height)
        _check_size(height, n_frames)
        rows = self._rows(height) * (self.n_fft / self.sample_rate)
        distance = np.maximum(1, np.abs(np.gradient(rows)) if height > 1 else np.ones(1))
        found = np.empty((height, n_frames), np.float32)
        floor = 10 ** (-self.range_db / 10)
        for start in range(0, height, _BLOCK):
            part = slice(start, start + _BLOCK)
            away = np.abs(np.arange(n_freq) - rows[part, None]) / distance[part, None]
            weights = np.maximum(0, 1 - away)
            weights /= np.maximum(weights.sum(1, keepdims=True), 1e-12)
            for block, power in _blocks(found[part], values):
                relative = weights @ np.square(power.astype(np.float64) / self.white)
                block[:] = 1 + 10 * np.log10(np.maximum(relative, floor)) / self.range_db
        return found[::-1].clip(0, 1)

    def magnitude(self, levels: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return magnitudes `(n_fft // 2 + 1, n_frames)` of grey levels, interpolated between rows.

        Raises `ValueError` for more than `MOST_VALUES` values.
        """
        values = np.asarray(unmasked(levels, "levels"))[::-1]
        n_freq, height = self.n_fft // 2 + 1, len(values)
        _check_size(n_freq, values.shape[1])
        frequencies = np.arange(n_freq) * (self.sample_rate / self.n_fft)
        at = np.interp(self._position(frequencies), self._position(self._rows(height)), np.arange(height))
        bin_width, near = self.sample_rate / self.n_fft, 1e-6
        heard = frequencies >= self.lowest - (0.5 + near) * bin_width
        heard &= frequencies <= self.highest + (0.5 + near) * bin_width
        lower = np.minimum(at.astype(int), height - 1)
        upper, share = np.minimum(lower + 1, height - 1), (at - lower)[:, None]
        found = np.empty((n_freq, values.shape[1]), np.float32)
        for block, part in _blocks(found, values):
            level = part[lower] * (1 - share) + part[upper] * share
            block[:] = self.white * 10 ** ((level - 1) * (self.range_db / 20)) * (level > 0)
        found[~heard] = 0
        return found

    def _rows(self, height: int) -> Array:
        """Return the frequencies of the rows from the bottom, Hz."""
        low, high = self._position(np.array([self.lowest, self.highest]))
        between = np.linspace(low, high, height)
        if self.scale == "log":
            return np.exp(between)
        return 700 * np.expm1(between) if self.scale == "mel" else between

    def _position(self, frequency: Array) -> Array:
        """Return the position of a frequency on the scale."""
        if self.scale == "log":
            return np.log(np.maximum(frequency, 1e-6))
        return np.log1p(frequency / 700) if self.scale == "mel" else frequency


def _check_size(n_rows: int, n_columns: int) -> None:
    if n_rows * n_columns > MOST_VALUES:
        raise ValueError(f"{n_rows} x {n_columns} values are more than {MOST_VALUES}: use a part of it")


def _blocks(found: Array, values: Array) -> list[tuple[Array, Array]]:
    """Return pairs of views, a few columns of both arrays, so that intermediate results stay small."""
    starts = range(0, values.shape[1], _BLOCK)
    return [(found[:, start : start + _BLOCK], values[:, start : start + _BLOCK]) for start in starts]


def mel_levels(mel: npt.ArrayLike, config: MelConfig) -> tuple[Array, dict[str, str]]:
    """Return grey levels of mel values `(n_mels, n_frames)`, linear from least to largest, and metadata."""
    values = np.asarray(unmasked(mel, "mel"), np.float64)
    low, high = config.compression.clip or (float(values.min()), float(values.max()))
    levels = (values - low) / ((high - low) or 1)
    return _top_first(levels, config), {"low": repr(float(low)), "high": repr(float(high))}


def values_of(levels: Array, texts: Mapping[str, str], mel: MelConfig | None) -> npt.NDArray[np.float32]:
    """Return the magnitudes or mel values of a picture.

    mel: configuration of the mel values; default: that in the metadata of the picture, if it has mel values.

    Raises:
        ValueError: neither the metadata nor `mel` define the grey values.
    """
    mel = mel or understand({name: texts[name] for name in texts if name == MEL}).get(MEL)
    if mel is not None:
        if "low" in texts and "high" in texts:
            low, high = number(texts, "low"), number(texts, "high")
        elif mel.compression.clip is not None:
            low, high = mel.compression.clip
        else:
            raise ValueError("it does not state the mel values of black and white")
        values: npt.NDArray[np.float32] = _top_first(levels, mel) * np.float32(high - low) + np.float32(low)
        return values
    if "scale" not in texts:
        raise ValueError("its metadata do not define its grey values: `rtspecinv image` can play any picture")
    return picture_scale(texts).magnitude(levels)


def picture_scale(texts: Mapping[str, str]) -> PictureScale:
    """Return the scale in the metadata of a picture that `rtspecinv picture` or `save_spectrogram` wrote.

    Raises:
        ValueError: a value is missing, or is not a number.
    """
    whole = understand({name: texts[name] for name in ("sample_rate", "n_fft") if name in texts})
    if len(whole) < 2:
        raise ValueError("it does not state its sample_rate and n_fft")
    numbers = {name: number(texts, name) for name in ("fmin", "fmax", "white", "range_db")}
    return PictureScale(whole["sample_rate"], whole["n_fft"], texts.get("scale", ""), **numbers)


def number(texts: Mapping[str, str], name: str) -> float:
    """Return the number with this name in the metadata; it must be finite and at most 1e30."""
    try:
        value = float(texts[name])
    except (KeyError, ValueError):
        value = math.nan
    if not abs(value) <= 1e30:
        raise ValueError(f"{name}={printable(texts.get(name, ''), 40)!r} is not a finite number")
    return value


def _top_first(rows: Array, config: MelConfig) -> Array:
    """Return mel rows in the order of a picture, the highest band first; the inverse is the same function."""
    return rows if config.flip else rows[::-1]
