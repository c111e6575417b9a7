"""A mailbox for frames: whoever makes them puts them in, whoever plays takes the latest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rtspecinv.common.checks import able
from rtspecinv.live.inbox import Bell, copy_of


class Mailbox:
    """The latest frame wins: any thread may `put` frames at any time, iterating gives the latest for ever.

    So a synthesiser draws its frames when it likes, and a `Player` takes one for each hop: with
    `full="block"` it sets the pace of the iteration. The first frame is waited for; `close` ends it.
    """

    def __init__(self) -> None:
        self._latest: Any = None
        self._first, self._closed = Bell(), False

    def put(self, frame: Any) -> None:
        """Give a copy of `frame`, numpy or torch, in place of the one before; else it is a TypeError."""
        able(("__array__",), "pass a tensor or an array", frame=frame)
        self._latest = copy_of(frame)
        self._first.ring()

    def close(self) -> None:
        """End the iteration."""
        self._closed = True
        self._first.ring()

    def __iter__(self) -> Iterator[Any]:
        if self._latest is None and not self._closed:
            self._first.wait()
            self._first.ring()  # for others who wait
        while not self._closed:
            yield copy_of(self._latest)  # who takes it may write to it
