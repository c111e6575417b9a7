"""Tests of the limits of a server, and of their error messages."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import AsyncExitStack, suppress
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason='the extra is missing: pip install "rtspecinv[serve]"')

import aiohttp
from served import HELLO, frames_of, inverter_of, own_samples

from rtspecinv.cli import main
from rtspecinv.client import AsyncClient, ServerError
from rtspecinv.serve import Limits, Server
from rtspecinv.serve.pools import FEW
from rtspecinv.serve.protocol import hello_of

LATE = 30.0
# More than the buffers of sockets: 8 kB per frame, and as much per hop.
BIG: dict[str, Any] = {"n_fft": 4096, "hop_length": 2048, "sample_rate": 8000, "n_iter": 0, "look_ahead": 0}


def run(test: Any, *, token: str | None = None, **limits: Any) -> None:
    """Run `test(server, address of its streams)`."""

    async def limited() -> None:
        async with Server(port=0, token=token, limits=Limits(**limits)) as server:
            await asyncio.wait_for(test(server, f"ws://127.0.0.1:{server.port}/stream"), LATE)

    asyncio.run(limited())


async def refusal(url: str, **options: Any) -> str:
    with pytest.raises(ServerError) as error:
        async with AsyncClient(url, **options, **HELLO):
            pass
    return str(error.value)


async def closing(socket: Any) -> tuple[str, int]:
    """Return the last error message of a server, and its close code."""
    sentence = ""
    while (message := await socket.receive()).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
        if message.type is aiohttp.WSMsgType.TEXT:
            sentence = message.json().get("message", "")
    return sentence, socket.close_code


def test_one_stream_too_many_is_rejected_until_another_ends():
    async def test(server, url):
        async with (
            AsyncClient(url, **HELLO),
            aiohttp.ClientSession() as session,
            session.ws_connect(url) as refused,
        ):
            sentence, code = await closing(refused)
            assert code == 1013
            assert "all 1 streams" in sentence
        while True:
            with suppress(ServerError):
                async with AsyncClient(url, **HELLO) as client:
                    await client.push(frames_of(HELLO, 1, 1))
                    assert len(await client.receive()) == HELLO["hop_length"]
                    return

    run(test, streams=1)


def test_kinds_of_streams_are_limited_and_empty_ones_make_room():
    async def test(server, url):
        other = {**HELLO, "n_iter": 3}
        async with AsyncClient(url, **HELLO):
            with pytest.raises(ServerError, match="1 kinds of streams already"):
                async with AsyncClient(url, **other):
                    pass
        while True:
            with suppress(ServerError):
                async with AsyncClient(url, **other) as client:
                    assert client.ready["slot"] == 0
                    return

    run(test, streams=4, kinds=1)


def test_a_client_that_reads_nothing_does_not_affect_others():
    frames = frames_of(HELLO, 20, 2)

    async def test(server, url):
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, max_msg_size=0) as greedy,
        ):
            await greedy.send_json(BIG)
            assert (await greedy.receive_json())["type"] == "ready"
            greedy._reader._protocol.pause_reading()  # the client no longer reads its socket
            sender = asyncio.ensure_future(send_all(greedy))
            seen = set()
            for _ in range(100):
                await asyncio.sleep(0.01)
                seen |= {each.n_waiting for each in server._sessions}
            assert max(seen) <= 4
            assert not sender.done()
            async with AsyncClient(url, **HELLO) as client:
                await client.push(frames)
                hops = [np.asarray(await client.receive()) for _ in range(20)]
            assert np.array_equal(np.concatenate(hops), own_samples(inverter_of(HELLO), frames))
            sender.cancel()
            greedy._reader._protocol.transport.abort()
            await asyncio.gather(sender, return_exceptions=True)

    async def send_all(socket):
        piece = frames_of(BIG, 100, 3).tobytes()
        for _ in range(60):
            await socket.send_bytes(piece)

    run(test, queue=4, stall_seconds=100)


def test_stalled_idle_and_silent_clients_are_disconnected():
    async def test(server, url):
        async with aiohttp.ClientSession() as session:
            silent, idle, stalled = [await session.ws_connect(url, max_msg_size=0) for _ in range(3)]
            for socket in (idle, stalled):
                await socket.send_json(BIG)
                assert (await socket.receive_json())["type"] == "ready"
            stalled._reader._protocol.pause_reading()
            piece = frames_of(BIG, 100, 3).tobytes()
            with suppress(ConnectionError, asyncio.TimeoutError):
                for _ in range(60):
                    await asyncio.wait_for(stalled.send_bytes(piece), 0.2)
            sentence, code = await closing(silent)
            assert (code, sentence) == (1008, "no first message came within 0.4 seconds")
            sentence, code = await closing(idle)
            assert (code, sentence) == (1001, "no message came within 0.8 seconds")
            while server._sessions:
                await asyncio.sleep(0.01)
            stalled._reader._protocol.resume_reading()
            await stalled.close()

    run(test, hello_seconds=0.4, idle_seconds=0.8, stall_seconds=0.5)


def test_a_too_long_message_ends_only_its_stream():
    async def test(server, url):
        async with AsyncClient(url, **HELLO) as client, AsyncClient(url, **HELLO) as other:
            await client.push(np.ones((100, 33)))
            with pytest.raises(ServerError, match="1009"):
                await client.receive()
            await other.push(np.ones(33))
            assert len(await other.receive()) == HELLO["hop_length"]

    run(test, message=4096)


def test_streams_of_a_failed_inverter_get_an_error_and_new_ones_work():
    async def test(server, url):
        async with AsyncClient(url, **HELLO) as client, AsyncClient(url, **HELLO) as idle:
            (pool,) = {session._stream._pool for session in server._sessions}
            pool.inverter.push = broken
            await client.push(np.ones(33))
            for each in (client, idle):
                with pytest.raises(ServerError, match="out of order"):
                    await each.receive()
                with pytest.raises(ServerError, match="1011"):
                    await each.receive()
        async with AsyncClient(url, **HELLO) as client:
            await client.push(np.ones(33))
            assert len(np.asarray(await client.receive())) == HELLO["hop_length"]

    def broken(*frames, **streams):
        raise RuntimeError("out of order")

    run(test, idle_seconds=2)


def test_a_token_is_required():
    async def test(server, url):
        for wrong in (None, "", "Wort", "wört"):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
                await refusal(url, token=wrong)
        async with AsyncClient(url, token="word", **HELLO) as client:
            assert client.ready["type"] == "ready"
        async with AsyncClient(f"{url}?token=word", **HELLO) as client:
            assert client.ready["type"] == "ready"
        async with aiohttp.ClientSession() as session:
            for path, status in (
                ("healthz", 200),
                ("metrics", 401),
                ("metrics?token=word", 200),
                ("plan", 401),
            ):
                async with session.get(f"{server.url}{path}") as response:
                    assert response.status == status, path

    run(test, token="word")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 101),
        ({"Origin": "http://{address}"}, 101),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Host": "[::1"}, 403),
        (
            {"Origin": "http://evil.example:{port}", "Host": "evil.example:{port}"},
            403,
        ),  # a name that resolves to this machine
    ],
)
def test_pages_of_other_sites_are_rejected(headers, status):
    async def test(server, url):
        address = f"127.0.0.1:{server.port}"
        given = {
            name: text.replace("{address}", address).replace("{port}", str(server.port))
            for name, text in headers.items()
        }
        async with aiohttp.ClientSession() as session:
            if status == 101:
                async with session.ws_connect(url, headers=given):
                    return
            with pytest.raises(aiohttp.WSServerHandshakeError, match=str(status)):
                await session.ws_connect(url, headers=given)

    run(test)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_machines_need_a_token(host, capsys):
    assert main(["serve", "--host", host, "--port", "0"]) == 1
    message = capsys.readouterr().err
    assert host in message
    assert "--token" in message


def test_a_port_in_use_is_reported_in_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "address already in use" in line
    assert "--port 0" in line


def test_memory_is_limited_to_that_of_all_streams():
    large = {"n_fft": 8192, "hop_length": 512, "sample_rate": 44100, "n_iter": 1}
    assert hello_of(large, Limits(streams=8)).kind.look_ahead == 15
    with pytest.raises(ValueError, match="for 64 streams"):
        hello_of(large, Limits(streams=64))


@pytest.mark.parametrize("n_clients", [1, FEW + 4])
def test_frames_of_many_streams_are_pushed_together_and_a_single_stream_does_not_wait(n_clients):
    gather = 0.4
    frames = frames_of(HELLO, 1, 8)

    async def test(server, url):
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(AsyncClient(url, **HELLO)) for _ in range(n_clients)]
            before = server.metrics.values()["rtspecinv_hops_total"]
            n_before = n_pushes(server)
            begin = time.monotonic()
            for client in clients:
                await client.push(frames)
                await asyncio.sleep(gather / 100)
            hops = [np.asarray(await client.receive()) for client in clients]
            seconds = time.monotonic() - begin
        wanted = own_samples(inverter_of(HELLO), frames)
        assert all(np.array_equal(hop, wanted) for hop in hops)
        assert server.metrics.values()["rtspecinv_hops_total"] - before == n_clients
        if n_clients == 1:
            assert seconds < gather
        else:
            assert seconds >= gather
            assert n_pushes(server) - n_before < n_clients / 2

    run(test, streams=n_clients, gather_seconds=gather)


def n_pushes(server: Server) -> int:
    (count,) = (
        float(line.rsplit(b" ", 1)[1])
        for line in server.metrics.text().splitlines()
        if line.startswith(b"rtspecinv_push_seconds_count")
    )
    return int(count)


@pytest.mark.parametrize("heavy", [{}, {"n_fft": 2048, "hop_length": 64, "n_iter": 10, "look_ahead": 2}])
def test_kinds_with_long_pushes_have_a_thread_of_their_own(heavy):
    hello = {**HELLO, **heavy}
    frames = frames_of(hello, 3, 9)

    async def test(server, url):
        async with AsyncClient(url, **hello) as client:
            await client.push(frames)
            hops = [np.asarray(await client.receive()) for _ in frames]
            names = {thread.name for thread in threading.enumerate()}
            assert ("rtspecinv pool" in names) == bool(heavy)
        assert np.array_equal(np.concatenate(hops), own_samples(inverter_of(hello), frames))

    run(test, streams=8)


@pytest.mark.parametrize(
    "wrong", [{"gather_seconds": -1}, {"streams": 0}, {"queue": 0}, {"idle_seconds": 0}, {"n_iter": -1}]
)
def test_limits_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)
