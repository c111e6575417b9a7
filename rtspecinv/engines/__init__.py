"""Engines: implementations of a push of a stream and of the iterations of a batch run.

All compute what `eager`, the reference, computes, only faster.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from rtspecinv.bands import FilterBank
from rtspecinv.common.checks import choice
from rtspecinv.engines.batch import BatchEngine, BatchTransform, EagerBatch
from rtspecinv.engines.eager import Eager, n_open
from rtspecinv.engines.gpu import graph
from rtspecinv.engines.table import why_none
from rtspecinv.phase import Start
from rtspecinv.stft import STFT
from rtspecinv.updates import Update

__all__ = [
    "ENGINES",
    "BatchEngine",
    "BatchTransform",
    "EagerBatch",
    "Engine",
    "find",
    "find_batch",
    "n_open",
    "unmixer",
]

ENGINES = ("auto", "eager", "numba", "cuda_graph", "cuda")

# Where the engines are, which are imported when they are asked for.
MODULES = {"numba": "cpu.stream", "cuda_graph": "gpu.graph", "cuda": "gpu.cuda"}
CPU = "cpu"
ON_A_GPU = ("cuda", "cuda_graph")  # what "auto" takes there, the fastest first
NEEDS = {"numba": ("numba and rocket-fft", "fast"), "cuda": ("cuda-bindings and NVRTC", "gpu")}


class Engine(Protocol):
    """What `StreamingInverter` needs of an engine, a `torch.nn.Module` that holds all state in buffers."""

    name: str
    n_iter: int  # may change from push to push

    @property
    def judges(self) -> bool:
        """Whether `offer` takes frames, those that require gradients apart."""

    def push(
        self, magnitude: Tensor | None, spectrum: Tensor | None = None, streams: Tensor | None = None
    ) -> Tensor:
        """Take in a frame, or its absence, and return the next hop of samples.

        Args:
            magnitude: real `(*batch, n_fft // 2 + 1 + n_values)`: magnitudes, what else is measured; None
                after the last frame.
            spectrum: complex `(*batch, n_fft // 2 + 1)`: the frame starts with its phase; None leaves that to
                `init`.
            streams: positions `(n_streams,)` of the streams to advance, in the order of memory; `*batch` is
                then `n_streams`, and the other streams stay as they are. Default: all.

        Returns:
            Real `(*batch, hop_length)`.
        """

    def offer(
        self, magnitude: Tensor, spectrum: Tensor | None = None, *, each: bool
    ) -> tuple[Tensor, Tensor] | None:
        """Take in a frame whose values nobody has looked at, without waiting for the device.

        Args:
            magnitude, spectrum: as in `push`, of any values.
            each: a stream whose frame is negative, not finite or over `inputs.largest_magnitude` stays as it
                is, whatever others do. Otherwise one such frame holds all streams back.

        Returns:
            The hop, silence in a stream with such a frame, and the smallest and the largest magnitude of
            every stream's frame, `(2, *batch)`, NaN if one is NaN, on the device and until the next push.
            None where nothing was done, as always if not `judges`: then look at the values and `push`.
        """

    def accept(self) -> None:
        """Let the state be what came of the frame offered last; not called, the state is as it was before.

        With `each` or after a look at the extremes: an engine may have seen to it on the device by then.
        """

    def preserved(self, n_pushes: int = 1) -> AbstractContextManager[None]:
        """Context in which so many pushes that are interrupted leave the state as it was before."""

    def state(self) -> dict[str, Tensor]:
        """All tensors that change from push to push, by name; who writes to them calls `changed`."""

    def changed(self) -> None:
        """Look at the buffers anew, after somebody else has written to them."""

    def detach(self) -> None:
        """Cut the state off from the gradients of the frames so far."""

    def reset(self, streams: Tensor | None = None) -> None:
        """Forget everything, in all streams or where the bool mask `streams` is true."""


def find(
    engine: str, stft: STFT, update: Update, init: Start, n_open: int, of_bands: bool = False
) -> Callable[..., Engine]:
    """Engine of a name; "auto" takes numba on a CPU, if it is installed and has the rule and the start.

    On a GPU, "auto" takes the first of `ON_A_GPU` that has a known rule and a known start; what others do is
    not known, so that they stay with `eager`. That is by reading, until `bench/gpu.py` has been run on one.

    n_open: frames that the rule is applied to.
    of_bands: values of bands are measured, not magnitudes.

    Raises:
        ValueError: no engine has this name, or it cannot do what is asked for.
        ImportError: what it needs is not installed; says how to install it.
    """
    choice(ENGINES, engine=engine)
    if engine == "auto" and stft.device.type != CPU:
        return _on_a_gpu(stft, update, init, n_open, of_bands)
    module = _compiled(engine)
    if module is None:
        return Eager
    if _suits(module, stft, update, init, n_open, of_bands):
        found: Callable[..., Engine] = module.ENGINE
        return found
    if engine == "cuda" and _suits(graph, stft, update, init, n_open, of_bands):
        return graph.CudaGraph
    if engine == "auto":
        return Eager
    transform = f"n_fft={stft.n_fft}, hop_length={stft.hop_length}, {stft.dtype}"
    why = _reasons((update,), n_open, 1) or (" (values of bands)" if of_bands else "")
    raise ValueError(
        f"Parameter {engine=} has no compiled code for {update}, {init} with {transform} on "
        f"{str(stft.device)!r}{why}: use 'auto'"
    )


def _suits(module: ModuleType, stft: STFT, update: Update, init: Start, n_open: int, of_bands: bool) -> bool:
    suits: bool = module.suits(stft, update, init, n_open)
    return suits and not (of_bands and module.lacks_bands(update, n_open))


def _on_a_gpu(stft: STFT, update: Update, init: Start, n_open: int, of_bands: bool) -> Callable[..., Engine]:
    if all(type(part).__module__ == home.__module__ for part, home in ((update, Update), (init, Start))):
        for name in ON_A_GPU:
            with suppress(ImportError):
                module = import_module(f"rtspecinv.engines.{MODULES[name]}")
                if _suits(module, stft, update, init, n_open, of_bands):
                    found: Callable[..., Engine] = module.ENGINE
                    return found
    return Eager


def find_batch(
    engine: str, stft: STFT, rules: tuple[Update, ...], n_frames: int, needs_grad: bool
) -> Callable[..., BatchEngine]:
    """What iterates whole spectrograms, by name as in `find`; where gradients are wanted it is the reference.

    Raises:
        ValueError, ImportError: as in `find`.
    """
    choice(ENGINES, engine=engine)
    if engine in ON_A_GPU or (engine == "auto" and stft.device.type != CPU):
        return EagerBatch  # the others are for streams
    if _compiled(engine) is None:
        return EagerBatch
    from rtspecinv.engines.cpu import batch

    if batch.suits(stft, rules, n_frames):
        return EagerBatch if needs_grad else batch.NumbaBatch
    if engine == "auto":
        return EagerBatch
    names, why = ", ".join(map(str, rules)), _reasons(rules, n_frames, n_frames)
    raise ValueError(
        f"Parameter {engine=} has no compiled code for {names} on {str(stft.device)!r}{why}: use 'auto'"
    )


def unmixer(engine: Engine, bank: FilterBank) -> Callable[[Tensor], Tensor]:
    """What makes magnitudes of band values, like `bank.unmix`, where an engine works; the bank stays as is.

    Compilation, or loading of what was compiled, takes place at the first call.
    """
    if engine.name != "numba" or bank.filters.device.type != "cpu":
        return bank.unmix
    from rtspecinv.engines.cpu.mel import Unmixer, is_narrow

    return Unmixer(bank) if is_narrow(bank.filters.numpy()) else bank.unmix


def replayed(
    engine: Engine, function: Callable[[Tensor], Tensor], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Function of one tensor on a device, which an engine for a GPU records at the first call and replays."""
    return graph.Replayed(function) if engine.judges and device.type == graph.DEVICE else function


def preemphasis_undoer(
    engine: Engine, like: Tensor
) -> Callable[[Tensor, Tensor, Tensor | None, float], Tensor] | None:
    """What undoes pre-emphasis of samples `like` these where an engine works, see `mel.stream.DeEmphasis`.

    None where nothing is compiled for it.
    """
    if engine.name != "numba" or like.device.type != "cpu" or like.requires_grad:
        return None
    from rtspecinv.engines.cpu.mel import undo_preemphasis

    return undo_preemphasis


def _reasons(rules: tuple[Update, ...], n_open: int, n_new: int) -> str:
    """Why rules have no table, in brackets; empty if they have."""
    reasons = filter(None, (why_none(rule, n_open, n_new) for rule in rules))
    text = "; ".join(dict.fromkeys(reasons))
    return text and f" ({text})"


def _compiled(engine: str) -> ModuleType | None:
    """Module of an engine, None for the reference."""
    if engine == "eager":
        return None
    name = "numba" if engine == "auto" else engine
    try:
        module = import_module(f"rtspecinv.engines.{MODULES[name]}")
    except ImportError as error:
        if engine == "auto":
            return None
        needs, extra = NEEDS[name]
        raise ImportError(
            f'Parameter {engine=} needs {needs} ({error}): pip install "rtspecinv[{extra}]"'
        ) from error
    if name == "numba" and module.is_switched_off:
        if engine != "auto":
            raise ValueError(
                f"Parameter {engine=} is compiled code, which NUMBA_DISABLE_JIT=1 switches off: start Python "
                "without that variable, or use 'eager'"
            )
        warnings.warn(  # from one line, so that it is shown once
            "NUMBA_DISABLE_JIT=1 switches compiled code off: plain torch works in its place", stacklevel=1
        )
        return None
    return module
