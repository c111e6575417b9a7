"""Engines: how one frame is advanced. All give what `eager`, the reference, gives, only faster."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from rtspecinv.engines.eager import Eager
from rtspecinv.stft import unknown_name

ENGINES = {"eager": Eager}


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


def find(engine: str) -> type[Eager]:
    """Engine of a name; "auto" takes the fastest one there is."""
    if engine == "auto":
        return Eager
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ("auto", *ENGINES))
    return ENGINES[engine]
