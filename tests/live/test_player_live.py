"""Tests of the player: ended at random times, on a JACK server, and for an hour."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jackd
import numpy as np
import pytest
import torch
from fake_clock import HOP, Echo, join_workers, workers
from forked import forked

import rtspecinv
from rtspecinv.audio import ArraySink, Sink, SoundDeviceSink, TeeSink
from rtspecinv.live import Player, play

PERIOD, FRAME = 1000, 256  # frames of FRAME samples have numbers from 1 to PERIOD, repeated
GROWTH = 2**22  # bytes; storing an hour of frames at six bytes each would need more


@pytest.fixture(autouse=True)
def no_orphan_thread() -> Iterator[None]:
    yield
    assert not workers()


# -- ends --


def in_use(player: Player, generator: np.random.Generator) -> None:
    """Make a few random calls, as a user would."""
    for _ in range(generator.integers(1, 20)):
        player.push(np.ones(HOP, np.float32))
    if generator.random() < 0.5:
        player.drain()
    if generator.random() < 0.5:
        player.reset()


def interrupt_at_random(seed: int) -> None:
    """Press Ctrl-C at a random moment while players are made, used and closed; repeat it if discarded.

    Python discards the exception if the signal arrives in a callback of a weak reference.
    """
    generator, main = np.random.default_rng(seed), threading.main_thread().ident
    assert main is not None
    ended, moment = threading.Event(), generator.uniform(0, 0.02)

    def press() -> None:
        while not ended.wait(moment):
            signal.pthread_kill(main, signal.SIGINT)
            ended.wait(5)

    presser = threading.Thread(target=press)

    def use() -> None:
        presser.start()
        while True:
            with Player(Echo(25), ArraySink(), max_frames=3) as player:
                in_use(player, generator)

    with pytest.raises(KeyboardInterrupt):
        use()
    ended.set()
    presser.join()
    join_workers()


def kill_at_random(seed: int) -> None:
    """Raise an exception in the thread, at a random call within the package."""
    generator = np.random.default_rng(seed)
    n_calls = int(generator.integers(1, 1000))

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal n_calls
        # The signal handler.
        inside = "rtspecinv" in frame.f_code.co_filename and frame.f_code.co_name != "_run"
        if event == "call" and inside:
            n_calls -= 1
            if n_calls == 0:
                raise MemoryError

    def use() -> None:
        with Player(Echo(25), ArraySink(), max_frames=3) as player:
            while True:
                in_use(player, generator)

    threading.settrace(trace)
    try:
        with pytest.raises(MemoryError):
            use()
    finally:
        threading.settrace(None)
    join_workers()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("end", [interrupt_at_random, kill_at_random])
def test_every_end_leaves_no_thread(end, seed):
    end(seed)


@pytest.mark.soak
@pytest.mark.parametrize("end", [interrupt_at_random, kill_at_random])
def test_200_ends_leave_no_thread(end):
    for seed in range(200):
        end(1000 + seed)


def test_a_player_that_is_not_closed_does_not_delay_exit():
    code = (
        "import numpy as np\n"
        "from rtspecinv import ArraySink, Player\n"
        "from fake_clock import HOP, Echo\n"
        "player = Player(Echo(), ArraySink())\n"
        "player.push(np.ones(HOP))\n"
        "print('end')\n"
    )
    done = subprocess.run(
        forked([sys.executable, "-c", code]),
        cwd=Path(__file__).parents[1] / "support",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


# -- on a JACK server --


def test_a_player_plays_the_samples_that_play_writes(card, tmp_path):
    stft = rtspecinv.STFT(512, 128)
    inverter = rtspecinv.StreamingInverter(stft, batch_shape=(2,), engine="eager", n_iter=2)
    samples = torch.rand(2, 20000, generator=torch.manual_seed(0)) - 0.5
    magnitude, expected = stft.magnitude(samples).unbind(-1), ArraySink()
    play(magnitude, inverter, expected)
    recorder = jackd.Recorder(card, 2, tmp_path / "recorded.npy")
    # All frames are queued before playback, so that a busy machine does not make frames late.
    options: dict[str, Any] = {"device": jackd.DEVICE, "queue_seconds": 1.0, "prefill_seconds": 0.5}
    with SoundDeviceSink(jackd.SAMPLE_RATE, 2, **options) as sink:
        recorder.connect()
        with Player(inverter, sink, queue_seconds=0.6, reserve_seconds=0.01) as player:
            for frame in magnitude:
                player.push(frame)
    recorded, n = recorder.stop(), expected.samples.shape[-1]
    assert (player.stats.n_frames, player.stats.n_held) == (len(magnitude), 0)
    # After a fade, if there is one.
    begins = np.flatnonzero((recorded[:, : 1 - n] == expected.samples[:, :1]).all(0))
    assert any(np.array_equal(recorded[:, begin : begin + n], expected.samples) for begin in begins)


@pytest.mark.soak
@pytest.mark.parametrize("card", ["impatient"], indirect=True)
def test_a_minute_live_without_an_underflow(card):
    """It uses the setting of the README, in real time, with a resampler for the rate of the card."""
    stft, rate = rtspecinv.STFT(1024, 256), 22050
    inverter = rtspecinv.StreamingInverter(stft, look_ahead=3, n_iter=8)
    second = torch.rand(rate, generator=torch.manual_seed(0)) - 0.5
    magnitude, n_frames, fewest = stft.magnitude(second).unbind(-1), 60 * rate // 256, inverter.n_iter
    with SoundDeviceSink(rate, device=jackd.DEVICE) as sink, Player(inverter, sink) as player:
        begun = time.monotonic()
        for i in range(n_frames):
            player.push(magnitude[i % len(magnitude)])
            fewest = min(fewest, inverter.n_iter)
        player.drain()
        seconds, stats = time.monotonic() - begun, player.stats
    load, late = os.getloadavg()[0], jackd.late_clients(card)
    print(f"{stats}, {sink.late_blocks=}, {dict(late)}, {fewest=}, {seconds:.1f} s, {load=:.1f}")
    assert 59 < seconds < 63  # the duration of the sound
    assert (stats.n_held, stats.n_late, stats.n_frames, fewest) == (0, 0, n_frames, 8)
    assert stats.underflows == sink.late_blocks  # the player was never late
    assert late["PortAudio", "Running"] == 0
    assert sink.late_blocks == 0 or load > 2, "the machine was idle"


class Copy(Echo):
    """Fake inverter that takes no time: the values of a frame are its samples."""

    def check(self, magnitude) -> None:
        pass

    def push(self, frame):
        return frame

    def flush(self, n_samples: int | None = None):
        return np.zeros(0, np.float32)


class Witness(Sink):
    """Checks that every frame is played, in order, and counts repeated frames."""

    def __init__(self) -> None:
        self.latest = self.n_again = 0

    def write(self, samples) -> None:
        assert (samples == samples[0]).all()
        step = (int(samples[0]) - self.latest) % PERIOD
        assert step in (0, 1)
        self.latest, self.n_again = int(samples[0]), self.n_again + (step == 0)


@contextmanager
def freewheeling(server: str) -> Iterator[None]:
    """Return a context in which the card takes samples as fast as it can, so that all frames are late."""
    import jack

    client = jack.Client("wheel", servername=server, no_start_server=True)
    with client:
        client.set_freewheel(True)
        try:
            yield
        finally:
            client.set_freewheel(False)


def memory() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def play_numbers(server: str, seconds: int) -> None:
    """Play numbered frames: all are played, repeated ones are counted, and memory does not grow."""
    n_frames, witness, begun = seconds * jackd.SAMPLE_RATE // FRAME, Witness(), 0
    with (
        SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE, queue_seconds=2.0) as device,
        freewheeling(server),
        Player(Copy(), TeeSink(witness, device), late="hold", queue_seconds=1.0) as player,
    ):
        for i in range(n_frames):
            if i % 1000 == 0:
                time.sleep(0.01)  # the card does not make the writer wait
            player.push(np.full(FRAME, i % PERIOD + 1, np.float32))
            if i == n_frames // 10:
                begun = memory()
        player.drain()
        stats = player.stats
        assert memory() - begun < GROWTH
    assert (stats.n_frames, stats.n_dropped, stats.n_waiting) == (n_frames, 0, 0)
    assert stats.n_held == witness.n_again
    assert stats.n_samples == (n_frames + stats.n_held) * FRAME
    assert stats.underflows == device.underflows
    assert stats.n_late > 0  # otherwise the test shows nothing


def test_a_minute_in_freewheel_mode(card):
    play_numbers(card, 60)


@pytest.mark.soak
def test_an_hour_in_freewheel_mode(card):
    play_numbers(card, 3600)


@pytest.mark.soak
def test_an_hour_of_inversion_in_freewheel_mode(card):
    stft = rtspecinv.STFT(1024, FRAME)
    inverter = rtspecinv.StreamingInverter(stft, look_ahead=3, n_iter=2)
    frames = stft.magnitude(torch.rand(100 * FRAME, generator=torch.manual_seed(0)) - 0.5).unbind(-1)
    n_frames, begun = 3600 * jackd.SAMPLE_RATE // FRAME, 0
    with (
        SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE, queue_seconds=2.0) as device,
        freewheeling(card),
        Player(inverter, device, late="hold", queue_seconds=1.0) as player,
    ):
        for i in range(n_frames):
            player.push(frames[i % len(frames)])
            if i == n_frames // 10:
                begun = memory()
        player.drain()
        stats = player.stats
        assert memory() - begun < GROWTH
    assert (stats.n_frames, stats.n_dropped) == (n_frames, 0)
    owed = stft.n_fft - FRAME - 2 * stft.padding  # samples after the hop of the last frame
    assert stats.n_samples == (n_frames + stats.n_held) * FRAME + owed
