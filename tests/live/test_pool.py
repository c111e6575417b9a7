"""Tests of pools: every stream has the samples of its own inverter, whatever the others do."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtspecinv import STFT, MelConfig, MelInverter, StreamingInverter, StreamPool
from rtspecinv.live import PooledStream

pytest.importorskip("rocket_fft", reason='the extra is missing: pip install "rtspecinv[fast]"')

N_STREAMS, HOP = 3, 8
CONFIG = MelConfig(sample_rate=8000, n_fft=32, hop_length=HOP, n_mels=6, preemphasis=0.9)


def inverter_of(kind: str, batch_shape: tuple[int, ...] = (N_STREAMS,)) -> StreamingInverter:
    if kind == "mel":
        return MelInverter(CONFIG, n_iter=2, batch_shape=batch_shape)
    return StreamingInverter(STFT(32, HOP), n_iter=2, batch_shape=batch_shape)


def frame_of(kind: str, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).random(6 if kind == "mel" else 17, np.float32)
    if kind == "mel":
        return values / 32
    return values.astype(np.complex64) * 1j**seed if kind == "linear" and seed % 7 == 0 else values


class Client:
    """Client that uses several streams of a pool in sequence, and the samples that each should receive."""

    def __init__(self, pool: StreamPool, kind: str) -> None:
        self.pool, self.kind, self.own = pool, kind, inverter_of(kind, ())
        self.heard: list[np.ndarray] = []
        self.wanted: list[np.ndarray] = []
        self.stream: PooledStream | None = None
        self.n = 0

    def join(self) -> None:
        if self.stream is None:
            self.heard, self.wanted = [], []
            self.own.reset()
            heard = self.heard
            self.stream = self.pool.join(heard.append)

    def push(self) -> None:
        if self.stream is None or self.stream.n_waiting == self.pool.max_frames:
            return
        self.n += 1
        frame = frame_of(self.kind, self.n)
        self.stream.push(frame)
        self.wanted.append(self.own.push(torch.from_numpy(frame)).numpy())

    def flush(self) -> None:
        if self.stream is not None:
            self.stream.flush()
            self.wanted.append(self.own.flush().numpy())

    def reset(self) -> None:
        """Reset after all earlier hops were delivered, so that the expected samples are known."""
        if self.stream is not None:
            assert self.stream.wait(10)
            self.stream.reset()
            self.own.reset()

    def leave(self) -> None:
        if self.stream is not None:
            assert self.stream.wait(10)
            self.verify()
            self.stream.leave()
            self.stream = None

    def vanish(self) -> None:
        """Leave the pool while frames wait."""
        if self.stream is not None:
            self.stream.leave()
            self.stream = None

    def verify(self) -> None:
        heard, wanted = (
            np.concatenate([np.zeros(0, np.float32), *hops]) for hops in (self.heard, self.wanted)
        )
        assert np.array_equal(heard, wanted)


@pytest.mark.parametrize("kind", ["linear", "mel"])
@settings(max_examples=25, deadline=None)
@given(
    acts=st.lists(
        st.tuples(
            st.integers(0, N_STREAMS - 1),
            st.sampled_from(["join", "push", "push", "push", "push", "flush", "reset", "leave", "vanish"]),
        ),
        max_size=60,
    )
)
def test_every_stream_gets_the_samples_of_its_own_inverter(kind, acts):
    with StreamPool(inverter_of(kind)) as pool:
        clients = [Client(pool, kind) for _ in range(N_STREAMS)]
        for client in clients:
            client.join()
        for i, act in acts:
            getattr(clients[i], act)()
        for client in clients:
            client.leave()
        assert len(pool) == 0


def test_many_threads_push_at_their_own_pace():
    """Eight threads use twenty streams each in a pool of three; no stream receives samples of another."""
    with StreamPool(inverter_of("linear"), max_frames=4) as pool:
        failures = []

        def live(seed: int) -> None:
            random = np.random.default_rng(seed)
            client = Client(pool, "linear")
            try:
                for _ in range(20):
                    while client.stream is None:
                        with suppress(queue.Full):
                            client.join()
                        time.sleep(0.0005)
                    for _ in range(random.integers(1, 12)):
                        client.push()
                        if random.random() < 0.2:
                            time.sleep(0.0005)
                    client.flush()
                    getattr(client, random.choice(["leave", "leave", "vanish"]))()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=live, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(pool) == 0


def test_reset_drops_waiting_frames_and_begins_a_new_stream():
    inside, go_on = threading.Event(), threading.Event()

    def slow(hop):
        inside.set()
        go_on.wait(10)

    heard: list[Any] = []
    with StreamPool(inverter_of("linear")) as pool:
        blocker, stream = pool.join(slow), pool.join(heard.append)
        blocker.push(frame_of("linear", 1))
        assert inside.wait(10)
        for seed in (1, 2, 3):
            stream.push(frame_of("linear", seed))
        assert stream.n_waiting == 3
        stream.reset()
        assert stream.n_waiting == 0
        stream.push(frame_of("linear", 4))
        go_on.set()
        assert stream.wait(10)
    wanted = inverter_of("linear", ()).push(torch.from_numpy(frame_of("linear", 4)))
    assert len(heard) == 1
    assert np.array_equal(heard[0], wanted.numpy())


def test_calls_come_in_order():
    order: list[object] = []
    inverter = inverter_of("linear")
    with StreamPool(inverter) as pool, pool.join(lambda hop: order.append(len(hop))) as stream:
        stream.call(lambda: order.append("a"))
        stream.push(frame_of("linear", 1))
        stream.call(lambda: order.append("b"))
        stream.flush()
        stream.call(lambda: order.append("c"))
        assert stream.wait(10)
    assert order == ["a", HOP, "b", inverter.latency + inverter.length(0), "c"]


def test_bad_frames_and_full_queues_change_nothing():
    with StreamPool(inverter_of("linear"), max_frames=1) as pool:
        inside, go_on = threading.Event(), threading.Event()
        heard: list[Any] = []
        blocker = pool.join(lambda hop: (inside.set(), go_on.wait(10)))
        stream = pool.join(heard.append)
        blocker.push(frame_of("linear", 1))
        assert inside.wait(10)
        for bad, words in ((-np.ones(17), "< 0"), (np.ones(16), "shape"), (np.full(17, np.nan), "nan")):
            with pytest.raises(ValueError, match=words):
                stream.push(bad)
        stream.push(frame_of("linear", 2))
        with pytest.raises(queue.Full, match="push later"):
            stream.push(frame_of("linear", 3))
        pool.join(heard.append)
        with pytest.raises(queue.Full, match="All 3 streams"):
            pool.join(heard.append)
        go_on.set()
        assert stream.wait(10)
        assert np.array_equal(
            heard[0], inverter_of("linear", ()).push(torch.from_numpy(frame_of("linear", 2))).numpy()
        )


def test_a_failing_stream_does_not_affect_others():
    def fails(hop):
        raise OSError("the line is dead")

    heard: list[Any] = []
    with StreamPool(inverter_of("linear")) as pool:
        broken, well = pool.join(fails), pool.join(heard.append)
        for stream in (broken, well):
            stream.push(frame_of("linear", 1))
        assert well.wait(10)
        with pytest.raises(RuntimeError, match="the line is dead"):
            broken.push(frame_of("linear", 1))
        assert isinstance(broken.failure, OSError)
        assert (len(heard), len(pool)) == (1, 1)


def test_a_broken_inverter_is_reported_to_every_stream(monkeypatch):
    inverter = inverter_of("linear")
    pool = StreamPool(inverter)
    stream = pool.join(print)
    monkeypatch.setattr(inverter, "push", None)
    stream.push(frame_of("linear", 1))
    assert not stream.wait(10)
    with pytest.raises(RuntimeError, match="has failed"):
        pool.join(print)
    pool.close()


def test_after_the_end():
    pool = StreamPool(inverter_of("linear"))
    stream = pool.join(print)
    pool.close()
    pool.close()
    for late in (
        lambda: stream.push(frame_of("linear", 1)),
        stream.flush,
        stream.reset,
        lambda: pool.join(print),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            late()
    stream.leave()
    with pytest.raises(ValueError, match=r"batch_shape=\(\)"):
        StreamPool(inverter_of("linear", ()))


def test_pushes_are_observed():
    seen = []
    pool = StreamPool(inverter_of("linear"), observe=lambda n, seconds: seen.append((n, seconds)))
    with pool, pool.join(lambda hop: None) as stream:
        stream.push(frame_of("linear", 1))
        assert stream.wait(10)
    assert [n for n, _ in seen] == [1]
    assert 0 < seen[0][1] < 10


def test_a_pool_without_a_thread_works_when_it_is_called():
    asked: list[None] = []
    heard: list[list[np.ndarray]] = [[], [], []]
    threads = set()

    def receive(into: list[np.ndarray], hop: np.ndarray) -> None:
        threads.add(threading.current_thread())
        into.append(hop)

    n_threads = threading.active_count()
    with StreamPool(inverter_of("linear"), at_once=2, wake=lambda: asked.append(None)) as pool:
        streams = [pool.join(partial(receive, into)) for into in heard]
        while pool.work():
            pass
        for seed in (1, 2):
            for stream in streams:
                stream.push(frame_of("linear", seed))
        assert len(asked) == len(streams) * 3
        assert threading.active_count() == n_threads
        counts = []
        while pool.work():
            counts.append(sum(map(len, heard)))
        assert counts == [2, 4]  # the third call returned that nothing waits
        assert not pool.work()
    own = inverter_of("linear", ())
    wanted = [own.push(torch.from_numpy(frame_of("linear", seed))).numpy() for seed in (1, 2)]
    assert all(np.array_equal(hops, wanted) for hops in heard)
    assert threads == {threading.current_thread()}


def test_a_pool_without_a_thread_reports_its_failure():
    inverter = inverter_of("linear")
    pool = StreamPool(inverter, wake=lambda: None)
    stream = pool.join(print)
    inverter.push = None  # type: ignore[assignment, method-assign]
    stream.push(frame_of("linear", 1))
    while pool.work():
        pass
    assert isinstance(pool.failure, TypeError)
    with pytest.raises(RuntimeError, match="has failed"):
        stream.push(frame_of("linear", 1))


@pytest.mark.parametrize("kind", ["linear", "mel"])
def test_bad_frames_are_rejected_in_order_with_a_callback(kind):
    """This holds if they are pushed together with frames of other streams."""
    inside, go_on = threading.Event(), threading.Event()
    heard: list[Any] = []
    other: list[Any] = []
    with StreamPool(inverter_of(kind)) as pool:
        blocker = pool.join(lambda hop: (inside.set(), go_on.wait(10)))
        stream, beside = pool.join(heard.append, refuse=heard.append), pool.join(other.append)
        blocker.push(frame_of(kind, 1))
        assert inside.wait(10)
        frames = [frame_of(kind, seed) for seed in (1, 2, 3)]
        for bad in (np.full_like(frames[1], np.nan), frames[1][:-1]):
            for frame in (frames[0], bad, frames[2]):
                stream.push(frame)
            stream.flush()
        for frame in frames:
            beside.push(frame)
        go_on.set()
        assert stream.wait(10)
        assert beside.wait(10)
        assert stream.n_waiting == 0
    own = inverter_of(kind, ())
    first, last = (own.push(torch.from_numpy(frames[i])).numpy() for i in (0, 2))
    owed = own.flush().numpy()
    for got, words in ((heard[:4], "nan"), (heard[4:], "shape")):
        assert np.array_equal(got[0], first)
        assert words in str(got[1])
        assert np.array_equal(got[2], last)
        assert np.array_equal(got[3], owed)
    assert np.array_equal(
        np.concatenate(other), np.concatenate([own.push(torch.from_numpy(f)) for f in frames])
    )
