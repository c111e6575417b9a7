"""Fake sound card, inverter and source of frames on a fake clock, for tests of the player."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Callable

import numpy as np
import torch

from rtspecinv.audio import ArraySink
from rtspecinv.live.inbox import Inbox
from rtspecinv.live.iterations import IterationControl
from rtspecinv.live.pump import Pump

HOP, RATE = 10, 1000  # samples and Hz; a hop lasts 10 ms
PATIENT = 20.0  # time limit of a test for events that take no time, seconds


class Echo:
    """Fake inverter: the first values of a frame are its samples, delayed by `latency` samples.

    A push takes `n_iter * cost` seconds of `clock`, if there is a clock.
    """

    def __init__(self, latency: int = 0, batch: tuple[int, ...] = (), n_iter: int = 8) -> None:
        self.latency, self.batch, self.n_iter = latency, batch, n_iter
        self.clock: Clock | None = None
        self.cost = 0.0
        self.reset()

    def reset(self) -> None:
        self.late = np.zeros((*self.batch, self.latency), np.float32)

    def check(self, magnitude) -> None:
        if not isinstance(magnitude, (np.ndarray, torch.Tensor)):
            raise TypeError(f"Parameter magnitude is a {type(magnitude).__name__}")
        if magnitude.shape != (*self.batch, HOP):
            raise ValueError(f"Parameter magnitude has shape {tuple(magnitude.shape)}")

    def push(self, frame):
        if self.clock is not None:
            self.clock.go(self.n_iter * self.cost)
        joined = np.concatenate([self.late, frame], -1)
        self.late = joined[..., HOP:]
        return joined[..., :HOP]

    def flush(self, n_samples: int | None = None):
        late = self.late[..., :n_samples]
        self.reset()
        return late


class Clock:
    """Fake clock that `go` advances; it then calls its listeners with the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.listeners: list[Callable[[float], object]] = []

    def go(self, seconds: float) -> None:
        self.now += seconds
        for listener in self.listeners:
            listener(self.now)

    def __call__(self) -> float:
        return self.now


class Card(ArraySink):
    """Fake sound card: it takes `block` samples at a time, after `prefill` samples were written."""

    latency_seconds = 0.02

    def __init__(self, clock: Clock, prefill: int = 0, block: int = 1, rate: int = RATE) -> None:
        super().__init__()
        self.sample_rate, self.prefill, self.block = rate, prefill, block
        self.queued = self.underflows = self.cleared = 0
        self.began: float | None = None
        self.n_asked = 0  # number of blocks that the card has requested
        self.clock = clock
        clock.listeners.append(self.play_until)

    def write(self, samples) -> None:
        super().write(samples)
        self.queued += np.shape(samples)[-1]
        if self.queued >= self.prefill:
            self.start()

    def start(self) -> None:
        if self.began is None:
            self.began, self.n_asked = self.clock.now, 0

    def play_until(self, now: float) -> None:
        if self.began is not None:
            while (self.n_asked + 1) * self.block <= (now - self.began) * self.sample_rate + 1e-6:
                self.n_asked += 1
                self.underflows += self.queued < self.block
                self.queued = max(0, self.queued - self.block)

    def drain(self) -> None:
        self.queued, self.began = 0, None

    def clear(self) -> None:
        self.cleared += 1
        self.queued, self.began = 0, None


class Stage:
    """A pump without a thread: frames arrive at the times `arrivals`, and waiting advances the clock.

    The frames are `frames`, default: arrays filled with their numbers, from 1 on.
    """

    def __init__(self, arrivals: list[float], *, full: str = "block", late: str = "hold", **options) -> None:
        self.clock = Clock()
        rate = options.pop("rate", RATE)
        self.card = Card(self.clock, options.pop("prefill", 0), options.pop("block", 1), rate)
        self.inverter = options.pop("inverter", None) or Echo(options.pop("latency", 0))
        self.frames = options.pop("frames", None)
        if isinstance(self.inverter, Echo):
            self.inverter.clock, self.inverter.cost = self.clock, options.pop("cost", 0.0)
        self.inbox = Inbox(options.pop("max_frames", 10**6), full)
        self.arrivals = sorted(arrivals)
        self.n_arrived = 0
        self.clock.listeners.append(self.deliver)
        self.seconds = {"queue_seconds": 0.05, "reserve_seconds": 0.03, **options}
        self.pump = Pump(
            self.inverter,
            self.card,
            self.inbox,
            IterationControl(self.inverter.n_iter, 1),
            late=late,
            sample_rate=rate,
            wait=self.wait,
            clock=self.clock,
            **self.seconds,
        )

    def deliver(self, now: float) -> None:
        while self.n_arrived < len(self.arrivals) and self.arrivals[self.n_arrived] <= now:
            self.n_arrived += 1
            number = np.full(HOP, float(self.n_arrived), np.float32)
            self.inbox.offer(number if self.frames is None else self.frames[self.n_arrived - 1], lambda: None)

    def wait(self, seconds: float | None) -> None:
        """Advance the clock by `seconds` or until the next frame, which rings a bell."""
        following = self.arrivals[self.n_arrived : self.n_arrived + 1]
        arrival = following[0] - self.clock.now if following else math.inf
        step = min(arrival, math.inf if seconds is None else seconds)
        self.clock.go(max(step, 0.0) if step < math.inf else 0.1)

    def run(self, seconds: float) -> None:
        self.deliver(self.clock.now)
        while self.clock.now < seconds:
            self.pump.step()

    @property
    def heard(self) -> list[float]:
        """Numbers of the frames that were played, one for each hop."""
        return self.card.samples[::HOP].tolist()


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rtspecinv player"]


def join_workers() -> None:
    gc.collect()  # ends players that were not closed because of Ctrl-C
    for worker in workers():
        worker.join(PATIENT)
    assert not workers()
