"""Output of the command line: notes, progress and summaries."""

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

_LINE_SECONDS = 5.0  # time between progress lines if stderr is not a terminal
_LONGEST_LINE = 4000  # largest number of characters in a line
_UPDATE_SECONDS = 0.1  # time between updates of the progress line on a terminal


class Outlet:
    """A text stream that escapes control characters and stores errors.

    Characters that the encoding of the stream lacks are escaped, too. An error of the stream does not stop
    the command; `finish` raises it at the end. Only a closed pipe stops the command at once, with
    `BrokenPipeError`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text and return its length."""
        lines = "\n".join(printable(line, _LONGEST_LINE) for line in text.split("\n"))
        encoding = self._stream.encoding or "utf-8"
        self._attempt(self._stream.write, lines.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._attempt(self._stream.flush)

    def _attempt(self, act: Callable[..., object], *arguments: str) -> None:
        try:
            act(*arguments)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._error = self._error or error

    def finish(self) -> None:
        """Flush the stream, and raise `OSError` if any part of the output could not be written."""
        self.flush()
        if self._error is not None:
            self._abandon()
            raise OSError(f"Cannot write to standard output: {self._error.strerror or self._error}")

    def _abandon(self) -> None:
        """Redirect the stream to the null device, so that Python does not write its buffer again at exit."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def note(message: str) -> None:
    """Print one line on stderr, such as a warning or an error; does not stop the command."""
    _say(f"rtspecinv: {printable(message, _LONGEST_LINE)}\n")


def _say(text: str) -> None:
    """Write text to stderr; does nothing if stderr is closed."""
    with suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line; "out of memory" if it is empty, as of MemoryError."""
    return printable(" ".join(str(error).split()), _LONGEST_LINE) or "out of memory"


def kind_of(message: Warning | str, filename: str, lineno: int) -> tuple[str, str, int]:
    """Return a key that is equal for warnings of one line that differ only in numbers, as one per block."""
    return re.sub(r"\d+", "", str(message)), filename, lineno


def on_terminal() -> bool:
    """Return whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


class StatusLine:
    """A progress line on stderr, which is replaced on a terminal; otherwise a new line every 5 seconds."""

    def __init__(self) -> None:
        self._updates = on_terminal()
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the next line is due."""
        return time.monotonic() - self._last >= (_UPDATE_SECONDS if self._updates else _LINE_SECONDS)

    def show(self, text: str) -> None:
        """Show a line; on a terminal it replaces the previous one."""
        self._last = time.monotonic()
        begin, end = ("\r\033[K", "") if self._updates else ("", "\n")
        _say(f"{begin}{printable(text)}{end}")

    def clear(self) -> None:
        """Remove the line from a terminal."""
        if self._updates:
            _say("\r\033[K")


class Report:
    """Shows the progress of an inversion that writes a file.

    total_seconds: length of the sound in seconds, None if unknown.
    sample_rate: sample rate, Hz.
    latency_seconds: latency of the inverter in seconds, default: none, the method is not a stream.
    silent: whether to show no progress, default: False.
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
        """Show `progress` if the next line is due."""
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
        """Print the real-time factor."""
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
    """Return seconds as text in minutes and seconds, such as "1:02.5"."""
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


class Tally:
    """Prints lines and, on a terminal, shows a progress bar below them.

    Without tqdm there is no bar, and a note with the install command is printed.

    total: number of items.
    unit: name of an item.
    """

    def __init__(self, total: int, unit: str) -> None:
        self._bar: Any = None
        if on_terminal():
            try:
                from tqdm import tqdm
            except ImportError:
                note('the progress bar needs tqdm: pip install "rtspecinv[progress]"')
            else:
                self._bar = tqdm(total=total, unit=unit, leave=False, dynamic_ncols=True)

    def begin(self, name: str) -> None:
        """Show the name of the current item beside the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(printable(name, 40))

    def end(self, n_items: int = 1) -> None:
        """Advance the bar by one item, or by several."""
        if self._bar is not None:
            self._bar.update(n_items)

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is None:
            print(printable(text, _LONGEST_LINE), flush=True)
        else:
            self._bar.write(printable(text, _LONGEST_LINE), file=sys.stdout)

    def note(self, text: str) -> None:
        """Print a note on stderr above the bar."""
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
