"""Fake sound device: it requests samples when the test calls `ask`."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from rtspecinv.audio import Microphone, SoundDeviceSink, device, microphone

RATE = 1000  # Hz; a fade then has 5 samples
FADE = 5


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 0.9, shape).astype(np.float32)


class HandStream:
    """Fake stream of PortAudio, whose device requests and records samples when the test calls `ask`.

    channels: number of channels to play, or a pair: numbers of channels to record and to play. The recorded
        samples are the numbers from 1 on, plus 100,000 for each further channel.
    """

    latency: float | tuple[float, float] = 0.01
    rates = None  # supported sample rates; None: all
    between: Iterator[int] = iter(())  # numbers of samples that it requests just before its position is read

    def __init__(self, callback, channels, **options):
        if self.rates and options["samplerate"] not in self.rates:
            raise OSError("Invalid sample rate [PaErrorCode -9997]")
        self.callback, self.channels, self.options = callback, channels, options
        self.n_recorded, self.n_played = channels if isinstance(channels, tuple) else (0, channels)
        if isinstance(channels, tuple) and self.n_played:
            self.latency = (0.01, 0.02)
        self.active = False
        self.heard = [np.zeros((self.n_played, 0), np.float32)]
        self.n_given = 0  # number of samples recorded so far, also those that were lost
        self._asks = False

    def start(self):
        assert not self.active
        self.active = True

    def stop(self):
        self.active = False

    def close(self, ignore_errors=True):
        self.active = False

    def ask(self, n: int, late: bool = False, lost: bool = False) -> np.ndarray:
        """Advance by a block of `n` samples; returns the played samples."""
        self._asks = True
        numbers = self.n_given + np.arange(1, n + 1)[:, np.newaxis]
        given = (numbers + 100_000 * np.arange(self.n_recorded)).astype(np.float32)
        out = np.full((n, self.n_played), np.nan, np.float32)
        blocks = [given] * bool(self.n_recorded) + [out] * bool(self.n_played)
        status = types.SimpleNamespace(output_underflow=late, input_overflow=lost)
        self.callback(*blocks, n, None, status)
        self.heard.append(out.T)
        self.n_given += n
        given[:] = np.nan  # PortAudio reuses this memory
        self._asks = False
        return out.T

    def come_between(self) -> None:
        if self.active and not self._asks and (n := next(self.between, 0)):
            self.ask(n)

    @contextmanager
    def asking(self, n: int) -> Iterator[None]:
        """Return a context in which a block of `n` samples is requested every millisecond."""
        end = threading.Event()

        def ask():
            while not end.wait(0.001):
                if self.active:
                    self.ask(n)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()


class HandInput(HandStream):
    """Fake stream that only records."""

    def __init__(self, callback, channels, **options):
        super().__init__(callback, (channels, 0), **options)


class Count:
    """Counter of the device's samples; the device may request a block just before the counter is read."""

    def __init__(self, stream: HandStream) -> None:
        self._stream, self._value = stream, 0

    @property
    def done_frames(self) -> int:
        self._stream.come_between()
        return self._value

    @done_frames.setter
    def done_frames(self, value: int) -> None:
        self._value = value


class HandMixer(HandStream):
    """Fake stream of rtmixer: it executes actions in order; an action ends at the first incomplete block."""

    def __init__(self, **options):
        super().__init__(self._mix, **options)
        self._active = []
        self.presses: Iterator[bool] = iter(())  # whether Ctrl-C interrupts the writing to a ring

    @property
    def actions(self):
        self.come_between()
        return self._active

    def _add(self, ring, serve):
        action: Any = Count(self)
        action.ring, action.serve = ring, serve
        action.stats = types.SimpleNamespace(max_blocksize=0, output_underflows=0, input_overflows=0)
        self._active.append(action)
        return action

    def play_ringbuffer(self, ring):
        return self._add(ring, self._play)

    def record_ringbuffer(self, ring):
        return self._add(ring, self._record)

    def cancel(self, action):
        self._active.remove(action)

    def _mix(self, *arguments):
        *blocks, n, _, status = arguments
        if self.n_played:
            blocks[-1][:] = 0
        for action in list(self._active):
            n_done = action.serve(action.ring, blocks, n)
            action.done_frames += n_done
            action.stats.max_blocksize = max(n, action.stats.max_blocksize)
            action.stats.output_underflows += status.output_underflow
            action.stats.input_overflows += status.input_overflow
            if n_done < n:
                self._active.remove(action)

    @staticmethod
    def _play(ring, blocks, n):
        n_read, *parts = ring.get_read_buffers(n)
        blocks[-1][:n_read] += np.frombuffer(b"".join(parts), np.float32).reshape(-1, ring.elementsize // 4)
        ring.advance_read_index(n_read)
        return n_read

    @staticmethod
    def _record(ring, blocks, n):
        return ring.write(blocks[0][: ring.write_available])


def hand_rtmixer() -> types.ModuleType:
    """Return a fake module with such streams and rtmixer's own ring buffers.

    The device may request a block while a ring buffer is written to. The ring buffers do not need PortAudio,
    unlike `import rtmixer`.
    """
    compiled = pytest.importorskip("_rtmixer", reason='rtmixer is missing: pip install "rtspecinv[live]"')
    own_ring_buffer: Any = importlib.import_module("pa_ringbuffer").init(compiled.ffi, compiled.lib)
    module: Any = types.ModuleType("rtmixer")
    streams: list[HandMixer] = []

    class RingBuffer(own_ring_buffer):
        def advance_write_index(self, size):
            if next(streams[-1].presses, False):
                signal.raise_signal(signal.SIGINT)
            streams[-1].come_between()
            super().advance_write_index(size)

        def advance_read_index(self, size):
            if streams:
                streams[-1].come_between()
            super().advance_read_index(size)

    def opener(kind):
        def opened(channels, **options):
            streams.append(HandMixer(channels=(channels, 0) if kind == "input" else channels, **options))
            return streams[-1]

        return opened

    module.RingBuffer = RingBuffer
    module.Mixer, module.MixerAndRecorder, module.Recorder = map(opener, ("output", "duplex", "input"))
    return module


FAKE_SOUNDDEVICE = types.SimpleNamespace(
    OutputStream=HandStream,
    InputStream=HandInput,
    Stream=HandStream,
    PortAudioError=OSError,
    CallbackAbort=StopIteration,
    query_devices=lambda *one: {"default_samplerate": 2000.0} if one else [{"max_output_channels": 2}],
)


def by_hand(module: types.ModuleType, backend: str, opener):
    """Return the result of `opener`, which opens a fake device by `module`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(module, "sounddevice", lambda: FAKE_SOUNDDEVICE)
        if isinstance(backend, str) and backend == "rtmixer":
            monkeypatch.setitem(sys.modules, "rtmixer", hand_rtmixer())
        return opener()


def hand_sink(*arguments, backend="callback", **options) -> tuple[SoundDeviceSink, HandStream]:
    sink = by_hand(device, backend, lambda: SoundDeviceSink(*arguments, backend=backend, **options))
    stream = sink._device.ring.stream
    if isinstance(backend, str) and backend == "callback":
        sink._device.ring.claim = Count(stream)
        if sink._device.ring.capture is not None:
            sink._device.ring.capture.count = Count(stream)
    return sink, stream


def hand_microphone(*arguments, backend="callback", **options) -> tuple[Microphone, HandStream]:
    opened = by_hand(microphone, backend, lambda: Microphone(*arguments, backend=backend, **options))
    if isinstance(backend, str) and backend == "callback":
        opened._capture.count = Count(opened._stream)
    return opened, opened._stream
