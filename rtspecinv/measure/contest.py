"""Comparison of all methods on one recording: the methods, and their quality and speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

import rtspecinv
from rtspecinv.measure.quality import EDGE_FRAMES, inner_convergence

EVALUATE_EVERY = 10  # iterations between points of a curve
WARM_UP_FRAMES = 16


@dataclass
class Task:
    """Magnitudes `(n_freq, n_frames)` to invert, and a timer that starts when the task is made.

    curve: points of time in seconds, and spectral convergence in dB of the result if the method stopped then.
    """

    stft: rtspecinv.STFT
    magnitude: Tensor
    n_samples: int
    n_iter: int
    curve: list[tuple[float, float]] = field(default_factory=list)
    _begin: float = field(default_factory=time.perf_counter)
    _least: float = math.inf  # smallest spectral convergence so far; methods return that result

    def seconds(self) -> float:
        """Return the seconds since the task was made, without the time spent in `watch`."""
        return time.perf_counter() - self._begin

    def watch(self, now: Any) -> None:
        """Add a point to the curve; this is a callback for `rtspecinv.invert` and `lbfgs`."""
        seconds, overall = self.seconds(), float(now.convergence)
        if overall < self._least or not self.curve:
            self._least, level = overall, float(inner_convergence(now.actual, now.target))
        else:
            level = self.curve[-1][1]
        self.curve.append((seconds, level))
        self._begin += self.seconds() - seconds


@dataclass(frozen=True)
class Contestant:
    """A method of the comparison.

    name: name in commands and file names.
    label: name in tables.
    about: short description.
    live: whether the method uses only frames that a stream has received.
    run: function that inverts the magnitudes of a task and returns samples.
    """

    name: str
    label: str
    about: str
    live: bool
    run: Callable[[Task], Tensor] = field(repr=False)


def _stream(look_ahead: int, update: str = "raar") -> Callable[[Task], Tensor]:
    def run(task: Task) -> Tensor:
        inverter = rtspecinv.StreamingInverter(task.stft, update=update, look_ahead=look_ahead, n_iter=8)
        return inverter.run(task.magnitude, length=task.n_samples)

    return run


def _batch(update: str, init: str = "stream") -> Callable[[Task], Tensor]:
    def run(task: Task) -> Tensor:
        return rtspecinv.invert(
            task.magnitude,
            task.stft,
            update=update,
            init=init,
            n_iter=task.n_iter,
            length=task.n_samples,
            evaluate_every=EVALUATE_EVERY,
            callback=task.watch,
        )

    return run


def _peaks(task: Task) -> Tensor:
    return rtspecinv.invert(task.magnitude, task.stft, init="peaks", n_iter=0, length=task.n_samples)


def _lbfgs(task: Task) -> Tensor:
    return rtspecinv.lbfgs(
        task.magnitude,
        task.stft.magnitude,
        length=task.n_samples,
        n_iter=task.n_iter,
        evaluate_every=EVALUATE_EVERY,
        callback=task.watch,
    )


_FROM_STREAM = "from the stream's result"
CONTESTANTS = tuple(
    Contestant(*entry)
    for entry in (
        ("rtisi-la", "RTISI-LA", "the textbook: 3 frames of look-ahead", True, _stream(3, update="rtisi")),
        ("stream-0", "stream, 0 ahead", "rtspecinv, no look-ahead", True, _stream(0)),
        ("stream-1", "stream, 1 ahead", "rtspecinv, 1 frame of look-ahead", True, _stream(1)),
        ("stream-3", "stream, 3 ahead", "rtspecinv, 3 frames of look-ahead", True, _stream(3)),
        ("peaks", "phase_init", "phases from the spectral peaks, no iterations", False, _peaks),
        (
            "fgla-random",
            "fast Griffin-Lim, random",
            "from random phases, as most libraries do",
            False,
            _batch("fgla", "random"),
        ),
        ("fgla", "fast Griffin-Lim", _FROM_STREAM, False, _batch("fgla")),
        ("hybrid", "hybrid", f"difference map, then AGLA, {_FROM_STREAM}", False, _batch("hybrid")),
        ("agla", "AGLA", f"accelerated Griffin-Lim, {_FROM_STREAM}", False, _batch("agla")),
        ("admm", "ADMM", f"alternating directions, {_FROM_STREAM}", False, _batch("admm")),
        ("raar", "RAAR", f"relaxed reflections, {_FROM_STREAM}", False, _batch("raar")),
        ("dm", "difference map", _FROM_STREAM, False, _batch("dm")),
        ("lbfgs", "L-BFGS", f"descent on the samples, {_FROM_STREAM}", False, _lbfgs),
    )
)


@dataclass(frozen=True)
class Result:
    """Result of a method: samples `(n_samples,)`, measurements, NaN if not available, and its curve."""

    contestant: Contestant
    samples: Tensor = field(repr=False)
    convergence: float
    log_spectral_distance: float
    pesq: float
    estoi: float
    seconds: float
    real_time_factor: float
    curve: list[tuple[float, float]]


class Contest:
    """Runs methods on a recording `(n_samples,)`, whose length is a whole number of hops.

    missing: messages with the install command, for "pesq" and "estoi" if their packages are missing.
    """

    def __init__(self, samples: Tensor, sample_rate: int, stft: rtspecinv.STFT, n_iter: int) -> None:
        self.samples, self.sample_rate, self.stft, self.n_iter = samples, sample_rate, stft, n_iter
        self.magnitude = stft.magnitude(samples)
        self.missing: dict[str, str] = {}

    @property
    def n_seconds(self) -> float:
        """Length of the recording, seconds."""
        return len(self.samples) / self.sample_rate

    def run(self, contestant: Contestant) -> Result:
        """Invert the magnitudes by one method, after a warm-up that is not timed, and return the result."""
        n_warm = min(WARM_UP_FRAMES, self.magnitude.shape[-1])
        if (n_warm - 1) * self.stft.hop_length >= self.stft.n_needed:
            n_samples = (n_warm - 1) * self.stft.hop_length
            contestant.run(Task(self.stft, self.magnitude[:, :n_warm], n_samples, n_iter=2))
        task = Task(self.stft, self.magnitude, len(self.samples), self.n_iter)
        samples = contestant.run(task)
        seconds = task.seconds()
        return self._judge(contestant, samples, seconds, task.curve)

    def _judge(
        self, contestant: Contestant, samples: Tensor, seconds: float, curve: list[tuple[float, float]]
    ) -> Result:
        actual, inner = self.stft.magnitude(samples), slice(EDGE_FRAMES, -EDGE_FRAMES)
        level = float(inner_convergence(actual, self.magnitude))
        distance = rtspecinv.metrics.log_spectral_distance(actual[:, inner], self.magnitude[:, inner])
        return Result(
            contestant=contestant,
            samples=samples,
            convergence=level,
            log_spectral_distance=float(distance),
            pesq=self._speech("pesq", rtspecinv.metrics.pesq, samples),
            estoi=self._speech("estoi", rtspecinv.metrics.estoi, samples),
            seconds=seconds,
            real_time_factor=seconds / self.n_seconds,
            curve=curve or [(seconds, level)],
        )

    def _speech(self, name: str, measure: Callable[[Tensor, Tensor, int], float], samples: Tensor) -> float:
        try:
            return measure(samples, self.samples, self.sample_rate)
        except ImportError as error:
            self.missing[name] = str(error)
            return math.nan
