"""The engine for the CPU: a whole push in one compiled call.

All state is where `Eager` has it, in the buffers of a `FrameBuffer`, which compiled code sees as arrays. So what
compiled code cannot do, the reference does in its place, in mid-stream: gradients, and other devices after a
`.to()`.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rtspecinv.engines import numba_fft
from rtspecinv.engines.eager import Eager
from rtspecinv.engines.numba_kernels import (
    ACCELERATED,
    DIFFERENCE_MAP,
    LINEAR,
    OVERLAP,
    ZEROS,
    Plan,
    State,
    push,
    work_size,
)
from rtspecinv.engines.numba_kernels import ADMM as ADMM_RULE
from rtspecinv.frames import FrameBuffer, asymmetric_windows
from rtspecinv.phase import Context, Gradient, Overlap, Peaks, Start, Zeros
from rtspecinv.projections import to_magnitude
from rtspecinv.stft import STFT
from rtspecinv.updates import (
    ADMM,
    RAAR,
    RTISI,
    AcceleratedGriffinLim,
    DifferenceMap,
    GriffinLim,
    Update,
)

Array = np.ndarray[Any, Any]

# Samples through a transform and back that are worth a thread: about 0.2 ms.
WORK_OF_A_THREAD = 100_000


class _Ready(NamedTuple):
    """Arrays over the buffers as they are now."""

    state: State
    threads: list[tuple[Plan, Array]]  # each with room of its own
    newest: Tensor  # where a magnitude is put, and the same as an array
    magnitude: Array
    given: Tensor  # where a start is put
    spectrum: Array
    no_spectrum: Array


class NumbaCPU(Eager):
    """Advances all streams by one frame in compiled code that releases the GIL.

    Streams are spread over at most `torch.get_num_threads()` threads; a stream has the same bits in any.
    The arguments are those of `Eager`. Compilation, of one precision, takes place here and is kept on disk.
    """

    name = "numba_cpu"

    def __init__(self, stft: STFT, update: Update, init: Start, **options: Any) -> None:
        super().__init__(stft, update, init, **options)
        self._has_gradients = False
        self._ready: _Ready | None = self._prepare()

    def push(self, magnitude: Tensor | None, spectrum: Tensor | None = None) -> Tensor:
        """Take in a frame, or its absence, and return the next hop of samples; see `Engine`."""
        requires = self._has_gradients or (magnitude is not None and magnitude.requires_grad)
        if self.buffer.committed.device.type != "cpu" or (requires and torch.is_grad_enabled()):
            self._has_gradients, self._ready = True, None
            return super().push(magnitude, spectrum)
        if self._has_gradients:
            self.detach()
        if self._ready is None:
            self._ready = self._prepare()
        if magnitude is not None and spectrum is None and not isinstance(self.init, (Overlap, Zeros)):
            spectrum = self._start_of(magnitude)
        return self._push(self._ready, magnitude, spectrum)

    def detach(self) -> None:
        """Cut the state off from the gradients of the frames so far."""
        super().detach()
        self._has_gradients = False

    def reset(self, streams: Tensor | None = None) -> None:
        """Forget everything, in all streams or where the bool mask `streams` is true."""
        super().reset(streams)
        self._has_gradients = False
        if self._ready is not None:
            self._ready.state.unchanged[:] = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": None}  # a copy has buffers of its own

    def _apply(self, fn: Any, recurse: bool = True) -> NumbaCPU:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._ready = self._prepare() if self.buffer.committed.device.type == "cpu" else None
        return self

    def _push(self, ready: _Ready, magnitude: Tensor | None, spectrum: Tensor | None) -> Tensor:
        buffer = self.buffer
        given = ready.no_spectrum
        if magnitude is not None:
            ready.newest.copy_(magnitude)
            if spectrum is not None:
                ready.given.copy_(torch.view_as_real(spectrum.resolve_conj()))
                given = ready.spectrum
        hops = np.empty((*buffer.batch_shape, buffer.stft.hop_length), ready.magnitude.dtype)
        n_streams, hop_length = len(ready.magnitude), buffer.stft.hop_length
        flat = hops.reshape(n_streams, hop_length)

        def advance(part: int, n_parts: int) -> None:
            plan, work = ready.threads[part]
            first, last = (n_streams * p // n_parts for p in (part, part + 1))
            push(plan, ready.state, work, ready.magnitude, given, magnitude is not None, flat, first, last)

        n_parts = min(len(ready.threads), torch.get_num_threads())
        others = [_pool(n_parts - 1).submit(advance, part, n_parts) for part in range(1, n_parts)]
        advance(0, n_parts)
        for other in others:
            other.result()
        return torch.from_numpy(hops)

    def _start_of(self, magnitude: Tensor) -> Tensor:
        """Spectrum `(*batch, n_half)` that a frame starts from which the buffer has not taken in yet."""
        buffer = self.buffer

        def past() -> Tensor:
            return torch.view_as_complex(buffer.past.clone())

        def previous() -> Tensor:
            if buffer.n_open == 1:
                return past()[..., -1, :]
            newest = torch.view_as_complex(buffer.spectra[..., 0, -1, :, :].contiguous())
            return to_magnitude(newest, buffer.magnitude[..., -1, :])

        def known() -> Tensor:
            others = buffer.magnitude[..., 1:, :]
            return torch.cat([past().abs(), others, magnitude.unsqueeze(-2)], -2)

        return self.init(Context(buffer.stft, magnitude=known, previous=previous, overlap=_not_compiled))

    def _prepare(self) -> _Ready:
        """Compile for the precision of the buffers, or load what was, and make all arrays."""
        buffer, stft = self.buffer, self.buffer.stft
        dtype = buffer.committed.detach().numpy().dtype
        n_streams, n_half = math.prod(buffer.batch_shape), stft.n_fft // 2 + 1
        padded = numba_fft.pad(stft.n_fft)
        arrays = {name: _flat(buffer.get_buffer(name), buffer.batch_shape) for name in buffer.STATE}
        state = State(
            **arrays,
            unchanged=np.zeros(n_streams, np.int64),
            analysis=np.zeros((n_streams, buffer.n_open, padded), dtype),
            start_analysis=np.zeros((n_streams, padded), dtype),
            gain=np.zeros((n_streams, stft.hop_length + buffer.n_fade), dtype),
        )
        work_of_all = n_streams * stft.n_fft * buffer.n_open * (self.n_iter + 2)
        n_threads = max(1, min(n_streams, work_of_all // WORK_OF_A_THREAD, os.cpu_count() or 1))
        threads = []
        for _ in range(n_threads):
            plan = _plan(buffer, self.update, self.init, self.n_iter, dtype)
            threads.append((plan, np.zeros(work_size(plan), dtype)))
        newest = buffer.magnitude.new_zeros(*buffer.batch_shape, n_half)
        given = buffer.magnitude.new_zeros(*buffer.batch_shape, n_half, 2)
        ready = _Ready(
            state,
            threads,
            newest,
            newest.numpy().reshape(n_streams, n_half),
            given,
            given.numpy().reshape(n_streams, n_half, 2),
            np.zeros((0, n_half, 2), dtype),
        )
        hops = np.empty((n_streams, stft.hop_length), dtype)
        push(threads[0][0], state, threads[0][1], ready.magnitude, ready.no_spectrum, False, hops, 0, 0)
        return ready


def suits(stft: STFT, update: Update, init: Start) -> bool:
    """Whether there is compiled code for this rule, this start and this device."""
    rules = (GriffinLim, RTISI, RAAR, DifferenceMap, ADMM, AcceleratedGriffinLim)
    starts = (Overlap, Zeros, Peaks, Gradient)
    known = type(update) in rules and type(init) in starts and not init.n_waiting
    return known and stft.device.type == "cpu"


def _plan(buffer: FrameBuffer, update: Update, init: Start, n_iter: int, dtype: Any) -> Plan:
    stft = buffer.stft
    fft = numba_fft.make(stft.n_fft, dtype)
    forward = stft.scale * (0.5 if fft.own else 1.0)
    inverse = 1 / (stft.n_fft * stft.scale)

    def padded(window: Tensor, scale: float = 1.0) -> Array:
        values = (window * scale).numpy()
        return np.pad(values, (0, numba_fft.pad(len(values)) - len(values)))

    first_window, newest_window = asymmetric_windows(stft)
    rule, constants = _rule(update, buffer.n_open)
    return Plan(
        hop_length=stft.hop_length,
        n_open=buffer.n_open,
        n_revised=buffer.n_heard // stft.hop_length,
        n_fade=buffer.n_fade,
        n_samples=buffer.committed.shape[-1],
        n_carried=update.n_carried,
        n_iter=n_iter,
        # By then all frames that left before the change have left the coverage, too.
        n_settling=2 * buffer.n_open + 2 * stft.look_back + 2,
        rule=rule,
        start=ZEROS if isinstance(init, Zeros) else OVERLAP,
        compensated=buffer.compensated,
        commits_consistent=isinstance(update, GriffinLim),
        constants=constants.astype(dtype),
        window=padded(stft.window, forward),
        dual_window=padded(stft.dual_window, inverse),
        envelope=padded(stft.envelope),
        first_window=padded(first_window, forward),
        newest_window=padded(newest_window, forward),
        fade=buffer.fade().numpy(),
        fft=fft,
    )


def _rule(update: Update, n_open: int) -> tuple[int, Array]:
    """Kernel of a rule, and its constants for every frame; those of the linear family in the order of `Plan`."""
    if isinstance(update, GriffinLim):
        rule, constants = LINEAR, [1.0, 0.0, 1 + update.momentum, 0.0, 0.0, -update.momentum]
    elif isinstance(update, RAAR):
        beta = update.betas(torch.zeros(n_open, 1, 1, dtype=torch.float64)).flatten().numpy()
        momentum = update.momentum
        columns = np.broadcast_arrays(2.0, -1.0, beta + momentum, beta, 1 - 2 * beta, -momentum)
        return LINEAR, np.stack(columns, -1)
    elif isinstance(update, DifferenceMap) and update.beta == 1:
        rule, constants = LINEAR, [2.0, -1.0, 1.0, 1.0, -1.0, 0.0]
    elif isinstance(update, DifferenceMap):
        rule, constants = DIFFERENCE_MAP, [1 / update.beta, 0.0, update.beta, 0.0, 0.0, 0.0]
    elif isinstance(update, ADMM):
        rule, constants = ADMM_RULE, [update.rho / (1 + update.rho), 1 / (1 + update.rho), 0.0, 0.0, 0.0, 0.0]
    elif isinstance(update, AcceleratedGriffinLim):
        alpha, beta, gamma = update.alpha, update.beta, update.gamma
        rule, constants = ACCELERATED, [alpha, beta, gamma, 1 - gamma, 0.0, 0.0]
    else:
        raise ValueError(f"Parameter {update=} is not compiled: use engine='eager'!")
    return rule, np.tile(constants, (n_open, 1))


def _flat(state: Tensor, batch_shape: tuple[int, ...]) -> Array:
    """Array over the memory of a buffer, the axes of the batch made one."""
    return state.detach().numpy().reshape(math.prod(batch_shape), *state.shape[len(batch_shape) :])


def _not_compiled() -> Tensor:
    raise NotImplementedError("only starts that do not need the overlap")


@lru_cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, "rtspecinv")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)
