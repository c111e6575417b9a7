"""What happens around every subcommand: errors, signals, warnings, remarks."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from typing import Any

from rtspecinv.cli import INTERRUPTED, say_interrupted
from rtspecinv.cli._files import sound_to_standard_output
from rtspecinv.cli._parser import parser
from rtspecinv.cli._report import Outlet, kind_of, note, on_terminal, one_line


def run(argv: Sequence[str] | None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error."""
    try:
        with _safe_output() as outlet:
            try:
                status = _run(argv)
            finally:  # of `--help`, too, which exits
                if outlet is not None and not isinstance(sys.exc_info()[1], BrokenPipeError):
                    outlet.finish()
    except BrokenPipeError:  # whoever read our output has stopped reading
        sys.stdout = None
        return 1
    except _ERRORS as error:
        note(f"error: {one_line(error)}")
        return 1
    return status


_ERRORS = (OSError, ValueError, ImportError, OverflowError, MemoryError, RuntimeError)


def _run(argv: Sequence[str] | None) -> int:
    with _safe_usage():
        args = parser().parse_args(argv)
    try:
        subcommand = _load(*args.runs.split("."))
        with (
            sound_to_standard_output(args),
            _terminated_cleanly(),
            _remarks(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _show_once()
            status = subcommand(args)
    except BrokenPipeError:
        raise
    except _ERRORS as error:
        note(f"error: {one_line(error)}")
        return 1
    return status or 0


def _load(module: str, function: str) -> Callable[[argparse.Namespace], int | None]:
    """Import a subcommand, and torch with it.

    Raises:
        ImportError: torch or numpy cannot be imported, whatever their reason.
    """
    with _left_at_once():
        try:
            subcommand: Callable[[argparse.Namespace], int | None] = getattr(
                importlib.import_module(f"rtspecinv.cli.{module}"), function
            )
        except Exception as error:
            raise ImportError(f"{error}; `rtspecinv doctor` says what is missing") from error
    return subcommand


@contextmanager
def _left_at_once() -> Iterator[None]:
    """Leave the process on Ctrl-C: torch does not survive an exception while it loads; nothing is open."""

    def leave(number: int, frame: object) -> None:
        say_interrupted()
        os._exit(INTERRUPTED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _safe_output() -> Iterator[Outlet | None]:
    """Let all that is printed go through an `Outlet`; None where there is no standard output."""
    if sys.stdout is None:
        yield None
        return
    outlet = Outlet(sys.stdout)
    with redirect_stdout(outlet):
        yield outlet


@contextmanager
def _safe_usage() -> Iterator[None]:
    """Let what is wrong with the arguments, which may be names of files, go through an `Outlet`."""
    with redirect_stderr(Outlet(sys.stderr)) if sys.stderr is not None else nullcontext():
        yield


def _show_once() -> Callable[..., None]:
    """Give a function that notes a warning, the first of each kind."""
    shown = set()

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        if (kind := kind_of(message, filename, lineno)) not in shown:
            shown.add(kind)
            note(f"warning: {message}")

    return show


@contextmanager
def _remarks() -> Iterator[None]:
    """Note what the library logs, such as that it is compiling; details only if somebody is there to wait."""
    level = logging.INFO if on_terminal() else logging.WARNING
    log, handler = logging.getLogger("rtspecinv"), _Notes(level)
    before = log.level
    log.setLevel(level)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


@contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind like Ctrl-C, so that files and devices are closed; status 128 + n."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
