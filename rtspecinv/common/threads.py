"""How many threads torch works with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from rtspecinv.common.checks import count


@contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """Let torch, and the engines, have so many threads within, in this thread.

    Threads that begin meanwhile start with the same number, so hold this for a push, not for a session.
    """
    n_threads = count(1, threads=n_threads)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """Run torch on one thread within: frames are too small to be worth sharing."""
    return threads(1)
