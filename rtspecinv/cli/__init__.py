"""The command line.

X.py defines the options of `rtspecinv X`, and _X.py implements it. _X.py is imported only when the subcommand
runs, so `--help` needs neither torch nor numpy.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence

INTERRUPTED = 130  # exit status after Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 after an error, 130 after Ctrl-C."""
    try:
        from rtspecinv.cli._program import run  # Ctrl-C may interrupt this import, too

        return run(argv)
    except KeyboardInterrupt:
        if argv is None:  # the process ends now
            _leave_when_interrupted_again()
        say_interrupted()
        return INTERRUPTED


def say_interrupted() -> None:
    """Print on stderr that the user interrupted the command."""
    print("rtspecinv: interrupted", file=sys.stderr, flush=True)


def _leave_when_interrupted_again() -> None:
    """Make another Ctrl-C end the process at once, because Python's own exit does not handle it cleanly.

    All files and devices are closed by then.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))
