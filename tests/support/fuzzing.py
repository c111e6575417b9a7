"""Random values of any kind, and limits of calls, for the tests that fuzz public functions.

A call may raise the errors in its docstring. It may not raise other errors, take more than `SECONDS`, or use
more than `MEGABYTES` of additional memory, whatever the shape of its arguments or the header of a file.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import rtspecinv
from rtspecinv import Compression, MelConfig
from rtspecinv.audio import DeviceError

SECONDS = 30
MEGABYTES = 1000
DOCUMENTED = (ValueError, TypeError, KeyError, FileNotFoundError, IsADirectoryError, ImportError, DeviceError)
STFT = rtspecinv.STFT(64, 16)
MEL = rtspecinv.Mel(MelConfig(8000, 64, 16, n_mels=10, compression=Compression("ln", floor=1e-5)))
N_FREQ, N_MELS = STFT.n_freq, 10

EFFORT = int(os.environ.get("FUZZ", "1"))  # FUZZ=50 takes a quarter of an hour
quick = settings(
    deadline=None,
    max_examples=60 * EFFORT,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@contextmanager
def bounded() -> Iterator[None]:
    """Return a context that raises `TimeoutError` after `SECONDS`."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def high_water() -> int | None:
    """Return the largest memory in use since the last call, kB; None if the system does not report it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return peak


@contextmanager
def little_memory() -> Iterator[None]:
    """Return a context that fails if the process uses more than MEGABYTES of additional memory."""
    before = high_water() and high_water()
    yield
    after = high_water()
    if before is not None and after is not None:
        assert after - before < 1000 * MEGABYTES


def shown(call: Callable[..., Any], *args: Any) -> str:
    """Return the text of a result, which need not be finite."""
    return str(call(*args))


def attempt(call: Callable[[], Any]) -> Any:
    """Return the result of a call, which must be finite; None after a documented error with a message."""
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = call()
        except DOCUMENTED as error:
            said = str(error)
        else:
            check_finite(result)
            return result
    assert len(said) > 10, f"the message of an error is only {said!r}"
    return None


def check_finite(result: Any) -> None:
    if isinstance(result, list | tuple):
        for part in result:
            check_finite(part)
    elif isinstance(result, torch.Tensor | np.ndarray):
        values = torch.as_tensor(result).detach()
        assert bool(torch.isfinite(values).all()), "a result is NaN or infinite"


def sound(value: Any) -> bool:
    """Return whether the transform of a value is finite, if the value is a tensor of numbers."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fc":
        return bool((np.abs(value).astype(float) < 1e15).all())
    if not isinstance(value, torch.Tensor) or value.is_meta or value.layout != torch.strided:
        return True
    return value.dtype == torch.bool or bool((value.abs().double() < 1e15).all())


SIZES = st.sampled_from([0, 1, 2, 3, 5, N_MELS, 16, N_FREQ, N_FREQ, N_FREQ, 40, 64, 80])
DTYPES = ["f4"] * 6 + ["f2", "f8", ">f4", "c8", "i4", "u1", "?", "O", "U3"]
SCALES = [1.0, 1.0, 1.0, 0.0, 1e-45, 1e-30, 1e-7, 1e6, 1e30, 1e38, 1e300, -1.0]
SPECIAL = [np.nan, np.inf, -np.inf, -1.0, -0.0, 0.0, 1e-45, 3e38]


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Draw an array or tensor, often a nearly valid one."""
    shape = draw(
        st.one_of(
            st.lists(SIZES, max_size=4).map(tuple),
            st.integers(0, 30).map(lambda n: (N_FREQ, n)),
            st.integers(0, 30).map(lambda n: (N_MELS, n)),
            st.integers(0, 9).map(lambda n: (2, N_FREQ, n)),
            st.sampled_from([(N_FREQ,), (N_MELS,), (2, N_FREQ), (400,), (2, 300)]),
        )
    )
    while np.prod(shape) > 20_000:
        shape = shape[1:]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = np.asarray(rng.uniform(0, 1, shape) * draw(st.sampled_from(SCALES)))
    if values.size and draw(st.integers(0, 3)) == 0:
        values.flat[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from(SPECIAL))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = np.asarray(values.astype(draw(st.sampled_from(DTYPES))))
    if draw(st.booleans()) or array.dtype.kind in "OU" or array.dtype.byteorder == ">":
        return array
    tensor = torch.from_numpy(array)
    kind = draw(
        st.sampled_from(["plain", "plain", "plain", "transposed", "bfloat16", "sparse", "expanded", "meta"])
    )
    if kind == "transposed" and tensor.ndim > 1:
        return tensor.mT.contiguous().mT
    if kind == "bfloat16" and tensor.is_floating_point():
        return tensor.bfloat16()
    if kind == "sparse" and tensor.ndim > 0:
        return tensor.to_sparse()
    if kind == "meta":
        return tensor.to("meta")
    return tensor.expand(2, *tensor.shape) if kind == "expanded" else tensor


ANYTHING: st.SearchStrategy[Any] = st.one_of(
    arrays(), arrays(), arrays(), st.sampled_from([None, 3, 1.5, "text", [], [1.0, 2.0], {}, b"\0"])
)
NUMBERS = st.one_of(
    st.integers(-2, 70),
    st.sampled_from(
        [1024, 10**6, 2**31, 10**12, 10**30, 0.5, 8.0, float("nan"), float("inf"), -1e300, True, None, "8"]
    ),
)

LENGTHS = st.one_of(
    st.none(), st.integers(-1, 500), st.sampled_from([1.5, "8", float("nan")])
)  # values of `length`
