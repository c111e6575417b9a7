"""A mailbox for frames: the producer puts frames in, the player takes the latest one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rtspecinv.common.checks import able
from rtspecinv.live.inbox import Bell, copy_of


class Mailbox:
    """Keeps the latest frame: any thread may `put` frames at any time, and iteration yields the latest one.

    A synthesiser can thus make frames at its own rate, while a `Player` takes one per hop; with
    `full="block"` the player sets the pace of the iteration. The iteration waits for the first frame, repeats
    the latest one if there is no new frame, and ends after `close`.
    """

    def __init__(self) -> None:
        self._latest: Any = None
        self._first, self._closed = Bell(), False

    def put(self, frame: Any) -> None:
        """Replace the latest frame by a copy of `frame`; raises `TypeError` unless it is numpy or torch."""
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
            self._first.ring()  # other threads may wait, too
        while not self._closed:
            yield copy_of(self._latest)  # the receiver may write to it
