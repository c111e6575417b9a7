"""Engines: how one frame is advanced. All give what `eager`, the reference, gives, only faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from rtspecinv.engines.eager import Eager
from rtspecinv.phase import Start
from rtspecinv.stft import STFT, unknown_name
from rtspecinv.updates import Update

ENGINES = ("auto", "eager", "numba", "numba_cpu")


class Engine(Protocol):
    """What `StreamingInverter` needs of an engine, a `torch.nn.Module` that holds all state in buffers."""

    name: str
    n_iter: int  # may change from push to push

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
    """Engine of a name; "auto" takes the fastest one there is for this transform, rule and start.

    Raises:
        ValueError: no engine has this name, or it cannot do what is asked for.
        ImportError: what it needs is not installed; says how to install it.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, tuple(ENGINES))
    if engine == "eager":
        return Eager
    try:
        from rtspecinv.engines import numba_cpu
    except ImportError as error:
        if engine == "auto":
            return Eager
        raise ImportError(
            f'Parameter {engine=} needs numba and rocket-fft ({error}): pip install "rtspecinv[fast]"'
        ) from error
    if numba_cpu.suits(stft, update, init):
        return numba_cpu.NumbaCPU
    if engine == "auto":
        return Eager
    raise ValueError(
        f"Parameter {engine=} has no compiled code for {update}, {init} on {str(stft.device)!r}: use 'auto'!"
    )
