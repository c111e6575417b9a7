"""Playing samples through the sound card."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from rtspecinv.audio.sinks import Sink, as_block

_STALL_SECONDS = 5.0  # a started device that takes nothing for so long is gone


class DeviceError(RuntimeError):
    """There is no usable sound device, or it stopped; the message says what helps."""


def sounddevice() -> Any:
    """Return the module, imported only now; raises `DeviceError` with what to install."""
    without = "; FileSink, ArraySink and the command line's -o FILE work without it"
    try:
        import sounddevice as module
    except ImportError as error:
        raise DeviceError(f"Playing needs sounddevice: pip install sounddevice{without}") from error
    except OSError as error:
        raise DeviceError(
            f"Playing needs the PortAudio library: apt-get install libportaudio2{without}"
        ) from error
    return module


def device_table() -> str:
    """Return a line for each sound device; raises `DeviceError` if there is none."""
    devices = sounddevice().query_devices()
    if not devices:
        raise DeviceError("PortAudio finds no sound device")
    return str(devices)


class SoundDeviceSink(Sink):
    """Plays samples through a sound device as they are written.

    sample_rate: in Hz, one that the device takes.
    device: a number or a part of a name from `rtspecinv devices`; None is the system's default.
    latency: the device's own output buffering: `"low"`, `"high"` or seconds.
    queue_seconds: how much may wait to be played; `write` waits while that is full.
    prefill_seconds: how much must be queued before the device starts, so that it does not start with an
        underflow.
    block_length: samples the device takes at once, 0 leaves it to the device.

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
        prefill_seconds: float = 0.1,
        block_length: int = 0,
    ) -> None:
        if channels < 1:
            raise ValueError(f"Parameter {channels=} is not an integer >= 1!")
        if not 0 <= prefill_seconds <= queue_seconds or queue_seconds * sample_rate < 1:
            raise ValueError(
                f"It must be 0 <= {prefill_seconds=} <= {queue_seconds=}, with room for a sample!"
            )
        self.sample_rate = sample_rate
        self.channels = channels
        self.underflows = 0  # gaps: the device wanted samples, had none, and sound followed
        self.underflow_samples = 0  # silence in those gaps
        self._ring = np.zeros((max(1, round(queue_seconds * sample_rate)), channels), np.float32)
        self._prefill = max(1, round(prefill_seconds * sample_rate))
        # Growing counts. Only the writer changes _written and only the callback _played: no lock.
        self._written = 0
        self._played = 0
        self._sounding = False  # the device runs and has played something since it was started
        self._gap = False  # it has run dry since its last sample, for _gap_samples so far
        self._gap_samples = 0
        self._callback_error: BaseException | None = None
        self._running = False
        self._closed = False
        self._sounddevice = sounddevice()
        self._stream = self._open_stream(device, latency, block_length)

    def _open_stream(self, device: int | str | None, latency: float | str, block_length: int) -> Any:
        sd = self._sounddevice
        try:
            return sd.OutputStream(
                samplerate=self.sample_rate,
                channels=self.channels,
                device=device,
                latency=latency,
                blocksize=block_length,
                dtype="float32",
                callback=self._callback,
            )
        except (ValueError, sd.PortAudioError) as error:
            if device is None and not any(each["max_output_channels"] for each in sd.query_devices()):
                raise DeviceError("There is no sound device to play on") from error
            raise DeviceError(
                f"Cannot play on device {device if device is not None else 'default'!r} with "
                f"sample_rate={self.sample_rate}, channels={self.channels}: {' '.join(str(error).split())}; "
                "`rtspecinv devices` lists what there is"
            ) from error

    # -- the callback: on PortAudio's thread, only copies --------------------------------------------------

    def _callback(self, out: npt.NDArray[np.float32], n_samples: int, clock: Any, status: Any) -> None:
        try:
            self._fill(out, late=bool(status.output_underflow))
        except BaseException as error:
            self._callback_error = error
            out.fill(0)
            raise self._sounddevice.CallbackAbort from None

    def _fill(self, out: npt.NDArray[np.float32], late: bool) -> None:
        """Copy what is queued to `out`, then silence; a gap counts once sound follows it."""
        count = min(self._written - self._played, len(out))
        if late and self._sounding:
            self._gap = True
        if count:
            self._count_gap()
            self._sounding = True
            first, second = self._ring_parts(self._played, count)
            out[: len(first)] = first
            out[len(first) : count] = second
            self._played += count
        out[count:] = 0
        if count < len(out) and self._sounding:
            self._gap = True
            self._gap_samples += len(out) - count

    def _count_gap(self) -> None:
        if self._gap:
            self.underflows += 1
            self.underflow_samples += self._gap_samples
            self._gap, self._gap_samples = False, 0

    # -- the writer's side ---------------------------------------------------------------------------------

    def write(self, samples: npt.ArrayLike) -> None:
        """Queue `samples`, waiting while the queue is full."""
        block = as_block(samples, self.channels).T  # (n_samples, channels)
        self._check()
        while len(block):
            room = len(self._ring) - self.queued
            if room == 0:
                self._wait_for_room(min(len(block), len(self._ring) // 2 + 1))
                continue
            now, block = block[:room], block[room:]
            first, second = self._ring_parts(self._written, len(now))
            first[:] = now[: len(first)]
            second[:] = now[len(first) :]
            self._written += len(now)
            if self.queued >= self._prefill:
                self._start()

    def drain(self) -> None:
        """Wait until everything written has been played; the device then rests until the next `write`."""
        self._check()
        if self.queued:
            self._start()
            self._wait_for_room(len(self._ring))
        if self._running:
            self._running = False
            self._stream.stop()  # PortAudio returns when its own buffers have been played, too

    def close(self) -> None:
        """Play what is queued and close the device."""
        if not self._closed:
            try:
                self.drain()
            finally:
                self.abort()

    def abort(self) -> None:
        """Fall silent at once, forget what is queued and close the device."""
        if not self._closed:
            self._closed = True
            self._running = False
            self._stream.close(ignore_errors=True)  # drops pending buffers and joins PortAudio's thread

    @property
    def queued(self) -> int:
        """Samples written but not yet taken by the device."""
        return self._written - self._played

    @property
    def latency_seconds(self) -> float:
        """Seconds until a sample written now is heard: the queue before it and the device's own buffers."""
        return self.queued / self.sample_rate + (0.0 if self._closed else float(self._stream.latency))

    def _start(self) -> None:
        if not self._running:
            self._sounding = self._gap = False
            self._gap_samples = 0
            self._running = True
            try:
                self._stream.start()
            except self._sounddevice.PortAudioError as error:
                self._running = False
                raise DeviceError(f"The sound device does not start: {error}") from error

    def _wait_for_room(self, n_samples: int) -> None:
        """Sleep until `n_samples` of the queue are free; sleeping keeps the callback free of locks."""
        self._start()
        seen, since = self._played, time.monotonic()
        while (missing := n_samples - (len(self._ring) - self.queued)) > 0:
            self._check()
            if self._played != seen:
                seen, since = self._played, time.monotonic()
            elif time.monotonic() - since > _STALL_SECONDS:
                raise DeviceError(f"The sound device has taken no samples for {_STALL_SECONDS:.0f} seconds")
            time.sleep(min(max(missing / self.sample_rate, 0.001), 0.02))

    def _check(self) -> None:
        if self._callback_error is not None:
            raise DeviceError(f"Playing failed: {self._callback_error!r}") from self._callback_error
        if self._closed:
            raise ValueError("The sound device is closed")
        if self._running and not self._stream.active:
            raise DeviceError("The sound device stopped")

    def _ring_parts(
        self, position: int, count: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return `count` samples of the ring from `position` on: views up to its end and from its start."""
        begin = position % len(self._ring)
        first = self._ring[begin : begin + count]
        return first, self._ring[: count - len(first)]
