"""The CUDA engine: one kernel, compiled for the sizes of the stream, does a whole push.

Each stream is one block of threads. All state is in the buffers of a `FrameBuffer`, as in `Eager`. So
`CudaGraph` and `Eager` can replace the kernel at any push, for what it does not support: float64, gradients,
tensors on a CPU.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rtspecinv import frames
from rtspecinv.engines.eager import start_ahead
from rtspecinv.engines.gpu import nvrtc
from rtspecinv.engines.gpu.graph import DEVICE, CudaGraph
from rtspecinv.engines.table import N_COLUMNS, Table, table_of
from rtspecinv.frames import FrameBuffer, asymmetric_windows
from rtspecinv.phase import Gradient, Overlap, Peaks, Start, Zeros
from rtspecinv.projections import signs
from rtspecinv.stft import STFT
from rtspecinv.updates import Update

assert frames.N_PAST == 2, "or push.cu would have to move more than one"

MOST_OPEN = 8
OVERLAPS = (2, 4, 8, 16)  # numbers of hops per frame
RADICES = {256: (4, 4, 4, 2), 512: (8, 8, 4), 1024: (8, 8, 8), 2048: (16, 16, 4), 4096: (16, 16, 8)}
# Registers that the kernel needs, by the complex values of a frame that a thread has, with a few spilled.
REGISTERS = {4: 64, 8: 96, 16: 168}
OF_A_MULTIPROCESSOR = 65536
MOST_BLOCKS = 3  # per multiprocessor: while one waits, others run
IN_CLUSTERS = 128  # up to this number of blocks, a stream is a cluster: any GPU can run them at once
N_CHECKING = 128  # number of threads that check a frame


STATE = tuple(name for name in FrameBuffer.STATE if name != "values")  # see `lacks_bands`


class Arguments(ctypes.Structure):
    """Arguments of the kernels, the struct of push.cu; tensors are passed by address."""

    POINTERS = (
        *("frame", "start", "hops", "streams"),
        *STATE,
        *("windows", "roots", "signs", "fade", "numbers", "flags", "verdict", "report"),
    )
    _fields_ = [
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_int32) for name in ("n_iter", "serial", "is_checked")),
        ("limit", ctypes.c_float),
    ]


class Kernels(Protocol):
    """Interface of the compiled kernels on a device."""

    def check(self, n_streams: int, arguments: Arguments) -> None:
        """Check the frames of `n_streams` streams."""

    def push(self, n_streams: int, arguments: Arguments) -> None:
        """Advance `n_streams` streams by one frame."""


class Verdict(NamedTuple):
    """Result of the check of a push; it is valid once the device has finished the check.

    Attributes:
        report: int32 `(1,)` in memory of the host, number of the last push that had a bad frame.
        flags: int32 `(n_streams,)` on the device, the same for each stream.
        serial: number of this push.
    """

    report: Tensor
    flags: Tensor
    serial: int

    @property
    def is_bad(self) -> bool:
        """True if a frame of this push was bad; the value is valid once the device has finished the check."""
        return int(self.report[0]) == self.serial


class _Ready(NamedTuple):
    """Kernels and constants that every push needs beside the state."""

    kernels: Kernels
    arguments: Arguments
    report: Tensor
    flags: Tensor
    tensors: tuple[Tensor, ...]  # tensors that the addresses point to, kept alive


class Cuda(CudaGraph):
    """Advances all streams by one frame in one kernel; each stream has a block or a cluster of threads.

    The arguments are those of `Eager`. The constructor compiles the kernel, and caches it on disk.
    """

    name = "cuda"
    RECORDS_AT_ONCE = False

    def __init__(self, stft: STFT, update: Update, init: Start, **options: Any) -> None:
        super().__init__(stft, update, init, **options)
        self._is_done = False
        self._table = table_of(update, self.buffer.n_open)
        self._serial = 0
        self._ready = self._prepare()

    def push(
        self, magnitude: Tensor | None, spectrum: Tensor | None = None, streams: Tensor | None = None
    ) -> Tensor:
        """Take in a frame, or None after the last one, and return the next hop; see `Engine`."""
        if self._ready is None or self._needs_graph(magnitude):
            return super().push(magnitude, spectrum, streams)
        return self.launch(magnitude, spectrum, streams)[0]

    def offer(
        self, magnitude: Tensor | None, spectrum: Tensor | None = None, *, each: bool
    ) -> tuple[Tensor, Tensor] | None:
        """Compute the next hop of an unchecked frame; the kernel rejects bad frames. See `Engine`."""
        self._is_done = self._ready is not None and magnitude is not None and not self._needs_graph(magnitude)
        if not self._is_done:
            return super().offer(magnitude, spectrum, each=each)
        assert magnitude is not None
        hops, _ = self.launch(magnitude, spectrum, check="each" if each else "all")
        return hops, torch.stack(torch.aminmax(magnitude.detach(), dim=-1))

    def accept(self) -> None:
        """Make the result of the last `offer` the state, unless the kernel has done so; see `Engine`."""
        if not self._is_done:
            super().accept()

    @property
    def judges(self) -> bool:
        """True if `offer` accepts frames; it never accepts frames that require gradients."""
        return self._ready is not None or super().judges

    def launch(
        self,
        magnitude: Tensor | None,
        spectrum: Tensor | None = None,
        streams: Tensor | None = None,
        *,
        check: str | None = None,
    ) -> tuple[Tensor, Verdict | None]:
        """Push without waiting for the device.

        Args:
            magnitude, spectrum, streams: as in `Engine.push`, on the device, with each stream at most once.
            check: "all": a frame that is not finite, negative or too large makes the kernel reject the push
                of all streams; "each": only of its own stream. A rejected push does not change the state and
                its hop is silent. None: the caller has checked the frames.

        Returns:
            Hops `(*batch, hop_length)`, and the `Verdict` of the check.
        """
        ready, buffer = self._ready, self.buffer
        assert ready is not None, "see `push`"
        if magnitude is not None and spectrum is None and not isinstance(self.init, (Overlap, Zeros)):
            known = buffer if streams is None else buffer.part(streams)
            spectrum = start_ahead(known, self.init, magnitude, self.measurement)
        shape = buffer.batch_shape if streams is None else (len(streams),)
        hops = buffer.committed.new_empty(*shape, buffer.stft.hop_length)
        # They have the memory layout of the buffers; these names keep alive what the addresses point to.
        frame = None if magnitude is None else magnitude.detach().contiguous()
        start = (
            None if magnitude is None or spectrum is None else spectrum.detach().resolve_conj().contiguous()
        )
        which = None if streams is None else streams.to(torch.int64).contiguous()
        call, n_streams = ready.arguments, math.prod(shape)
        call.frame, call.start = _address(frame), _address(start)
        call.hops, call.streams = hops.data_ptr(), _address(which)
        call.n_iter, call.is_checked = self.n_iter, ("all", "each").index(check) + 1 if check else 0
        if not n_streams:
            return hops, None
        if check and frame is not None:
            self._serial += 1
            call.serial = self._serial
            ready.kernels.check(n_streams, call)
        ready.kernels.push(n_streams, call)
        verdict = Verdict(ready.report, ready.flags, self._serial) if check and frame is not None else None
        return hops, verdict

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_ready": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._ready = self._prepare()

    def _apply(self, fn: Any, recurse: bool = True) -> Cuda:
        super()._apply(fn, recurse)
        self._ready = self._prepare()
        return self

    def _needs_graph(self, magnitude: Tensor | None) -> bool:
        """Return whether this push needs gradients; if only earlier pushes did, detach the state."""
        requires = self.buffer.spectra.requires_grad or (magnitude is not None and magnitude.requires_grad)
        if not requires or torch.is_grad_enabled():
            return requires
        self.detach()
        for name in self.buffer.STATE:  # the kernel overwrites what a gradient graph may have saved
            torch.autograd.graph.increment_version(self.buffer.get_buffer(name))
        return False

    def _prepare(self) -> _Ready | None:
        """Return the kernels, compiled or loaded, and constants on the device; None if there is no kernel."""
        buffer, stft, table = self.buffer, self.buffer.stft, self._table
        if table is None or stft.dtype != torch.float32 or stft.device.type != nvrtc.DEVICE:
            return None
        n_streams = math.prod(buffer.batch_shape)
        clusters = n_streams * buffer.n_open <= IN_CLUSTERS and nvrtc.has_clusters(stft.device)
        source, numbers = constants_of(buffer, table, self.init, clusters)
        before, after = asymmetric_windows(stft)
        # The windows include the factors of the transforms: 2, and n_fft for the inverse transform.
        forward, inverse = stft.scale / 2, 1 / (stft.n_fft * stft.scale)
        windows = (stft.window * forward, stft.dual_window * inverse, stft.envelope)
        tensors = {
            "windows": torch.stack([*windows, before * forward, after * forward]),
            "roots": _roots(stft.n_fft).to(stft.device),
            "signs": signs(stft.n_fft // 2 + 1, torch.float32, stft.device),
            "fade": buffer.fade(),
            "numbers": numbers.to(stft.device),
            "flags": torch.zeros(n_streams, dtype=torch.int32, device=stft.device),
            "verdict": torch.zeros(1, dtype=torch.int32, device=stft.device),
            "report": torch.zeros(1, dtype=torch.int32, device="cpu", pin_memory=stft.device.type == DEVICE),
            **{name: buffer.get_buffer(name) for name in STATE},
        }
        arguments = Arguments(
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            limit=torch.finfo(torch.float32).max / (100 * stft.n_fft),  # as in `inputs.check_values`
        )
        kernels = nvrtc.load(source, stft.device, layout_of(buffer, clusters))
        return _Ready(kernels, arguments, tensors["report"], tensors["flags"], tuple(tensors.values()))


ENGINE = Cuda


def suits(stft: STFT, update: Update, init: Start, n_open: int) -> bool:
    """Return whether there is a kernel for this transform, rule, start and device."""
    n_hops, rest = divmod(stft.n_fft, stft.hop_length)
    fits = stft.n_fft in RADICES and not rest and n_hops in OVERLAPS
    here = stft.dtype == torch.float32 and stft.device.type == nvrtc.DEVICE
    known = type(init) in (Overlap, Zeros, Peaks, Gradient) and not init.n_waiting
    return fits and here and known and n_open <= MOST_OPEN and table_of(update, n_open) is not None


def lacks_bands(update: Update, n_open: int) -> bool:
    """Return True: this engine does not support values of bands, only magnitudes."""
    return True


def layout_of(buffer: FrameBuffer, clusters: bool) -> nvrtc.Layout:
    """Return the launch layout of push.cu: threads per block, blocks per stream, bytes of shared memory."""
    stft, n_open = buffer.stft, buffer.n_open
    half = stft.n_fft // 2
    row = half + half // (4 if half == 128 else 8 if half <= 512 else 16)
    n_frames = 1 if clusters else n_open
    n_samples = stft.n_fft if clusters else buffer.committed.shape[-1]
    return nvrtc.Layout(
        n_frames * half // values_of_a_thread(stft.n_fft),
        n_open if clusters else 1,
        8 * (n_frames * row + half) + 4 * n_samples,
        N_CHECKING,
    )


def values_of_a_thread(n_fft: int) -> int:
    """Return the number of complex values of a frame that a thread holds in registers."""
    return max(RADICES[n_fft])


def constants_of(buffer: FrameBuffer, table: Table, init: Start, clusters: bool) -> tuple[str, Tensor]:
    """Return the first lines of the CUDA source, its constants, and the table of numbers that it reads."""
    stft, n_open, n_slots = buffer.stft, buffer.n_open, table.n_slots
    of_a_thread = values_of_a_thread(stft.n_fft)
    n_threads = stft.n_fft // 2 // of_a_thread
    blocks = OF_A_MULTIPROCESSOR // (REGISTERS[of_a_thread] * n_threads * n_open)
    n_rows, n_axes = table.step.shape[-2:]
    numbers = torch.zeros(2, n_open, n_rows, N_COLUMNS, dtype=torch.float64, device="cpu")
    numbers[..., :n_axes] = torch.stack([table.first_step, table.step])
    flat = numbers.flatten(0, 1)
    varies = (flat != flat[0]).any(0)
    integers = {
        "N_FFT": stft.n_fft,
        "HOP": stft.hop_length,
        "N_OPEN": n_open,
        "N_REVISED": buffer.n_heard // stft.hop_length,
        "N_FADE": buffer.n_fade,
        "N_SLOTS": n_slots,
        "N_ROWS": n_rows,
        "N_COLUMNS": N_COLUMNS,
        "N_OF_A_THREAD": of_a_thread,
        "N_THREADS_OF_A_FRAME": n_threads,
        "LEAST_BLOCKS": 1 if clusters else min(max(blocks, 1), MOST_BLOCKS),
        "N_CHECKING": N_CHECKING,
    }
    switches = {
        "CLUSTER": clusters,
        "COMPENSATED": buffer.compensated,
        "LOOKS_AGAIN": table.looks_again,
        "PROJECTS_TWICE": table.projects_twice,
        "STARTS_WITH_ZEROS": isinstance(init, Zeros),
    }
    floats = {
        "MIN_COVERAGE": frames.MIN_COVERAGE,
        "MIN_COVERAGE_AT_START": frames.MIN_COVERAGE_AT_START,
    }
    lines = [
        *([f"#define IN_CLUSTERS {n_open}"] if clusters else []),
        f"#define RADICES {', '.join(map(str, RADICES[stft.n_fft]))}",
        f"#define START {_braced(map(_float, table.start))}",
        *(f"constexpr int {name} = {value};" for name, value in integers.items()),
        *(f"constexpr bool {name} = {str(value).lower()};" for name, value in switches.items()),
        *(f"constexpr float {name} = {_float(value)};" for name, value in floats.items()),
        "constexpr bool VARIES[N_ROWS][N_COLUMNS] = "
        + _braced(_braced(str(bool(value)).lower() for value in row) for row in varies)
        + ";",
        "constexpr float NUMBERS[N_ROWS][N_COLUMNS] = "
        + _braced(_braced(map(_float, row)) for row in flat[0].where(~varies, 0).tolist())
        + ";",
    ]
    return "\n".join(lines) + "\n", numbers.float()


def _float(value: float) -> str:
    """Return the exact single-precision number, as C++ source."""
    return f"{ctypes.c_float(value).value.hex()}f"


def _braced(values: Any) -> str:
    return f"{{{', '.join(values)}}}"


def _roots(n_fft: int) -> Tensor:
    """Return `exp(-2 pi i k / n_fft)` for k below n_fft / 2, as pairs of reals."""
    angle = torch.arange(n_fft // 2, dtype=torch.float64, device="cpu") * (-2 * torch.pi / n_fft)
    return torch.stack([angle.cos(), angle.sin()], -1).float()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
