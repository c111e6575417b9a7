"""Tests of clients that use MessagePack as moshi does, and events of OpenAI's Realtime API."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason='the extra is missing: pip install "rtspecinv[serve]"')
pytest.importorskip("msgpack", reason='the extra is missing: pip install "rtspecinv[serve]"')

import aiohttp
import msgpack
from served import HELLO, Array, frames_of, inverter_of, own_samples

from rtspecinv.serve import Limits, Server

LATE = 30.0
FRAMES = frames_of(HELLO, 12, 1)


def wanted() -> Array:
    own = inverter_of(HELLO)
    return np.concatenate([own_samples(own, FRAMES), own.flush().numpy()])


def run(test: Any, **options: Any) -> None:
    async def limited() -> None:
        async with Server(port=0, limits=Limits(streams=2), **options) as server:
            await asyncio.wait_for(test(f"127.0.0.1:{server.port}"), LATE)

    asyncio.run(limited())


def test_messages_of_messagepack():
    async def test(address):
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"ws://{address}/stream/msgpack") as socket,
        ):

            async def send(**message):
                await socket.send_bytes(msgpack.packb(message))

            async def receive():
                return msgpack.unpackb(await socket.receive_bytes())

            await send(type="Init", **HELLO, format="s16")
            assert "list of floats" in (await receive())["message"]
            for garbage in (b"\xc1", msgpack.packb([1]), msgpack.packb({"type": "Frames", "data": 1})):
                await socket.send_bytes(garbage)
                assert (await receive())["type"] == "Error"
            await send(type="Init", **HELLO)
            ready = await receive()
            assert (ready["type"], ready["n_freq"]) == ("Ready", 33)
            await send(type="Frames", data=FRAMES.tobytes())
            await send(type="Marker", id=7)
            await send(type="Flush")
            pcm: list[float] = []
            kinds: list[str] = []
            while not kinds or kinds[-1] != "Flushed":
                said = await receive()
                kinds.append(said["type"])
                pcm += said.get("pcm", [])
            assert kinds == [*["Audio"] * len(FRAMES), "Marker", "Audio", "Flushed"]
            assert np.array_equal(np.array(pcm, np.float32), wanted())
            await send(type="Reset")
            assert await receive() == {"type": "Reset"}

    run(test)


def as_s16(samples: Array) -> bytes:
    return np.rint(samples * 32768).clip(-32768, 32767).astype("<i2").tobytes()


def test_events_in_the_shape_of_openai():
    async def test(address):
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"ws://{address}/v1/realtime?model=any") as socket,
        ):

            async def send(kind, **more):
                await socket.send_str(json.dumps({"type": kind, **more}))

            await send("session.update", session=HELLO)
            said = await socket.receive_json()
            assert (said["type"], said["session"]["format"]) == ("session.updated", "s16")
            await send("input_audio_buffer.append", audio="no base64!")
            said = await socket.receive_json()
            assert said["type"] == "error"
            assert "base64" in said["error"]["message"]
            await send("input_audio_buffer.append", audio=base64.b64encode(FRAMES.tobytes()).decode())
            await send("input_audio_buffer.commit")
            pcm = b""
            while (said := await socket.receive_json())["type"] == "response.output_audio.delta":
                pcm += base64.b64decode(said["delta"])
            assert said == {"type": "response.done", "response": {"status": "completed"}}
            assert pcm == as_s16(wanted())
            await send("response.cancel")
            said = await socket.receive_json()
            assert said == {"type": "response.done", "response": {"status": "cancelled"}}

    run(test)


def test_the_client_of_openai():
    openai = pytest.importorskip("openai", reason="openai is not installed: pip install openai websockets")

    async def test(address):
        client = openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="word")
        async with client, client.realtime.connect(model="any") as connection:
            await connection.session.update(session=HELLO)
            assert (await connection.recv()).type == "session.updated"
            await connection.input_audio_buffer.append(audio=base64.b64encode(FRAMES.tobytes()).decode())
            await connection.input_audio_buffer.commit()
            pcm = b""
            async for event in connection:
                if event.type == "response.done":
                    assert event.response.status == "completed"
                    break
                pcm += base64.b64decode(event.delta)
            assert pcm == as_s16(wanted())

    run(test, token="word")
