"""A server that answers each frame with zeros, without an inverter; a tool of bench/serve.py."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import WSMsgType, web
from crowd import HELLO


async def stream(request: web.Request) -> web.WebSocketResponse:
    """Answer the messages of a client of bench/crowd.py."""
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    await socket.receive()
    await socket.send_json({"type": "ready", "format": "f32", "latency": 0})
    hop = bytes(4 * HELLO["hop_length"])
    async for message in socket:
        if message.type is WSMsgType.BINARY:
            await socket.send_bytes(hop)
        else:
            await socket.send_json({"type": "flushed"})
    return socket


async def serve() -> None:
    """Serve at a free port until the process is ended."""
    app = web.Application()
    app.router.add_get("/stream", stream)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/;", file=sys.stderr, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve())
    else:
        uvloop.run(serve())
