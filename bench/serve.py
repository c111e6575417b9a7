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
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from crowd import HELLO, PERIOD
from page import named, run
from tables import Bench, table

from rtspecinv import STFT, StreamingInverter, StreamPool

SECONDS = 10.0
STREAMS = (1, 16, 32, 64)
ASKED, GRANTED = 200, 32
N_RUNS = 3
CROWD = Path(__file__).with_name("crowd.py")
ECHO = (sys.executable, str(Path(__file__).with_name("echo.py")))


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


def serve_budget(bench: Bench) -> str:
    """Processor time of a frame in a server with 32 streams, by part.

    Times are in us per frame. "Server" is the smallest of 3 runs as above. "Sockets" is the same for a server
    that answers each frame with zeros (bench/echo.py). The parts of a push are the smallest times in a loop
    in one thread, with as many frames per push as the server had on average. "Rest" is the time of the server
    without these parts: sessions, metrics, turns of the event loop, and caches that have been emptied between
    pushes. The target, 60 % of a core, is 218 us.
    """
    whole = least_time(measure(32, 64) for _ in range(N_RUNS))
    sockets = least_time(measure(32, 64, ECHO) for _ in range(N_RUNS))
    n_pushed = max(1, round(whole["back"] / whole["pushes"]))
    kernel, push, pool = push_times(n_pushed)
    rows = {
        "sockets: read, parse, send": sockets["us"],
        "push: kernel": kernel,
        f"push of {n_pushed} frames: checks, selection of streams, call of the kernel": push - kernel,
        "pool: copy of the frame, queue, array of frames, delivery": pool - push,
        "rest": whole["us"] - sockets["us"] - pool,
        "server": whole["us"],
    }
    return table(["part", "us"], [[part, f"{us:.0f}"] for part, us in rows.items()])


COLUMNS = ["p50 ms", "p95 ms", "p99 ms", "longest ms", "late", "lost", "core", "load"]


def cells(found: dict[str, Any]) -> list[str]:
    times = [f"{found[name]:.1f}" for name in ("p50", "p95", "p99", "max")]
    lost = str(found["sent"] - found["back"])
    return [*times, f"{found['late']:.2%}", lost, f"{found['core']:.0%}", f"{found['load']:.1f}"]


def least_time(runs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the run with the smallest processor time of a frame."""
    return min(runs, key=lambda found: found["us"])


def push_times(n_pushed: int) -> tuple[float, float, float]:
    """Return the microseconds per frame of a push of 32 streams, of a push of some, and through a pool."""
    stft = STFT(HELLO["n_fft"], HELLO["hop_length"])
    inverter = StreamingInverter(
        stft, look_ahead=HELLO["look_ahead"], n_iter=HELLO["n_iter"], batch_shape=(32,)
    )
    frames = np.abs(np.random.default_rng(1).standard_normal((32, stft.n_freq))).astype(np.float32)
    some = list(range(0, 32, max(1, 32 // n_pushed)))[:n_pushed]
    pool = StreamPool(inverter, wake=lambda: None)
    streams = [pool.join(lambda hop: None, refuse=lambda error: None) for _ in range(32)]

    def through_pool() -> None:
        for stream in some:
            streams[stream].push(frames[stream])
        pool.work()

    while pool.work():
        pass
    for _ in range(50):
        inverter.push(frames)  # until the windows are those of a full buffer
    return (
        least_us(lambda: inverter.push(frames)) / 32,
        least_us(lambda: inverter.push(frames[: len(some)], streams=some)) / len(some),
        least_us(through_pool) / len(some),
    )


def least_us(function: Callable[[], object]) -> float:
    """Return the smallest duration of a call, in microseconds."""
    times = []
    for _ in range(500):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return 1e6 * min(times)


def measure(n_clients: int, n_streams: int, command: Sequence[str] = ()) -> dict[str, Any]:
    """Return the measurements of the clients, the processor time of the server, and the load.

    command: command that starts another server, default: `rtspecinv serve`.
    """
    with server(n_streams, command) as (process, url):
        before = cpu_seconds(process.pid)
        crowd = [sys.executable, str(CROWD), url, str(n_clients), str(SECONDS)]
        done = subprocess.run(crowd, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        seconds = found["sent"] / max(1, found["admitted"]) * PERIOD
        used = cpu_seconds(process.pid) - before
        found["core"], found["us"] = used / seconds, 1e6 * used / found["sent"]
        if not command:
            found["pushes"] = pushes(url)
        found["load"] = os.getloadavg()[0]
    return found


@contextmanager
def server(n_streams: int, command: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Return a context with the process of a server and the address of its streams."""
    usual = [sys.executable, "-m", "rtspecinv", "serve", "--port", "0", "--streams", str(n_streams)]
    with subprocess.Popen(command or usual, stderr=subprocess.PIPE, text=True) as process:
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


def pushes(url: str) -> float:
    """Return the number of pushes of a server."""
    with urllib.request.urlopen(url.replace("ws://", "http://").replace("/stream", "/metrics")) as answer:
        found = re.search(r"^rtspecinv_push_seconds_count (\S+)", answer.read().decode(), re.M)
    assert found is not None
    return float(found[1])


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process in seconds, as Linux reports it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sections = named(serve_streams, serve_overload, serve_budget)
    sys.exit(run(__doc__ or "", sections, ",".join(sections), "serve"))
