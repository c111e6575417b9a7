"""HTTP server of live streams: the websockets of clients, metrics and a web page."""

from __future__ import annotations

import asyncio
import gc
import hmac
import ipaddress
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, hdrs, web

from rtspecinv.kernel import kernel_plan
from rtspecinv.serve.adapters import MessagePack, Realtime
from rtspecinv.serve.limits import Limits
from rtspecinv.serve.metrics import CONTENT_TYPE, Metrics
from rtspecinv.serve.pools import Pools
from rtspecinv.serve.protocol import Codec, Native, hello_of, read_object
from rtspecinv.serve.session import ERRORS, Session

PAGE = Path(__file__).parent / "page"
FIRST_PAGE = "page.html"
HEARTBEAT_SECONDS = 20.0
CODECS: dict[str, type[Codec]] = {
    "/stream": Native,
    "/stream/msgpack": MessagePack,
    "/v1/realtime": Realtime,
}
_CLOSE_SECONDS = 2.0  # time for a client to answer a close frame


class Server:
    """Serves streams at `ws://host:port/stream` within an `async with` block.

    Args:
        host: address to listen on, default: "127.0.0.1".
        port: number of the port, default: 8765; with 0 the system chooses a free port.
        limits: limits on the requests of clients, default: those of `Limits`.
        token: secret word that clients must send as `Authorization: Bearer ...` or `?token=...`; default: no
            token is required, and `host` must be an address that only this machine can reach.

    Raises:
        ValueError: other machines can reach `host`, and there is no token.
        OSError: the address is in use, or does not belong to this machine.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8765,
        *,
        limits: Limits | None = None,
        token: str | None = None,
    ) -> None:
        if token is None and not is_loopback(host):
            raise ValueError(
                f"Parameter {host=} can be reached from other machines: give a token, --token, which "
                "clients then send, or use host='127.0.0.1'"
            )
        if token is not None and not token:
            raise ValueError("Parameter token is empty: give a word")
        self.host, self.port, self.limits = host, port, limits or Limits()
        self._token = token
        self._sessions: dict[Session, web.Request] = {}
        self._closing: set[asyncio.Future[None]] = set()  # sockets that are being closed
        self._is_ending = self._is_frozen = False
        self.metrics = Metrics(
            lambda: len(self._sessions), lambda: sum(session.n_waiting for session in self._sessions)
        )

    @property
    def url(self) -> str:
        """Address of the web page."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    async def __aenter__(self) -> Server:
        self._pools = Pools(self.limits, lambda n, seconds: self.metrics.push_seconds.observe(seconds))
        await asyncio.get_running_loop().run_in_executor(None, self._warm_up)
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_get("/plan", self._plan)
        for path, codec in CODECS.items():
            app.router.add_get(path, partial(self._stream, codec))
        app.router.add_get("/{name:.*}", self._file)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_SECONDS)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, backlog=max(128, 4 * self.limits.streams))
        try:
            await site.start()
        except BaseException as error:
            await self._runner.cleanup()
            self._pools.close()
            if isinstance(error, OSError):
                raise OSError(f"{error}: give another address, such as --port 0, any that is free") from error
            raise
        self.port = self._runner.addresses[0][1]
        self._sweeper = asyncio.ensure_future(self._sweep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drain()
        self._sweeper.cancel()
        await self._runner.cleanup()
        await asyncio.get_running_loop().run_in_executor(None, self._pools.close)
        gc.collect()  # soxr prints warnings about streams that exist when Python ends

    def freeze(self) -> None:
        """Exclude all present objects from garbage collections, which then take milliseconds, not 0.2 s.

        It is for a process that only serves; `gc.unfreeze` undoes it.
        """
        gc.freeze()
        self._is_frozen = True  # a flag, as gc.get_freeze_count() takes 20 ms

    def refusal(self) -> str:
        """Return the reason to reject a new stream now; empty if it is accepted."""
        if self._is_ending:
            return "the server is ending: try again later"
        if len(self._sessions) >= self.limits.streams:
            return f"all {self.limits.streams} streams of this server are in use: try again later"
        return ""

    def accepts(self, given: str) -> bool:
        """Return whether a client may use this server by the token that it has sent."""
        return self._token is None or hmac.compare_digest(given.encode(), self._token.encode())

    async def drain(self) -> None:
        """Reject new streams, and wait until the others have ended with all of their samples.

        Streams that have not ended after `limits.drain_seconds` are aborted.
        """
        self._is_ending = True
        for session in [*self._sessions]:
            session.drain()
        deadline = time.monotonic() + self.limits.drain_seconds
        while self._sessions and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for request in self._sessions.values():
            _abort(request)

    def _warm_up(self) -> None:
        """Load or compile the code that the first stream needs."""
        hello = hello_of({"n_fft": 1024, "hop_length": 256, "sample_rate": 22050}, self.limits)
        stream = self._pools.join(hello.kind, lambda samples: None)
        stream.flush()
        stream.wait()
        stream.leave()

    async def _sweep(self) -> None:
        """Close, at regular intervals, the sessions that are idle, accept no data or have failed."""
        limits, n_before = self.limits, 0
        while True:
            await asyncio.sleep(min(1.0, limits.idle_seconds / 4, limits.stall_seconds / 4))
            if self._is_frozen and len(self._sessions) < n_before:
                gc.collect()  # closed sockets and their unread messages refer to each other
            n_before = len(self._sessions)
            now = time.monotonic()
            for session, request in [*self._sessions.items()]:
                since = session.sending_since
                if since is not None and now - since > limits.stall_seconds:
                    _abort(request)
                elif session.failure is not None:
                    reason = f"the stream has failed: {session.failure}"
                    self._close(session, WSCloseCode.INTERNAL_ERROR, reason)
                elif now - max(session.heard, session.sent) > limits.idle_seconds:
                    reason = f"no message came within {limits.idle_seconds:g} seconds"
                    self._close(session, WSCloseCode.GOING_AWAY, reason)

    def _close(self, session: Session, code: int, reason: str) -> None:
        closing = asyncio.ensure_future(session.close(code, reason))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    # Requests.

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if refusal := self._why_forbidden(request):
            return web.Response(status=403, text=f"{refusal}\n")
        if request.path in (*CODECS, "/metrics", "/plan") and not self.accepts(
            token_of(request.headers, request.query)
        ):
            text = "This server wants a token: send Authorization: Bearer TOKEN, or ask for ?token=TOKEN\n"
            return web.Response(status=401, text=text)
        response: web.StreamResponse = await handler(request)
        return response

    def _why_forbidden(self, request: web.Request) -> str:
        """Return the reason to reject a request by its host or origin; empty if it is allowed.

        A page of another web site may open websockets to this machine, so its origin is rejected. The site
        may also make its own host name resolve to this machine, so without a token other host names are
        rejected.
        """
        host, origin = request.host, request.headers.get(hdrs.ORIGIN)
        try:
            name = urlsplit(f"//{host}").hostname or ""
            place = host if origin is None else urlsplit(origin).netloc
        except ValueError as error:
            return f"The host or the origin is malformed: {error}"
        if self._token is None and not is_loopback(name):
            return f"This server is not {host!r}: ask for {self.url}"
        if place != host:
            return f"Pages of {origin!r} may not use this server: open {self.url}"
        return ""

    async def _health(self, request: web.Request) -> web.Response:
        if self._is_ending:
            return web.Response(status=503, text="ending\n")
        return web.Response(text="ok\n")

    async def _show_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self.metrics.text(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    async def _plan(self, request: web.Request) -> web.Response:
        """Return the constants of a kind of stream for the C kernel; the query has the first message."""
        try:
            hello = hello_of(read_object(request.query.get("hello", "")), self.limits)
            if hello.kind.preset is not None:
                raise ValueError(
                    "The C kernel takes no mel frames: send n_fft, hop_length, sample_rate in place of preset"
                )
            loop = asyncio.get_running_loop()
            plan = await loop.run_in_executor(None, lambda: kernel_plan(hello.kind.inverter(1)))
        except ERRORS as error:
            return web.Response(status=400, text=f"{error}\n")
        return web.Response(body=plan, content_type="application/octet-stream")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        """Return a file of the web page; only files in the folder of the page are served."""
        name = request.match_info["name"] or FIRST_PAGE
        there = {path.relative_to(PAGE).as_posix(): path for path in PAGE.rglob("*") if path.is_file()}
        if name not in there:
            return web.Response(status=404, text="There is no such file\n")
        return web.FileResponse(there[name], headers={hdrs.CACHE_CONTROL: "no-cache"})

    async def _stream(self, codec: type[Codec], request: web.Request) -> web.StreamResponse:
        try:
            speaks = codec()
        except ImportError as error:
            return web.Response(status=501, text=f"{error}\n")
        socket = web.WebSocketResponse(
            timeout=_CLOSE_SECONDS,
            heartbeat=HEARTBEAT_SECONDS,
            max_msg_size=self.limits.message,
            compress=False,
        )
        session = Session(socket, speaks, self._pools, self.limits, self.metrics)
        refusal = self.refusal()
        if not refusal:
            self._sessions[session] = request
        try:
            await socket.prepare(request)
            if refusal:
                self.metrics.refused.inc()
                await session.close(WSCloseCode.TRY_AGAIN_LATER, refusal)
            else:
                await session.run()
        except ConnectionError:
            pass
        finally:
            self._sessions.pop(session, None)
        return socket


def token_of(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return the token in the headers or in the query of a request; empty if there is none."""
    given = headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer ").strip()
    return given or query.get("token", "")


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is a loopback one, which only this machine can reach."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
