"""Pools of streams, one for each kind of stream that clients request."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

from rtspecinv.live.pool import AT_ONCE, PooledStream, Receive, Refuse, StreamPool
from rtspecinv.serve.limits import Limits
from rtspecinv.serve.protocol import MOST_WORK, Kind

QUICK = 2**22  # values that a flush computes, about 5 ms; with more, a pool has a thread of its own
FEW = 8  # streams; with so few, hardly any frame of another stream comes within `gather_seconds`


class Turns:
    """Calls `work` of a pool in an event loop until the pool has no more work; other callbacks come between.

    loop, thread: event loop, and the number of its thread.
    gather_seconds: time between `ask` and the call if the pool has more than `FEW` streams, seconds.

    The attribute `pool` must be set before the first `ask`.
    """

    pool: StreamPool

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: int, gather_seconds: float) -> None:
        self._loop, self._thread, self._gather_seconds = loop, thread, gather_seconds
        self._is_asked = False

    def ask(self) -> None:
        """Have `work` called soon; any thread may call it."""
        if self._is_asked:
            return
        self._is_asked = True
        if threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self._turn)
        elif len(self.pool) > FEW:
            self._loop.call_later(self._gather_seconds, self._turn)
        else:
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_asked = False  # before the work, as another thread may ask meanwhile
        if self.pool.work() and not self._is_asked:
            self._is_asked = True
            self._loop.call_soon(self._turn)


class Pools:
    """Creates a pool for each requested kind of stream; closes an empty one if a new kind needs its place.

    limits: limits on the numbers of kinds, streams and waiting frames.
    observe: function that is called after each push with the number of streams and the seconds of work.

    Pools whose pushes and flushes are quick work in the running event loop: their hops need no handover
    between threads. Other pools have threads of their own, so that no client of another kind waits for them.
    Any thread may call the methods.
    """

    def __init__(self, limits: Limits, observe: Callable[[int, float], object]) -> None:
        self._limits, self._observe = limits, observe
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._pools: dict[Kind, StreamPool] = {}
        self._lock = threading.Lock()

    def join(self, kind: Kind, receive: Receive, refuse: Refuse | None = None) -> PooledStream:
        """Return a stream of a kind; for `receive` and `refuse` see `StreamPool.join`.

        Raises:
            queue.Full: there are too many kinds of streams, or all streams of this kind are in use.
        """
        with self._lock:
            pool = self._pools.get(kind)
            if pool is None or pool.failure is not None:
                self._make_room()
                pool = self._pools[kind] = self._make(kind)
            return pool.join(receive, refuse=refuse)

    def _make(self, kind: Kind) -> StreamPool:
        inverter = kind.inverter(self._limits.streams)
        turns = Turns(self._loop, self._thread, self._limits.gather_seconds)
        is_quick = inverter.engine == "numba" and kind.work * kind.n_open <= QUICK
        turns.pool = pool = StreamPool(
            inverter,
            max_frames=self._limits.queue,
            at_once=max(1, min(AT_ONCE, MOST_WORK // kind.work)),
            wake=turns.ask if is_quick else None,
            observe=self._observe,
        )
        return pool

    def _make_room(self) -> None:
        """Close the pools that have failed or, if there are too many, an empty one.

        Raises `queue.Full` if there are still too many.
        """
        failed = [kind for kind, pool in self._pools.items() if pool.failure is not None]
        empty = [kind for kind, pool in self._pools.items() if not len(pool)]
        over = len(self._pools) - len(failed) >= self._limits.kinds
        for kind in failed or (empty[:1] if over else []):
            self._pools.pop(kind).close()
        if len(self._pools) >= self._limits.kinds:
            raise queue.Full(
                f"The server has {self._limits.kinds} kinds of streams already: try again later, or request "
                "one of those"
            )

    def close(self) -> None:
        """Close all pools."""
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()
