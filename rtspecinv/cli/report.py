"""What the command line says while it plays and when it is done."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rtspecinv.audio import Progress, SoundDeviceSink

_LINE_SECONDS = 5.0  # between lines that stay
_UPDATE_SECONDS = 0.1  # between updates of one line on a terminal


def note(message: str) -> None:
    """Print one line about something that the user should know but that stops nothing."""
    print(f"rtspecinv: {message}", file=sys.stderr)


class Report:
    """Shows progress on stderr: one updating line on a terminal, else a line every few seconds.

    `total_seconds` is the length of the sound, `latency_seconds` the inverter's share of the latency.
    """

    def __init__(
        self, total_seconds: float, latency_seconds: float, sample_rate: int, device: SoundDeviceSink | None
    ) -> None:
        self.total_seconds = total_seconds
        self.latency_seconds = latency_seconds
        self.sample_rate = sample_rate
        self.device = device
        self.playback_seconds = 0.0  # the longest that a sample had to wait to be heard
        self._updates = sys.stderr is not None and sys.stderr.isatty()
        self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Show `progress`, if it is time to."""
        if self.device is not None:
            self.playback_seconds = max(self.playback_seconds, self.device.latency_seconds)
        now = time.monotonic()
        if now - self._last >= (_UPDATE_SECONDS if self._updates else _LINE_SECONDS):
            self._last = now
            begin, end = ("\r\033[K", "") if self._updates else ("", "\n")
            print(f"{begin}{self._line(progress)}", end=end, file=sys.stderr, flush=True)

    def _line(self, progress: Progress) -> str:
        position = progress.n_samples / self.sample_rate
        parts = [f"{_clock(position)} / {_clock(self.total_seconds)}"]
        latency = self.latency_seconds + (self.device.latency_seconds if self.device else 0.0)
        parts.append(f"latency {1000 * latency:.0f} ms")
        parts.append(f"real-time factor {self._real_time_factor(progress):.3f}")
        if self.device is not None:
            parts.append(f"underflows {self.device.underflows}")
        return "   ".join(parts)

    def _real_time_factor(self, progress: Progress) -> float:
        return progress.work_seconds * self.sample_rate / max(1, progress.n_samples)

    def print_summary(self, progress: Progress) -> None:
        """Print how fast it was, and how playing went."""
        if self.device is not None:
            silence = 1000 * self.device.underflow_samples / self.sample_rate
            print(f"playback      up to {1000 * self.playback_seconds:.0f} ms of latency")
            print(f"underflows    {self.device.underflows} ({silence:.0f} ms of silence)")
        factor = self._real_time_factor(progress)
        print(f"speed         real-time factor {factor:.3f}: seconds of work per second of sound")

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._updates:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"
