"""Thread that repeats a function until it is stopped, and that ends when Python exits."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable

from rtspecinv.live.inbox import Bell, is_held_here

_EXIT_SECONDS = 2.0  # longest time that Python's exit waits for the current steps


class Worker:
    """Calls `step` repeatedly in a thread, from `start` until `leave`, `stop` or an exception.

    name: name of the thread.
    step: function that the thread calls.
    bell: bell that `step` waits for; `leave` and `stop` ring it.
    at_end: function that the thread calls after its last step, also after an exception.

    The attribute `failure` is the exception of a step, or None.
    """

    def __init__(self, name: str, step: Callable[[], None], bell: Bell, at_end: Callable[[], None]) -> None:
        self.failure: BaseException | None = None
        self.is_stopping = False
        self._step, self._bell, self._at_end = step, bell, at_end
        self._starting = threading.RLock()
        self._ended = Bell()
        self._name, self._thread = name, None
        self._process = 0  # id of the process that started it

    _thread: threading.Thread | None

    @property
    def has_started(self) -> bool:
        """Whether the thread was started."""
        return self._thread is not None

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in the worker's thread."""
        return self._thread is threading.current_thread()

    @property
    def is_elsewhere(self) -> bool:
        """Whether the thread was started in another process, and this process is a fork of it."""
        return self._process not in (0, os.getpid())

    @property
    def is_starting_here(self) -> bool:
        """Whether a signal handler interrupted `start` in this thread."""
        return is_held_here(self._starting)

    def start(self) -> None:
        """Start the thread if it has not been started."""
        if self.is_starting_here:
            return
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._process = os.getpid()
                _leave_at_exit(self)
                try:
                    self._thread.start()
                except RuntimeError:  # there are too many threads, or Python is exiting
                    self._thread = None
                    raise

    def leave(self) -> None:
        """Make the thread end after its current step; the call does not wait.

        It acquires no lock, so the garbage collector may call it in any thread.
        """
        self.is_stopping = True
        self._bell.ring()

    def stop(self) -> None:
        """Make the thread end, and wait for its end unless the caller runs in it."""
        self.leave()
        if self._thread is not None and not self.is_current:
            try:
                self._thread.join()
            except RuntimeError:  # Ctrl-C interrupted its start, so Python cannot join it
                self._ended.wait(1.0)

    def _run(self) -> None:
        try:
            while not self.is_stopping:
                self._step()
        except BaseException as error:
            self.failure = error
        finally:
            _RUNNING.discard(self)
            self._at_end()
            self._ended.ring()

    def wait(self, seconds: float) -> None:
        """Wait until the thread has ended, at most `seconds`."""
        self._ended.wait(seconds)


_RUNNING: set[Worker] = set()


def _leave_at_exit(worker: Worker) -> None:
    """Make Python's exit end the thread before it ends libraries loaded until now, such as PortAudio."""
    _RUNNING.add(worker)
    atexit.unregister(_leave_all)
    atexit.register(_leave_all)


def _leave_all() -> None:
    workers = list(_RUNNING)
    for worker in workers:
        worker.leave()
    give_up = time.monotonic() + _EXIT_SECONDS
    for worker in workers:
        worker.wait(give_up - time.monotonic())


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_RUNNING.clear)
