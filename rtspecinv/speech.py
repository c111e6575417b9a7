"""How good speech sounds after an inversion; needs the extras pesq and bench.

Both take samples `(n_samples,)` and what they should be, at any sample rate, and compare what is below 8 kHz.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from rtspecinv.common.masks import unmasked

SAMPLE_RATE = 16000  # Hz, what PESQ wideband wants
LONGEST_PESQ = 30 * SAMPLE_RATE  # it is made for sentences, and its C code for a limited number of them


def pesq(input: npt.ArrayLike, target: npt.ArrayLike, sample_rate: int) -> float:
    """PESQ, wideband: predicted opinion of listeners, 1 to 4.64, the higher the better.

    Args:
        input: samples `(n_samples,)`.
        target: what they should be; of more samples than the other has, the first ones count.
        sample_rate: Hz.

    Returns:
        The opinion of the first 30 seconds; nan where the target has no speech, as far as PESQ can tell.

    Raises:
        ImportError: pesq or soxr is missing.

    Source: ITU-T P.862.2.
    """
    try:
        import pesq as package
    except ImportError as error:
        raise ImportError('PESQ needs pesq, which compiles C: pip install "rtspecinv[pesq]"') from error
    samples, clean = (part[:LONGEST_PESQ] for part in _resampled(input, target, sample_rate))
    if not clean.any():
        return float("nan")
    try:
        return float(package.pesq(SAMPLE_RATE, clean, samples, "wb"))
    except package.PesqError:
        return float("nan")


def estoi(input: npt.ArrayLike, target: npt.ArrayLike, sample_rate: int) -> float:
    """ESTOI, extended short-time objective intelligibility, up to 1, the higher the better.

    Arguments as in `pesq`.

    Returns:
        The intelligibility; nan where less than half a second is not silent.

    Raises:
        ImportError: pystoi or soxr is missing.

    Source: Jensen & Taal 2016.
    """
    try:
        import pystoi
    except ImportError as error:
        raise ImportError('ESTOI needs pystoi: pip install "rtspecinv[bench]"') from error
    samples, clean = _resampled(input, target, sample_rate)
    if not clean.any():
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # too few frames that are not silent
        try:
            return float(pystoi.stoi(clean, samples, SAMPLE_RATE, extended=True))
        except RuntimeWarning:
            return float("nan")


def _resampled(
    input: npt.ArrayLike, target: npt.ArrayLike, sample_rate: int
) -> list[npt.NDArray[np.float32]]:
    try:
        import soxr
    except ImportError as error:
        raise ImportError('Resampling needs soxr: pip install "rtspecinv[files]"') from error
    arrays: list[npt.NDArray[np.float32]] = [
        np.asarray(unmasked(part, name), np.float32) for part, name in ((input, "input"), (target, "target"))
    ]
    n_samples = min(map(len, arrays))
    resample: Any = soxr.resample
    return [resample(part[:n_samples], sample_rate, SAMPLE_RATE) for part in arrays]
