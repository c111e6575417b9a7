"""Sound device for playback: one PortAudio stream with its ring buffer, its lock and a watchdog."""

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
    """Open output device that a sink uses; in a duplex stream, the sink and a microphone share it.

    Args:
        sample_rate: sample rate, Hz; if the device refuses it, `rate` is the device's own rate.
        options: keyword arguments of `sounddevice.OutputStream`.
        ring_seconds: length of the ring buffer that the device plays, seconds.
        backend: name of the backend, as in `SoundDeviceSink`.
        input_channels: number of channels that the stream records.

    Attributes:
        lock: lock that a caller must hold while it calls a method other than `wait` or reads a position.
        ring: buffer of the sound to play; `ring.capture` is the buffer of the recorded sound.
        rate: sample rate of the stream, Hz.
        running: whether the stream was started and not stopped.
        recording: whether a microphone records, so that the stream must run without sound to play, too.
        closed: whether the sink was closed.

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
        """Time that a sample stays in the device's buffers, seconds: as reported, at least one block."""
        told = 0.0 if self.closed else stream_seconds(self.ring.stream, is_output=True)
        return max(told, self.ring.block_length / self.rate)

    @property
    def gone(self) -> bool:
        """Whether the watchdog has found that the device stopped or takes no samples."""
        return self._watchdog.gone

    def check(self) -> None:
        """Raise `ValueError` if the device is closed, `DeviceError` if it has failed or has vanished."""
        if self.ring.error is not None:
            raise DeviceError(
                f"Playing failed with {self.ring.error!r}: open a new sink"
            ) from self.ring.error
        if self.closed:
            raise ValueError("The sound device is closed: open a new sink")
        if self.running and not self.ring.exhausted:
            self._watchdog.look()

    def start(self) -> None:
        """Start the stream if it does not run, or if it has played all samples of the ring."""
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
        """Stop the stream when it has played the samples that it has taken."""
        self.running = False
        with undisturbed():
            self.ring.stream.stop()  # returns when PortAudio's own buffers have been played, too

    def recycle(self, enough: int = 0) -> None:
        """Erase the played part of the ring for reuse; stop the stream if it has played the whole ring.

        enough: number of played samples up to which nothing is erased, default: 0.
        """
        self.ring.recycle(enough)
        if self.running and self.ring.exhausted:
            self.stop()

    def wait(self, missing: Callable[[], int]) -> None:
        """Start the device and wait until it has taken enough samples.

        missing: function that returns how many samples the device still has to take.
        """
        while True:
            with self.lock:
                self.check()
                n_samples = missing()
                if n_samples <= 0:
                    return
                self.start()
            time.sleep(min(max(n_samples / self.rate, 0.001), 0.02))

    def close(self, end: int = 0) -> None:
        """Close the stream; PortAudio then waits for the end of its thread.

        end: position that the device must have reached; a running device before it counts as vanished.
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
