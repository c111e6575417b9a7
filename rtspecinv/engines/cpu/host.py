"""What compiled code needs from Python: the constants of a rule, memory, and threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch

from rtspecinv.engines.cpu import fft
from rtspecinv.engines.cpu.memory import ACCELERATED, DIFFERENCE_MAP, LINEAR
from rtspecinv.engines.cpu.memory import ADMM as ADMM_RULE
from rtspecinv.projections import signs
from rtspecinv.stft import STFT
from rtspecinv.updates import (
    ADMM,
    RAAR,
    RTISI,
    AcceleratedGriffinLim,
    DifferenceMap,
    GriffinLim,
    Update,
)

Array = np.ndarray[Any, Any]

# Samples through a transform and back that are worth a thread: about 0.3 ms; to wake it takes 0.1.
WORK_OF_A_THREAD = 200_000

SHARES = 4  # parts of a thread's tasks, of which others may take some

LINE = 64  # bytes


def has_rule(update: Update) -> bool:
    """Whether there is compiled code for this rule."""
    return type(update) in (GriffinLim, RTISI, RAAR, DifferenceMap, ADMM, AcceleratedGriffinLim)


def at_first(update: Update) -> Update:
    """Rule that does what the first step of a rule does to frames without a past: it has no momentum."""
    if isinstance(update, AcceleratedGriffinLim):
        return replace(update, alpha=0.0, beta=0.0, gamma=1.0)
    return replace(update, momentum=0.0) if isinstance(update, (GriffinLim, RAAR)) else update


def compiled_rule(update: Update, n_open: int) -> tuple[int, Array]:
    """Which compiled rule it is, and its constants, `(n_open, 6)`."""
    rule = LINEAR
    if isinstance(update, GriffinLim):
        constants = [1.0, 0.0, 1 + update.momentum, 0.0, 0.0, -update.momentum]
    elif isinstance(update, RAAR):
        beta = update.betas(torch.zeros(n_open, 1, 1, dtype=torch.float64, device="cpu")).flatten().numpy()
        momentum = update.momentum
        columns = np.broadcast_arrays(2.0, -1.0, beta + momentum, beta, 1 - 2 * beta, -momentum)
        return rule, np.stack(columns, -1)
    elif isinstance(update, DifferenceMap) and update.beta == 1:
        constants = [2.0, -1.0, 1.0, 1.0, -1.0, 0.0]
    elif isinstance(update, DifferenceMap):
        rule, constants = DIFFERENCE_MAP, [1 / update.beta, 0.0, update.beta, 0.0, 0.0, 0.0]
    elif isinstance(update, ADMM):
        rule, constants = ADMM_RULE, [update.rho / (1 + update.rho), 1 / (1 + update.rho), 0.0, 0.0, 0.0, 0.0]
    elif isinstance(update, AcceleratedGriffinLim):
        constants = [update.alpha, update.beta, update.gamma, 1 - update.gamma, 0.0, 0.0]
        rule = ACCELERATED
    else:
        raise ValueError(f"Parameter {update=} is not compiled: use engine='eager'")
    return rule, np.tile(constants, (n_open, 1))


def scales(stft: STFT) -> tuple[float, float]:
    """Factors of windows before a transform and after an inverse transform."""
    return stft.scale * (0.5 if fft.suits(stft.n_fft) else 1.0), 1 / (stft.n_fft * stft.scale)


def padded_signs(n_half: int) -> Array:
    """The directions of 0, `signs`, `(padded,)`; in the padding, where magnitudes are 0, any is right."""
    values = signs(n_half, torch.float64, torch.device("cpu")).numpy()
    return np.pad(values, (0, fft.pad(n_half) - n_half), constant_values=1.0)


def aligned(size: int, dtype: Any, values: Array | None = None) -> Array:
    """Zeros, or values, that begin where a cache line does: lanes that cross two lines take twice as long."""
    room = np.zeros(size * dtype.itemsize + LINE, np.uint8)
    begin = -room.ctypes.data % LINE
    array: Array = room[begin : begin + size * dtype.itemsize].view(dtype)
    if values is not None:
        array[:] = values.ravel()
    return array


def threads_for(n_tasks: int, work: int) -> int:
    """Threads that tasks are worth, `work` being the samples that all of them transform there and back."""
    return max(1, min(n_tasks, work // WORK_OF_A_THREAD, os.cpu_count() or 1))


def parallel_for(part: Callable[[int, int, int], None], n_tasks: int, n_threads: int) -> None:
    """Call `part(thread, first, last)` in at most this many threads, and at most torch's, for all tasks.

    A thread that has done its own tasks, which are the same every time and so in its cache, takes those that
    others have not begun. It comes back when all are done, even if it is interrupted: they work on memory
    that the caller owns.
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
    """Wait for all, however often that is interrupted."""
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
