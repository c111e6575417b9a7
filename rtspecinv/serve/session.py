"""Session of one client of a server: reads its messages and sends its hops, in order, within the limits."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from rtspecinv.common.checks import shown
from rtspecinv.live.pool import PooledStream
from rtspecinv.serve.limits import Limits
from rtspecinv.serve.metrics import Metrics
from rtspecinv.serve.pools import Pools
from rtspecinv.serve.protocol import Array, Codec, Hello, Said, Sound, frames_of, hello_of

ERRORS = (ValueError, TypeError, OverflowError, ImportError, MemoryError)
_HOP, _REFUSED, _OWED, _TEXT, _RESET, _END = "hop", "refused", "owed", "text", "reset", "end"
_ENDING = "the server is ending: try again later"
_LONGEST_REASON = 123  # bytes of the reason in a close frame
_OF_FRAMES = (_HOP, _REFUSED, _OWED)  # messages that a reset drops
Item = tuple[str, Any]


class Session:
    """Reads the messages of a client, pushes its frames to a stream, and sends the hops and answers.

    A frame waits from the time when it was read until its hop has been sent. While `limits.queue` frames and
    answers wait, the session reads no message: a client that sends too fast, or accepts no data, must then
    wait before it can send more.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse,
        codec: Codec,
        pools: Pools,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self.heard = self.sent = time.monotonic()  # time of the last message from, and to, the client
        self.sending_since: float | None = None
        self._socket, self._codec, self._pools = socket, codec, pools
        self._limits, self._metrics = limits, metrics
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._out: deque[Item] = deque()
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._arrivals: deque[float] = deque()  # times of arrival of the frames that wait
        self._n_texts = 0  # number of pending answers other than hops
        self._n_resets = 0  # number of unanswered resets; hops that arrive meanwhile are of earlier frames
        self._is_receiving = self._is_ending = self._is_flushing = False
        self._owes = False  # whether samples remain of frames that came since the last reset or flush
        self._reader: asyncio.Task[Any] | None = None
        self._stream: PooledStream | None = None

    @property
    def n_waiting(self) -> int:
        """Number of frames whose hop has not been sent."""
        return len(self._arrivals)

    async def run(self) -> None:
        """Serve the client until it leaves or the server ends."""
        self._reader = beginning = asyncio.ensure_future(self._begin())
        try:
            await asyncio.wait({beginning})
        finally:
            beginning.cancel()
        if beginning.cancelled():
            await self.close(WSCloseCode.GOING_AWAY, _ENDING)
        elif (begun := beginning.result()) is not None:
            stream, ready = begun
            self._stream = stream
            try:
                await self._send(ready)
                await self._serve(stream)
            finally:
                stream.leave()

    @property
    def failure(self) -> BaseException | None:
        """Exception that ended the client's stream; None if there is none."""
        return None if self._stream is None else self._stream.failure

    def drain(self) -> None:
        """Read no further message, and end the session when all hops and answers have been sent."""
        self._is_ending = True
        if self._is_receiving and self._reader is not None:
            self._reader.cancel()

    async def close(self, code: int, reason: str) -> None:
        """Send an error message with the reason, and close the socket."""
        with suppress(ConnectionError, RuntimeError):
            await self._send({"type": "error", "message": reason, "code": int(code)})
        short = reason.encode()[:_LONGEST_REASON].decode(errors="ignore")  # without incomplete characters
        await self._socket.close(code=code, message=short.encode())

    # Input.

    async def _begin(self) -> tuple[PooledStream, dict[str, Any]] | None:
        """Wait for a valid first message; return the client's stream and the answer, None if it has left."""
        seconds = self._limits.hello_seconds
        give_up = time.monotonic() + seconds
        while not self._is_ending:
            try:
                message = await asyncio.wait_for(self._receive(), give_up - time.monotonic())
            except asyncio.TimeoutError:
                reason = f"no first message came within {seconds:g} seconds"
                await self.close(WSCloseCode.POLICY_VIOLATION, reason)
                return None
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return None
            try:
                said = self._codec.read(message.data)
                if isinstance(said, bytes):
                    raise ValueError(
                        'The first message is not the JSON text {"preset": ...} or {"n_fft": ...}'
                    )
                return await self._loop.run_in_executor(None, self._join, said)
            except ERRORS as error:
                await self._send(self._error(error))
            except queue.Full as error:
                self._metrics.refused.inc()
                await self.close(WSCloseCode.TRY_AGAIN_LATER, str(error))
                return None
        raise asyncio.CancelledError

    def _join(self, said: dict[str, Any]) -> tuple[PooledStream, dict[str, Any]]:
        """Return a stream for a client's first message, and the answer.

        It runs in another thread than the event loop, because it may have to compile code.
        """
        self._hello = hello = hello_of(said, self._limits)
        self._sound = Sound(hello)
        stream = self._pools.join(hello.kind, self._hear, self._refuse)
        size = "n_mels" if hello.kind.preset is not None else "n_freq"
        ratio = hello.output_rate / hello.sample_rate
        return stream, {
            "type": "ready",
            "slot": stream.position,
            "latency": self._sound.delay + round(stream.latency * ratio),
            "hop_length": hello.kind.hop_length,
            size: hello.n_values,
            "sample_rate": hello.output_rate,
            "format": hello.format,
        }

    _hello: Hello
    _sound: Sound

    async def _serve(self, stream: PooledStream) -> None:
        self._reader = asyncio.ensure_future(self._read(stream))
        writer = asyncio.ensure_future(self._write())
        tasks = {self._reader, writer}
        code, reason = WSCloseCode.OK, ""
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._is_ending and not writer.done():
                if self._owes:
                    self._flush(stream)
                stream.call(partial(self._put, _END))
                await asyncio.wait({writer}, timeout=self._limits.drain_seconds)
                code, reason = WSCloseCode.GOING_AWAY, _ENDING
        except RuntimeError as error:  # the pool has ended
            code, reason = WSCloseCode.INTERNAL_ERROR, str(error)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, RuntimeError) and not self._socket.closed:
                code, reason = WSCloseCode.INTERNAL_ERROR, str(result)
            elif isinstance(result, Exception) and not isinstance(result, ConnectionError):
                raise result
        await self.close(code, reason) if reason else await self._socket.close(code=code)

    async def _receive(self) -> WSMessage:
        """Return the next message of the client; `drain` cancels the wait for it."""
        self._is_receiving = True
        message = await self._socket.receive()
        self._is_receiving = False
        self.heard = time.monotonic()
        return message

    async def _read(self, stream: PooledStream) -> None:
        """Read and execute messages until the client leaves or the session drains."""
        while not self._is_ending:
            message = await self._receive()
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            try:
                said = self._codec.read(message.data)
                if isinstance(said, bytes):
                    await self._push(stream, frames_of(said, self._hello))
                else:
                    await self._obey(stream, said)
            except ERRORS as error:
                await self._wait_for_room()
                self._answer(stream, self._error(error))

    async def _push(self, stream: PooledStream, frames: Array) -> None:
        for frame in frames:
            await self._wait_for_room()
            stream.push(frame)
            self._metrics.frames.inc()
            self._owes = True
            self._arrivals.append(time.monotonic())

    async def _obey(self, stream: PooledStream, said: dict[str, Any]) -> None:
        await self._wait_for_room()
        match said.get("type"):
            case "flush":
                self._flush(stream)
            case "reset":
                self._reset(stream)
            case "marker":
                self._answer(stream, {"type": "marker", "id": said.get("id")})
            case other:
                raise ValueError(
                    f'A message of type {shown(other)} is not known: send "flush", "reset", "marker", or '
                    "frames"
                )

    async def _wait_for_room(self) -> None:
        while len(self._arrivals) + self._n_texts >= self._limits.queue:
            self._room.clear()
            await self._room.wait()

    def _flush(self, stream: PooledStream) -> None:
        self._owes = False
        stream.call(self._begin_flush)
        stream.flush()
        stream.call(self._end_flush)
        self._answer(stream, {"type": "flushed"})

    def _reset(self, stream: PooledStream) -> None:
        stream.reset()
        self._owes = False
        self._n_resets += 1
        self._n_texts += 1
        self._out = deque(item for item in self._out if item[0] not in _OF_FRAMES)
        self._arrivals.clear()
        stream.call(self._end_reset)

    def _answer(self, stream: PooledStream, said: dict[str, Any]) -> None:
        """Queue an answer that is sent after the hops and answers of all earlier messages."""
        self._n_texts += 1
        stream.call(partial(self._put, _TEXT, said))

    def _error(self, error: BaseException) -> dict[str, Any]:
        self._metrics.errors.inc()
        return {"type": "error", "message": str(error)}

    # Called by the pool in the event loop or in the pool's thread, in the order of the requests.

    def _hear(self, samples: Array) -> None:
        if self._is_flushing:
            self._is_flushing = False
            self._put(_OWED, self._sound.flush(samples))
        else:
            self._put(_HOP, self._sound.push(samples))

    def _refuse(self, error: Exception) -> None:
        self._put(_REFUSED, self._error(error))

    def _begin_flush(self) -> None:
        self._is_flushing = True

    def _end_flush(self) -> None:
        if self._is_flushing:  # the inverter had no remaining samples
            self._hear(np.zeros(0, np.float32))

    def _end_reset(self) -> None:
        self._sound.reset()
        self._put(_RESET)

    def _put(self, kind: str, value: Any = None) -> None:
        if threading.get_ident() == self._thread:
            self._take(kind, value)
        else:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._take, kind, value)

    # Output.

    def _take(self, kind: str, value: Any) -> None:
        """Queue something for sending; after a reset, items of earlier frames are dropped."""
        if kind is _RESET:
            self._n_resets -= 1
        elif self._n_resets and kind in _OF_FRAMES:
            return
        self._out.append((kind, value))
        self._news.set()

    async def _write(self) -> None:
        """Send the queued hops and answers until the end item."""
        late_seconds = self._hello.kind.hop_length / self._hello.sample_rate
        while True:
            while not self._out:
                self._news.clear()
                await self._news.wait()
            kind, value = self._out.popleft()
            if kind is _END:
                return
            if kind is _HOP:
                late = time.monotonic() - self._arrivals.popleft() > late_seconds
                await self._send(value)
                self._metrics.hops.inc()
                if late:
                    self._metrics.late.inc()
            elif kind is _REFUSED:
                self._arrivals.popleft()
                await self._send(value)
            elif kind is _OWED:
                if value:
                    await self._send(value)
            else:
                await self._send({"type": "reset"} if kind is _RESET else value)
                self._n_texts -= 1
            self._room.set()

    async def _send(self, said: Said) -> None:
        self.sending_since = time.monotonic()
        message = self._codec.write(said)
        if isinstance(message, bytes):
            await self._socket.send_bytes(message)
        else:
            await self._socket.send_str(message)
        self.sending_since, self.sent = None, time.monotonic()
