"""Tests of the player and its thread, without a device."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from typing import Any, cast

import numpy as np
import pytest
import torch
from fake_clock import HOP, PATIENT, RATE, Card, Clock, Echo, join_workers, workers

import rtspecinv
from rtspecinv.audio import ArraySink, DeviceError, FileSink, TeeSink
from rtspecinv.live import Mailbox, Player, PlayerStats, play


@pytest.fixture(autouse=True)
def no_orphan_thread() -> Iterator[None]:
    yield
    assert not workers()


def frames_of(n: int, *batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 0.9, (n, *batch, HOP)).astype(np.float32)


class Gate(ArraySink):
    """A sink that takes samples only while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.asked = threading.Event()

    def write(self, samples) -> None:
        self.asked.set()
        assert self.open.wait(PATIENT)
        super().write(samples)


@pytest.mark.parametrize("batch", [(), (1,), (2,)])
@pytest.mark.parametrize("latency", [0, 25, 400])
@pytest.mark.parametrize("max_frames", [1, 8])
def test_player_writes_what_play_writes(batch, latency, max_frames):
    frames, expected, sink = frames_of(20, *batch), ArraySink(), ArraySink()
    play(iter(frames), Echo(latency, batch), expected)
    with Player(Echo(latency, batch), sink, max_frames=max_frames) as player:
        for frame in frames:
            player.push(frame)
    np.testing.assert_array_equal(sink.samples, expected.samples)
    stats = player.stats
    assert (stats.n_frames, stats.n_samples) == (20, sink.samples.shape[-1])
    assert (stats.n_waiting, stats.n_dropped, stats.n_held, stats.n_late, stats.underflows) == (0,) * 5
    assert stats.n_iter == 8


def test_player_of_a_real_inverter_writes_what_play_writes(tmp_path):
    stft = rtspecinv.STFT(64, 16)
    inverter = rtspecinv.StreamingInverter(stft, batch_shape=(2,), engine="eager")
    samples = torch.rand(2, 600, generator=torch.manual_seed(0)) - 0.5
    magnitude, expected, memory = stft.magnitude(samples), ArraySink(), ArraySink()
    play(magnitude.unbind(-1), inverter, expected)
    threads = torch.get_num_threads()
    file = FileSink(tmp_path / "a.wav", 8000, 2, subtype="FLOAT")
    with TeeSink(memory, file) as sink, Player(inverter, sink) as player:
        for i, frame in enumerate(magnitude.unbind(-1)):
            player.push(frame.numpy() if i % 2 else frame)
        player.drain()
        assert 0 < player.stats.real_time_factor_p50 <= player.stats.real_time_factor_p99 < math.inf
        assert player.stats.latency_ms == pytest.approx(1000 * inverter.latency / 8000)
    np.testing.assert_array_equal(memory.samples, expected.samples)
    np.testing.assert_array_equal(rtspecinv.read_audio(tmp_path / "a.wav")[0], expected.samples)
    assert torch.get_num_threads() == threads


def test_the_caller_may_overwrite_a_pushed_frame():
    sink, frame = Gate(), np.zeros(HOP, np.float32)
    with Player(Echo(), sink, max_frames=20) as player:
        for value in range(10):
            frame[:] = value
            player.push(frame)
        sink.open.set()
    np.testing.assert_array_equal(sink.samples[::HOP], np.arange(10))


def test_no_thread_before_the_first_frame_and_nothing_to_drain():
    with Player(Echo(), ArraySink()) as player:
        assert not workers()
        player.drain()
        player.reset()
        assert math.isnan(player.stats.real_time_factor_p50)
        player.push(np.zeros(HOP))
        assert len(workers()) == 1


def test_drain_waits_and_the_next_frame_begins_a_new_sound():
    frames, sink, once = frames_of(7), ArraySink(), ArraySink()
    play(iter(frames), Echo(25), once)
    with Player(Echo(25), sink) as player:
        for n in (1, 2, 3):
            for frame in frames:
                player.push(frame)
            player.drain()
            np.testing.assert_array_equal(sink.samples, np.tile(once.samples, n))


def full_player(**options) -> tuple[Player, Gate]:
    """Return a player with a frame that waits for its closed sink, and three frames in the queue."""
    sink = Gate()
    player = Player(Echo(), sink, max_frames=3, **options)
    player.push(np.full(HOP, 0.0))
    assert sink.asked.wait(PATIENT)
    for value in (1.0, 2.0, 3.0):
        player.push(np.full(HOP, value))
    return player, sink


def test_full_block_waits_for_room_up_to_the_timeout():
    player, sink = full_player()
    with player:
        begin = time.monotonic()
        with pytest.raises(TimeoutError, match=r"queue of frames was full for timeout=0\.05 seconds"):
            player.push(np.full(HOP, 4.0), timeout=0.05)
        assert 0.04 < time.monotonic() - begin < PATIENT / 2
        assert player.stats.n_waiting == 3
        pusher = threading.Thread(target=player.push, args=[np.full(HOP, 5.0)])
        pusher.start()
        time.sleep(0.02)
        assert pusher.is_alive()
        sink.open.set()
        pusher.join(PATIENT)
    assert sink.samples[::HOP].tolist() == [0, 1, 2, 3, 5]


def test_drop_oldest_never_waits():
    player, sink = full_player(full="drop_oldest")
    with player:
        for value in (4.0, 5.0):
            player.push(np.full(HOP, value))
        assert player.stats.n_dropped == 2
        sink.open.set()
    assert sink.samples[::HOP].tolist() == [0, 3, 4, 5]


def test_full_raise_raises_and_playback_continues():
    player, sink = full_player(full="raise")
    with player:
        with pytest.raises(queue.Full, match="3 frames wait already: push later"):
            player.push(np.full(HOP, 4.0))
        sink.open.set()
    assert sink.samples[::HOP].tolist() == [0, 1, 2, 3]


def test_bad_frames_are_refused_at_once_and_change_nothing():
    frames, expected, sink = frames_of(10), ArraySink(), ArraySink()
    play(iter(frames), Echo(25), expected)
    with Player(Echo(25), sink) as player:
        for frame in frames:
            for bad in (frame[:-1], frame[None]):
                with pytest.raises(ValueError, match="shape"):
                    player.push(bad)
            for bad in (None, frame.tolist()):
                with pytest.raises(TypeError, match="Parameter magnitude is a"):
                    player.push(bad)
            player.push(frame)
    np.testing.assert_array_equal(sink.samples, expected.samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"full": "wait"}, "full='wait' is not one of 'block', 'drop_oldest', 'raise'"),
        ({"late": "loop"}, "late='loop' is not one of 'silence', 'hold'"),
        ({"max_frames": 0}, "max_frames=0"),
        ({"least_iter": -1}, "least_iter=-1"),
        ({"queue_seconds": 0}, "queue_seconds=0"),
        ({"queue_seconds": math.nan}, "queue_seconds=nan"),
        (
            {"queue_seconds": 0.1, "reserve_seconds": 0.2},
            "reserve_seconds=0.2 is not > 0 and <= queue_seconds=0.1",
        ),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Player(Echo(), ArraySink(), **options)


def test_reset_drops_waiting_frames_and_the_current_one():
    class Slow(Echo):
        begun, go_on = threading.Event(), threading.Event()

        def push(self, frame):
            self.begun.set()
            assert self.go_on.wait(PATIENT)
            return super().push(frame)

    card, inverter = Card(Clock()), Slow(latency=15)
    with Player(inverter, card, queue_seconds=10, reserve_seconds=0.001) as player:
        for _ in range(5):
            player.push(np.full(HOP, 1.0))
        assert inverter.begun.wait(PATIENT)
        player.reset()
        assert card.cleared == 1
        assert player.stats.n_waiting == 0
        inverter.go_on.set()
        for _ in range(5):
            player.push(np.full(HOP, 2.0))
        player.drain()
    assert card.samples.tolist() == [2.0] * 5 * HOP


def test_reset_wakes_callers_that_wait_for_the_end():
    player, sink = full_player()
    with player:
        drainer = threading.Thread(target=player.drain)
        drainer.start()
        time.sleep(0.02)
        resetter = threading.Thread(target=player.reset)  # waits for the current write
        resetter.start()
        sink.open.set()
        drainer.join(PATIENT)
        resetter.join(PATIENT)
        assert not drainer.is_alive()


@pytest.mark.parametrize("error", [DeviceError("gone"), RuntimeError("inverter"), SystemExit("odd")])
def test_a_crash_of_the_thread_is_raised_by_the_next_call(error):
    class Broken(ArraySink):
        def write(self, samples) -> None:
            raise error

    for call in (
        lambda player: player.push(np.zeros(HOP)),
        lambda player: player.drain(),
        lambda player: player.reset(),
        lambda player: player.close(),
    ):
        player = Player(Echo(), Broken())
        player.push(np.zeros(HOP))
        join_workers()
        with pytest.raises(type(error), match=str(error)):
            call(player)
        with pytest.raises(type(error), match=str(error)):
            player.push(np.zeros(HOP))  # and so does every other value
        player.abort()

    def push_many() -> None:
        with Player(Echo(), Broken(), max_frames=1) as player:
            for _ in range(10):
                player.push(np.zeros(HOP))  # a waiting call continues

    with pytest.raises(type(error), match=str(error)):
        push_many()


def test_a_closed_player_rejects_frames_and_may_be_closed_again():
    with Player(Echo(), ArraySink()) as player:
        player.push(np.zeros(HOP))
    player.close()
    player.abort()
    for call in (lambda: player.push(np.zeros(HOP)), player.drain, player.reset):
        with pytest.raises(ValueError, match="The player is closed"):
            call()


def test_an_exception_in_the_with_block_stops_playback_and_leaves_the_sink_open():
    card = Card(Clock())

    def body() -> None:
        with Player(Echo(), card, queue_seconds=10) as player:
            for _ in range(5):
                player.push(np.ones(HOP))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert card.cleared == 1
    card.write(np.ones(HOP))


def test_stats_are_a_frozen_snapshot():
    with Player(Echo(), ArraySink()) as player:
        before = player.stats
        player.push(np.zeros(HOP))
        player.drain()
        assert (before.n_frames, player.stats.n_frames) == (0, 1)
        assert isinstance(before, PlayerStats)
        with pytest.raises(FrozenInstanceError):
            cast(Any, before).n_frames = 1


def test_stats_of_a_card():
    card = Card(Clock(), prefill=10**6)
    with Player(Echo(25), card, queue_seconds=0.05, max_frames=8) as player:
        for _ in range(12):
            player.push(np.ones(HOP), timeout=PATIENT)
        for _ in range(1000):
            if card.queued >= 50:
                break
            time.sleep(0.005)
        stats = player.stats
        assert stats.queue_ms == 1000 * card.queued / RATE >= 50
        waiting = 1000 * (stats.n_waiting * HOP + 25) / RATE
        assert stats.latency_ms == pytest.approx(waiting + 1000 * card.latency_seconds)
        player.abort()  # the clock does not advance


def test_iterations_may_be_set_while_it_plays_and_are_as_before_at_the_end():
    inverter = Echo()
    with Player(inverter, ArraySink()) as player:
        player.push(np.zeros(HOP))
        player.n_iter = 3
        player.drain()
        assert (player.n_iter, player.stats.n_iter) == (3, 3)
    assert inverter.n_iter == 3


def test_tee_with_a_device_is_paced_by_it():
    card, other, memory = Card(Clock(), prefill=10**6), Card(Clock(), prefill=10**6), ArraySink()
    tee = TeeSink(memory, card, other)
    assert (tee.queued, tee.sample_rate, tee.latency_seconds, tee.underflows) == (0, RATE, 0.02, 0)
    with Player(Echo(), tee, queue_seconds=0.05) as player:
        for _ in range(5):
            player.push(np.ones(HOP))
        while other.began is None:  # the sink contains the whole queue
            time.sleep(0.001)
        assert (card.began, other.began) == (0.0, 0.0)
        player.reset()
    assert (card.cleared, other.cleared) == (1, 1)
    assert not hasattr(TeeSink(memory), "queued")
    with pytest.raises(ValueError, match=r"one sample_rate, but they have \[1000, 2000\]"):
        TeeSink(memory, card, Card(Clock(), rate=2 * RATE))


# -- the mailbox --


def test_mailbox_feeds_a_player_at_its_pace():
    mailbox, sink = Mailbox(), Gate()
    mailbox.put(np.full(HOP, 1.0))
    with Player(Echo(), sink, max_frames=1) as player:
        feeder = threading.Thread(target=lambda: [player.push(frame) for frame in mailbox])
        feeder.start()
        assert sink.asked.wait(PATIENT)
        mailbox.put(np.full(HOP, 2.0))
        sink.open.set()
        while 2.0 not in sink.samples:
            time.sleep(0.001)
        mailbox.close()
        feeder.join(PATIENT)
    values = sink.samples[::HOP]
    assert (np.diff(values) >= 0).all()
    assert values.max() == 2


def test_frames_from_a_mailbox_may_be_overwritten():
    mailbox = Mailbox()
    mailbox.put(np.full(HOP, 2.0))
    for frame, _ in zip(mailbox, range(3), strict=False):
        assert (frame == 2).all()
        frame *= 0.5


# -- asyncio --


def test_async_push_waits_without_blocking_the_loop():
    async def main() -> int:
        player, sink = full_player()
        n_turns = 0
        async with player:
            pushing = asyncio.create_task(player.push_async(np.full(HOP, 4.0)))
            while n_turns < 20:
                await asyncio.sleep(0)
                n_turns += 1
            assert not pushing.done()
            given_up = asyncio.create_task(player.push_async(np.full(HOP, 9.0)))
            await asyncio.sleep(0)
            given_up.cancel()
            sink.open.set()
            await asyncio.wait_for(pushing, PATIENT)
            await player.drain_async()
            assert sink.samples[::HOP].tolist() == [0, 1, 2, 3, 4]
            with pytest.raises(ValueError, match="shape"):
                await player.push_async(np.zeros(3))
            await player.push_async(np.full(HOP, 5.0))
        assert sink.samples[::HOP].tolist() == [0, 1, 2, 3, 4, 5]
        return n_turns

    assert asyncio.run(main()) == 20


def test_async_errors_and_crashes_leave_no_thread():
    class Broken(ArraySink):
        def write(self, samples) -> None:
            raise DeviceError("gone")

    async def body_raises() -> None:
        async with Player(Echo(), ArraySink()) as player:
            await player.push_async(np.zeros(HOP))
            raise KeyError("body")

    async def thread_crashes() -> None:
        async with Player(Echo(), Broken(), max_frames=1) as player:
            for _ in range(10):
                await player.push_async(np.zeros(HOP))

    with pytest.raises(KeyError, match="body"):
        asyncio.run(body_raises())
    with pytest.raises(DeviceError, match="gone"):
        asyncio.run(thread_crashes())


def test_the_thread_of_a_player_that_is_dropped_ends():
    player = Player(Echo(), ArraySink())
    player.push(np.zeros(HOP))
    assert len(workers()) == 1
    del player
    join_workers()
