"""How steady a push is, what a second thread gains, and the machine's part in both; for bench/push.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from floor import compiled_ffts, ffts_of_numba
from protocol import A
from tables import Bench, table

from rtspecinv.threads import threads

N_PUSHES, N_ROUNDS, N_STREAMS, SECONDS_MANY = 10_000, 20, 64, 6.0

Job = Callable[[], Any]


def section_ab(bench: Bench) -> str:
    """How steady a push is and what a second thread gains, engine `numba`, A, look_ahead 3, 8 iterations.

    "Transforms alone": as many transforms as a push has, by the same compiled code, in turn with the pushes;
    they call nothing, allocate nothing and share nothing, so what is left of the unsteadiness is the
    machine's. 10,000 pushes of one stream in rounds of 500, p99 / p50 of all and of the calmest round.
    Throughput: of 64 streams on two threads over that of one stream on one, by the medians. Targets: p99 /
    p50 1.5, throughput 1.85.
    """
    magnitude = bench.magnitude(A)[0][:, 40]
    steady = in_turn(*jobs(magnitude, 1), n=N_PUSHES)
    with threads(2):
        many = in_turn(*jobs(magnitude, N_STREAMS), n=200)
    rows = []
    for name, times, more in zip(("push", "transforms alone"), steady, many, strict=True):
        p50, p99 = np.percentile(1e6 * times, (50, 99))
        rounds = times.reshape(N_ROUNDS, -1)
        calmest = float((np.percentile(rounds, 99, -1) / np.percentile(rounds, 50, -1)).min())
        gain = N_STREAMS * float(np.median(times)) / float(np.median(more))
        rows.append([name, f"{p50:.0f}", f"{p99:.0f}", f"{p99 / p50:.2f}", f"{calmest:.2f}", f"{gain:.2f}"])
    header = [
        "what",
        "p50, µs",
        "p99, µs",
        "p99 / p50",
        "calmest round",
        "throughput, 64 streams on 2 threads",
    ]
    return table(header, rows)


def jobs(magnitude: Any, streams: int) -> tuple[Job, Job]:
    """A push of so many streams, and the transforms of one."""
    inverter = A.inverter(engine="numba", look_ahead=3, n_iter=8, batch_shape=(streams,))
    frame = magnitude.expand(streams, -1).contiguous()
    engine: Any = inverter._engine
    return lambda: inverter.push(frame), compiled_ffts(engine, *ffts_of_numba(engine.buffer, 8))


def in_turn(*jobs: Job, n: int) -> list[Any]:
    """Seconds of every job, `(n,)` each, in rounds of which every job has one."""
    times: list[list[float]] = [[] for _ in jobs]
    for _ in range(N_ROUNDS):
        for job, known in zip(jobs, times, strict=True):
            for i in range(-20, n // N_ROUNDS):
                begin = time.perf_counter()
                job()
                if i >= 0:
                    known.append(time.perf_counter() - begin)
    return [np.array(known) for known in times]
