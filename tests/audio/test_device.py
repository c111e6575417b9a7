"""Tests of the sound device on a fake stream: played samples, gaps and counters."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
from fake_device import FADE, RATE, HandMixer, hand_sink, noise
from fuzzing import bounded
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rtspecinv.audio import device_sink

BACKENDS = pytest.mark.parametrize("backend", ["callback", "rtmixer"])
STEPS = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 300)), min_size=1, max_size=30)


@BACKENDS
@settings(deadline=None)
@given(steps=STEPS, interrupts=st.lists(st.integers(0, 60), max_size=60), channels=st.integers(1, 2))
@example(steps=[(10, 10), (10, 1)], interrupts=[0, 0, 0, 0, 0, 0, 60], channels=1)
def test_written_samples_are_played_and_every_gap_is_counted(backend, steps, interrupts, channels):
    sink, stream = hand_sink(RATE, channels, backend=backend, queue_seconds=0.97, prefill_seconds=0)
    stream.between = iter(interrupts)
    written = [noise(channels, 0)]
    for i, (n_write, n_ask) in enumerate(steps):
        written.append(noise(channels, min(n_write, sink.room), seed=i))
        sink.write(written[-1])
        if stream.active:
            stream.ask(n_ask)
        assert 0 <= sink.room <= 970
        assert sink.latency_seconds >= 0
    while stream.active and sink.queued:
        stream.ask(50)
    given, heard = np.concatenate(written, -1), np.concatenate(stream.heard, -1)
    # Written samples and fades differ by their values.
    ours = np.isin(heard[0], given[0])
    np.testing.assert_array_equal(heard[:, ours], given)
    if given.size:
        first, last = np.nonzero(ours)[0][[0, -1]]
        ours = ours[first : last + 1]
        assert sink.underflow_samples == np.count_nonzero(~ours)
        gaps = np.count_nonzero(np.diff(ours.astype(int)) == -1)
        # A block of the device during a write may be counted as an underflow without a gap.
        assert gaps <= sink.underflows == len(sink.underflow_seconds)
        if not any(interrupts):
            assert gaps == sink.underflows


def test_underflow_is_timed_and_delays_what_follows_by_its_length():
    sink, stream = hand_sink(RATE, queue_seconds=0.5, prefill_seconds=0.02)
    first, second, third = noise(3, 100)
    sink.write(first)
    stream.ask(180)
    assert sink.underflows == 0  # the gap may have been the end
    sink.write(second)
    sink.write(third)
    stream.ask(500)
    heard = np.concatenate(stream.heard, -1)[0]
    begin = [np.nonzero(heard == samples[0])[0][0] for samples in (first, second, third)]
    assert begin == [FADE, FADE + 100 + sink.underflow_samples, FADE + 200 + sink.underflow_samples]
    assert sink.underflows == 1
    assert sink.underflow_seconds == ((FADE + 100) / RATE,)
    assert sink.underflow_samples >= 80 - FADE


@pytest.mark.parametrize("channels", [1, 2])
def test_nothing_clicks(channels):
    rate = 8000
    tone = np.sin(2 * np.pi * 200 / rate * np.arange(60000, dtype=np.float64) + 1)
    tone = np.stack([tone, -0.7 * tone])[:channels].astype(np.float32)
    sink, stream = hand_sink(rate, channels, queue_seconds=1, prefill_seconds=0)
    position = 0

    def write(n):
        nonlocal position
        sink.write(tone[:, position : position + n])
        position += n

    def ask(n):
        for _ in range(n // 50):
            stream.ask(50)

    for n_write, n_ask in ((800, 500), (900, 3000), (17, 100), (1000, 1100), (1003, 3000), (3001, 1500)):
        write(n_write)
        ask(n_ask)
    sink.clear()
    write(2000)
    ask(1000)
    sink.clear()
    ask(1000)
    write(2011)
    with stream.asking(50):
        sink.drain()
    write(1000)
    ask(100)
    with stream.asking(50):
        sink.abort()
    heard = np.concatenate([noise(channels, 1) * 0, *stream.heard, noise(channels, 1) * 0], -1)
    assert sink.underflows == 3
    assert np.abs(heard).max() > 0.99
    for one, own in zip(heard, tone, strict=True):
        assert np.abs(np.diff(one)).max() <= np.abs(np.diff(own)).max() * (1 + 1e-4)


def test_sound_that_begins_and_ends_in_silence_is_played_alone():
    sink, stream = hand_sink(RATE, prefill_seconds=0)
    samples = np.sin(np.pi * np.arange(101) / 100).astype(np.float32)
    sink.write(samples)
    heard = stream.ask(300)[0]
    np.testing.assert_array_equal(heard[:101], samples)
    assert not heard[101:].any()


def test_clear_cuts_within_a_block_and_the_device_goes_on():
    sink, stream = hand_sink(RATE, queue_seconds=1, prefill_seconds=0.01)
    sink.write(noise(900))
    stream.ask(64)
    sink.clear()
    assert sink.queued == 0
    cut = stream.ask(64)[0]
    assert np.all(cut[:FADE] > 0)
    assert not cut[FADE:].any()
    assert stream.active
    samples = noise(100, seed=1)
    sink.write(samples)
    heard = stream.ask(300)[0]
    begin = np.nonzero(heard == samples[0])[0][0]
    np.testing.assert_array_equal(heard[begin : begin + 100], samples)
    assert begin <= 64 + 2 * FADE  # one block ahead of the device, and the fade
    assert (sink.underflows, sink.underflow_samples) == (0, 0)


def test_clear_wakes_a_waiting_writer_and_drops_its_samples():
    sink, stream = hand_sink(RATE, queue_seconds=0.1, prefill_seconds=0)
    writer = threading.Thread(target=sink.write, args=[noise(5000)])
    writer.start()
    time.sleep(0.05)
    stream.ask(10)
    sink.clear()
    writer.join(1)
    assert not writer.is_alive()
    assert not stream.ask(1000)[0, FADE:].any()


def test_clear_ends_a_drain_and_later_samples_are_played_completely():
    sink, stream = hand_sink(RATE, queue_seconds=6, prefill_seconds=0)
    sink.write(noise(5000))
    drainer = threading.Thread(target=sink.drain)
    drainer.start()
    time.sleep(0.05)
    assert drainer.is_alive()
    stream.ask(10)
    sink.clear()
    stream.ask(10)  # the device plays the fade, but not the remaining 5 s
    drainer.join(1)
    assert not drainer.is_alive()
    samples = noise(100, seed=1)
    sink.write(samples)
    heard = stream.ask(300)[0]
    begin = np.nonzero(heard == samples[0])[0][0]
    np.testing.assert_array_equal(heard[begin : begin + 100], samples)
    assert (sink.underflows, sink.underflow_samples) == (0, 0)


def test_start_plays_less_than_the_prefill_but_not_an_empty_queue():
    sink, stream = hand_sink(RATE, queue_seconds=0.5, prefill_seconds=0.2)
    sink.start()
    assert not stream.active
    sink.write(noise(50))
    assert not stream.active
    sink.start()
    assert stream.active
    np.testing.assert_array_equal(stream.ask(100)[0, FADE : FADE + 50], noise(50))


def test_clear_before_the_start_drops_all_samples():
    sink, stream = hand_sink(RATE, queue_seconds=0.5, prefill_seconds=0.2)
    sink.write(noise(50))
    sink.clear()
    assert not stream.active
    samples = noise(250, seed=1)
    sink.write(samples)
    np.testing.assert_array_equal(stream.ask(300)[0, FADE : FADE + 250], samples)


def test_a_gap_makes_the_next_prefill_longer_up_to_half_the_queue():
    sink, stream = hand_sink(RATE, queue_seconds=0.4, prefill_seconds=0.03)
    latencies = []
    for i in range(5):
        sink.write(noise(20, seed=i))
        latencies.append(sink.latency_seconds)
        for _ in range(40):
            stream.ask(10)
    assert latencies == sorted(latencies)
    assert sink._timeline.prefill == 200


def test_after_long_silence_the_stopped_device_starts_again(monkeypatch):
    monkeypatch.setattr(device_sink, "_RING_SECONDS", 1)
    sink, stream = hand_sink(RATE, queue_seconds=0.5, prefill_seconds=0)
    samples = noise(2, 400)
    for _ in range(20):  # many times the length of the ring
        sink.write(samples[0])
        stream.ask(400)
        assert sink.underflows == 0
        assert sink.queued == FADE
    stream.ask(5000)
    assert not stream.ask(100).any()
    sink.write(samples[1])
    np.testing.assert_array_equal(stream.ask(500)[0, FADE : FADE + 400], samples[1])
    assert sink.underflows == 1
    assert sink.underflow_samples >= 1000


@pytest.mark.parametrize("n_left", [0, 30, 200])
def test_a_device_that_may_have_stopped_is_restarted(monkeypatch, n_left):
    monkeypatch.setattr(device_sink, "_RING_SECONDS", 1)
    sink, stream = hand_sink(RATE, queue_seconds=0.02, prefill_seconds=0)
    sink.write(noise(10))
    stream.ask(50)
    length = len(sink._device.ring.samples)
    while sink._device.ring.claimed < length - n_left:
        stream.ask(min(50, length - n_left - sink._device.ring.claimed))
    stopped, stop = [], stream.stop
    monkeypatch.setattr(stream, "stop", lambda: stopped.append(sink._device.ring.claimed) or stop())
    sink.write(noise(10, seed=1))
    assert stopped == ([length - n_left] if n_left < 50 else [])  # within one block before the end
    heard = stream.ask(100)[0]
    assert np.isin(noise(10, seed=1), heard).all()
    assert sink.underflows == 1


@BACKENDS
@pytest.mark.parametrize("n_before", range(15))
def test_a_device_that_stops_during_a_write_is_restarted(monkeypatch, backend, n_before):
    """The program may stop for seconds at any point of a write, and the device plays its whole ring."""
    monkeypatch.setattr(device_sink, "_RING_SECONDS", 1)
    sink, stream = hand_sink(RATE, backend=backend, queue_seconds=0.1, prefill_seconds=0.02)
    sink.write(noise(30))
    for n_early in (0, 50, 1000, 1500, 2048, 5000):
        stream.ask(n_early)
        stream.between = iter([0] * n_before + [3 * RATE])
        written = noise(60, seed=n_early + 1)
        sink.write(written)
        sink.start()
        while sink.queued:
            assert not sink._device.ring.exhausted
            stream.ask(50)
        heard = np.concatenate(stream.heard, -1)[0]
        np.testing.assert_array_equal(heard[np.isin(heard, written)], written)
    assert np.isin(noise(30), heard).all()


def still_plays(sink, stream):
    """Check that the samples written next are played completely."""
    written = noise(60, seed=9)
    with stream.asking(50), bounded():
        sink.write(written)
        sink.drain()
    heard = np.concatenate(stream.heard, -1)[0]
    np.testing.assert_array_equal(heard[np.isin(heard, written)], written)


@BACKENDS
@pytest.mark.parametrize("cut", ["clear", "abort"])
@pytest.mark.parametrize("n_before", range(12))
def test_a_device_that_stops_during_clear_blocks_no_caller(monkeypatch, backend, cut, n_before):
    monkeypatch.setattr(device_sink, "_RING_SECONDS", 1)
    sink, stream = hand_sink(RATE, backend=backend, queue_seconds=0.1, prefill_seconds=0.02)
    sink.write(noise(90))
    stream.ask(20)
    stream.between = iter([0] * n_before + [3 * RATE])
    with bounded():
        getattr(sink, cut)()
    if cut == "clear":
        still_plays(sink, stream)


@pytest.mark.parametrize("n_before", range(2))
def test_ctrl_c_while_the_limit_is_extended_loses_no_samples(monkeypatch, n_before):
    monkeypatch.setattr(device_sink, "_RING_SECONDS", 1)
    sink, stream = hand_sink(RATE, backend="rtmixer", queue_seconds=0.1, prefill_seconds=0.02)
    sink.write(noise(30))
    stream.ask(700)  # after so many samples the next write extends the limit
    assert isinstance(stream, HandMixer)
    stream.presses = iter([False] * n_before + [True])
    with pytest.raises(KeyboardInterrupt):
        sink.write(noise(60, seed=1))
    for _ in range(2 * RATE // 50):
        stream.ask(50)
        assert stream.actions or sink._device.ring.exhausted
    still_plays(sink, stream)


def test_device_starts_when_prefilled_and_drain_starts_a_short_one():
    sink, stream = hand_sink(RATE, queue_seconds=0.5, prefill_seconds=0.2)
    sink.write(noise(200 - FADE - 1))
    assert not stream.active
    assert sink.latency_seconds == pytest.approx(0.199 + 0.01)
    sink.write(noise(1))
    assert stream.active
    with stream.asking(10):
        sink.drain()
    assert (sink.queued, stream.active, sink.underflows) == (0, False, 0)


def test_a_device_has_at_least_one_block_of_latency():
    sink, stream = hand_sink(RATE, queue_seconds=0.5, prefill_seconds=0)
    for n_ask, block_seconds in ((5, stream.latency), (50, 0.05), (7, 0.05)):
        sink.write(noise(100))
        stream.ask(n_ask)
        assert sink.latency_seconds == pytest.approx(sink.queued / RATE + block_seconds)  # type: ignore[operator]


def test_pause_after_drain_is_no_underflow_but_lateness_within_the_sound_is():
    sink, stream = hand_sink(RATE, queue_seconds=0.5, prefill_seconds=0)
    sink.write(noise(100))
    stream.ask(200, late=True)  # latency before the first sound
    sink.drain()
    sink.write(noise(100))
    stream.ask(100)
    assert (sink.underflows, sink.underflow_samples) == (0, 0)
    sink.write(noise(100))
    stream.ask(100, late=True)
    assert (sink.underflows, sink.underflow_samples) == (1, 0)
    assert len(sink.underflow_seconds) == 1


def test_room_is_the_number_of_samples_that_write_accepts_at_once():
    sink, stream = hand_sink(RATE, queue_seconds=0.1, prefill_seconds=0)
    for n_ask in (1, 30, 7, 500, 64):
        begin = time.monotonic()
        sink.write(noise(sink.room))
        # The device requests nothing, so a longer block would wait for ever.
        assert time.monotonic() - begin < 0.5
        assert sink.room == 0
        stream.ask(n_ask)


def test_the_event_loop_runs_while_the_queue_is_full():
    async def session() -> tuple[int, np.ndarray]:
        sink, stream = hand_sink(RATE, queue_seconds=0.05, prefill_seconds=0)
        samples, n_turns = noise(400), 0
        writing = asyncio.create_task(asyncio.to_thread(sink.write, samples))
        while not writing.done():
            n_turns += 1
            await asyncio.sleep(0.002)
            if stream.active:
                stream.ask(20)
        sink.abort()
        return n_turns, np.concatenate(stream.heard, -1)[0, FADE:]

    n_turns, heard = asyncio.run(session())
    assert n_turns > 10
    samples = noise(400)
    assert len(np.intersect1d(heard, samples)) >= 340


def test_a_full_queue_makes_the_writer_wait_until_abort():
    sink, _ = hand_sink(100, queue_seconds=0.1, prefill_seconds=0.1)
    errors = []

    def write():
        try:
            sink.write(noise(50))
        except ValueError as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.1)
    assert writer.is_alive()
    assert sink.room == 0
    sink.abort()
    writer.join(1)
    assert not writer.is_alive()
    assert not errors or "closed" in str(errors[0])
    with pytest.raises(ValueError, match="closed"):
        sink.write(noise(1))
