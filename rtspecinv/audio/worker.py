"""A thread that works until it is stopped, and leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rtspecinv.audio.inbox import Bell


class Worker:
    """Calls `step` again and again in a thread, from `start` until `stop` or an exception, kept as `failure`.

    name: of the thread.
    wake: ends the waiting in `step`, whenever it is called after `is_stopping` was set.
    at_end: called in the thread when it has done its last step, whatever the reason.
    """

    def __init__(
        self, name: str, step: Callable[[], None], wake: Callable[[], None], at_end: Callable[[], None]
    ) -> None:
        self.failure: BaseException | None = None
        self.is_stopping = False
        self._step, self._wake, self._at_end = step, wake, at_end
        self._starting = threading.Lock()
        self._ended = Bell()
        self._name, self._thread = name, None

    _thread: threading.Thread | None

    @property
    def has_started(self) -> bool:
        """Whether there is, or was, a thread."""
        return self._thread is not None

    def start(self) -> None:
        """Start the thread, if it has not been started."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread after the step that it is at, and wait for that."""
        self.is_stopping = True
        self._wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            try:
                self._thread.join()
            except RuntimeError:  # Ctrl-C came while it started, so that Python does not know it yet
                self._ended.wait(1.0)

    def _run(self) -> None:
        try:
            while not self.is_stopping:
                self._step()
        except BaseException as error:
            self.failure = error
        finally:
            self._at_end()
            self._ended.ring()
