"""Limits on the requests of clients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from rtspecinv.common.checks import count, finite, keep


@dataclass(frozen=True)
class Limits:
    """Limits on the requests of each client and of all clients together.

    Args:
        streams: largest number of clients at once, default: 64.
        kinds: largest number of combinations of transform, look-ahead and iterations at once, default: 8.
        queue: largest number of waiting frames of a stream, default: 8; while so many frames wait, the server
            does not read the client's socket.
        message: largest size of a message, bytes, default: 1 MiB.
        hello_seconds: longest time until the first message of a client, seconds, default: 10.
        idle_seconds: longest time without a message of a client, seconds, default: 300.
        stall_seconds: longest time in which a client accepts no data, seconds, default: 30.
        drain_seconds: longest time for streams to end after SIGTERM, seconds, default: 5.
        gather_seconds: time that a frame waits for frames of other streams if more than 8 streams of its kind
            are open, seconds, default: 0.001; frames that are pushed together take less time each.
        look_ahead: longest look-ahead, frames, default: 16.
        n_iter: largest number of iterations per frame, default: 64.

    Raises:
        ValueError: a parameter is out of range.
    """

    streams: int = 64
    kinds: int = 8
    queue: int = 8
    message: int = 2**20
    hello_seconds: float = 10.0
    idle_seconds: float = 300.0
    stall_seconds: float = 30.0
    drain_seconds: float = 5.0
    gather_seconds: float = 0.001
    look_ahead: int = 16
    n_iter: int = 64

    def __post_init__(self) -> None:
        keep(self, partial(count, 1), "streams", "kinds", "queue", "message")
        keep(self, partial(count, 0), "look_ahead", "n_iter")
        seconds = ("hello_seconds", "idle_seconds", "stall_seconds", "drain_seconds")
        keep(self, partial(finite, 0, above=True), *seconds)
        keep(self, partial(finite, 0), "gather_seconds")
