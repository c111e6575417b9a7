"""The two projections every algorithm is made of: on the given magnitude, and on consistent spectra.

A spectrum solves the problem when both leave it alone. Update rules differ only in how they combine them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtspecinv.frames import FrameBuffer


def to_magnitude(spectrum: Tensor, magnitude: Tensor) -> Tensor:
    """Nearest spectrum with the given magnitude, `P_M(c) = S c / |c|`, and S itself where c is 0.

    Args:
        spectrum: complex, any shape.
        magnitude: real, non-negative, of the same shape.

    Source: Griffin & Lim 1984, the step before their eq. 6.
    """
    # Below the smallest normal number 1 / |c| overflows, so such a c counts as 0.
    zero = spectrum.abs() < torch.finfo(magnitude.dtype).tiny
    return magnitude * torch.sgn(spectrum.masked_fill(zero, 1.0))


def to_magnitude_in_range(spectrum: Tensor, magnitude: Tensor) -> Tensor:
    """`to_magnitude` for spectra whose squares neither overflow nor underflow: twice as fast, no gradient.

    Values under `eps^2` count as 0, eps being the precision of the dtype; magnitudes should be around 1.
    """
    limits = torch.finfo(magnitude.dtype)
    shifted = spectrum + limits.eps**2  # decides the phase of 0 and is lost in anything else
    gain = (shifted * shifted.conj()).real.clamp_min(limits.tiny).rsqrt_().mul_(magnitude)
    return shifted.mul_(gain)


def to_consistent(spectrum: Tensor, buffer: FrameBuffer) -> Tensor:
    """Spectrum of the samples that a spectrum stands for, `P_C(c) = STFT(iSTFT(c))`.

    The samples are those of the open frames on top of the committed ones, which stay as they are:
    `P_C(c)_k = F(w / max(E_k, floor) (tail + sum_j d F^-1(c_j)))`, cut at frame k, where `E_k` is the sum of
    window times dual window `d` over the frames that are there.

    Args:
        spectrum: complex `(*batch, n_open, n_half)`.
        buffer: the frames that the spectrum belongs to.

    Sources: Griffin & Lim 1984, eq. 6; for incomplete overlap Gnann & Spiertz 2010.
    """
    return buffer.analyze(buffer.overlap_add(spectrum))
