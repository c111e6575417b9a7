"""Sink that plays samples through a sound device."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import numpy.typing as npt

from rtspecinv.audio.device import Device
from rtspecinv.audio.microphone import DuplexMicrophone, Recording
from rtspecinv.audio.portaudio import MOST_CHANNELS, DeviceError, queue_of, rate_of, stream_options
from rtspecinv.audio.resample import Resampler
from rtspecinv.audio.sinks import Block, Sink, as_block
from rtspecinv.audio.timeline import Timeline
from rtspecinv.common.checks import count, finite

_RING_SECONDS = 8.0  # length of the ring beyond the queue; without new samples the device stops after it


class SoundDeviceSink(Sink):
    """Plays samples through a sound device as they are written, without gaps between the blocks.

    sample_rate: sample rate, Hz; if the device refuses it, soxr resamples to the rate of the device.
    channels: number of channels, default: 1.
    device: number or part of the name of a device that `rtspecinv devices` lists, default: that of the
        system.
    latency: output buffering of the device, `"low"`, `"high"` or seconds, default: `"high"`.
    queue_seconds: length of the queue, seconds, default: 0.5; `write` waits while the queue is full.
    prefill_seconds: length of sound that must be queued before the device starts, seconds, default: 0.05;
        also the delay with which sound resumes after a gap. It doubles with every gap, up to half of the
        queue.
    block_length: number of samples that the device takes at once, default: 0, the device chooses it.
    backend: name of the backend, default: `"auto"`. `"rtmixer"` copies to the device in C and does not wait
        for a busy interpreter, `"callback"` copies in Python, `"auto"` uses rtmixer if it is installed
        (`pip install "rtspecinv[live]"`).
    input_channels: number of channels to record, default: 0; above 0 the stream is a duplex stream,
        `microphone` yields the recorded sound, and nothing is resampled. If `device` is one device for both
        directions, recording and playback have the same clock.

    The sink does not change the written samples. If the sound begins or ends with a sample that is not 0, the
    sink adds a fade of 5 ms before or after it, which avoids a click. If the writer is late, the sound is
    faded in the same way before and after the gap; the gap is counted in `underflows` and delays the
    following sound by its length.

    Only one thread at a time may write. Meanwhile other threads may call `clear` and `abort` and read the
    attributes. In asyncio, use `await asyncio.to_thread(sink.write, samples)`; call `sink.write(samples)`
    directly only if there are no more samples than `sink.room`.

    Raises `DeviceError` if PortAudio or the device is missing or refuses these settings. `write` and `drain`
    raise it if the device stops.

    Examples:
        >>> import torch
        >>> from rtspecinv import SoundDeviceSink
        >>> tone = 0.1 * torch.sin(0.06 * torch.arange(22050))
        >>> with SoundDeviceSink(22050) as sink:  # doctest: +SKIP
        ...     sink.write(tone)
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
            raise ValueError(
                f"Parameter {prefill_seconds=} is more than {queue_seconds=}: use a smaller prefill_seconds"
            )
        input_channels = count(0, MOST_CHANNELS, input_channels=input_channels)
        options = stream_options(device, channels, latency, block_length)
        self.channels: int = options["channels"]
        self._device = Device(
            sample_rate,
            options,
            ring_seconds=queue_seconds + _RING_SECONDS,
            backend=backend,
            input_channels=input_channels,
        )
        self._resampler = None if self.device_rate == sample_rate else self._open_resampler()
        delay = 0 if self._resampler is None else self._resampler.longest_delay
        self._timeline = Timeline(
            self._device,
            queue_length=max(1, round(queue_seconds * self.device_rate)) + delay,
            prefill=max(1, round(prefill_seconds * self.device_rate)) + delay,
        )
        self._clears = 0
        self._microphone: Recording | None = None
        if self._device.ring.capture is not None:
            self._microphone = DuplexMicrophone(self._device, self._device.ring.capture, self._timeline)

    def _open_resampler(self) -> Resampler:
        try:
            return Resampler(self.sample_rate, self.device_rate, self.channels)
        except BaseException as error:
            self._device.ring.stream.close()
            if isinstance(error, ImportError):
                raise DeviceError(f"The device plays only at {self.device_rate} Hz. {error}") from error
            raise

    # -- state --------------------------------------------------------------------------------------------

    @property
    def device_rate(self) -> int:
        """Rate in Hz at which the device plays."""
        return self._device.rate

    @property
    def _held(self) -> int:
        """Number of samples that the resampler still holds back, at the device's rate."""
        return self._resampler.delay if self._resampler is not None else 0

    @property
    def queued(self) -> int:
        """Number of samples written but not yet taken by the device."""
        with self._device.lock:
            return round((self._timeline.waiting + self._held) * self.sample_rate / self.device_rate)

    @property
    def room(self) -> int:
        """Number of samples that `write` accepts without waiting."""
        with self._device.lock:
            return max(0, (self._timeline.room - self._held) * self.sample_rate // self.device_rate)

    @property
    def latency_seconds(self) -> float:
        """Seconds until a sample written now is heard: the queue, the resampler and the device's buffers.

        The buffers of the device are those that it reports, at least one block.
        """
        with self._device.lock:
            return (self._timeline.ahead + self._held) / self.device_rate + self._device.latency_seconds

    @property
    def underflows(self) -> int:
        """Number of gaps: the writer was late and sound followed, or the device reported an underflow."""
        return self._counted().underflows

    @property
    def underflow_samples(self) -> int:
        """Number of samples of silence and fades in the gaps, at the device's rate."""
        return self._timeline.underflow_samples

    @property
    def late_blocks(self) -> int:
        """Number of underflows that the device reported: samples reached it late, or it lost some."""
        return self._counted().late_blocks

    @property
    def underflow_seconds(self) -> tuple[float, ...]:
        """Time at which each of the last 10000 underflows began, seconds of playback since opening."""
        with self._device.lock:
            self._timeline.count_late_blocks()
            return tuple(self._timeline.underflow_seconds)

    def _counted(self) -> Timeline:
        with self._device.lock:
            self._timeline.count_late_blocks()
        return self._timeline

    # -- writing -------------------------------------------------------------------------------------------

    def write(self, samples: npt.ArrayLike) -> None:
        """Queue `samples`; waits while the queue is full.

        If another thread calls `clear` meanwhile, the rest of the samples is dropped.
        """
        block = as_block(samples, self.channels).T  # (n_samples, channels)
        with self._device.lock:
            self._device.check()
            clears = self._clears
            if self._resampler is not None:
                block = self._resampler.push(block)
        self._enqueue(block, clears)

    def _enqueue(self, block: Block, clears: int) -> None:
        timeline = self._timeline
        while len(block):
            with self._device.lock:
                if clears != self._clears:
                    return
                self._device.check()
                now, block = np.split(block, [max(0, timeline.room)])
                if len(now):
                    timeline.place(now)
                    if timeline.is_prefilled:
                        self._device.start()
            if len(block):
                self._device.wait(
                    partial(self._missing_room, min(len(block), (timeline.queue_length + 1) // 2))
                )

    def _missing_room(self, n_samples: int) -> int:
        return n_samples - self._timeline.room

    # -- starting, waiting, stopping -----------------------------------------------------------------------

    def start(self) -> None:
        """Start the device with the queued samples, even if they are fewer than the prefill."""
        with self._device.lock:
            self._device.check()
            if self._timeline.sounding:
                self._device.start()

    def drain(self) -> None:
        """Wait until all written samples have been played; the device then stops until the next `write`.

        While the microphone of the sink records, the device does not stop but plays silence.
        """
        device, timeline = self._device, self._timeline
        with device.lock:
            device.check()
            clears = self._clears
            rest = self._resampler.flush() if self._resampler is not None else None
        if rest is not None:
            self._enqueue(rest, clears)
        self.start()
        if device.running:
            device.wait(lambda: timeline.used - device.ring.claimed)
            with device.lock:
                timeline.count_late_blocks()
                timeline.sounding = False
                if not device.recording:
                    device.stop()

    def clear(self) -> None:
        """Fade out within one block of the device and drop the queue; the device stays open."""
        with self._device.lock:
            self._clear()

    def _clear(self) -> None:
        self._clears += 1
        if self._resampler is not None:
            self._resampler.clear()
        self._timeline.fade_out()

    def close(self) -> None:
        """Play the queued samples and close the device."""
        if not self._device.closed:
            try:
                self.drain()
            finally:
                self.abort()

    def abort(self) -> None:
        """Fade out within one block of the device, drop the queue and close the device."""
        device, timeline = self._device, self._timeline
        if device.closed:
            return
        try:
            with device.lock:
                self._clear()
                device.closed = True
            give_up = time.monotonic() + 0.25
            while device.running and device.ring.claimed < timeline.end and time.monotonic() < give_up:
                time.sleep(0.002)
        finally:
            with device.lock:
                device.closed = True
                device.close(timeline.end)

    # -- recording -----------------------------------------------------------------------------------------

    @property
    def microphone(self) -> Recording:
        """Return the recording of the device; raises `ValueError` without `input_channels`.

        Iteration over the recording starts the device even if the prefill is not reached. Without sound to
        play, the device plays silence.
        """
        if self._microphone is None:
            raise ValueError("The sink does not record: open it with SoundDeviceSink(..., input_channels=1)")
        return self._microphone
