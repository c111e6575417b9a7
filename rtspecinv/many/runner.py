"""Inversion of many spectrograms in several threads, each with lanes of its own."""

from __future__ import annotations

import os
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from torch import Tensor

from rtspecinv.common.threads import one_thread
from rtspecinv.common.warning import collecting
from rtspecinv.many.lanes import Item, Lanes, Make
from rtspecinv.streaming import StreamingInverter

N_STREAMS = 8  # number of streams per thread; the state of more streams exceeds the cache of a core
# Errors that a bad spectrogram may cause.
ERRORS = (OSError, ValueError, ImportError, OverflowError, MemoryError, RuntimeError)
_JOIN_SECONDS = 2.0  # longest time that an interrupted run waits for each of its threads


@dataclass
class Opened:
    """A spectrogram that is ready to be inverted.

    kind, make: as in `Lanes.add`.
    blocks, channels, length: as in `Item`.
    """

    kind: Hashable
    make: Make
    blocks: Iterator[Tensor]
    channels: int
    length: int | None


class Task(ABC):
    """The inversion of one spectrogram, from opening it to storing its samples.

    Attributes:
        error: error that ended it, or None.
        remarks: warnings about it.
        work_seconds: time that the inverter spent on the spectrogram.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.remarks: list[str] = []
        self.work_seconds = 0.0

    @abstractmethod
    def open(self) -> Opened | None:
        """Open the spectrogram; None if it is already inverted and stored."""

    @abstractmethod
    def write(self, samples: Tensor) -> None:
        """Receive the next samples `(channels, n)`."""

    @abstractmethod
    def finish(self) -> None:
        """Store the samples; nothing was stored before."""

    @abstractmethod
    def abort(self) -> None:
        """Discard what has not been stored; may be called from another thread, and several times."""


_Task = TypeVar("_Task", bound=Task)


def n_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def carry_out(
    tasks: Iterable[_Task], *, n_threads: int | None = None, n_streams: int = N_STREAMS
) -> Generator[_Task, None, None]:
    """Yield tasks as they end, with an `error` if they failed.

    tasks: tasks, taken from the iterable by several threads, one after the other, as streams become free.
    n_threads: number of threads, default: one for each core.
    n_streams: number of streams of each thread.

    A task that fails with one of `ERRORS` does not affect the others; any other error is raised. If the
    generator is closed, or an exception is raised in it, tasks in progress are aborted.
    """
    n_threads = n_threads or n_cores()
    run = _Run(iter(tasks), n_threads, n_streams)
    threads = [threading.Thread(target=run.work, daemon=True) for _ in range(n_threads)]
    try:
        for thread in threads:
            thread.start()
        n_running, n_ended = n_threads, 0
        while n_running or n_ended < run.n_taken:
            ended = run.ended.get()
            if isinstance(ended, BaseException):
                raise ended
            if ended is None:
                n_running -= 1
            else:
                n_ended += 1
                yield ended  # type: ignore[misc]  # it is one of `tasks`
    finally:
        run.stop.set()
        for thread in threads:
            thread.join(_JOIN_SECONDS)
        run.storing.shutdown(wait=True, cancel_futures=True)
        for task in list(run.running):  # tasks of threads that are still busy, such as with a long iteration
            task.abort()


class _Run:
    """State that the threads of a run share.

    Attributes:
        ended: ended tasks; None for each thread that has ended; an exception that ends the run.
        n_taken: number of tasks that were taken.
        running: tasks that were taken and have not ended.
        storing: threads that finish files, so that the threads that invert do not wait for the disk.
    """

    def __init__(self, source: Iterator[Task], n_threads: int, n_streams: int) -> None:
        self.ended: queue.SimpleQueue[Task | BaseException | None] = queue.SimpleQueue()
        self.n_taken = 0
        self.running: dict[Task, None] = {}
        self.stop = threading.Event()
        self.storing = ThreadPoolExecutor(n_threads)
        self._room = threading.Semaphore(n_threads * n_streams)  # limits the tasks that wait to be stored
        self._source, self._n_streams = source, n_streams
        self._lock, self._making = threading.Lock(), threading.Lock()

    def work(self) -> None:
        """Invert tasks until there are no more."""
        try:
            with one_thread():
                self._work()
        except BaseException as error:
            self.ended.put(error)
        finally:
            self.ended.put(None)

    def _work(self) -> None:
        lanes = Lanes(self._n_streams)
        tasks: dict[Item, Task] = {}
        held: tuple[Task, Opened] | None = None
        try:
            while not self.stop.is_set():
                while (held is not None or lanes.fits(1)) and not self.stop.is_set():
                    held = held or self._next()
                    if held is None or not lanes.fits(held[1].channels):
                        break
                    (task, opened), held = held, None
                    item = Item(opened.blocks, opened.channels, opened.length, task.write)
                    try:
                        with collecting(task.remarks):
                            lanes.add(opened.kind, partial(self._made, opened.make), item)
                        tasks[item] = task
                    except ERRORS as error:
                        self._end(task, error)
                if not lanes:
                    return
                for item, failure in lanes.step():
                    task = tasks.pop(item)
                    task.work_seconds = item.work_seconds
                    self._end(task, failure)
        finally:
            for task in [*tasks.values(), *([held[0]] if held else [])]:
                task.abort()
                self.running.pop(task, None)

    def _made(self, make: Make, n_streams: int) -> StreamingInverter:
        """Return an inverter; only one thread at a time makes one, because that may compile code."""
        with self._making:
            return make(n_streams)

    def _next(self) -> tuple[Task, Opened] | None:
        """Open the next task that needs a stream, and return both; None if there are no more tasks."""
        while not self.stop.is_set():
            with self._lock:
                task = next(self._source, None)
                if task is None:
                    return None
                self.n_taken += 1
                self.running[task] = None
            try:
                with collecting(task.remarks):
                    opened = task.open()
            except ERRORS as error:
                self._end(task, error)
                continue
            if opened is not None:
                return task, opened
            self._end(task, None)
        return None

    def _end(self, task: Task, error: Exception | None) -> None:
        """Store the result of a task, or abort it after an error, and put it into `ended`."""
        if error is None:
            self._room.acquire()
            self.storing.submit(self._store, task)
            return
        task.abort()
        if not isinstance(error, ERRORS):
            raise error
        task.error = error
        self.running.pop(task, None)
        self.ended.put(task)

    def _store(self, task: Task) -> None:
        try:
            with collecting(task.remarks):
                task.finish()
        except ERRORS as error:
            task.abort()
            task.error = error
        except BaseException as error:
            self.ended.put(error)
        finally:
            self._room.release()
            self.running.pop(task, None)
            self.ended.put(task)
