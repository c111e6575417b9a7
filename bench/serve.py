"""Measures `rtspecinv serve` with clients in a separate process; see bench/README.md.

python bench/serve.py            prints the tables
python bench/serve.py --write    also writes them into bench/README.md
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crowd import PERIOD
from page import named, run
from tables import Bench, table

SECONDS = 10.0
STREAMS = (1, 16, 32, 64)
ASKED, GRANTED = 200, 32
N_RUNS = 3
CROWD = Path(__file__).with_name("crowd.py")


def serve_streams(bench: Bench) -> str:
    """Delay of hops by number of streams of one server.

    The clients run in their own process. Each sends a frame of 1024/256 at 22.05 kHz every 11.6 ms,
    starting at a random time, with look_ahead 3 and 8 iterations, as float32 in both directions, through
    the loopback. Times are in ms, from just before a frame is sent until its hop has arrived, in the run
    with the smallest p99 of 3 runs of 10 s, each after 1 s of warm-up. "Late" is the share of hops that
    took longer than the duration of a hop. "Core" is the processor time of the server. "Load" is the load
    of the machine over the last minute, including server and clients. Targets are: with 32 streams, p99
    under 11.6, no lost hops and less than 60 % of a core; with 64 streams, p99 under 23.2.
    """
    rows = []
    for n_streams in STREAMS:
        best = min((measure(n_streams, 64) for _ in range(N_RUNS)), key=lambda found: found["p99"])
        rows.append([str(n_streams), *cells(best)])
    return table(["streams", *COLUMNS], rows)


def serve_overload(bench: Bench) -> str:
    """More clients than a server accepts.

    200 clients connect at once to a server with --streams 32; all else is as in the table above. The server
    rejects the remaining clients with close code 1013 and an error message.
    """
    best = min((measure(ASKED, GRANTED) for _ in range(N_RUNS)), key=lambda found: found["p99"])
    row = [str(best["admitted"]), str(best["refused"]), *cells(best)]
    return f'{table(["admitted", "refused", *COLUMNS], [row])}\n\nError message: "{best["sentence"]}".'


COLUMNS = ["p50 ms", "p95 ms", "p99 ms", "longest ms", "late", "lost", "core", "load"]


def cells(found: dict[str, Any]) -> list[str]:
    times = [f"{found[name]:.1f}" for name in ("p50", "p95", "p99", "max")]
    lost = str(found["sent"] - found["back"])
    return [*times, f"{found['late']:.2%}", lost, f"{found['core']:.0%}", f"{found['load']:.1f}"]


def measure(n_clients: int, n_streams: int) -> dict[str, Any]:
    """Return the measurements of the clients, the server's share of a core, and the load."""
    with server(n_streams) as (process, url):
        before = cpu_seconds(process.pid)
        command = [sys.executable, str(CROWD), url, str(n_clients), str(SECONDS)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        seconds = found["sent"] / max(1, found["admitted"]) * PERIOD
        found["core"] = (cpu_seconds(process.pid) - before) / seconds
        found["load"] = os.getloadavg()[0]
    return found


@contextmanager
def server(n_streams: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Return a context with the process of a server and the address of its streams."""
    command = [sys.executable, "-m", "rtspecinv", "serve", "--port", "0", "--streams", str(n_streams)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if address := re.search(r"http://(\S+)/;", line):
                    break
            else:
                raise SystemExit("The server did not start.")
            yield process, f"ws://{address[1]}/stream"
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process in seconds, as Linux reports it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(
        run(__doc__ or "", named(serve_streams, serve_overload), "serve-streams,serve-overload", "serve")
    )
