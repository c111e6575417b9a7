"""What the command line says while it works and when it is done."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rtspecinv.audio import Progress

_LINE_SECONDS = 5.0  # between lines that stay
_UPDATE_SECONDS = 0.1  # between updates of one line on a terminal


def note(message: str) -> None:
    """Print one line about something that the user should know but that stops nothing."""
    print(f"rtspecinv: {message}", file=sys.stderr)


def one_line(error: BaseException) -> str:
    """Say what an error is."""
    return " ".join(str(error).split()) or "out of memory"


def on_terminal() -> bool:
    """Whether somebody sees stderr as it is written."""
    return sys.stderr is not None and sys.stderr.isatty()


class StatusLine:
    """One line on stderr that is written over on a terminal; elsewhere a line every few seconds."""

    def __init__(self) -> None:
        self._updates = on_terminal()
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for another one."""
        return time.monotonic() - self._last >= (_UPDATE_SECONDS if self._updates else _LINE_SECONDS)

    def show(self, text: str) -> None:
        """Show a line in place of the one before."""
        self._last = time.monotonic()
        begin, end = ("\r\033[K", "") if self._updates else ("", "\n")
        print(f"{begin}{text}", end=end, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave no line behind on a terminal."""
        if self._updates:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


class Report:
    """Shows how far an inversion is that nobody hears yet.

    `total_seconds` is the length of the sound, `latency_seconds` the inverter's latency, None for one that is
    not a stream. A silent one shows nothing.
    """

    def __init__(
        self,
        total_seconds: float,
        sample_rate: int,
        *,
        latency_seconds: float | None = None,
        silent: bool = False,
    ) -> None:
        self.total_seconds = total_seconds
        self.sample_rate = sample_rate
        self.latency_seconds = latency_seconds
        self._line = None if silent else StatusLine()

    def __call__(self, progress: Progress) -> None:
        """Show `progress`, if it is time to."""
        if self._line is not None and self._line.due:
            self._line.show(self._text(progress))

    def _text(self, progress: Progress) -> str:
        parts = [f"{clock(progress.n_samples / self.sample_rate)} / {clock(self.total_seconds)}"]
        if self.latency_seconds is not None:
            parts.append(f"latency {1000 * self.latency_seconds:.0f} ms")
        parts.append(f"real-time factor {self._real_time_factor(progress):.3f}")
        return "   ".join(parts)

    def _real_time_factor(self, progress: Progress) -> float:
        return progress.work_seconds * self.sample_rate / max(1, progress.n_samples)

    def print_summary(self, progress: Progress) -> None:
        """Print how fast it was."""
        factor = self._real_time_factor(progress)
        print(f"speed         real-time factor {factor:.3f}: seconds of work per second of sound")

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line is not None:
            self._line.clear()


def clock(seconds: float) -> str:
    """Write minutes and seconds."""
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


class Tally:
    """A bar over many things on a terminal, with lines that stay above it; elsewhere the lines alone.

    Without tqdm there is no bar, and a remark on how to get one.
    """

    def __init__(self, total: int, unit: str) -> None:
        self._bar: Any = None
        if on_terminal():
            try:
                from tqdm import tqdm
            except ImportError:
                note('there is no progress bar without tqdm: pip install "rtspecinv[progress]"')
            else:
                self._bar = tqdm(total=total, unit=unit, leave=False, dynamic_ncols=True)

    def begin(self, name: str) -> None:
        """Say what is being done."""
        if self._bar is not None:
            self._bar.set_postfix_str(name)

    def end(self) -> None:
        """One more is done."""
        if self._bar is not None:
            self._bar.update()

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._write(text, sys.stdout)

    def note(self, text: str) -> None:
        """Print a remark that stays."""
        self._write(f"rtspecinv: {text}", sys.stderr)

    def _write(self, text: str, file: TextIO) -> None:
        if self._bar is None:
            print(text, file=file, flush=True)
        else:
            self._bar.write(text, file=file)

    def __enter__(self) -> Tally:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
