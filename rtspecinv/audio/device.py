"""Sound device for playback: one PortAudio stream, its ring, its lock, and a watchdog while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rtspecinv.audio.portaudio import (
    DeviceError,
    Watchdog,
    abandon,
    rtmixer_for,
    sounddevice,
    starting,
    stream_seconds,
    undisturbed,
)
from rtspecinv.audio.ring import open_ring


class Device:
    """An open output device, which a sink and, of a duplex stream, a microphone share.

    Args:
        sample_rate: in Hz; `rate` is the device's own where it refuses that.
        options: of `sounddevice.OutputStream`.
        ring_seconds: length of the ring that the device plays.
        backend: as in `SoundDeviceSink`.
        input_channels: channels that the stream records.

    Attributes:
        lock: held by whoever calls a method or reads positions.
        ring: what is played, and what is recorded (`ring.capture`).
        running: the stream was started and not stopped.
        recording: the stream has to run even in silence.
        closed: nothing can be played any more.

    Raises `DeviceError` if PortAudio or the device is missing or refuses these settings.
    """

    def __init__(
        self,
        sample_rate: int,
        options: dict[str, Any],
        *,
        ring_seconds: float,
        backend: str,
        input_channels: int,
    ) -> None:
        self.lock = threading.Lock()
        self._sounddevice = sounddevice()
        self.ring, self.rate = open_ring(
            self._sounddevice,
            rtmixer_for(backend),
            sample_rate,
            seconds=ring_seconds,
            options=options,
            input_channels=input_channels,
        )
        self.running = self.recording = self.closed = False
        self._watchdog = Watchdog(self._sounddevice, self.ring.stream, lambda: self.ring.claimed, "taken")

    @property
    def latency_seconds(self) -> float:
        """Seconds that a sample stays in the device's buffers: what it tells, and not less than a block."""
        told = 0.0 if self.closed else stream_seconds(self.ring.stream, is_output=True)
        return max(told, self.ring.block_length / self.rate)

    @property
    def gone(self) -> bool:
        """Whether the device has vanished."""
        return self._watchdog.gone

    def check(self) -> None:
        """Raise if the device is closed, has failed or has vanished."""
        if self.ring.error is not None:
            raise DeviceError(f"Playing failed: {self.ring.error!r}") from self.ring.error
        if self.closed:
            raise ValueError("The sound device is closed")
        if self.running and not self.ring.exhausted:
            self._watchdog.look()

    def start(self) -> None:
        """Start the stream, if it does not run."""
        if self.running and self.ring.exhausted:
            self.stop()
        if not self.running:
            self._watchdog.start()
            self.running = True
            try:
                with starting(self._sounddevice):
                    self.ring.start()
            except BaseException:
                self.running = False
                raise

    def stop(self) -> None:
        """Stop the stream after what it has taken."""
        self.running = False
        with undisturbed():
            self.ring.stream.stop()  # PortAudio returns when its own buffers have been played, too

    def recycle(self, enough: int = 0) -> None:
        """Lend the device again what it has played, or stop it where it came to the end before."""
        self.ring.recycle(enough)
        if self.running and self.ring.exhausted:
            self.stop()

    def wait(self, missing: Callable[[], int]) -> None:
        """Run, and sleep until the device has taken as many samples as are `missing`."""
        while True:
            with self.lock:
                self.check()
                n_samples = missing()
                if n_samples <= 0:
                    return
                self.start()
            time.sleep(min(max(n_samples / self.rate, 0.001), 0.02))

    def close(self, end: int = 0) -> None:
        """Let PortAudio close the stream, which joins its thread.

        end: position that a device which is there has reached by now.
        """
        gone = self.gone or (self.running and self.ring.claimed < end)
        if self.running and not gone:
            self.stop()
        self.running = False
        with undisturbed():
            if gone:
                abandon(self._sounddevice, self.ring.stream)
            else:
                self.ring.stream.close(ignore_errors=True)
