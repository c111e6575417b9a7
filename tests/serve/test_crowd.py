"""Tests of clients that die, stall, send garbage and reset at random, without effect on others."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason='the extra is missing: pip install "rtspecinv[serve]"')
pytest.importorskip("rocket_fft", reason='the extra is missing: pip install "rtspecinv[fast]"')

import aiohttp
import served
from served import HELLO, Served, frames_of, inverter_of, own_samples

from rtspecinv.client import AsyncClient, ServerError

CLOSING = aiohttp.ClientWSTimeout(ws_close=0.5)
N_HEALTHY, N_WILD, N_STREAMS = 4, 6, 32  # streams of dead clients remain for a while
GROWTH = 24 * 2**20  # bytes; growth of a server after all kinds of clients, for the allocator
OTHER: dict[str, Any] = {"n_fft": 128, "hop_length": 32, "sample_rate": 8000, "n_iter": 1, "dtype": "f16"}


class Crowd:
    """Clients of one server until a time; `n_checked` counts samples that were compared."""

    def __init__(self, server: Served, seconds: float, seed: int) -> None:
        self.server, self.end = server, time.monotonic() + seconds
        self.random = random.Random(seed)
        self.n_checked = 0

    async def run(self) -> None:
        healthy = [self._healthy(i, HELLO if i % 2 else OTHER) for i in range(N_HEALTHY)]
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*healthy, *(self._wild(session) for _ in range(N_WILD)))

    async def _healthy(self, seed: int, hello: dict[str, Any]) -> None:
        own = inverter_of(hello)
        while time.monotonic() < self.end:
            async with AsyncClient(self.server.stream, **hello) as client:
                for _ in range(4):
                    seed += N_HEALTHY
                    frames = frames_of(hello, 60, seed)
                    for piece in np.split(frames, 20):
                        await client.push(piece)
                        await asyncio.sleep(0.005)
                    await client.ask("flush")
                    heard = np.concatenate([np.zeros(0, np.float32), *[hop async for hop in client]])
                    wanted = np.concatenate([own_samples(own, frames), own.flush().numpy()])
                    assert np.array_equal(heard, wanted)
                    self.n_checked += len(heard)

    async def _wild(self, session: aiohttp.ClientSession) -> None:
        while time.monotonic() < self.end:
            act = self.random.choice([self._dies, self._stalls, self._babbles, self._resets, self._is_silent])
            with suppress(ConnectionError, ServerError, TypeError, AttributeError, asyncio.TimeoutError):
                async with session.ws_connect(self.server.stream, max_msg_size=0, timeout=CLOSING) as socket:
                    try:
                        await asyncio.wait_for(act(socket), 3)
                    finally:
                        if self.random.random() < 0.7:
                            socket._response.connection.transport.abort()  # without a close frame

    async def _hello(self, socket: Any) -> bytes:
        hello = self.random.choice([HELLO, OTHER, {**HELLO, "format": "s16", "output_rate": 12000}])
        await socket.send_json(hello)
        await socket.receive_json()
        return frames_of(hello, 400, self.random.randrange(1000)).tobytes()

    async def _dies(self, socket: Any) -> None:
        frames = await self._hello(socket)
        await socket.send_bytes(frames)
        await asyncio.sleep(0.02 * self.random.random())

    async def _stalls(self, socket: Any) -> None:
        frames = await self._hello(socket)
        socket._reader._protocol.pause_reading()
        for _ in range(50):
            await asyncio.wait_for(socket.send_bytes(frames), 0.3)

    async def _babbles(self, socket: Any) -> None:
        if self.random.random() < 0.7:
            await self._hello(socket)
        for _ in range(20):
            garbage = self.random.randbytes(self.random.randrange(3000))
            if self.random.random() < 0.5:
                await socket.send_bytes(garbage)
            else:
                await socket.send_str(garbage.decode("latin-1"))
            await asyncio.wait_for(socket.receive(), 1)

    async def _resets(self, socket: Any) -> None:
        frames = await self._hello(socket)
        for _ in range(10):
            await socket.send_bytes(frames)
            for kind in self.random.choices(["reset", "flush", "marker"], k=3):
                await socket.send_json({"type": kind})
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._listen(socket), 0.02)

    async def _is_silent(self, socket: Any) -> None:
        await asyncio.sleep(self.random.random())

    async def _listen(self, socket: Any) -> None:
        while not socket.closed:  # of a closed socket, receive() returns at once, for ever
            await socket.receive()


async def figures(server: Served) -> dict[str, float]:
    async with aiohttp.ClientSession(server.url) as session, session.get("/metrics") as response:
        lines = [line.rsplit(" ", 1) for line in (await response.text()).splitlines() if line[0] != "#"]
    return {name.removeprefix("rtspecinv_"): float(value) for name, value in lines}


async def all_gone(server: Served) -> dict[str, float]:
    """Check the metrics of the server after all clients have left."""
    give_up = time.monotonic() + 20
    while (found := await figures(server))["streams"]:
        assert time.monotonic() < give_up, "a stream is lost"
        await asyncio.sleep(0.05)
    return found


def live(seconds: float, n_rounds: int) -> None:
    """Run rounds of clients on one server, whose memory must not grow after the first round."""
    limits = {"streams": N_STREAMS, "hello_seconds": 0.5, "stall_seconds": 1.0, "message": 2**20}

    async def rounds(server: Served) -> None:
        memory = []
        for k in range(n_rounds):
            crowd = Crowd(server, seconds, k)
            await crowd.run()
            found = await all_gone(server)
            memory.append(server.memory if sys.platform == "linux" else 0)
            assert crowd.n_checked > 1000 * seconds
            print(f"round {k}: {crowd.n_checked} samples equal, {memory[-1] / 2**20:.0f} MB, {found}")
        assert max(memory[1:]) < memory[0] + GROWTH, memory
        assert found["errors_total"] > 0
        # All slots are free again: the server accepts as many clients as it has streams.
        clients = [AsyncClient(server.stream, **HELLO) for _ in range(N_STREAMS)]
        async with clients[0]:
            slots = {clients[0].ready["slot"]}
            for client in clients[1:]:
                await client.__aenter__()
                slots.add(client.ready["slot"])
            assert slots == set(range(N_STREAMS))
            for client in clients[1:]:
                await client.__aexit__(None, None, None)

    with served.served(**limits) as server:
        asyncio.run(rounds(server))
        assert server.terminate() == (0, "")


@pytest.mark.slow
def test_a_wild_crowd():
    live(3.0, 2)


@pytest.mark.soak
def test_a_wild_crowd_for_an_hour():
    live(120.0, 30)
