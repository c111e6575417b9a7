"""Execution of the kernels of the engine `cuda` on a CPU: g++ compiles the same source; see cuda_on_cpu.h."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
OPTIONS = (
    "-std=c++17",
    "-O2",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-march=native",
    "-shared",
    "-fPIC",
    "-w",
)

order = 0  # order of the threads, see cuda_on_cpu.cpp


def missing() -> str:
    """Return the reason why kernels cannot run here; empty if they can."""
    if sys.platform != "linux":
        return "the kernels run on a CPU under Linux only"
    return "" if COMPILER else "g++ is missing, so the kernels cannot run on a CPU: apt-get install g++"


def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the engine `cuda` run on the CPU."""
    from rtspecinv.engines.gpu import nvrtc

    monkeypatch.setattr(nvrtc, "DEVICE", "cpu")
    monkeypatch.setattr(nvrtc, "load", load)
    monkeypatch.setattr(nvrtc, "has_clusters", lambda device: True)


class OnCPU:
    """Replacement of `nvrtc.Loaded`."""

    def __init__(self, library: Any, n_bytes: int) -> None:
        self._library, self._n_bytes = library, n_bytes

    def check(self, n_streams: int, arguments: ctypes.Structure) -> None:
        self._run(self._library.run_check, n_streams, arguments)

    def push(self, n_streams: int, arguments: ctypes.Structure) -> None:
        self._run(self._library.run_push, n_streams, arguments)

    def _run(self, kernel: Any, n_streams: int, arguments: ctypes.Structure) -> None:
        assert self._library.size_of_arguments() == ctypes.sizeof(arguments)
        assert kernel(n_streams, ctypes.byref(arguments), order) == 0, "threads wait at different barriers"


def load(constants: str, device: torch.device, layout: Any) -> OnCPU:
    """Replacement of `nvrtc.load`."""
    return OnCPU(_library(constants), layout.n_bytes)


@lru_cache(None)
def _library(constants: str) -> Any:
    from rtspecinv.engines.gpu.nvrtc import FILES
    from rtspecinv.engines.gpu.nvrtc import HERE as KERNELS

    parts = [HERE / "cuda_on_cpu.h", *(KERNELS / name for name in FILES[1:]), HERE / "cuda_on_cpu.cpp"]
    text = constants + "".join(path.read_text() for path in parts)
    folder = Path(tempfile.gettempdir()) / f"rtspecinv-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid()
    found = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.so"
    if not found.exists():
        assert COMPILER is not None
        with tempfile.TemporaryDirectory(dir=folder) as room:
            source, library = Path(room) / "push.cpp", Path(room) / "push.so"
            source.write_text(text)
            subprocess.run([COMPILER, *OPTIONS, "-o", library, source], check=True)
            library.replace(found)
    return ctypes.PyDLL(str(found))  # PyDLL keeps the GIL: only one block runs at a time
