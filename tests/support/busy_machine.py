"""A busy interpreter."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gil_held(share: float, period_seconds: float) -> Iterator[None]:
    """Another thread holds the GIL for a share of the time, in C code that does not let go of it."""
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
