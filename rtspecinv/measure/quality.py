"""Quality of a result without its edges: the one definition that all published numbers use."""

from __future__ import annotations

from torch import Tensor

from rtspecinv.metrics import spectral_convergence

EDGE_FRAMES = 4  # at each end, which depend on how the sound was cut and do not count


def inner_convergence(actual: Tensor, target: Tensor, begin: int = EDGE_FRAMES) -> Tensor:
    """Return the spectral convergence in dB of all frames except those at the edges.

    Args:
        actual: magnitudes of the result, `(*batch, n_freq, n_frames)`, perhaps with more frames.
        target: reference magnitudes.
        begin: index of the first frame to compare.

    Returns:
        Values `(*batch)`, dB.
    """
    inner = slice(begin, target.shape[-1] - EDGE_FRAMES)
    return spectral_convergence(actual[..., inner], target[..., inner])
