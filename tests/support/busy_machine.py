"""A context in which the interpreter is busy."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gil_held(share: float, period_seconds: float) -> Iterator[None]:
    """Return a context in which C code in another thread holds the GIL for a share of the time."""
    sleep_with_gil, end = ctypes.PyDLL(None).usleep, threading.Event()

    def hold() -> None:
        while not end.wait((1 - share) * period_seconds):
            sleep_with_gil(round(1e6 * share * period_seconds))

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        end.set()
        holder.join()
