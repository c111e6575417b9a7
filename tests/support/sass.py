"""Measures of the machine code of the kernels of the engine `cuda` for an H100; this needs no GPU."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from rtspecinv import STFT, StreamingInverter
from rtspecinv.engines.gpu import cuda, nvrtc
from rtspecinv.engines.table import table_of
from rtspecinv.frames import FrameBuffer
from rtspecinv.phase import Overlap
from rtspecinv.updates import RAAR

ARCHITECTURE = "sm_90"
INSTALL = 'pip install "rtspecinv[gpu]" nvidia-cuda-nvdisasm'


class Code(NamedTuple):
    """Measures of a compiled kernel: frames of a stream, threads and shared bytes of a block, and others."""

    n_frames: int
    n_threads: int
    n_blocks: int  # number of blocks that fit a multiprocessor's registers and shared memory
    registers: int  # registers per thread
    stack: int  # bytes per thread, for values that did not fit into registers
    shared: int
    loop: int  # instructions per iteration, including those for numbers out of range

    @property
    def n_instructions(self) -> int:
        """Warp instructions of an iteration of a block."""
        return self.n_threads // 32 * self.loop


def missing() -> str:
    """Return the reason why nothing can be measured here; empty if it can."""
    try:
        from cuda.bindings import nvrtc as library

        library.nvrtcVersion()
    except Exception:
        return f"NVRTC is missing: {INSTALL}"
    return "" if _disassembler() else f"nvdisasm is missing: {INSTALL}"


def constants_of(
    n_fft: int, hop_length: int, look_ahead: int, clusters: bool = False
) -> tuple[str, FrameBuffer]:
    """Return the beginning of the source for a stream with the default rule and start, and its buffer."""
    inverter = StreamingInverter(STFT(n_fft, hop_length), look_ahead=look_ahead, engine="eager")
    engine: Any = inverter._engine
    buffer: FrameBuffer = engine.buffer
    table = table_of(RAAR(), buffer.n_open)
    assert table is not None
    return cuda.constants_of(buffer, table, Overlap(), clusters)[0], buffer


def measure(n_fft: int, hop_length: int, look_ahead: int, clusters: bool = False) -> Code:
    """Compile the kernel of a stream with the default rule and start."""
    constants, buffer = constants_of(n_fft, hop_length, look_ahead, clusters)
    layout = cuda.layout_of(buffer, clusters)
    code, log = nvrtc.built(constants, ARCHITECTURE, "--ptxas-options=--verbose")
    of_push = log[log.index("'push'") :]
    registers = int(re.findall(r"Used (\d+) registers", of_push)[0])
    stack = int(re.findall(r"(\d+) bytes stack frame", of_push)[0])
    shared = layout.n_bytes + 1024  # the system reserves 1024 bytes
    n_blocks = min(65536 // (registers * layout.n_threads), 233472 // shared)
    return Code(
        buffer.n_open, layout.n_threads, n_blocks, registers, stack, layout.n_bytes, _longest_loop(code)
    )


def _disassembler() -> Path | None:
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        for found in Path(place).glob("*/bin/nvdisasm"):
            return found
    return None


def _longest_loop(code: bytes) -> int:
    """Return the number of instructions of the longest loop, from a label to the jump back to it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        tool = str(_disassembler())
        listing = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout
    labels, instructions, longest = dict[str, int](), 0, 0
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L_\S+):", line):
            labels[label[1]] = instructions
        elif re.search(r"/\*[0-9a-f]{4,}\*/\s+\S", line):
            instructions += 1
            jump = re.search(r"@!?U?P\w+ BRA.*?(\.L_\w+)", line)  # other jumps return from rare cases
            if jump and jump[1] in labels:
                longest = max(longest, instructions - labels[jump[1]])
    return longest
