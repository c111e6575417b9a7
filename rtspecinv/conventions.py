"""Conversion of magnitudes of other programs, which have other rows or another scaling."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from rtspecinv.common.checks import choice
from rtspecinv.inputs import Array
from rtspecinv.stft import STFT

SCALINGS = ("spectrum", "magnitude", "psd")  # scipy's names; the first two are the same

_Values = TypeVar("_Values", Tensor, Array)


def row_counts(n_fft: int) -> tuple[int, ...]:
    """Return the numbers of rows that `half_spectrum` accepts, the usual one first."""
    return (n_fft // 2 + 1, n_fft, *([n_fft // 2] if n_fft % 2 == 0 else []))


def half_spectrum(magnitude: _Values, n_fft: int) -> _Values:
    """Return magnitudes `(..., n_fft // 2 + 1, n_frames)` of a real signal.

    Args:
        magnitude: magnitudes `(..., n_rows, n_frames)`. With n_fft rows they are two-sided, and the upper
            half, a mirror image of the lower, is dropped. With n_fft / 2 rows the row at the Nyquist
            frequency is missing, and a row of zeros is added.
        n_fft: number of samples in a frame.

    Raises:
        ValueError: `magnitude` has another number of rows.
    """
    n_half, n_rows = n_fft // 2 + 1, magnitude.shape[-2]
    if n_rows not in row_counts(n_fft):
        raise ValueError(
            f"Magnitudes of n_fft={n_fft} have {n_half} rows, not {n_rows}: {suggestion(n_rows)}"
        )
    if n_rows >= n_half:
        return magnitude[..., :n_half, :]
    if isinstance(magnitude, Tensor):
        return F.pad(magnitude, (0, 0, 0, 1))
    return np.pad(magnitude, [(0, 0)] * (magnitude.ndim - 2) + [(0, 1), (0, 0)])


def suggestion(n_rows: int, option: str = "n_fft=") -> str:
    """Return advice which n_fft fits `n_rows` rows, the usual values first.

    option: text before a value of n_fft, default: "n_fft=".
    """
    ways = []
    if n_rows >= 2 and not n_rows & (n_rows - 1):
        ways.append(f"{option}{2 * n_rows} if the row at the Nyquist frequency is missing")
        ways.append(f"{option}{n_rows} if they are two-sided")
    ways.append(f"{option}{max(1, 2 * (n_rows - 1))} or {2 * n_rows - 1}" + (" if neither" if ways else ""))
    return f"give {', '.join(ways)}"


def unscaled(scaling: str | None, stft: STFT, sample_rate: float) -> float:
    """Return the factor that converts magnitudes of scipy to those of `stft`; 1 if `scaling` is None.

    With the window g, `scipy.signal.stft` divides its "spectrum", and `ShortTimeFFT` its "magnitude", by
    `sum_n g[n]`; both divide "psd" by `sqrt(sample_rate * sum_n g[n]**2)`.

    Raises:
        ValueError: `scaling` is not one of these names.
    """
    if scaling is None:
        return 1.0
    choice(SCALINGS, scaling=scaling)
    window = stft.window.double()
    if scaling == "psd":
        return stft.scale * math.sqrt(sample_rate * float(window.square().sum()))
    return stft.scale * abs(float(window.sum()))
