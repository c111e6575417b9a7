"""Interruption of long calls into compiled code, during which Python cannot react to Ctrl-C."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import Any

LONG = 2**24  # samples transformed and back, about 25 ms of work; starting a thread takes 0.1 ms
_POLL_SECONDS = 0.1  # interval of signal checks, on systems where a signal does not end a wait


def aside(work: Callable[[], object], stop: Any) -> None:
    """Run long work in another thread, while the main thread waits and reacts to signals.

    work: function that reads `stop` regularly and returns early when it is not 0.
    stop: array of one number, initially 0; a signal sets it to 1.

    Raises:
        KeyboardInterrupt, SystemExit: a signal raised it while the work ran; it is raised when the work has
            ended.
    """
    if threading.current_thread() is not threading.main_thread():  # which signals do not reach
        work()
        return
    # Locks and lists only: an exception at the wrong moment would leave a Thread and its events inconsistent.
    begun, ended = _thread.allocate_lock(), _thread.allocate_lock()
    ended.acquire()
    outcome: list[BaseException | None] = []

    def run() -> None:
        if not begun.acquire(False):
            return
        error: BaseException | None = None
        try:
            work()
        except BaseException as caught:
            error = caught
        outcome.append(error)
        ended.release()

    try:
        _thread.start_new_thread(run, ())
        while not outcome:
            ended.acquire(timeout=_POLL_SECONDS)
    except BaseException:
        stop[0] = 1
        if not begun.acquire(False):
            _finish(outcome, ended)
        raise
    finally:
        stop[0] = 0
    if outcome[0] is not None:
        raise outcome[0]


def _finish(outcome: list[BaseException | None], ended: Any) -> None:
    """Wait until the work has ended, even if that is interrupted several times."""
    try:
        while not outcome:
            ended.acquire(timeout=_POLL_SECONDS)
    finally:
        if not outcome:
            _finish(outcome, ended)
