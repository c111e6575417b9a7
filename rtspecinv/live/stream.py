"""An inverter and its sink, as used by the offline loop and by the live player."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rtspecinv.audio.sinks import Sink
from rtspecinv.common.checks import LONGEST_SOUND, count
from rtspecinv.levels import warn_of_peak

# Number of samples, or a function that returns it (None while unknown); default: all that the frames cover.
Length = int | Callable[[], int | None] | None


def checked_length(length: Length) -> Length:
    """Return a length if it is an integer above 0, a function, or None; raises `ValueError` otherwise."""
    return length if length is None or callable(length) else count(1, LONGEST_SOUND, length=length)


class Inverter(Protocol):
    """Methods of a streaming inverter that `play` uses."""

    @property
    def latency(self) -> int:
        """Number of samples that the caller drops at the beginning."""

    def push(self, magnitude: Any, /) -> Any:
        """Push a frame `(*batch, n_freq)` and return a hop `(*batch, hop_length)`."""

    def flush(self, n_samples: int | None = None, /) -> Any:
        """Return the remaining samples `(*batch, n_samples)`; default: all that the frames cover."""

    def reset(self) -> None:
        """Return the inverter to its initial state."""


@dataclass(frozen=True)
class Progress:
    """State of the playback: numbers of frames and samples, and the time of the inverter."""

    n_frames: int = 0  # number of frames pushed
    n_samples: int = 0  # samples written, per channel
    work_seconds: float = 0.0  # time spent in the inverter


class Stream:
    """Pushes frames through an inverter, drops the latency at the beginning, and writes to a sink.

    Args:
        inverter: streaming inverter.
        sink: output of the samples.
        clock: function that returns the time in seconds, for the work of the inverter, default:
            `perf_counter`.
        length: number of samples up to a flush, or a function that returns it, default: what the frames
            cover.

    Attributes:
        is_asked: whether a frame since the last restart was not silent.
        is_heard: whether a sample written was not 0.
    """

    def __init__(
        self,
        inverter: Inverter,
        sink: Sink,
        clock: Callable[[], float] = time.perf_counter,
        length: Length = None,
    ) -> None:
        self.inverter, self.sink, self.length = inverter, sink, length
        self.n_frames = self.n_samples = 0
        self.hop_length = 0  # number of samples that a push returns; 0 before the first push
        self.work_seconds = 0.0
        self.is_asked = self.is_heard = False
        self._clock = clock
        self.restart()

    @property
    def progress(self) -> Progress:
        """State of the playback at this moment."""
        return Progress(self.n_frames, self.n_samples, self.work_seconds)

    def restart(self) -> None:
        """Reset the inverter, so that the next frame begins a new sound; `progress` is not reset."""
        self.inverter.reset()
        self.is_asked = False  # set by the first frame that is not silent
        self._begin()

    def _begin(self) -> None:
        self._to_drop = self.inverter.latency
        self._n_given = 0  # number of samples of this sound so far, per channel

    def push(self, frame: Any) -> Any:
        """Push a frame and return the samples `(*batch, n)` it completes; `n` is 0 during the latency."""
        samples = self._timed(lambda: self.inverter.push(frame))
        self.hop_length = samples.shape[-1]
        self.n_frames += 1
        self.is_asked = self.is_asked or not self._is_silence(frame)
        return self._trimmed(samples)

    def _is_silence(self, frame: Any) -> bool:
        """Return whether a frame stands for silence; a mel inverter compares it with its floor."""
        if hasattr(self.inverter, "is_silence"):
            return bool(self.inverter.is_silence(frame))
        return not bool((frame != 0).any())

    def flush(self) -> Any:
        """Return the remaining samples; the next frame pushed begins a new sound."""
        missing = self._missing
        wanted = () if missing is None else (self._to_drop + missing,)
        samples = self._trimmed(self._timed(lambda: self.inverter.flush(*wanted)))
        self._begin()
        return samples

    @property
    def _missing(self) -> int | None:
        """Number of samples still missing from the length; None if the length is unknown."""
        length = self.length() if callable(self.length) else self.length
        return None if length is None else max(0, length - self._n_given)

    def write(self, samples: Any) -> None:
        """Write samples to the sink and count them."""
        if samples.shape[-1]:
            self.sink.write(samples)
            self.is_heard = self.is_heard or bool((samples != 0).any())
            self.n_samples += samples.shape[-1]

    def warn_of_silence(self) -> None:
        """Warn if every sample written was 0 although not all frames were silent."""
        if self.n_samples and self.is_asked and not self.is_heard:
            warn_of_peak(0.0)

    def _timed(self, step: Callable[[], Any]) -> Any:
        begin = self._clock()
        samples = step()
        self.work_seconds += self._clock() - begin
        return samples

    def _trimmed(self, samples: Any) -> Any:
        n_dropped = min(self._to_drop, samples.shape[-1])
        self._to_drop -= n_dropped
        samples = samples[..., n_dropped:][..., : self._missing]
        self._n_given += samples.shape[-1]
        return samples
