"""Tests of the queue length of `rtspecinv live`, with a fake device and the pump of the player."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import numpy as np
import pytest
from fake_device import hand_sink
from hypothesis import given, settings
from hypothesis import strategies as st

from rtspecinv.live.inbox import Inbox
from rtspecinv.live.iterations import IterationControl
from rtspecinv.live.pace import Pace
from rtspecinv.live.pump import Pump


class Constant:
    """Fake inverter."""

    n_iter, latency = 1, 0

    def __init__(self, hop_length: int) -> None:
        self.hop = np.full((1, hop_length), 0.5, np.float32)

    def push(self, frame):
        return self.hop

    def reset(self):
        pass


class Idle(Exception):
    """Raised when the pump waits."""


class Stage:
    """`live` with a duplex device that records and plays blocks; the program itself takes no time."""

    def __init__(self, rate: int, hop_length: int, queue_seconds: float, block_length: int) -> None:
        self.rate, self.hop_length, self.block_length = rate, hop_length, block_length
        hop_seconds = hop_length / rate
        full, wanted_seconds = queue_seconds + hop_seconds, max(queue_seconds, hop_seconds / 2)
        self.sink, self.stream = hand_sink(
            rate, input_channels=1, prefill_seconds=full, queue_seconds=4 * full, backend="callback"
        )
        self.sample_rate = rate  # sample rate of the fake microphone
        self.inbox = Inbox(2 + int(queue_seconds / hop_seconds), "drop_oldest")
        self.n_blocks = 0
        self.pump = Pump(
            *cast(Any, (Constant(hop_length), self.sink, self.inbox, IterationControl(1, 1))),
            late="hold",
            sample_rate=rate,
            queue_seconds=full,
            reserve_seconds=wanted_seconds / 2,
            wait=self.idle,
            clock=lambda: self.n_blocks * block_length / rate,
        )
        self.pace = Pace(cast(Any, self), self.sink, wanted_seconds, hop_length)
        self.blocks, self.waiting = self.pace.blocks(), 0
        self.queued: list[int] = []  # queue lengths at the arrival of frames

    def idle(self, seconds):
        raise Idle

    def run(self) -> None:
        with suppress(Idle):
            for _ in range(100):
                self.pump.step()
            raise AssertionError("the pump does not come to rest")

    def __iter__(self):
        self.sink.microphone._begin()
        while True:
            self.stream.ask(self.block_length)
            self.n_blocks += 1
            yield self.sink.microphone._take().T

    def live(self, seconds: float) -> None:
        for block in self.blocks:
            self.run()
            self.waiting += block.shape[-1]
            while self.waiting >= self.hop_length:
                self.waiting -= self.hop_length
                self.queued.append(self.sink.queued)
                if self.pace.takes_frame():
                    self.inbox.offer(np.zeros(1), lambda: None)
                    self.run()
            if self.n_blocks * self.block_length > seconds * self.rate:
                return


@settings(deadline=None, max_examples=30)
@given(
    hop_length=st.sampled_from([128, 256, 512, 1024]),
    rate=st.sampled_from([16000, 48000]),
    block_length=st.sampled_from([16, 64, 128, 256, 441]),
    queue_blocks=st.floats(0, 6),
)
def test_no_frame_is_replaced_or_skipped_if_none_is_late(hop_length, rate, block_length, queue_blocks):
    stage = Stage(rate, hop_length, queue_blocks * block_length / rate, block_length)
    stage.live(2)
    n_held, n_skipped, n_before = stage.pump.n_held, stage.pace.n_skipped, len(stage.queued)
    stage.live(4)
    wanted = max(round(queue_blocks * block_length), hop_length // 2)
    if wanted >= block_length:  # a shorter queue would underflow
        assert (stage.pump.n_held, stage.pace.n_skipped, stage.sink.underflows) == (n_held, n_skipped, 0)
        assert wanted / 2 < min(stage.queued[n_before:]) <= wanted + 1.5 * block_length


@pytest.mark.parametrize("block_length", [64, 256])
def test_a_queue_that_is_too_long_after_a_gap_is_shortened(block_length):
    stage = Stage(48000, 256, 0.02, block_length)
    stage.live(2)
    settled = min(stage.queued[-100:])
    stage.sink.write(np.zeros((1, 200), np.float32))  # as if the player had replaced late frames
    stage.live(2.1)
    assert min(stage.queued[-10:]) == settled + 200
    stage.live(6)
    assert abs(min(stage.queued[-100:]) - settled) <= block_length
    assert stage.sink.underflows == 0
