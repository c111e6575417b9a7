"""Tests of a fleet on a real Ray cluster: a killed server; servers start and stop by number of streams."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason='the extra is missing: pip install "rtspecinv[serve]"')
pytest.importorskip("ray.serve", reason='the extra is missing: pip install "rtspecinv[cluster]"')

import ray
from ray import serve
from served import HELLO, frames_of, inverter_of, own_samples

from rtspecinv.cluster.client import FleetClient
from rtspecinv.cluster.fleet import FleetOptions, application

pytestmark = [
    pytest.mark.soak,
    pytest.mark.filterwarnings("ignore"),
]  # Ray leaves sockets and processes to Python
URL = "http://127.0.0.1:8124/"
PERIOD = HELLO["hop_length"] / HELLO["sample_rate"] * 10
SECONDS, KILL_AT = 12.0, 4.0
N_STREAMS = 16


@pytest.fixture
def fleet():
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        serve.start(http_options={"port": 8124})
        yield lambda **options: serve.run(application(options))
    finally:
        serve.shutdown()
        ray.shutdown()


def own(frames: np.ndarray) -> np.ndarray:
    inverter = inverter_of(HELLO)
    return np.concatenate([own_samples(inverter, frames), inverter.flush().numpy()])


def n_servers() -> int:
    replicas = serve.status().applications["default"].deployments["rtspecinv"].replica_states
    return sum(
        number for state, number in replicas.items() if str(getattr(state, "value", state)) == "RUNNING"
    )


async def until(is_so: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(is_so):
        assert time.monotonic() < end
        await asyncio.sleep(0.2)


class Listener:
    """A stream that sends a frame every 10 ms, and the samples that it has received."""

    def __init__(self, seed: int) -> None:
        self.frames = frames_of(HELLO, int(SECONDS / PERIOD), seed)
        self.hops: list[np.ndarray] = []
        self.moves: list[dict[str, Any]] = []

    async def play(self, client: FleetClient) -> None:
        listening = asyncio.ensure_future(self._listen(client))
        begin = time.monotonic()
        for k, frame in enumerate(self.frames):
            await asyncio.sleep(begin + k * PERIOD - time.monotonic())
            await client.push(frame)
        await client.ask("flush")
        await listening

    async def _listen(self, client: FleetClient) -> None:
        while True:
            said = await client.receive()
            if not isinstance(said, dict):
                self.hops.append(said)
            elif said["type"] == "flushed":
                return
            else:
                self.moves.append(said)


def test_a_killed_server_harms_its_streams_only_and_they_are_back_within_5_seconds(fleet):
    fleet(streams=N_STREAMS, min_servers=2, max_servers=2, cpus=0.5)
    listeners = [Listener(seed) for seed in range(N_STREAMS)]

    async def live() -> list[FleetClient]:
        async with AsyncExitStack() as stack:
            clients = [FleetClient(URL, **HELLO) for _ in listeners]
            await asyncio.gather(*map(stack.enter_async_context, clients))
            first = Counter(client.server for client in clients)
            assert len(first) == 2
            pairs = zip(listeners, clients, strict=True)
            playing = asyncio.gather(*(listener.play(client) for listener, client in pairs))
            await asyncio.sleep(KILL_AT)
            victim = first.most_common(1)[0][0]
            os.kill(listening_at(victim), signal.SIGKILL)
            await playing
            assert sum(client.n_moves for client in clients) == first[victim]
        return clients

    for listener, client in zip(listeners, asyncio.run(live()), strict=True):
        if client.n_moves:
            assert client.n_moves == len(listener.moves) == 1
            assert listener.moves[0]["seconds"] < 5
            assert listener.moves[0]["n_lost"] == client.n_lost
            n_hops = sum(len(hop) == HELLO["hop_length"] for hop in listener.hops)
            assert len(listener.frames) - client.n_lost <= n_hops
        else:
            assert np.array_equal(np.concatenate(listener.hops), own(listener.frames))
    print([(c["n_lost"], round(c["seconds"], 2)) for listener in listeners for c in listener.moves])


def test_servers_come_and_go_with_the_streams(fleet):
    fleet(streams=4, min_servers=1, max_servers=2, cpus=0.5, idle_seconds=2.0, drain_seconds=60.0)

    async def live() -> None:
        async with FleetClient(URL, **HELLO) as last:
            async with AsyncExitStack() as stack:
                for _ in range(3):
                    await stack.enter_async_context(FleetClient(URL, **HELLO))
                await until(lambda: n_servers() == 2, 120)
                async with FleetClient(URL, patience=60, **HELLO) as one_more:
                    assert one_more.server != last.server
            await until(lambda: n_servers() == 1, 60)
            frames = frames_of(HELLO, 20, 1)
            await last.push(frames)
            await last.ask("flush")
            heard = [hop async for hop in last]
            assert last.n_moves == last.n_lost == 0
            assert np.array_equal(np.concatenate(heard), own(frames))

    asyncio.run(live())


def listening_at(url: str) -> int:
    """Return the id of the process that listens on the port of an address."""
    import psutil

    port = int(url.rpartition(":")[2].partition("/")[0])
    for process in psutil.process_iter():
        try:
            connections = process.net_connections()
        except psutil.AccessDenied:
            continue
        if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections):
            return process.pid
    raise AssertionError(f"nobody listens at {url}")


@pytest.mark.parametrize("wrong", [{"streams": 0}, {"max_servers": 1, "min_servers": 2}, {"cpus": -1}])
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FleetOptions(**wrong)
