"""A process that only serves streams: its settings, and its end by SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rtspecinv.common.threads import one_thread
from rtspecinv.serve.server import Server

SWITCH_SECONDS = 0.0005


@contextmanager
def dedicated() -> Iterator[None]:
    """Return a context with the settings of a process that only serves streams.

    Torch uses one thread, and Python switches threads more often: the thread that sends hops then waits less
    for the thread that computes them.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        with one_thread():
            yield
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()


async def serve_until_told(server: Server, say: Callable[[str], object]) -> None:
    """Serve until SIGTERM or Ctrl-C, then send the remaining samples of all streams and close them.

    say: function that prints a line about the started server.
    """
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGINT) if is_main else ()
    for number in numbers:
        with suppress(NotImplementedError):  # on Windows, Ctrl-C raises an exception
            loop.add_signal_handler(number, told.set)
    try:
        with dedicated():
            async with server:
                server.freeze()
                say(f"{server.limits.streams} streams at {server.url}; Ctrl-C ends it")
                await told.wait()
    finally:
        for number in numbers:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
