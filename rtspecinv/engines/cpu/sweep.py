"""Iterations of whole spectrograms in compiled code.

A sweep visits every frame once. It transforms the samples of the last iteration, finishes that iteration,
begins the next one, transforms back, and overlap-adds. So each frame is loaded into the cache once per
iteration.

Frames of all items of a batch are numbered consecutively. A block is a few consecutive frames, with memory of
its own to which they are added. So threads can work on different blocks, and the sums do not depend on which
thread computes which block. `settle` adds the samples of the blocks:

    block 0   [---- hops ----|- tail -]
    block 1                  [---- hops ----|- tail -]
    block 2                                 [---- hops ----|- tail -]
    samples   [ padding |                                 | padding ]
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba

from rtspecinv.engines.cpu.fft import analyze, synthesize
from rtspecinv.engines.cpu.lanes import WIDTH, load, pointers, root, store, unpack
from rtspecinv.engines.cpu.memory import fill, jit_cached, move, numbers_at, spectrum_at
from rtspecinv.engines.cpu.rules import after, before, measure, mix, to_magnitude
from rtspecinv.engines.table import NEW_STATE

# Values of `take`, what a sweep does with the spectrum s of the samples: nothing; finish an iteration, where
# s is P_C(y); store s in a slot; store |s|.
NOTHING, RULE, SPECTRUM, ACTUAL = range(4)

# Values of `give`, the spectrum whose frame a sweep adds to the next samples: none; y of the rule; the
# iterate c; P_M of a slot, or P_M of the rule's estimate. Both of the latter are stored.
ITERATE, ESTIMATE, MIXED_ESTIMATE = 2, 3, 4


class SweepPlan(NamedTuple):
    """Numbers of one rule; positions are indices of `work`, whose layout is similar to that in `memory`."""

    n_fft: int
    n_half: int
    padded: int  # n_half up to the next multiple of WIDTH
    own_fft: int  # 0 or 1
    second_radix: int
    hop_length: int
    n_open: int  # number of frames of all items
    n_frames: int  # number of frames of an item
    n_block: int  # number of frames of a block; the last block of an item may have fewer
    n_blocks: int  # number of blocks of an item
    n_covered: int  # number of samples that frames cover
    n_samples: int  # number of samples of an item
    padding: int  # number of samples added on each side
    first_known: int
    n_known: int
    n_slots: int
    kept: int  # slot of estimates
    kind: int
    uses_iterate: int
    n_kept: int
    n_values: int  # number of values of bands of a frame
    is_power: int  # 0 or 1
    values: int  # (n_open, n_values)
    spectra: int
    samples: int  # (n_items, n_signal), padding included
    n_signal: int
    added: int  # (n_items, n_blocks, n_added)
    n_added: int
    y: int  # of the thread
    found: int  # of the thread
    room: int  # working memory of the thread
    n_room: int  # size of the memory of one thread, which begins with y


class SweepMemory(NamedTuple):
    """Addresses of the arrays of a batch run; windows are padded to a multiple of WIDTH."""

    work: int
    gain: int  # (2, n_covered): gains of iterations, and of the result
    known: int  # (n_items, n_known)
    numbers: int  # (n_open, N_NUMBERS)
    window: int
    dual_window: int
    tables: int
    signs: int  # (padded,): signs that bins of value 0 get
    ranges: int  # of bands, as in `memory`
    filters: int
    shares: int
    beyond: int
    limits: int
    real: int  # of the thread
    half: int  # of the thread
    stop: int  # (1,): not 0 when the sweep has been interrupted


class Result(NamedTuple):
    """Address of the result of a sweep."""

    actual: int  # (n_items, n_frames, n_half)


@numba.njit
def _take(plan, memory, frame, samples, what, slot, actual):
    """Transform a frame of samples, and use its spectrum as `what`, a value of `take`, says."""
    work, y = memory.work, spectrum_at(plan, slot, frame) if what == SPECTRUM else plan.y
    analyze(plan, memory, memory.window, 0, samples, y)
    if what == RULE:
        after(plan, memory, frame, numbers_at(plan, 0, frame), y)
    elif what == ACTUAL:
        at, whole = frame * plan.n_half, plan.n_half - plan.n_half % WIDTH
        for k in range(0, whole, WIDTH):
            a, A = load(work, y + k), load(work, y + plan.padded + k)
            store(actual, at + k, root(a * a + A * A))
        for k in range(whole, plan.n_half):
            a, A = work[y + k], work[y + plan.padded + k]
            actual[at + k] = math.sqrt(a * a + A * A)


@numba.njit
def _give(plan, memory, frame, samples, what, slot):
    """Transform a frame back, and add it to the samples of its block."""
    y = plan.y
    if what == RULE:
        before(plan, memory, frame, numbers_at(plan, 0, frame))
    elif what == ITERATE:
        y = spectrum_at(plan, 0, frame)
    else:
        y = spectrum_at(plan, plan.kept, frame)
        source = y
        if what == MIXED_ESTIMATE:
            mix(plan, memory, frame, numbers_at(plan, 0, frame), NEW_STATE + plan.n_slots, y)
        else:
            source = spectrum_at(plan, slot, frame)
        to_magnitude(plan, memory, measure(plan, memory, frame, source), source, y)
    synthesize(plan, memory, y, samples)


@numba.njit
def _add(work, to, at, n):
    """Add n numbers to n others."""
    whole = n - n % WIDTH
    for i in range(0, whole, WIDTH):
        store(work, to + i, load(work, to + i) + load(work, at + i))
    for i in range(whole, n):
        work[to + i] += work[at + i]


@numba.njit
def _join(plan, work, item):
    """Add up the samples of an item from those of its blocks."""
    own = plan.n_block * plan.hop_length
    for block in range(plan.n_blocks):
        to = plan.samples + item * plan.n_signal + block * own
        at = plan.added + (item * plan.n_blocks + block) * plan.n_added
        last = block == plan.n_blocks - 1
        move(work, to, work, at, plan.n_covered - block * own if last else own)
        if block:
            _add(work, to, at - plan.n_added + own, plan.n_fft - plan.hop_length)


@jit_cached("batch inversion by numba")
def sweep(plan, memory, actual, number, take, give, slot, first, last):
    """Sweep over blocks `first` to `last - 1` of all items.

    plan, memory: integers of `SweepPlan` and `SweepMemory` as arrays.
    actual: address of the result of `take=ACTUAL`.
    number: a zero whose type is the precision of all numbers.
    take: what to do after the transform, one of the constants above.
    give: which spectrum to transform back and add, one of the constants above.
    slot: slot of the state that `take` and `give` use.
    """
    plan, memory = unpack(SweepPlan, plan), pointers(unpack(SweepMemory, memory), number)
    result = pointers(Result(actual), number)
    for block in range(first, last):
        item, begin = block // plan.n_blocks, block % plan.n_blocks * plan.n_block
        added, samples = plan.added + block * plan.n_added, plan.samples + item * plan.n_signal
        if give != NOTHING:
            fill(memory.work, added, plan.n_added, 0)
        for t in range(begin, min(begin + plan.n_block, plan.n_frames)):
            if memory.stop[0]:
                return
            frame = item * plan.n_frames + t
            if take != NOTHING:
                _take(plan, memory, frame, samples + t * plan.hop_length, take, slot, result.actual)
            if give != NOTHING:
                _give(plan, memory, frame, added + (t - begin) * plan.hop_length, give, slot)


@jit_cached()
def settle(plan, memory, number, padded_with, fading, first, last):
    """Complete the samples of items `first` to `last - 1`: sum, edges, known samples, padding.

    padded_with: sample, counted from 1, that each sample of the padding repeats; 0 is silence.
    fading: 1 if the edges fade in and out, as in the result; otherwise 0.
    """
    plan, memory = unpack(SweepPlan, plan), pointers(unpack(SweepMemory, memory), number)
    work, padding, n_edge = memory.work, plan.padding, plan.n_fft - plan.hop_length
    for item in range(first, last):
        _join(plan, work, item)
        start = plan.samples + item * plan.n_signal
        end = plan.n_covered - n_edge
        for i in range(min(n_edge, plan.n_covered)):
            work[start + i] *= memory.gain[fading * plan.n_covered + i]
        for i in range(max(n_edge, end), plan.n_covered):
            work[start + i] *= memory.gain[fading * plan.n_covered + i]
        x = start + padding
        move(work, x + plan.first_known, memory.known, item * plan.n_known, plan.n_known)
        for i in range(2 * padding):
            to = start + i if i < padding else x + plan.n_samples + i - padding
            work[to] = work[x + padded_with[i] - 1] if padded_with[i] else 0
