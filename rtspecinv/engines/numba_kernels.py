"""One push of one stream, compiled: what `FrameBuffer`, the projections and the rules say, in one pass.

Everything happens in one flat array `work`, which positions point into. Its layout, `padded` being n_half up to
the next multiple of WIDTH and every spectrum `padded` real parts followed by `padded` imaginary ones:

    target      n_open * padded          magnitudes of the frames
    spectra     n_slots * n_open * 2 * padded      the iterate c, what the rule carries, and for the difference
                                         map one more
    y           2 * padded               spectrum of one frame on its way through P_C
    room        4 * padded               for its transforms
    samples     n_samples + WIDTH        committed samples and what the frames add to them
    others      n_samples + WIDTH        the same without the newest frame, when windows are made

A sweep visits every frame twice: P_M, what the rule makes of it, inverse transform, overlap-add; then, the samples
being complete, transform and the rest of the rule. Padding holds zeros, which every step maps to zeros.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from rtspecinv.engines.numba_fft import Fft, analyze, synthesize
from rtspecinv.engines.numba_lanes import WIDTH, broadcast, deinterleave, direction, interleave, load, store
from rtspecinv.frames import MIN_COVERAGE, MIN_COVERAGE_AT_START

Array = np.ndarray[Any, Any]

# Rules. The linear family is y = y_a A + y_c c with A = P_M(c), s = P_C(y), c' = b_s s + b_c c + b_a A + b_p s_prev.
LINEAR, DIFFERENCE_MAP, ADMM, ACCELERATED = range(4)

# Starts of the newest frame, unless it is given.
OVERLAP, ZEROS = range(2)


class Plan(NamedTuple):
    """What stays as it is from push to push."""

    hop_length: int
    n_open: int
    n_revised: int
    n_fade: int
    n_samples: int
    n_carried: int
    n_iter: int
    n_settling: int  # pushes without a change of presence until the windows stay as they are
    rule: int
    start: int
    compensated: bool
    commits_consistent: bool  # Griffin-Lim commits P_M(s), all others P_M(P_C(P_M(c)))
    constants: Array  # (n_open, 6): y_a, y_c, b_s, b_c, b_a, b_p, or those of the rule
    window: Array  # (n_fft,), padded as all windows are; with the scale of the transform
    dual_window: Array  # with the scale of the inverse transform
    envelope: Array
    first_window: Array  # asymmetric windows, before and after the newest frame adds itself
    newest_window: Array
    fade: Array  # (n_fade,)
    fft: Fft


class State(NamedTuple):
    """State of a `FrameBuffer`, the streams along one axis, and the windows that follow from it."""

    magnitude: Array
    present: Array
    spectra: Array
    past: Array
    committed: Array
    coverage: Array
    expected: Array
    unchanged: Array  # (n_streams,) pushes since presence changed
    analysis: Array  # (n_streams, n_open, padded n_fft)
    start_analysis: Array  # (n_streams, padded n_fft)
    gain: Array  # (n_streams, hop_length + n_fade)


@numba.njit(nogil=True, cache=True)
def push(plan, state, work, magnitude, spectrum, is_frame, hops, first, last):
    """Advance streams `first` to `last - 1` by one frame.

    magnitude: `(n_streams, n_half)`, without a meaning unless `is_frame`.
    spectrum: `(n_streams, n_half, 2)`, starts that take the place of the plan's; empty if there are none.
    hops: `(n_streams, hop_length)`, filled with the samples that are final now.
    """
    for stream in range(first, last):
        _shift(plan, state, stream, magnitude, is_frame)
        if state.unchanged[stream] <= plan.n_settling:
            _make_windows(plan, state, work, stream)
        _load(plan, state, work, stream)
        _start(plan, state, work, stream, spectrum)
        for _ in range(plan.n_iter):
            _iterate(plan, state, work, stream)
        _save(plan, state, work, stream)
        _commit(plan, state, work, stream, hops)


# --- Positions in work -------------------------------------------------------------------------------------


@numba.njit(inline="always")
def _n_slots(plan):
    return 1 + plan.n_carried + (plan.rule == DIFFERENCE_MAP)


@numba.njit(inline="always")
def _target(plan, frame):
    return frame * plan.fft.padded


@numba.njit(inline="always")
def _spectrum(plan, slot, frame):
    return (plan.n_open + 2 * (slot * plan.n_open + frame)) * plan.fft.padded


@numba.njit(inline="always")
def _y(plan):
    return plan.n_open * (1 + 2 * _n_slots(plan)) * plan.fft.padded


@numba.njit(inline="always")
def _room(plan):
    return _y(plan) + 2 * plan.fft.padded


@numba.njit(inline="always")
def _samples(plan):
    return _room(plan) + 4 * plan.fft.padded


@numba.njit(inline="always")
def _others(plan):
    return _samples(plan) + plan.n_samples + WIDTH


@numba.njit
def work_size(plan):
    """Numbers in `work`."""
    return _others(plan) + plan.n_samples + WIDTH


# --- State in and out --------------------------------------------------------------------------------------


@numba.njit
def _move(target, to, source, at, n):
    """Copy n numbers, from left to right: the target may overlap the source if it is to the left of it."""
    whole = n - n % WIDTH
    for i in range(0, whole, WIDTH):
        store(target, to + i, load(source, at + i))
    for i in range(whole, n):
        target.flat[to + i] = source.flat[at + i]


@numba.njit
def _shift(plan, state, stream, magnitude, is_frame):
    """Shift magnitudes and presence by one frame; spectra are shifted when they are loaded."""
    n_open, n_half = plan.n_open, state.magnitude.shape[2]
    at = stream * n_open * n_half
    newest = at + (n_open - 1) * n_half
    _move(state.magnitude, at, state.magnitude, at + n_half, newest - at)
    if is_frame:
        _move(state.magnitude, newest, magnitude, stream * n_half, n_half)
    else:
        state.magnitude[stream, n_open - 1] = 0
    present = state.present[stream]
    state.unchanged[stream] = state.unchanged[stream] + 1 if present[n_open - 1] == is_frame else 0
    for frame in range(n_open - 1):
        present[frame] = present[frame + 1]
    present[n_open - 1] = is_frame


@numba.njit
def _load(plan, state, work, stream):
    """Targets, and spectra shifted by one frame; the newest is zero."""
    n_open, n_half, padded = plan.n_open, state.magnitude.shape[2], plan.fft.padded
    for frame in range(n_open):
        _move(work, _target(plan, frame), state.magnitude, (stream * n_open + frame) * n_half, n_half)
    for slot in range(1 + plan.n_carried):
        for frame in range(n_open - 1):
            at = ((stream * (1 + plan.n_carried) + slot) * n_open + frame + 1) * 2 * n_half
            _split(work, _spectrum(plan, slot, frame), padded, state.spectra, at, n_half)
        newest = _spectrum(plan, slot, n_open - 1)
        work[newest : newest + 2 * padded] = 0


@numba.njit
def _save(plan, state, work, stream):
    n_open, n_half, padded = plan.n_open, state.magnitude.shape[2], plan.fft.padded
    for slot in range(1 + plan.n_carried):
        for frame in range(n_open):
            at = ((stream * (1 + plan.n_carried) + slot) * n_open + frame) * 2 * n_half
            _join(state.spectra, at, work, _spectrum(plan, slot, frame), padded, n_half)


@numba.njit
def _split(work, to, padded, pairs, at, n):
    """Real and imaginary parts of n pairs at `at`."""
    whole = n - n % WIDTH
    for k in range(0, whole, WIDTH):
        a, A = deinterleave(load(pairs, at + 2 * k), load(pairs, at + 2 * k + WIDTH))
        store(work, to + k, a)
        store(work, to + padded + k, A)
    for k in range(whole, n):
        work[to + k], work[to + padded + k] = pairs.flat[at + 2 * k], pairs.flat[at + 2 * k + 1]


@numba.njit
def _join(pairs, to, work, at, padded, n):
    """The inverse of `_split`."""
    whole = n - n % WIDTH
    for k in range(0, whole, WIDTH):
        low, high = interleave(load(work, at + k), load(work, at + padded + k))
        store(pairs, to + 2 * k, low)
        store(pairs, to + 2 * k + WIDTH, high)
    for k in range(whole, n):
        pairs.flat[to + 2 * k], pairs.flat[to + 2 * k + 1] = work[at + k], work[at + padded + k]


@numba.njit
def _copy(work, to, source, n):
    _move(work, to, work, source, n)


# --- The two projections -----------------------------------------------------------------------------------


@numba.njit(inline="always")
def _p_m(work, target, c, k, padded):
    """Lanes of P_M(c), and of c."""
    a, A = load(work, c + k), load(work, c + padded + k)
    b, B = direction(a, A)
    magnitude = load(work, target + k)
    return magnitude * b, magnitude * B, a, A


@numba.njit
def _to_magnitude(plan, work, frame, c, to):
    """P_M of the spectrum at `c`."""
    padded = plan.fft.padded
    for k in range(0, padded, WIDTH):
        a, A, _, _ = _p_m(work, _target(plan, frame), c, k, padded)
        store(work, to + k, a)
        store(work, to + padded + k, A)


@numba.njit
def _begin_samples(plan, state, work, stream):
    _move(work, _samples(plan), state.committed, stream * plan.n_samples, plan.n_samples)


@numba.njit
def _add_frame(plan, work, frame, spectrum):
    samples = _samples(plan) + frame * plan.hop_length
    synthesize(work, spectrum, samples, plan.dual_window, _room(plan), plan.fft)


@numba.njit
def _keep_heard(plan, state, work, stream):
    """What was heard stays."""
    n_heard = plan.n_revised * plan.hop_length
    _move(work, _samples(plan), state.committed, stream * plan.n_samples, n_heard)


@numba.njit
def _analyze_frame(plan, state, work, stream, frame, to):
    samples = _samples(plan) + frame * plan.hop_length
    at = (stream * plan.n_open + frame) * state.start_analysis.shape[1]
    analyze(work, samples, state.analysis, at, to, _room(plan), plan.fft)


# --- The rules: before and after P_C -----------------------------------------------------------------------


@numba.njit
def _before(plan, work, frame):
    """The spectrum y that P_C is applied to; the part of the iterate that needs no P_C takes its place."""
    padded, c, y, target = plan.fft.padded, _spectrum(plan, 0, frame), _y(plan), _target(plan, frame)
    if plan.rule == ADMM:  # y = P_M(z - u) + u takes the place of u
        u = _spectrum(plan, 1, frame)
        for k in range(0, padded, WIDTH):
            a, A = load(work, c + k), load(work, c + padded + k)
            b, B = load(work, u + k), load(work, u + padded + k)
            d, D = direction(a - b, A - B)
            magnitude = load(work, target + k)
            b, B = magnitude * d + b, magnitude * D + B
            store(work, y + k, b)
            store(work, y + padded + k, B)
            store(work, u + k, b)
            store(work, u + padded + k, B)
        return
    if plan.rule == ACCELERATED:
        _to_magnitude(plan, work, frame, c, y)
        return
    y_a, y_c = broadcast(plan.constants[frame, 0]), broadcast(plan.constants[frame, 1])
    b_c, b_a = broadcast(plan.constants[frame, 3]), broadcast(plan.constants[frame, 4])
    b_p = broadcast(plan.constants[frame, 5])
    for k in range(0, padded, WIDTH):
        a, A, b, B = _p_m(work, target, c, k, padded)
        store(work, y + k, y_a * a + y_c * b)
        store(work, y + padded + k, y_a * A + y_c * B)
        b, B = b_c * b + b_a * a, b_c * B + b_a * A
        if plan.n_carried:
            previous = _spectrum(plan, 1, frame)
            b = b + b_p * load(work, previous + k)
            B = B + b_p * load(work, previous + padded + k)
        store(work, c + k, b)
        store(work, c + padded + k, B)


@numba.njit
def _after(plan, work, frame, s):
    """The new iterate, s = P_C(y) being known."""
    padded, c, one = plan.fft.padded, _spectrum(plan, 0, frame), _spectrum(plan, 1, frame)
    constants = plan.constants[frame]
    if plan.rule == ADMM:  # z' = (rho y + s) / (1 + rho), u' = y - z'
        b_y, b_s = broadcast(constants[0]), broadcast(constants[1])
        for i in range(0, 2 * padded, WIDTH):
            y = load(work, one + i)
            z = b_y * y + b_s * load(work, s + i)
            store(work, c + i, z)
            store(work, one + i, y - z)
    elif (
        plan.rule == ACCELERATED
    ):  # t' = (1 - gamma) d + gamma s, c' = t' + alpha (t' - t), d' = t' + beta (t' - t)
        d = _spectrum(plan, 2, frame)
        alpha, beta = broadcast(constants[0]), broadcast(constants[1])
        gamma, rest = broadcast(constants[2]), broadcast(constants[3])
        for i in range(0, 2 * padded, WIDTH):
            new = rest * load(work, d + i) + gamma * load(work, s + i)
            change = new - load(work, one + i)
            store(work, c + i, new + alpha * change)
            store(work, one + i, new)
            store(work, d + i, new + beta * change)
    else:
        b_s = broadcast(constants[2])
        for i in range(0, 2 * padded, WIDTH):
            new = load(work, s + i)
            store(work, c + i, load(work, c + i) + b_s * new)
            if plan.n_carried:
                store(work, one + i, new)


@numba.njit
def _before_difference_map(plan, work, frame):
    """Make `y = A + (A - c) / beta`; `c - beta P_M(s - (s - c) / beta)` takes the place of c. `s = P_C(c)`."""
    padded, c, y = plan.fft.padded, _spectrum(plan, 0, frame), _y(plan)
    s, target = _spectrum(plan, 1, frame), _target(plan, frame)
    beta, inverse = broadcast(plan.constants[frame, 2]), broadcast(plan.constants[frame, 0])
    for k in range(0, padded, WIDTH):
        a, A, b, B = _p_m(work, target, c, k, padded)
        store(work, y + k, a + inverse * (a - b))
        store(work, y + padded + k, A + inverse * (A - B))
        d, D = load(work, s + k), load(work, s + padded + k)
        d, D = direction(d - inverse * (d - b), D - inverse * (D - B))
        magnitude = load(work, target + k)
        store(work, c + k, b - beta * (magnitude * d))
        store(work, c + padded + k, B - beta * (magnitude * D))


@numba.njit
def _iterate(plan, state, work, stream):
    """One step of the rule; frames that are not there are zeros and stay zeros."""
    present, n_open = state.present[stream], plan.n_open
    if plan.rule == DIFFERENCE_MAP:
        _begin_samples(plan, state, work, stream)
        for frame in range(n_open):
            if present[frame]:
                _add_frame(plan, work, frame, _spectrum(plan, 0, frame))
        _keep_heard(plan, state, work, stream)
        for frame in range(n_open):
            if present[frame]:
                _analyze_frame(plan, state, work, stream, frame, _spectrum(plan, 1, frame))
    _begin_samples(plan, state, work, stream)
    for frame in range(n_open):
        if present[frame]:
            if plan.rule == DIFFERENCE_MAP:
                _before_difference_map(plan, work, frame)
            else:
                _before(plan, work, frame)
            _add_frame(plan, work, frame, _y(plan))
    _keep_heard(plan, state, work, stream)
    for frame in range(n_open):
        if present[frame]:
            _analyze_frame(plan, state, work, stream, frame, _y(plan))
            _after(plan, work, frame, _y(plan))


# --- The beginning and the end of a push -------------------------------------------------------------------


@numba.njit
def _start(plan, state, work, stream, spectrum):
    """Spectra of the newest frame."""
    newest, present = plan.n_open - 1, state.present[stream]
    if not present[newest]:
        return
    c, n_half, padded = _spectrum(plan, 0, newest), state.magnitude.shape[2], plan.fft.padded
    if spectrum.shape[0]:
        _split(work, c, padded, spectrum, stream * 2 * n_half, n_half)
    elif plan.start == ZEROS:
        _copy(work, c, _target(plan, newest), padded)
    else:
        _begin_samples(plan, state, work, stream)
        for frame in range(newest):
            if present[frame]:
                _to_magnitude(plan, work, frame, _spectrum(plan, 0, frame), _y(plan))
                _add_frame(plan, work, frame, _y(plan))
        _keep_heard(plan, state, work, stream)
        at = stream * state.start_analysis.shape[1]
        samples = _samples(plan) + newest * plan.hop_length
        analyze(work, samples, state.start_analysis, at, c, _room(plan), plan.fft)
    if plan.rule != ADMM:  # whose u starts with zero
        for slot in range(1, 1 + plan.n_carried):
            _copy(work, _spectrum(plan, slot, newest), c, 2 * padded)


@numba.njit
def _estimate(plan, state, work, stream, n_frames):
    """Spectra to commit, of the first frames, in place of the iterate."""
    present = state.present[stream]
    if plan.n_iter and not plan.commits_consistent:
        _begin_samples(plan, state, work, stream)
        for frame in range(plan.n_open):
            if present[frame]:
                _to_magnitude(plan, work, frame, _spectrum(plan, 0, frame), _y(plan))
                _add_frame(plan, work, frame, _y(plan))
        _keep_heard(plan, state, work, stream)
        for frame in range(n_frames):
            if present[frame]:
                _analyze_frame(plan, state, work, stream, frame, _spectrum(plan, 0, frame))
    slot = plan.n_carried if plan.commits_consistent and plan.n_iter else 0
    for frame in range(n_frames):
        if present[frame]:
            _to_magnitude(plan, work, frame, _spectrum(plan, slot, frame), _spectrum(plan, 0, frame))


@numba.njit
def _commit(plan, state, work, stream, hops):
    """Put the hop that is final now into `hops`; the oldest frame leaves."""
    hop_length, n_fade, n_samples = plan.hop_length, plan.n_fade, plan.n_samples
    n_heard, samples, present = plan.n_revised * hop_length, _samples(plan), state.present[stream]
    n_frames = min(plan.n_open, plan.n_revised + (2 if n_fade else 1))  # that have a part in it
    _estimate(plan, state, work, stream, n_frames)

    _begin_samples(plan, state, work, stream)
    committed, n_final = state.committed[stream], n_heard + hop_length
    if present[0]:
        _add_frame(plan, work, 0, _spectrum(plan, 0, 0))
    begin = stream * n_samples
    _move(state.committed, begin, state.committed, begin + hop_length, max(0, n_heard - hop_length))
    _move(state.committed, begin + n_heard, work, samples + n_final, n_samples - n_final)
    committed[n_samples - hop_length :] = 0

    for frame in range(1, n_frames):
        if present[frame]:
            _add_frame(plan, work, frame, _spectrum(plan, 0, frame))
    gain, expected, hop = state.gain[stream], state.expected[stream], hops[stream]
    for i in range(hop_length):
        hop[i] = work[samples + n_heard + i] * gain[i]
    for i in range(n_fade):
        hop[i] = expected[i] + plan.fade[i] * (hop[i] - expected[i])
        expected[i] = work[samples + n_final + i] * gain[hop_length + i]
    if n_heard:
        committed[n_heard - hop_length : n_heard] = hop

    n_half, at = state.magnitude.shape[2], stream * state.past.shape[1] * 2 * state.magnitude.shape[2]
    n_pairs = (state.past.shape[1] - 1) * 2 * n_half
    _move(state.past, at, state.past, at + 2 * n_half, n_pairs)
    _join(state.past, at + n_pairs, work, _spectrum(plan, 0, 0), plan.fft.padded, n_half)

    if state.unchanged[stream] <= plan.n_settling:
        _retire_coverage(plan, state, stream)


@numba.njit
def _retire_coverage(plan, state, stream):
    """The window sum of the committed samples, like the samples."""
    coverage, hop_length, n_heard = state.coverage[stream], plan.hop_length, plan.n_revised * plan.hop_length
    n_fft, n_samples, n_final = plan.fft.n_fft, plan.n_samples, n_heard + hop_length
    if state.present[stream, 0]:
        for i in range(n_final, n_fft):
            coverage[i] += plan.envelope[i]
    for i in range(n_heard - hop_length):
        coverage[i] = coverage[i + hop_length]
    if n_heard:
        coverage[n_heard - hop_length : n_heard] = 1
    for i in range(n_heard, n_samples - hop_length):
        coverage[i] = coverage[i + hop_length]
    coverage[n_samples - hop_length :] = 0


@numba.njit
def _make_windows(plan, state, work, stream):
    """See `FrameBuffer._make_windows`."""
    n_open, n_fft, hop_length = plan.n_open, plan.fft.n_fft, plan.hop_length
    n_heard, n_samples, newest = plan.n_revised * hop_length, plan.n_samples, n_open - 1
    total, others = _samples(plan), _others(plan)
    coverage, present, analysis = state.coverage[stream], state.present[stream], state.analysis[stream]
    for i in range(n_samples):
        work[total + i] = work[others + i] = coverage[i]
    for frame in range(n_open):
        if present[frame]:
            for i in range(max(0, n_heard - frame * hop_length), n_fft):
                work[total + frame * hop_length + i] += plan.envelope[i]
                if frame < newest:
                    work[others + frame * hop_length + i] += plan.envelope[i]
    for i in range(hop_length + plan.n_fade):
        state.gain[stream, i] = 1 / max(work[total + n_heard + i], MIN_COVERAGE)
    start = state.start_analysis[stream]
    if not plan.compensated:
        for i in range(n_fft):
            start[i] = plan.first_window[i]
            for frame in range(n_open):
                window = plan.newest_window if frame == newest else plan.window
                analysis[frame, i] = present[frame] * window[i]
        return
    for i in range(n_fft):
        start[i] = plan.window[i] / max(work[others + newest * hop_length + i], MIN_COVERAGE_AT_START)
        for frame in range(n_open):
            covered = max(work[total + frame * hop_length + i], MIN_COVERAGE)
            analysis[frame, i] = present[frame] * plan.window[i] / covered
