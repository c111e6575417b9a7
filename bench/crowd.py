"""Clients of a server, each of which sends a frame per hop; bench/serve.py runs this program.

python bench/crowd.py URL CLIENTS SECONDS    prints numbers of clients and frames, and delays, as JSON
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

import numpy as np

from rtspecinv.client import AsyncClient, ServerError

HELLO: dict[str, Any] = {
    "n_fft": 1024,
    "hop_length": 256,
    "sample_rate": 22050,
    "look_ahead": 3,
    "n_iter": 8,
}
PERIOD = HELLO["hop_length"] / HELLO["sample_rate"]
WARM_UP = 1.0  # seconds before delays are counted
N_FRAMES = 64  # number of different frames


class Crowd:
    """Clients that start at the same moment, and their measurements: delays, rejections, frames."""

    def __init__(self, url: str, n_clients: int, seconds: float) -> None:
        self.url, self.n_clients, self.seconds = url, n_clients, seconds
        self.waits: list[float] = []  # seconds from sending a frame until its hop arrives
        self.refusals: list[str] = []
        self.n_sent = self.n_back = 0
        self.frames = np.abs(np.random.default_rng(1).standard_normal((N_FRAMES, 513))).astype(np.float32)

    async def run(self) -> dict[str, Any]:
        begun = asyncio.Event()
        clients = [asyncio.ensure_future(self._live(begun)) for _ in range(self.n_clients)]
        while len(self.refusals) + self._n_ready < self.n_clients:
            await asyncio.sleep(0.05)
        self._begin = time.perf_counter() + 0.2
        begun.set()
        await asyncio.gather(*clients)
        waits = 1000 * np.array(self.waits or [np.nan])
        p50, p95, p99 = np.percentile(waits, [50, 95, 99])
        return {
            "admitted": self._n_ready,
            "refused": len(self.refusals),
            "sentence": max(set(self.refusals), key=self.refusals.count, default=""),
            "sent": self.n_sent,
            "back": self.n_back,
            "p50": p50,
            "p95": p95,
            "p99": p99,
            "max": waits.max(),
            "late": float((waits > 1000 * PERIOD).mean()),
        }

    _n_ready = 0

    async def _live(self, begun: asyncio.Event) -> None:
        try:
            async with AsyncClient(self.url, **HELLO) as client:
                self._n_ready += 1
                await begun.wait()
                await self._stream(client)
        except (ServerError, OSError) as error:
            self.refusals.append(str(error))

    async def _stream(self, client: AsyncClient) -> None:
        out: list[float] = []
        listener = asyncio.ensure_future(self._listen(client, out))
        phase = self._begin + random.random() * PERIOD
        for k in range(int((WARM_UP + self.seconds) / PERIOD)):
            await asyncio.sleep(phase + k * PERIOD - time.perf_counter())
            out.append(time.perf_counter())
            await client.push(self.frames[k % N_FRAMES])
        await client.ask("flush")
        self.n_sent += len(out)
        n_back = await asyncio.wait_for(listener, 60)
        self.n_back += n_back

    async def _listen(self, client: AsyncClient, out: list[float]) -> int:
        n_back, counted = 0, int(WARM_UP / PERIOD)
        async for hop in client:
            if len(hop) == HELLO["hop_length"] and n_back < len(out):  # flushes have other lengths
                if n_back >= counted:
                    self.waits.append(time.perf_counter() - out[n_back])
                n_back += 1
        return n_back


def main() -> None:
    url, n_clients, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    crowd = Crowd(url, n_clients, seconds).run
    try:
        import uvloop
    except ImportError:
        print(json.dumps(asyncio.run(crowd())))
    else:
        print(json.dumps(uvloop.run(crowd())))


if __name__ == "__main__":
    main()
