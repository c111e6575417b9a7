"""Playing samples through the sound card."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from rtspecinv.audio.capture import Capture
from rtspecinv.audio.microphone import Recording
from rtspecinv.audio.portaudio import (
    MOST_CHANNELS,
    DeviceError,
    Watchdog,
    abandon,
    queue_of,
    rate_of,
    rtmixer_for,
    sounddevice,
    starting,
    stream_options,
    stream_seconds,
    undisturbed,
)
from rtspecinv.audio.resample import Resampler
from rtspecinv.audio.ring import open_ring
from rtspecinv.audio.sinks import Block, Sink, as_block
from rtspecinv.common.checks import count, finite

_RING_SECONDS = 8.0  # of silence, after which a device that is left alone rests
_FADE_SECONDS = 0.005
_AUDIBLE = 1e-3  # a jump between silence and less than this, -60 dB, does not click


class SoundDeviceSink(Sink):
    """Plays samples through a sound device as they are written: exactly these, one after another.

    sample_rate: in Hz; if the device refuses it, soxr resamples to the device's own.
    device: a number or a part of a name from `rtspecinv devices`; None is the system's default.
    latency: the device's own output buffering: `"low"`, `"high"` or seconds.
    queue_seconds: how much may wait to be played; `write` waits while that is full.
    prefill_seconds: how much must be queued before the device starts, and how far behind the device sound
        goes on after a gap; it doubles with every gap, up to half of the queue.
    block_length: samples the device takes at once, 0 leaves it to the device.
    backend: `"rtmixer"` copies to the device in C and is not held up by a busy interpreter, `"callback"`
        copies in Python; `"auto"` takes rtmixer where it is installed (`pip install "rtspecinv[live]"`).
    input_channels: if there are any, the stream is a duplex one: what the device records meanwhile is given
        by `microphone`, at the same pace as it plays where `device` is one for both. There is no resampling.

    Written samples are never changed. Where sound begins or ends other than in silence, 5 ms are put before
    or after it in which its first or last sample is faded in or out, so that nothing clicks. A gap because
    the writer is late is thus faded, too, counted in `underflows`, and delays what follows by its length.

    Any thread may write, one at a time; `clear`, `abort` and the attributes may be used from others.
    In asyncio: `await asyncio.to_thread(sink.write, samples)`, or `sink.write(samples)` itself where
    `sink.room` says that it will not wait.

    Raises `DeviceError` if PortAudio or the device is missing or refuses these settings, and from `write` and
    `drain` if the device stops.
    """

    def __init__(
        self,
        sample_rate: int,
        channels: int = 1,
        *,
        device: int | str | None = None,
        latency: float | str = "high",
        queue_seconds: float = 0.5,
        prefill_seconds: float = 0.05,
        block_length: int = 0,
        backend: str = "auto",
        input_channels: int = 0,
    ) -> None:
        self.sample_rate = sample_rate = rate_of(sample_rate)
        queue_seconds = queue_of(sample_rate, queue_seconds)
        prefill_seconds = finite(0, prefill_seconds=prefill_seconds)
        if prefill_seconds > queue_seconds:
            raise ValueError(f"It must be 0 <= {prefill_seconds=} <= {queue_seconds=}!")
        input_channels = count(0, MOST_CHANNELS, input_channels=input_channels)
        options = stream_options(device, channels, latency, block_length)
        self.channels: int = options["channels"]
        self.underflow_samples = 0  # of silence and fades in the gaps, at the device's rate
        self._underflow_seconds: deque[float] = deque(maxlen=10000)
        self._underflows = 0
        self._late_blocks = self._late_blocks_seen = 0  # those while there was sound, and all
        self._sounddevice = sounddevice()
        self._lock = threading.Lock()
        self._ring, self.device_rate = open_ring(
            self._sounddevice,
            rtmixer_for(backend),
            sample_rate,
            seconds=queue_seconds + _RING_SECONDS,
            options=options,
            input_channels=input_channels,
        )
        self._resampler = None if self.device_rate == sample_rate else self._open_resampler()
        delay = 0 if self._resampler is None else self._resampler.longest_delay
        self._queue_length = max(1, round(queue_seconds * self.device_rate)) + delay
        self._prefill = max(1, round(prefill_seconds * self.device_rate)) + delay
        fade_length = max(1, round(_FADE_SECONDS * self.device_rate))
        falling = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, fade_length + 1) / (fade_length + 1))
        self._fade_out: Block = falling.astype(np.float32)[:, np.newaxis]
        self._end = 0  # position behind the last sample written
        self._used = 0  # position up to which the ring holds sound, a fade included
        self._sounding = False  # sound goes on up to _end, so that the next sample must follow there
        self._clears = 0
        self._running = False
        self._closed = False
        self._recording = False  # so that the device has to run, even in silence
        capture = self._ring.capture
        self._microphone = _DuplexMicrophone(self, capture) if capture is not None else None
        self._watchdog = Watchdog(self._sounddevice, self._ring.stream, lambda: self._ring.claimed, "taken")

    # -- opening -------------------------------------------------------------------------------------------

    def _open_resampler(self) -> Resampler:
        try:
            return Resampler(self.sample_rate, self.device_rate, self.channels)
        except BaseException as error:
            self._ring.stream.close()
            if isinstance(error, ImportError):
                raise DeviceError(f"The device plays only at {self.device_rate} Hz. {error}") from error
            raise

    # -- what there is to know -----------------------------------------------------------------------------

    @property
    def _goes_on(self) -> bool:
        """Whether the next sample written follows the last one without a gap."""
        return self._sounding and self._ring.claimed <= self._end

    @property
    def _ahead(self) -> int:
        """Samples between the device and where the next one written goes."""
        ahead = self._end - self._ring.claimed  # one look, as the device goes on
        if self._sounding and ahead >= 0:
            return ahead
        return self._lead if self._running else 0

    @property
    def _room(self) -> int:
        """Samples that may be queued now; behind a gap at least half of the queue, however long the lead."""
        most = self._queue_length if self._goes_on else self._queue_length // 2
        return self._queue_length - min(self._ahead, most)

    @property
    def _held(self) -> int:
        """Samples that the resampler has not given yet, at the device's rate."""
        return self._resampler.delay if self._resampler is not None else 0

    @property
    def _lead(self) -> int:
        """Samples to leave to the device before sound starts anew, so that it hardly comes there first."""
        fade_length = len(self._fade_out)
        most = len(self._ring.samples) - self._queue_length - 3 * fade_length  # or a full queue does not fit
        lead = min(self._prefill, self._queue_length // 2)
        return min(max(lead, self._ring.block_length), most) + fade_length

    @property
    def queued(self) -> int:
        """Samples written but not yet taken by the device."""
        with self._lock:
            ahead = max(0, self._end - self._ring.claimed) if self._sounding else 0
            return round((ahead + self._held) * self.sample_rate / self.device_rate)

    @property
    def room(self) -> int:
        """Samples that `write` takes without waiting."""
        with self._lock:
            return max(0, (self._room - self._held) * self.sample_rate // self.device_rate)

    @property
    def latency_seconds(self) -> float:
        """Seconds until a sample written now is heard: the queue, the resampler and the device's buffers.

        Of these it knows what the device tells, and that they hold a block.
        """
        with self._lock:
            told = 0.0 if self._closed else stream_seconds(self._ring.stream, is_output=True)
            block_seconds = self._ring.block_length / self.device_rate
            return (self._ahead + self._held) / self.device_rate + max(told, block_seconds)

    @property
    def underflows(self) -> int:
        """Gaps: the writer was late and sound followed, or the device says that it was served late."""
        with self._lock:
            self._count_late_blocks()
            return self._underflows

    @property
    def late_blocks(self) -> int:
        """How many of the underflows the device told about: it was served late, or lost sound by itself."""
        with self._lock:
            self._count_late_blocks()
            return self._late_blocks

    @property
    def underflow_seconds(self) -> tuple[float, ...]:
        """When each underflow began (the last 10000): seconds that the device had played since it opened."""
        with self._lock:
            self._count_late_blocks()
            return tuple(self._underflow_seconds)

    def _count_late_blocks(self) -> None:
        late = self._ring.late_blocks
        if self._sounding:
            for _ in range(late - self._late_blocks_seen):
                self._late_blocks += 1
                self._count_underflow(self._ring.claimed, 0)
        self._late_blocks_seen = late

    def _count_underflow(self, position: int, n_samples: int) -> None:
        self._underflows += 1
        self.underflow_samples += n_samples
        self._underflow_seconds.append(position / self.device_rate)

    # -- writing -------------------------------------------------------------------------------------------

    def write(self, samples: npt.ArrayLike) -> None:
        """Queue `samples`, waiting while the queue is full; a `clear` meanwhile forgets the rest of them."""
        block = as_block(samples, self.channels).T  # (n_samples, channels)
        with self._lock:
            self._check()
            clears = self._clears
            if self._resampler is not None:
                block = self._resampler.push(block)
        self._enqueue(block, clears)

    def _enqueue(self, block: Block, clears: int) -> None:
        while len(block):
            with self._lock:
                if clears != self._clears:
                    return
                self._check()
                now, block = np.split(block, [max(0, self._room)])
                if len(now):
                    self._place(now)
                    if self._end - self._ring.claimed >= self._prefill:
                        self._start()
            if len(block):
                self._wait(partial(self._missing_room, min(len(block), (self._queue_length + 1) // 2)))

    def _missing_room(self, n_samples: int) -> int:
        return n_samples - self._room

    def _place(self, block: Block) -> None:
        """Put `block` behind what is queued or, if the device has come there first, behind a gap."""
        self._count_late_blocks()
        fade_length, enough = len(self._fade_out), len(self._ring.samples) // 4
        while True:
            self._recycle(enough)
            claimed, begin, parts = self._ring.claimed, self._end, [block, self._edge(block[-1])]
            goes_on = self._sounding and claimed <= self._end
            if not goes_on:
                begin = max(begin + fade_length, claimed + self._lead) if self._running else claimed
                if np.abs(block[0]).max() > _AUDIBLE:
                    parts.insert(0, self._edge(block[0])[::-1])
            whole = np.concatenate(parts)
            self._used = begin + len(whole)  # before it is, in case Ctrl-C comes in between
            stored, in_time = self._ring.store(begin, whole)
            if stored:
                break
            enough = 0
        end = begin + len(whole) - fade_length
        if self._sounding and not goes_on:
            self._count_underflow(self._end, end - len(block) - self._end)
            self._prefill = min(2 * self._prefill, max(self._prefill, self._queue_length // 2))
        if not in_time:  # they came at the same moment, and the device may have played some of the fade
            self._count_underflow(begin, 0)
        self._end, self._sounding = end, True

    def _recycle(self, enough: int = 0) -> None:
        """Lend the device again what it has played, or stop it where it came to the end before."""
        self._ring.recycle(enough)
        if self._running and self._ring.exhausted:
            self._stop()

    def _edge(self, sample: npt.NDArray[np.float32]) -> Block:
        """Fade of `(channels,)` to silence."""
        edge: Block = sample * self._fade_out
        return edge if np.abs(sample).max() > _AUDIBLE else np.zeros_like(edge)

    # -- starting, waiting, stopping -----------------------------------------------------------------------

    def start(self) -> None:
        """Let the device begin with what is queued, although that is less than its prefill."""
        with self._lock:
            self._check()
            if self._sounding:
                self._start()

    def drain(self) -> None:
        """Wait until everything written has been played; the device then rests until the next `write`.

        While its microphone records, it plays silence instead.
        """
        with self._lock:
            self._check()
            clears = self._clears
            rest = self._resampler.flush() if self._resampler is not None else None
        if rest is not None:
            self._enqueue(rest, clears)
        self.start()
        if self._running:
            self._wait(lambda: self._used - self._ring.claimed)
            with self._lock:
                self._count_late_blocks()
                self._sounding = False
                if not self._recording:
                    self._stop()

    def clear(self) -> None:
        """Fade out within one block of the device and forget what is queued; the device stays open."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._clears += 1
        if self._resampler is not None:
            self._resampler.clear()
        fade_length = len(self._fade_out)
        stored = False
        while not stored and self._ring.claimed < self._used:
            self._recycle()
            begin = self._ring.claimed
            faded = np.zeros((max(self._used - begin, fade_length), self.channels), np.float32)
            if self._running:
                faded[:fade_length] = self._ring.read(begin, fade_length) * self._fade_out
            stored, _ = self._ring.store(begin, faded)
            if stored:
                self._end = self._used = begin + fade_length if self._running else begin
        self._sounding = False

    def close(self) -> None:
        """Play what is queued and close the device."""
        if not self._closed:
            try:
                self.drain()
            finally:
                self.abort()

    def abort(self) -> None:
        """Fade out within one block of the device, forget what is queued and close the device."""
        if self._closed:
            return
        try:
            with self._lock:
                self._clear()
                self._closed = True
            give_up = time.monotonic() + 0.25
            while self._running and self._ring.claimed < self._end and time.monotonic() < give_up:
                time.sleep(0.002)
        finally:
            with self._lock:
                self._closed = True
                self._close_stream()

    def _close_stream(self) -> None:
        """Let PortAudio close the stream, which joins its thread."""
        gone = self._watchdog.gone or (self._running and self._ring.claimed < self._end)
        if self._running and not gone:
            self._stop()
        self._running = False
        with undisturbed():
            if gone:
                abandon(self._sounddevice, self._ring.stream)
            else:
                self._ring.stream.close(ignore_errors=True)

    def _start(self) -> None:
        if self._running and self._ring.exhausted:
            self._stop()
        if not self._running:
            self._watchdog.start()
            self._running = True
            try:
                with starting(self._sounddevice):
                    self._ring.start()
            except BaseException:
                self._running = False
                raise

    def _stop(self) -> None:
        self._running = False
        with undisturbed():
            self._ring.stream.stop()  # PortAudio returns when its own buffers have been played, too

    def _wait(self, missing: Callable[[], int]) -> None:
        """Sleep until the device has taken as many samples as are `missing`."""
        while True:
            with self._lock:
                self._check()
                n_samples = missing()
                if n_samples <= 0:
                    return
                self._start()
            time.sleep(min(max(n_samples / self.device_rate, 0.001), 0.02))

    def _check(self) -> None:
        """Raise if the device is closed or gone."""
        if self._ring.error is not None:
            raise DeviceError(f"Playing failed: {self._ring.error!r}") from self._ring.error
        if self._closed:
            raise ValueError("The sound device is closed")
        if self._running and not self._ring.exhausted:
            self._watchdog.look()

    # -- recording -----------------------------------------------------------------------------------------

    @property
    def microphone(self) -> Recording:
        """What the device records; raises `ValueError` without `input_channels`.

        The device starts when it is iterated, whatever the prefill; where there is no sound it plays silence.
        """
        if self._microphone is None:
            raise ValueError(
                "The sink was opened without input_channels: SoundDeviceSink(..., input_channels=1)!"
            )
        return self._microphone


class _DuplexMicrophone(Recording):
    """What the stream of a sink records."""

    def __init__(self, sink: SoundDeviceSink, capture: Capture) -> None:
        super().__init__(sink.device_rate, capture, sink._ring.stream)
        self._sink = sink

    def _begin(self) -> None:
        with self._sink._lock:
            self._sink._check()
            if not self._closed and not self._sink._recording:
                self._capture.clear()
                self._sink._recording = True
                self._sink._start()

    def _take(self) -> Block | None:
        sink = self._sink
        with sink._lock:
            if self._closed or sink._closed:
                return None
            sink._check()
            sink._recycle(len(sink._ring.samples) // 4)
            sink._start()  # if nobody has written or taken anything for so long that it came to its end
            return self._capture.read()

    def _end(self) -> None:
        sink = self._sink
        with sink._lock:
            self._capture.clear()
            sink._recording = False
            if sink._running and not sink._sounding and not sink._watchdog.gone:
                sink._stop()
