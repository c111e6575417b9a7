"""Spectral convergence without the edges of a result; all published numbers use this definition."""

from __future__ import annotations

from torch import Tensor

from rtspecinv.metrics import spectral_convergence

EDGE_FRAMES = 4  # frames at each end that are not compared, because they depend on where the sound was cut


def inner_convergence(actual: Tensor, target: Tensor, begin: int = EDGE_FRAMES) -> Tensor:
    """Return the spectral convergence in dB of all frames except those at the edges.

    Args:
        actual: magnitudes of the result, `(*batch, n_freq, n_frames)`; it may have more frames than `target`.
        target: reference magnitudes, `(*batch, n_freq, n_frames)`.
        begin: index of the first frame to compare, default: EDGE_FRAMES.

    Returns:
        Spectral convergence `(*batch)`, dB.
    """
    inner = slice(begin, target.shape[-1] - EDGE_FRAMES)
    return spectral_convergence(actual[..., inner], target[..., inner])
