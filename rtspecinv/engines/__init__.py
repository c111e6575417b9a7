"""Engines: how one frame is advanced, and a whole spectrogram iterated.

All give what `eager`, the reference, gives, only faster.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

from rtspecinv.engines.eager import Eager
from rtspecinv.engines.whole import EagerWhole, Space, Whole
from rtspecinv.phase import Start
from rtspecinv.stft import STFT, unknown_name
from rtspecinv.updates import Update

T = TypeVar("T")

__all__ = ["ENGINES", "EagerWhole", "Engine", "Space", "Whole", "find", "find_whole"]

ENGINES = ("auto", "eager", "numba", "numba_cpu")


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
    """Engine of a name; "auto" takes the fastest one there is for this transform, rule and start.

    Raises:
        ValueError: no engine has this name, or it cannot do what is asked for.
        ImportError: what it needs is not installed; says how to install it.
    """
    if not _wants_compiled(engine):
        return Eager
    from rtspecinv.engines import numba_cpu

    if numba_cpu.suits(stft, update, init):
        return numba_cpu.NumbaCPU
    return _else_eager(engine, Eager, f"{update}, {init} on {str(stft.device)!r}")


def find_whole(engine: str, stft: STFT, rules: tuple[Update, ...], needs_grad: bool) -> Callable[..., Whole]:
    """What iterates whole spectrograms, by name as in `find`; where gradients are wanted it is the reference.

    Raises:
        ValueError, ImportError: as in `find`.
    """
    if not _wants_compiled(engine):
        return EagerWhole
    from rtspecinv.engines import numba_whole

    if numba_whole.suits(stft, rules):
        return EagerWhole if needs_grad else numba_whole.NumbaWhole
    return _else_eager(engine, EagerWhole, f"{', '.join(map(str, rules))} on {str(stft.device)!r}")


def _wants_compiled(engine: str) -> bool:
    """Whether compiled code is there and may be taken."""
    if engine not in ENGINES:
        raise unknown_name("engine", engine, tuple(ENGINES))
    if engine == "eager":
        return False
    try:
        importlib.import_module("rtspecinv.engines.numba_cpu")
    except ImportError as error:
        if engine == "auto":
            return False
        raise ImportError(
            f'Parameter {engine=} needs numba and rocket-fft ({error}): pip install "rtspecinv[fast]"'
        ) from error
    return True


def _else_eager(engine: str, eager: T, what: str) -> T:
    if engine == "auto":
        return eager
    raise ValueError(f"Parameter {engine=} has no compiled code for {what}: use 'auto'!")
