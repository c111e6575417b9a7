"""Memory of compiled code: plan, addresses, layout of the work array, and functions that copy numbers in it.

All computation takes place in one flat array `work`; a position is an index of it. A spectrum is stored as
`padded` real parts, then `padded` imaginary parts, where `padded` is n_half rounded up to a multiple of
WIDTH. The layout of `work`:

    0            magnitudes (n_open, padded)
    spectra      the iterate c, what the rule carries and, if it projects twice, P_C(c):
                 (n_slots, n_open, 2 * padded)
    values       values of bands (n_open, n_values)
    y            spectrum of one frame that P_C is applied to; a start may use 6 rows of `padded` from here on
    found        magnitudes estimated from the values of bands of one frame, and their factors
    room         temporary memory of the transforms
    samples      committed samples plus the samples of the frames
    others       the same without the newest frame, used when windows are computed

Padding holds zeros, and every step maps zeros to zeros.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba

from rtspecinv import frames
from rtspecinv.engines import table
from rtspecinv.engines.cpu.cache import CodeCache
from rtspecinv.engines.cpu.lanes import WIDTH, deinterleave, interleave, load, store
from rtspecinv.engines.table import N_COLUMNS, N_ROWS

# Sources of the compiled code. Numba itself checks only the file of a function for changes.
_FILES = [*sorted(Path(__file__).parent.glob("*.py")), Path(table.__file__), Path(frames.__file__)]
SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in _FILES)).hexdigest()


def jit_cached(label: str = "", **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator that compiles a function, which releases the GIL, and caches it on disk; see `CodeCache`."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(nogil=True, **options)(function)
        dispatcher._cache = CodeCache(function, SOURCES, label)
        return dispatcher

    return compiled


# Kinds of rules, by the zeros in their tables (`engines.table`), each with its own loops. Let y be the
# argument of P_C, and c the iterate:
# TARGET_ONLY: y = A = P_M(c), and the new state contains no A: all of it is computed after P_C.
# ONE_SLOT: any other rule that carries only c.
# MULTIPLES: the new state consists of multiples of y and of s; y is stored in the last slot, and its factors
#     replace those of A in the table.
# GENERAL: any other rule; before P_C the first `n_kept` slots receive their multiples of A and of the old
#     state; the other slots contain neither.
# TWICE: `Table.projects_twice`; P_C(c) is in slot 1.
TARGET_ONLY, ONE_SLOT, MULTIPLES, GENERAL, TWICE = range(5)

N_NUMBERS = N_ROWS * N_COLUMNS  # in the table of a frame, whose last rows and columns may be unused

# Starts of the newest frame, unless the caller passes a spectrum.
OVERLAP, ZEROS, GRADIENT = range(3)


class Plan(NamedTuple):
    """Numbers that do not change from push to push."""

    n_fft: int
    n_half: int
    padded: int  # n_half up to the next multiple of WIDTH
    padded_frame: int  # n_fft up to the next multiple of WIDTH
    own_fft: int  # 0 or 1
    second_radix: int
    hop_length: int
    n_open: int
    n_known: int  # number of open frames and of frames that wait for their start
    n_revised: int
    n_fade: int
    n_samples: int
    n_slots: int  # number of spectra in the buffer
    n_iter: int
    n_settling: int  # number of pushes without a change of presence after which the windows are constant
    kind: int  # this and the following fields: as in `host.Rule`
    uses_iterate: int  # 0 or 1
    n_kept: int
    looks_again: int  # 0 or 1
    mixes: int  # 0 or 1
    start: int
    compensated: int  # 0 or 1
    n_values: int  # number of values of bands of a frame
    is_power: int  # 0 or 1: whether these are values of powers
    spectra: int
    values: int
    y: int
    found: int
    room: int
    samples: int
    others: int


class Memory(NamedTuple):
    """Addresses that do not change from push to push; windows have `padded_frame` numbers."""

    # State as in `FrameBuffer`, of all streams.
    magnitude: int
    values: int
    present: int
    spectra: int
    past: int
    committed: int
    coverage: int
    expected: int
    # Derived from the state.
    unchanged: int  # (n_streams,): number of pushes since presence changed, at most n_settling + 1
    analysis: int  # (n_streams, n_open, padded_frame)
    start_analysis: int  # (n_streams, padded_frame)
    gain: int  # (n_streams, hop_length + n_fade)
    # Constants.
    window: int  # with the scale of the transform
    dual_window: int  # with the scale of the inverse transform
    envelope: int
    first_window: int  # asymmetric windows, before and after the newest frame is added
    newest_window: int
    fade: int  # (n_fade,)
    tables: int
    stop: int  # (1,): not 0 if the push has been interrupted; the state is then undefined
    signs: int  # (padded,): signs that bins of value 0 get
    gradient: int  # of the phase gradient: (2, n_half) and (4,), see `start.GRADIENT_NUMBERS`
    numbers: int  # (2, n_open, N_NUMBERS): the rule in the first iteration and in later ones; then its start
    ranges: int  # (n_values, 2): first frequency of each band, and its number of vectors of frequencies
    filters: int  # these vectors of all bands, one band after the other
    shares: int  # the same vectors of the weights of a band at its frequencies
    beyond: int  # (padded,)
    limits: int  # (4,): the smallest normal number, 0, `PULL` and 1 - `PULL`
    # Working memory of a thread.
    work: int
    real: int
    half: int


class Call(NamedTuple):
    """Addresses of the input and the output of one push."""

    magnitude: int
    spectrum: int
    hops: int


@numba.njit(forceinline=True)
def numbers_at(plan, is_later, frame):
    """Return the position of the numbers of a frame, in the first iteration or in later ones."""
    return N_NUMBERS * (is_later * plan.n_open + frame)


@numba.njit(forceinline=True)
def spectrum_at(plan, slot, frame):
    """Return the position of a spectrum in `work`."""
    return plan.spectra + 2 * (slot * plan.n_open + frame) * plan.padded


@numba.njit
def move(target, to, source, at, n):
    """Copy n numbers from left to right; the target may overlap the source if it lies to the left of it."""
    whole = n - n % WIDTH
    for i in range(0, whole, WIDTH):
        store(target, to + i, load(source, at + i))
    for i in range(whole, n):
        target[to + i] = source[at + i]


@numba.njit
def fill(target, to, n, value):
    """Write a value n times."""
    for i in range(to, to + n):
        target[i] = value


@numba.njit
def split(work, to, padded, pairs, at, n):
    """Write the real and the imaginary parts of the n pairs at `at` to `work`, at position `to`."""
    whole = n - n % WIDTH
    for k in range(0, whole, WIDTH):
        a, A = deinterleave(load(pairs, at + 2 * k), load(pairs, at + 2 * k + WIDTH))
        store(work, to + k, a)
        store(work, to + padded + k, A)
    for k in range(whole, n):
        work[to + k], work[to + padded + k] = pairs[at + 2 * k], pairs[at + 2 * k + 1]


@numba.njit
def join(pairs, to, work, at, padded, n):
    """Write real and imaginary parts from `work` as n pairs; the inverse of `split`."""
    whole = n - n % WIDTH
    for k in range(0, whole, WIDTH):
        low, high = interleave(load(work, at + k), load(work, at + padded + k))
        store(pairs, to + 2 * k, low)
        store(pairs, to + 2 * k + WIDTH, high)
    for k in range(whole, n):
        pairs[to + 2 * k], pairs[to + 2 * k + 1] = work[at + k], work[at + padded + k]
