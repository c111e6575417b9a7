"""Recording through a sound device."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from rtspecinv.audio.capture import QUEUE_SECONDS, Capture, new_capture
from rtspecinv.audio.device import Device
from rtspecinv.audio.portaudio import (
    HIGHEST_RATE,
    Watchdog,
    abandon,
    opened,
    queue_of,
    rate_of,
    refused,
    rtmixer_for,
    sounddevice,
    starting,
    stream_options,
    stream_seconds,
    undisturbed,
)
from rtspecinv.audio.sinks import Block
from rtspecinv.audio.timeline import Timeline

_POLL_SECONDS = 0.001
_PAUSE_SECONDS = 1.0  # a device that delivers no samples for this time is closed in another thread


class Recording:
    """Recording of a device: iteration yields float32 blocks `(channels, n_samples)` as they arrive.

    `sample_rate` is in Hz. A recording is a context manager.
    """

    def __init__(self, sample_rate: int, capture: Capture, stream: Any) -> None:
        self.sample_rate, self._capture, self._stream = sample_rate, capture, stream
        self._closed = False

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self._capture.channels

    @property
    def block_length(self) -> int:
        """Largest number of samples that the device has delivered at once."""
        return self._capture.block_length

    @property
    def overflows(self) -> int:
        """Number of times that sound was lost, by the device or because the queue was full."""
        return self._capture.overflows

    @property
    def latency_seconds(self) -> float:
        """Seconds from the microphone to the block: what the device reports, at least one block."""
        told = stream_seconds(self._stream, is_output=False)
        return max(told, self.block_length / self.sample_rate)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        if self._closed:
            raise ValueError("The microphone is closed: open a new one")
        self._begin()
        while (block := self._take()) is not None:
            if len(block):
                yield np.ascontiguousarray(block.T)
            else:
                block_seconds = self.block_length / self.sample_rate
                time.sleep(min(block_seconds / 8 or _POLL_SECONDS, _POLL_SECONDS))

    def _begin(self) -> None:
        """Start recording, if the device does not record yet."""
        raise NotImplementedError

    def _take(self) -> Block | None:
        """Return the samples recorded since the last call, `(n_samples, channels)`; None if closed."""
        raise NotImplementedError

    def _end(self) -> None:
        """Stop recording."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop recording, which ends the iteration in any thread; closing twice is harmless."""
        with undisturbed():
            if not self._closed:
                self._closed = True
                self._end()

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Microphone(Recording):
    """Records through a sound device; iteration yields float32 blocks `(channels, n_samples)` on arrival.

    sample_rate: sample rate that the device accepts, Hz, or None for the device's own rate.
    channels: number of channels, default: 1.
    device: number or part of the name of a device that `rtspecinv devices` lists, default: that of the
        system.
    latency: input buffering of the device, `"low"`, `"high"` or seconds, default: `"low"`.
    queue_seconds: length of the queue for the iteration, seconds, default: 0.5; if the queue is full, the
        oldest samples are dropped.
    block_length: number of samples that the device delivers at once, default: 0, the device chooses it.
    backend: name of the backend, default: `"auto"`. `"rtmixer"` copies from the device in C and does not wait
        for a busy interpreter, `"callback"` copies in Python, `"auto"` uses rtmixer if it is installed
        (`pip install "rtspecinv[live]"`).

    The microphone records from the start of the iteration until `close`; another thread may call `close` to
    end the iteration. To record and play on one device at the same time, use
    `SoundDeviceSink(..., input_channels=1).microphone`: its single stream has one clock for both
    directions, so recording and playback do not drift apart.

    Raises `DeviceError` if PortAudio or the device is missing or refuses these settings. The iteration
    raises it if the device stops.
    """

    def __init__(
        self,
        sample_rate: int | None,
        channels: int = 1,
        *,
        device: int | str | None = None,
        latency: float | str = "low",
        queue_seconds: float = QUEUE_SECONDS,
        block_length: int = 0,
        backend: str = "auto",
    ) -> None:
        sample_rate = None if sample_rate is None else rate_of(sample_rate)
        options = stream_options(device, channels, latency, block_length)
        queue_seconds = queue_of(sample_rate or HIGHEST_RATE, queue_seconds)
        rtmixer = rtmixer_for(backend)
        self._sounddevice = sd = sounddevice()
        try:
            if sample_rate is None:
                sample_rate = round(sd.query_devices(device, "input")["default_samplerate"])
            options["samplerate"] = sample_rate
            make = partial(new_capture, rtmixer, sd, options, queue_seconds)
            capture, stream = opened(make, lambda made: made[1].close())
        except (ValueError, sd.PortAudioError) as error:
            raise refused("record from", device, sample_rate, channels, error) from error
        super().__init__(sample_rate, capture, stream)
        self._lock = threading.Lock()
        self._watchdog = Watchdog(sd, stream, lambda: capture.recorded, "given")

    def _begin(self) -> None:
        with self._lock:
            if not self._closed and not self._watchdog.active:
                self._watchdog.start()
                with starting(self._sounddevice):
                    self._stream.start()

    def _take(self) -> Block | None:
        with self._lock:
            if self._closed:
                return None
            self._watchdog.look()
            return self._capture.read()

    def _end(self) -> None:
        with self._lock:
            if self._watchdog.gone or (self._watchdog.active and not self._gives()):
                abandon(self._sounddevice, self._stream)
            else:
                self._stream.close(ignore_errors=True)

    def _gives(self) -> bool:
        """Return whether the running device delivers samples within `_PAUSE_SECONDS`."""
        give_up = time.monotonic() + _PAUSE_SECONDS
        self._capture.read()
        while time.monotonic() < give_up:
            if len(self._capture.read()):
                return True
            time.sleep(_POLL_SECONDS)
        return False


class DuplexMicrophone(Recording):
    """Recording of the device of a sink, made while the device plays.

    Args:
        device: device of the sink, with a duplex stream.
        capture: buffer of the recorded sound.
        timeline: positions of the sound that the sink plays.
    """

    def __init__(self, device: Device, capture: Capture, timeline: Timeline) -> None:
        super().__init__(device.rate, capture, device.ring.stream)
        self._device, self._timeline = device, timeline

    def _begin(self) -> None:
        device = self._device
        with device.lock:
            device.check()
            if not self._closed and not device.recording:
                self._capture.clear()
                device.recording = True
                device.start()

    def _take(self) -> Block | None:
        device = self._device
        with device.lock:
            if self._closed or device.closed:
                return None
            device.check()
            device.recycle(len(device.ring.samples) // 4)
            device.start()  # it may have played the whole ring, because nothing was written or read
            return self._capture.read()

    def _end(self) -> None:
        device = self._device
        with device.lock:
            self._capture.clear()
            device.recording = False
            if device.running and not self._timeline.sounding and not device.gone:
                device.stop()
