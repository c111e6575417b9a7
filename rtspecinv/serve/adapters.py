"""Encodings of the messages for clients of two other servers: MessagePack and OpenAI's Realtime events."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from rtspecinv.serve.protocol import Message, Said, read_object


class MessagePack:
    """Encodes messages in MessagePack like those of moshi-server: {"type": "Audio", "pcm": [floats]}.

    A client sends Init with the keys of the native first message, Frames with `data`, Flush, Reset and
    Marker. The server sends Ready, Audio, Flushed, Reset, Marker and Error.
    """

    def __init__(self) -> None:
        try:
            import msgpack
        except ImportError as error:
            raise ImportError('MessagePack needs msgpack: pip install "rtspecinv[serve]"') from error
        self._pack, self._unpack = msgpack.packb, msgpack.unpackb

    def read(self, message: Message) -> Said:
        """Return the decoded message of a client."""
        try:
            said = self._unpack(message) if isinstance(message, bytes) else None
        except Exception as error:  # msgpack has no common class for its errors
            raise ValueError(f"The message is not MessagePack: {error}") from error
        if not isinstance(said, dict) or not isinstance(said.get("type"), str):
            raise ValueError('The message is not a map of MessagePack with a type, such as {"type": "Flush"}')
        if said["type"] == "Frames":
            return _bytes(said.get("data"))
        if said.get("format", "f32") != "f32":
            raise ValueError("This protocol returns samples as a list of floats: leave out the format")
        return {**said, "type": said["type"].lower()}

    def write(self, said: Said) -> Message:
        """Return the encoded message of the server."""
        if isinstance(said, bytes):
            said = {"type": "audio", "pcm": np.frombuffer(said, "<f4").tolist()}
        packed: bytes = self._pack({**said, "type": said["type"].capitalize()})
        return packed


class Realtime:
    """Encodes messages as events like those of OpenAI's Realtime API: JSON, with frames and PCM16 in base64.

    A client sends session.update, input_audio_buffer.append with frames as `audio`,
    input_audio_buffer.commit to flush, and input_audio_buffer.clear or response.cancel to reset. The server
    sends session.updated, response.output_audio.delta, response.done and error.
    """

    def read(self, message: Message) -> Said:
        """Return the decoded event of a client."""
        event = read_object(message if isinstance(message, str) else "")
        match event.get("type"):
            case "session.update":
                session = event.get("session")
                hello = {"format": "s16", **(session if isinstance(session, dict) else {})}
                return {**hello, "type": "session.update"}
            case "input_audio_buffer.append":
                try:
                    return base64.b64decode(event.get("audio", ""), validate=True)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"The frames are not base64: {error}") from error
            case "input_audio_buffer.commit":
                return {"type": "flush"}
            case "input_audio_buffer.clear" | "response.cancel":
                return {"type": "reset"}
        return event

    def write(self, said: Said) -> Message:
        """Return the encoded event of the server."""
        if isinstance(said, bytes):
            return _event("response.output_audio.delta", delta=base64.b64encode(said).decode())
        match said["type"]:
            case "ready":
                return _event("session.updated", session={**said, "type": "realtime"})
            case "flushed":
                return _event("response.done", response={"status": "completed"})
            case "reset":
                return _event("response.done", response={"status": "cancelled"})
            case "error":
                error = {"type": "invalid_request_error", "message": said["message"]}
                return _event("error", error=error)
        return json.dumps(said)


def _event(kind: str, **more: Any) -> str:
    return json.dumps({"type": kind, **more})


def _bytes(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise ValueError(f"The frames are a {type(data).__name__}, not bytes")
    return data
