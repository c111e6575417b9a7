"""How many threads torch works with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


def one_thread() -> AbstractContextManager[None]:
    """Run torch on one thread within, in this thread: frames are too small to be worth sharing.

    Threads that begin meanwhile start with the same number, so hold this for a push, not for a session.
    """
    return threads(1)


@contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """Let torch, and the engines, have so many threads for a while; see `one_thread`."""
    if n_threads < 1:
        raise ValueError(f"Parameter threads={n_threads} is not an integer >= 1!")
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
