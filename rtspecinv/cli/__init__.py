"""The command line `rtspecinv`; parser.py has all its subcommands."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error, 130 after Ctrl-C."""
    try:
        with_signals = threading.current_thread() is threading.main_thread()
        # Torch takes a second or two to load and does not survive an exception in it. Nothing is open yet.
        before = signal.signal(signal.SIGINT, _leave_at_once) if with_signals else None
        run = _program(sys.argv[1:] if argv is None else argv)
        if with_signals:
            signal.signal(signal.SIGINT, before)
        return run(argv)
    except KeyboardInterrupt:
        _say_interrupted()
        return 130


def _program(argv: Sequence[str]) -> Callable[[Sequence[str] | None], int]:
    """What runs the command line: where torch cannot be loaded, `doctor` alone."""
    try:
        from rtspecinv.cli.program import run
    except Exception as error:
        if "doctor" in argv:
            from rtspecinv.cli.doctor import doctor

            return doctor
        reason = f"{error}; `rtspecinv doctor` says what is missing"
        print(f"rtspecinv: error: {' '.join(reason.split())}", file=sys.stderr)
        return lambda argv: 1
    return run


def _leave_at_once(number: int, frame: object) -> None:
    _say_interrupted()
    os._exit(130)


def _say_interrupted() -> None:
    print("rtspecinv: interrupted", file=sys.stderr, flush=True)
