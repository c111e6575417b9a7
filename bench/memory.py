"""Pushes a million frames and prints how the memory of the process grows.

python bench/memory.py [--pushes 1000000] [--engine auto]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import rtspecinv


def resident_mib() -> float:
    """Return the resident memory of this process in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pushes", type=int, default=1_000_000)
    parser.add_argument("--engine", default="auto")
    arguments = parser.parse_args()
    n_pushes = arguments.pushes
    torch.set_num_threads(1)
    stft = rtspecinv.STFT(64, 16)
    inverter = rtspecinv.StreamingInverter(stft, n_iter=1, engine=arguments.engine)
    magnitude = stft.magnitude(0.1 * torch.randn(16 * 1000))
    begin = time.perf_counter()
    for n in range(n_pushes + 1):
        if n % (n_pushes // 10) == 0:
            print(
                f"{n:9d} pushes  {resident_mib():8.1f} MiB  {time.perf_counter() - begin:6.0f} s", flush=True
            )
        inverter.push(magnitude[:, n % 1000])


if __name__ == "__main__":
    main()
