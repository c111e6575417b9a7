"""An inverter and the sink it sounds in: what the offline loop and the live player share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rtspecinv.audio.sinks import Sink


class Inverter(Protocol):
    """What `play` needs of a streaming inverter."""

    @property
    def latency(self) -> int:
        """Samples to drop at the beginning."""

    def push(self, magnitude: Any, /) -> Any:
        """`(*batch, n_freq)` to `(*batch, hop_length)`."""

    def flush(self) -> Any:
        """Return the samples still owed, `(*batch, n_samples)`."""

    def reset(self) -> None:
        """Forget everything pushed."""


@dataclass(frozen=True)
class Progress:
    """How far playing has come."""

    n_frames: int = 0  # pushed
    n_samples: int = 0  # written, per channel
    work_seconds: float = 0.0  # spent in the inverter


class Stream:
    """Pushes frames through `inverter`, without the latency at the beginning, and counts.

    `clock` tells seconds, for the time that the inverter takes.
    """

    def __init__(
        self, inverter: Inverter, sink: Sink, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.inverter, self.sink = inverter, sink
        self.n_frames = self.n_samples = 0
        self.hop_length = 0  # samples of a push, known after the first
        self.work_seconds = 0.0
        self._clock = clock
        self.restart()

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        return Progress(self.n_frames, self.n_samples, self.work_seconds)

    def restart(self) -> None:
        """Begin anew, as if nothing had been pushed."""
        self.inverter.reset()
        self._to_drop = self.inverter.latency

    def push(self, frame: Any) -> Any:
        """Samples `(*batch, n)` that `frame` completes, none before the latency has passed."""
        samples = self._timed(lambda: self.inverter.push(frame))
        self.hop_length = samples.shape[-1]
        self.n_frames += 1
        return self._trimmed(samples)

    def flush(self) -> Any:
        """Samples still owed; what is pushed next begins anew."""
        samples = self._trimmed(self._timed(self.inverter.flush))
        self._to_drop = self.inverter.latency
        return samples

    def write(self, samples: Any) -> None:
        """Give samples to the sink."""
        if samples.shape[-1]:
            self.sink.write(samples)
            self.n_samples += samples.shape[-1]

    def _timed(self, step: Callable[[], Any]) -> Any:
        begin = self._clock()
        samples = step()
        self.work_seconds += self._clock() - begin
        return samples

    def _trimmed(self, samples: Any) -> Any:
        n_dropped = min(self._to_drop, samples.shape[-1])
        self._to_drop -= n_dropped
        return samples[..., n_dropped:]
