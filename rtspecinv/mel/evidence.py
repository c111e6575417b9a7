"""Measurements of an array that may be a spectrogram: its axes, its values, the order of its bands.

This module only measures; `diagnosis` draws the conclusions. The thresholds were chosen on the sounds of
`tests/support/features.py` with seeds 0 and 1 and on the demo clip. docs/mel.md reports results on other
sounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rtspecinv.inputs import Array

MOST_VALUES = 2**20  # largest number of values that medians and percentiles are computed from
NEAR = 2e-3  # largest difference of two values that count as equal
SKEWED = 30.0  # ratio of the largest value to the median: magnitudes are above it, logarithms below
REPEATED = 1e-3  # least share of values equal to the minimum that makes it a floor
FEWEST_FRAMES = 40  # least number of frames from which the order of the bands is determined

# Thresholds for bands in reverse order: of `tilt`, and the range of `turned`. Recordings of music and speech
# are within this range; single whistles are beyond it.
LOUDER = 0.5
TURNED = (0.7, 2.2)


@dataclass(frozen=True)
class Evidence:
    """Measurements of the finite values of an array.

    Attributes:
        values: float64, of the array's shape.
        eps: relative spacing of the numbers of its dtype.
        low, high: least and largest finite value; NaN if there is none.
        n_bad: number of values that are NaN or infinite.
    """

    values: Array
    eps: float
    low: float
    high: float
    n_bad: int

    @property
    def tolerance(self) -> float:
        """Largest distance of the least value from a floor; half precision may have rounded the value."""
        return max(NEAR, max(self.eps, 2.0**-10) * abs(self.low))

    @cached_property
    def some(self) -> Array:
        """At most `MOST_VALUES` of the finite values."""
        flat = self.values.ravel()[:: max(1, self.values.size // MOST_VALUES)]
        return flat[np.isfinite(flat)]

    @cached_property
    def repeated(self) -> bool:
        """True if many values equal the least one, which is then the floor of a logarithm or of clipping."""
        n_low = int((self.some <= self.low + 1e-6 * abs(self.low)).sum())
        share = REPEATED if self.eps < 1e-4 else 10 * REPEATED  # numbers of low precision are equal by chance
        return self.low < self.high and n_low >= max(3, share * len(self.some))

    @cached_property
    def skewed(self) -> bool:
        """True if most values are far smaller than the largest, as in magnitudes, and none is negative."""
        return self.low >= 0 and self.high > 0 and float(np.median(self.some)) < self.high / SKEWED

    @cached_property
    def whole(self) -> bool:
        """True if nearly all values are whole numbers."""
        return bool((np.rint(self.some) == self.some).mean() > 0.9)

    @cached_property
    def rows(self) -> Array:
        """The array as `(n, m)`: its shorter axis first, and leading axes merged into the longer one."""
        values = (
            self.values if self.values.shape[-2] <= self.values.shape[-1] else self.values.swapaxes(-1, -2)
        )
        return np.moveaxis(values, -2, 0).reshape(values.shape[-2], -1)

    def standard(self) -> bool:
        """Return whether mean and deviation, of all values or of every row, are 0 and 1 within 0.01."""
        if self.n_bad:
            return False
        whole = _is_standard(self.some[None])
        return whole or (self.values.ndim > 1 and min(self.rows.shape) > 1 and _is_standard(self.rows))

    def cepstral(self) -> bool:
        """Return whether there are few rows, the first of which is far larger and varies far more."""
        if (
            self.n_bad
            or self.values.ndim < 2
            or not 8 <= len(self.rows) <= 64
            or self.rows.shape[1] < 8
            or self.low >= 0
        ):
            return False
        mean, moves = np.abs(self.rows.mean(1)), self.rows.std(1)
        return bool(mean[0] > 15 * np.median(mean[1:]) and moves[0] > 2.5 * np.median(moves[1:]))

    def chromatic(self) -> bool:
        """Return whether there are twelve rows of values from 0 to 1, and the largest of most frames is 1."""
        if self.values.ndim < 2 or len(self.rows) != 12 or self.low < 0 or self.high > 1 + NEAR:
            return False
        return bool((self.rows.max(0) > 1 - NEAR).mean() > 0.9)

    def waves(self) -> bool:
        """Return whether the array can be samples: one or two axes, and values of both signs around 0."""
        few = self.values.ndim < 2 or min(self.values.shape[-2:]) <= 2 < max(self.values.shape[-2:]) / 100
        return (
            few and self.low < 0 < self.high and abs(float(self.some.mean())) < 0.3 * float(self.some.std())
        )


def measure(values: Array, eps: float = 2.0**-23) -> Evidence:
    """Return the evidence of an array of real numbers of any shape."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (math.nan, math.nan)
    return Evidence(values, eps, low, high, values.size - finite.size)


def _is_standard(rows: Array) -> bool:
    mean, deviation = rows.mean(1), rows.std(1)
    return bool((np.abs(mean) < 0.005).all() and (np.abs(deviation - 1) < 0.01).all())


def tilt(levels: Array) -> float:
    """Return how much louder the upper third of levels `(n_mels, n_frames)` is, in standard deviations."""
    third = max(1, len(levels) // 3)
    deviation = float(levels.std())
    return float(levels[-third:].mean() - levels[:third].mean()) / deviation if deviation else 0.0


def turned(levels: Array) -> float:
    """Return a score that is high if levels `(n_mels, n_frames)` seem to have their highest band first.

    Low bands are narrower than the main lobe of the window, and high bands are wide. So for any sound, low
    bands have two properties. Levels differ more from band to band, because partials are resolved there and a
    band is the mean of few frequencies. Changes from frame to frame are more alike in neighbouring bands.

    The score is `log2(upper / lower)` of the median second difference `|x[m-1] - 2 x[m] + x[m+1]|`, plus
    twice the difference of the correlations between the changes of neighbouring bands. Before the
    correlation, the mean change of each band and five bands on either side is subtracted. Pre-emphasis and
    gains change neither term. The score is negative if the lowest band is first, and NaN if the order cannot
    be determined.
    """
    n_mels, n_frames = levels.shape
    if n_mels < 30 or n_frames < FEWEST_FRAMES:
        return math.nan
    sound = levels > levels.min() + NEAR * levels.std()
    bends, third = np.abs(np.diff(levels, n=2, axis=0)), n_mels // 3
    bend = _medians(bends, sound[:-2] & sound[1:-1] & sound[2:])
    likeness = _neighbours(np.diff(levels, axis=1), sound[:, 1:] & sound[:, :-1])
    ends = [
        np.array([np.nanmedian(part) if np.isfinite(part).sum() > third // 2 else np.nan for part in pair])
        for pair in ((bend[:third], bend[-third:]), (likeness[:third], likeness[-third:]))
    ]
    (low_bend, high_bend), (low_alike, high_alike) = ends
    if not (low_bend > 0 and high_bend > 0):
        return math.nan
    return float(np.log2(high_bend / low_bend) + 2 * (high_alike - low_alike))


def _medians(rows: Array, counts: Array) -> Array:
    """Return the median of each row where `counts` is True; NaN if that is less than a quarter of the row."""
    return np.array(
        [
            np.median(row[at]) if 4 * at.sum() >= len(at) else np.nan
            for row, at in zip(rows, counts, strict=True)
        ]
    )


def _neighbours(changes: Array, counts: Array) -> Array:
    """Return the correlation of each row with the next, after the mean of eleven rows is subtracted.

    It is NaN if `counts` is True for less than a quarter of the entries."""
    reach = 5
    total = np.cumsum(np.pad(changes, ((reach + 1, reach), (0, 0)), mode="reflect"), 0)
    own = np.where(counts, changes - (total[2 * reach + 1 :] - total[: -2 * reach - 1]) / (2 * reach + 1), 0)
    both = counts[:-1] & counts[1:]
    first, second = own[:-1] * both, own[1:] * both
    norm = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    enough = (4 * both.sum(1) >= both.shape[1]) & (norm > 0)
    found = np.full(len(norm), np.nan)
    found[enough] = (first * second).sum(1)[enough] / norm[enough]
    return found
