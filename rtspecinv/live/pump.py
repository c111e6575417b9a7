"""What the thread of a player does, one step at a time.

    pushed --> inbox --> inverter --> sink's queue --> device
                             ^            |
                             |            +-- more than queue_seconds: the device must run; wait
          a frame made up ---+------------+-- less than reserve_seconds and no frame: late

Everything follows from what is queued in the sink, so the device's clock is the only one. A sink that does
not say what is queued takes all as it comes, and nothing is ever late.
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
FADE, FADE_FRAMES = 0.5, 8  # silence begins with frames that each have so much of the one before
REMEMBERED = 1000  # pushes that the real-time factor is taken over
SHORTEST_WAIT, LONGEST_WAIT = 0.001, 0.05  # seconds
STANDSTILL = 0.1  # seconds without a frame, after which a device that waits for more need not wait any longer


class LiveInverter(Inverter, Protocol):
    """What `Player` needs of a streaming inverter."""

    n_iter: int

    def check(self, magnitude: Any, /) -> None:
        """Raise what `push` would raise, and change nothing."""


class Pump:
    """Takes frames from `inbox` through `stream`'s inverter into its sink, in time for it.

    late: what sounds when frames come late: "hold" pushes the last one again, "silence" fades it to zero.
    queue_seconds, reserve_seconds: most and least that should be queued in the sink.
    length: samples of the sound until it ends, those of frames made up apart.
    wait: sleeps for some seconds, None for ever, or until the inbox's bell rings.
    clock: tells seconds, for the real-time factor.
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
        self._at_sink = threading.RLock()  # held for a write, and for a clear by the one who cuts
        self._cutter: int | None = None  # thread that clears the sink
        self._uncleared = False  # there was a cut, but the sink has not been cleared yet
        self.factors: deque[float] = deque(maxlen=REMEMBERED)
        self.n_frames = self.n_held = self.n_late = 0
        self._forget()

    def _forget(self) -> None:
        self._last: Any = None  # frame
        self._tail: deque[Any] = deque()  # hops that were owed at the end
        self._begun = False  # the sink has had its reserve once
        self._n_missing = 0  # frames made up since the last one came
        self._written_at = 0.0  # seconds of the clock
        self._n_made_up = 0  # frames

    def _with_made_up(self) -> int | None:
        """Samples that the sound is to have, those of frames made up too."""
        length = self._length() if callable(self._length) else self._length
        return None if length is None else length + self._n_made_up * self.stream.hop_length

    def step(self) -> None:
        """Do the next thing: invert a frame that came or one made up, write, end, or wait."""
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
                self.sink.start()  # which may wait for more than it will be given now
            self._wait(self._seconds_to_wait(queued))

    def cut(self) -> None:
        """Forget all that was pushed, and what the sink has to play.

        It waits for nobody: a write that is at work clears the sink itself when it is done.
        """
        self.inbox.cut()
        if self._cutter is None:  # or another thread clears what there is now
            self._uncleared = True
        self._clear()

    def _clear(self) -> None:
        """Clear the sink, if it is to be, and if nobody writes."""
        if self._uncleared and not self.is_held_up_here and self._at_sink.acquire(blocking=False):
            self._cutter, self._uncleared = threading.get_ident(), False
            try:
                self.sink.clear()
            finally:
                self._cutter = None
                self._at_sink.release()

    @property
    def is_held_up_here(self) -> bool:
        """Whether this thread is in the sink's `clear` or `write`, so that the next write waits for it."""
        return is_held_here(self._at_sink)

    def end(self) -> None:
        """Let go all who wait, and leave the inverter with the iterations that it had."""
        self.inbox.shut()
        self.inverter.n_iter = self.iterations.wanted

    def _queued(self) -> int:
        return self.sink.queued if self.is_paced else 0

    def _seconds_to_wait(self, queued: int) -> float | None:
        """Time until the queue is where something must be done; None if only a caller can change anything."""
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
        """Fill in for a frame that did not come."""
        self.n_late += not self._n_missing
        self.n_held += 1
        self._n_made_up += 1
        self._n_missing += 1
        gain = 1.0 if self._holds else FADE**self._n_missing if self._n_missing <= FADE_FRAMES else 0.0
        self._invert(abs(self._last) * gain)  # abs: of a complex frame, the phase is that of another time

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
        self._clear()  # if it was cut meanwhile
        self._written_at = self._clock()
        if self.is_paced and not self._begun:
            self._begun = self._queued() >= self._least

    def _end(self, end: End) -> None:
        """Play what is owed, then wait until all is heard and begin anew."""
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
