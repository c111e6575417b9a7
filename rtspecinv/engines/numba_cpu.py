"""The engine for the CPU: a whole push in one compiled call.

All state is where `Eager` has it, in the buffers of a `FrameBuffer`, whose memory compiled code reads and
writes. So what it cannot do, the reference does in its place, in mid-stream: gradients, and other devices
after a `.to()`.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rtspecinv.engines import numba_fft
from rtspecinv.engines.announce import compiling
from rtspecinv.engines.eager import Eager
from rtspecinv.engines.numba_kernels import push
from rtspecinv.engines.numba_lanes import WIDTH
from rtspecinv.engines.numba_memory import ACCELERATED, DIFFERENCE_MAP, LINEAR, OVERLAP, ZEROS, Memory, Plan
from rtspecinv.engines.numba_memory import ADMM as ADMM_RULE
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

# Samples through a transform and back that are worth a thread: about 0.1 ms.
WORK_OF_A_THREAD = 100_000

LINE = 64  # bytes

N_ITER = Plan._fields.index("n_iter")


class _Ready(NamedTuple):
    """What a push needs: a plan, and for each thread the addresses of the buffers and of its own room."""

    plan: Array
    memories: list[Array]
    number: np.floating[Any]
    n_streams: int
    shape: tuple[int, ...]  # of hops
    dtype: torch.dtype
    unchanged: Array
    arrays: list[Array]  # all that the addresses point to


class NumbaCPU(Eager):
    """Advances all streams by one frame in compiled code that releases the GIL.

    Streams are spread over at most `torch.get_num_threads()` threads; a stream has the same bits in any.
    The arguments are those of `Eager`. Compilation, of one precision, takes place here and is kept on disk.
    """

    name = "numba_cpu"

    def __init__(self, stft: STFT, update: Update, init: Start, **options: Any) -> None:
        super().__init__(stft, update, init, **options)
        self._start_is_compiled = isinstance(init, (Overlap, Zeros))
        self._has_gradients = False
        self._ready: _Ready | None = self._prepare()

    def push(self, magnitude: Tensor | None, spectrum: Tensor | None = None) -> Tensor:
        """Take in a frame, or its absence, and return the next hop of samples; see `Engine`."""
        requires = self._has_gradients or (magnitude is not None and magnitude.requires_grad)
        if requires or self._ready is None:
            if self.buffer.committed.device.type != "cpu" or (requires and torch.is_grad_enabled()):
                self._has_gradients, self._ready = requires, None
                return super().push(magnitude, spectrum)
            self.detach()
            for name in self.buffer.STATE:  # compiled code changes what a graph may have saved
                torch.autograd.graph.increment_version(self.buffer.get_buffer(name))
            self._ready = self._prepare()
        if magnitude is not None and spectrum is None and not self._start_is_compiled:
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
            self._ready.unchanged[:] = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": None}  # a copy has buffers of its own

    def _apply(self, fn: Any, recurse: bool = True) -> NumbaCPU:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._ready = self._prepare() if self.buffer.committed.device.type == "cpu" else None
        return self

    def _push(self, ready: _Ready, magnitude: Tensor | None, spectrum: Tensor | None) -> Tensor:
        """Advance all streams, some of them in other threads if there is enough to do."""
        ready.plan[N_ITER] = self.n_iter
        hops = torch.empty(ready.shape, dtype=ready.dtype)
        # In memory they lie as the buffers do; these names keep alive what the addresses point to.
        magnitude = None if magnitude is None else magnitude.resolve_neg().contiguous()
        spectrum = None if spectrum is None else spectrum.resolve_conj().resolve_neg().contiguous()
        frame = 0 if magnitude is None else magnitude.data_ptr()
        start = 0 if magnitude is None or spectrum is None else spectrum.data_ptr()
        call: Any = (frame, start, hops.data_ptr(), ready.number)
        n_threads = len(ready.memories)
        if n_threads == 1 or (n_threads := min(n_threads, torch.get_num_threads())) == 1:
            push(ready.plan, ready.memories[0], *call, 0, ready.n_streams)
            return hops
        bounds = [ready.n_streams * part // n_threads for part in range(n_threads + 1)]
        others = [
            _pool(n_threads - 1).submit(partial(push, ready.plan, memory, *call, first, last))
            for memory, first, last in zip(ready.memories[1:], bounds[1:], bounds[2:], strict=False)
        ]
        push(ready.plan, ready.memories[0], *call, 0, bounds[1])
        for other in others:
            other.result()
        return hops

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
        """Compile for the precision of the buffers, or load what was compiled, and lay out the memory."""
        buffer, stft = self.buffer, self.buffer.stft
        n_streams, n_open, hop_length = math.prod(buffer.batch_shape), buffer.n_open, stft.hop_length
        plan, size = _plan(buffer, self.update, self.init, self.n_iter)
        state = {name: buffer.get_buffer(name).detach().numpy() for name in buffer.STATE}
        dtype = state["committed"].dtype
        windows = {
            "unchanged": _aligned(n_streams, dtype),
            "analysis": _aligned(n_streams * n_open * plan.padded_frame, dtype),
            "start_analysis": _aligned(n_streams * plan.padded_frame, dtype),
            "gain": _aligned(n_streams * (hop_length + buffer.n_fade), dtype),
        }
        constants = _constants(buffer, self.update, plan)
        constants = {name: _aligned(values.size, dtype, values) for name, values in constants.items()}
        work = n_streams * stft.n_fft * n_open * (self.n_iter + 2)
        n_threads = max(1, min(n_streams, work // WORK_OF_A_THREAD, os.cpu_count() or 1))
        sizes = {"work": size, "real": plan.padded_frame, "half": 2 * plan.n_half}
        arrays: list[Array] = []
        memories: list[Array] = []
        for _ in range(n_threads):
            room = {name: _aligned(n, dtype) for name, n in sizes.items()}
            named = {**state, **windows, **constants, **room}
            arrays += named.values()
            memory = Memory(**{name: array.ctypes.data for name, array in named.items()})
            memories.append(np.array(memory, np.int64))
        ready = _Ready(
            np.array(plan, np.int64),
            memories,
            dtype.type(0),
            n_streams,
            (*buffer.batch_shape, hop_length),
            stft.dtype,
            windows["unchanged"],
            arrays,
        )
        with compiling(push, f"the engine numba for {str(stft.dtype).removeprefix('torch.')}"):
            push(ready.plan, memories[0], 0, 0, 0, ready.number, 0, 0)
        return ready


def suits(stft: STFT, update: Update, init: Start) -> bool:
    """Whether there is compiled code for this rule, this start and this device."""
    rules = (GriffinLim, RTISI, RAAR, DifferenceMap, ADMM, AcceleratedGriffinLim)
    starts = (Overlap, Zeros, Peaks, Gradient)
    known = type(update) in rules and type(init) in starts and not init.n_waiting
    return known and stft.device.type == "cpu"


def _plan(buffer: FrameBuffer, update: Update, init: Start, n_iter: int) -> tuple[Plan, int]:
    """Plan, and how many numbers a thread works on."""
    stft, n_open, n_samples = buffer.stft, buffer.n_open, buffer.committed.shape[-1]
    n_half, n_slots, rule = stft.n_fft // 2 + 1, 1 + update.n_carried, _rule(update, n_open)[0]
    padded = numba_fft.pad(n_half)
    spectra = n_open * padded
    y = spectra + 2 * (n_slots + (rule == DIFFERENCE_MAP)) * n_open * padded
    room = y + 2 * padded
    samples = room + 4 * padded + numba_fft.GAP
    others = samples + numba_fft.pad(n_samples) + WIDTH
    plan = Plan(
        n_fft=stft.n_fft,
        n_half=n_half,
        padded=padded,
        padded_frame=numba_fft.pad(stft.n_fft),
        own_fft=numba_fft.suits(stft.n_fft),
        second_radix=numba_fft.odd_radix(stft.n_fft),
        hop_length=stft.hop_length,
        n_open=n_open,
        n_revised=buffer.n_heard // stft.hop_length,
        n_fade=buffer.n_fade,
        n_samples=n_samples,
        n_slots=n_slots,
        n_iter=n_iter,
        # By then all frames that left before the change have left the coverage, too.
        n_settling=2 * n_open + 2 * stft.look_back + 2,
        rule=rule,
        start=ZEROS if isinstance(init, Zeros) else OVERLAP,
        compensated=buffer.compensated,
        commits_consistent=isinstance(update, GriffinLim),
        spectra=spectra,
        y=y,
        room=room,
        samples=samples,
        others=others,
    )
    return plan, others + numba_fft.pad(n_samples) + WIDTH


def _constants(buffer: FrameBuffer, update: Update, plan: Plan) -> dict[str, Array]:
    stft, dtype = buffer.stft, buffer.stft.dtype
    forward, inverse = stft.scale * (0.5 if plan.own_fft else 1.0), 1 / (stft.n_fft * stft.scale)
    first_window, newest_window = asymmetric_windows(stft)
    windows = {
        "window": stft.window * forward,
        "dual_window": stft.dual_window * inverse,
        "envelope": stft.envelope,
        "first_window": first_window * forward,
        "newest_window": newest_window * forward,
    }
    padding = (0, plan.padded_frame - plan.n_fft)
    return {
        "constants": _rule(update, plan.n_open)[1],
        "fade": buffer.fade().to(dtype).numpy(),
        "tables": numba_fft.tables(plan.n_fft),
        **{name: np.pad(window.numpy(), padding) for name, window in windows.items()},
    }


def _rule(update: Update, n_open: int) -> tuple[int, Array]:
    """Which compiled rule it is, and its constants, `(n_open, 6)`."""
    rule = LINEAR
    if isinstance(update, GriffinLim):
        constants = [1.0, 0.0, 1 + update.momentum, 0.0, 0.0, -update.momentum]
    elif isinstance(update, RAAR):
        beta = update.betas(torch.zeros(n_open, 1, 1, dtype=torch.float64)).flatten().numpy()
        momentum = update.momentum
        columns = np.broadcast_arrays(2.0, -1.0, beta + momentum, beta, 1 - 2 * beta, -momentum)
        return rule, np.stack(columns, -1)
    elif isinstance(update, DifferenceMap) and update.beta == 1:
        constants = [2.0, -1.0, 1.0, 1.0, -1.0, 0.0]
    elif isinstance(update, DifferenceMap):
        rule, constants = DIFFERENCE_MAP, [1 / update.beta, 0.0, update.beta, 0.0, 0.0, 0.0]
    elif isinstance(update, ADMM):
        rule, constants = ADMM_RULE, [update.rho / (1 + update.rho), 1 / (1 + update.rho), 0.0, 0.0, 0.0, 0.0]
    elif isinstance(update, AcceleratedGriffinLim):
        constants = [update.alpha, update.beta, update.gamma, 1 - update.gamma, 0.0, 0.0]
        rule = ACCELERATED
    else:
        raise ValueError(f"Parameter {update=} is not compiled: use engine='eager'!")
    return rule, np.tile(constants, (n_open, 1))


def _aligned(size: int, dtype: Any, values: Array | None = None) -> Array:
    """Zeros, or values, that begin where a cache line does: lanes that cross two lines take twice as long."""
    room = np.zeros(size * dtype.itemsize + LINE, np.uint8)
    begin = -room.ctypes.data % LINE
    array: Array = room[begin : begin + size * dtype.itemsize].view(dtype)
    if values is not None:
        array[:] = values.ravel()
    return array


def _not_compiled() -> Tensor:
    raise NotImplementedError("only starts that do not need the overlap")


@lru_cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, "rtspecinv")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)
