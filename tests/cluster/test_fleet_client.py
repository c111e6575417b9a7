"""Tests of the client of a fleet, with real servers and a service that returns their addresses."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from itertools import cycle
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason='the extra is missing: pip install "rtspecinv[serve]"')
pytest.importorskip("rocket_fft", reason='the extra is missing: pip install "rtspecinv[fast]"')

from aiohttp import web
from served import HELLO, Served, frames_of, inverter_of, own_samples, served

from rtspecinv.client import ServerError, StreamClosed
from rtspecinv.cluster.client import FleetClient

FRAMES = frames_of(HELLO, 40, 1)


@asynccontextmanager
async def places(where: Callable[[], str | None]) -> AsyncIterator[str]:
    """Return a context with a service that, like Ray Serve, answers with the address that `where` returns."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if (url := where()) is None:
            return web.Response(status=503, text="all servers are full\n")
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(json.dumps({"url": url}).encode() + b"\n")
        await asyncio.sleep(60)
        return response

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def until(client: FleetClient, kind: str) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return samples and answers up to an answer of that kind."""
    hops: list[Any] = [np.zeros(0, np.float32)]
    said: list[Any] = []
    while not said or said[-1]["type"] != kind:
        heard = await asyncio.wait_for(client.receive(), 20)
        said.append(heard) if isinstance(heard, dict) else hops.append(heard)
    return np.concatenate(hops), said


async def flushed(client: FleetClient, frames: np.ndarray) -> np.ndarray:
    await client.push(frames)
    await client.ask("flush")
    return (await until(client, "flushed"))[0]


def own(frames: np.ndarray) -> np.ndarray:
    inverter = inverter_of(HELLO)
    return np.concatenate([own_samples(inverter, frames), inverter.flush().numpy()])


def test_clients_of_a_lost_server_go_on_at_another_and_count_the_lost_frames():
    async def live(servers: list[Served]) -> None:
        there = [servers[0].stream, servers[1].stream]
        turn = cycle((0, 1))
        async with (
            places(lambda: there[next(turn)]) as url,
            FleetClient(url, **HELLO) as lost,
            FleetClient(url, **HELLO) as other,
        ):

            async def check_all() -> None:
                for client in (lost, other):
                    assert np.array_equal(await flushed(client, FRAMES), own(FRAMES))

            await check_all()
            await lost.push(FRAMES[:7])
            hop = await lost.receive()
            there[:] = [servers[2].stream] * 2
            servers[0].process.kill()
            await lost.ask("marker", id=5)
            _, said = await until(lost, "marker")
            found = next(answer for answer in said if answer["type"] == "moved")
            assert said[-1]["id"] == 5
            assert found["n_lost"] <= 7 - len(hop) // HELLO["hop_length"]
            assert 0 <= found["seconds"] < 5
            assert (lost.n_lost, lost.n_moves) == (found["n_lost"], 1)
            await check_all()

            await lost.push(FRAMES[:7])
            await lost.ask("marker", id=6)
            await until(lost, "marker")
            there[:] = [servers[1].stream] * 2
            servers[2].process.terminate()
            assert (await until(lost, "moved"))[1][-1]["n_lost"] == 0
            await check_all()
            assert (other.n_lost, other.n_moves) == (0, 0)

    with ExitStack() as stack:
        asyncio.run(live([stack.enter_context(served(streams=2)) for _ in range(3)]))


def test_frames_without_a_server_are_counted_and_the_search_ends():
    async def live(server: Served) -> None:
        there: list[str | None] = [server.stream]
        async with places(lambda: there[0]) as url, FleetClient(url, patience=1.0, **HELLO) as client:
            there[0] = None
            server.process.kill()
            while not client.n_moves:
                await client.push(FRAMES[:2])
                await asyncio.sleep(0.01)
            before = client.n_lost
            await client.push(FRAMES[:3])
            assert client.n_lost == before + 3
            with pytest.raises(StreamClosed, match="within 1 seconds"):
                await client.receive()
            with pytest.raises(StreamClosed, match="within 1 seconds"):
                await client.push(FRAMES)

    with served(streams=4) as server:
        asyncio.run(live(server))


def test_requests_during_a_move_are_all_answered_in_order():
    async def live(servers: list[Served]) -> None:
        there: list[str | None] = [servers[0].stream]
        async with places(lambda: there[0]) as url, FleetClient(url, **HELLO) as client:
            there[0] = None
            servers[0].process.kill()
            while not client.n_moves:
                await client.push(FRAMES[:2])
                await asyncio.sleep(0.01)
            for n in range(40):
                await client.ask("marker", id=n)
                await asyncio.sleep(0.005)
                if n == 20:
                    there[0] = servers[1].stream
            await client.ask("marker", id=40)
            answers: list[Any] = []
            while not answers or answers[-1].get("id") != 40:
                answers += (await until(client, "marker"))[1]
            kinds = [answer["type"] for answer in answers]
            assert kinds == ["moved", *["marker"] * 41]
            assert [answer["id"] for answer in answers[1:]] == list(range(41))

    with ExitStack() as stack:
        asyncio.run(live([stack.enter_context(served(streams=2)) for _ in range(2)]))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"patience": "x"}, ValueError, "patience='x'"),
        ({"patience": math.nan}, ValueError, "patience=nan"),
        ({"patience": 0}, ValueError, "patience=0"),
        ({"url": None}, TypeError, "url"),
        ({"url": ""}, ValueError, "does not begin with http"),
        ({"url": "127.0.0.1:8000"}, ValueError, "'http://127.0.0.1:8000/'"),
    ],
)
def test_parameters_are_checked(wrong, error, message):
    with pytest.raises(error, match=message):
        FleetClient(**wrong)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served("--token", "word", "--streams", 1) as running:
        yield running


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"n_fft": 0}, "n_fft"), ({"token": "another"}, "refuses the client")],
    ids=["parameters", "token"],
)
def test_a_client_that_is_refused_does_not_try_again(server, wrong, message):
    async def live() -> None:
        async with places(lambda: server.stream) as url:
            with pytest.raises(ServerError, match=message) as caught:
                await FleetClient(url, **{"token": "word", **HELLO, **wrong}).__aenter__()
            assert not isinstance(caught.value, StreamClosed)

    asyncio.run(live())


def test_a_full_server_is_asked_again_until_a_stream_is_free(server):
    async def live() -> None:
        waiting = FleetClient(server.stream, token="word", **HELLO)
        async with FleetClient(server.stream, token="word", **HELLO) as first:
            entering = asyncio.ensure_future(waiting.__aenter__())
            await asyncio.sleep(0.3)
            assert not entering.done()
            assert np.array_equal(await flushed(first, FRAMES), own(FRAMES))
        await entering
        assert np.array_equal(await flushed(waiting, FRAMES), own(FRAMES))
        await waiting.__aexit__(None, None, None)

    asyncio.run(live())


def test_frames_that_cannot_be_sent_do_not_count_as_lost(server):
    async def live() -> None:
        async with FleetClient(server.stream, token="word", **HELLO) as client:
            for bad in ("abc", "1e"):
                with pytest.raises(ValueError, match="could not convert"):
                    await client.push(bad)
            assert client._n_owed == 0

    asyncio.run(live())


@pytest.mark.parametrize("path", ["/", "/stream"])
def test_an_address_that_is_not_a_fleet_is_an_error_at_once(server, path):
    async def live() -> None:
        with pytest.raises(ServerError, match="pass ws://HOST:PORT/stream") as caught:
            await FleetClient(server.url + path, token="word", patience=60, **HELLO).__aenter__()
        assert not isinstance(caught.value, StreamClosed)

    asyncio.run(asyncio.wait_for(live(), 20))
