"""Playback loop of a player: each step inverts a frame, writes samples or waits.

    pushed --> inbox --> inverter --> sink's queue --> device
                             ^            |
                             |            +-- more than queue_seconds: the device must run; wait
          a frame made up ---+------------+-- less than reserve_seconds and no frame: late

The number of samples queued in the sink controls every step, so the clock of the device sets the pace. A sink
without the attribute `queued` receives all samples at once, and no frame is late.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol

from rtspecinv.live.inbox import End, Inbox, arrived, is_held_here
from rtspecinv.live.iterations import IterationControl
from rtspecinv.live.stream import Inverter, Length, Stream

LATE = ("silence", "hold")
FADE, FADE_FRAMES = 0.5, 8  # gain from one faded frame to the next, and their number
REMEMBERED = 1000  # number of pushes in the statistics of the real-time factor
SHORTEST_WAIT, LONGEST_WAIT = 0.001, 0.05  # seconds
STANDSTILL = 0.1  # seconds without a frame, after which the device starts with a shorter queue


class LiveInverter(Inverter, Protocol):
    """Methods of a streaming inverter that `Player` uses."""

    n_iter: int

    def check(self, magnitude: Any, /) -> None:
        """Raise the error that `push` would raise for this frame; the state is not changed."""


class Pump:
    """Inverts the frames of an inbox and writes the samples to a sink in time.

    inverter: streaming inverter that only the pump uses.
    sink: output of the samples.
    inbox: queue of the frames.
    iterations: control of the number of iterations.
    late: output while a frame is late: "hold" repeats the last frame, "silence" fades it to zero.
    sample_rate: sample rate, Hz; with None no frame is late.
    queue_seconds: target length of the sink's queue, seconds.
    reserve_seconds: length of the sink's queue below which a missing frame is late, seconds.
    length: number of samples of the sound, without those of repeated or faded frames; default: all.
    wait: function that waits for the given seconds (None: without limit) or until the inbox's bell rings,
        default: that of the bell.
    clock: function that returns the time in seconds, for the real-time factor, default: `perf_counter`.
    """

    def __init__(
        self,
        inverter: LiveInverter,
        sink: Any,
        inbox: Inbox,
        iterations: IterationControl,
        *,
        late: str,
        sample_rate: float | None,
        queue_seconds: float,
        reserve_seconds: float,
        length: Length = None,
        wait: Callable[[float | None], object] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.stream = Stream(inverter, sink, clock, self._with_made_up)
        self._length = length
        self.inverter, self.sink, self.inbox, self.iterations = inverter, sink, inbox, iterations
        self.sample_rate = sample_rate
        self.is_paced = sample_rate is not None and getattr(sink, "queued", None) is not None
        rate = sample_rate or math.nan
        self._most, self._least = queue_seconds * rate, reserve_seconds * rate
        self._holds = late == "hold"
        self._wait = inbox.bell.wait if wait is None else wait
        self._clock = clock
        self._one_thread = getattr(inverter, "one_thread", nullcontext)
        self._at_sink = threading.RLock()  # held during a write to the sink and during its `clear`
        self._cutter: int | None = None  # thread that clears the sink
        self._uncleared = False  # whether the sink must be cleared after a cut
        self.factors: deque[float] = deque(maxlen=REMEMBERED)
        self.n_frames = self.n_held = self.n_late = 0
        self._forget()

    def _forget(self) -> None:
        self._last: Any = None  # last frame pushed
        self._tail: deque[Any] = deque()  # remaining hops at the end of a sound
        self._begun = False  # whether the queue has reached `_least` samples
        self._n_missing = 0  # frames made up since the last frame arrived
        self._written_at = 0.0  # time of the last write, by the clock
        self._n_made_up = 0  # frames made up in this sound

    def _with_made_up(self) -> int | None:
        """Return the length of the sound in samples, including repeated or faded frames; None if unknown."""
        length = self._length() if callable(self._length) else self._length
        return None if length is None else length + self._n_made_up * self.stream.hop_length

    def step(self) -> None:
        """Do one step: write remaining samples, invert a frame, replace a late frame, end, or wait."""
        queued = self._queued()
        has_room = not self.is_paced or queued < self._most
        if self._tail and has_room:
            return self._write(self._tail.popleft())
        cut, frame, end = self.inbox.take(has_room and not self._tail)
        if cut:
            self._restart()
        if frame is not None:
            frame = arrived(frame)
            self._n_missing, self._last = 0, frame
            self.n_frames += 1
            self._invert(frame)
        elif end is not None and not self._tail:
            self._end(end)
        elif end is None and self._begun and queued < self._least:
            self._make_up()
        else:
            if self._begun and (not has_room or self._clock() - self._written_at >= STANDSTILL):
                self.sink.start()  # the sink may wait for more samples than it will receive
            self._wait(self._seconds_to_wait(queued))

    def cut(self) -> None:
        """Drop all frames pushed so far and clear the sink.

        The call does not wait for another thread: if that thread is writing to the sink, it clears the sink
        after the write.
        """
        self.inbox.cut()
        if self._cutter is None:  # otherwise another thread is clearing it now
            self._uncleared = True
        self._clear()

    def _clear(self) -> None:
        """Clear the sink after a cut, unless a thread is writing to it or clearing it."""
        if self._uncleared and not self.is_held_up_here and self._at_sink.acquire(blocking=False):
            self._cutter, self._uncleared = threading.get_ident(), False
            try:
                self.sink.clear()
            finally:
                self._cutter = None
                self._at_sink.release()

    @property
    def is_held_up_here(self) -> bool:
        """Whether this thread is in the sink's `clear` or `write`, so that another write waits for it."""
        return is_held_here(self._at_sink)

    def end(self) -> None:
        """Wake all waiting callers, and restore the inverter's number of iterations."""
        self.inbox.shut()
        self.inverter.n_iter = self.iterations.wanted

    def _queued(self) -> int:
        return self.sink.queued if self.is_paced else 0

    def _seconds_to_wait(self, queued: int) -> float | None:
        """Return the seconds until the sink's queue needs a step; None to wait for a call of the player."""
        if not self.is_paced:
            return None
        if len(self.inbox) or self._tail:
            level = self._most
        elif self._begun:
            level = self._least
        else:
            return None
        assert self.sample_rate is not None
        return min(max((queued - level) / self.sample_rate, SHORTEST_WAIT), LONGEST_WAIT)

    def _restart(self) -> None:
        self._clear()
        self.stream.restart()
        self._forget()

    def _make_up(self) -> None:
        """Invert the last frame again, repeated or faded, in place of a late one."""
        self.n_late += not self._n_missing
        self.n_held += 1
        self._n_made_up += 1
        self._n_missing += 1
        gain = 1.0 if self._holds else FADE**self._n_missing if self._n_missing <= FADE_FRAMES else 0.0
        self._invert(abs(self._last) * gain)  # abs: the phase of a complex frame belongs to another time

    def _invert(self, frame: Any) -> None:
        before = self.stream.work_seconds
        with self._one_thread():
            samples = self.stream.push(frame)
        self._write(samples)
        self._choose_iterations(self.stream.work_seconds - before)

    def _choose_iterations(self, work_seconds: float) -> None:
        if self.sample_rate is None:
            return
        factor = work_seconds * self.sample_rate / self.stream.hop_length
        self.factors.append(factor)
        if self.is_paced:
            late = self._begun and len(self.inbox) > 0 and self._queued() < self._least
            n_iter = self.iterations.next(self.inverter.n_iter, late, factor)
            if n_iter != self.inverter.n_iter:
                self.inverter.n_iter = n_iter

    def _write(self, samples: Any) -> None:
        with self._at_sink:
            if self.inbox.is_cut:
                return
            self.stream.write(samples)
        self._clear()  # `cut` may have been called meanwhile
        self._written_at = self._clock()
        if self.is_paced and not self._begun:
            self._begun = self._queued() >= self._least

    def _end(self, end: End) -> None:
        """Flush the inverter or, if that is done, drain the sink and mark `end` as reached."""
        if self._last is not None:
            with self._one_thread():
                samples = self.stream.flush()
            self._last = None
            hop_length = self.stream.hop_length
            self._tail.extend(
                samples[..., at : at + hop_length] for at in range(0, samples.shape[-1], hop_length)
            )
        else:
            self.sink.drain()
            self._forget()
            self.inbox.reached(end)
