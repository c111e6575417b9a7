"""How near a result is to its target."""

from __future__ import annotations

import torch
from torch import Tensor


def spectral_convergence(input: Tensor, target: Tensor) -> Tensor:
    """Spectral convergence `20 log10(|input - target| / |target|)` in dB, the lower the better.

    Args:
        input: magnitudes `(*batch, n_freq, n_frames)`.
        target: magnitudes of the same shape.

    Returns:
        `(*batch)` dB; -inf for equal magnitudes, nan for silent ones.

    Raises:
        ValueError: the shapes differ.

    Source: Sturmel & Daudet 2011, section 3. Zhu's SER is its negative.
    """
    if input.shape != target.shape:
        raise ValueError(
            f"Parameters input and target differ in shape: {tuple(input.shape)}, {tuple(target.shape)}!"
        )
    distance = torch.linalg.vector_norm(input - target, dim=(-2, -1))
    return 20 * torch.log10(distance / torch.linalg.vector_norm(target, dim=(-2, -1)))
