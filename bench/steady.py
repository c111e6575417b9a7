"""Variation of the time of a push, and the gain of a second thread; a table of bench/push.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from floor import compiled_ffts, ffts_of_numba
from protocol import STANDARD
from tables import Bench, table

from rtspecinv.common.threads import threads

N_PUSHES, N_PUSHES_OF_MANY, N_ROUNDS, N_STREAMS = 10_000, 400, 20, 64

Job = Callable[[], Any]


def push_steadiness(bench: Bench) -> str:
    """The variation of push times and the gain of a second thread, engine `numba`, 1024/256, 3, 8.

    "Transforms alone" runs the transforms of a push in the same compiled code, in turn with the pushes;
    they call no other code, allocate no memory and share no data, so their variation is that of the
    machine. The table has p99 / p50 of 10,000 pushes of one stream and of the round of 500 with the
    smallest ratio. "Throughput" is that of 64 streams on two threads divided by that of one stream on one
    thread, measured in turn: the median over the rounds of the ratio of medians. Targets are p99 / p50 1.5
    and throughput 1.85.
    """
    magnitude = bench.magnitude(STANDARD)[0][:, 40]
    with threads(2):
        one, many = jobs(magnitude, 1), jobs(magnitude, N_STREAMS)
        times = in_turn([*((job, N_PUSHES) for job in one), *((job, N_PUSHES_OF_MANY) for job in many)])
    rows = []
    for name, single, together in zip(("push", "transforms alone"), times[:2], times[2:], strict=True):
        p50, p99 = np.percentile(1e6 * single, (50, 99))
        median = np.median(single, -1)
        calmest = float((np.percentile(single, 99, -1) / median).min())
        gain = float(np.median(N_STREAMS * median / np.median(together, -1)))
        rows.append([name, f"{p50:.0f}", f"{p99:.0f}", f"{p99 / p50:.2f}", f"{calmest:.2f}", f"{gain:.2f}"])
    header = [
        "measurement",
        "p50, µs",
        "p99, µs",
        "p99 / p50",
        "calmest round",
        "throughput, 64 streams on 2 threads",
    ]
    return table(header, rows)


def jobs(magnitude: Any, streams: int) -> tuple[Job, Job]:
    """Return two jobs for this number of streams: a push, and the transforms of a push alone."""
    inverter = STANDARD.inverter(engine="numba", look_ahead=3, n_iter=8, batch_shape=(streams,))
    frame = magnitude.expand(streams, -1).contiguous()
    engine: Any = inverter._engine
    return lambda: inverter.push(frame), compiled_ffts(engine, *ffts_of_numba(engine.buffer, 8))


def in_turn(jobs: Sequence[tuple[Job, int]]) -> list[Any]:
    """Return the times of every job, `(N_ROUNDS, n / N_ROUNDS)`, seconds; jobs take turns in each round."""
    times = [np.empty((N_ROUNDS, n // N_ROUNDS)) for _, n in jobs]
    for turn in range(N_ROUNDS):
        for (job, _), seconds in zip(jobs, times, strict=True):
            for i in range(-20, seconds.shape[1]):
                begin = time.perf_counter()
                job()
                if i >= 0:
                    seconds[turn, i] = time.perf_counter() - begin
    return times
