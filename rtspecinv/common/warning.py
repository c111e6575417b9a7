"""Warnings that point at the caller's line, however deep within the library they are issued."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_COLLECTED: ContextVar[list[str] | None] = ContextVar("collected", default=None)


def warn(message: str) -> None:
    """Issue a warning that points at the nearest calling line outside the library, or in its command line."""
    if (collected := _COLLECTED.get()) is not None:
        collected.append(message)
        return
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_passed(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


@contextmanager
def collecting(into: list[str]) -> Iterator[None]:
    """Return a context in which the calling thread's warnings are appended to a list, not issued.

    Unlike `warnings.catch_warnings`, it does not affect other threads.
    """
    before = _COLLECTED.set(into)
    try:
        yield
    finally:
        _COLLECTED.reset(before)


@contextmanager
def muted(*beginnings: str) -> Iterator[None]:
    """Return a context without the warnings that begin with one of these texts, in the calling thread."""
    messages: list[str] = []
    try:
        with collecting(messages):
            yield
    finally:
        for message in messages:
            if not message.startswith(beginnings):
                warn(message)


def _is_passed(module: str) -> bool:
    is_library = module.split(".")[0] == "rtspecinv" and not module.startswith("rtspecinv.cli")
    return is_library or module == "contextlib"  # contextlib calls the library when a `with` block ends
