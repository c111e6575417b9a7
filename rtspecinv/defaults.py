"""Default parameters of a stream, derived from the overlap and the window of its transform.

Two shares of a frame's energy determine how difficult its phase is to find. With window g and dual window d:

    covered  `sum g^2 E / sum g^2`, where E is the sum of the envelopes `g d` of the earlier frames: the
             share of the newest frame that earlier frames determine when it arrives.
    kept     `sum g^2 (g d) / sum g^2`: the share of a middle frame that P_C leaves unchanged.

                     overlap 2            4            8            16
    Hann             .06, .89     .26, .49     .38, .24     .44, .12     covered, kept
    square-root Hann .13, .75     .31, .38     .41, .19     .45, .09

Later frames determine the rest: with a symmetric window, `kept = 1 - 2 covered`.

The table "stream overlaps" of `bench/README.md` has measurements of the resulting defaults.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from rtspecinv.phase import Gradient, Overlap, Start
from rtspecinv.stft import STFT
from rtspecinv.updates import RAAR, Update

# Smallest covered share for which the start of a frame uses the samples of the earlier frames. Below it, the
# start uses magnitudes, which gains 0.3 PESQ at a share of .06, gains nothing at .12, and loses at .16.
LEAST_COVERED = 0.1
KEPT = 0.4861  # kept share of a Hann window with overlap 4, for which the constants of `RAAR` were chosen
N_ITER, OVERLAP = 8, 4  # iterations per push at this overlap; with less overlap, as many per second
MOST_ITER = 16
# Rule of streams that find magnitudes and phase together. No magnitudes are fixed, so iterations converge
# slowly: larger steps of all frames and momentum are worth as much as twice the iterations, and make a push
# 5 % longer. From a momentum of 0.6 on, it diverges at look_ahead 3 (bench/README.md, table "mel rules").
JOINT = RAAR(beta=0.9, ramp=0.1, momentum=0.4)


def covered(stft: STFT) -> float:
    """Return the share of the newest frame's energy, 0 to 1, that the earlier frames determine."""
    earlier = stft.overlap_add(stft.envelope.repeat(stft.look_back + 1, 1))[-stft.n_fft :] - stft.envelope
    return _mean(stft, earlier)


def kept(stft: STFT) -> float:
    """Return the share of a frame's energy, 0 to 1, that P_C leaves unchanged at complete overlap."""
    return _mean(stft, stft.envelope)


def start(stft: STFT, update: Update, look_ahead: int) -> Start:
    """Return the initial phase of the newest frame: "overlap", or a phase gradient if the overlap is small.

    Centred differences over time are more accurate but use one frame of the look-ahead, so they are chosen
    only if another frame of it remains. Rules other than RAAR start from the overlap: the gradient was not
    measured with them, and with the difference map it loses clicks.
    """
    if not isinstance(update, RAAR) or covered(stft) >= LEAST_COVERED:
        return Overlap()
    return Gradient(delay=1 if look_ahead > 1 else 0)


def revise(stft: STFT, update: Update) -> int:
    """Return how many committed frames to revise: half of those that overlap; textbook rules revise none."""
    return 0 if update.textbook else min(stft.look_back, max(1, stft.look_back // 2))


def rule(stft: STFT, default: RAAR) -> RAAR:
    """Return `default` with `1 - beta` and the ramp proportional to the square of the kept share.

    default: rule for a kept share of `KEPT`.
    """
    share = _share(stft)
    beta, ramp = round(1 - (1 - default.beta) * share, 2), round(default.ramp * share, 2)
    return replace(default, beta=beta, ramp=ramp)


def n_iter(stft: STFT) -> int:
    """Return the iterations per push: 8, and up to 16 with long hops or wide windows.

    If a hop exceeds a quarter of the window, iterations per second remain the same. If the window keeps less
    than a Hann window, `1 - beta`, the weight of P_M in an iteration, is smaller, and there are more
    iterations by the same factor. At hops below a quarter, a frame is open for more pushes, and 8 are enough.
    """
    quarters = OVERLAP * stft.hop_length / stft.win_length
    return N_ITER if quarters < 1 else min(MOST_ITER, round(N_ITER * quarters / _share(stft)))


def _share(stft: STFT) -> float:
    """Return the square of the kept share, relative to a Hann window with overlap 4, at most 1."""
    return float(min(1.0, kept(stft) / KEPT) ** 2)


def _mean(stft: STFT, values: torch.Tensor) -> float:
    """Return the mean over a frame, weighted by the squared window."""
    power = stft.window.double().square()
    return float((power * values).sum() / power.sum())
