"""Tests of microphones, alone and of a sink, on fake streams and on a JACK server."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import jackd
import numpy as np
import pytest
from busy_machine import gil_held
from fake_device import FADE, FAKE_SOUNDDEVICE, RATE, HandStream, hand_microphone, hand_sink, noise
from fuzzing import bounded
from hypothesis import given, settings
from hypothesis import strategies as st

from rtspecinv.audio import (
    DeviceError,
    Microphone,
    Recording,
    SoundDeviceSink,
    capture,
    device_sink,
    portaudio,
)
from rtspecinv.audio import microphone as microphones

BACKENDS = pytest.mark.parametrize("backend", ["callback", "rtmixer"])


def alone(backend: str, channels: int = 2, **options) -> tuple[Recording, HandStream]:
    return hand_microphone(RATE, channels, backend=backend, **options)


def taken_from(microphone: Recording) -> np.ndarray:
    taken = microphone._take()
    assert taken is not None  # None is the end
    return taken


def of_a_sink(backend: str, channels: int = 2, **options) -> tuple[Recording, HandStream]:
    sink, stream = hand_sink(RATE, 1, backend=backend, input_channels=channels, **options)
    cast(Any, stream).sink = sink
    return sink.microphone, stream


KINDS = pytest.mark.parametrize("opened", [alone, of_a_sink])


def numbers(n_samples: int, first: int = 1, channels: int = 2) -> np.ndarray:
    """Return the samples that a fake device records, the numbers from 1 on."""
    rows = np.arange(first, first + n_samples) + 100_000 * np.arange(channels)[:, np.newaxis]
    return rows.astype(np.float32)


@BACKENDS
@KINDS
def test_iteration_yields_recorded_blocks_and_ends_after_close(opened, backend):
    microphone, stream = opened(backend)
    assert (microphone.sample_rate, microphone.channels) == (RATE, 2)
    with microphone:
        taken = iter(microphone)
        threading.Timer(0.02, stream.ask, [10]).start()
        np.testing.assert_array_equal(next(taken), numbers(10))
        stream.ask(20)
        stream.ask(3)
        np.testing.assert_array_equal(next(taken), numbers(23, 11))
        assert stream.active
        closing = threading.Timer(0.02, microphone.close)
        closing.start()
        assert list(taken) == []
        closing.join()
    assert microphone.overflows == 0
    with pytest.raises(ValueError, match="closed"):
        next(iter(microphone))


@BACKENDS
@KINDS
@settings(deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(1, 900), st.integers(0, 3)), max_size=30),
    interrupts=st.lists(st.sampled_from([0, 0, 1, 300, 2000]), max_size=30),
    channels=st.integers(1, 2),
)
def test_every_lost_sample_is_counted_and_none_is_repeated(opened, backend, steps, interrupts, channels):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(capture, "_UNREAD_SECONDS", 0.1)
        microphone, stream = opened(backend, channels)
    microphone._begin()
    stream.between = iter(interrupts)
    taken, longest = [numbers(0, channels=channels)], []
    for n_asked, n_taken in steps:
        longest.append(microphone.block_length)
        stream.ask(n_asked)
        taken += [microphone._take().T for _ in range(n_taken)]
    stream.between = iter(())
    for _ in range(3):
        taken.append(microphone._take().T)
        stream.ask(1)
        taken.append(microphone._take().T)
    assert max(block.shape[1] for block in taken) <= 500
    whole = np.concatenate(taken, -1)
    np.testing.assert_array_equal(whole, whole[0] + 100_000 * np.arange(channels)[:, np.newaxis])
    assert whole[0, -1] == stream.n_given
    steps_between = np.diff(whole[0], prepend=0)
    assert (steps_between > 0).all()
    n_breaks = np.count_nonzero(steps_between > 1)
    assert n_breaks <= microphone.overflows <= 2 * n_breaks  # two losses may be adjacent
    assert longest == sorted(longest)


@KINDS
def test_a_ring_that_fills_during_a_pause_is_read_and_recording_continues(opened, monkeypatch):
    """The action of rtmixer ends just after the reader has found no new samples."""
    monkeypatch.setattr(capture, "_UNREAD_SECONDS", 0.1)
    microphone, stream = opened("rtmixer")
    microphone._begin()
    stream.ask(50)
    microphone._take()
    free = microphone._capture._free
    monkeypatch.setattr(microphone._capture, "_free", lambda position: (stream.ask(2000), free(position)))
    microphone._take()
    monkeypatch.setattr(microphone._capture, "_free", free)
    taken = []
    for _ in range(10):
        stream.ask(50)
        taken.append(microphone._take())
    np.testing.assert_array_equal(np.concatenate(taken).T[:, -300:], numbers(300, 2251))
    assert microphone.overflows == 2  # the oldest samples of the full ring, and later ones


@BACKENDS
@KINDS
def test_unread_samples_are_dropped_for_newer_ones_and_counted(opened, backend):
    microphone, stream = opened(backend)
    assert microphone.latency_seconds == 0.01
    taken = iter(microphone)
    threading.Timer(0.02, stream.ask, [10], {"lost": True}).start()  # before the first sample
    next(taken)
    assert (microphone.latency_seconds, microphone.overflows) == (0.01, 0)
    for _ in range(10):
        stream.ask(100)
    np.testing.assert_array_equal(next(taken), numbers(500, 511))
    assert (microphone.latency_seconds, microphone.overflows) == (0.1, 1)
    stream.ask(7, lost=True)
    np.testing.assert_array_equal(next(taken), numbers(7, 1011))
    assert microphone.overflows == 2
    microphone.close()


@BACKENDS
@KINDS
def test_ctrl_c_while_it_is_closed_leaves_it_closed(opened, backend):
    microphone, stream = opened(backend)
    microphone._begin()
    end = microphone._end

    def end_late():
        signal.raise_signal(signal.SIGINT)
        end()

    microphone._end = end_late
    with pytest.raises(KeyboardInterrupt):
        microphone.close()
    assert not stream.active


@BACKENDS
@KINDS
def test_a_device_that_does_not_start_is_a_clear_error(opened, backend, monkeypatch):
    microphone, stream = opened(backend)
    monkeypatch.setattr(stream, "start", iter(()).__next__)
    with pytest.raises(StopIteration):
        microphone._begin()

    def refuse():
        raise FAKE_SOUNDDEVICE.PortAudioError("Device unavailable [PaErrorCode -9985]")

    monkeypatch.setattr(stream, "start", refuse)
    with pytest.raises(DeviceError, match="does not start: Device unavailable"):
        next(iter(microphone))


def test_an_error_in_the_recording_callback_is_raised(monkeypatch):
    sink, stream = hand_sink(RATE, input_channels=1)
    sink.microphone._begin()
    sink._device.ring.capture.samples = None
    with pytest.raises(StopIteration):
        stream.ask(5)
    with pytest.raises(DeviceError, match="NoneType"):
        next(iter(sink.microphone))


@BACKENDS
@KINDS
@pytest.mark.parametrize(("stops", "says"), [(False, "no samples"), (True, "stopped")])
def test_a_device_that_stalls_or_stops_is_detected(opened, backend, stops, says, monkeypatch):
    monkeypatch.setattr(portaudio, "STALL_SECONDS", 0.05)
    microphone, stream = opened(backend)
    taken, closers = iter(microphone), []
    threading.Timer(0.02, stream.ask, [10]).start()
    next(taken)
    stream.active = not stops
    with pytest.raises(DeviceError, match=says), bounded():
        next(taken)
    monkeypatch.setattr(stream, "close", lambda **_: closers.append(threading.current_thread().name))
    with bounded():
        microphone.close() if opened is alone else stream.sink.abort()
    assert closers == ["close"]  # another thread, because closing may take minutes


def test_options_reach_the_device():
    options: dict[str, Any] = {"device": "x", "latency": 0.2}
    expected = {"samplerate": 100, "blocksize": 64, "dtype": "float32", **options}
    _, stream = hand_microphone(100, 2, block_length=64, **options)
    assert (stream.options, stream.channels) == (expected, (2, 0))
    _, stream = hand_sink(100, 1, input_channels=2, block_length=64, **options)
    assert (stream.options, stream.channels) == (expected, (2, 1))


# -- in one stream with a sink --


@BACKENDS
@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_recording_and_playback_have_one_clock(backend, lengths):
    sink, stream = hand_sink(RATE, 1, backend=backend, input_channels=1, prefill_seconds=0.1)
    sink.microphone._begin()
    for length in [60, *lengths]:
        stream.ask(length)
        sink.write(sink.microphone._take().T)
    assert (sink.underflows, sink.microphone.overflows) == (0, 0)
    stream.ask(300)
    heard, n_samples = np.concatenate(stream.heard, -1)[0], 60 + sum(lengths)
    begin = np.nonzero(heard == 1)[0][0]
    np.testing.assert_array_equal(heard[begin : begin + n_samples], numbers(n_samples)[0])


@BACKENDS
def test_a_recording_device_continues_in_silence(backend, monkeypatch):
    monkeypatch.setattr(device_sink, "_RING_SECONDS", 1)
    sink, stream = hand_sink(RATE, 1, backend=backend, input_channels=1, prefill_seconds=0)
    microphone = sink.microphone
    microphone._begin()
    first = 1
    for _ in range(5):
        for _ in range(30):  # many times the length of the ring
            assert not stream.ask(100)[0, FADE:].any()
            np.testing.assert_array_equal(microphone._take().T, numbers(100, first, 1))
            first += 100
        sink.write(noise(200))
        with stream.asking(50):
            sink.drain()
        heard = np.concatenate(stream.heard[-30:], -1)[0]
        np.testing.assert_array_equal(heard[np.isin(heard, noise(200))], noise(200))
        assert stream.active
        taken = taken_from(microphone)
        first = int(taken[-1, 0]) + 1
    assert sink.underflows == 0
    microphone.close()
    assert not stream.active


@BACKENDS
def test_a_closed_microphone_stops_counting_and_does_not_affect_the_sink(backend):
    sink, stream = hand_sink(RATE, 1, backend=backend, input_channels=1, prefill_seconds=0)
    microphone = sink.microphone
    microphone._begin()
    stream.ask(10)
    microphone._take()
    stream.ask(10, lost=True)
    sink.write(noise(200))
    microphone.close()
    stream.ask(10, lost=True)
    assert (microphone.overflows, stream.active) == (1, True)
    with stream.asking(10):
        sink.drain()
    heard = np.concatenate(stream.heard, -1)[0]
    np.testing.assert_array_equal(heard[np.isin(heard, noise(200))], noise(200))
    assert (sink.latency_seconds, microphone.latency_seconds) == (0.02, 0.01)
    assert not stream.active


@BACKENDS
@pytest.mark.parametrize(("gives", "closer"), [(True, "MainThread"), (False, "close")])
def test_closing_waits_only_for_a_device_that_works(backend, gives, closer, monkeypatch):
    monkeypatch.setattr(microphones, "_PAUSE_SECONDS", 0.2)
    microphone, stream = alone(backend)
    closers = []
    monkeypatch.setattr(stream, "close", lambda **_: closers.append(threading.current_thread().name))
    microphone._begin()
    with stream.asking(10 if gives else 0):
        microphone.close()
    assert closers == [closer]


@BACKENDS
def test_a_device_that_played_its_whole_ring_is_restarted(backend, monkeypatch):
    monkeypatch.setattr(device_sink, "_RING_SECONDS", 1)
    monkeypatch.setattr(capture, "_UNREAD_SECONDS", 1)
    sink, stream = hand_sink(RATE, 1, backend=backend, input_channels=1, prefill_seconds=0)
    microphone, starts = sink.microphone, []
    start = stream.start
    monkeypatch.setattr(stream, "start", lambda: starts.append(stream.n_given) or start())
    microphone._begin()
    for n_lost in range(1, 4):
        for _ in range(90):
            stream.ask(100)
        begin = stream.n_given
        while not len(taken := taken_from(microphone)) or taken[-1, 0] < begin:
            if stream.active:
                stream.ask(10)
        assert len(starts) == 1 + n_lost
        assert n_lost <= microphone.overflows <= 2 * n_lost
    sink.write(noise(200))
    with stream.asking(50):
        sink.drain()
    heard = np.concatenate(stream.heard, -1)[0]
    np.testing.assert_array_equal(heard[np.isin(heard, noise(200))], noise(200))


@BACKENDS
@pytest.mark.parametrize("end", ["close", "abort"])
def test_the_microphone_ends_with_its_sink(backend, end):
    sink, stream = hand_sink(RATE, 1, backend=backend, input_channels=2)
    ending = threading.Timer(0.05, getattr(sink, end))
    with bounded(), stream.asking(20):
        ending.start()
        taken = np.concatenate(list(sink.microphone), -1)
    ending.join()
    np.testing.assert_array_equal(taken, numbers(taken.shape[1], int(taken[0, 0])))
    with pytest.raises(ValueError, match="closed"):
        next(iter(sink.microphone))


@BACKENDS
def test_samples_before_the_iteration_are_dropped(backend):
    sink, stream = hand_sink(RATE, 1, backend=backend, input_channels=1, prefill_seconds=0)
    sink.write(noise(300))
    for _ in range(100):
        stream.ask(20)
    with sink.microphone as microphone:
        microphone._begin()
        while not len(taken := taken_from(microphone)):
            stream.ask(20)
        assert taken[0, 0] > 2000
        assert microphone.overflows == 0


def test_wrong_settings_are_refused():
    sink, _ = hand_sink(RATE)
    with pytest.raises(ValueError, match="input_channels=1"):
        _ = sink.microphone
    for wrong in (-1, 1.5, "1"):
        with pytest.raises(ValueError, match=r"input_channels=.* is not an integer >= 0"):
            hand_sink(RATE, input_channels=wrong)


def test_a_duplex_stream_is_not_resampled(monkeypatch):
    monkeypatch.setattr(HandStream, "rates", [2000])
    with pytest.raises(DeviceError, match="play and record 1 channels on device 'default' with sample_rate"):
        hand_sink(RATE, input_channels=1)
    sink, _ = hand_sink(2000, input_channels=1)
    assert (sink.device_rate, sink.microphone.sample_rate) == (2000, 2000)


# -- on a JACK server --


@contextmanager
def counting(server: str) -> Iterator[list[np.ndarray]]:
    """Return a context with a device that records the numbers from 1 on, and a list of the played blocks."""
    heard: list[np.ndarray] = []
    n_given = 0

    def count(n_samples: int) -> np.ndarray:
        nonlocal n_given
        n_given += n_samples
        return np.arange(n_given - n_samples + 1, n_given + 1) / 2**20

    with jackd.device(server, "room", count, heard.append):
        yield heard


DEVICE = "room, JACK"


@BACKENDS
def test_a_microphone_records_what_is_played_to_it(card, backend):
    with counting(card):
        with pytest.raises(DeviceError, match=f"Cannot record from device '{DEVICE}' with sample_rate=8000"):
            Microphone(8000, device=DEVICE, backend=backend)
        with Microphone(jackd.SAMPLE_RATE, device=DEVICE, queue_seconds=2, backend=backend) as microphone:
            recorded = list(islice(microphone, 20))
        assert microphone.overflows == 0
    numbers = np.concatenate(recorded, -1)[0] * 2**20
    heard = numbers[np.argmax(numbers > 0) :]
    assert len(heard) > 10 * jackd.CARDS["patient"]["period"]
    np.testing.assert_array_equal(np.diff(heard), 1)  # no sample is lost or repeated


@BACKENDS
def test_one_stream_plays_its_recording_with_a_constant_delay(card, backend):
    """Every sample of 2 s is compared; the program pauses for less time than its queue covers."""
    with counting(card) as heard:
        options: dict[str, Any] = {
            "device": DEVICE,
            "prefill_seconds": 0.3,
            "queue_seconds": 0.8,
            "backend": backend,
        }
        with SoundDeviceSink(jackd.SAMPLE_RATE, input_channels=1, **options) as sink:
            n_written = 0
            for block in sink.microphone:
                sink.write(block)
                n_written += block.shape[-1]
                time.sleep(0.1)
                if n_written > 2 * jackd.SAMPLE_RATE:
                    break
        assert (sink.underflows - sink.late_blocks, sink.microphone.overflows) == (0, 0)
        time.sleep(0.1)
    played = np.concatenate(heard).astype(np.float64) * 2**20
    places = np.nonzero((played == np.round(played)) & (played > 0))[0]
    later = places + 1 - played[places]
    whole = later == np.median(later)  # a fade may contain a number by chance
    assert np.count_nonzero(whole) >= n_written - jackd.CARDS["patient"]["period"]
    np.testing.assert_array_equal(np.diff(played[places[whole]]), 1)


def periods_held_up(card: str, backend: str) -> int:
    """Return how many periods end before the callback, in 2 s with the GIL held 80 % of the time."""
    before, n_samples = jackd.late_clients(card), 0
    options: dict[str, Any] = {"device": jackd.DEVICE, "backend": backend, "input_channels": 1}
    with SoundDeviceSink(jackd.SAMPLE_RATE, **options) as sink, gil_held(0.8, 0.1):
        for block in sink.microphone:
            n_samples += block.shape[-1]
            if n_samples > 2 * jackd.SAMPLE_RATE:
                break
    return (jackd.late_clients(card) - before)["PortAudio", "Running"]


@pytest.mark.parametrize("card", ["impatient"], indirect=True)
def test_a_held_gil_does_not_delay_a_stream_of_rtmixer(card):
    pytest.importorskip("_rtmixer", reason='rtmixer is missing: pip install "rtspecinv[live]"')
    assert periods_held_up(card, "callback") > 0  # otherwise the test shows nothing
    assert periods_held_up(card, "rtmixer") == 0


@BACKENDS
def test_a_device_that_does_not_record_is_refused_in_one_line(card, backend):
    with pytest.raises(DeviceError, match="play and record 99 channels on device 'system, JACK'") as error:
        SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE, input_channels=99, backend=backend)
    assert "\n" not in str(error.value)
