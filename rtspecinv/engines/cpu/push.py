"""One push of one stream in compiled code: `FrameBuffer`, the projections and the rules in one function.

An iteration visits every frame twice. The first visit computes P_M, the rule up to P_C, the inverse transform
and overlap-add. When the samples are complete, the second computes the transform and the rest of the rule.
"""

from __future__ import annotations

import numba

from rtspecinv.engines.cpu.fft import analyze, synthesize
from rtspecinv.engines.cpu.lanes import pointers, unpack
from rtspecinv.engines.cpu.memory import (
    GRADIENT,
    N_NUMBERS,
    TWICE,
    ZEROS,
    Call,
    Memory,
    Plan,
    fill,
    jit_cached,
    join,
    move,
    numbers_at,
    spectrum_at,
    split,
)
from rtspecinv.engines.cpu.rules import after, before, measure, mix, scale, to_magnitude
from rtspecinv.engines.cpu.start import phase_gradient
from rtspecinv.engines.table import NEW_STATE
from rtspecinv.frames import MIN_COVERAGE, MIN_COVERAGE_AT_START, N_PAST

# --- Reading and writing the state ------------------------------------------------------------------------


@numba.njit
def _take_in(state, first, n_open, n, frame, at, is_frame):
    """Shift n numbers of every frame by one frame, and write those of the newest frame, or zeros."""
    newest = first + (n_open - 1) * n
    move(state, first, state, first + n, newest - first)
    if is_frame:
        move(state, newest, frame, at, n)
    else:
        fill(state, newest, n, 0)


@numba.njit
def _shift(plan, memory, stream, magnitude, is_frame):
    """Shift magnitudes and presence by one frame; spectra are shifted when they are loaded."""
    n_known, n_half, n_values = plan.n_known, plan.n_half, plan.n_values
    frame = stream * (n_half + n_values)
    _take_in(memory.magnitude, stream * n_known * n_half, n_known, n_half, magnitude, frame, is_frame)
    first = stream * n_known * n_values
    _take_in(memory.values, first, n_known, n_values, magnitude, frame + n_half, is_frame)
    first = stream * n_known
    newest = first + n_known - 1
    if memory.present[newest] != is_frame:
        memory.unchanged[stream] = 0
    elif memory.unchanged[stream] <= plan.n_settling:
        memory.unchanged[stream] += 1
    move(memory.present, first, memory.present, first + 1, n_known - 1)
    memory.present[newest] = is_frame


@numba.njit
def _load(plan, memory, stream):
    """Copy magnitudes, values and spectra to `work`; spectra are shifted by one frame, the newest is zero."""
    n_open, n_half, padded, work = plan.n_open, plan.n_half, plan.padded, memory.work
    for frame in range(n_open):
        move(work, frame * padded, memory.magnitude, (stream * plan.n_known + frame) * n_half, n_half)
    n_all = n_open * plan.n_values
    move(work, plan.values, memory.values, stream * plan.n_known * plan.n_values, n_all)
    for slot in range(plan.n_slots):
        for frame in range(n_open - 1):
            at = ((stream * plan.n_slots + slot) * n_open + frame + 1) * 2 * n_half
            split(work, spectrum_at(plan, slot, frame), padded, memory.spectra, at, n_half)
        fill(work, spectrum_at(plan, slot, n_open - 1), 2 * padded, 0)


@numba.njit
def _save(plan, memory, stream):
    for slot in range(plan.n_slots):
        for frame in range(plan.n_open):
            to = ((stream * plan.n_slots + slot) * plan.n_open + frame) * 2 * plan.n_half
            join(memory.spectra, to, memory.work, spectrum_at(plan, slot, frame), plan.padded, plan.n_half)


# --- The projection on consistent spectra, and an iteration -------------------------------------------------


@numba.njit
def _begin(plan, memory, stream, n):
    """Copy the first n committed samples to `work`, where frames are added to them."""
    move(memory.work, plan.samples, memory.committed, stream * plan.n_samples, n)


@numba.njit
def _add(plan, memory, frame, spectrum):
    synthesize(plan, memory, spectrum, plan.samples + frame * plan.hop_length)


@numba.njit
def _analyze(plan, memory, stream, frame, to):
    at = (stream * plan.n_open + frame) * plan.padded_frame
    analyze(plan, memory, memory.analysis, at, plan.samples + frame * plan.hop_length, to)


# What `_overlap_add` adds for a frame: c, P_M(c), or y of the rule, in the first iteration or in later ones.
ITERATE, TARGET, FIRST, LATER = range(4)


@numba.njit
def _overlap_add(plan, memory, stream, n_frames, what):
    """Add the samples of the first frames to the committed ones; samples that were heard do not change."""
    _begin(plan, memory, stream, plan.n_samples)
    for frame in range(n_frames):
        if memory.stop[0]:
            return
        if memory.present[stream * plan.n_known + frame]:
            c, y = spectrum_at(plan, 0, frame), plan.y
            if what == ITERATE:
                y = c
            elif what == TARGET:
                to_magnitude(plan, memory, measure(plan, memory, frame, c), c, y)
            else:
                before(plan, memory, frame, numbers_at(plan, what == LATER, frame))
            _add(plan, memory, frame, y)
    _begin(plan, memory, stream, plan.n_revised * plan.hop_length)


@numba.njit
def _iterate(plan, memory, stream, is_later):
    """Do one step of the rule; absent frames are zeros and remain zeros."""
    if plan.kind == TWICE:  # begins with P_C(c)
        _overlap_add(plan, memory, stream, plan.n_open, ITERATE)
        for frame in range(plan.n_open):
            if memory.stop[0]:
                return
            if memory.present[stream * plan.n_known + frame]:
                _analyze(plan, memory, stream, frame, spectrum_at(plan, 1, frame))
    _overlap_add(plan, memory, stream, plan.n_open, LATER if is_later else FIRST)
    for frame in range(plan.n_open):
        if memory.stop[0]:
            return
        if memory.present[stream * plan.n_known + frame]:
            _analyze(plan, memory, stream, frame, plan.y)
            after(plan, memory, frame, numbers_at(plan, is_later, frame), plan.y)


# --- The beginning and the end of a push -------------------------------------------------------------------


@numba.njit
def _start(plan, memory, stream, spectrum, is_given):
    """Compute the start of the newest frame and write its spectra."""
    newest, work = plan.n_open - 1, memory.work
    if not memory.present[stream * plan.n_known + newest]:
        return
    c = spectrum_at(plan, 0, newest)
    if is_given:
        split(work, c, plan.padded, spectrum, stream * 2 * plan.n_half, plan.n_half)
    elif plan.start == ZEROS:
        to_magnitude(plan, memory, newest * plan.padded, c, c)
    elif plan.start == GRADIENT:
        phase_gradient(plan, memory, stream)
    else:
        _overlap_add(plan, memory, stream, newest, TARGET)
        at, samples = stream * plan.padded_frame, plan.samples + newest * plan.hop_length
        analyze(plan, memory, memory.start_analysis, at, samples, c)
    for slot in range(plan.n_slots - 1, -1, -1):
        share = memory.numbers[2 * plan.n_open * N_NUMBERS + slot]
        scale(work, spectrum_at(plan, slot, newest), c, share, 2 * plan.padded)


@numba.njit
def _estimate(plan, memory, stream, n_frames):
    """Replace the iterate of the first frames by the spectra to commit."""
    looks_again = plan.n_iter and plan.looks_again
    if plan.n_iter and plan.mixes:
        for frame in range(plan.n_open):
            at = numbers_at(plan, 1, frame)
            mix(plan, memory, frame, at, NEW_STATE + plan.n_slots, spectrum_at(plan, 0, frame))
    if looks_again:
        _overlap_add(plan, memory, stream, plan.n_open, TARGET)
    for frame in range(n_frames):
        c = spectrum_at(plan, 0, frame)
        if memory.present[stream * plan.n_known + frame]:
            if looks_again:
                _analyze(plan, memory, stream, frame, c)
            to_magnitude(plan, memory, measure(plan, memory, frame, c), c, c)


@numba.njit
def _commit(plan, memory, stream, hops):
    """Write the final hop to `hops`, and remove the oldest frame from the buffer."""
    hop_length, n_fade, n_samples, work = plan.hop_length, plan.n_fade, plan.n_samples, memory.work
    n_heard, samples, first = plan.n_revised * hop_length, plan.samples, stream * plan.n_known
    n_final, n_pairs, committed = n_heard + hop_length, 2 * plan.n_half, stream * n_samples
    n_frames = min(plan.n_open, plan.n_revised + (2 if n_fade else 1))  # frames that contain the hop
    _estimate(plan, memory, stream, n_frames)

    _begin(plan, memory, stream, n_samples)
    move(memory.committed, committed, memory.committed, committed + hop_length, n_heard)
    for frame in range(n_frames):
        if memory.present[first + frame]:
            _add(plan, memory, frame, spectrum_at(plan, 0, frame))
        if frame == 0:  # its samples that have not been returned are committed
            move(memory.committed, committed + n_heard, work, samples + n_final, n_samples - n_final)
    fill(memory.committed, committed + n_samples - hop_length, hop_length, 0)

    hop, expected, gain = stream * hop_length, stream * n_fade, stream * (hop_length + n_fade)
    for i in range(hop_length):
        hops[hop + i] = work[samples + n_heard + i] * memory.gain[gain + i]
    for i in range(n_fade):
        before = memory.expected[expected + i]
        hops[hop + i] = before + memory.fade[i] * (hops[hop + i] - before)
        memory.expected[expected + i] = work[samples + n_final + i] * memory.gain[gain + hop_length + i]
    if n_heard:
        move(memory.committed, committed + n_heard - hop_length, hops, hop, hop_length)

    past = stream * N_PAST * n_pairs
    move(memory.past, past, memory.past, past + n_pairs, (N_PAST - 1) * n_pairs)
    join(memory.past, past + (N_PAST - 1) * n_pairs, work, spectrum_at(plan, 0, 0), plan.padded, plan.n_half)
    if memory.unchanged[stream] <= plan.n_settling:
        _retire_coverage(plan, memory, stream)


@numba.njit
def _retire_coverage(plan, memory, stream):
    """Update the window sum of the committed samples; it is 1 for samples that were heard."""
    coverage, at, hop_length = memory.coverage, stream * plan.n_samples, plan.hop_length
    n_heard = plan.n_revised * hop_length
    if memory.present[stream * plan.n_known]:
        for i in range(n_heard + hop_length, plan.n_fft):
            coverage[at + i] += memory.envelope[i]
    move(coverage, at, coverage, at + hop_length, plan.n_samples - hop_length)
    fill(coverage, at + plan.n_samples - hop_length, hop_length, 0)
    if n_heard:
        fill(coverage, at + n_heard - hop_length, hop_length, 1)


@numba.njit
def _make_windows(plan, memory, stream):
    """Compute the windows of the present frames; see `FrameBuffer._make_windows`."""
    n_open, n_fft, hop_length, work = plan.n_open, plan.n_fft, plan.hop_length, memory.work
    n_heard, newest, total, others = plan.n_revised * hop_length, n_open - 1, plan.samples, plan.others
    for i in range(plan.n_samples):
        work[total + i] = work[others + i] = memory.coverage[stream * plan.n_samples + i]
    for frame in range(n_open):
        if memory.present[stream * plan.n_known + frame]:
            for i in range(max(0, n_heard - frame * hop_length), n_fft):
                work[total + frame * hop_length + i] += memory.envelope[i]
                if frame < newest:
                    work[others + frame * hop_length + i] += memory.envelope[i]
    for i in range(hop_length + plan.n_fade):
        gain = 1 / max(work[total + n_heard + i], MIN_COVERAGE)
        memory.gain[stream * (hop_length + plan.n_fade) + i] = gain
    for i in range(n_fft):
        if plan.compensated:
            covered = max(work[others + newest * hop_length + i], MIN_COVERAGE_AT_START)
            start = memory.window[i] / covered
        else:
            start = memory.first_window[i]
        memory.start_analysis[stream * plan.padded_frame + i] = start
    for frame in range(n_open):
        present, at = (
            memory.present[stream * plan.n_known + frame],
            (stream * n_open + frame) * plan.padded_frame,
        )
        for i in range(n_fft):
            if plan.compensated:
                covered = max(work[total + frame * hop_length + i], MIN_COVERAGE)
                window = memory.window[i] / covered
            else:
                window = memory.newest_window[i] if frame == newest else memory.window[i]
            memory.analysis[at + i] = present * window


@jit_cached("the engine numba")
def push(plan, memory, magnitude, spectrum, hops, number, first, last):
    """Advance streams `first` to `last - 1` by one frame.

    plan, memory: integers of `Plan` and `Memory` as arrays, which numba passes much faster than tuples.
    magnitude: address of the frames, `(n_streams, n_half + n_values)`, 0 if there are none.
    spectrum: address of the starts, `(n_streams, n_half, 2)`, 0 if there are none.
    hops: address of the output, `(n_streams, hop_length)`.
    number: a zero whose type is the precision of all numbers.
    """
    plan, memory = unpack(Plan, plan), pointers(unpack(Memory, memory), number)
    is_frame, is_given = magnitude != 0, spectrum != 0
    call = pointers(Call(magnitude, spectrum, hops), number)
    for stream in range(first, last):
        _shift(plan, memory, stream, call.magnitude, is_frame)
        if memory.unchanged[stream] <= plan.n_settling:
            _make_windows(plan, memory, stream)
        _load(plan, memory, stream)
        _start(plan, memory, stream, call.spectrum, is_given)
        for i in range(plan.n_iter):
            if memory.stop[0]:
                return
            _iterate(plan, memory, stream, i > 0)
        _save(plan, memory, stream)
        _commit(plan, memory, stream, call.hops)
