"""Playback of frames: `play` for frames that can wait, `Player` for frames that arrive in real time."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from rtspecinv.audio.sinks import Sink
from rtspecinv.common.checks import MOST_RATE, able, choice, count, finite, function, iterable
from rtspecinv.common.warning import warn
from rtspecinv.levels import no_samples
from rtspecinv.live.inbox import FULL, Bell, Inbox, copy_of, on_its_way
from rtspecinv.live.iterations import IterationControl
from rtspecinv.live.pump import LATE, LiveInverter, Pump
from rtspecinv.live.stream import Inverter, Length, Progress, Stream, checked_length
from rtspecinv.live.worker import Worker

INVERTER, SINK = ("push", "flush", "reset"), ("write", "drain")  # methods that are required
MOST_FRAMES = 2**24
MOST_SECONDS = 3600.0
_PlayerType = TypeVar("_PlayerType", bound="Player")


def play(
    frames: Iterable[Any],
    inverter: Inverter,
    sink: Sink,
    *,
    length: Length = None,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Push every frame through `inverter`, write the sound to `sink` and wait until it has been played.

    frames: magnitudes `(*batch, n_freq)`, where `batch` is the inverter's batch shape: `()` or `(channels,)`.
    length: number of samples to write, such as that of the recording, or a function that returns it (None
        while it is unknown), default: what the frames cover, in whole hops. Samples after the last frame are
        silence.
    progress: function that is called after each frame with the state of the playback, default: none.

    Returns the state after the last frame.

    The inverter is reset first. The first `inverter.latency` samples are dropped, so the written samples are
    exactly those of a batch run. The sink stays open. The function warns if the frames cover no samples, and
    if every sample is 0 although not all frames are.

    Raises `TypeError` for a parameter of the wrong type, and the errors of inverter and sink.
    """
    iterable(frames=frames)
    able(INVERTER, "pass a StreamingInverter", inverter=inverter)
    able(SINK, "pass a sink, such as ArraySink()", sink=sink)
    if progress is not None:
        function(progress=progress)
    stream = Stream(inverter, sink, length=checked_length(length))
    done = play_through(frames, stream, progress)
    if done.n_frames and not done.n_samples:
        warn(no_samples(done.n_frames))
    stream.warn_of_silence()
    return done


def play_through(
    frames: Iterable[Any], stream: Stream, progress: Callable[[Progress], None] | None = None
) -> Progress:
    """Push every frame through a stream and write the sound; see `play`."""

    def write(samples: Any) -> None:
        stream.write(samples)
        if progress is not None:
            progress(stream.progress)

    for frame in frames:
        write(stream.push(frame))
    write(stream.flush())
    stream.sink.drain()
    return stream.progress


@dataclass(frozen=True)
class PlayerStats:
    """Statistics of a `Player` at one moment."""

    n_frames: int  # frames pushed and inverted
    n_samples: int  # samples written to the sink, per channel
    n_waiting: int  # frames pushed but not inverted yet
    n_dropped: int  # frames dropped because max_frames frames waited
    n_held: int  # frames that replaced late ones: the last frame, repeated or faded
    n_late: int  # times that a frame was late; each time, one or more frames replaced it
    n_iter: int  # iterations per push at this moment
    underflows: int  # gaps in the output of the device, which had no samples to play
    real_time_factor_p50: float  # seconds of work per second of sound, median of the last 1000 pushes
    real_time_factor_p99: float
    queue_ms: float  # length of the sink's queue
    latency_ms: float  # delay of a frame pushed now: waiting frames, inverter, sink and device


class Player:
    """Plays magnitude frames as they arrive, at any pace and from any thread.

    The player's own thread inverts the frames that were `push`ed and writes the sound to `sink` as the sink
    plays it. If no frame is late, the sound is bit-identical to that of `play`.

    inverter: `StreamingInverter` with batch shape `()` or `(channels,)`; only the player may push to it.
    sink: output of the sound; it stays open. A sink without a device never waits, so no frame is late.
    full: reaction of `push` when `max_frames` frames wait, default: "block". "block" waits until there is
        room, "drop_oldest" drops the oldest frame, "raise" raises `queue.Full`.
    late: output while a frame is late, default: "silence". With "silence" the last frame fades out within 8
        hops, with "hold" it is repeated.
    max_frames: largest number of waiting frames, default: 8; a smaller one shortens the delay, a larger one
        compensates for irregular arrival.
    queue_seconds: target length of the sink's queue, also before playback starts, seconds, default: 0.1; a
        busy machine needs a longer queue.
    reserve_seconds: length of the sink's queue below which a missing frame is late, at least one block of the
        device, seconds, default: half of `queue_seconds`.
    least_iter: smallest number of iterations per push, 0 to `inverter.n_iter`, default: 1; the player reduces
        the number while inversion is late, and increases it up to `inverter.n_iter` when there is time.
    sample_rate: sample rate, Hz, default: that of the sink, if it has one.
    length: number of samples of the sound, as in `play`, default: what the frames cover; each repeated or
        faded frame adds a hop.

    Frames wait before they are inverted, so the delay never exceeds the sum of `max_frames` hops,
    `inverter.latency`, `queue_seconds`, one more hop and the delay of the device. If the player's thread
    fails, such as with a `DeviceError`, the next call raises its error. As a context manager, also with
    `async`, the player closes at the end and aborts on an exception. Closing warns if every sample was 0
    although not all frames were.

    Examples:
        >>> import torch
        >>> from rtspecinv import STFT, ArraySink, Player, StreamingInverter
        >>> stft, sink = STFT(), ArraySink()
        >>> with Player(StreamingInverter(stft), sink) as player:
        ...     for frame in stft.magnitude(torch.randn(25600)).mT:
        ...         player.push(frame)
        >>> sink.samples.shape
        (25600,)
    """

    def __init__(
        self,
        inverter: LiveInverter,
        sink: Sink,
        *,
        full: str = "block",
        late: str = "silence",
        max_frames: int = 8,
        queue_seconds: float = 0.1,
        reserve_seconds: float | None = None,
        least_iter: int = 1,
        sample_rate: float | None = None,
        length: Length = None,
    ) -> None:
        able((*INVERTER, "check"), "pass a StreamingInverter", inverter=inverter)
        able(SINK, "pass a sink, such as ArraySink()", sink=sink)
        sample_rate = getattr(sink, "sample_rate", None) if sample_rate is None else sample_rate
        if sample_rate is not None:
            sample_rate = finite(0, MOST_RATE, above=True, sample_rate=sample_rate)
        queue_seconds = finite(0, MOST_SECONDS, above=True, queue_seconds=queue_seconds)
        if reserve_seconds is None:
            reserve_seconds = queue_seconds / 2
        reserve_seconds = finite(0, MOST_SECONDS, reserve_seconds=reserve_seconds)
        if not 0 < reserve_seconds <= queue_seconds:
            raise ValueError(
                f"Parameter {reserve_seconds=} is not > 0 and <= {queue_seconds=}: use None for half of it"
            )
        self._inverter, self._sink = inverter, sink
        self._inbox = Inbox(count(1, MOST_FRAMES, max_frames=max_frames), choice(FULL, full=full))
        most_iter = max(1, inverter.n_iter)
        self._iterations = IterationControl(inverter.n_iter, count(0, most_iter, least_iter=least_iter))
        self._pump = Pump(
            inverter,
            sink,
            self._inbox,
            self._iterations,
            late=choice(LATE, late=late),
            sample_rate=sample_rate,
            queue_seconds=queue_seconds,
            reserve_seconds=reserve_seconds,
            length=checked_length(length),
        )
        self._worker = Worker("rtspecinv player", self._pump.step, self._inbox.bell, self._pump.end)
        # If a player is not closed, its thread ends when it is collected; the thread has no reference to it.
        weakref.finalize(self, self._worker.leave).atexit = False

    # -- methods for callers in any thread -----------------------------------------------------------------

    def push(self, magnitude: Any, *, timeout: float | None = None) -> None:
        """Queue a copy of one frame, `(n_freq,)` or `(channels, n_freq)`, numpy or torch.

        With `full="block"` the call waits until there is room; it raises `TimeoutError` after `timeout`
        seconds. Raises `ValueError` and `TypeError` as the inverter does; the frame is then rejected.
        """
        if timeout is not None:
            timeout = finite(0, threading.TIMEOUT_MAX, timeout=timeout)
        frame = self._accepted(magnitude)
        end = math.inf if timeout is None else time.monotonic() + timeout
        while not self._inbox.offer(frame, (room := Bell()).ring):
            self._check()
            self._refuse_to_wait("push() with full='block'", "use another value of full")
            if not room.wait(None if timeout is None else end - time.monotonic()):
                raise TimeoutError(
                    f"The queue of frames was full for {timeout=:g} seconds: use a longer timeout, "
                    "or full='drop_oldest'"
                )
            self._check()

    async def push_async(self, magnitude: Any) -> None:
        """Queue a copy of one frame, as `push` does; the event loop runs other tasks while the call waits."""
        frame = self._accepted(magnitude)
        loop = asyncio.get_running_loop()
        while not self._inbox.offer(frame, partial(loop.call_soon_threadsafe, (room := asyncio.Event()).set)):
            self._check()
            self._refuse_to_wait("push_async() with full='block'", "use another value of full")
            await room.wait()
            self._check()

    def drain(self) -> None:
        """Wait until all frames pushed so far have been played; the next frame begins a new sound.

        Frames that other threads push meanwhile are played afterwards.
        """
        self._check()
        self._refuse_to_wait("drain()", "reset() and abort() do not wait")
        self._wait_for_end(last=False)

    async def drain_async(self) -> None:
        """Wait as `drain` does; the event loop runs other tasks while the call waits."""
        self._check()
        self._refuse_to_wait("drain_async()", "reset() and abort() do not wait")
        await self._wait_for_end_async(last=False)

    def reset(self) -> None:
        """Fade out within one block of the device, drop all frames pushed so far, and reset the inverter.

        A file sink keeps the samples it has written.
        """
        self._check()
        self._pump.cut()

    def close(self) -> None:
        """Play all frames pushed so far and stop; the sink stays open. Closing twice is harmless.

        From then on `push` raises `ValueError`, also in threads that wait for room. `close` does not wait
        for the end of playback in two cases, where it would wait for itself: if the sink or the inverter
        calls it in the player's thread, and if it is called by a signal handler that interrupted a call of
        the player for which the player's thread waits.
        """
        if self._waits_for_itself:
            self._inbox.end(self._worker.leave, last=True)
            return
        try:
            if not self._worker.is_stopping:
                self._check_process()
                self._wait_for_end(last=True)
                self._worker.leave()
                self._pump.stream.warn_of_silence()
        finally:
            self.abort()

    def abort(self) -> None:
        """Stop playback at once; the sink stays open.

        The call waits until the player's thread has finished its current push with all iterations, except
        where `close` does not wait.
        """
        if self._worker.is_elsewhere:
            return
        was_stopping, self._worker.is_stopping = self._worker.is_stopping, True
        if not was_stopping:
            with suppress(Exception):  # the sink may be closed, or its device may have vanished
                self._pump.cut()
        if self._waits_for_itself:
            self._worker.leave()
        else:
            self._worker.stop()

    @property
    def n_iter(self) -> int:
        """Number of iterations per push when there is time for them; it may be set at any time."""
        return self._iterations.wanted

    @n_iter.setter
    def n_iter(self, n_iter: int) -> None:
        n_iter = count(n_iter=n_iter)
        self._inverter.n_iter = n_iter  # may raise an error
        self._iterations.wanted = n_iter

    @property
    def stats(self) -> PlayerStats:
        """Statistics at this moment."""
        self._check_process()
        pump, sink = self._pump, self._sink
        rate = pump.sample_rate or math.nan
        factors = np.array(copy.copy(pump.factors)) if pump.factors else np.full(1, math.nan)
        queue_seconds = getattr(sink, "queued", 0) / rate
        waiting = len(self._inbox) * pump.stream.hop_length + self._inverter.latency
        p50, p99 = np.percentile(factors, [50, 99])
        return PlayerStats(
            n_frames=pump.n_frames,
            n_samples=pump.stream.n_samples,
            n_waiting=len(self._inbox),
            n_dropped=self._inbox.n_dropped,
            n_held=pump.n_held,
            n_late=pump.n_late,
            n_iter=self._inverter.n_iter,
            underflows=getattr(sink, "underflows", 0),
            real_time_factor_p50=float(p50),
            real_time_factor_p99=float(p99),
            queue_ms=1000 * queue_seconds,
            latency_ms=1000 * (waiting / rate + getattr(sink, "latency_seconds", queue_seconds)),
        )

    def __enter__(self: _PlayerType) -> _PlayerType:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abort()

    async def __aenter__(self: _PlayerType) -> _PlayerType:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self._worker.is_stopping:
                self._check_process()
                await self._wait_for_end_async(last=True)
                self._worker.leave()
                self._pump.stream.warn_of_silence()
        finally:
            await asyncio.to_thread(self.abort)

    # -- calls of the player's thread ----------------------------------------------------------------------

    def _accepted(self, magnitude: Any) -> Any:
        """Return a checked copy of a frame, and start the thread; the caller may change the original."""
        self._check()
        self._inverter.check(magnitude)
        self._worker.start()
        return on_its_way(copy_of(magnitude))

    def _wait_for_end(self, *, last: bool) -> None:
        self._inbox.end((heard := Bell()).ring, last=last)
        if self._worker.has_started:
            heard.wait()
            self._check_failure()

    async def _wait_for_end_async(self, *, last: bool) -> None:
        heard, loop = asyncio.Event(), asyncio.get_running_loop()
        self._inbox.end(partial(loop.call_soon_threadsafe, heard.set), last=last)
        if self._worker.has_started:
            await heard.wait()
            self._check_failure()

    @property
    def _waits_for_itself(self) -> bool:
        """Whether the player's thread may wait for the caller, which must not wait for it; see `close`."""
        return (
            self._worker.is_current
            or self._worker.is_starting_here
            or self._inbox.is_held_here
            or self._pump.is_held_up_here
        )

    def _refuse_to_wait(self, what: str, way_out: str) -> None:
        if self._waits_for_itself:
            raise RuntimeError(
                f"{what} would wait for ever, because the player waits for its caller: the sink, the "
                f"inverter or a signal handler; {way_out}, or call it from another thread"
            )

    def _check(self) -> None:
        self._check_process()
        self._check_failure()
        if self._worker.is_stopping or self._inbox.is_closed:
            raise ValueError("The player is closed: make a new Player")

    def _check_failure(self) -> None:
        if self._worker.failure is not None:
            raise self._worker.failure

    def _check_process(self) -> None:
        if self._worker.is_elsewhere:
            raise RuntimeError(
                "The player was started in another process, and a fork does not copy its thread: make a new "
                "Player in this process"
            )
