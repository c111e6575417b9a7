"""Compiles the kernel of `triton` for an H100 and prints what it needs, on any machine; for gpu.py.

python bench/gpu_compile.py N_FFT FRAMES    prints warps, registers, stack, shared memory, instructions a loop
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rtspecinv import STFT
from rtspecinv.engines.gpu import push as triton_kernels
from rtspecinv.engines.gpu.stream import options_of
from rtspecinv.engines.table import table_of
from rtspecinv.updates import RAAR

TARGET = GPUTarget("cuda", 90, 32)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def compiled(n_fft: int, n_open: int) -> tuple[dict[str, int], bytes, int]:
    """Options, machine code and bytes of shared memory."""
    rule = table_of(RAAR(), n_open)
    assert rule is not None
    options, _ = options_of(STFT(n_fft, n_fft // 4), rule, n_open, compensated=True)
    launch = {name: options.pop(name) for name in ("num_warps", "num_stages")}
    constants = {**options, "ITERATES": True, "HAS_FRAME": True, "HAS_START": False}
    names = [parameter.name for parameter in triton_kernels.push.params]
    n_pointers = names.index("n_iter")
    signature = dict.fromkeys(names[:n_pointers], "*fp32") | dict.fromkeys(names[n_pointers:], "i32")
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = {
        (parameter.num,): [["tt.divisibility", 16]]
        for parameter in triton_kernels.push.params[:n_pointers]
        if not parameter.do_not_specialize_on_alignment
    }
    source = ASTSource(triton_kernels.push, signature, constants, aligned)
    kernel = triton.compile(source, target=TARGET, options=launch)
    return launch, kernel.asm["cubin"], kernel.metadata.shared


def tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


def main(n_fft: int, n_open: int) -> None:
    launch, code, shared = compiled(n_fft, n_open)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "push.cubin"
        path.write_bytes(code)
        usage, listing = tool("cuobjdump", "-res-usage", str(path)), tool("nvdisasm", "-c", str(path))
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise SystemExit(f"cuobjdump tells no registers:\n{usage}")
    registers, stack = found.groups()
    print(launch["num_warps"], registers, stack, shared, longest_loop(listing))


def longest_loop(listing: str) -> int:
    """Instructions from the label of a jump backwards to the jump, of the longest one."""
    labels, instructions, longest = dict[str, int](), 0, 0
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L_\S+):", line):
            labels[label[1]] = instructions
        elif re.search(r"/\*[0-9a-f]{4,}\*/\s+\S", line):
            instructions += 1
            jump = re.search(r"BRA.*?(\.L_\w+)", line)
            if jump and jump[1] in labels:
                longest = max(longest, instructions - labels[jump[1]])
    return longest


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
