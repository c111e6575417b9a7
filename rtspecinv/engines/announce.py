"""Says that code is being compiled, and how long it took, to whoever listens to the logger "rtspecinv"."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event

log = logging.getLogger("rtspecinv")


@contextmanager
def compiling(function: Any, what: str) -> Iterator[None]:
    """Log that a numba function is compiled here, before that, and its seconds afterwards.

    Code that is loaded from disk, or was compiled before, is not mentioned.
    """
    watch = _Watch(function, what)
    with event.install_listener("numba:compile", watch):
        yield
    if watch.seconds is not None:
        log.info("compiled %s in %.1f s", what, watch.seconds)


class _Watch(event.Listener):  # type: ignore[misc]
    """Times one function in one thread; what it calls is compiled meanwhile."""

    def __init__(self, function: Any, what: str) -> None:
        self.function, self.what, self.thread = function, what, threading.get_ident()
        self.begin = 0.0
        self.seconds: float | None = None

    def on_start(self, event: Any) -> None:
        if self._concerns(event):
            log.info("compiling %s: some 20 s, once on this machine", self.what)
            self.begin = time.perf_counter()

    def on_end(self, event: Any) -> None:
        if self._concerns(event):
            self.seconds = time.perf_counter() - self.begin

    def _concerns(self, event: Any) -> bool:
        return event.data["dispatcher"] is self.function and threading.get_ident() == self.thread
