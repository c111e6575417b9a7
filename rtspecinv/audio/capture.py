"""Captures: circular buffers that a sound device fills and that one thread reads.

A position is a number of samples since the capture was created; `position % length` is its index in the
buffer.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from rtspecinv.audio.portaudio import undisturbed
from rtspecinv.audio.sinks import Block

MAX_SAMPLES = 2**27  # largest number of samples in a ring, over all channels: 512 MiB
QUEUE_SECONDS = 0.5
_UNREAD_SECONDS = 8.0  # length of the buffer beyond the queue; if it is full, rtmixer stops


def ring_memory(length: int, channels: int) -> Block:
    """Return the zeros of a circular buffer, `(n_samples, channels)`.

    `n_samples` is the next power of 2 from `length` on. Raises `ValueError` if the buffer would have more
    than `MAX_SAMPLES` values.
    """
    length = 1 << (length - 1).bit_length()
    if length * channels > MAX_SAMPLES:
        raise ValueError(
            f"the buffer of the queue would have {length:.3g} samples in each of {channels} channels, more "
            f"than {MAX_SAMPLES} in total: use a smaller queue_seconds or sample_rate, or fewer channels"
        )
    return np.zeros((length, int(channels)), np.float32)


class Counter(Protocol):
    """Counts samples; an action of rtmixer is such a counter, and reading it does not release the GIL."""

    done_frames: int


class Count:
    """Counter that a Python callback increases."""

    done_frames = 0


class Capture:
    """Buffers the last `queue_seconds` of the sound that a device records in `channels` channels."""

    count: Counter  # number of samples that the device has recorded since position `_base`

    def __init__(self, sample_rate: int, channels: int, queue_seconds: float = QUEUE_SECONDS) -> None:
        self.channels = channels
        self._base = 0  # position at the last start of the device
        self._most = max(1, round(queue_seconds * sample_rate))
        self.samples = ring_memory(self._most + round(_UNREAD_SECONDS * sample_rate), channels)
        self._taken = 0  # position up to which samples were read or dropped
        self._lost = 0  # number of times that samples were dropped because they were not read
        self._goes_on = False  # whether samples were read, so that samples lost now leave a gap
        self._device_lost_before = 0

    @property
    def recorded(self) -> int:
        """Position up to which the device has recorded."""
        return self._base + self.count.done_frames

    @property
    def block_length(self) -> int:
        """Largest number of samples that the device has delivered at once."""
        raise NotImplementedError

    @property
    def device_overflows(self) -> int:
        """Number of times that the device reported lost samples."""
        raise NotImplementedError

    @property
    def overflows(self) -> int:
        """Number of times that samples were lost: by the device, or because they were not read in time."""
        return self._lost + (self.device_overflows - self._device_lost_before if self._goes_on else 0)

    def clear(self) -> None:
        """Drop the samples that were recorded and not read."""
        self._lost, self._goes_on = self.overflows, False
        self._free(self.recorded)

    def read(self) -> Block:
        """Return the samples recorded since the last call, `(n_samples, channels)`.

        If there are more than the queue holds, the oldest ones are dropped.
        """
        recorded = self.recorded
        begin = max(self._taken, recorded - self._most)
        self._lost += begin > self._taken
        if not self._goes_on and recorded > begin:
            self._device_lost_before, self._goes_on = self.device_overflows, True
        block: Block = self.samples[np.arange(begin, recorded) % len(self.samples)]
        self._free(recorded)
        return block

    def _free(self, position: int) -> None:
        """Allow the device to overwrite the samples before `position`."""
        self._taken = position


class CallbackCapture(Capture):
    """Capture that a Python callback fills; the callback waits while another thread holds the GIL."""

    def __init__(self, sample_rate: int, channels: int, queue_seconds: float = QUEUE_SECONDS) -> None:
        super().__init__(sample_rate, channels, queue_seconds)
        self.count = Count()
        self._block_length = self._device_overflows = 0

    @property
    def block_length(self) -> int:
        """Largest number of samples of a call of the callback."""
        return self._block_length

    @property
    def device_overflows(self) -> int:
        """Number of overflows that PortAudio reported to the callback."""
        return self._device_overflows

    def put(self, block: Block, n_samples: int, clock: Any, status: Any) -> None:
        """Copy a recorded block to the buffer; PortAudio calls this method in its own thread."""
        self._block_length = max(self._block_length, n_samples)
        self._device_overflows += bool(status.input_overflow)
        begin = self.count.done_frames
        self.samples[np.arange(begin, begin + n_samples) % len(self.samples)] = block
        self.count.done_frames = begin + n_samples


class RtmixerCapture(Capture):
    """Capture that rtmixer's callback in C fills; the callback never waits for Python (Geier, rtmixer 0.1).

    rtmixer stops recording when the buffer is full; the reader of the capture then starts it again.
    """

    _stream: Any

    def __init__(
        self, rtmixer: Any, sample_rate: int, channels: int, queue_seconds: float = QUEUE_SECONDS
    ) -> None:
        super().__init__(sample_rate, channels, queue_seconds)
        self._ring = rtmixer.RingBuffer(4 * channels, buffer=self.samples)
        self._overflows_before = self._longest_before = 0

    def arm(self, stream: Any) -> None:
        """Prepare `stream` to record into this capture when it runs."""
        self._stream = stream
        self.count = self._action = stream.record_ringbuffer(self._ring)

    @property
    def block_length(self) -> int:
        """Largest number of samples of a block that rtmixer counted."""
        return max(self._longest_before, int(self._action.stats.max_blocksize))

    @property
    def device_overflows(self) -> int:
        """Number of overflows that rtmixer counted."""
        return self._overflows_before + int(self._action.stats.input_overflows)

    def _free(self, position: int) -> None:
        count = position - self._taken
        if count:
            with undisturbed():
                self._ring.advance_read_index(count)
                self._taken = position
        elif self._action not in self._stream.actions and self.recorded == position:
            with undisturbed():
                self._overflows_before, self._longest_before = self.device_overflows, self.block_length
                self._base = position
                self._lost += self._goes_on
                self.arm(self._stream)


def new_capture(
    rtmixer: Any | None, sounddevice: Any, options: dict[str, Any], queue_seconds: float
) -> tuple[Capture, Any]:
    """Return a capture and the stream that fills it.

    rtmixer: module rtmixer, whose callback fills the capture; with None a Python callback fills it.
    sounddevice: module sounddevice.
    options: keyword arguments of `sounddevice.InputStream`.
    queue_seconds: length of the queue, seconds.
    """
    settings = (options["samplerate"], options["channels"], queue_seconds)
    if rtmixer is None:
        called = CallbackCapture(*settings)
        return called, sounddevice.InputStream(callback=called.put, dtype="float32", **options)
    mixed = RtmixerCapture(rtmixer, *settings)
    stream = rtmixer.Recorder(**options)
    mixed.arm(stream)
    return mixed, stream
