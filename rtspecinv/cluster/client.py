"""Client of a fleet: it requests the address of a server, and of another one when that server is lost."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from types import TracebackType
from typing import Any

from rtspecinv.client import Array, AsyncClient, Listener, ServerError, StreamClosed
from rtspecinv.common.checks import finite, instance

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between attempts
REFUSALS = (401, 403)  # HTTP status; another attempt would not help


class FleetClient(Listener):
    """A stream of a fleet, with the methods of `AsyncClient`; it survives the loss of its server.

    If the server is lost or is about to end, the client asks for another one and begins a new stream there.
    The hops of frames that were on their way, and frames that are pushed meanwhile, are lost; `receive` then
    returns {"type": "moved", "n_lost": number of these frames, "seconds": duration}, and the sound begins
    again with `latency` samples that precede the first frame.

    Args:
        url: address of the fleet, or of a single server (ws://...), default: http://127.0.0.1:8000/.
        token: secret word of the fleet, default: none.
        patience: longest time to look for a server, seconds, default: 30.
        hello: as in `AsyncClient`.

    Attributes:
        ready: answer of the server, as in `AsyncClient`.
        server: address of the server that has the stream now, or had it last.
        n_lost: number of frames so far whose hops were lost.
        n_moves: number of servers lost so far.

    Raises:
        ServerError: the server refuses the token or the parameters of the stream, or the address is not that
            of a fleet.
        StreamClosed: no server had a free stream within `patience`.
        ValueError, TypeError: `patience` is not a number above 0, or `url` not an address.
        ImportError: aiohttp is not installed.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000/",
        *,
        token: str | None = None,
        patience: float = 30.0,
        **hello: Any,
    ) -> None:
        instance(str, "pass an address such as 'http://127.0.0.1:8000/'", url=url)
        if not url.startswith(("http://", "https://", "ws://", "wss://")):
            raise ValueError(
                f"Parameter {url=} does not begin with http://, https://, ws:// or wss://: pass the address "
                "of a fleet, 'http://127.0.0.1:8000/', or of a server, 'ws://127.0.0.1:8765/stream'"
            )
        self.url, self.patience = url, finite(0, above=True, patience=patience)
        self._token, self._hello = token, hello
        self._client: AsyncClient | None = None  # None while the client looks for a server
        self._lease: Any = None
        self._moving: asyncio.Task[None] | None = None
        self._asked: deque[tuple[str, dict[str, Any]]] = deque()  # requests without an answer
        self._lost: tuple[float, int] | None = None  # time of a loss, and `n_lost` before it
        self._moved: dict[str, Any] | None = None  # message of the last move, until it is received
        self._n_owed = 0  # number of frames whose hops have not arrived
        self.n_lost = self.n_moves = 0
        self.ready: dict[str, Any] = {}
        self.server = ""

    async def __aenter__(self) -> FleetClient:
        try:
            import aiohttp
        except ImportError as error:
            raise ImportError('The client needs aiohttp: pip install "rtspecinv[serve]"') from error
        self._failures = (aiohttp.ClientError, OSError, asyncio.TimeoutError, StreamClosed)
        self._session = aiohttp.ClientSession()
        try:
            await self._find()
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.gather(self._moving, return_exceptions=True)
        await self._leave(self._client)
        await self._session.close()

    @property
    def latency(self) -> int:
        """Samples to drop at the beginning, and after each move."""
        return int(self.ready["latency"])

    async def push(self, frames: Any) -> None:
        """Send frames `(n_values,)` or `(n_frames, n_values)`; they are lost while there is no server."""
        n_frames = 1 if getattr(frames, "ndim", 1) == 1 else len(frames)
        client = self._client
        if client is None:
            self.n_lost += n_frames
            return self._check_moving()
        self._n_owed += n_frames
        try:
            await self._try(client, client.push(frames))
        except (TypeError, ValueError):  # the frames were not sent, because they are not numbers
            self._n_owed = max(0, self._n_owed - n_frames)
            raise

    async def ask(self, kind: str, **more: Any) -> None:
        """Send "flush", "reset" or "marker"; a lost request is sent again to the next server."""
        self._asked.append((kind, more))
        if (client := self._client) is None:
            return self._check_moving()
        await self._try(client, self._tell(client, kind, more))

    async def reset(self) -> None:
        """Request silence at once, as `AsyncClient.reset` does."""
        await self.ask("reset")

    async def receive(self) -> Array | dict[str, Any]:
        """Return the next samples `(n_samples,)` or the next answer, or the message of a move.

        Raises:
            ServerError: the server answers with an error message.
            StreamClosed: no server had a free stream within `patience`.
        """
        while True:
            client = self._client
            if client is None:
                await self._wait_for_server()
                continue
            if self._moved is not None:
                moved, self._moved = self._moved, None
                return moved
            try:
                said = await client.receive()
            except self._failures:
                self._lose(client)
                continue
            except ServerError:
                self._n_owed = max(0, self._n_owed - 1)
                raise
            if isinstance(said, dict):
                self._answered(said)
            elif self._n_owed:
                self._n_owed -= 1
            return said

    def _answered(self, said: dict[str, Any]) -> None:
        kind = {"flushed": "flush"}.get(said.get("type", ""), said.get("type"))
        if self._asked and self._asked[0][0] == kind:
            self._asked.popleft()
        if kind in ("flush", "reset"):
            self._n_owed = 0

    async def _try(self, client: AsyncClient, sending: Awaitable[None]) -> None:
        try:
            await sending
        except self._failures:
            self._lose(client)

    async def _wait_for_server(self) -> None:
        assert self._moving is not None
        await asyncio.shield(self._moving)

    def _check_moving(self) -> None:
        """Raise the error of the search for a server, if it has failed."""
        if self._moving is not None and self._moving.done():
            self._moving.result()

    async def _tell(self, client: AsyncClient, kind: str, more: dict[str, Any]) -> None:
        await (client.reset() if kind == "reset" else client.ask(kind, **more))

    def _lose(self, client: AsyncClient) -> None:
        """Give up a client, unless another task has done so, and begin to look for a server."""
        if self._client is not client:
            return
        self._client, self._lost = None, (time.monotonic(), self.n_lost)
        self.n_moves, self.n_lost, self._n_owed = self.n_moves + 1, self.n_lost + self._n_owed, 0
        self._moving = asyncio.ensure_future(self._move(client))

    async def _move(self, client: AsyncClient) -> None:
        await self._leave(client)
        await self._find()

    async def _find(self) -> None:
        """Begin a stream on a server, and send it the requests without an answer."""
        give_up, pause = time.monotonic() + self.patience, FIRST_PAUSE
        while True:
            try:
                return await asyncio.wait_for(self._connect(), give_up - time.monotonic())
            except self._failures as error:
                if time.monotonic() + pause >= give_up:
                    reason = str(error) or "no server has answered"
                    raise StreamClosed(
                        f"No stream was free at {self.url} within {self.patience:g} seconds ({reason}): try "
                        "again later, or set a longer patience"
                    ) from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _connect(self) -> None:
        client: AsyncClient | None = None
        try:
            url = self.url if self.url.startswith("ws") else await self._ask_where()
            client = AsyncClient(url, token=self._token, **self._hello)
            await client.__aenter__()
            n_told = 0
            while n_told < len(self._asked):  # other tasks may add requests meanwhile
                kind, more = self._asked[n_told]
                await self._tell(client, kind, more)
                n_told += 1
        except BaseException as error:
            await self._leave(client)
            if getattr(error, "status", None) in REFUSALS:
                raise ServerError(f"{self.url} refuses the client: {error}") from error
            raise
        self.ready, self.server, self._client = client.ready, url, client
        if self._lost is not None:
            (begin, n_before), self._lost = self._lost, None
            seconds = time.monotonic() - begin
            self._moved = {"type": "moved", "n_lost": self.n_lost - n_before, "seconds": seconds}

    async def _ask_where(self) -> str:
        """Return the address of a server; the answer stays open, which reserves the stream."""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else None
        self._lease = lease = await self._session.get(self.url, headers=headers)
        if lease.status in REFUSALS:
            raise ServerError(f"{self.url} refuses the client: {(await lease.text()).strip()}")
        if lease.status == 404 or lease.status >= 500:  # Ray Serve has not started a server yet
            raise StreamClosed(f"{self.url} answers with status {lease.status}")
        try:
            return str(json.loads(await lease.content.readline())["url"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(
                f"{self.url} does not answer with the address of a server, so it is not a fleet: if it is a "
                "server, pass ws://HOST:PORT/stream"
            ) from error

    async def _leave(self, client: AsyncClient | None) -> None:
        """Close the stream, and the answer that reserves it."""
        if self._lease is not None:
            self._lease.close()
            self._lease = None
        if client is not None and client.ready:
            with suppress(*self._failures):
                await client.__aexit__(None, None, None)
