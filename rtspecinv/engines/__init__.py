"""Engines: implementations of a push of a stream and of the iterations of a batch run.

All engines compute the same result as `eager`, the reference; the others are faster.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
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

# Modules of the engines, which are imported when first selected.
MODULES = {"numba": "cpu.stream", "cuda_graph": "gpu.graph", "cuda": "gpu.cuda"}
CPU = "cpu"
ON_A_GPU = ("cuda", "cuda_graph")  # what "auto" selects on a GPU, the fastest first
NEEDS = {"numba": ("numba and rocket-fft", "fast"), "cuda": ("cuda-bindings and NVRTC", "gpu")}


class Engine(Protocol):
    """Interface of an engine of `StreamingInverter`: a `torch.nn.Module` that holds all state in buffers."""

    name: str
    n_iter: int  # may change from push to push

    @property
    def judges(self) -> bool:
        """True if `offer` accepts frames; it never accepts frames that require gradients."""

    def push(
        self, magnitude: Tensor | None, spectrum: Tensor | None = None, streams: Tensor | None = None
    ) -> Tensor:
        """Take in a frame, or None after the last one, and return the next hop of samples.

        Args:
            magnitude: real `(*batch, n_fft // 2 + 1 + n_values)`: magnitudes, then the values of bands if
                there are any; None after the last frame.
            spectrum: complex `(*batch, n_fft // 2 + 1)`, whose phase the frame starts with; default: the
                phase that `init` computes.
            streams: positions `(n_streams,)` of the streams to advance, in the order of memory; `*batch` is
                then `n_streams`, and the other streams do not change. Default: all.

        Returns:
            Real `(*batch, hop_length)`.
        """

    def push_many(
        self, magnitudes: Tensor, spectra: Tensor | None = None, streams: Tensor | None = None
    ) -> Sequence[Tensor]:
        """Take in frames `(n_frames, ...)` as `push` does, and return the hop of each."""

    def offer(
        self, magnitude: Tensor, spectrum: Tensor | None = None, *, each: bool
    ) -> tuple[Tensor, Tensor] | None:
        """Compute the next hop of a frame that has not been checked, without waiting for the device.

        A frame is bad if a magnitude is negative, not finite or above `inputs.largest_magnitude`. A bad
        frame does not change the state. After an offer of good frames, call `accept`.

        Args:
            magnitude, spectrum: as in `push`, with any values.
            each: if True, a bad frame stops its own stream only; otherwise it stops all streams.

        Returns:
            The hop, silent in streams that are stopped, and the smallest and the largest magnitude of each
            stream's frame, `(2, *batch)`, NaN if one is NaN. Both are on the device, and the next push
            overwrites the second. None if the engine did nothing, which is always so unless `judges`:
            the caller then checks the values and calls `push`.
        """

    def accept(self) -> None:
        """Make the result of the last `offer` the state.

        To be called if `each` was True, or if the extremes show that no frame is bad. Otherwise it must not
        be called, and the state remains that before the offer. An engine that checks frames on the device
        may have updated the state already; this call then does nothing.
        """

    def preserved(self, n_pushes: int = 1) -> AbstractContextManager[None]:
        """Return a context that restores the state if one of `n_pushes` pushes in it is interrupted."""

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that change from push to push, by name; call `changed` after writing to them."""

    def changed(self) -> None:
        """Update what the engine derives from its buffers; call it after other code has written to them."""

    def detach(self) -> None:
        """Detach the state from the gradients of earlier frames."""

    def reset(self, streams: Tensor | None = None) -> None:
        """Reset the state of all streams, or of those selected: positions or a flat bool mask."""


def find(
    engine: str, stft: STFT, update: Update, init: Start, n_open: int, of_bands: bool = False
) -> Callable[..., Engine]:
    """Return the engine class of a name; "auto" selects one by device, rule and start.

    On a CPU, "auto" selects numba if it is installed and supports the rule and the start. On a GPU, "auto"
    selects the first engine of `ON_A_GPU` that supports them, if the rule and the start are this package's;
    a user's rule or start runs in `eager`, because a GPU may not be able to record it. The order of
    `ON_A_GPU` was not measured; `bench/gpu.py` measures it on a GPU.

    n_open: number of frames that the rule is applied to.
    of_bands: True if the targets are values of bands rather than magnitudes, default: False.

    Raises:
        ValueError: no engine has this name, or the engine does not support the rule, start or device.
        ImportError: a package that the engine needs is not installed; the message says how to install it.
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
    engine: str,
    stft: STFT,
    rules: tuple[Update, ...],
    n_frames: int,
    needs_grad: bool,
    joint: bool = False,
) -> Callable[..., BatchEngine]:
    """Return the engine of batch runs of a name, as in `find`; with gradients, it is always the reference.

    joint: whether the engine gets values of bands, default: False.

    Raises:
        ValueError, ImportError: as in `find`.
    """
    choice(ENGINES, engine=engine)
    if engine in ON_A_GPU or (engine == "auto" and stft.device.type != CPU):
        return EagerBatch  # the GPU engines are for streams only
    if _compiled(engine) is None:
        return EagerBatch
    from rtspecinv.engines.cpu import batch

    if batch.suits(stft, rules, n_frames, joint):
        return EagerBatch if needs_grad else batch.NumbaBatch
    if engine == "auto":
        return EagerBatch
    names = ", ".join(map(str, rules))
    why = _reasons(rules, n_frames, n_frames) or (" (values of bands)" if joint else "")
    raise ValueError(
        f"Parameter {engine=} has no compiled code for {names} on {str(stft.device)!r}{why}: use 'auto'"
    )


def unmixer(engine: Engine, bank: FilterBank) -> Callable[[Tensor], Tensor]:
    """Return a function like `bank.unmix` that runs on the engine's device; the bank does not change.

    The first call compiles the function, or loads it from the cache. With the engine "numba", the bits of a
    stream do not depend on the number of streams.
    """
    if engine.name != "numba" or bank.filters.device.type != "cpu":
        return bank.unmix
    from rtspecinv.engines.cpu.mel import Unmixer, is_narrow

    return Unmixer(bank) if is_narrow(bank.filters.numpy()) else partial(_each, bank.unmix)


def _each(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Return the results of a function of `(n_values,)` for each stream of values `(*batch, n_values)`.

    How a product of matrices rounds depends on the number of rows, and on where they begin in memory.
    """
    rows = values.reshape(-1, values.shape[-1])
    found = torch.stack([function(row.clone()) for row in rows]) if len(rows) else function(rows)
    return found.reshape(*values.shape[:-1], found.shape[-1])


def replayed(
    engine: Engine, function: Callable[[Tensor], Tensor], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Return a function of one tensor; a GPU engine records it at the first call and replays it later."""
    return graph.Replayed(function) if engine.judges and device.type == graph.DEVICE else function


def preemphasis_undoer(
    engine: Engine, like: Tensor
) -> Callable[[Tensor, Tensor, Tensor | None, float], Tensor] | None:
    """Return a compiled function that undoes pre-emphasis of samples such as `like`; None if there is none.

    See `mel.stream.DeEmphasis`, the reference.
    """
    if engine.name != "numba" or like.device.type != "cpu" or like.requires_grad:
        return None
    from rtspecinv.engines.cpu.mel import undo_preemphasis

    return undo_preemphasis


def _reasons(rules: tuple[Update, ...], n_open: int, n_new: int) -> str:
    """Return the reason why a rule has no table, in brackets; empty if all rules have one."""
    reasons = filter(None, (why_none(rule, n_open, n_new) for rule in rules))
    text = "; ".join(dict.fromkeys(reasons))
    return text and f" ({text})"


def _compiled(engine: str) -> ModuleType | None:
    """Return the module of an engine; None for the reference."""
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
        warnings.warn(  # always from this line, so that Python shows it once
            "NUMBA_DISABLE_JIT=1 switches compiled code off: plain torch is used instead", stacklevel=1
        )
        return None
    return module
