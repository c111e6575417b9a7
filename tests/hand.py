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
    query_devices=lambda *_: {"default_samplerate": 2000.0},
)


def hand_sink(*arguments, **options) -> tuple[SoundDeviceSink, HandStream]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(device, "sounddevice", lambda: FAKE_SOUNDDEVICE)
        sink = SoundDeviceSink(*arguments, backend="callback", **options)
    return sink, sink._ring.stream
