"""The CPU engine of streams: a whole push in one compiled call.

All state is in the buffers of a `FrameBuffer`, as in `Eager`; compiled code reads and writes their memory.
So `Eager` can replace compiled code at any push, for what it does not support: gradients, and other devices
after a `.to()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from rtspecinv.bands import Bands, Magnitudes
from rtspecinv.engines.cpu import fft
from rtspecinv.engines.cpu.host import (
    Array,
    Rule,
    aligned,
    bands_of,
    padded_signs,
    parallel_for,
    rule_of,
    scales,
    threads_for,
)
from rtspecinv.engines.cpu.interrupts import LONG, aside
from rtspecinv.engines.cpu.lanes import WIDTH
from rtspecinv.engines.cpu.memory import GRADIENT, OVERLAP, TWICE, ZEROS, Memory, Plan
from rtspecinv.engines.cpu.push import push
from rtspecinv.engines.cpu.start import gradient_numbers
from rtspecinv.engines.eager import Eager, start_ahead
from rtspecinv.frames import FrameBuffer, asymmetric_windows
from rtspecinv.phase import Gradient, Overlap, Peaks, Start, Zeros
from rtspecinv.stft import STFT
from rtspecinv.updates import Update

is_switched_off = bool(numba.config.DISABLE_JIT)

N_ITER = Plan._fields.index("n_iter")

NONE = np.zeros(0)
STARTS = {Overlap: OVERLAP, Zeros: ZEROS, Gradient: GRADIENT}  # starts with compiled code


class _Ready(NamedTuple):
    """Data of a push: the plan, and for each thread the addresses of the buffers and of its work memory."""

    plan: Array
    memories: list[Array]
    number: np.floating[Any]
    n_streams: int
    shape: tuple[int, ...]  # shape of hops
    dtype: torch.dtype
    unchanged: Array
    stop: Array
    n_values: int  # number of values in the open frames of one stream
    rows: tuple[int, int, int]  # bytes of one stream's magnitudes, spectrum and hop
    arrays: list[Array]  # arrays that the addresses point to, kept alive


class NumbaCPU(Eager):
    """Advances all streams by one frame in compiled code that releases the GIL.

    Streams are distributed over at most `torch.get_num_threads()` threads; the number of threads does not
    change their bits. The arguments are those of `Eager`. The constructor compiles the code for one
    precision, and caches it on disk.
    """

    name = "numba"

    def __init__(self, stft: STFT, update: Update, init: Start, **options: Any) -> None:
        super().__init__(stft, update, init, **options)
        self._start_is_compiled = type(init) in STARTS
        self._has_gradients = False
        rule = rule_of(update, self.buffer.n_open)
        assert rule is not None, "see `suits`"
        self._rule = rule
        self._ready: _Ready | None = self._prepare()

    def push(
        self, magnitude: Tensor | None, spectrum: Tensor | None = None, streams: Tensor | None = None
    ) -> Tensor:
        """Take in a frame, or None after the last one, and return the next hop; see `Engine`."""
        requires = self._has_gradients or (magnitude is not None and magnitude.requires_grad)
        if requires or self._ready is None:
            if self.buffer.committed.device.type != "cpu" or (requires and torch.is_grad_enabled()):
                self._has_gradients, self._ready = requires, None
                return super().push(magnitude, spectrum, streams)
            self.detach()
            for name in self.buffer.STATE:  # compiled code overwrites what a gradient graph may have saved
                torch.autograd.graph.increment_version(self.buffer.get_buffer(name))
            self._ready = self._prepare()
        if magnitude is not None and spectrum is None and not self._start_is_compiled:
            spectrum = self._started(magnitude, streams)
        return self._push(self._ready, magnitude, spectrum, streams)

    def _started(self, magnitude: Tensor, streams: Tensor | None) -> Tensor:
        """Return the start of a frame that torch computes.

        How the products of matrices of `Bands` round depends on the number of streams: each is one by itself.
        """
        if not self.measurement.n_values:
            buffer = self.buffer if streams is None else self.buffer.part(streams)
            return start_ahead(buffer, self.init, magnitude, self.measurement)
        n_streams = math.prod(self.buffer.batch_shape)
        positions = torch.arange(n_streams, device="cpu") if streams is None else streams
        rows = magnitude.reshape(len(positions), -1).unsqueeze(1)
        parts = zip(map(self.buffer.part, positions.unsqueeze(1)), rows, strict=True)
        return torch.cat([start_ahead(part, self.init, row, self.measurement) for part, row in parts])

    def push_many(
        self, magnitudes: Tensor, spectra: Tensor | None = None, streams: Tensor | None = None
    ) -> Sequence[Tensor]:
        """Take in frames one after the other, and return their hops; see `Engine`."""
        has_gradients = self._has_gradients or magnitudes.requires_grad
        if self._ready is None or has_gradients or spectra is not None or not self._start_is_compiled:
            return super().push_many(magnitudes, spectra, streams)
        return self._push_all(self._ready, magnitudes, streams).unbind()

    def detach(self) -> None:
        """Detach the state from the gradients of earlier frames."""
        super().detach()
        self._has_gradients = False

    def reset(self, streams: Tensor | None = None) -> None:
        """Reset the state of all streams, or of those selected, as in `FrameBuffer.reset`."""
        super().reset(streams)
        if streams is None or self._ready is None:
            self.changed()
        else:
            self._ready.unchanged[streams.numpy()] = 0  # the windows of the others remain

    def changed(self) -> None:
        """Update what is derived from the buffers, after other code has written to them."""
        self._has_gradients = self.buffer.spectra.requires_grad
        if self._ready is not None:
            self._ready.unchanged[:] = 0  # the windows depend on the buffers

    @contextmanager
    def preserved(self, n_pushes: int = 1) -> Iterator[None]:
        """Restore the state if `n_pushes` pushes are interrupted, unless they are too short for that."""
        ready = self._ready
        if ready is not None and n_pushes * self._work(ready.n_streams * ready.n_values) <= LONG:
            yield
            return
        try:
            with super().preserved(n_pushes):
                yield
        except BaseException:
            self.changed()
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": None}  # a copy has its own buffers

    def _apply(self, fn: Any, recurse: bool = True) -> NumbaCPU:
        super()._apply(fn, recurse)
        self._ready = self._prepare() if self.buffer.committed.device.type == "cpu" else None
        return self

    def _push(
        self, ready: _Ready, magnitude: Tensor | None, spectrum: Tensor | None, streams: Tensor | None
    ) -> Tensor:
        """Advance streams, in several threads if there is enough work."""
        ready.plan[N_ITER] = self.n_iter
        listed = None if streams is None else streams.tolist()
        shape = ready.shape if listed is None else (len(listed), ready.shape[-1])
        hops = torch.empty(shape, dtype=ready.dtype, device="cpu")
        # They have the memory layout of the buffers; these names keep alive what the addresses point to.
        magnitude = None if magnitude is None else magnitude.contiguous()
        spectrum = None if spectrum is None else spectrum.contiguous()
        frame = 0 if magnitude is None else magnitude.data_ptr()
        start = 0 if magnitude is None or spectrum is None else spectrum.data_ptr()
        call: Any = (frame, start, hops.data_ptr())
        n_tasks, n_threads = ready.n_streams, len(ready.memories)
        work = self._work(ready.n_values)

        def whole(thread: int, first: int, last: int) -> None:
            push(ready.plan, ready.memories[thread], *call, ready.number, first, last)

        part: Callable[[int, int, int], None] = whole
        if listed is not None:
            n_tasks = len(listed)
            n_threads = min(n_threads, threads_for(n_tasks, n_tasks * work))
            part = self._part(ready, call, listed)
        if n_tasks * work <= LONG:
            parallel_for(part, n_tasks, n_threads)
            return hops
        with self.preserved():
            aside(lambda: parallel_for(part, n_tasks, n_threads), ready.stop)
        return hops

    def _push_all(self, ready: _Ready, magnitudes: Tensor, streams: Tensor | None) -> Tensor:
        """Advance streams by frames `(n_frames, ...)`, and return their hops `(n_frames, ...)`.

        A stream takes all of its frames before the next stream, whose state is not in the cache.
        """
        ready.plan[N_ITER] = self.n_iter
        positions = range(ready.n_streams) if streams is None else streams.tolist()
        shape = ready.shape if streams is None else (len(positions), ready.shape[-1])
        n_frames, n_tasks = len(magnitudes), len(positions)
        hops = torch.empty((n_frames, *shape), dtype=ready.dtype, device="cpu")
        magnitudes = magnitudes.contiguous()  # the name keeps alive what the address points to
        first_frame, first_hop = magnitudes.data_ptr(), hops.data_ptr()
        (in_frame, _, in_hop), work = ready.rows, self._work(ready.n_values)

        def part(thread: int, first: int, last: int) -> None:
            for at in range(first, last):
                stream = positions[at]
                for row in range(at - stream, n_frames * n_tasks + at - stream, n_tasks):
                    if ready.stop[0]:
                        return
                    addresses = first_frame + row * in_frame, 0, first_hop + row * in_hop
                    push(ready.plan, ready.memories[thread], *addresses, ready.number, stream, stream + 1)

        n_threads = min(len(ready.memories), threads_for(n_tasks, n_tasks * work))
        if n_frames * n_tasks * work <= LONG:
            parallel_for(part, n_tasks, n_threads)
        else:
            aside(lambda: parallel_for(part, n_tasks, n_threads), ready.stop)
        return hops

    def _part(
        self, ready: _Ready, addresses: tuple[int, int, int], streams: list[int]
    ) -> Callable[[int, int, int], None]:
        """Return a task for `parallel_for` that advances the streams at given positions of a list."""

        def part(thread: int, first: int, last: int) -> None:
            for at, run in _runs(streams[first:last]):  # a stream reads its frame at its own position
                to = first + at - run.start
                moved = (start and start + to * row for start, row in zip(addresses, ready.rows, strict=True))
                push(ready.plan, ready.memories[thread], *moved, ready.number, run.start, run.stop)

        return part

    def _work(self, n_values: int) -> int:
        """Return the number of samples that a push of `n_values` transforms, as a measure of its work."""
        return n_values * (self.n_iter + 2)

    def _prepare(self) -> _Ready:
        """Compile for the precision of the buffers, or load compiled code, and allocate the work memory."""
        buffer, stft = self.buffer, self.buffer.stft
        n_streams, n_open, hop_length = math.prod(buffer.batch_shape), buffer.n_open, stft.hop_length
        plan, n_work = _plan(buffer, self._rule, self.init, self.n_iter, self.measurement)
        state = {name: buffer.get_buffer(name).detach().numpy() for name in buffer.STATE}
        dtype = state["committed"].dtype
        windows = {
            "unchanged": aligned(n_streams, dtype),
            "analysis": aligned(n_streams * n_open * plan.padded_frame, dtype),
            "start_analysis": aligned(n_streams * plan.padded_frame, dtype),
            "gain": aligned(n_streams * (hop_length + buffer.n_fade), dtype),
            "stop": aligned(1, dtype),
        }
        constants = {**_constants(buffer, plan), "numbers": _numbers(self._rule, n_open)}
        constants["gradient"] = gradient_numbers(stft, self.init) if isinstance(self.init, Gradient) else NONE
        constants |= bands_of(self.measurement, plan.n_half)
        constants = {name: aligned(values.size, dtype, values) for name, values in constants.items()}
        n_values, size = stft.n_fft * n_open, dtype.itemsize
        n_threads = threads_for(n_streams, self._work(n_streams * n_values))
        sizes = {"work": n_work, "real": plan.padded_frame, "half": 2 * plan.n_half}
        arrays: list[Array] = []
        memories: list[Array] = []
        for _ in range(n_threads):
            room = {name: aligned(n, dtype) for name, n in sizes.items()}
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
            windows["stop"],
            n_values,
            ((plan.n_half + plan.n_values) * size, 2 * plan.n_half * size, hop_length * size),
            arrays,
        )
        push(ready.plan, memories[0], 0, 0, 0, ready.number, 0, 0)  # compiles if necessary
        return ready


ENGINE = NumbaCPU


def _runs(streams: Sequence[int]) -> Iterator[tuple[int, range]]:
    """Return runs of consecutive streams, each with the position of its first stream in the list."""
    first = 0
    for i in range(1, len(streams) + 1):
        if i == len(streams) or streams[i] != streams[i - 1] + 1:
            yield first, range(streams[first], streams[i - 1] + 1)
            first = i


def suits(stft: STFT, update: Update, init: Start, n_open: int) -> bool:
    """Return whether there is compiled code for this rule, this start and this device."""
    return (
        type(init) in (*STARTS, Peaks) and stft.device.type == "cpu" and rule_of(update, n_open) is not None
    )


def lacks_bands(update: Update, n_open: int) -> bool:
    """Return whether values of bands are unsupported, as in rules that project twice."""
    rule = rule_of(update, n_open)
    return rule is None or rule.kind == TWICE


def _plan(
    buffer: FrameBuffer, rule: Rule, init: Start, n_iter: int, measurement: Magnitudes | Bands
) -> tuple[Plan, int]:
    """Return the plan, and the size of a thread's work memory in numbers."""
    stft, n_open, n_samples = buffer.stft, buffer.n_open, buffer.committed.shape[-1]
    n_half = stft.n_fft // 2 + 1
    padded = fft.pad(n_half)
    spectra = n_open * padded
    values = spectra + 2 * (rule.n_slots + (rule.kind == TWICE)) * n_open * padded
    n_values = measurement.n_values
    y = values + fft.pad(n_open * n_values)
    found = y + 2 * padded
    room = found + (2 * padded if n_values else 0)
    samples = room + 4 * padded + fft.GAP
    others = samples + fft.pad(n_samples) + WIDTH
    plan = Plan(
        n_fft=stft.n_fft,
        n_half=n_half,
        padded=padded,
        padded_frame=fft.pad(stft.n_fft),
        own_fft=fft.suits(stft.n_fft),
        second_radix=fft.odd_radix(stft.n_fft),
        hop_length=stft.hop_length,
        n_open=n_open,
        n_known=buffer.present.shape[-1],
        n_revised=buffer.n_heard // stft.hop_length,
        n_fade=buffer.n_fade,
        n_samples=n_samples,
        n_slots=rule.n_slots,
        n_iter=n_iter,
        # By then, all frames that left before the change have also left the coverage.
        n_settling=2 * buffer.present.shape[-1] + 2 * stft.look_back + 2,
        kind=rule.kind,
        uses_iterate=rule.uses_iterate,
        n_kept=rule.n_kept,
        looks_again=rule.looks_again,
        mixes=rule.mixes,
        start=STARTS.get(type(init), OVERLAP),
        compensated=buffer.compensated,
        n_values=measurement.n_values,
        is_power=isinstance(measurement, Bands) and measurement.power == 2,
        spectra=spectra,
        y=y,
        values=values,
        found=found,
        room=room,
        samples=samples,
        others=others,
    )
    return plan, others + fft.pad(n_samples) + WIDTH


def _numbers(rule: Rule, n_open: int) -> Array:
    """Return the rule's numbers in the first iteration, those in later ones, and the factors of the start."""
    tables = np.broadcast_to(rule.numbers, (2, n_open, rule.numbers.shape[-1]))
    return np.concatenate([tables.ravel(), rule.start])


def _constants(buffer: FrameBuffer, plan: Plan) -> dict[str, Array]:
    stft, dtype = buffer.stft, buffer.stft.dtype
    forward, inverse = scales(stft)
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
        "fade": buffer.fade().to(dtype).numpy(),
        "tables": fft.tables(plan.n_fft),
        "signs": padded_signs(plan.n_half),
        **{name: np.pad(window.numpy(), padding) for name, window in windows.items()},
    }
