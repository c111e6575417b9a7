"""Pools of streams, one for each kind of stream that clients request."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from rtspecinv.live.pool import PooledStream, Receive, Refuse, StreamPool
from rtspecinv.serve.limits import Limits
from rtspecinv.serve.protocol import Kind


class Pools:
    """Creates a pool for each requested kind of stream; closes an empty one if a new kind needs its place.

    limits: limits on the numbers of kinds, streams and waiting frames.
    observe: function that is called after each push with the number of streams and the seconds of work.

    Any thread may call the methods.
    """

    def __init__(self, limits: Limits, observe: Callable[[int, float], object]) -> None:
        self._limits, self._observe = limits, observe
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
                limits = self._limits
                inverter = kind.inverter(limits.streams)
                pool = StreamPool(inverter, max_frames=limits.queue, observe=self._observe)
                self._pools[kind] = pool
            return pool.join(receive, refuse=refuse)

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
