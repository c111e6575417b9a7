"""Contexts that set the number of threads of torch and of the engines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from rtspecinv.common.checks import count


@contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """Return a context in which torch and the engines use `n_threads` threads when called from this thread.

    A thread that starts meanwhile inherits the number: enter the context for one push, not for a session.
    """
    n_threads = count(1, threads=n_threads)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """Return a context in which torch uses one thread; one frame is too small to gain from several."""
    return threads(1)
