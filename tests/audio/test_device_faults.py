"""Tests of the sound device on a fake stream: other rates, invalid settings and errors."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
import types
from typing import Any

import numpy as np
import pytest
import soxr
from fake_device import FADE, FAKE_SOUNDDEVICE, RATE, HandStream, hand_sink, noise
from hypothesis import given, settings
from hypothesis import strategies as st

from rtspecinv.audio import (
    DeviceError,
    Microphone,
    SoundDeviceSink,
    device,
    device_table,
    microphone,
    portaudio,
)


@pytest.fixture
def by_hand(monkeypatch):
    for module in (device, microphone):
        monkeypatch.setattr(module, "sounddevice", lambda: FAKE_SOUNDDEVICE)


# -- a device at another rate --


@pytest.fixture
def at_2000_hz(by_hand, monkeypatch):
    monkeypatch.setattr(HandStream, "rates", [2000])


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=8))
def test_at_another_rate_the_resampled_sound_is_played_whole(lengths):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(HandStream, "rates", [2000])
        sink, stream = hand_sink(RATE, 2, queue_seconds=9, prefill_seconds=0)
        assert sink.device_rate == 2000
        samples = noise(2, sum(lengths))
        for block in np.split(samples, np.cumsum(lengths)[:-1], -1):
            sink.write(block)
        assert sink.queued in range(samples.shape[1], samples.shape[1] + 2 * FADE)
        with stream.asking(100):
            sink.drain()
        heard = np.concatenate(stream.heard, -1)
        expected = soxr.resample(samples.T, RATE, 2000).T
        begin = np.nonzero(heard[0] == expected[0, 0])[0][0]
        np.testing.assert_array_equal(heard[:, begin : begin + expected.shape[1]], expected)


def test_the_resamplers_delay_is_part_of_the_latency(at_2000_hz):
    sink = SoundDeviceSink(RATE, queue_seconds=1, prefill_seconds=1, backend="callback")
    for n in range(0, 300, 10):
        assert sink.latency_seconds == pytest.approx(n / RATE + 0.01, abs=2e-3)
        sink.write(np.zeros(10, np.float32))
    sink.clear()
    assert sink.latency_seconds == pytest.approx(0.01)
    assert sink._timeline.prefill >= 2000 + sink._resampler.longest_delay > 2000


def test_another_rate_without_soxr_names_the_package(at_2000_hz, monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(DeviceError, match=r'only at 2000 Hz.*pip install "rtspecinv\[live\]"'):
        SoundDeviceSink(RATE, backend="callback")


# -- errors --


def test_an_error_in_the_callback_is_raised_by_the_next_write(monkeypatch):
    sink, stream = hand_sink(100, prefill_seconds=0)
    sink.write(noise(5))
    monkeypatch.setattr(sink._device.ring, "samples", None)
    with pytest.raises(StopIteration):
        stream.ask(5)
    with pytest.raises(DeviceError, match="NoneType"):
        sink.write(noise(5))


def test_stopped_and_stalled_devices_are_detected(monkeypatch):
    monkeypatch.setattr(portaudio, "STALL_SECONDS", 0.1)
    for what in ("write", "drain"):
        sink, stream = hand_sink(100, queue_seconds=0.1, prefill_seconds=0)
        sink.write(noise(5))
        with pytest.raises(DeviceError, match="taken no samples"):
            sink.write(noise(50)) if what == "write" else sink.drain()
        stream.active = False
        with pytest.raises(DeviceError, match="stopped"):
            sink.drain()
        sink.abort()
        sink.close()


@pytest.mark.parametrize("by_thread", [False, True])
@pytest.mark.parametrize("records", [False, True])
def test_ctrl_c_while_a_device_is_opened_leaves_it_closed(monkeypatch, records, by_thread):
    """Another thread may receive the signal, because this one blocks it."""
    happened, opening, pressed = [], threading.Event(), threading.Event()

    def press() -> None:
        opening.wait()
        signal.raise_signal(signal.SIGINT)
        pressed.set()

    class Opening(HandStream):
        def __init__(self, **options):
            super().__init__(**options)
            opening.set()
            assert pressed.wait(5) if by_thread else not press()
            happened.append("opened")  # no exception is raised before

        def close(self, ignore_errors=True):
            happened.append("closed")

    fake = types.SimpleNamespace(PortAudioError=OSError, CallbackAbort=None)
    fake.OutputStream = fake.InputStream = Opening
    for module in (device, microphone):
        monkeypatch.setattr(module, "sounddevice", lambda: fake)
    before = signal.getsignal(signal.SIGINT)
    presser = threading.Thread(target=press if by_thread else lambda: None)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        Microphone(RATE, backend="callback") if records else SoundDeviceSink(RATE, backend="callback")
    presser.join()
    assert happened == ["opened", "closed"]
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_suspended_program_does_not_report_a_stalled_device(monkeypatch):
    monkeypatch.setattr(portaudio, "STALL_SECONDS", 0.1)
    sink, _ = hand_sink(100, queue_seconds=0.5, prefill_seconds=0)
    sink.write(noise(5))
    time.sleep(0.2)  # as after Ctrl-Z, before the device requests samples
    sink.write(noise(5))
    with pytest.raises(DeviceError, match="taken no samples"):
        sink.drain()


def test_options_reach_the_device():
    _, stream = hand_sink(100, 2, device="x", latency=0.2, block_length=64)
    options: dict[str, Any] = {
        "samplerate": 100,
        "device": "x",
        "latency": 0.2,
        "blocksize": 64,
        "dtype": "float32",
    }
    assert stream.options == options
    assert stream.channels == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prefill_seconds": 1.0}, "prefill_seconds=1.0 is more than queue_seconds=0.5"),
        ({"prefill_seconds": -1}, "prefill_seconds=-1 is not a finite number >= 0"),
        ({"queue_seconds": 0, "prefill_seconds": 0}, "queue_seconds=0 is not a finite number from 0.001 to"),
        ({"queue_seconds": math.inf}, "queue_seconds=inf is not a finite number"),
        ({"queue_seconds": math.nan}, "queue_seconds=nan is not a finite number"),
        ({"channels": 0}, "channels=0 is not an integer >= 1"),
        ({"channels": 1.5}, r"channels=1\.5 is not an integer >= 1"),
        ({"sample_rate": math.nan}, "sample_rate=nan is not an integer >= 1"),
        ({"sample_rate": "48000"}, "sample_rate='48000' is not an integer >= 1"),
    ],
)
def test_impossible_settings_are_rejected(by_hand, wrong, message):
    with pytest.raises(ValueError, match=message):
        SoundDeviceSink(**{"sample_rate": RATE, **wrong})
    if "prefill_seconds" not in wrong:
        with pytest.raises(ValueError, match=message):
            Microphone(**{"sample_rate": RATE, **wrong})


def test_a_too_large_queue_is_rejected(by_hand):
    with pytest.raises(DeviceError, match=r"more than 134217728 in total: use a smaller queue_seconds or"):
        SoundDeviceSink(RATE, queue_seconds=1e6, backend="callback")


def test_a_missing_rtmixer_is_reported_and_unknown_backends_are_rejected(by_hand, monkeypatch):
    with pytest.raises(ValueError, match=r"backend='alsa' is not one of 'auto', 'rtmixer', 'callback'"):
        SoundDeviceSink(100, backend="alsa")
    monkeypatch.setitem(sys.modules, "rtmixer", None)
    with pytest.raises(ImportError, match=r'pip install "rtspecinv\[live\]"'):
        SoundDeviceSink(100, backend="rtmixer")
    assert isinstance(SoundDeviceSink(100)._device.ring.stream, HandStream)


def test_a_missing_portaudio_is_reported_with_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(DeviceError, match="pip install sounddevice"):
        SoundDeviceSink(8000)
    monkeypatch.delitem(sys.modules, "sounddevice")
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match=r"apt-get install libportaudio2.*FileSink.*-o FILE"):
        SoundDeviceSink(8000)
    with pytest.raises(DeviceError, match="apt-get install libportaudio2"):
        device_table()
