"""The engine for many streams on a GPU: a whole push of a stream is one program of one kernel.

All state is where `Eager` has it, in the buffers of a `FrameBuffer`; what the kernel cannot do (more frames
than fit on the chip, float64, gradients, a CPU), `CudaGraph` and `Eager` do in its place, in mid-stream.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from rtspecinv.engines.eager import start_ahead
from rtspecinv.engines.gpu import push as kernel
from rtspecinv.engines.gpu.fft import FACTORS, tables
from rtspecinv.engines.gpu.graph import CudaGraph
from rtspecinv.engines.table import N_COLUMNS, STATE, Table, table_of
from rtspecinv.frames import asymmetric_windows
from rtspecinv.phase import Overlap, Start, Zeros
from rtspecinv.projections import signs
from rtspecinv.stft import STFT
from rtspecinv.updates import Update

LEAST_ROWS = 16  # of the matrix that overlaps: what tensor cores take
MOST_ROWS, MOST_SAMPLES = 128, 16384  # of that matrix, and of all frames of a stream: what fits on the chip
SAMPLES_OF_A_WARP = 1024  # of all frames of a stream: 32 a thread


class _Ready(NamedTuple):
    """What every push hands to the kernel beside the state."""

    windows: Tensor
    tables: Tensor
    signs: Tensor
    numbers: Tensor
    options: dict[str, Any]  # known when the kernel is compiled


class TritonGPU(CudaGraph):
    """Advances all streams by one frame in one kernel, a program for each stream.

    The arguments are those of `Eager`. Compilation takes place at the first push of each kind. In Triton's
    interpreter (`TRITON_INTERPRET=1`) it runs on a CPU, slowly. The imaginary parts at 0 Hz and at the
    Nyquist frequency, which no real signal has, do not count.
    """

    name = "triton"

    def __init__(self, stft: STFT, update: Update, init: Start, **options: Any) -> None:
        super().__init__(stft, update, init, **options)
        self._table = _table_of(update, self.buffer.n_open)
        self._ready = self._prepare()

    def push(
        self, magnitude: Tensor | None, spectrum: Tensor | None = None, streams: Tensor | None = None
    ) -> Tensor:
        """Take in a frame, or its absence, and return the next hop of samples; see `Engine`."""
        buffer = self.buffer
        requires = buffer.spectra.requires_grad or (magnitude is not None and magnitude.requires_grad)
        if streams is not None or self._ready is None or (requires and torch.is_grad_enabled()):
            return super().push(magnitude, spectrum, streams)
        if requires:
            self.detach()
            for name in buffer.STATE:  # the kernel changes what a graph may have saved
                torch.autograd.graph.increment_version(buffer.get_buffer(name))
        if magnitude is not None and spectrum is None and not isinstance(self.init, Overlap):
            spectrum = start_ahead(buffer, self.init, magnitude, self.measurement)
        return self._push(self._ready, magnitude, spectrum)

    def _push(self, ready: _Ready, magnitude: Tensor | None, spectrum: Tensor | None) -> Tensor:
        buffer = self.buffer
        hops = buffer.committed.new_empty(*buffer.batch_shape, buffer.stft.hop_length)
        pairs = None if magnitude is None or spectrum is None else torch.view_as_real(spectrum)
        kernel.push[(max(1, math.prod(buffer.batch_shape)),)](
            hops if magnitude is None else magnitude.detach().contiguous(),
            hops if pairs is None else pairs.detach().contiguous(),
            hops,
            *(buffer.get_buffer(name) for name in buffer.STATE if name != "values"),
            ready.windows,
            ready.tables,
            ready.signs,
            ready.numbers,
            self.n_iter,
            buffer.n_open,
            buffer.n_heard // buffer.stft.hop_length,
            buffer.n_fade,
            0,
            ITERATES=self.n_iter > 0,
            HAS_FRAME=magnitude is not None,
            HAS_START=pairs is not None,
            **ready.options,
        )
        return hops

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_ready": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._ready = self._prepare()

    def _apply(self, fn: Any, recurse: bool = True) -> TritonGPU:
        super()._apply(fn, recurse)
        self._ready = self._prepare()
        return self

    def _prepare(self) -> _Ready | None:
        """Constants on the device of the buffers; None where there is no kernel for it."""
        stft, rule = self.buffer.stft, self._table
        if rule is None or not (_has_kernel(stft.device) and stft.dtype == torch.float32):
            return None
        options, table = options_of(stft, rule, self.buffer.n_open, self.buffer.compensated)
        if options["T"] * options["R"] > MOST_ROWS or options["T"] * stft.n_fft > MOST_SAMPLES:
            return None
        before, after = asymmetric_windows(stft)
        scaled = (stft.window * stft.scale, stft.dual_window / stft.scale, stft.envelope)
        return _Ready(
            torch.stack([*scaled, before * stft.scale, after * stft.scale]),
            tables(stft.n_fft).to(stft.device),
            signs(stft.n_fft // 2 + 1, torch.float32, stft.device),
            table.to(stft.device),
            options,
        )


def options_of(stft: STFT, rule: Table, n_open: int, compensated: bool) -> tuple[dict[str, Any], Tensor]:
    """What is known when the kernel is compiled, and the numbers that it reads."""
    n_overlaps = stft.n_fft // stft.hop_length
    n_frames = max(triton.next_power_of_2(n_open), LEAST_ROWS // n_overlaps)
    used, table = _packed(rule, n_frames)
    n1, n2 = FACTORS[stft.n_fft]
    options = {
        "T": n_frames,
        "N1": n1,
        "N2": n2,
        "R": n_overlaps,
        "N_SLOTS": rule.n_slots,
        "USED": used,
        "LOOKS_AGAIN": rule.looks_again,
        "COMPENSATED": compensated,
        "num_warps": min(16, max(1, n_frames * stft.n_fft // SAMPLES_OF_A_WARP)),
        "num_stages": 1,  # of a pipeline of loads: there is no room for more
    }
    return options, table


ENGINE = TritonGPU


def suits(stft: STFT, update: Update, init: Start, n_open: int) -> bool:
    """Whether there is a kernel for this transform, rule, start and device."""
    power_of_two = stft.hop_length & (stft.hop_length - 1) == 0
    known = stft.n_fft in FACTORS and power_of_two and stft.hop_length < stft.n_fft
    here = stft.dtype == torch.float32 and _has_kernel(stft.device)
    return known and here and isinstance(init, (Overlap, Zeros)) and _table_of(update, n_open) is not None


def lacks_bands(update: Update, n_open: int) -> bool:
    """Whether values of bands cannot be measured: the kernel has magnitudes only."""
    return True


def _table_of(update: Update, n_open: int) -> Table | None:
    """Table of a rule with one P_C an iteration."""
    table = table_of(update, n_open)
    return None if table is None or table.projects_twice else table


def _has_kernel(device: torch.device) -> bool:
    return device.type == ("cpu" if triton.knobs.runtime.interpret else "cuda")


def _packed(rule: Table, n_frames: int) -> tuple[int, Tensor]:
    """Which numbers are not 0 in all frames, a bit for each, and all of them, `(2, n_frames, n_rows + 1, 5)`.

    First those of the first iteration. The last row has the shares of the start; frames that are not there
    have zeros.
    """
    n_open, n_rows, n_axes = rule.step.shape
    table = torch.zeros(2, n_frames, n_rows + 1, N_COLUMNS, dtype=torch.float64, device="cpu")
    table[:, :n_open, :-1, :n_axes] = torch.stack([rule.first_step, rule.step])
    used = sum(
        1 << at for at, column in enumerate(table[:, :, :-1].reshape(2 * n_frames, -1).T) if column.any()
    )
    table[:, 0, -1, STATE:n_axes] = torch.tensor(rule.start, dtype=torch.float64, device="cpu")
    return used, table.float()
