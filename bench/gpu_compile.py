"""Compiles the kernel of `cuda` for an H100 (sm_90) by NVRTC and prints its resources, on any machine.

python bench/gpu_compile.py    needs the extra `gpu` and nvidia-cuda-nvdisasm
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

import sass

# n_fft, hop, look-ahead, whether a stream is a cluster of blocks.
SIZES = (
    *((1024, 256, 3, False), (1024, 256, 3, True), (1024, 256, 0, False), (512, 128, 3, False)),
    *((2048, 512, 3, False), (2048, 512, 3, True), (4096, 1024, 3, True), (1024, 128, 3, False)),
)
COLUMNS = (
    "n_fft",
    "hop",
    "frames",
    "kind",
    "threads",
    "registers",
    "stack",
    "shared",
    "blocks",
    "loop",
    "warps x loop",
)


def rows() -> list[list[str]]:
    """Return a row for each size."""
    if reason := sass.missing():
        raise SystemExit(reason)
    found = []
    for n_fft, hop_length, look_ahead, clusters in SIZES:
        code = sass.measure(n_fft, hop_length, look_ahead, clusters)
        n_frames = code.n_frames
        of_stream = code.n_instructions * (n_frames if clusters else 1)
        cells = (code.n_threads, code.registers, code.stack, code.shared, code.n_blocks, code.loop, of_stream)
        found.append(
            [str(n_fft), str(hop_length), str(n_frames), "cluster" if clusters else "block", *map(str, cells)]
        )
    return found


if __name__ == "__main__":
    print(" | ".join(COLUMNS))
    for row in rows():
        print(" | ".join(row))
