"""Growth of the time of a push with its parameters, and comparison of engines; a table of bench/push.py."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from protocol import STANDARD, Configuration
from tables import Bench, table
from torch import Tensor

from rtspecinv.common.threads import threads
from rtspecinv.measure import timing
from rtspecinv.measure.timing import Runner, Setting

SECONDS, LEAST_PUSHES, MOST_PUSHES, WARM_UP = 0.4, 9, 1000, 3  # number of timed pushes per point


@dataclass(frozen=True)
class Sweep:
    """A parameter that grows: by its value, the setting and the number of streams."""

    name: str
    points: Mapping[int, tuple[Setting, int]]
    threads: int = 1
    seconds: dict[Runner, list[float]] = field(default_factory=dict)

    def measure(self, bench: Bench) -> None:
        """Return the median time of a push in seconds, for every engine and point."""
        with threads(self.threads):
            for (setting, streams), runner in itertools.product(self.points.values(), runners()):
                sizes = (setting.sample_rate, setting.n_fft, setting.hop_length)
                magnitude = bench.magnitude(Configuration(*sizes))[0]
                self.seconds.setdefault(runner, []).append(median(runner, setting, streams, magnitude))


def median(runner: Runner, setting: Setting, streams: int, magnitude: Tensor) -> float:
    inverter = runner.inverter(setting, streams)

    def enough(seconds: timing.Seconds) -> bool:
        return len(seconds) >= LEAST_PUSHES and float(seconds.sum()) > SECONDS

    times = timing.push_seconds(inverter, magnitude, MOST_PUSHES, warm_up=WARM_UP, enough=enough)
    return float(np.median(times))


@cache
def runners() -> list[Runner]:
    """Return all engines that this machine can run."""
    return timing.runners(["all"], timing.devices(), STANDARD.setting(3, 8))


def sweeps() -> list[Sweep]:
    usual, rate = STANDARD.setting(3, 8), STANDARD.sample_rate
    many = {n: (usual, n) for n in (1, 4, 16, 64, 256, 1024)}
    found = [
        Sweep("open frames", {n + 2: (STANDARD.setting(n, 8), 1) for n in (0, 1, 3, 7, 15)}),
        Sweep("n_iter", {n: (STANDARD.setting(3, n), 1) for n in (1, 2, 4, 8, 16, 32)}),
        Sweep("n_fft", {n: (Setting(rate, n, n // 4, 3, 8), 1) for n in (256, 512, 1024, 2048, 4096)}),
        Sweep("overlap", {n: (Setting(rate, 1024, 1024 // n, 3, 8), 1) for n in (4, 8, 16)}),
        Sweep("overlap, all ahead", {n: (Setting(rate, 1024, 1024 // n, n - 1, 8), 1) for n in (4, 8, 16)}),
        Sweep("streams", many),
    ]
    cores = os.cpu_count() or 1
    return [*found, Sweep(f"streams, {cores} threads", many, cores)] if cores > 1 else found


def push_growth(bench: Bench) -> str:
    """How the cost of a push grows.

    One parameter grows at a time, starting from 1024/256, look_ahead 3, 8 iterations, one stream and one
    thread. "Exponent" is the slope of the logarithm of the median time against that of the parameter, by
    least squares, and its standard error; 1 means that time is proportional to the parameter. There are
    look_ahead + 1 + revise open frames, with look_ahead 0, 1, 3, 7, 15. The overlap is n_fft / hop_length
    for n_fft 1024, with look_ahead 3 or "all ahead", which is the default, overlap - 1. The exponent is
    that of one push; the number of pushes per second grows with the overlap, so add 1 for a second of
    sound. The line below the table compares the engines in all rows.
    """
    done, rows = sweeps(), []
    for sweep in done:
        sweep.measure(bench)
        for runner, seconds in sweep.seconds.items():
            slope, error = exponent(list(sweep.points), seconds)
            values = " / ".join(map(str, sweep.points))
            costs = " / ".join(f"{1e6 * s:.0f}" for s in seconds)
            rows.append([sweep.name, label(runner), values, costs, f"{slope:.2f} ± {error:.2f}"])
    found = table(["parameter", "engine", "from, to", "µs a push (p50)", "exponent"], rows)
    return f"{found}\n\n{crossovers(done)}"


def exponent(values: list[int], seconds: list[float]) -> tuple[float, float]:
    """Return the slope of the logarithm of time against that of the parameter, and its standard error."""
    x, y = np.log(values), np.log(seconds)
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    rest = y - slope * x
    return slope, math.sqrt(float(rest @ rest) / max(1, len(values) - 2) / float(x @ x))


def crossovers(done: list[Sweep]) -> str:
    """Return lines that state, for each pair of engines, which is faster and at which values that changes."""
    lines = []
    for first, second in itertools.combinations(runners(), 2):
        ratios = [
            (slower / faster, f"{sweep.name} = {value}")
            for sweep in done
            for value, slower, faster in zip(
                sweep.points, sweep.seconds[first], sweep.seconds[second], strict=True
            )
        ]
        names = (label(first), label(second))
        usual = ratios[2][0]  # from the first sweep: the setting that all sweeps begin with
        if usual < 1:
            ratios, names = [(1 / ratio, where) for ratio, where in ratios], names[::-1]
        low, high = min(ratios), max(ratios)
        behind = [where for ratio, where in ratios if ratio <= 1]
        verdict = f"falls behind at {'; '.join(behind)}" if behind else "is faster in all rows"
        lines.append(
            f"- `{names[1]}`, compared with `{names[0]}`, {verdict}. It is {low[0]:.1f} times ({low[1]}) to "
            f"{high[0]:.1f} times ({high[1]}) faster."
        )
    return "\n".join(lines) or "There is one engine here: nothing to cross over."


def label(runner: Runner) -> str:
    return runner.engine if runner.device == "cpu" else f"{runner.engine}, {runner.device}"
