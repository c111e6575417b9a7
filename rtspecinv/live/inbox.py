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

    In C all through, unlike `threading.Event`, so that no Ctrl-C can leave a lock behind, and the garbage
    collector may ring it anywhere.
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


def is_held_here(lock: Any) -> bool:
    """Return whether this thread holds an `RLock`: then a signal handler interrupted what it is held for.

    A thread that waits for the lock goes on when the handler has ended, so the handler must not wait for it.
    """
    return bool(lock._is_owned())  # which `threading.Condition` asks of it, too


class End:
    """A place in the queue: what was pushed before it is to be heard to its end, whatever comes behind."""

    def __init__(self, n_before: int) -> None:
        self.n_before = n_before  # frames that wait before it
        self.wakes: list[Wake] = []  # called once it is reached
        self.is_reached = False  # so that nobody joins those who wait for it


class Taken(NamedTuple):
    """What the worker finds: whether all before it was cut, and a frame or an end, if one is next."""

    cut: bool
    frame: Any
    end: End | None


class Inbox:
    """At most `max_frames` frames, what happens if one more comes (one of `FULL`), and ends between them.

    The lock is held for a few instructions only, in which nobody else's code runs but a signal handler, which
    may call everything here: between any two instructions, there may be more or fewer frames and ends.
    Callbacks, which wake who waits, are called at least once each.
    """

    def __init__(self, max_frames: int, full: str) -> None:
        self.max_frames, self.full = max_frames, full
        self.n_dropped = 0
        self.bell = Bell()  # rung when there is something new for the worker
        self.is_closed = False  # the last end has been asked for: no more frames
        self._lock = threading.RLock()
        self._frames: deque[Any] = deque()
        self._ends: deque[End] = deque()
        self._cut = self._shut = False
        self._want_room: list[Wake] = []

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def is_held_here(self) -> bool:
        """Whether this thread was interrupted in a call of the inbox, so that the worker may wait for it."""
        return is_held_here(self._lock)

    def offer(self, frame: Any, when_room: Wake) -> bool:
        """Take in a frame; False if it has to wait, and then `when_room` is called once there may be room.

        Where no more frames are taken, that is at once.

        Raises:
            queue.Full: there is no room, and that is to be an error.
        """
        with self._lock:
            if not self.is_closed:
                if len(self._frames) >= self.max_frames:
                    if self.full == "block":
                        self._want_room.append(when_room)
                        return False
                    if self.full == "raise":
                        raise queue.Full(
                            f"{self.max_frames} frames wait already: push later, or use full='block' or "
                            "'drop_oldest'"
                        )
                    self._pop()
                    self.n_dropped += 1
                self._frames.append(frame)
        if self.is_closed:
            when_room()
            return False
        self.bell.ring()
        return True

    def end(self, when_heard: Wake, *, last: bool = False) -> None:
        """Put an end behind the frames that are here; `when_heard` is called when all before it was heard.

        last: no more frames are taken.
        """
        with self._lock:
            self.is_closed = self.is_closed or last
            is_over = True
            if not self._shut:
                n_before = len(self._frames)
                newest = next(reversed(self._ends.copy()), None)
                if newest is None or newest.is_reached or newest.n_before < n_before:
                    newest = End(n_before)
                    self._ends.append(newest)
                newest.wakes.append(when_heard)
                is_over = newest.is_reached
        if is_over:
            when_heard()
        if last:
            self._wake_who_wants_room()
        self.bell.ring()

    def take(self, wanted: bool) -> Taken:
        """What is next for the worker: an end, or else the oldest frame, if one is wanted."""
        with self._lock:
            cut, self._cut = self._cut, False
            end = next((each for each in self._ends if not each.is_reached), None)
            if end is not None and end.n_before > 0 and self._frames:
                end = None
            frame = self._pop() if wanted and self._frames and end is None else None
        if frame is not None:
            self._wake_who_wants_room()
        return Taken(cut, frame, end)

    def _pop(self) -> Any:
        for end in self._ends.copy():
            end.n_before -= 1
        with suppress(IndexError):  # a signal handler was here first
            return self._frames.popleft()
        return None

    def cut(self) -> None:
        """Forget all frames; what is asked to end ends here."""
        with self._lock:
            self._cut = True
            self._frames.clear()
            for end in self._ends.copy():
                end.is_reached = True
        self._wake_all()

    @property
    def is_cut(self) -> bool:
        """Whether it was cut since the worker last took something."""
        return self._cut

    def reached(self, end: End) -> None:
        """Tell who waits for an end that all before it was heard."""
        with self._lock:
            end.is_reached = True
        _call(end.wakes)
        with suppress(ValueError):  # another thread was here first
            self._ends.remove(end)

    def shut(self) -> None:
        """Take nothing any more, so that nobody waits."""
        with self._lock:
            self.is_closed = self._shut = True
            for end in self._ends.copy():
                end.is_reached = True
        self._wake_all()

    def _wake_all(self) -> None:
        self._wake_who_wants_room()
        for end in self._ends.copy():
            if end.is_reached:
                self.reached(end)
        self.bell.ring()

    def _wake_who_wants_room(self) -> None:
        """Wake all who wait for room; they are taken off the list when they have been woken."""
        who = self._want_room.copy()
        _call(who)
        with self._lock:
            self._want_room = [each for each in self._want_room if each not in who]


def _call(wakes: list[Wake]) -> None:
    for wake in wakes:
        with suppress(RuntimeError):  # the event loop of one who waited is closed
            wake()


class OnItsWay(NamedTuple):
    """A frame on a GPU, and an event: before it the frame is not there, whatever another stream does."""

    frame: Any
    event: Any


def copy_of(frame: Any) -> Any:
    """Copy of a tensor, without its graph, or of an array: its owner may go on writing to it."""
    return frame.detach().clone() if hasattr(frame, "detach") else np.array(frame)


def on_its_way(frame: Any) -> Any:
    """A frame to hand to another thread, which may work on another stream of the GPU: see `arrived`."""
    if not getattr(frame, "is_cuda", False):
        return frame
    import torch

    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(frame.device))
    return OnItsWay(frame, event)


def arrived(frame: Any) -> Any:
    """Frame that another thread has handed over: the GPU, not this thread, waits until it is there."""
    if not isinstance(frame, OnItsWay):
        return frame
    import torch

    stream = torch.cuda.current_stream(frame.frame.device)
    stream.wait_event(frame.event)
    frame.frame.record_stream(stream)  # which reads it after its owner may have let it go
    return frame.frame
