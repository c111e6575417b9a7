"""Rings: circular buffers that a sound device plays, and whose unplayed samples may be replaced.

Silence is stored in the ring, too: the device's thread only copies samples to the device. A position is a
number of samples since the ring was created; `position % length` is its index in the buffer. The device may
play up to position `limit`; this module calls that part of the ring "lent".

             erased          played   claimed             end           limit = erased + length
    ───────────┼────────────────┼────────┼──────────────────┼──────────────┼────
     played before, to be       │ a block being copied      │ silence
     silenced and lent again    │ just now   queued samples │
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rtspecinv.audio.capture import CallbackCapture, Capture, Count, Counter, RtmixerCapture, ring_memory
from rtspecinv.audio.portaudio import DeviceError, opened, refused, undisturbed
from rtspecinv.audio.sinks import Block


class Ring:
    """Circular buffer of at least `length` samples in `channels` channels that a device plays.

    Its subclasses connect the buffer to a stream of sounddevice or rtmixer.
    """

    stream: Any  # stream of sounddevice or rtmixer
    claim: Counter  # samples since `_base` that the device has copied or copies now
    done: Counter  # samples since `_base` that it has copied
    error: BaseException | None = None  # exception that stopped the device
    capture: Capture | None = None  # buffer of the recorded sound of a duplex stream

    def __init__(self, length: int, channels: int) -> None:
        self.samples = ring_memory(length, channels)
        self._bytes = self.samples.reshape(-1).view(np.uint8).data
        self._base = 0  # position at the last start of the device
        self._erased = 0
        self._spent = False  # whether the device may have stopped at the limit just before the limit moved

    @property
    def block_length(self) -> int:
        """Largest number of samples that the device has taken at once."""
        raise NotImplementedError

    @property
    def late_blocks(self) -> int:
        """Number of times that the device reported an underflow."""
        raise NotImplementedError

    def _arm(self) -> None:
        """Prepare the stopped device to play the whole ring once, from position `_base` on."""
        raise NotImplementedError

    def _extend(self, count: int) -> None:
        """Allow the device to play `count` more samples."""
        raise NotImplementedError

    @property
    def claimed(self) -> int:
        """Position up to which the device has taken samples or is taking them now.

        `done` can exceed `claim`: the device reached the end of rtmixer's first ring just before that ring
        was extended. The ring is `exhausted` then.
        """
        return self._base + max(self.claim.done_frames, self.done.done_frames)

    @property
    def _limit(self) -> int:
        """Position up to which the device may play."""
        return self._erased + len(self.samples)

    @property
    def exhausted(self) -> bool:
        """Whether the device has played up to the limit, so that it plays nothing until it is restarted."""
        return self._spent or self.claimed >= self._limit

    def start(self) -> None:
        """Start the stopped device at the position where it stopped."""
        self.recycle()
        self._base, self._spent = self.claimed, False
        self._arm()
        self.stream.start()

    def recycle(self, enough: int = 0) -> None:
        """Replace the played samples by silence and allow the device to play that part again.

        enough: number of played samples up to which nothing is done, default: 0.
        """
        limit = self._limit
        begin, count = self._erased % len(self.samples), self._base + self.done.done_frames - self._erased
        if count > enough:
            self.samples[begin : begin + count] = 0
            self.samples[: max(0, begin + count - len(self.samples))] = 0
            with undisturbed():
                self._erased += count
                self._extend(count)
                # rtmixer stops after an incomplete block, and may not have counted that block yet.
                self._spent = self._spent or self.claimed + self.block_length >= limit

    def read(self, begin: int, count: int) -> Block:
        """Return a copy of `count` samples from position `begin` on."""
        copy: Block = self.samples[np.arange(begin, begin + count) % len(self.samples)]
        return copy

    def store(self, begin: int, samples: Block) -> tuple[bool, bool]:
        """Replace the samples from position `begin` on, and return `(stored, in_time)`.

        `stored` is False, and nothing is replaced, if the device has passed `begin` or if the samples end
        behind the limit. `in_time` is False if the device has passed `begin` by the end of the copy, so that
        it may have played some of the old samples. Callers must not use this method while the device runs
        and the ring is `exhausted`.
        """
        if begin + len(samples) > self._limit:
            return False, False
        new = samples.reshape(-1).view(np.uint8).data
        place = begin % len(self.samples) * samples.itemsize * samples.shape[1]
        n_first = min(len(new), len(self._bytes) - place)
        n_second = len(new) - n_first
        first, second = new[:n_first], new[n_first:]
        # There must be no call from here to `in_time`. Since Python 3.11, another thread or Ctrl-C can
        # interrupt only at calls and loops; copies of memoryviews keep the GIL, copies in numpy release it.
        stored = self._base + self.claim.done_frames <= begin
        if stored:
            self._bytes[place : place + n_first] = first
            self._bytes[:n_second] = second
        in_time = self._base + self.claim.done_frames <= begin
        return stored, in_time


class CallbackRing(Ring):
    """Ring that a Python callback plays; the callback waits while another thread holds the GIL."""

    def __init__(self, sounddevice: Any, length: int, options: dict[str, Any], input_channels: int) -> None:
        channels = options["channels"]
        super().__init__(length, channels)
        self.claim, self.done = Count(), Count()
        self._lent = self._block_length = self._late_blocks = 0
        self._abort = sounddevice.CallbackAbort
        if input_channels:
            self.capture = capture = CallbackCapture(options["samplerate"], input_channels)
            self._put = capture.put
            options = {**options, "channels": (input_channels, channels)}
            self.stream = sounddevice.Stream(callback=self._callback, dtype="float32", **options)
        else:
            self.stream = sounddevice.OutputStream(callback=self._callback, dtype="float32", **options)

    @property
    def block_length(self) -> int:
        """Largest number of samples of a call of the callback."""
        return self._block_length

    @property
    def late_blocks(self) -> int:
        """Number of underflows that PortAudio reported to the callback."""
        return self._late_blocks

    def _arm(self) -> None:
        self.claim.done_frames = self.done.done_frames = 0
        self._lent = len(self.samples)

    def _extend(self, count: int) -> None:
        self._lent += count

    def _callback(self, *arguments: Any) -> None:
        *recorded, out, n_samples, clock, status = arguments
        try:
            for block in recorded:  # one block of a duplex stream, else none
                self._put(block, n_samples, clock, status)
            begin = self.done.done_frames
            self._late_blocks += bool(status.output_underflow and begin)  # not before the first sample
            self._block_length = max(self._block_length, n_samples)
            end = self.claim.done_frames = min(begin + n_samples, self._lent)
            place = (self._base + begin) % len(self.samples)
            first = self.samples[place : place + end - begin]
            out[: len(first)] = first
            out[len(first) : end - begin] = self.samples[: end - begin - len(first)]
            out[end - begin :] = 0
            self.done.done_frames = end
        except BaseException as error:
            self.error = error
            out.fill(0)
            raise self._abort from None


class RtmixerRing(Ring):
    """Ring that rtmixer's callback in C plays; the callback never waits for Python (Geier, rtmixer 0.1).

    In each block rtmixer executes two actions in order. The first one plays silence; its counter is the
    position up to which the second one, which plays the sound, copies next.
    """

    def __init__(self, rtmixer: Any, length: int, options: dict[str, Any], input_channels: int) -> None:
        channels = options["channels"]
        super().__init__(length, channels)
        if input_channels:
            self.capture = capture = RtmixerCapture(rtmixer, options["samplerate"], input_channels)
            self.stream = rtmixer.MixerAndRecorder(**{**options, "channels": (input_channels, channels)})
            capture.arm(self.stream)
        else:
            self.stream = rtmixer.Mixer(**options)
        self._rings = [
            rtmixer.RingBuffer(4, buffer=np.zeros(len(self.samples), np.float32)),
            rtmixer.RingBuffer(4 * channels, buffer=self.samples),
        ]
        self._actions: list[Any] = []
        self._late_before = self._longest_before = 0
        self._arm()

    @property
    def block_length(self) -> int:
        """Largest number of samples of a block that rtmixer counted."""
        return max(self._longest_before, int(self._actions[0].stats.max_blocksize))

    @property
    def late_blocks(self) -> int:
        """Number of underflows that rtmixer counted."""
        return self._late_before + int(self._actions[0].stats.output_underflows)

    def _arm(self) -> None:
        if self._actions:
            self._late_before, self._longest_before = self.late_blocks, self.block_length
        for action in self._actions:
            if action in self.stream.actions:
                self.stream.cancel(action)  # rtmixer would execute it before the new ones
        for ring in self._rings:
            ring.flush()
            ring.advance_write_index(self._base % len(self.samples))
            ring.advance_read_index(self._base % len(self.samples))
        self._extend(len(self.samples))
        self.claim, self.done = self._actions = [self.stream.play_ringbuffer(ring) for ring in self._rings]

    def _extend(self, count: int) -> None:
        for ring in reversed(self._rings):  # the sound is extended before its counter
            ring.advance_write_index(count)


def open_ring(
    sd: Any,
    rtmixer: Any | None,
    sample_rate: int,
    seconds: float,
    options: dict[str, Any],
    input_channels: int = 0,
) -> tuple[Ring, int]:
    """Return a ring and its sample rate: `sample_rate` or, if the device refuses it, the device's own.

    sd: module sounddevice.
    rtmixer: module rtmixer, whose callback plays the ring; with None a Python callback plays it.
    sample_rate: sample rate, Hz.
    seconds: shortest length of the ring, seconds.
    options: keyword arguments of `sounddevice.OutputStream`.
    input_channels: number of channels to record, default: 0; above 0 the device must accept `sample_rate`.

    Raises `DeviceError` if there is no device or it refuses these settings.
    """
    device = options["device"]

    def make(rate: int) -> Ring:
        length, at_rate = round(seconds * rate), {"samplerate": rate, **options}
        if rtmixer is None:
            return CallbackRing(sd, length, at_rate, input_channels)
        return RtmixerRing(rtmixer, length, at_rate, input_channels)

    def open_at(rate: int) -> tuple[Ring, int]:
        return opened(partial(make, rate), lambda ring: ring.stream.close()), rate

    try:
        try:
            return open_at(sample_rate)
        except sd.PortAudioError:
            own_rate = round(sd.query_devices(device, "output")["default_samplerate"])
            if own_rate == sample_rate or input_channels:
                raise
            return open_at(own_rate)
    except (ValueError, sd.PortAudioError) as error:
        if device is None and not any(each["max_output_channels"] for each in sd.query_devices()):
            raise DeviceError(
                "There is no sound device to play on: connect one, or write to a file"
            ) from error
        to_do = f"play and record {input_channels} channels on" if input_channels else "play on"
        raise refused(to_do, device, sample_rate, options["channels"], error) from error
