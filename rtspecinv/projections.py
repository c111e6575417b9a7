"""The two projections of every algorithm: onto the given magnitude, and onto consistent spectra.

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
    """Return the phase factors, 1 or -1, `(n_half,)`, that `to_magnitude` gives to bins whose value is 0.

    They are `(-1)^k r[(k + 1) // 2]` with the Rudin-Shapiro sequence r: `r[j]` is -1 where the binary digits
    of j have an odd number of pairs 11. The factors at 0 Hz and at the Nyquist frequency are 1.

    A bin that is 0 is equally far from all values of a given modulus, so any phase is a projection. The
    phases of a pulse are a bad choice: a pulse is lost where the window is 0, and no projection moves it
    elsewhere, so frames of equal magnitudes would become silent or never change. With these factors a frame
    becomes a burst around its middle: its energy is spread over many samples, most of it where the window is
    large. Real factors also suit frames that follow silence or a mirror image.

    Source: Shapiro 1951, Rudin 1959: `|sum_j r[j] exp(i j x)|` over n terms is at most about `sqrt(2 n)`.
    """
    k = torch.arange(n_half, device="cpu")
    j, n_pairs = (k + 1) // 2, torch.zeros_like(k)
    for digit in range(n_half.bit_length()):
        n_pairs += (j >> digit) & (j >> (digit + 1)) & 1
    values = 1 - 2 * ((n_pairs + k) % 2)
    values[-1] = 1
    with torch.inference_mode(False):  # the cached tensor is used in any mode
        return values.to(device, dtype, copy=True)


def to_magnitude(spectrum: Tensor, magnitude: Tensor) -> Tensor:
    """Return the nearest spectrum of given magnitude, `P_M(c) = S c / |c|`; S times `signs` where c is 0.

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
    """Return `to_magnitude` of spectra whose squares neither overflow nor underflow.

    This is twice as fast and supports no gradients. Values below `eps^2` count as 0, where eps is the
    precision of the dtype; magnitudes should be around 1.
    """
    limits = torch.finfo(magnitude.dtype)
    # The added term sets the phase of values that are 0 and is lost to rounding in all others.
    shifted = spectrum + limits.eps**2 * signs(spectrum.shape[-1], magnitude.dtype, spectrum.device)
    gain = (shifted * shifted.conj()).real.clamp_min(limits.tiny).rsqrt_().mul_(magnitude)
    return shifted.mul_(gain)


def to_consistent(spectrum: Tensor, buffer: FrameBuffer) -> Tensor:
    """Return the consistent spectrum `P_C(c) = STFT(iSTFT(c))`, that of the samples of a spectrum c.

    The open frames are added to the committed frames, which stay unchanged:
    `P_C(c)_k = F(w / max(E_k, floor) (tail + sum_j d F^-1(c_j)))`, cut at frame k, where F is the Fourier
    transform of one frame, w the window, d its dual window, `tail` the samples of the committed frames, and
    `E_k` the sum of `w d` over all frames so far, at least `floor` (`FrameBuffer`).

    Args:
        spectrum: complex `(*batch, n_open, n_half)`.
        buffer: buffer of the frames that the spectrum belongs to.

    Sources: Griffin & Lim 1984, eq. 6; for incomplete overlap Gnann & Spiertz 2010.
    """
    return buffer.analyze(buffer.overlap_add(spectrum))
