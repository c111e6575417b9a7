"""Many live streams in one inverter: each push processes the streams that have a frame."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from rtspecinv.common.checks import able, count, function
from rtspecinv.live.inbox import Bell, copy_of
from rtspecinv.live.worker import Worker

Array = np.ndarray[Any, Any]
Receive = Callable[[Array], object]
Refuse = Callable[[Exception], object]
AT_ONCE = 16
_LOG = logging.getLogger("rtspecinv")


class PoolInverter(Protocol):
    """Methods of a `StreamingInverter` that a pool uses."""

    batch_shape: tuple[int, ...]

    @property
    def latency(self) -> int:
        """Number of samples to drop at the beginning of each stream."""

    def push(self, magnitude: Any, /, *, streams: list[int]) -> Any:
        """Take frames `(n_streams, n_freq)`, return hops `(n_streams, hop_length)`."""

    def flush(self, n_samples: int | None = None, /, *, streams: list[int]) -> Any:
        """Return the remaining samples of some streams and reset these streams."""

    def reset(self, streams: list[int], /) -> None:
        """Return some streams to their initial state."""

    def check(self, magnitude: Any, /, *, streams: list[int]) -> None:
        """Raise the error that `push` would raise."""


class StreamPool:
    """Assigns the streams of one inverter to clients and pushes the frames of many streams together.

    The pool's thread takes one frame from each stream that has one, in order of arrival, from at most
    `at_once` streams, and gives each stream its hop. There is no clock: it pushes whenever a frame is queued.
    With the engine `numba` the samples of a stream equal those of a separate inverter to the bit.

    Args:
        inverter: a `StreamingInverter` or `MelInverter` with `batch_shape=(n_streams,)`; no one else may push
            to it.
        max_frames: largest number of frames of a stream that may wait, default: 8.
        at_once: largest number of streams pushed together, default: 16; with more, the hops of the first
            would wait longer.
        wake: function called in any thread when the pool has work; it must make another call of `work`
            happen. Default: the pool has a thread that works.
        observe: function called in the pool's thread after each push with the number of streams and the
            duration of the push in seconds; default: no function.

    Raises:
        TypeError, ValueError: a parameter is out of range, or the inverter has no batch of one axis.

    Examples:
        >>> import torch
        >>> from rtspecinv import STFT, StreamingInverter, StreamPool
        >>> inverter = StreamingInverter(STFT(1024, 256), batch_shape=(64,))
        >>> hops = []
        >>> with StreamPool(inverter) as pool, pool.join(hops.append) as stream:
        ...     stream.push(torch.ones(513))
        ...     stream.flush()
        ...     done = stream.wait()
        >>> sum(len(hop) for hop in hops) == 256 + inverter.latency + inverter.length(0)
        True
    """

    def __init__(
        self,
        inverter: PoolInverter,
        *,
        max_frames: int = 8,
        at_once: int = AT_ONCE,
        wake: Callable[[], object] | None = None,
        observe: Callable[[int, float], object] | None = None,
    ) -> None:
        able(("push", "flush", "reset", "check"), "pass a StreamingInverter", inverter=inverter)
        if len(inverter.batch_shape) != 1:
            raise ValueError(
                f"Parameter inverter has batch_shape={inverter.batch_shape}, not one axis: make it with "
                "batch_shape=(64,) for up to 64 streams"
            )
        for name, called in (("wake", wake), ("observe", observe)):
            if called is not None:
                function(**{name: called})
        self.inverter, self.n_streams = inverter, math.prod(inverter.batch_shape)
        self.max_frames, self._at_once = count(1, max_frames=max_frames), count(1, at_once=at_once)
        self._observe = observe
        self._lock = threading.Lock()
        self._free = deque(range(self.n_streams))
        self._ready: deque[PooledStream] = deque()  # each stream once, while it has requests
        self._streams: set[PooledStream] = set()
        self._failure: BaseException | None = None
        self._bell = Bell()
        self._worker = Worker("rtspecinv pool", self._step, self._bell, self._end)
        self._has_thread, self._wake = wake is None, wake or self._bell.ring

    def __len__(self) -> int:
        """Return the number of streams in use."""
        return len(self._streams)

    def join(self, receive: Receive, *, refuse: Refuse | None = None) -> PooledStream:
        """Return a free stream in its initial state.

        Args:
            receive: function called in the pool's thread with each array of samples `(n_samples,)`, in order,
                one hop per push. It must not wait, because all other streams would wait, too. If it raises,
                the stream leaves the pool and keeps the exception as its `failure`.
            refuse: function called in place of `receive`, in order, with the error of a rejected frame;
                default: `PooledStream.push` checks the frame in the caller's thread and raises the error.

        Raises:
            queue.Full: all streams are in use.
            RuntimeError: the pool has been closed, or its inverter has failed.
        """
        function(receive=receive)
        if refuse is not None:
            function(refuse=refuse)
        with self._lock:
            self._check_open()
            if not self._free:
                raise queue.Full(f"All {self.n_streams} streams of the pool are in use: join later")
            stream = PooledStream(self, self._free.popleft(), receive, refuse)
            self._streams.add(stream)
            self._add(stream, (_RESET, None))
        if self._has_thread:
            self._worker.start()
        return stream

    def work(self) -> bool:
        """Push the frames that wait, one of each stream and at most `at_once`; return whether more wait.

        It is for pools with `wake`. It calls `receive` in the caller's thread, and may be called from one
        thread at a time.
        """
        try:
            self._do(self._take())
        except BaseException as error:
            self._failure = error
            self._worker.leave()
            self._end()
            if not isinstance(error, Exception):
                raise
        return bool(self._ready)

    def close(self) -> None:
        """Accept no more frames, end the thread after its current push, and wait until it has ended."""
        self._worker.stop()
        self._end()

    def __enter__(self) -> StreamPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def failure(self) -> BaseException | None:
        """Exception that ended the pool, or None."""
        return self._failure

    def _check_open(self) -> None:
        if self.failure is not None:
            raise RuntimeError(f"The inverter of the pool has failed: {self.failure}") from self.failure
        if self._worker.is_stopping:
            raise RuntimeError("The pool has been closed: make a new one")

    def _add(self, stream: PooledStream, *acts: tuple[str, Any]) -> None:
        """Queue requests of a stream; the caller holds the lock."""
        if not stream._acts:
            self._ready.append(stream)
        stream._acts.extend(acts)
        self._wake()

    def _release(self, stream: PooledStream) -> None:
        """Make the position of a stream free again; the caller holds the lock."""
        if stream in self._streams:
            self._streams.remove(stream)
            self._free.append(stream._position)
        stream._acts.clear()
        for over in stream._waits:
            over.set()

    def _step(self) -> None:
        if not self.work():
            self._bell.wait()

    def _do(self, taken: list[tuple[PooledStream, str, Any]]) -> None:
        frames = [(stream, frame) for stream, act, frame in taken if act is _FRAME]
        owed = [stream for stream, act, _ in taken if act is _FLUSH]
        anew = [stream._position for stream, act, _ in taken if act is _RESET]
        if anew:
            self.inverter.reset(anew)
        for has_phase in (False, True):  # a magnitude among complex frames would get phase 0
            if alike := [pair for pair in frames if (pair[1].dtype.kind == "c") == has_phase]:
                self._push(alike)
        if owed:
            self._deliver(owed, self.inverter.flush(streams=_positions(owed)), n_frames=0)
        for stream, act, called in taken:
            if act is _CALL:
                stream._give(called)

    def _push(self, frames: list[tuple[PooledStream, Array]]) -> None:
        begin, streams = time.perf_counter(), [stream for stream, _ in frames]
        try:
            stacked = np.stack([frame for _, frame in frames])
            hops = self.inverter.push(stacked, streams=_positions(streams))
        except (ValueError, TypeError):
            good = [pair for pair in frames if not self._refuses(*pair)]
            if len(good) == len(frames):
                raise
            if good:
                self._push(good)
            return
        if self._observe is not None:
            self._observe(len(streams), time.perf_counter() - begin)
        self._deliver(streams, hops, n_frames=1)

    def _refuses(self, stream: PooledStream, frame: Array) -> bool:
        """Return whether the inverter rejects a frame; if so, pass the error to the stream."""
        try:
            self.inverter.check(frame[None], streams=[stream._position])
        except (ValueError, TypeError) as error:
            if stream._refuse is not None and self._is_wanted(stream, n_frames=1):
                stream._give(stream._refuse, error)
            return True
        return False

    def _take(self) -> list[tuple[PooledStream, str, Any]]:
        """Remove and return the next request of each stream that has one, of at most `at_once` streams."""
        taken = []
        with self._lock:
            for _ in range(min(self._at_once, len(self._ready))):
                stream = self._ready.popleft()
                if stream._acts:
                    act, value = stream._acts.popleft()
                    taken.append((stream, act, value))
                    stream._turn = stream._era
                    if stream._acts:
                        self._ready.append(stream)
                    if act is _FLUSH:  # takes as long as several pushes
                        break
        return taken

    def _deliver(self, streams: list[PooledStream], samples: Any, n_frames: int) -> None:
        for stream, row in zip(streams, samples.detach().cpu().numpy(), strict=True):
            if self._is_wanted(stream, n_frames) and len(row):
                stream._give(stream._receive, row)

    def _is_wanted(self, stream: PooledStream, n_frames: int) -> bool:
        """Return whether a stream still receives the results of frames, which then no longer wait."""
        with self._lock:
            is_wanted = stream._turn == stream._era and stream in self._streams
            stream._n_waiting -= n_frames if is_wanted else 0
        return is_wanted

    def _end(self) -> None:
        with self._lock:
            for stream in [*self._streams]:
                stream.failure = stream.failure or self.failure
                self._release(stream)


class PooledStream:
    """One stream of a `StreamPool`, usable until it leaves; see `StreamPool.join`.

    Attributes:
        failure: exception of `receive` or of the pool's thread that ended the stream, or None.
    """

    def __init__(
        self, pool: StreamPool, position: int, receive: Receive, refuse: Refuse | None = None
    ) -> None:
        self.failure: BaseException | None = None
        self._pool, self._position, self._receive, self._refuse = pool, position, receive, refuse
        self._acts: deque[tuple[str, Any]] = deque()
        self._n_waiting = 0  # number of frames whose hops have not been delivered
        self._era = self._turn = 0  # number of resets; hops of frames before the last reset are dropped
        self._waits: set[threading.Event] = set()

    @property
    def position(self) -> int:
        """Index of the stream in its pool, from 0; later streams reuse it."""
        return self._position

    @property
    def latency(self) -> int:
        """Number of samples to drop at the beginning."""
        return self._pool.inverter.latency

    @property
    def n_waiting(self) -> int:
        """Number of frames accepted whose hop `receive` has not got yet."""
        return self._n_waiting

    def push(self, magnitude: Any) -> None:
        """Queue a copy of a frame `(n_freq,)`, or `(n_mels,)`; `receive` is called with its hop.

        Raises:
            queue.Full: `max_frames` frames already wait; the frame is rejected.
            ValueError, TypeError: as in `StreamingInverter.push`, unless `refuse` is called instead; the next
                valid frame is accepted.
            RuntimeError: the stream has left, or the pool has ended.
        """
        frame, pool = _array(magnitude), self._pool
        if self._refuse is None:
            pool.inverter.check(frame[None], streams=[self._position])
        with pool._lock:
            self._check_lent()
            if self._n_waiting >= pool.max_frames:
                raise queue.Full(
                    f"{pool.max_frames} frames of this stream wait already: push later, or make the pool "
                    "with more max_frames"
                )
            self._n_waiting += 1
            pool._add(self, (_FRAME, frame))

    def flush(self) -> None:
        """Give the remaining samples to `receive`, after those of all frames, and reset the stream."""
        self._queue(_FLUSH)

    def call(self, function_: Callable[[], object]) -> None:
        """Call a function in the pool's thread after all earlier requests have been completed."""
        function(function_=function_)
        self._queue(_CALL, function_)

    def reset(self) -> None:
        """Drop the waiting frames and reset the stream; `receive` gets no samples of earlier frames.

        A call of `receive` that has already begun in the pool's thread is completed.
        """
        with self._pool._lock:
            self._check_lent()
            kept = [act for act in self._acts if act[0] is _CALL]
            was_ready = bool(self._acts)
            self._acts.clear()
            self._n_waiting, self._era = 0, self._era + 1
            self._acts.extend([(_RESET, None), *kept])
            if not was_ready:
                self._pool._ready.append(self)
            self._pool._wake()

    def leave(self) -> None:
        """Return the stream to the pool and drop its waiting frames; leaving twice is harmless."""
        with self._pool._lock:
            self._pool._release(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds until all requests are completed; return whether they are.

        In a pool with `wake`, another thread must call `work` meanwhile.
        """
        over, reached = threading.Event(), []

        def reach() -> None:
            reached.append(True)
            over.set()

        with self._pool._lock:
            self._waits.add(over)
        try:
            self.call(reach)
            over.wait(timeout)
        finally:
            self._waits.discard(over)
        return bool(reached)

    def __enter__(self) -> PooledStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def _queue(self, act: str, value: Any = None) -> None:
        with self._pool._lock:
            self._check_lent()
            self._pool._add(self, (act, value))

    def _check_lent(self) -> None:
        self._pool._check_open()
        if self not in self._pool._streams:
            because = f": {self.failure}" if self.failure else ""
            raise RuntimeError(f"This stream has left its pool{because}: join again") from self.failure

    def _give(self, function_: Callable[..., object], *values: Any) -> None:
        """Call a function of the user; if it raises, this stream leaves the pool, and other streams stay."""
        try:
            function_(*values)
        except Exception as error:
            self.failure = error
            _LOG.warning("a stream leaves its pool, because its function raised %r", error)
            self.leave()


_FRAME, _FLUSH, _RESET, _CALL = "frame", "flush", "reset", "call"


def _positions(streams: list[PooledStream]) -> list[int]:
    return [stream._position for stream in streams]


def _array(frame: Any) -> Array:
    """Return a copy of a tensor or array as an array."""
    copied = copy_of(frame)
    array: Array = copied.cpu().numpy() if hasattr(copied, "cpu") else copied
    return array
