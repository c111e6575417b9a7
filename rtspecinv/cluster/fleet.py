"""Servers of live streams on a Ray cluster: Ray Serve starts them, and tells each client which one to use.

    serve run rtspecinv.cluster.fleet:application streams=64 max_servers=4

Ray Serve does not carry the frames. A client asks it once, and gets the address of a server; it leaves the
answer open for as long as it uses the server. To Ray Serve, each stream is thus one ongoing request: it
selects servers, starts and ends them by the number of these requests.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from rtspecinv.common.checks import count, finite, keep
from rtspecinv.serve import Limits, Server
from rtspecinv.serve.process import dedicated
from rtspecinv.serve.server import token_of

try:
    import ray
    from ray import serve
    from ray.util.metrics import Gauge
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
except ImportError as error:
    raise ImportError(f'{error}: a fleet needs Ray Serve: pip install "rtspecinv[cluster]"') from error

REPORT_SECONDS = 5.0
BLANK_SECONDS = 10.0  # time between blank lines; a line that cannot be sent shows that the client has left
TARGET = 0.8  # share of the streams in use above which Ray Serve starts another server


@dataclass(frozen=True)
class FleetOptions:
    """Options of a fleet.

    Args:
        streams: largest number of streams of each server, default: 64.
        min_servers, max_servers: smallest and largest number of servers, default: 1 and 4.
        cpus: CPU cores reserved for each server, default: 1.
        token: secret word that clients must send; default: none, and servers listen on 127.0.0.1 only.
        drain_seconds: longest time that the streams of a server have to end before it is stopped, seconds,
            default: 300. It accepts no new streams meanwhile.
        idle_seconds: time with too many servers before one is stopped, seconds, default: 60.

    Raises:
        ValueError: a parameter is out of range.
    """

    streams: int = 64
    min_servers: int = 1
    max_servers: int = 4
    cpus: float = 1.0
    token: str | None = None
    drain_seconds: float = 300.0
    idle_seconds: float = 60.0

    def __post_init__(self) -> None:
        keep(self, partial(count, 1), "streams", "min_servers", "max_servers")
        keep(self, partial(finite, 0, above=True), "cpus", "drain_seconds", "idle_seconds")
        if self.max_servers < self.min_servers:
            raise ValueError(
                f"Parameter max_servers={self.max_servers} is below min_servers={self.min_servers}: raise it"
            )


class _Lease(Response):
    """Answer that is sent until the client leaves: the address of a server, then blank lines."""

    def __init__(self, url: str) -> None:
        super().__init__(media_type="application/x-ndjson")
        del self.headers["content-length"]
        self._url = url

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        line = json.dumps({"url": self._url}).encode()
        while True:  # Ray Serve cancels this call when the client has left
            await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})
            await asyncio.sleep(BLANK_SECONDS)
            line = b""


class SlotServer:
    """A server of the fleet with its own process and port; a deployment of Ray Serve."""

    async def __init__(self, streams: int, token: str | None) -> None:  # type: ignore[misc]  # Ray awaits it
        self._exit = AsyncExitStack()
        self._exit.enter_context(dedicated())
        host = "127.0.0.1" if token is None else "0.0.0.0"
        self._server = Server(host, 0, limits=Limits(streams=streams), token=token)
        await self._exit.enter_async_context(self._server)
        self._server.freeze()
        name = "127.0.0.1" if token is None else ray.util.get_node_ip_address()
        self.url = f"ws://{name}:{self._server.port}/stream"
        self._reporter = asyncio.ensure_future(self._report())
        self._exit.callback(self._reporter.cancel)

    async def __call__(self, request: Request) -> Response:
        """Return the address of the server in a line of JSON, and blank lines until the client leaves."""
        if not self._server.accepts(token_of(request.headers, request.query_params)):
            return PlainTextResponse("This fleet requires a token: send Authorization: Bearer TOKEN\n", 401)
        return _Lease(self.url)

    async def check_health(self) -> None:
        """Raise `ConnectionError` unless the server accepts connections; Ray Serve then replaces it."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        writer.close()

    async def __del__(self) -> None:
        """Send the remaining samples of all streams and close them; Ray Serve calls and awaits it."""
        await self._exit.aclose()

    async def _report(self) -> None:
        """Pass the metrics of the server to Ray's metrics, at regular intervals."""
        gauges: dict[str, Gauge] = {}
        while True:
            for name, value in self._server.metrics.values().items():
                if name not in gauges:
                    gauges[name] = Gauge(name, tag_keys=("server",))
                gauges[name].set(value, tags={"server": self.url})
            await asyncio.sleep(REPORT_SECONDS)


def application(options: dict[str, Any]) -> serve.Application:
    """Return the application of a fleet, for `serve.run` or for the command `serve run`.

    options: those of `FleetOptions`, by name.

    Raises:
        TypeError: an option does not exist.
        ValueError: an option is out of range.
    """
    of = FleetOptions(**options)
    deployment = serve.deployment(
        SlotServer,
        name="rtspecinv",
        max_ongoing_requests=of.streams,
        ray_actor_options={"num_cpus": of.cpus},
        autoscaling_config={
            "min_replicas": of.min_servers,
            "initial_replicas": of.min_servers,
            "max_replicas": of.max_servers,
            "target_ongoing_requests": max(1.0, TARGET * of.streams),
            "upscale_delay_s": 2.0,
            "downscale_delay_s": of.idle_seconds,
            "metrics_interval_s": 1.0,
            "look_back_period_s": 5.0,
        },
        graceful_shutdown_timeout_s=of.drain_seconds,
        graceful_shutdown_wait_loop_s=1.0,
    )
    return deployment.bind(of.streams, of.token)
