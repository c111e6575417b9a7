"""The command line.

`rtspecinv X` has its options in X.py, and what it does in _X.py, which is imported when it runs: `--help`
needs neither torch nor numpy.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence

INTERRUPTED = 130  # exit status after Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error, 130 after Ctrl-C."""
    try:
        from rtspecinv.cli._program import run  # which may be interrupted, too

        return run(argv)
    except KeyboardInterrupt:
        if argv is None:  # this is a program, which ends now
            _leave_when_interrupted_again()
        say_interrupted()
        return INTERRUPTED


def say_interrupted() -> None:
    """Tell that the user interrupted the command."""
    print("rtspecinv: interrupted", file=sys.stderr, flush=True)


def _leave_when_interrupted_again() -> None:
    """Let one more Ctrl-C end the process at once: all is closed, and Python's own exit takes none well."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))
