"""Tests of a server in a process with real clients: each receives the samples of its own inverter."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason='the extra is missing: pip install "rtspecinv[serve]"')
pytest.importorskip("rocket_fft", reason='the extra is missing: pip install "rtspecinv[fast]"')

import aiohttp
import served
from served import HELLO, frames_of, inverter_of, own_samples

from rtspecinv.client import AsyncClient, Client, ServerError
from rtspecinv.kernel import kernel_plan
from rtspecinv.serve import server as server_module

LATE = 30.0  # seconds after which a test gives up


@pytest.fixture(scope="module")
def server():
    with served.served("--streams", 8) as running:
        yield running


def run(work: Any) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(work, LATE)

    return asyncio.run(limited())


async def heard_until(client: AsyncClient, kind: str) -> tuple[list[np.ndarray], list[Any]]:
    """Return samples and other messages up to an answer of that kind."""
    hops: list[np.ndarray] = []
    said: list[Any] = []
    while True:
        try:
            next_ = await client.receive()
        except ServerError as error:
            said.append(str(error))
            continue
        if isinstance(next_, dict):
            said.append(next_)
            if next_["type"] == kind:
                return hops, said
        else:
            hops.append(next_)


def joined(hops: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *hops])


KINDS: list[dict[str, Any]] = [
    HELLO,
    {**HELLO, "look_ahead": 0, "window": "hamming"},
    {**HELLO, "hop_length": 24, "dtype": "f16"},
    {"preset": "hifigan-22k", "n_iter": 1},
    {"preset": "kaldi-fbank", "look_ahead": 1},  # with pre-emphasis
    {"preset": "vocos-24k", "dtype": "f16", "n_iter": 1},
]


async def live(url: str, hello: dict[str, Any], seed: int) -> None:
    """Send random pieces, flush, reset; all samples must be bit-identical to those of a separate inverter."""
    random, own = np.random.default_rng(seed), inverter_of(hello)
    async with AsyncClient(url, **hello) as client:
        assert client.latency == own.latency
        assert client.ready["hop_length"] == own.stft.hop_length
        for life in range(3):
            frames = frames_of(hello, 24, 100 * seed + life)
            cuts = np.sort(random.integers(0, len(frames), 6))
            for piece in np.split(frames, cuts):
                if len(piece):
                    await client.push(piece)
                await asyncio.sleep(0.01 * random.random())
            wanted = own_samples(own, frames)
            if life == 1:
                await client.ask("marker", id=life)
                hops, said = await heard_until(client, "marker")
                assert said == [{"type": "marker", "id": life}]
                assert np.array_equal(joined(hops), wanted)
                await client.ask("reset")
                assert await client.receive() == {"type": "reset"}
                own.reset()
                continue
            await client.ask("flush")
            hops, said = await heard_until(client, "flushed")
            assert [len(hop) for hop in hops[: len(frames)]] == [own.stft.hop_length] * len(frames)
            assert np.array_equal(joined(hops), np.concatenate([wanted, own.flush().numpy()]))
            assert said == [{"type": "flushed"}]


def test_every_client_receives_the_samples_of_its_own_inverter(server):
    async def all_at_once():
        await asyncio.gather(*(live(server.stream, hello, i) for i, hello in enumerate(KINDS)))

    run(all_at_once())


def test_the_plain_client_is_the_example_of_its_docstring(server):
    frames = frames_of(HELLO, 40, 1)
    with Client(server.stream, **HELLO) as client:
        for frame in frames:
            client.push(frame)
        samples = client.flush()
        client.ask("marker", id="x")
        assert client.receive(LATE) == {"type": "marker", "id": "x"}
    own = inverter_of(HELLO)
    assert np.array_equal(samples, np.concatenate([own_samples(own, frames), own.flush().numpy()]))


def mulaw(sample: int) -> int:
    """Return the G.711 code of 14-bit samples: 33 is added, the highest bit selects the segment."""
    value = min(abs(sample) >> 2, 8158) + 33
    segment = value.bit_length() - 6
    return 255 - ((sample < 0) << 7 | segment << 4 | (value >> segment + 1) & 15)


@pytest.mark.parametrize("form", ["s16", "mulaw"])
def test_formats(server, form):
    frames = 8 * frames_of(HELLO, 30, 2)  # loud enough to clip
    with Client(server.stream, **HELLO, format=form) as client:
        client.push(frames)
        samples = client.flush()
    own = inverter_of(HELLO)
    wanted = np.concatenate([own_samples(own, frames), own.flush().numpy()])
    assert np.abs(wanted).max() > 1
    whole = np.array([min(max(round(float(x) * 32768), -32768), 32767) for x in wanted])
    assert np.array_equal(samples, whole if form == "s16" else [mulaw(int(x)) for x in whole])


RATES = [
    ({**HELLO, "hop_length": 40, "n_fft": 160}, 16000),  # 5 ms
    ({**HELLO, "n_fft": 640, "hop_length": 160, "sample_rate": 16000}, 8000),  # 10 ms
    ({"n_fft": 1024, "hop_length": 256, "sample_rate": 22050, "n_iter": 1}, 24000),
    ({"preset": "hifigan-22k", "n_iter": 1}, 48000),
]


@pytest.mark.parametrize(("hello", "rate"), RATES)
def test_resampled_sound_is_that_of_the_whole_stream_after_the_delay(server, hello, rate):
    soxr = pytest.importorskip("soxr", reason='the extra is missing: pip install "rtspecinv[live]"')
    frames, own = frames_of(hello, 150, 3), inverter_of(hello)
    from_rate = hello.get("sample_rate", 22050)
    wanted = np.concatenate([own_samples(own, frames), own.flush().numpy()])
    wanted = soxr.resample(wanted, from_rate, rate)
    ratio, hop_length = rate / from_rate, own.stft.hop_length
    with Client(server.stream, **hello, output_rate=rate) as client:
        assert client.ready["sample_rate"] == rate
        for _ in range(2):  # after a flush, a new stream begins
            client.push(frames)
            client.ask("flush")
            hops = list(client)
            ends = np.cumsum([len(hop) for hop in hops[: len(frames)]])
            assert np.abs(ends - np.arange(1, len(frames) + 1) * hop_length * ratio).max() <= 0.5
            heard = joined(hops)
            delay = client.latency - round(own.latency * ratio)
            assert not heard[:delay].any()
            assert len(heard) - delay == len(wanted)
            assert np.array_equal(heard[delay:], wanted)


def test_bad_frames_are_answered_in_order_with_the_message_of_the_library(server):
    frames, own = frames_of(HELLO, 3, 4), inverter_of(HELLO)
    bad = frames.copy()
    bad[1, 5] = -1
    with pytest.raises(ValueError) as error:
        own.push(bad[1])

    async def one_among_others():
        async with (
            AsyncClient(server.stream, **HELLO) as client,
            AsyncClient(server.stream, **HELLO) as other,
        ):
            await other.push(frames)
            await client.push(bad)
            await client._socket.send_bytes(b"123")
            await client._socket.send_str("{")
            await client.ask("what")
            await client.ask("flush")
            hops, said = await heard_until(client, "flushed")
            wanted = own_samples(own, bad[[0, 2]])
            assert np.array_equal(joined(hops), np.concatenate([wanted, own.flush().numpy()]))
            assert said[0] == str(error.value)
            assert "3 bytes, not a whole number of frames" in said[1]
            assert "not JSON" in said[2]
            assert "'what' is not known" in said[3]
            assert "flush" in said[3]
            await other.ask("marker", id=1)
            hops, _ = await heard_until(other, "marker")
            assert np.array_equal(joined(hops), own_samples(own, frames))

    run(one_among_others())


def test_reset_drops_waiting_frames(server):
    slow: dict[str, Any] = {
        "n_fft": 2048,
        "hop_length": 64,
        "sample_rate": 8000,
        "n_iter": 10,
        "look_ahead": 2,
    }
    frames, own = frames_of(slow, 9, 5), inverter_of(slow)

    async def interrupted():
        async with AsyncClient(server.stream, **slow) as client:
            await client.push(frames[:8])
            await client.ask("marker", id=1)
            await client.ask("reset")
            await client.push(frames[8])
            hops, said = await heard_until(client, "reset")
            assert len(hops) <= 8
            assert said == [{"type": "marker", "id": 1}, {"type": "reset"}]
            assert np.array_equal(np.asarray(await client.receive()), own_samples(own, frames[8:]))

    run(interrupted())


WRONG_HELLOS: list[tuple[dict[str, Any], str]] = [
    ({}, "lacks n_fft, hop_length, sample_rate"),
    ({**HELLO, "hop": 3}, "'hop'"),
    ({"preset": "hifigan-22"}, "did you mean 'hifigan-22k'"),
    ({"preset": "/etc/passwd.json"}, "is not one of"),
    ({"preset": ["hifigan-22k"]}, "is not one of"),
    ({**HELLO, "n_fft": -1}, "n_fft=-1"),
    ({**HELLO, "n_fft": 2**40}, "frames over each sample"),
    ({**HELLO, "n_fft": 2**21, "hop_length": 2**19}, "in open frames"),
    ({**HELLO, "window": "han"}, "did you mean 'hann'"),
    ({**HELLO, "window": [1, 2]}, "name of a window"),
    ({**HELLO, "n_fft": 4096, "hop_length": 256, "n_iter": 20}, "pass over"),
    ({**HELLO, "n_iter": 10**6}, "n_iter=1000000"),
    ({**HELLO, "look_ahead": 1.5}, "look_ahead=1.5"),
    ({**HELLO, "dtype": "f64"}, "'f32', 'f16'"),
    ({**HELLO, "format": "mp3"}, "'f32', 's16', 'mulaw'"),
    ({**HELLO, "output_rate": 10}, "output_rate=10"),
    ({**HELLO, "sample_rate": float("inf")}, "sample_rate=inf"),
]


def test_a_wrong_first_message_is_reported_and_may_be_repeated(server):
    async def stubborn():
        async with aiohttp.ClientSession() as session, session.ws_connect(server.stream) as socket:
            for hello, words in WRONG_HELLOS:
                await socket.send_json(hello)
                said = await socket.receive_json()
                assert said["type"] == "error"
                assert words in said["message"], (hello, said)
            await socket.send_bytes(b"\0" * 100)
            assert (await socket.receive_json())["type"] == "error"
            for garbage in ("[1]", "\ud7ff", '{"type":' * 1000):
                await socket.send_str(garbage)
                assert (await socket.receive_json())["type"] == "error"
            await socket.send_json(HELLO)
            assert (await socket.receive_json())["type"] == "ready"

    run(stubborn())


def test_the_server_returns_the_constants_of_the_c_kernel(server):
    async def look():
        async with aiohttp.ClientSession(server.url) as session:

            async def get(hello: Any) -> tuple[int, bytes]:
                text = hello if isinstance(hello, str) else json.dumps(hello)
                async with session.get("/plan", params={"hello": text}) as response:
                    return response.status, await response.read()

            for hello in ({**HELLO, "look_ahead": 1}, {**HELLO, "format": "f32", "n_iter": 3}):
                assert await get(hello) == (200, kernel_plan(inverter_of(hello)))
            for bad, words in (
                ("", "not JSON"),
                ({"n_fft": 64}, "lacks hop_length"),
                ({**HELLO, "look_ahead": 1000}, "look_ahead"),
                ({**HELLO, "n_fft": 100}, "power of two"),
                ({"preset": "hifigan-22k"}, "in place of preset"),
            ):
                status, text = await get(bad)
                assert status == 400
                assert words in text.decode(), (bad, text)

    run(look())


def test_other_pages_of_the_server(server, tmp_path):
    async def look():
        async with aiohttp.ClientSession(server.url) as session:

            async def get(path: str) -> tuple[int, str]:
                async with session.get(path) as response:
                    return response.status, await response.text(errors="replace")

            assert await get("/healthz") == (200, "ok\n")
            before = metrics(await get("/metrics"))
            async with AsyncClient(server.stream, **HELLO) as client:
                await client.push(frames_of(HELLO, 5, 6))
                await client.ask("marker", id=1)
                await heard_until(client, "marker")
                after = metrics(await get("/metrics"))
            assert after["streams"] == before["streams"] + 1
            assert after["frames_total"] - before["frames_total"] == 5
            assert after["hops_total"] - before["hops_total"] == 5
            assert 1 <= after["push_seconds_count"] - before["push_seconds_count"] <= 5
            assert after["waiting_frames"] == 0
            for path in (
                "/server.py",
                "/../server.py",
                "/%2e%2e/server.py",
                "/..%2fserver.py",
                "/etc/passwd",
            ):
                assert (await get(path))[0] == 404, path
            for file in server_module.PAGE.rglob("*"):
                if file.is_file():
                    assert (await get(f"/{file.relative_to(server_module.PAGE).as_posix()}"))[0] == 200

    run(look())


def metrics(answer: tuple[int, str]) -> dict[str, float]:
    status, text = answer
    assert status == 200
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name.removeprefix("rtspecinv_"): float(value) for name, value in pairs}


def test_sigterm_sends_the_remaining_samples_of_all_streams():
    with served.served("--streams", 3) as running:
        frames, own = frames_of(HELLO, 6, 7), inverter_of(HELLO)

        async def until_the_end():
            async with (
                AsyncClient(running.stream, **HELLO) as client,
                AsyncClient(running.stream, **HELLO) as idle,
                aiohttp.ClientSession() as session,
                session.ws_connect(running.stream) as silent,
            ):
                await client.push(frames)
                first = [np.asarray(await client.receive())]
                running.process.terminate()
                hops, _ = await heard_until(client, "flushed")
                wanted = np.concatenate([own_samples(own, frames), own.flush().numpy()])
                assert np.array_equal(joined([*first, *hops]), wanted)
                for each in (client, idle):
                    with pytest.raises(ServerError, match="the server is ending"):
                        await each.receive()
                    with pytest.raises(ServerError, match="1001"):
                        await each.receive()
                assert (await silent.receive()).type is aiohttp.WSMsgType.TEXT
                assert (await silent.receive()).type is aiohttp.WSMsgType.CLOSE

        run(until_the_end())
        began = time.monotonic()
        assert running.process.wait(LATE) == 0
        assert time.monotonic() - began < 5
        assert running.process.stderr.read() == ""
