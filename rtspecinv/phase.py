"""Starts (`init`): methods that estimate the initial phase of a new frame.

Every start sees the recent past as a `Context` and returns the spectrum of one frame, `(*batch, n_half)`.
Phases are computed for a window centred at time 0 and finally shifted to frames that begin at sample 0.
Without this shift (by pi k for bin k of an even window), the phases of neighbouring bins are inconsistent,
and the result is 13 to 18 dB worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv.common.checks import count, finite, keep, named
from rtspecinv.common.modes import modeless
from rtspecinv.projections import to_magnitude
from rtspecinv.stft import STFT

Array = np.ndarray[Any, Any]

# Log magnitudes that differ by less count as equal: rounding errors cause peaks of this height.
RIPPLE = 1e-5


@dataclass(frozen=True)
class Context:
    """Data for the start of a frame; each item is computed on access.

    magnitude: real magnitudes `(*batch, n_known, n_half)`, the oldest first; the frame to start is at index
        -1 - n_waiting.
    previous: current complex spectrum `(*batch, n_half)` of the frame before it, 0 if there is none.
    overlap: complex spectrum `(*batch, n_half)` of the samples of the other frames within this one.
    """

    stft: STFT
    magnitude: Callable[[], Tensor]
    previous: Callable[[], Tensor]
    overlap: Callable[[], Tensor]


@dataclass(frozen=True)
class Start:
    """Base class of the starts; a frame gets its start when `n_waiting` later frames have arrived."""

    @property
    def n_waiting(self) -> int:
        """Frames that must have come in after the one to start."""
        return 0

    def __call__(self, context: Context) -> Tensor:
        """Return the complex spectrum of the frame, `(*batch, n_half)`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Overlap(Start):
    """Spectrum of the samples that earlier frames already add to this one (Beauregard, Zhu & Wyse 2005).

    Its modulus shows how much of a bin the earlier frames determine, so it is not replaced by the given
    magnitude.
    """

    def __call__(self, context: Context) -> Tensor:
        """Return the spectrum of the overlap."""
        return context.overlap()


@dataclass(frozen=True)
class Zeros(Start):
    """Start without a phase estimate: the phases are the fixed signs of `projections.signs`."""

    def __call__(self, context: Context) -> Tensor:
        """Return the magnitude with the phases of `signs`."""
        magnitude = context.magnitude()[..., -1, :]
        return to_magnitude(torch.zeros_like(magnitude, dtype=magnitude.dtype.to_complex()), magnitude)


@dataclass(frozen=True)
class Peaks(Start):
    """Single-pass spectrogram inversion: each spectral peak is a sinusoid that continues.

    `phi(peak) = phi_previous(peak) + 2 pi H (k + p) / N`, where `p = (a - c) / (2 (a - 2b + c))` is the
    vertex of the parabola through the log magnitudes a, b, c around bin k. The bins around a peak, up to the
    next minimum on either side, get the phase of the peak.

    In a frame without a peak, every bin continues at its own frequency, so that sound is not shifted in time.
    After a frame of zeros, the phases are those of a click in the middle of the last hop. So a click after
    silence, with a Hann window, retains over 0.8 of its energy, and over 0.9 at hops of n_fft / 8 or less.
    After noise, even quiet noise, the click gets the phases of the noise and retains about half of it.

    Source: Beauregard, Harish & Wyse 2015, eq. 4 to 7.
    """

    def __call__(self, context: Context) -> Tensor:
        """Return the magnitude with the phases of the peaks."""
        stft, magnitude = context.stft, context.magnitude()[..., -1, :]
        before = context.previous().detach()
        previous = _entering(stft).where(before == 0, _phase(stft, before))
        advance, peak = _peaks(stft, magnitude.detach())
        return _spectrum(stft, magnitude, (previous + advance).gather(-1, peak))


@modeless
def single_pass(stft: STFT, magnitude: Tensor) -> Tensor:
    """Return the spectrum that `Peaks` gives to all frames one after another, without iterations.

    Args:
        stft: transform that the magnitudes come from.
        magnitude: real magnitudes `(*batch, n_frames, n_half)`. No gradient flows through the phases.

    Returns:
        Complex spectrum of the same shape.

    Source: Beauregard, Harish & Wyse 2015, eq. 4 to 7.
    """
    advance, peak = _peaks(stft, magnitude.detach())
    entering, phases = _entering(stft), [torch.zeros_like(magnitude[..., 0, :])]
    # The sound before the first frame is unknown; its phases are set to 0.
    is_new = F.pad(magnitude.detach()[..., :-1, :] == 0, (0, 0, 1, 0))
    for step, index, new in zip(*(each.unbind(-2) for each in (advance, peak, is_new)), strict=True):
        phases.append((entering.where(new, phases[-1]) + step).gather(-1, index))
    return _spectrum(stft, magnitude, torch.stack(phases[1:], -2))


def _entering(stft: STFT) -> Tensor:
    """Return the phase `(n_half,)`, in this frame, of a click in the middle of the next window's last hop."""
    bins = torch.arange(stft.n_fft // 2 + 1, dtype=torch.float64, device=stft.device)
    turns = (stft.win_length + stft.hop_length) / (2 * stft.n_fft) * bins
    return (-2 * math.pi * turns.remainder(1)).to(stft.dtype)


def _peaks(stft: STFT, magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Return the phase advance of each bin over a hop, and the index of the bin whose phase it gets.

    That is the bin of its peak, or the bin itself in a frame without a peak. Both results have the shape of
    the magnitudes, `(..., n_half)`.
    """
    log = magnitude.clamp_min(torch.finfo(magnitude.dtype).tiny).log()
    n_half = log.shape[-1]
    below, above = _neighbours(log)
    # A plateau is one peak or one valley, at its left end.
    peak = (log - below > RIPPLE) & (above - log <= RIPPLE)
    valley = (below - log > RIPPLE) & (log - above <= RIPPLE)
    curvature = below - 2 * log + above
    vertex = torch.where(peak & curvature.isfinite(), 0.5 * (below - above) / curvature, 0.0)
    bins = torch.arange(n_half, device=log.device)
    advance = 2 * math.pi * stft.hop_length / stft.n_fft * (bins + vertex.clamp(-0.5, 0.5))
    # Valleys divide the bins into regions with one peak each. Other bins write to a slot that is not read.
    region = valley.long().cumsum(-1)
    slot = torch.where(peak, region, n_half)
    peak_of = bins.new_full((*log.shape[:-1], n_half + 1), n_half).scatter(-1, slot, bins.expand_as(slot))
    peak = peak_of.gather(-1, region)
    return advance, torch.where(peak < n_half, peak, bins)


@dataclass(frozen=True)
class Gradient(Start):
    """Real-time phase gradient heap integration.

    With `s = log S`, window `exp(-pi t^2 / gamma)`, hop H and frame length N, the phase grows by
    `H N / (2 gamma) (s[k+1] - s[k-1]) + 2 pi H k / N` from frame to frame, and by
    `-gamma / (2 H N) (3 s_n - 4 s_{n-1} + s_{n-2})` from bin to bin; with `delay=1` the latter is the
    centred `-gamma / (2 H N) (s_{n+1} - s_{n-1})`. Both are integrated from loud to quiet bins, by the
    trapezoid rule. Bins below `tolerance` times the loudest continue at their own frequency.

    After silence there is no earlier phase, so the phases are `signs`, as with `Zeros`. The implementation
    needs no heap (`_integrate`), so that it runs on any device. No gradient flows through the phases.

    Source: Prusa & Sondergaard 2016, eq. 8 to 12 and algorithm 1.
    """

    delay: int = 0
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        keep(self, partial(count, 0, 1), "delay")
        keep(self, partial(finite, 0, 1, above=True, below=True), "tolerance")

    @property
    def n_waiting(self) -> int:
        """Frames that must have come in after the one to start."""
        return self.delay

    @staticmethod
    def constants(stft: STFT) -> tuple[Tensor, Tensor, float, float]:
        """Return two phases `(n_half,)` and the factors of the differences over bins and over time.

        The first phase is the advance of each bin over a hop at its own frequency. The second is the phase
        shift due to the window, which is not centred at time 0. Each factor multiplies a sum of two
        differences.
        """
        return _constants(stft, stft.dtype, stft.device)

    def __call__(self, context: Context) -> Tensor:
        """Return the magnitude with the integrated phases."""
        stft, known = context.stft, context.magnitude()
        magnitude = known[..., -1 - self.delay, :]
        own_advance, _, to_frame, to_bin = self.constants(stft)
        log = known.detach().clamp_min(torch.finfo(magnitude.dtype).tiny).log()
        # In a difference over time, a missing frame counts as equal to its neighbour.
        last = log.shape[-2] - 1 - self.delay
        now = log[..., last, :]
        before = _where_present(known, log, last - 1, now)
        if self.delay:
            over_time = _where_present(known, log, last + 1, now) - before
        else:
            over_time = 3 * now - 4 * before + _where_present(known, log, last - 2, before)
        over_bins = F.pad((before + now)[..., 2:] - (before + now)[..., :-2], (1, 1))
        to_next_bin = to_bin * (over_time[..., :-1] + over_time[..., 1:])
        by_itself = _phase(stft, context.previous().detach()) + own_advance
        by_frame = by_itself + to_frame * over_bins
        floor = torch.maximum(before.amax(-1, True), now.amax(-1, True)) + math.log(self.tolerance)
        phase = by_itself.where(now <= floor, _integrate(before, now, by_frame, to_next_bin, floor))
        spectrum = _spectrum(stft, magnitude, phase)
        is_first = (known[..., last - 1, :] == 0).all(-1, keepdim=True)
        return torch.where(is_first, to_magnitude(torch.zeros_like(spectrum), magnitude), spectrum)


@lru_cache(16)
def _constants(stft: STFT, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, float, float]:
    """Return `Gradient.constants` as cached tensors, because a recorded CUDA graph must not create them."""
    gamma, both = gaussian_width(stft.window.detach().double().cpu().numpy()), stft.hop_length * stft.n_fft
    with torch.inference_mode(False):  # the cached tensors are used in any mode
        bins = torch.arange(stft.n_fft // 2 + 1, dtype=torch.float64, device="cpu")
        turns = bins * stft.hop_length / stft.n_fft, bins * _centre(stft) / stft.n_fft
        advance, lost = ((2 * math.pi * turn.remainder(1)).to(device, dtype) for turn in turns)
    return advance, lost, both / (4 * gamma), -gamma / (4 * both)


def _where_present(known: Tensor, log: Tensor, frame: int, otherwise: Tensor) -> Tensor:
    return torch.where((known[..., frame, :] > 0).any(-1, keepdim=True), log[..., frame, :], otherwise)


def _integrate(before: Tensor, now: Tensor, by_frame: Tensor, to_next_bin: Tensor, floor: Tensor) -> Tensor:
    """Return the phase `(..., n_half)` of one frame, integrated from loud to quiet bins.

    The published algorithm keeps a heap of the bins that have a phase, in this frame or the last one. It
    repeatedly removes the loudest and computes the phases of its neighbours. So each bin gets its phase along
    the path whose quietest bin is the loudest among all paths. Such a path goes from a bin of the last frame
    to the same bin of this frame, and from there up or down. One scan in each direction finds all these
    paths, and cumulative sums over bins give their phases. If two paths are equally loud, a bin gets its
    phase from its neighbour rather than from the last frame.

    before, now: log magnitudes of the last frame and of this one; paths do not pass bins at or below `floor`.
    by_frame: phases that bins get from the last frame.
    to_next_bin: phase difference from each bin to the next.
    floor: log magnitude, see above.
    """
    keys = now.masked_fill(now <= floor, -math.inf)
    below, above = _reached(before, keys), _reached(before.flip(-1), keys.flip(-1)).flip(-1)
    from_below = (below >= before) & (below >= above)
    from_above = (above > before) & ~from_below
    bins = torch.arange(now.shape[-1], device=now.device)
    begins = ~(from_below | from_above)
    up = bins.where(begins, 0).cummax(-1).values
    down = bins.where(begins, len(bins) - 1).flip(-1).cummin(-1).values.flip(-1)
    begin = torch.where(from_below, up, torch.where(from_above, down, bins))
    grown = F.pad(to_next_bin.cumsum(-1), (1, 0))
    return by_frame.gather(-1, begin) + grown - grown.gather(-1, begin)


def _reached(before: Tensor, keys: Tensor) -> Tensor:
    """Return, for each bin, the quietest level on the best path that comes from lower bins, `(..., n_half)`.

    `r_k = min(max(before_{k-1}, r_{k-1}), key_{k-1})`. A composition of functions of the form
    `max(a, min(x, b))` has this form again, so that a parallel scan takes log2(n_half) steps.
    """
    least, most = before, F.pad(keys[..., :-1], (1, 0), value=-math.inf)
    step = 1
    while step < keys.shape[-1]:
        earlier = F.pad(least[..., :-step], (step, 0), value=-math.inf)
        least = torch.maximum(least, torch.minimum(earlier, most))
        most = torch.minimum(most, F.pad(most[..., :-step], (step, 0), value=-math.inf))
        step *= 2
    return torch.minimum(
        F.pad(least[..., :-1], (1, 0), value=-math.inf), F.pad(keys[..., :-1], (1, 0), value=-math.inf)
    )


def gaussian_width(window: Array) -> float:
    """Return the width gamma of the Gaussian `exp(-pi t^2 / gamma)` nearest to a window, in samples squared.

    The nearest Gaussian maximizes `<g, w> / (|g| |w|)`. The widths agree with those of Prusa & Sondergaard
    2016, table 1, within 4 % (Hann: 0.25645 n_fft^2).
    """
    centre = window @ np.arange(len(window)) / window.sum()
    squared = (np.arange(len(window)) - centre) ** 2
    low, high = 1e-3 * len(window) ** 2, 2.0 * len(window) ** 2
    for _ in range(4):  # each round divides the range by about 30
        gammas = np.geomspace(low, high, 64)
        gaussians = np.exp(-np.pi * squared / gammas[:, None])
        best = int((gaussians @ window / np.linalg.norm(gaussians, axis=1)).argmax())
        low, high = gammas[max(best - 1, 0)], gammas[min(best + 1, 63)]
    return float(gammas[best])


def _neighbours(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values one bin below and one above; beyond the edges they are mirrored, as spectra are."""
    if values.shape[-1] == 1:
        return values, values
    first, last = values[..., 1:2], values[..., -2:-1]
    return torch.cat([first, values[..., :-1]], -1), torch.cat([values[..., 1:], last], -1)


def _centre(stft: STFT) -> float:
    """Return the position of the window's centre in a frame, in samples."""
    return (stft.n_fft - stft.win_length) // 2 + stft.win_length / 2


def _centring(stft: STFT) -> Tensor:
    """Return the factor `(n_half,)` that moves a window from time 0 to its position in the frame."""
    bins = torch.arange(stft.n_fft // 2 + 1, dtype=torch.float64, device=stft.device)
    turn = torch.polar(torch.ones_like(bins), -2 * math.pi * _centre(stft) / stft.n_fft * bins)
    return turn.to(torch.complex64 if stft.dtype == torch.float32 else torch.complex128)


def _phase(stft: STFT, spectrum: Tensor) -> Tensor:
    """Return the phase of a spectrum `(..., n_half)` for a window centred at time 0.

    A bin that is 0 gets the phase of `signs`."""
    one = torch.ones((), dtype=stft.dtype, device=stft.device)
    return (to_magnitude(spectrum, one) * _centring(stft).conj()).angle()


def _spectrum(stft: STFT, magnitude: Tensor, phase: Tensor) -> Tensor:
    return magnitude * torch.polar(torch.ones_like(phase), phase) * _centring(stft)


STARTS: dict[str, Start] = {"overlap": Overlap(), "gradient": Gradient(), "peaks": Peaks(), "zeros": Zeros()}


def find(init: str | Start) -> Start:
    """Return the start with this name; a start is returned unchanged."""
    return named("init", init, STARTS, Start)
