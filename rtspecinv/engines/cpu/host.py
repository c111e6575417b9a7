"""Python side of compiled code: the numbers of a rule, aligned memory, and threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch

from rtspecinv.bands import PULL, Bands, Magnitudes
from rtspecinv.engines.cpu import fft
from rtspecinv.engines.cpu.lanes import WIDTH
from rtspecinv.engines.cpu.memory import GENERAL, MULTIPLES, ONE_SLOT, TARGET_ONLY, TWICE
from rtspecinv.engines.table import (
    INTO_P_C,
    INTO_P_M,
    MOST_KEPT,
    N_COLUMNS,
    N_ROWS,
    NEW_STATE,
    OF_MAGNITUDE,
    STATE,
    TOLERANCE,
    Table,
    table_of,
)
from rtspecinv.projections import signs
from rtspecinv.stft import STFT
from rtspecinv.updates import Update

Array = np.ndarray[Any, Any]

# Least work per thread, in samples transformed and back: about 0.3 ms; waking a thread takes 0.1 ms.
WORK_OF_A_THREAD = 200_000

SHARES = 4  # parts into which a thread's tasks are divided; other threads may take some of them

LINE = 64  # bytes


@dataclass(frozen=True)
class Rule:
    """A rule in the form that compiled code uses.

    Attributes:
        numbers: `(2, n_open, N_NUMBERS)`, of the first step and of later ones; `(2, 1, N_NUMBERS)` if all
            frames have the same.
        start, n_slots, looks_again: as in `Table`.
        kind: loops that compute the rule, a constant of `memory`.
        uses_iterate: True if the new state depends on the previous iterate.
        n_kept: number of slots up to the last one that depends on more than s.
        mixes: True if the estimate depends on more than the iterate.
    """

    numbers: Array
    start: tuple[float, ...]
    n_slots: int
    looks_again: bool
    kind: int
    uses_iterate: bool
    n_kept: int
    mixes: bool


def rule_of(update: Update, n_open: int, n_new: int = 1) -> Rule | None:
    """Return the rule for compiled code; None if it has no table, see `table_of`."""
    table = table_of(update, n_open, n_new)
    return None if table is None else _rule_of(table)


@lru_cache(MOST_KEPT)
def _rule_of(table: Table) -> Rule:
    numbers = torch.stack([table.first_step, table.step]).numpy()
    if (numbers == numbers[:, :1]).all():
        numbers = numbers[:, :1].copy()
    state, kind = numbers[..., NEW_STATE:-1, :], _kind(table, numbers)
    if kind == MULTIPLES:
        state[..., OF_MAGNITUDE] = _multiples(numbers)
    missing = ((0, N_ROWS - numbers.shape[2]), (0, N_COLUMNS - numbers.shape[3]))
    return Rule(
        np.pad(numbers, ((0, 0), (0, 0), *missing)).reshape(*numbers.shape[:2], -1),
        table.start,
        table.n_slots,
        table.looks_again,
        kind,
        bool(state[..., STATE].any()),
        int(max([0, *np.flatnonzero(state[..., OF_MAGNITUDE:].any((0, 1, 3)))])) + 1,
        bool((numbers[..., -1, :] != _only(STATE, numbers)).any()),
    )


def _kind(table: Table, numbers: Array) -> int:
    """Return the kind of loops for a rule, from the zeros in its numbers `(2, n_open, n_rows, n_axes)`."""
    if table.projects_twice:
        return TWICE
    of_iterate = (numbers[..., INTO_P_M, :] == _only(STATE, numbers)).all()
    of_target = (numbers[..., INTO_P_C, :] == _only(OF_MAGNITUDE, numbers)).all()
    if of_iterate and of_target and not numbers[..., NEW_STATE:-1, OF_MAGNITUDE].any():
        return TARGET_ONLY
    if table.n_slots == 1:
        return ONE_SLOT
    if numbers[..., INTO_P_C, OF_MAGNITUDE].all():
        kept = _multiples(numbers)[..., None] * numbers[..., INTO_P_C : INTO_P_C + 1, :]
        difference = (numbers[..., NEW_STATE:-1, :] - kept)[..., OF_MAGNITUDE:]
        if (abs(difference) <= TOLERANCE).all():
            return MULTIPLES
    return GENERAL


def _only(column: int, numbers: Array) -> Array:
    """Return a row that is 1 in one column and 0 elsewhere."""
    row: Array = np.eye(numbers.shape[-1])[column]
    return row


def _multiples(numbers: Array) -> Array:
    """Return the factor of A in each part of the new state, divided by its factor in the argument of P_C."""
    multiples: Array = (
        numbers[..., NEW_STATE:-1, OF_MAGNITUDE] / numbers[..., INTO_P_C : INTO_P_C + 1, OF_MAGNITUDE]
    )
    return multiples


def scales(stft: STFT) -> tuple[float, float]:
    """Return the factors of the window before a transform and of the dual window after an inverse one."""
    return stft.scale * (0.5 if fft.suits(stft.n_fft) else 1.0), 1 / (stft.n_fft * stft.scale)


def padded_signs(n_half: int) -> Array:
    """Return `signs`, padded to `(padded,)`; padding has magnitude 0, so its signs have no effect."""
    values = signs(n_half, torch.float64, torch.device("cpu")).numpy()
    return np.pad(values, (0, fft.pad(n_half) - n_half), constant_values=1.0)


def bands_of(measurement: Magnitudes | Bands, n_half: int) -> dict[str, Array]:
    """Return the constants of the measurement, with filters in vectors of WIDTH; see `memory`."""
    padded, numbers = fft.pad(n_half), np.array([0.0, PULL, 1 - PULL])
    if isinstance(measurement, Magnitudes):
        return dict.fromkeys(("ranges", "filters", "shares", "beyond"), np.zeros(0)) | {"limits": numbers}
    rows, shares, beyond = (
        np.pad(values.detach().numpy(), ((0, 0),) * (values.ndim - 1) + ((0, padded - n_half),))
        for values in (measurement.filters, measurement.shares.mT, measurement.beyond)
    )
    limits = np.concatenate([[np.finfo(rows.dtype).tiny], numbers])
    ranges = np.zeros((len(rows), 2))
    heard = np.any((rows > 0).reshape(len(rows), -1, WIDTH), axis=-1)
    packed: list[list[Array]] = [[], []]
    for band, vectors in enumerate(heard):
        if not vectors.any():
            continue
        first, last = WIDTH * vectors.argmax(), WIDTH * (len(vectors) - vectors[::-1].argmax())
        ranges[band] = first, last - first
        for values, parts in zip((rows, shares), packed, strict=True):
            parts.append(values[band, first:last])
    filters, shares = (np.concatenate([np.zeros(0, rows.dtype), *parts]) for parts in packed)
    return {"ranges": ranges, "filters": filters, "shares": shares, "beyond": beyond, "limits": limits}


def aligned(size: int, dtype: Any, values: Array | None = None) -> Array:
    """Return an array of zeros or of values, aligned to a cache line.

    Access to lanes that cross two cache lines takes twice as long.
    """
    room = np.zeros(size * dtype.itemsize + LINE, np.uint8)
    begin = -room.ctypes.data % LINE
    array: Array = room[begin : begin + size * dtype.itemsize].view(dtype)
    if values is not None:
        array[:] = values.ravel()
    return array


def threads_for(n_tasks: int, work: int) -> int:
    """Return the number of threads to use for tasks that transform `work` samples in total."""
    return max(1, min(n_tasks, work // WORK_OF_A_THREAD, _n_cpus()))


@cache
def _n_cpus() -> int:
    return os.cpu_count() or 1  # takes 35 us: Linux reads a file


def parallel_for(part: Callable[[int, int, int], None], n_tasks: int, n_threads: int) -> None:
    """Run all tasks by calls of `part(thread, first, last)`, in at most `n_threads` and torch's threads.

    Each thread gets the same tasks in every call, so that their data is in its cache. A thread that has
    finished its own tasks takes tasks that others have not begun. The function returns when all tasks are
    done, even if it is interrupted, because they work on memory of the caller.
    """
    if n_threads == 1 or (n_threads := min(n_threads, torch.get_num_threads())) == 1:
        return part(0, 0, n_tasks)
    bounds = [n_tasks * share // (n_threads * SHARES) for share in range(n_threads * SHARES + 1)]
    pairs = list(pairwise(bounds))
    shares = [iter(pairs[thread * SHARES : (thread + 1) * SHARES]) for thread in range(n_threads)]

    def work(thread: int) -> None:
        for first, last in chain(*shares[thread:], *shares[:thread]):
            if first < last:
                part(thread, first, last)

    others: list[Future[None]] = []
    try:
        others.extend(_pool(n_threads - 1).submit(work, thread) for thread in range(1, n_threads))
        work(0)
    finally:
        deque(chain(*shares), maxlen=0)  # what an interruption has left
        _finish(others)
    for other in others:
        other.result()
    return None


def _finish(tasks: list[Future[None]]) -> None:
    """Wait until all tasks are done, even if that is interrupted several times."""
    try:
        for task in tasks:
            task.exception()
    finally:
        if not all(task.done() for task in tasks):
            _finish(tasks)


@lru_cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, "rtspecinv")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)
