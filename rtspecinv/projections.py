"""The two projections of every algorithm: on the given magnitude, and on consistent spectra.

A spectrum is a solution if both projections leave it unchanged. Update rules combine the two projections in
different ways.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from rtspecinv.frames import FrameBuffer


@lru_cache(maxsize=256)
def signs(n_half: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Direction of every bin of a spectrum that is 0, `(n_half,)`, 1 or -1: a burst in the middle of a frame.

    `(-1)^k r[(k + 1) // 2]`, r being the Rudin-Shapiro sequence: `r[j]` is -1 where the binary digits of j
    have an odd number of pairs 11. The direction at 0 Hz and at the Nyquist frequency is 1.

    Any direction is as near to 0 as any other, but that of a pulse is a bad choice: a pulse where the window
    is 0 is lost, and elsewhere no projection moves it, so that frames of equal magnitudes would be silent or
    stay where they happen to begin. With these signs no sample has much of the energy, and most of it is
    where windows are large. Being real, they suit frames with silence or a mirror image before them.

    Source: Shapiro 1951, Rudin 1959: sums of r[j] exp(i j x) are nowhere larger than about `sqrt(2 n)`.
    """
    k = torch.arange(n_half, device="cpu")
    j, n_pairs = (k + 1) // 2, torch.zeros_like(k)
    for digit in range(n_half.bit_length()):
        n_pairs += (j >> digit) & (j >> (digit + 1)) & 1
    values = 1 - 2 * ((n_pairs + k) % 2)
    values[-1] = 1
    with torch.inference_mode(False):  # it is kept, and used in whatever mode
        return values.to(device, dtype, copy=True)


def to_magnitude(spectrum: Tensor, magnitude: Tensor) -> Tensor:
    """Return the nearest spectrum of given magnitude, `P_M(c) = S c / |c|`, or S times `signs` where c is 0.

    Args:
        spectrum: complex spectrum c, `(..., n_half)`.
        magnitude: magnitude S, real and non-negative, of the same shape.

    Source: Griffin & Lim 1984, the step before their eq. 6.
    """
    # Below the smallest normal number 1 / |c| overflows, so such a c counts as 0.
    zero = spectrum.abs() < torch.finfo(magnitude.dtype).tiny
    nothing = signs(spectrum.shape[-1], magnitude.dtype, spectrum.device)
    return magnitude * torch.sgn(torch.where(zero, nothing, spectrum))


def to_magnitude_in_range(spectrum: Tensor, magnitude: Tensor) -> Tensor:
    """`to_magnitude` for spectra whose squares neither overflow nor underflow: twice as fast, no gradient.

    Values under `eps^2` count as 0, eps being the precision of the dtype; magnitudes should be around 1.
    """
    limits = torch.finfo(magnitude.dtype)
    # This decides the phase of 0 and is lost in anything else.
    shifted = spectrum + limits.eps**2 * signs(spectrum.shape[-1], magnitude.dtype, spectrum.device)
    gain = (shifted * shifted.conj()).real.clamp_min(limits.tiny).rsqrt_().mul_(magnitude)
    return shifted.mul_(gain)


def to_consistent(spectrum: Tensor, buffer: FrameBuffer) -> Tensor:
    """Return the spectrum of the samples of a spectrum, `P_C(c) = STFT(iSTFT(c))`.

    The samples are those of the open frames on top of the committed ones, which stay as they are:
    `P_C(c)_k = F(w / max(E_k, floor) (tail + sum_j d F^-1(c_j)))`, cut at frame k, where `E_k` is the sum of
    window times dual window `d` over the frames that are there.

    Args:
        spectrum: complex `(*batch, n_open, n_half)`.
        buffer: the frames that the spectrum belongs to.

    Sources: Griffin & Lim 1984, eq. 6; for incomplete overlap Gnann & Spiertz 2010.
    """
    return buffer.analyze(buffer.overlap_add(spectrum))
