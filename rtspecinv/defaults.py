"""Constants of a stream that follow its transform, read from the overlap and the window.

Two shares of a frame's energy say how hard its phase is to find. With window g and dual window d:

    covered  `sum g^2 E / sum g^2`, E the sum of the envelopes `g d` of the earlier frames: what they
             know of the newest frame when it comes in.
    kept     `sum g^2 (g d) / sum g^2`: what a frame in the middle keeps of itself in P_C.

                     overlap 2            4            8            16
    Hann             .06, .89     .26, .49     .38, .24     .44, .12     covered, kept
    square-root Hann .13, .75     .31, .38     .41, .19     .45, .09

Later frames have the rest: with a symmetric window, `kept = 1 - 2 covered`.

`bench/README.md`, table "stream overlaps", has what follows from them.
"""

from __future__ import annotations

import torch

from rtspecinv.phase import Gradient, Overlap, Start
from rtspecinv.stft import STFT
from rtspecinv.updates import RAAR, Update

# Less known of the newest frame than this, and its phase is better made of magnitudes than of samples: with
# .06 that gains 0.3 PESQ, with .12 nothing, and with .16 it loses.
LEAST_COVERED = 0.1
KEPT = 0.4861  # by a Hann window with overlap 4, for which the constants of `RAAR` were chosen
N_ITER, OVERLAP = 8, 4  # iterations a push with this overlap; with less, as many a second
MOST_ITER = 16


def covered(stft: STFT) -> float:
    """Share of the newest frame's energy, 0 to 1, that the earlier frames account for."""
    earlier = stft.overlap_add(stft.envelope.repeat(stft.look_back + 1, 1))[-stft.n_fft :] - stft.envelope
    return _mean(stft, earlier)


def kept(stft: STFT) -> float:
    """Share of its energy, 0 to 1, that a frame keeps of itself where the overlap is complete."""
    return _mean(stft, stft.envelope)


def start(stft: STFT, update: Update, look_ahead: int) -> Start:
    """Start of the newest frame: its overlap, or the phase gradient where too little overlaps.

    Differences over time are better centred, which takes a frame of the look-ahead: worth it if one remains.
    """
    if update.textbook or covered(stft) >= LEAST_COVERED:
        return Overlap()
    return Gradient(delay=1 if look_ahead > 1 else 0)


def revise(stft: STFT, update: Update) -> int:
    """Committed frames to revise: half of those that overlap, and one if there is any; none in textbooks."""
    return 0 if update.textbook else min(stft.look_back, max(1, stft.look_back // 2))


def rule(stft: STFT) -> Update:
    """RAAR, the bolder the less a frame keeps of itself: `1 - beta` and the ramp go with its square."""
    default = RAAR()
    share = min(1.0, kept(stft) / KEPT) ** 2
    return RAAR(beta=round(1 - (1 - default.beta) * share, 2), ramp=round(default.ramp * share, 2))


def n_iter(stft: STFT) -> int:
    """Iterations a push: 8, and up to 16 where hops are longer than a quarter of the window."""
    return min(MOST_ITER, max(N_ITER, round(N_ITER * OVERLAP * stft.hop_length / stft.win_length)))


def _mean(stft: STFT, values: torch.Tensor) -> float:
    """Mean over a frame, weighted with the squared window."""
    power = stft.window.double().square()
    return float((power * values).sum() / power.sum())
