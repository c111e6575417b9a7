"""Tests of late frames and late inversion, on a fake clock, exact to the sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fake_clock import HOP, RATE, Stage
from hypothesis import given, settings
from hypothesis import strategies as st

import rtspecinv
from rtspecinv.live.iterations import AIM, PATIENCE, IterationControl

STEADY_DB = 3.0  # largest change of level of a held sound
STEADY = [0.01 * i for i in range(200)]


# -- late frames, on a fake clock --


@pytest.mark.parametrize("late", ["hold", "silence"])
@pytest.mark.parametrize("block", [1, 10, 25])
def test_frames_in_time_are_never_replaced(late, block):
    stage = Stage(STEADY, late=late, prefill=50, block=block)
    stage.run(1.5)
    assert stage.heard == list(range(1, len(stage.heard) + 1))
    assert len(stage.heard) > 140
    assert (stage.pump.n_held, stage.pump.n_late, stage.card.underflows) == (0, 0, 0)


@pytest.mark.parametrize("late", ["hold", "silence"])
def test_late_frames_are_counted_exactly_and_playback_recovers(late):
    """The source pauses for 200 ms; the queue of 40 ms covers 10 ms of it, down to the reserve of 30 ms."""
    arrivals = [t if t < 0.995 else t + 0.2 for t in STEADY]
    stage = Stage(arrivals, late=late, prefill=40)
    stage.run(2.1)
    n_held = stage.pump.n_held
    assert stage.pump.n_late == 1
    assert n_held in (19, 20)
    made_up = [100.0] * n_held
    if late == "silence":
        made_up = [100.0 * 0.5**i for i in range(1, 9)] + [0.0] * (n_held - 8)
    n_first = stage.heard.index(100.0) + 1
    n_after = len(stage.heard) - n_first - n_held
    assert stage.heard == [*range(1, 101), *made_up, *range(101, 101 + n_after)]
    assert n_after > 80  # playback continued and was never late again
    assert stage.card.underflows == 0


@settings(deadline=None, max_examples=40)
@given(
    gaps=st.lists(st.tuples(st.integers(5, 30), st.floats(0.0, 0.3)), min_size=1, max_size=6),
    block=st.sampled_from([1, 7, 10, 16]),
    late=st.sampled_from(["hold", "silence"]),
    latency=st.sampled_from([0, 10, 25]),
)
def test_every_frame_is_played_once_and_every_replacement_is_counted(gaps, block, late, latency):
    now, arrivals = 0.0, []
    for n_frames, pause in gaps:
        arrivals += [now + 0.01 * i for i in range(n_frames)]
        now = arrivals[-1] + 0.01 + pause
    stage = Stage(arrivals, late=late, prefill=45, block=block, latency=latency)
    stage.run(now)
    stage.inbox.end(lambda: None)
    stage.run(stage.clock.now + 1.0)
    samples = stage.card.samples
    assert len(samples) == HOP * (len(arrivals) + stage.pump.n_held)
    hops = samples.reshape(-1, HOP)  # without the latency, hops are complete
    assert (hops == hops[:, :1]).all()
    # The numbers of frames increase, and those of repeated frames do not exceed the last one that arrived.
    loudest = np.maximum.accumulate(hops[:, 0])
    assert np.unique(loudest).tolist() == list(range(1, len(arrivals) + 1))
    if late == "hold":
        np.testing.assert_array_equal(hops[:, 0], loudest)
    # Once after each pause, and again until the queue has grown by a block of the card.
    assert stage.pump.n_late <= len(gaps) * (1 + math.ceil(block / HOP))
    assert stage.card.underflows == 0


def test_a_pause_after_the_end_is_not_late():
    ended = []
    stage = Stage(STEADY[:20], prefill=40, latency=25)
    stage.run(0.195)
    stage.inbox.end(lambda: ended.append(stage.clock.now))
    stage.run(5.0)
    assert len(ended) == 1
    assert stage.card.queued == 0
    assert stage.pump.n_held == 0
    assert len(stage.card.samples) == 20 * HOP
    assert stage.card.samples[-1] == 20


def test_latency_is_bounded_for_any_number_of_frames():
    """Twice as many frames arrive as can be played: the oldest are dropped and counted, others in order."""
    arrivals = [0.005 * i for i in range(400)]
    stage = Stage(arrivals, full="drop_oldest", max_frames=3, prefill=40)
    stage.run(1.9)
    n_arrived = stage.n_arrived
    assert stage.inbox.n_dropped == n_arrived - len(stage.heard) - len(stage.inbox)
    assert stage.inbox.n_dropped > 150
    assert stage.heard == sorted(set(stage.heard))
    assert stage.card.queued <= 0.05 * RATE + HOP
    assert n_arrived - stage.heard[-1] <= 3  # the newest frame played is one of the last that arrived


def test_a_card_with_a_long_prefill_starts_with_a_shorter_queue():
    stage = Stage([0.0] * 40, prefill=120)  # more than queue_seconds
    stage.run(0.3)
    assert stage.card.began == 0.0
    assert stage.heard == list(range(1, len(stage.heard) + 1))
    assert stage.card.queued <= 0.05 * RATE + HOP  # never more than queue_seconds and a hop
    assert stage.card.underflows == 0


def test_a_few_first_frames_are_played_without_later_ones():
    stage = Stage([0.0] * 4, prefill=48, late="silence")
    stage.run(2.0)
    assert stage.card.began is not None
    assert stage.heard[:4] == [1, 2, 3, 4]


# -- late inversion --


def test_iterations_go_down_when_inverting_is_late_and_come_back():
    """From 0.5 to 2.5 s, an iteration takes 2.5 ms, so that a hop of 10 ms needs 20 ms; then 0.5 ms."""
    stage = Stage([0.0] * 3000, prefill=40, cost=0.0005)
    iterations = []
    for begin, cost in [(0.0, 0.0005), (0.5, 0.0025), (2.5, 0.0005)]:
        stage.inverter.cost = cost
        while stage.clock.now < begin + (0.5 if begin == 0 else 2.0 if begin == 0.5 else 6.0):
            stage.pump.step()
            iterations.append((stage.clock.now, stage.inverter.n_iter))
    assert {n for t, n in iterations if t < 0.5} == {8}
    fewest = min(n for t, n in iterations)
    assert 1 <= fewest <= 0.01 / 0.0025
    assert all(n * 0.0025 <= 0.01 for t, n in iterations if 0.7 < t < 2.5)  # inversion is in time
    assert iterations[-1][1] == 8  # the number of iterations returns to its first value
    assert stage.card.underflows == 0
    assert stage.pump.n_held == 0


@given(
    wanted=st.integers(0, 30),
    least=st.integers(0, 5),
    steps=st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=100),
)
def test_iterations_stay_between_the_least_and_those_wanted(wanted, least, steps):
    iterations, n_iter = IterationControl(wanted, least), wanted
    for late, factor in steps:
        before, n_iter = n_iter, iterations.next(n_iter, late, factor)
        assert min(least, wanted) <= n_iter <= wanted
        assert n_iter <= before + 1
        if late and factor > 0.5 and before > least:
            assert n_iter < before


def test_iterations_increase_only_if_there_is_time():
    for factor, expected in [(AIM * 4 / 5 - 0.01, 5), (AIM * 4 / 5 + 0.01, 4)]:
        iterations = IterationControl(8, 1)
        assert {iterations.next(4, False, factor) for _ in range(PATIENCE - 1)} == {4}
        assert iterations.next(4, False, factor) == expected
    iterations.wanted = 2
    assert iterations.next(4, False, 0.1) == 2


# -- sound with the real inverter --


PARTIALS = [(f * k, 0.15 / k) for f in (220.0, 277.0, 330.0) for k in range(1, 6)]
# Largest step between samples if all partials rise at the same time, which magnitudes do not exclude.
STEEPEST = sum(2 * math.pi * frequency / 22050 * level for frequency, level in PARTIALS)


def melody(n_frames: int, stft: rtspecinv.STFT) -> torch.Tensor:
    """Return three harmonic notes with vibrato, `(n_samples,)`."""
    seconds = torch.arange(n_frames * stft.hop_length) / 22050
    phase = 2 * math.pi * (seconds + 0.002 * torch.sin(12 * seconds))
    return torch.stack([level * torch.sin(frequency * phase) for frequency, level in PARTIALS]).sum(0)


@pytest.mark.parametrize(
    ("late", "options"),
    [
        ("hold", {"look_ahead": 3}),
        ("silence", {"look_ahead": 1, "revise": 3}),
        pytest.param("silence", {"look_ahead": 3}, marks=pytest.mark.soak),
        pytest.param("hold", {"look_ahead": 1, "revise": 3}, marks=pytest.mark.soak),
    ],
)
def test_late_frames_leave_no_click_and_a_hold_is_steady(late, options):
    stft = rtspecinv.STFT(1024, 256)
    magnitude = stft.magnitude(melody(120, stft)).unbind(-1)
    arrivals = [0.01 * i if i < 60 else 0.01 * i + 0.6 for i in range(len(magnitude))]
    inverter = rtspecinv.StreamingInverter(stft, engine="eager", **options)
    stage = Stage(
        arrivals, late=late, inverter=inverter, frames=magnitude, rate=25600, queue_seconds=0.05, prefill=1024
    )
    stage.run(1.8)
    samples, n_held = stage.card.samples, stage.pump.n_held
    assert stage.pump.n_late == 1
    assert 55 <= n_held <= 60
    plain = rtspecinv.ArraySink()
    rtspecinv.play(magnitude, inverter, plain)
    assert np.abs(np.diff(samples)).max() <= 1.05 * STEEPEST
    assert np.abs(np.diff(plain.samples)).max() > 0.5 * STEEPEST  # the sound itself has such steps

    begin = 60 * 256 + 1024  # the frames around the gap were played before
    bridge = samples[begin : begin + (n_held - 8) * 256]
    if late == "silence":
        assert bridge[:2048].any()
        assert not bridge[8 * 256 + 1024 :].any()
        return
    loudness = np.sqrt(np.square(bridge[: len(bridge) // 1024 * 1024].reshape(-1, 1024)).mean(1))
    before = np.sqrt(np.square(samples[begin - 6144 : begin - 2048]).mean())
    assert np.ptp(20 * np.log10(loudness)) < STEADY_DB
    assert abs(20 * np.log10(loudness.mean() / before)) < STEADY_DB
    hops = bridge[: len(bridge) // 256 * 256].reshape(-1, 256)
    distance = np.linalg.norm(hops[:, None] - hops[None], axis=-1) + 1e9 * np.eye(len(hops))
    assert distance.min() > 0.01 * np.linalg.norm(hops, axis=-1).mean()  # no hop is repeated exactly
