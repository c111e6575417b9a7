"""Run-time compilation of the CUDA kernels with NVRTC (NVIDIA's compiler library), their cache and launch."""

from __future__ import annotations

import ctypes
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cuda.bindings import driver
from cuda.bindings import nvrtc as library

from rtspecinv.engines import kept

DEVICE = "cuda"  # device on which kernels run
HERE = Path(__file__).parent
FILES = ("device.cu", "transform.cu", "push.cu")
# Only the fused multiply-adds of the source are fused, so that every build returns the same bits.
OPTIONS = ("--std=c++17", "--fmad=false")


class Layout(NamedTuple):
    """Launch parameters: threads per block, blocks per stream, bytes of shared memory per block."""

    n_threads: int
    n_blocks: int
    n_bytes: int
    n_checking: int  # number of threads of a block of the kernel `check`


class Loaded:
    """Kernels loaded on one device; they are launched on torch's current CUDA stream."""

    def __init__(self, code: bytes, device: torch.device, layout: Layout) -> None:
        self._device, self._layout = device, layout
        with torch.cuda.device(device):
            self._module = _checked(driver.cuModuleLoadData(code))
            self._check = _checked(driver.cuModuleGetFunction(self._module, b"check"))
            self._push = _checked(driver.cuModuleGetFunction(self._module, b"push"))
            limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _checked(driver.cuFuncSetAttribute(self._push, limit, layout.n_bytes))

    def check(self, n_streams: int, arguments: ctypes.Structure) -> None:
        """Check the frames of `n_streams` streams."""
        self._launch(self._check, n_streams, self._layout.n_checking, 0, arguments)

    def push(self, n_streams: int, arguments: ctypes.Structure) -> None:
        """Advance `n_streams` streams by one frame."""
        layout = self._layout
        self._launch(self._push, n_streams * layout.n_blocks, layout.n_threads, layout.n_bytes, arguments)

    def _launch(self, kernel: Any, n_blocks: int, n_threads: int, n_bytes: int, arguments: Any) -> None:
        addresses = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream().cuda_stream
            _checked(
                driver.cuLaunchKernel(
                    kernel, n_blocks, 1, 1, n_threads, 1, 1, n_bytes, stream, ctypes.addressof(addresses), 0
                )
            )


def load(constants: str, device: torch.device, layout: Layout) -> Any:
    """Return the kernels for these constants, loaded on a device."""
    major, minor = torch.cuda.get_device_capability(device)
    return Loaded(compiled(constants, f"sm_{major}{minor}"), device, layout)


def has_clusters(device: torch.device) -> bool:
    """Return whether the device has clusters: blocks that can read each other's shared memory."""
    return torch.cuda.get_device_capability(device) >= (9, 0)


def source() -> str:
    """Return the source of all kernels, without the constants at its beginning."""
    return "".join((HERE / name).read_text() for name in FILES)


@lru_cache(64)
def compiled(constants: str, architecture: str) -> bytes:
    """Return machine code, from the cache on disk or compiled in about two seconds."""
    try:
        version = "{}.{}".format(*_checked(library.nvrtcVersion()))
    except Exception as error:  # the error of cuda.bindings lists where it searched
        raise ImportError(
            f"Parameter engine='cuda' needs NVRTC ({error}): pip install \"rtspecinv[gpu]\""
        ) from error
    everything = (constants, source(), architecture, version, OPTIONS)
    key = hashlib.sha256(repr(everything).encode()).hexdigest()[:32]
    name = f"push-{architecture}-{key}.cubin"
    code = kept.load(name)
    if code is None:
        code, _ = built(constants, architecture)
        kept.save(name, code)
    return code


def built(constants: str, architecture: str, *more: str) -> tuple[bytes, str]:
    """Compile with more options, and return machine code and the compiler's log."""
    program = _checked(library.nvrtcCreateProgram((constants + source()).encode(), b"push.cu", 0, [], []))
    options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={architecture}", *more)]
    try:
        (status,) = library.nvrtcCompileProgram(program, len(options), options)
        log = bytes(_checked(library.nvrtcGetProgramLogSize(program)))
        _checked(library.nvrtcGetProgramLog(program, log))
        text = log.rstrip(bytes(1)).decode()
        if status != 0:
            raise RuntimeError(
                f"The CUDA kernels do not compile for {architecture}, use engine='cuda_graph': {text}"
            )
        code = bytes(_checked(library.nvrtcGetCUBINSize(program)))
        _checked(library.nvrtcGetCUBIN(program, code))
        return code, text
    finally:
        library.nvrtcDestroyProgram(program)


def _checked(answer: tuple[Any, ...]) -> Any:
    """Return the results of a call of the driver or of NVRTC; raise if its status is not 0."""
    status, *results = answer
    if status != 0:
        raise RuntimeError(f"The CUDA driver or NVRTC returned {status!r}")
    return results[0] if len(results) == 1 else tuple(results)
