"""Client of `rtspecinv serve`: frames in, hops out, without torch.

from rtspecinv.client import Client

with Client("ws://127.0.0.1:8765/stream", n_fft=1024, hop_length=256, sample_rate=22050) as client:
    for frame in frames:              # (513,)
        client.push(frame)
    samples = client.flush()          # all samples that have not been received, from client.latency on
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

Array = np.ndarray[Any, Any]
T = TypeVar("T")
URL = "ws://127.0.0.1:8765/stream"
_DTYPES = {"f32": "<f4", "f16": "<f2"}
_SAMPLES = {"f32": "<f4", "s16": "<i2", "mulaw": "u1"}


class ServerError(RuntimeError):
    """Error message of the server; the stream continues."""


class StreamClosed(ServerError):
    """The server has closed the stream, or cannot be reached any more; the message states the reason."""


class Listener:
    """Iteration over the samples that `receive` returns."""

    async def receive(self) -> Array | dict[str, Any]:
        """Return the next samples `(n_samples,)` or the next answer."""
        raise NotImplementedError

    async def __aiter__(self) -> AsyncIterator[Array]:
        """Samples until the answer to "flush"."""
        while True:
            said = await self.receive()
            if not isinstance(said, dict):
                yield said
            elif said.get("type") == "flushed":
                return


class AsyncClient(Listener):
    """One stream of a server.

    Args:
        url: address of the server's websocket, default: ws://127.0.0.1:8765/stream.
        token: secret word that the server requires, default: none.
        hello: format of frames and samples, see docs/serve.md: `preset`, or `n_fft`, `hop_length` and
            `sample_rate`; `look_ahead`, `n_iter`, `window`, `dtype`, `format`, `output_rate`.

    Attributes:
        ready: answer of the server: slot, latency, hop_length, n_freq or n_mels, sample_rate, format.
        sample_type: dtype of the samples.
        latency: samples to drop at the beginning.

    Raises:
        ServerError: the server refuses the stream.
        ImportError: aiohttp is not installed.
    """

    def __init__(self, url: str = URL, *, token: str | None = None, **hello: Any) -> None:
        self._url, self._token, self._hello = url, token, hello
        self._dtype = np.dtype(_DTYPES.get(hello.get("dtype", "f32"), "<f4"))
        self._n_resets = 0  # number of unanswered resets
        self.ready: dict[str, Any] = {}

    async def __aenter__(self) -> AsyncClient:
        try:
            import aiohttp
        except ImportError as error:
            raise ImportError('The client needs aiohttp: pip install "rtspecinv[serve]"') from error
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else None
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession())
            connecting = session.ws_connect(self._url, headers=headers, max_msg_size=0)
            self._socket = await stack.enter_async_context(connecting)
            await self._socket.send_json(self._hello)
            first = await self.receive()
            if not isinstance(first, dict):
                raise ServerError("The server did not answer with JSON: is it rtspecinv serve?")
            self.ready, self._exit = first, stack.pop_all()
        self.sample_type = np.dtype(_SAMPLES[self.ready["format"]])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    @property
    def latency(self) -> int:
        """Samples to drop at the beginning."""
        return int(self.ready["latency"])

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended, so that nothing more is received."""
        return self._socket.closed

    async def push(self, frames: Any) -> None:
        """Send frames `(n_values,)` or `(n_frames, n_values)`; `receive` returns their hops."""
        await self._socket.send_bytes(np.ascontiguousarray(frames, self._dtype).tobytes())

    async def ask(self, kind: str, **more: Any) -> None:
        """Send "flush", "reset" or "marker"; `receive` returns the answer in order."""
        await self._socket.send_json({"type": kind, **more})

    async def reset(self) -> None:
        """Request silence at once: the client receives no more samples of frames that were sent before.

        `receive` returns the answer, {"type": "reset"}.
        """
        self._n_resets += 1
        await self.ask("reset")

    async def receive(self) -> Array | dict[str, Any]:
        """Return the next samples `(n_samples,)` or the next answer, such as {"type": "flushed"}.

        Raises:
            ServerError: the server answers with an error message.
            StreamClosed: the server has closed the stream.
        """
        import aiohttp

        message = await self._socket.receive()
        while message.type is aiohttp.WSMsgType.BINARY:
            if not self._n_resets:
                return np.frombuffer(message.data, self.sample_type)
            message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            said: dict[str, Any] = json.loads(message.data)
            if said.get("type") == "error":
                raise (StreamClosed if "code" in said else ServerError)(said["message"])
            self._n_resets -= said.get("type") == "reset" and self._n_resets > 0
            return said
        raise StreamClosed(f"The server has closed the stream (code {self._socket.close_code})")


class Client:
    """`AsyncClient` without `async`, with the same arguments: a thread of its own sends and receives.

    Attributes:
        ready, latency: as in `AsyncClient`.

    Raises:
        ServerError, ImportError: as in `AsyncClient`.
    """

    def __init__(self, url: str = URL, *, token: str | None = None, **hello: Any) -> None:
        self._client = AsyncClient(url, token=token, **hello)
        self._heard: queue.SimpleQueue[Array | dict[str, Any] | Exception] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="rtspecinv client")

    def __enter__(self) -> Client:
        self._thread.start()
        try:
            self._run(self._client.__aenter__())
        except BaseException:
            self._end()
            raise
        self._listener = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self._client.__aexit__(None, None, None))
            self._listener.result()
        finally:
            self._end()

    @property
    def ready(self) -> dict[str, Any]:
        """Answer of the server."""
        return self._client.ready

    @property
    def latency(self) -> int:
        """Samples to drop at the beginning."""
        return self._client.latency

    def push(self, frames: Any) -> None:
        """Send frames `(n_values,)` or `(n_frames, n_values)`; it waits while the server is busy."""
        self._run(self._client.push(frames))

    def ask(self, kind: str, **more: Any) -> None:
        """Send "flush", "reset" or "marker"."""
        self._run(self._client.ask(kind, **more))

    def reset(self) -> None:
        """Request silence at once: the client receives no more samples of frames that were sent before."""
        self._run(self._client.reset())
        while (said := self.receive()) is not None:
            if isinstance(said, dict) and said.get("type") == "reset":
                return

    def receive(self, timeout: float | None = None) -> Array | dict[str, Any]:
        """Return the next samples or answer, as `AsyncClient.receive`.

        Args:
            timeout: longest time to wait, seconds, default: no limit.

        Raises:
            queue.Empty: nothing arrived in time.
            ServerError: as in `AsyncClient.receive`.
        """
        said = self._heard.get(timeout=timeout)
        if isinstance(said, Exception):
            raise said
        return said

    def flush(self) -> Array:
        """Request the remaining samples, and return all samples not received yet."""
        self.ask("flush")
        return np.concatenate([np.zeros(0, self._client.sample_type), *self])

    def __iter__(self) -> Iterator[Array]:
        """Samples until the answer to "flush"."""
        while True:
            said = self.receive()
            if not isinstance(said, dict):
                yield said
            elif said.get("type") == "flushed":
                return

    async def _listen(self) -> None:
        while not self._client.is_closed:
            self._heard.put(await self._next())

    async def _next(self) -> Array | dict[str, Any] | Exception:
        try:
            return await self._client.receive()
        except Exception as error:
            return error

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
