"""Measures a push of the C kernel, native and as WebAssembly; see bench/README.md.

python bench/wasm.py            prints the table
python bench/wasm.py --write    also writes it into bench/README.md

It needs cc, node, Chromium and `npm ci --prefix tests/page`; if one is missing, its rows are left out.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from page import named, run
from serve import server
from tables import Bench, table

import rtspecinv

ROOT = Path(__file__).resolve().parents[1]
KERNEL = ROOT / "rtspecinv" / "kernel"
WASM = ROOT / "rtspecinv" / "serve" / "page" / "push.wasm"
SCRIPT = Path(__file__).with_suffix(".mjs")
N_PUSHES, N_WARM_UP = 2000, 50
COARSE = 10  # number of pushes timed together in Chromium, whose clock has a resolution of 0.1 ms
FLAGS = ("-O3", "-fno-math-errno", "-shared", "-fPIC")


def wasm_push(bench: Bench) -> str:
    """Time of a push of the C kernel, beside the engines.

    One stream with n_fft 1024, hop 256, look_ahead 3 and 8 iterations, in ms: the smallest and the median
    time of 2000 pushes (eager: 200; Chromium: of means of 10), after 50 pushes of warm-up. A hop of
    22.05 kHz lasts 11.6 ms. "C" is compiled with the flags of docs/c.md, for any processor of the
    architecture; WebAssembly has vectors of four numbers. The engines are called by
    `StreamingInverter.push`, which also checks the frame. Targets are at most 0.5 ms as WebAssembly, and a
    file of at most 40 KB.
    """
    rows = [[name, f"{min(times):.3f}", f"{np.median(times):.3f}"] for name, times in measured()]
    size, packed = WASM.stat().st_size, len(gzip.compress(WASM.read_bytes()))
    sizes = f"`push.wasm` has {size / 1000:.1f} KB, and {packed / 1000:.1f} KB when compressed by gzip."
    return f"{table(['push', 'smallest ms', 'median ms'], rows)}\n\n{sizes}"


def measured() -> Iterator[tuple[str, list[float]]]:
    """Return the name and the times of each program that this machine can run."""
    stft = rtspecinv.STFT(1024, 256)
    frame = 20 * torch.rand(stft.n_freq)
    inverters = {
        name: rtspecinv.StreamingInverter(stft, look_ahead=3, n_iter=8, engine=name)
        for name in ("eager", "numba")
    }
    yield "engine eager", timed(lambda: inverters["eager"].push(frame), N_PUSHES // 10)
    yield "engine numba", timed(lambda: inverters["numba"].push(frame))
    plan = rtspecinv.kernel_plan(inverters["numba"])
    for compiler in filter(shutil.which, ("gcc", "clang")):
        yield f"C, {version_of(compiler)}", timed(native(compiler, plan, frame.numpy()))
    node, chromium = shutil.which("node"), shutil.which("chromium") or shutil.which("google-chrome")
    if node:
        yield f"WebAssembly, {version_of(node)}", wasm(plan, 1)
    if node and chromium and (ROOT / "tests" / "page" / "node_modules").exists():
        with server(1) as (_, address):
            page = address.replace("ws://", "http://").removesuffix("stream")
            yield f"WebAssembly, {version_of(chromium)}", wasm(plan, COARSE, chromium, page)


def timed(push: Callable[[], object], n_pushes: int = N_PUSHES) -> list[float]:
    """Return the times of pushes, ms."""
    times = []
    for i in range(-N_WARM_UP, n_pushes):
        begin = time.perf_counter()
        push()
        if i >= 0:
            times.append(1000 * (time.perf_counter() - begin))
    return times


def native(compiler: str, plan: bytes, frame: np.ndarray) -> Callable[[], object]:
    """Return a function that pushes by the kernel, compiled as a shared library."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "push.so"
        subprocess.run([compiler, *FLAGS, str(KERNEL / "push.c"), "-o", str(path)], check=True)
        library = ctypes.CDLL(str(path))
    sizes = library.rtspecinv_state_floats, library.rtspecinv_work_floats
    memory = np.frombuffer(plan, np.int32).copy()
    at = ctypes.c_void_p(memory.ctypes.data)
    for size in sizes:
        size.restype = ctypes.c_size_t
    state, work = (np.zeros(size(at), np.float32) for size in sizes)
    hop = np.zeros(256, np.float32)
    arrays = state, work, frame, hop
    first, second, third, last = (ctypes.c_void_p(array.ctypes.data) for array in arrays)

    def push() -> tuple[np.ndarray, ...]:
        library.rtspecinv_push(at, first, second, third, ctypes.c_int32(8), last)
        return (memory, *arrays)

    return push


def wasm(plan: bytes, at_once: int, *browser: str) -> list[float]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "plan"
        path.write_bytes(plan)
        command = ["node", str(SCRIPT), str(N_PUSHES // at_once), str(at_once), str(path), *browser]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    times: list[float] = json.loads(done.stdout)
    return times


def version_of(program: str) -> str:
    """Return name and version of a program; the name alone if it prints no version."""
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    number = re.findall(r"[\d.]*\d\.[\d.]*\d", said.splitlines()[0])[-1]
    return f"{Path(program).name} {number}"


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", named(wasm_push), "wasm-push", "wasm"))
