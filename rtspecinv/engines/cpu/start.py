"""The start `rtspecinv.phase.Gradient` (phase gradient) in compiled code, for one stream."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from rtspecinv.engines.cpu.memory import fill, spectrum_at
from rtspecinv.engines.cpu.rules import to_magnitude
from rtspecinv.frames import N_PAST
from rtspecinv.phase import Gradient
from rtspecinv.stft import STFT


def gradient_numbers(stft: STFT, init: Gradient) -> np.ndarray[Any, Any]:
    """Return the constants of the start as one array.

    It holds the phase advance of each bin at its own frequency, `(n_half,)`, the phase that the position of
    the window causes, `(n_half,)`, the factors of the differences over bins and over time, the logarithm of
    the tolerance, and the least magnitude.
    """
    own_advance, turn, to_frame, to_bin = init.constants(stft)
    least = np.finfo(stft.window.numpy().dtype).tiny
    last = [to_frame, to_bin, math.log(init.tolerance), least]
    return np.concatenate([own_advance.numpy(), turn.numpy(), last])


@numba.njit
def _log_magnitude(plan, memory, stream, age, to, otherwise):
    """Write log magnitudes of the frame `age` frames before the newest open one; return whether it sounds.

    If it is silent, the log magnitudes at `otherwise` are written instead.
    """
    n_half, work, least = plan.n_half, memory.work, memory.gradient[2 * plan.n_half + 3]
    frame, sounds = plan.n_open - 1 - age, False
    if frame >= 0:
        at = (stream * plan.n_known + frame) * n_half
        for k in range(n_half):
            magnitude = memory.magnitude[at + k]
            sounds = sounds or magnitude > 0
            work[to + k] = math.log(max(magnitude, least))
    else:  # the frame has left the buffer
        at = (stream * N_PAST + N_PAST + frame) * 2 * n_half
        for k in range(n_half):
            re, im = memory.past[at + 2 * k], memory.past[at + 2 * k + 1]
            magnitude = math.hypot(re, im)
            sounds = sounds or magnitude > 0
            work[to + k] = math.log(max(magnitude, least))
    if not sounds:
        for k in range(n_half):
            work[to + k] = work[otherwise + k]
    return sounds


@numba.njit
def _previous_phase(plan, memory, stream, k):
    """Return the phase of bin k of the frame before the newest; that of `signs` if the bin is 0."""
    frame, least = plan.n_open - 2, memory.gradient[2 * plan.n_half + 3]
    if frame >= 0:
        c, magnitude = (
            spectrum_at(plan, 0, frame),
            memory.magnitude[(stream * plan.n_known + frame) * plan.n_half + k],
        )
        re, im = memory.work[c + k], memory.work[c + plan.padded + k]
    else:
        at = ((stream * N_PAST + N_PAST - 1) * plan.n_half + k) * 2
        re, im = memory.past[at], memory.past[at + 1]
        magnitude = math.hypot(re, im)
    if magnitude == 0 or math.hypot(re, im) < least:
        re, im = memory.signs[k], 0 * im
    return math.atan2(im, re)


@numba.njit
def phase_gradient(plan, memory, stream):
    """Write the start of the newest frame: its magnitudes, with the phases of `phase._integrate`."""
    n_half, padded, work = plan.n_half, plan.padded, memory.work
    advance, turn, last = 0, n_half, 2 * n_half  # in `memory.gradient`
    to_frame, to_bin = memory.gradient[last], memory.gradient[last + 1]
    magnitude, c = (plan.n_open - 1) * padded, spectrum_at(plan, 0, plan.n_open - 1)
    # Rows of `n_half` in working memory that P_C uses only later.
    now, before, older, below, above, grown = (
        plan.y,
        plan.y + padded,
        plan.y + 2 * padded,
        plan.y + 3 * padded,
        plan.y + 4 * padded,
        plan.y + 5 * padded,
    )
    _log_magnitude(plan, memory, stream, 0, now, now)
    if not _log_magnitude(plan, memory, stream, 1, before, now):
        to_magnitude(plan, memory, (plan.n_open - 1) * plan.padded, c, c)  # c is 0
        fill(work, plan.y, 6 * padded, 0)
        return
    delay = plan.n_known - plan.n_open
    if delay:
        _log_magnitude(plan, memory, stream, -1, older, now)
    else:
        _log_magnitude(plan, memory, stream, 2, older, before)

    floor = work[now]
    for k in range(n_half):
        floor = max(floor, max(work[now + k], work[before + k]))
    floor += memory.gradient[last + 2]
    # Level of the quietest bin on the best path to each bin, from below and from above: `phase._reached`.
    nothing = math.log(memory.gradient[last + 3]) - 1  # below every log magnitude
    work[below] = work[above + n_half - 1] = nothing
    for k in range(1, n_half):
        key = work[now + k - 1]
        work[below + k] = min(max(work[before + k - 1], work[below + k - 1]), key) if key > floor else nothing
    for k in range(n_half - 2, -1, -1):
        key = work[now + k + 1]
        work[above + k] = min(max(work[before + k + 1], work[above + k + 1]), key) if key > floor else nothing
    # Growth over time replaces `older`; then the sums of the resulting phase differences over bins.
    for k in range(n_half):
        if delay:
            work[older + k] -= work[before + k]
        else:
            work[older + k] += 3 * work[now + k] - 4 * work[before + k]
    work[grown] = 0 * floor
    for k in range(n_half - 1):
        work[grown + k + 1] = work[grown + k] + to_bin * (work[older + k] + work[older + k + 1])

    # Phases replace `older`: bins that begin with the last frame, then paths up, then paths down.
    phase = older
    for k in range(n_half):
        from_below = work[below + k] >= work[before + k] and work[below + k] >= work[above + k]
        from_above = work[above + k] > work[before + k] and not from_below
        quiet = not work[now + k] > floor
        if quiet or not (from_below or from_above):
            angle = (
                _previous_phase(plan, memory, stream, k)
                + memory.gradient[turn + k]
                + memory.gradient[advance + k]
            )
            if not quiet and 0 < k < n_half - 1:
                over_bins = (
                    work[before + k + 1] + work[now + k + 1] - (work[before + k - 1] + work[now + k - 1])
                )
                angle += to_frame * over_bins
            work[phase + k] = angle
        elif from_below:
            work[phase + k] = work[phase + k - 1] + (work[grown + k] - work[grown + k - 1])
    for k in range(n_half - 2, -1, -1):
        from_below = work[below + k] >= work[before + k] and work[below + k] >= work[above + k]
        if work[now + k] > floor and work[above + k] > work[before + k] and not from_below:
            work[phase + k] = work[phase + k + 1] - (work[grown + k + 1] - work[grown + k])

    for k in range(n_half):
        angle = work[phase + k] - memory.gradient[turn + k]
        work[c + k] = work[magnitude + k] * math.cos(angle)
        work[c + padded + k] = work[magnitude + k] * math.sin(angle)
    fill(work, plan.y, 6 * padded, 0)
