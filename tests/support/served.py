"""Server in a separate process, and the expected samples of an inverter in this process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]
HELLO: dict[str, Any] = {"n_fft": 64, "hop_length": 16, "sample_rate": 8000, "n_iter": 2}


class Served:
    """A running server: its process and addresses."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.url, self.stream = process, f"http://{address}", f"ws://{address}/stream"

    def terminate(self) -> tuple[int, str]:
        """Send SIGTERM; return the exit status and the output after the first line."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        return self.process.wait(30), self.process.stderr.read()

    @property
    def memory(self) -> int:
        """Resident memory in bytes, as Linux reports it."""
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def served(*options: object, **limits: Any) -> Iterator[Served]:
    """Return a context with a server at a free port, run by the command line or with these limits."""
    program = ["-m", "rtspecinv", "serve", "--port", "0", *map(str, options)]
    if limits:
        program = [__file__, json.dumps(limits)]
    with subprocess.Popen([sys.executable, *program], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if address := re.search(r"http://(\S+)/;", line):
                    break
            else:
                raise AssertionError("".join(lines))
            yield Served(process, address[1])
        finally:
            if process.poll() is None:
                process.kill()


def inverter_of(hello: dict[str, Any]) -> Any:
    """Return an inverter for one stream with the settings of a first message."""
    import rtspecinv

    options = {name: hello[name] for name in ("look_ahead", "n_iter") if name in hello}
    if "preset" in hello:
        return rtspecinv.presets[hello["preset"]].inverter(**options)
    stft = rtspecinv.STFT(hello["n_fft"], hello["hop_length"], window=hello.get("window", "hann"))
    return rtspecinv.StreamingInverter(stft, **options)


def frames_of(hello: dict[str, Any], n_frames: int, seed: int) -> Array:
    """Return random frames `(n_frames, n_values)` in the format of a client."""
    import rtspecinv

    random = np.random.default_rng(seed)
    n_values = hello.get("n_fft", 0) // 2 + 1
    frames = random.random((n_frames, n_values), np.float32)
    if "preset" in hello:
        config = rtspecinv.presets[hello["preset"]].config
        frames = random.random((n_frames, config.n_mels), np.float32) - 2
    return frames.astype(np.float16 if hello.get("dtype") == "f16" else np.float32)


def own_samples(inverter: Any, frames: Array) -> Array:
    """Return the samples that an inverter returns for frames, without a flush."""
    hops = [inverter.push(torch.from_numpy(frame.astype(np.float32))).numpy() for frame in frames]
    return np.concatenate([np.zeros(0, np.float32), *hops])


def main() -> None:
    import asyncio

    from rtspecinv.serve import Limits, Server
    from rtspecinv.serve.process import serve_until_told

    server = Server(port=0, limits=Limits(**json.loads(sys.argv[1])))
    asyncio.run(serve_until_told(server, lambda line: print(line, file=sys.stderr, flush=True)))


if __name__ == "__main__":
    main()
