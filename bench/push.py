"""Measures the time of a push, by engine, compared with a C program; see bench/README.md.

python bench/push.py                     prints every table
python bench/push.py --only push-cost    prints one of them
python bench/push.py --write             also writes them into bench/README.md, docs/push.png, bench/push.json
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import cache
from typing import Any

import floor
import numpy as np
import protocol
import scale
import steady
from page import ROOT, named, run
from protocol import DENSE, LONG, SHORT, STANDARD, Configuration
from scale import runners
from tables import Bench, db, table
from torch import Tensor

from rtspecinv.common.threads import threads
from rtspecinv.common.whole_files import write_json, write_whole
from rtspecinv.measure import c_reference, timing
from rtspecinv.measure.machine import facts
from rtspecinv.measure.table import COLUMNS, Result, engine_label, measure, point
from rtspecinv.measure.timing import Setting

C_REFERENCE = ROOT.parent / "shared" / "reference" / "rtisi_la_fftw.c"
PLOT, NUMBERS = ROOT / "docs" / "push.png", ROOT / "bench" / "push.json"
N_PUSHES = 2000
USUAL = STANDARD.setting(3, 8)
PLAN = [
    *((STANDARD.setting(look_ahead, n_iter), 1) for look_ahead in (3, 1, 0) for n_iter in (8, 2, 32)),
    *((configuration.setting(3, 8), 1) for configuration in (LONG, SHORT, DENSE)),
    *((USUAL, streams) for streams in (4, 16, 64)),
]


def push_cost(bench: Bench) -> str:
    """A push by engine.

    Times are in µs: minimum ("least"), median (p50), 95th and 99th percentile and maximum of 2,000 pushes,
    in rounds of 500 in which C and the engines take turns. "C" is a plain RTISI-LA loop with FFTW for one
    stream, the fastest of 20 runs of 250 pushes; "least / C" is per stream. The default rule, unlike C,
    also iterates revised frames and evaluates its frames once more before it commits one. The real-time
    factor is that of all streams together, on one thread; SC is defined as in table "stream quality".
    Targets for `numba` with look_ahead 3 and 8 iterations are 1.4 times the time of C at 1024/256, 1.5
    times at 2048/512 and 512/128, a speed of 4.5 times that of `eager`, and p99 / p50 1.5.
    """
    records, rows = measured(bench).records, []
    eager = {(r.setting, r.streams): r.least_us for r in records if (r.engine, r.device) == ("eager", "cpu")}
    for record in records:
        ratios = (eager[record.setting, record.streams] / record.least_us, record.p99_us / record.p50_us)
        rows.append([*(column.text(record) for column in COLUMNS), *(f"{ratio:.2f}" for ratio in ratios)])
    header = [*(column.title for column in COLUMNS), "eager's / this", "p99 / p50"]
    plot = f"![Cost against streams, quality against cost](../{PLOT.relative_to(ROOT)})"
    return f"{table(header, rows)}\n\n{plot}"


@cache
def measured(bench: Bench) -> Result:
    """Return the measurements of table "push cost" in the format of `rtspecinv bench --json`."""
    names = bench.clips(STANDARD).names
    result = Result(f"{len(names)} clips: {', '.join(names)}", facts())

    def magnitude(setting: Setting) -> Tensor:
        return bench.magnitude(Configuration(setting.sample_rate, setting.n_fft, setting.hop_length))

    with ExitStack() as stack:
        try:
            program = stack.enter_context(c_reference.built(C_REFERENCE))
        except OSError as error:
            print(f"{error}. The columns of C stay empty.\n")
            program = None
        for _ in measure(PLAN, [], runners(), magnitude, result, n_pushes=N_PUSHES, program=program):
            pass
    return result


def write_files(name: str, bench: Bench) -> None:
    """Write the numbers and the plot of table "push cost" to bench/push.json and docs/push.png."""
    if name == "push-cost":
        result = measured(bench)
        write_json(NUMBERS, result.numbers())
        from rtspecinv.measure.plots import push_plot

        sizes = (STANDARD.n_fft, STANDARD.hop_length)
        shown = [point(record) for record in result.records if (record.n_fft, record.hop_length) == sizes]
        content = push_plot(shown)
        write_whole(PLOT, lambda file: file.write(content))


def push_quality(bench: Bench) -> str:
    """The best quality for the least time, one stream, engine `numba`, 1024/256.

    Each setting is measured on the clips of table "stream quality"; settings that another one beats in both
    time and SC are left out. The target is -30 dB in 80 µs.
    """
    clips, points = bench.clips(STANDARD), []
    magnitude = STANDARD.magnitude(clips.samples)
    for look_ahead in range(4):
        for revise in range(4):
            for n_iter in (1, 2, 3, 4, 6, 8, 12, 16, 32):
                options: dict[str, Any] = {"look_ahead": look_ahead, "revise": revise, "n_iter": n_iter}
                quality = db(
                    protocol.convergence(STANDARD, protocol.invert(STANDARD, magnitude, **options), magnitude)
                )
                cost, _ = protocol.push_seconds(STANDARD, magnitude[0], engine="numba", **options)
                points.append((cost, float(quality), options))
    points.sort(key=lambda point: point[0])
    rows, so_far = [], 0.0
    for seconds, level, options in points:
        if level < so_far:
            so_far = level
            rows.append([*map(str, options.values()), f"{1e6 * seconds:.0f}", f"{level:.2f}"])
    return table(["look_ahead", "revise", "n_iter", "µs a push (p50)", "SC dB"], rows)


def push_streams(bench: Bench) -> str:
    """Many streams in one object, engine `numba`, 1024/256, look_ahead 3, 8 iterations.

    Times are medians of 300 pushes. "Throughput" is relative to one stream on one thread; "real-time
    streams" is the number of streams that run in real time on this machine, computed from the median. The
    target is a throughput of 1.85 for 64 streams on 2 threads.
    """
    rows, one = [], 0.0
    magnitude = bench.magnitude(STANDARD)[0]
    for n_threads in (1, 2):
        for n_streams in (1, 8, 64, 256):
            with threads(n_threads):
                inverter = STANDARD.inverter(engine="numba", look_ahead=3, n_iter=8, batch_shape=(n_streams,))
                seconds = float(np.median(timing.push_seconds(inverter, magnitude, 300)))
            one = one or seconds
            keeps_up = int(n_streams * STANDARD.hop_length / STANDARD.sample_rate / seconds)
            each = (
                f"{1e6 * seconds:.0f}",
                f"{1e6 * seconds / n_streams:.1f}",
                f"{n_streams * one / seconds:.2f}",
            )
            rows.append([str(n_streams), str(n_threads), *each, str(keeps_up)])
    return table(["streams", "threads", "µs a push", "µs a stream", "throughput", "real-time streams"], rows)


def push_capacity(bench: Bench) -> str:
    """Streams that keep up.

    The table lists the largest number of streams in one object for which 99 % of 2,000 pushes take less
    than the duration of a hop, on one core or on the GPU. The search stops at a precision of 6 %.
    """
    rows = []
    for setting in (USUAL, STANDARD.setting(0, 8)):
        for runner in runners():
            limit = timing.most_streams(runner, setting, bench.magnitude(STANDARD)[0], N_PUSHES)
            p99 = "" if limit.p99_us is None else f"{limit.p99_us / 1000:.2f}"
            name, hop = (
                f"{STANDARD.name}, {setting.look_ahead}, {setting.n_iter}",
                f"{1000 * setting.hop_seconds:.2f}",
            )
            rows.append([name, engine_label(limit), str(limit.streams), p99, hop])
    return table(["setting", "engine", "streams", "p99, ms", "a hop, ms"], rows)


SECTIONS = named(
    push_cost,
    push_quality,
    push_streams,
    push_capacity,
    scale.push_growth,
    floor.push_floor,
    steady.push_steadiness,
)

if __name__ == "__main__":
    sys.exit(run(__doc__, SECTIONS, ",".join(SECTIONS), "push", after=write_files))
