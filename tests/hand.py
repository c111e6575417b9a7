"""A sound device served by hand: it asks for samples when the test says so."""

from __future__ import annotations

import signal
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from rtspecinv.audio import SoundDeviceSink, device

RATE = 1000  # so that a fade has 5 samples
FADE = 5


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 0.9, shape).astype(np.float32)


class HandStream:
    """A stream of PortAudio whose device asks when the test says so."""

    latency = 0.01
    rates = None  # that it takes; None: all
    between: Iterator[int] = iter(())  # samples that it asks for just before a look at how far it is

    def __init__(self, callback, channels, **options):
        if self.rates and options["samplerate"] not in self.rates:
            raise OSError("Invalid sample rate [PaErrorCode -9997]")
        self.callback, self.channels, self.active, self.options = callback, channels, False, options
        self.heard = [np.zeros((channels, 0), np.float32)]
        self._asks = False

    def start(self):
        self.active = True

    def stop(self):
        self.active = False

    def close(self, ignore_errors=True):
        self.active = False

    def ask(self, n: int, late: bool = False) -> np.ndarray:
        out, self._asks = np.full((n, self.channels), np.nan, np.float32), True
        self.callback(out, n, None, types.SimpleNamespace(output_underflow=late))
        self.heard.append(out.T)
        self._asks = False
        return out.T

    def come_between(self) -> None:
        if self.active and not self._asks and (n := next(self.between, 0)):
            self.ask(n)

    @contextmanager
    def asking(self, n: int) -> Iterator[None]:
        """Ask for blocks of `n` samples, one every millisecond."""
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


class Count:
    """A counter of the device's samples, whose reader may find that it has asked just before."""

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
    """rtmixer's mixer: serves its actions in order; one ends at the first block that its ring cannot fill."""

    def __init__(self, **options):
        super().__init__(self._mix, **options)
        self.actions = []
        self.presses: Iterator[bool] = iter(())  # whether Ctrl-C comes when a ring of its is filled

    def play_ringbuffer(self, ring):
        action = Count(self)
        action.ring, action.stats = ring, types.SimpleNamespace(max_blocksize=0, output_underflows=0)
        self.actions.append(action)
        return action

    def cancel(self, action):
        self.actions.remove(action)

    def _mix(self, out, n, clock, status):
        out[:] = 0
        for action in list(self.actions):
            n_read, *parts = action.ring.get_read_buffers(n)
            out[:n_read] += np.frombuffer(b"".join(parts), np.float32).reshape(
                -1, action.ring.elementsize // 4
            )
            action.ring.advance_read_index(n_read)
            action.done_frames += n_read
            action.stats.max_blocksize = max(n, action.stats.max_blocksize)
            action.stats.output_underflows += status.output_underflow
            if n_read < n:
                self.actions.remove(action)


def hand_rtmixer() -> types.ModuleType:
    """A module with such a mixer and rtmixer's own ring buffers, at whose filling the device may ask, too."""
    rtmixer = pytest.importorskip("rtmixer", reason='rtmixer is missing: pip install "rtspecinv[live]"')
    module = types.ModuleType("rtmixer")

    def mixer(**options):
        stream = HandMixer(**options)

        class RingBuffer(rtmixer.RingBuffer):
            def advance_write_index(self, size):
                if next(stream.presses, False):
                    signal.raise_signal(signal.SIGINT)
                stream.come_between()
                super().advance_write_index(size)

        module.RingBuffer = RingBuffer
        return stream

    module.Mixer = mixer
    return module


FAKE_SOUNDDEVICE = types.SimpleNamespace(
    OutputStream=HandStream,
    PortAudioError=OSError,
    CallbackAbort=StopIteration,
    query_devices=lambda *one: {"default_samplerate": 2000.0} if one else [{"max_output_channels": 2}],
)


def hand_sink(*arguments, backend="callback", **options) -> tuple[SoundDeviceSink, HandStream]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(device, "sounddevice", lambda: FAKE_SOUNDDEVICE)
        if backend == "rtmixer":
            monkeypatch.setitem(sys.modules, "rtmixer", hand_rtmixer())
        sink = SoundDeviceSink(*arguments, backend=backend, **options)
    if backend == "callback":
        sink._ring.claim = Count(sink._ring.stream)
    return sink, sink._ring.stream
