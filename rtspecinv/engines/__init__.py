"""Engines: how one frame is advanced. All give what `eager`, the reference, gives, only faster."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Protocol

from torch import Tensor

from rtspecinv.engines import cuda_graph
from rtspecinv.engines.eager import Eager
from rtspecinv.phase import Start
from rtspecinv.stft import STFT, unknown_name
from rtspecinv.updates import Update

ENGINES = ("auto", "eager", "numba", "numba_cpu", "cuda_graph", "triton_gpu")

NEEDS = {"numba_cpu": ("numba and rocket-fft", "fast"), "triton_gpu": ("triton", "gpu")}


class Engine(Protocol):
    """What `StreamingInverter` needs of an engine, a `torch.nn.Module` that holds all state in buffers."""

    name: str

    def push(self, magnitude: Tensor | None, spectrum: Tensor | None = None) -> Tensor:
        """Take in a frame, or its absence, and return the next hop of samples.

        Args:
            magnitude: real `(*batch, n_fft // 2 + 1)`, None after the last frame.
            spectrum: complex, of the same shape: the frame starts with its phase; None leaves that to `init`.

        Returns:
            Real `(*batch, hop_length)`.
        """

    def detach(self) -> None:
        """Cut the state off from the gradients of the frames so far."""

    def reset(self, streams: Tensor | None = None) -> None:
        """Forget everything, in all streams or where the bool mask `streams` is true."""


def find(engine: str, stft: STFT, update: Update, init: Start) -> Callable[..., Engine]:
    """Engine of a name; "auto" takes numba on a CPU, if it is installed and has the rule and the start.

    On a GPU it takes `eager` until `bench/gpu.py` has been run on one: the others are then a name away.

    Raises:
        ValueError: no engine has this name, or it cannot do what is asked for.
        ImportError: what it needs is not installed; says how to install it.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if engine == "eager":
        return Eager
    name = {"auto": "numba_cpu", "numba": "numba_cpu"}.get(engine, engine)
    try:
        module = import_module(f"rtspecinv.engines.{name}")
    except ImportError as error:
        if engine == "auto":
            return Eager
        needs, extra = NEEDS[name]
        raise ImportError(
            f'Parameter {engine=} needs {needs} ({error}): pip install "rtspecinv[{extra}]"'
        ) from error
    if module.suits(stft, update, init):
        found: Callable[..., Engine] = module.ENGINE
        return found
    if engine == "triton_gpu" and cuda_graph.suits(stft, update, init):
        return cuda_graph.CudaGraph
    if engine == "auto":
        return Eager
    raise ValueError(
        f"Parameter {engine=} has no compiled code for {update}, {init} with n_fft={stft.n_fft}, "
        f"hop_length={stft.hop_length}, {stft.dtype} on {str(stft.device)!r}: use 'auto'!"
    )
