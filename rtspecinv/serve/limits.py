"""What one client may ask of a server."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from rtspecinv.common.checks import count, finite, keep


@dataclass(frozen=True)
class Limits:
    """Bounds on what clients may ask for, all of them together and each.

    Args:
        streams: most clients at once, default: 64.
        kinds: most transforms with a look-ahead and a number of iterations at once, default: 8.
        queue: most frames of a stream that wait, beyond which its socket is not read, default: 8.
        message: longest message, bytes, default: 1 MiB.
        hello_seconds: longest time until a client says what it sends, default: 10.
        idle_seconds: longest time without a message of a client, default: 300.
        stall_seconds: longest time in which a client does not take what it is sent, default: 30.
        drain_seconds: longest time in which streams end after SIGTERM, default: 5.
        look_ahead: most frames of look-ahead, default: 16.
        n_iter: most iterations for each frame, default: 64.

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
    look_ahead: int = 16
    n_iter: int = 64

    def __post_init__(self) -> None:
        keep(self, partial(count, 1), "streams", "kinds", "queue", "message")
        keep(self, partial(count, 0), "look_ahead", "n_iter")
        seconds = ("hello_seconds", "idle_seconds", "stall_seconds", "drain_seconds")
        keep(self, partial(finite, 0, above=True), *seconds)
