"""What the command line says while it works and when it is done."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from rtspecinv.common.printable import printable

if TYPE_CHECKING:
    from rtspecinv.live import Progress

_LINE_SECONDS = 5.0  # between lines that stay
_LONGEST_LINE = 4000  # characters
_UPDATE_SECONDS = 0.1  # between updates of one line on a terminal


class Outlet:
    """Standard output as everything here writes to it: nothing in a text can control a terminal, or fail.

    A text has whatever its encoding can say, and escapes. An error of the stream is kept for `finish`: it
    decides nothing about the work. Only a reader that has gone ends it, by `BrokenPipeError`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write lines of text."""
        lines = "\n".join(printable(line, _LONGEST_LINE) for line in text.split("\n"))
        encoding = self._stream.encoding or "utf-8"
        self._attempt(self._stream.write, lines.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        self._attempt(self._stream.flush)

    def _attempt(self, act: Callable[..., object], *arguments: str) -> None:
        try:
            act(*arguments)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._error = self._error or error

    def finish(self) -> None:
        """Raise `OSError` if not everything could be written."""
        self.flush()
        if self._error is not None:
            self._abandon()
            raise OSError(f"Cannot write to standard output: {self._error.strerror or self._error}")

    def _abandon(self) -> None:
        """Send what is left in the stream's buffer nowhere: Python would try to write it again at its end."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def note(message: str) -> None:
    """Print one line about something that the user should know but that stops nothing."""
    _say(f"rtspecinv: {printable(message, _LONGEST_LINE)}\n")


def _say(text: str) -> None:
    """Write to stderr, as far as there is one."""
    with suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()


def one_line(error: BaseException) -> str:
    """Say what an error is."""
    return printable(" ".join(str(error).split()), _LONGEST_LINE) or "out of memory"


def kind_of(message: Warning | str, filename: str, lineno: int) -> tuple[str, str, int]:
    """What warnings have in common that differ in their numbers alone: blocks may all have one."""
    return re.sub(r"\d+", "", str(message)), filename, lineno


def on_terminal() -> bool:
    """Return whether somebody sees stderr as it is written."""
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
        _say(f"{begin}{printable(text)}{end}")

    def clear(self) -> None:
        """Leave no line behind on a terminal."""
        if self._updates:
            _say("\r\033[K")


class Report:
    """Shows how far an inversion is that nobody hears yet.

    `total_seconds` is the length of the sound, None if nobody knows it; `latency_seconds` the inverter's
    latency, None for one that is not a stream. A silent one shows nothing.
    """

    def __init__(
        self,
        total_seconds: float | None,
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
        total = "" if self.total_seconds is None else f" / {clock(self.total_seconds)}"
        parts = [f"{clock(progress.n_samples / self.sample_rate)}{total}"]
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
            self._bar.set_postfix_str(printable(name, 40))

    def end(self) -> None:
        """One more is done."""
        if self._bar is not None:
            self._bar.update()

    def line(self, text: str) -> None:
        """Print a line that stays."""
        if self._bar is None:
            print(printable(text, _LONGEST_LINE), flush=True)
        else:
            self._bar.write(printable(text, _LONGEST_LINE), file=sys.stdout)

    def note(self, text: str) -> None:
        """Print a remark that stays."""
        if self._bar is None:
            note(text)
        else:
            self._bar.write(f"rtspecinv: {printable(text, _LONGEST_LINE)}", file=sys.stderr)

    def __enter__(self) -> Tally:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
