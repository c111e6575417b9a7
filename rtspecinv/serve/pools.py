"""Pools of streams, one for each kind of stream that clients request."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

from rtspecinv.live.pool import AT_ONCE, PooledStream, Receive, Refuse, StreamPool
from rtspecinv.serve.limits import Limits
from rtspecinv.serve.protocol import MOST_WORK, Kind


class Turns:
    """Calls `work` of a pool in an event loop until the pool has no more work; other callbacks come between.

    loop, thread: event loop, and the number of its thread.

    The attribute `work` must be set before the first `ask`.
    """

    work: Callable[[], bool]

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        self._loop, self._thread = loop, thread
        self._is_asked = False

    def ask(self) -> None:
        """Have `work` called soon; any thread may call it."""
        if not self._is_asked:
            self._is_asked = True
            is_here = threading.get_ident() == self._thread
            (self._loop.call_soon if is_here else self._loop.call_soon_threadsafe)(self._turn)

    def _turn(self) -> None:
        self._is_asked = False
        if self.work():
            self.ask()


class Pools:
    """Creates a pool for each requested kind of stream; closes an empty one if a new kind needs its place.

    limits: limits on the numbers of kinds, streams and waiting frames.
    observe: function that is called after each push with the number of streams and the seconds of work.

    The pools work in the running event loop: a hop then needs no handover between threads. Any thread may
    call the methods.
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
        turns = Turns(self._loop, self._thread)
        pool = StreamPool(
            kind.inverter(self._limits.streams),
            max_frames=self._limits.queue,
            at_once=max(1, min(AT_ONCE, MOST_WORK // kind.work)),
            wake=turns.ask,
            observe=self._observe,
        )
        turns.work = pool.work
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
                f"The server has {self._limits.kinds} kinds of streams already: come later, or ask for one "
                "of those"
            )

    def close(self) -> None:
        """Close all pools."""
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()
