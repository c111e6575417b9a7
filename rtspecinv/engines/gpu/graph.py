"""The engine for few streams on a GPU: what `Eager` launches in a push, recorded once and replayed.

Each of the hundreds of small operations of a push costs the CPU more time than the GPU; replaying all of
them is one launch. The same kernels run in the same order, so results are those of `Eager` to the bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rtspecinv.engines.eager import Eager
from rtspecinv.phase import Gradient, Start
from rtspecinv.stft import STFT
from rtspecinv.updates import Update

DEVICE = "cuda"
SWITCH = "RTSPECINV_NO_CUDA_GRAPH"  # set to anything in the environment: nothing is recorded
N_WARM_UPS = 3  # before recording, so that libraries have made their plans


class Recording:
    """A function of tensors, recorded on its first call and replayed on every other.

    function: takes tensors or None, whose shapes stay as they are, and returns a tensor. It may write to
        `state`, in place.
    state: tensors that keep their values from call to call; warming up leaves them as they were.
    """

    def __init__(
        self, function: Callable[..., Tensor], inputs: tuple[Tensor | None, ...], state: list[Tensor]
    ) -> None:
        self._inputs = tuple(None if value is None else value.clone() for value in inputs)
        with _preserved(state):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(N_WARM_UPS):
                    function(*self._inputs)
            torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """Call the function; the tensor returned is the caller's."""
        for recorded, value in zip(self._inputs, inputs, strict=True):
            if recorded is not None and value is not None:
                recorded.copy_(value)
        self._graph.replay()
        return self._output.clone()  # the next replay writes to it


@contextmanager
def _preserved(state: list[Tensor]) -> Iterator[None]:
    before = [tensor.clone() for tensor in state]
    try:
        yield
    finally:
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)


class CudaGraph(Eager):
    """Advances all streams by one frame by replaying what `Eager` does.

    The arguments are those of `Eager`. Each kind of push (with a frame or without, with a spectrum or
    without, by number of iterations) is recorded when it first occurs, and anew after a `.to()`. Pushes with
    gradients are not recorded.
    """

    name = "cuda_graph"

    def __init__(self, stft: STFT, update: Update, init: Start, **options: Any) -> None:
        super().__init__(stft, update, init, **options)
        self._recordings: dict[tuple[object, ...], Recording] = {}

    def push(
        self, magnitude: Tensor | None, spectrum: Tensor | None = None, streams: Tensor | None = None
    ) -> Tensor:
        """Take in a frame, or its absence, and return the next hop of samples; see `Engine`.

        A push of some streams is not recorded: their number changes.
        """
        state = [self.buffer.get_buffer(name) for name in self.buffer.STATE]
        on_device = state[0].device.type == DEVICE and SWITCH not in os.environ
        if streams is not None or self._wants_grad(magnitude) or not on_device:
            return super().push(magnitude, spectrum, streams)
        inputs = (
            None if magnitude is None else magnitude.detach(),
            None if spectrum is None else spectrum.detach(),
        )
        kind = (magnitude is None, spectrum is None, self.n_iter)
        # What is recorded is written to in whatever mode later pushes are.
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(state[0].device):
            if kind not in self._recordings:
                self._recordings[kind] = Recording(self._advance, inputs, state)
            return self._recordings[kind](*inputs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recordings": {}}  # a copy has buffers of its own

    def _apply(self, fn: Any, recurse: bool = True) -> CudaGraph:
        self._recordings.clear()
        super()._apply(fn, recurse)
        return self


ENGINE = CudaGraph


def suits(stft: STFT, update: Update, init: Start, n_open: int) -> bool:
    """Whether a push runs on a GPU from beginning to end; the heap of the phase gradient does not."""
    return stft.device.type == DEVICE and not isinstance(init, Gradient)


def lacks_bands(update: Update, n_open: int) -> bool:
    """Whether values of bands cannot be measured; what `Eager` does is recorded, whatever it is."""
    return False
