"""A sound device served by hand: it asks for samples when the test says so."""

from __future__ import annotations

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

    def __init__(self, callback, channels, **options):
        if self.rates and options["samplerate"] not in self.rates:
            raise OSError("Invalid sample rate [PaErrorCode -9997]")
        self.callback, self.channels, self.active, self.options = callback, channels, False, options
        self.heard = [np.zeros((channels, 0), np.float32)]

    def start(self):
        self.active = True

    def stop(self):
        self.active = False

    def close(self, ignore_errors=True):
        self.active = False

    def ask(self, n: int, late: bool = False) -> np.ndarray:
        out = np.full((n, self.channels), np.nan, np.float32)
        self.callback(out, n, None, types.SimpleNamespace(output_underflow=late))
        self.heard.append(out.T)
        return out.T

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


FAKE_SOUNDDEVICE = types.SimpleNamespace(
    OutputStream=HandStream,
    PortAudioError=OSError,
    CallbackAbort=StopIteration,
    query_devices=lambda *one: {"default_samplerate": 2000.0} if one else [{"max_output_channels": 2}],
)


def hand_sink(*arguments, **options) -> tuple[SoundDeviceSink, HandStream]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(device, "sounddevice", lambda: FAKE_SOUNDDEVICE)
        sink = SoundDeviceSink(*arguments, backend="callback", **options)
    return sink, sink._ring.stream


class HandMixer:
    """rtmixer's mixer, served by hand: at any call that lends it more, if the test says so.

    Actions are served in the order they came in; one ends at the first block that its ring cannot fill.
    """

    def __init__(self, **options):
        self.actions, self.heard, self.between, self.active = [], [], iter(()), False

    def start(self):
        self.active = True

    def stop(self):
        self.active = False

    def cancel(self, action):
        self.actions.remove(action)

    def play_ringbuffer(self, ring):
        stats = types.SimpleNamespace(max_blocksize=0, output_underflows=0)
        self.actions.append(types.SimpleNamespace(ring=ring, done_frames=0, stats=stats))
        return self.actions[-1]

    def ask(self, n: int) -> None:
        block = np.zeros(n, np.float32)
        for action in list(self.actions):
            n_read, *parts = action.ring.get_read_buffers(n)
            block[:n_read] += np.frombuffer(b"".join(map(bytes, parts)), np.float32)
            action.ring.advance_read_index(n_read)
            action.done_frames += n_read
            action.stats.max_blocksize = max(n, action.stats.max_blocksize)
            if n_read < n:
                self.actions.remove(action)
        self.heard.append(block)


def hand_rtmixer() -> types.SimpleNamespace:
    """A module with such a mixer, and with rtmixer's own ring buffers."""
    import rtmixer

    mixer = HandMixer()

    class RingBuffer(rtmixer.RingBuffer):
        def advance_write_index(self, size):
            if mixer.active:
                mixer.ask(next(mixer.between, 0))
            super().advance_write_index(size)

    return types.SimpleNamespace(Mixer=lambda **options: mixer, RingBuffer=RingBuffer)
