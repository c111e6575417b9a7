"""Frames on their way from any thread to the one that inverts them."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

FULL = ("block", "drop_oldest", "raise")
Wake = Callable[[], object]


class Bell:
    """One thread waits, another rings; rung before, it does not wait.

    In C all through, unlike `threading.Event`, so that no Ctrl-C can leave a lock behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the one who waits, or who will."""
        with suppress(RuntimeError):  # it has been rung already
            self._lock.release()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is rung, at most so long; whether it was."""
        return self._lock.acquire(timeout=-1 if seconds is None else max(0.0, seconds))


class Taken(NamedTuple):
    """What the worker finds: whether all before it was cut, a frame, and whether the frames end here."""

    cut: bool
    frame: Any  # None if there is none, or none was wanted
    ending: bool


class Inbox:
    """At most `max_frames` frames, and what happens if one more comes: one of `FULL`.

    Every lock is held for a few instructions only. Callbacks, which wake who waits, are called once each.
    """

    def __init__(self, max_frames: int, full: str) -> None:
        self.max_frames, self.full = max_frames, full
        self.n_dropped = 0
        self.bell = Bell()  # rung when there is something new for the worker
        self._lock = threading.Lock()
        self._frames: deque[Any] = deque()
        self._cut = self._shut = False
        self._want_room: list[Wake] = []
        self._want_end: list[Wake] = []

    def __len__(self) -> int:
        return len(self._frames)

    def offer(self, frame: Any, when_room: Wake) -> bool:
        """Take in a frame; False if it has to wait, and then `when_room` is called once there may be room.

        Raises:
            queue.Full: there is no room, and that is to be an error.
        """
        with self._lock:
            if self._shut:
                when_room()
                return False
            if len(self._frames) >= self.max_frames:
                if self.full == "block":
                    self._want_room.append(when_room)
                    return False
                if self.full == "raise":
                    raise queue.Full(
                        f"{self.max_frames} frames wait already: push later, or use full='block' or "
                        "'drop_oldest'!"
                    )
                self._frames.popleft()
                self.n_dropped += 1
            self._frames.append(frame)
        self.bell.ring()
        return True

    def end(self, when_done: Wake) -> None:
        """Ask for the end after the frames that are here; `when_done` is called when all was heard."""
        with self._lock:
            if self._shut:
                when_done()
            else:
                self._want_end.append(when_done)
        self.bell.ring()

    def take(self, wanted: bool) -> Taken:
        """Oldest frame, if one is wanted, for the worker."""
        with self._lock:
            cut, self._cut = self._cut, False
            frame = self._frames.popleft() if wanted and self._frames else None
            ending = bool(self._want_end) and not self._frames and frame is None
        if frame is not None:
            self._call(self._want_room)
        return Taken(cut, frame, ending)

    def cut(self) -> None:
        """Forget all frames; what is asked to end ends here."""
        with self._lock:
            self._cut = True
            self._frames.clear()
        self._wake_all()

    @property
    def is_cut(self) -> bool:
        """Whether it was cut since the worker last took something."""
        return self._cut

    def who_wants_end(self) -> list[Wake]:
        """Those who have asked for the end by now."""
        with self._lock:
            return list(self._want_end)

    def ended(self, who: list[Wake]) -> None:
        """Tell those that all was heard."""
        self._call(self._want_end, who)

    def shut(self) -> None:
        """Take nothing any more, so that nobody waits."""
        self._shut = True
        self._wake_all()

    def _wake_all(self) -> None:
        self._call(self._want_room)
        self._call(self._want_end)
        self.bell.ring()

    def _call(self, waiting: list[Wake], who: list[Wake] | None = None) -> None:
        """Wake all who wait there, or only some; they are taken off the list when they have been woken."""
        with self._lock:
            who = waiting.copy() if who is None else who
        for wake in who:
            with suppress(RuntimeError):  # the event loop of one who waited is closed
                wake()
        with self._lock:
            waiting[:] = [each for each in waiting if each not in who]


def copy_of(frame: Any) -> Any:
    """Copy of a tensor, without its graph, or of an array: its owner may go on writing to it."""
    return frame.detach().clone() if hasattr(frame, "detach") else np.array(frame)
