"""Queue of frames between the threads that push them and the thread that inverts them."""

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
    """Event that wakes one waiting thread; if it was set before, the thread does not wait.

    It is a single lock, implemented in C. Unlike with `threading.Event`, Ctrl-C cannot leave an internal lock
    locked, and the garbage collector may call `ring` in any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Set the bell: wake the waiting thread, or the next one that calls `wait`."""
        with suppress(RuntimeError):  # the bell is set already
            self._lock.release()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the bell is rung, then reset it; returns False after `seconds`, default: no limit."""
        return self._lock.acquire(timeout=-1 if seconds is None else max(0.0, seconds))


def is_held_here(lock: Any) -> bool:
    """Return whether this thread holds an `RLock`.

    It does if the caller runs in a signal handler that interrupted the code that holds the lock. Other
    threads that wait for the lock continue only after the handler has returned, so the handler must not wait
    for them.
    """
    return bool(lock._is_owned())  # a private method that `threading.Condition` calls, too


class End:
    """Marker in the queue: all frames before it are played to the end, independently of those after it."""

    def __init__(self, n_before: int) -> None:
        self.n_before = n_before  # number of frames that wait before it
        self.wakes: list[Wake] = []  # called when it is reached
        self.is_reached = False  # afterwards no callback may be added to `wakes`


class Taken(NamedTuple):
    """Result of `Inbox.take`: whether `Inbox.cut` was called before, and the next frame or end, if any."""

    cut: bool
    frame: Any
    end: End | None


class Inbox:
    """Queue of frames and of the `End` markers between them.

    max_frames: largest number of waiting frames.
    full: reaction of `offer` to a frame for which there is no room, one of `FULL`.

    The lock is held for a few instructions only. During these no foreign code runs except a signal handler,
    which may call any method, so the number of frames and ends may change between any two instructions. Each
    callback that wakes a waiting caller is called at least once.
    """

    def __init__(self, max_frames: int, full: str) -> None:
        self.max_frames, self.full = max_frames, full
        self.n_dropped = 0
        self.bell = Bell()  # rung when there is a frame or an end for the worker
        self.is_closed = False  # whether further frames are rejected
        self._lock = threading.RLock()
        self._frames: deque[Any] = deque()
        self._ends: deque[End] = deque()
        self._cut = self._shut = False
        self._want_room: list[Wake] = []

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def is_held_here(self) -> bool:
        """Whether a signal handler interrupted a call of the inbox in this thread.

        The worker may then wait for this thread.
        """
        return is_held_here(self._lock)

    def offer(self, frame: Any, when_room: Wake) -> bool:
        """Queue a frame and return True; return False if it must wait for room or the inbox is closed.

        With `full="drop_oldest"` the oldest frame is dropped if there is no room.

        when_room: function that is called after False, as soon as there may be room. If the inbox is closed,
            it is called immediately.

        Raises:
            queue.Full: there is no room, and `full` is "raise".
        """
        with self._lock:
            if not self.is_closed:
                if len(self._frames) >= self.max_frames:
                    if self.full == "block":
                        self._want_room.append(when_room)
                        return False
                    if self.full == "raise":
                        raise queue.Full(
                            f"max_frames={self.max_frames} frames wait already: push later, or use "
                            "full='block' or 'drop_oldest'"
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
        """Queue an end after the waiting frames.

        when_heard: function that is called when all frames before the end have been played.
        last: whether the inbox is closed, so that it rejects further frames, default: False.
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
        """Return the next end, or else the oldest frame if `wanted`; the frame leaves the queue."""
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
        with suppress(IndexError):  # a signal handler has removed it
            return self._frames.popleft()
        return None

    def cut(self) -> None:
        """Drop all frames; all ends in the queue are reached at once."""
        with self._lock:
            self._cut = True
            self._frames.clear()
            for end in self._ends.copy():
                end.is_reached = True
        self._wake_all()

    @property
    def is_cut(self) -> bool:
        """Whether `cut` was called since the worker last called `take`."""
        return self._cut

    def reached(self, end: End) -> None:
        """Wake the callers that wait for an end, and remove it: all frames before it have been played."""
        with self._lock:
            end.is_reached = True
        _call(end.wakes)
        with suppress(ValueError):  # another thread has removed it
            self._ends.remove(end)

    def shut(self) -> None:
        """Reject all further frames and ends, and wake all waiting callers."""
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
        """Wake all callers that wait for room, then remove them from the list."""
        who = self._want_room.copy()
        _call(who)
        with self._lock:
            self._want_room = [each for each in self._want_room if each not in who]


def _call(wakes: list[Wake]) -> None:
    for wake in wakes:
        with suppress(RuntimeError):  # the event loop of a waiting caller is closed
            wake()


class OnItsWay(NamedTuple):
    """Frame on a GPU, and the CUDA event after which other CUDA streams may read it."""

    frame: Any
    event: Any


def copy_of(frame: Any) -> Any:
    """Return a copy of a tensor, without its graph, or of an array; the caller may change the original."""
    return frame.detach().clone() if hasattr(frame, "detach") else np.array(frame)


def on_its_way(frame: Any) -> Any:
    """Return a frame prepared for another thread, which may use another CUDA stream; see `arrived`."""
    if not getattr(frame, "is_cuda", False):
        return frame
    import torch

    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(frame.device))
    return OnItsWay(frame, event)


def arrived(frame: Any) -> Any:
    """Return the frame that another thread prepared by `on_its_way`.

    The current CUDA stream waits until the frame is complete; this thread does not wait.
    """
    if not isinstance(frame, OnItsWay):
        return frame
    import torch

    stream = torch.cuda.current_stream(frame.frame.device)
    stream.wait_event(frame.event)
    frame.frame.record_stream(stream)  # keeps its memory until this stream has read it
    return frame.frame
