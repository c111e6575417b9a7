"""The runner of every subcommand: it handles errors, signals, warnings and log messages."""

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
    """Run the command line and return the exit status: 0, or 1 after an error."""
    try:
        with _safe_output() as outlet:
            try:
                status = _run(argv)
            finally:  # also after `--help`, which raises SystemExit
                if outlet is not None and not isinstance(sys.exc_info()[1], BrokenPipeError):
                    outlet.finish()
    except BrokenPipeError:  # the reader of standard output has closed the pipe
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
    """Return the function of a subcommand; this imports torch.

    Raises:
        ImportError: importing torch, numpy or another package fails with any exception.
    """
    with _left_at_once():
        try:
            subcommand: Callable[[argparse.Namespace], int | None] = getattr(
                importlib.import_module(f"rtspecinv.cli.{module}"), function
            )
        except Exception as error:
            raise ImportError(f"{error}; `rtspecinv doctor` lists what is missing") from error
    return subcommand


@contextmanager
def _left_at_once() -> Iterator[None]:
    """Return a context in which Ctrl-C ends the process at once.

    It is for imports: an exception during the import of torch may crash the process. No file or device is
    open before the imports end, so nothing needs to be closed.
    """

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
    """Return a context in which `print` writes to an `Outlet`, its value; None without standard output."""
    if sys.stdout is None:
        yield None
        return
    outlet = Outlet(sys.stdout)
    with redirect_stdout(outlet):
        yield outlet


@contextmanager
def _safe_usage() -> Iterator[None]:
    """Return a context in which stderr is an `Outlet`; argparse prints file names there unescaped."""
    with redirect_stderr(Outlet(sys.stderr)) if sys.stderr is not None else nullcontext():
        yield


def _show_once() -> Callable[..., None]:
    """Return a replacement of `warnings.showwarning` that prints only the first warning of each kind."""
    shown = set()

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        if (kind := kind_of(message, filename, lineno)) not in shown:
            shown.add(kind)
            note(f"warning: {message}")

    return show


@contextmanager
def _remarks() -> Iterator[None]:
    """Return a context that prints log messages of the library, such as that it is compiling.

    Messages of level INFO are printed only on a terminal.
    """
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
    """Return a context in which SIGTERM and SIGHUP raise SystemExit with status 128 + signal number.

    Files and devices are then closed as after Ctrl-C.
    """

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
