"""The C kernel as a shared library, compiled with cc, and a stream of it."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

import rtspecinv
from rtspecinv.engines import Engine
from rtspecinv.kernel import kernel_plan

Array = np.ndarray[Any, Any]

FOLDER = Path(rtspecinv.__file__).parent / "kernel"
SOURCE = FOLDER / "push.c"
FLAGS = (
    "-std=c99",
    "-O2",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Werror",
)
COMPILER = shutil.which("cc")
MISSING = "" if COMPILER else "there is no C compiler (cc): apt-get install gcc"
HEADER = ", ".join(re.findall(r"^    int32_t ([\w, ]+);", (FOLDER / "push.h").read_text(), re.M)).split(", ")
OK, NO_PLAN, OTHER_FORMAT, LENGTH, SIZES, RULE, START, BAD_MAGNITUDE, BAD_N_ITER = range(9)


def compile_c(to: Path, *arguments: object) -> Path:
    """Compile with the flags of the kernel; any warning is an error."""
    command = [str(COMPILER), *FLAGS, f"-I{FOLDER}", *map(str, arguments), "-o", str(to)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return to


@lru_cache
def library(*flags: str) -> ctypes.CDLL:
    """Return the kernel as a shared library, compiled once per process."""
    folder = Path(mkdtemp())
    loaded = ctypes.CDLL(str(compile_c(folder / "push.so", "-shared", "-fPIC", *flags, SOURCE)))
    if sys.platform != "win32":
        shutil.rmtree(folder)
    for name in ("rtspecinv_state_floats", "rtspecinv_work_floats"):
        getattr(loaded, name).restype = ctypes.c_size_t
    return loaded


def check(plan: bytes) -> int:
    """Return the result of `rtspecinv_check`."""
    memory = ctypes.create_string_buffer(plan, max(1, len(plan)))
    return int(library().rtspecinv_check(memory, ctypes.c_size_t(len(plan))))


class Stream:
    """A stream of the C kernel, with the constants of an inverter."""

    def __init__(self, inverter: rtspecinv.StreamingInverter, flags: tuple[str, ...] = ()) -> None:
        self._library = library(*flags)
        self.plan = kernel_plan(inverter)
        self._plan = np.frombuffer(self.plan, np.int32).copy()
        self.header = dict(zip(HEADER, self._plan[: len(HEADER)].tolist(), strict=True))
        assert check(self.plan) == OK
        self.n_iter = inverter.n_iter
        self.state = self._zeros(self._library.rtspecinv_state_floats(self._address(self._plan)))
        self.work = self._zeros(self._library.rtspecinv_work_floats(self._address(self._plan)))
        self.work[:] = np.nan  # a push must write all memory that it reads

    @staticmethod
    def _zeros(n: int) -> Array:
        return np.zeros(n, np.float32)

    @staticmethod
    def _address(array: Array) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    def try_push(self, frame: Any) -> tuple[int, Array]:
        """Return the status of a push, and its hop."""
        hop = np.full(self.header["hop_length"], np.nan, np.float32)
        frame = None if frame is None else np.ascontiguousarray(frame, np.float32)
        address = self._address(frame) if frame is not None else None
        plan, state, work = map(self._address, (self._plan, self.state, self.work))
        n_iter = ctypes.c_int32(self.n_iter)
        return self._library.rtspecinv_push(plan, state, work, address, n_iter, self._address(hop)), hop

    def push(self, frame: Any) -> Array:
        """Return the hop of a frame, or of None after the last one."""
        result, hop = self.try_push(frame)
        assert result == OK
        return hop

    def reset(self) -> None:
        self._library.rtspecinv_reset(self._address(self._plan), self._address(self.state))

    def run(self, magnitude: Any) -> Array:
        """Return all samples of frames `(n_freq, n_frames)`, including the latency, of pushes and flush."""
        hops = [self.push(frame) for frame in np.asarray(magnitude).T]
        owed, hop = self.header["n_flush"], self.header["hop_length"]
        rest = [self.push(None) for _ in range(-(-owed // hop))]
        self.reset()
        return np.concatenate([*hops, np.concatenate([np.zeros(0, np.float32), *rest])[:owed]])

    def parts(self) -> dict[str, Array]:
        """Return views of the state, in the order of `state_of` in push.c."""
        n_half, at, parts = self.header["n_fft"] // 2 + 1, 0, {}
        padded, n_open = -(-n_half // 4) * 4, self.header["n_open"]
        n_known = n_open + self.header["n_waiting"]
        n_samples = (n_open - 1) * self.header["hop_length"] + self.header["n_fft"]
        shapes = {
            "magnitude": (n_known, padded),
            "present": (n_known,),
            "spectra": (self.header["n_slots"], n_open, 2, padded),
            "past": (self.header["n_past"], 2, padded),
            "committed": (n_samples,),
            "coverage": (n_samples,),
            "expected": (self.header["n_fade"],),
        }
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            parts[name] = self.state[at : at + size].reshape(shape)
            at += -(-size // 4) * 4
        assert at == self.state.size
        return parts

    def take_state(self, engine: Engine) -> None:
        """Copy the state of the reference."""
        n_half = self.header["n_fft"] // 2 + 1
        for name, part in self.parts().items():
            values = engine.state()[name].detach().numpy()
            if name in ("spectra", "past"):
                values = np.swapaxes(values, -1, -2)
            if name in ("magnitude", "spectra", "past"):
                part[...] = 0
                part[..., :n_half] = values[tuple(slice(n) for n in part.shape[:-1])]
            else:
                part[...] = values
