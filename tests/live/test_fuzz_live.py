"""Random input for players, devices and sources of frames; fuzzing.py has the limits."""

from __future__ import annotations

import queue
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import torch
from fake_clock import join_workers
from fake_device import hand_microphone, hand_sink
from fuzzing import ANYTHING, EFFORT, N_FREQ, NUMBERS, STFT, attempt, bounded, check_finite, quick, sound
from hypothesis import given, settings
from hypothesis import strategies as st

import rtspecinv
from rtspecinv import ArraySink, Mailbox, Player, TeeSink

pytestmark = pytest.mark.usefixtures("little_memory")

INVERTER = rtspecinv.StreamingInverter(STFT, engine="eager", n_iter=1)
GOOD = torch.rand(N_FREQ, generator=torch.Generator().manual_seed(0))


@settings(quick, max_examples=20 * EFFORT)
@given(
    frames=st.lists(ANYTHING, max_size=4),
    options=st.fixed_dictionaries(
        {},
        optional={
            "full": st.sampled_from(["block", "drop_oldest", "raise", "x", None]),
            "late": st.sampled_from(["silence", "hold", "x", 3]),
            "sample_rate": NUMBERS,
            "max_frames": NUMBERS,
            "queue_seconds": NUMBERS,
            "reserve_seconds": NUMBERS,
            "least_iter": NUMBERS,
        },
    ),
)
def test_players(frames, options):
    sink = ArraySink()
    player = attempt(lambda: Player(INVERTER, sink, **{"sample_rate": 8000, **options}))
    if player is not None:
        for frame in [*frames, *8 * [GOOD]]:
            with suppress(queue.Full):
                attempt(partial(player.push, frame))
        attempt(lambda: player.stats)
        with bounded():
            player.close()
        assert sink.samples.any() or player.stats.n_dropped or options.get("full") == "raise"
    check_finite(sink.samples)
    INVERTER.reset()
    join_workers()


@quick
@given(frames=st.lists(ANYTHING, min_size=1, max_size=3))
def test_mailboxes(frames):
    mailbox = Mailbox()
    for frame in frames:
        attempt(partial(mailbox.put, frame))
    mailbox.put(GOOD)
    with bounded():
        assert torch.equal(next(iter(mailbox)), GOOD)
        mailbox.close()
        assert not list(mailbox)


@quick
@given(blocks=st.one_of(ANYTHING, st.lists(ANYTHING, max_size=4)))
def test_frames_of_blocks(blocks):
    if all(map(sound, blocks if isinstance(blocks, list) else [blocks])):
        attempt(lambda: list(rtspecinv.magnitude_frames(blocks, STFT)))


@quick
@given(samples=st.lists(ANYTHING, max_size=3), other=st.sampled_from([None, ArraySink, STFT, "x", 3]))
def test_several_sinks(samples, other):
    kept = [ArraySink(), ArraySink()]
    attempt(lambda: TeeSink(kept[0], other))
    tee = TeeSink(*kept)
    for block in samples:
        attempt(partial(tee.write, block))
    assert np.array_equal(kept[0].samples, kept[1].samples)
    check_finite(kept[0].samples)


@quick
@given(
    sample_rate=st.one_of(st.just(8000), NUMBERS),
    channels=st.one_of(st.just(1), NUMBERS),
    options=st.fixed_dictionaries({}, optional={"queue_seconds": NUMBERS, "prefill_seconds": NUMBERS}),
    blocks=st.lists(ANYTHING, max_size=3),
)
def test_sound_devices(sample_rate, channels, options, blocks):
    opened = attempt(lambda: hand_sink(sample_rate, channels, **options))
    if opened is None:
        return
    sink, stream = opened
    with stream.asking(100):
        for block in blocks:
            attempt(partial(sink.write, block))
        attempt(lambda: (sink.latency_seconds, sink.queued, sink.room, sink.underflows))
        with bounded():
            sink.abort()
    check_finite(stream.heard[1:])


@quick
@given(sample_rate=st.one_of(st.none(), NUMBERS), channels=NUMBERS, queue_seconds=NUMBERS)
def test_microphones(sample_rate, channels, queue_seconds):
    attempt(lambda: hand_microphone(sample_rate, channels, queue_seconds=queue_seconds)[0].latency_seconds)
