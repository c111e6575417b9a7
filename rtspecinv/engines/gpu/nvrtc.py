"""Kernels compiled by NVRTC, NVIDIA's compiler in a library, at run time, kept on disk, loaded, launched."""

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

DEVICE = "cuda"  # where kernels run
HERE = Path(__file__).parent
FILES = ("device.cu", "transform.cu", "push.cu")
# One rounding where the source says so, two elsewhere, whatever is compiled with it: the same bits.
OPTIONS = ("--std=c++17", "--fmad=false")


class Layout(NamedTuple):
    """How a push is launched: threads of a block, blocks of a stream, bytes of shared memory of a block."""

    n_threads: int
    n_blocks: int
    n_bytes: int
    n_checking: int  # threads of a block that checks


class Loaded:
    """Kernels on one device; launched on torch's current stream there."""

    def __init__(self, code: bytes, device: torch.device, layout: Layout) -> None:
        self._device, self._layout = device, layout
        with torch.cuda.device(device):
            self._module = _checked(driver.cuModuleLoadData(code))
            self._check = _checked(driver.cuModuleGetFunction(self._module, b"check"))
            self._push = _checked(driver.cuModuleGetFunction(self._module, b"push"))
            limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _checked(driver.cuFuncSetAttribute(self._push, limit, layout.n_bytes))

    def check(self, n_streams: int, arguments: ctypes.Structure) -> None:
        """Look at the frames of so many streams."""
        self._launch(self._check, n_streams, self._layout.n_checking, 0, arguments)

    def push(self, n_streams: int, arguments: ctypes.Structure) -> None:
        """Advance so many streams."""
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
    """Kernels for these constants on a device."""
    major, minor = torch.cuda.get_device_capability(device)
    return Loaded(compiled(constants, f"sm_{major}{minor}"), device, layout)


def has_clusters(device: torch.device) -> bool:
    """Return whether blocks of a device can read each other's shared memory."""
    return torch.cuda.get_device_capability(device) >= (9, 0)


def source() -> str:
    """Source of all kernels, without the constants that it begins with."""
    return "".join((HERE / name).read_text() for name in FILES)


@lru_cache(64)
def compiled(constants: str, architecture: str) -> bytes:
    """Machine code; compiles in about two seconds, unless it is kept on disk."""
    try:
        version = "{}.{}".format(*_checked(library.nvrtcVersion()))
    except Exception as error:  # of cuda.bindings, which says where it has looked
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
    """Machine code and the compiler's log, with more options."""
    program = _checked(library.nvrtcCreateProgram((constants + source()).encode(), b"push.cu", 0, [], []))
    options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={architecture}", *more)]
    try:
        (status,) = library.nvrtcCompileProgram(program, len(options), options)
        log = bytes(_checked(library.nvrtcGetProgramLogSize(program)))
        _checked(library.nvrtcGetProgramLog(program, log))
        text = log.rstrip(bytes(1)).decode()
        if status != 0:
            raise RuntimeError(f"the kernels could not be compiled for {architecture}: {text}")
        code = bytes(_checked(library.nvrtcGetCUBINSize(program)))
        _checked(library.nvrtcGetCUBIN(program, code))
        return code, text
    finally:
        library.nvrtcDestroyProgram(program)


def _checked(answer: tuple[Any, ...]) -> Any:
    """Results of a call of the driver or of NVRTC, without its status, which must be 0."""
    status, *results = answer
    if status != 0:
        raise RuntimeError(f"{status!r} of the CUDA driver or of NVRTC")
    return results[0] if len(results) == 1 else tuple(results)
