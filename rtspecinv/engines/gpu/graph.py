"""The CUDA graph engine: torch operations of a push, in pieces that are recorded once and replayed.

    begin     checks the frame, takes it in, and computes its start
    iterate   does one iteration; it is replayed n_iter times
    finish    computes the hop
    accept    makes the result the state

The operations between the Fourier transforms are fused (`engines.gpu.fused`). A push reads the state and
writes to a copy of it, and only `accept` changes the state. A bad frame therefore changes nothing, and the
CPU need not wait for the GPU's check before the next push. The module is long because all recorded pieces
share the buffers of one class, `Pushes`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rtspecinv.bands import Bands, Magnitudes
from rtspecinv.engines.eager import Eager, start_ahead
from rtspecinv.engines.gpu.fused import OPERATIONS
from rtspecinv.engines.table import INTO_P_C, INTO_P_M, NEW_STATE, OF_MAGNITUDE, STATE, table_of
from rtspecinv.frames import MIN_COVERAGE, MIN_COVERAGE_AT_START, FrameBuffer, asymmetric_windows
from rtspecinv.inputs import largest_magnitude
from rtspecinv.phase import Start
from rtspecinv.projections import signs
from rtspecinv.stft import STFT
from rtspecinv.updates import Update, of_pairs

DEVICE = "cuda"
SWITCH = "RTSPECINV_NO_CUDA_GRAPH"  # if this environment variable is set, nothing is recorded
N_WARM_UPS = 2  # calls before recording, in which libraries make their plans and kernels are loaded

Piece = Callable[[], object]


class Recorder:
    """Records functions as CUDA graphs in one memory pool; their tensors must keep their addresses.

    Other threads may use the GPU during the recording. Torch's memory cache is not emptied.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, pieces: dict[str, Piece], state: tuple[Tensor, ...]) -> dict[str, Piece]:
        """Record pieces and return the function that replays each; the state does not change.

        Raises:
            torch.cuda.OutOfMemoryError: the memory of the GPU does not suffice.
        """
        before = [tensor.clone() for tensor in state]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(N_WARM_UPS):
                for piece in pieces.values():
                    piece()
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)
            graphs = {name: self._recorded(piece) for name, piece in pieces.items()}
        torch.cuda.current_stream().wait_stream(self._stream)
        return {name: graph.replay for name, graph in graphs.items()}

    def _recorded(self, piece: Piece) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # torch.cuda.graph is not used, because it waits for the device and empties the cache.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            piece()
        except BaseException:
            with suppress(Exception):  # the error only repeats that an earlier operation has failed
                graph.capture_end()
            raise
        graph.capture_end()
        return graph


class Replayed:
    """A function of one tensor, recorded on its first call and replayed on later calls with the same shape.

    If a gradient is needed, the function itself is called.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._given: Tensor | None = None

    def __call__(self, value: Tensor) -> Tensor:
        """Return the result of the function; later calls do not overwrite it."""
        if value.requires_grad and torch.is_grad_enabled():
            return self._function(value)
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(value.device):
            if self._given is None or self._given.shape != value.shape:
                given = value.detach().clone()
                found = torch.zeros_like(self._function(given))
                pieces: dict[str, Piece] = {"all": lambda: found.copy_(self._function(given))}
                self._replay = Recorder().record(pieces, ())["all"]
                self._given, self._found = given, found
            self._given.copy_(value.detach())
            self._replay()
            return self._found.clone()

    def __reduce__(self) -> Any:
        return Replayed, (self._function,)  # a copy records again


class Pushes:
    """Recorded pushes to one buffer; the arguments are those of `Eager`.

    Attributes:
        frame, spectrum: the frame to take in, and the spectrum that it starts from.
        extremes: smallest and largest magnitude of the frame of every stream, `(2, *batch)`.
        good: False for streams whose frame is bad, bool `(*batch,)`.
        hop: samples that the push returns, silent where the frame is bad.
        replay: functions that replay the pieces, by name.
    """

    def __init__(
        self, buffer: FrameBuffer, update: Update, init: Start, measurement: Magnitudes | Bands
    ) -> None:
        stft, batch = buffer.stft, buffer.batch_shape
        self.buffer, self.update, self.init, self.stft = buffer, update, init, stft
        self.measurement = measurement
        self.state = tuple(buffer.get_buffer(name) for name in buffer.STATE)
        self.spectra = buffer.spectra
        self.new = FrameBuffer(
            stft,
            buffer.n_open,
            n_revised=buffer.n_heard // stft.hop_length,
            n_carried=update.n_carried,
            n_values=measurement.n_values,
            batch_shape=batch,
            compensated=buffer.compensated,
        )
        n_half = stft.n_fft // 2 + 1
        self.frame = stft.window.new_zeros(*batch, n_half + measurement.n_values)
        self.spectrum = torch.zeros_like(self.frame[..., :n_half], dtype=stft.dtype.to_complex())
        self.extremes = stft.window.new_zeros(2, *batch)
        self.good = torch.ones(batch, dtype=torch.bool, device=stft.device)
        self.hop = stft.window.new_zeros(*batch, stft.hop_length)
        self.a, self.y = (stft.window.new_zeros(*batch, buffer.n_open, n_half, 2) for _ in range(2))
        self._limit = largest_magnitude(stft.dtype, stft.n_fft)
        self._make_constants()
        pieces: dict[str, Piece] = {
            "begin": partial(self._begin, self.frame, None),
            "begin with spectrum": partial(self._begin, self.frame, self.spectrum),
            "begin without frame": partial(self._begin, None, None),
            "iterate first": partial(self._iterate, is_first=True),
            "iterate": partial(self._iterate, is_first=False),
            "finish": partial(self._finish, iterated=True),
            "finish without iterating": partial(self._finish, iterated=False),
            "accept": self._accept,
            "accept the good": self._accept_the_good,
        }
        self.replay = Recorder().record(pieces, self.state)

    def offer(self, magnitude: Tensor | None, spectrum: Tensor | None, n_iter: int) -> Tensor:
        """Return the hop of a frame, in memory of its own; the state does not change until `accept`."""
        if magnitude is None:
            self.replay["begin without frame"]()
        else:
            self.frame.copy_(magnitude.detach())
            if spectrum is not None:
                self.spectrum.copy_(spectrum.detach())
            self.replay["begin" if spectrum is None else "begin with spectrum"]()
        for i in range(n_iter):
            self.replay["iterate" if i else "iterate first"]()
        self.replay["finish" if n_iter else "finish without iterating"]()
        return self.hop.clone()

    # -- recorded operations --------------------------------------------------------------------------------

    def _make_constants(self) -> None:
        """Compute the windows, with the scale of their transforms, and the numbers of the rule."""
        stft, buffer, update = self.stft, self.buffer, self.update
        before, after = asymmetric_windows(stft)
        # These transforms are unscaled; the dual window includes the factor n_fft.
        dual = stft.dual_window / (stft.n_fft * stft.scale)
        self.windows = torch.stack(
            [stft.window * stft.scale, dual, stft.envelope, before * stft.scale, after * stft.scale]
        )
        self.floors = torch.tensor(
            [MIN_COVERAGE, MIN_COVERAGE_AT_START], dtype=torch.float64, device="cpu"
        ).to(self.frame)
        self.fade, self.signs = buffer.fade(), signs(stft.n_fft // 2 + 1, stft.dtype, stft.device)
        n_slots = 1 + update.n_carried
        self.only_x = _identity(buffer.n_open, n_slots).to(self.frame)
        self.only_s = _identity(buffer.n_open, 1).to(self.frame)
        table = table_of(update, buffer.n_open)
        is_fused = table is not None and not table.projects_twice and isinstance(self.measurement, Magnitudes)
        self.table = table if is_fused else None
        if self.table is not None:
            first, later = (part.contiguous() for part in (self.table.first_step, self.table.step))
            before_p_c, new = [INTO_P_M, INTO_P_C], slice(NEW_STATE, NEW_STATE + n_slots)
            self.before_first = first[:, before_p_c].to(self.frame)
            self.after_first, self.after = (
                torch.cat([part[:, new], later[:, before_p_c]], 1).to(self.frame) for part in (first, later)
            )
            self.estimate = self.only_x.clone()
            self.estimate[:, 0] = later[:, NEW_STATE + n_slots].to(self.frame)
        self.p_m = of_pairs(
            partial(self.measurement.project, magnitude=self.new.magnitude, values=self.new.values)
        )
        self.p_c = lambda pairs: self._consistent(pairs)

    def _begin(self, magnitude: Tensor | None, spectrum: Tensor | None) -> None:
        """Check a frame and take it in."""
        old, new = self.buffer, self.new
        n_half = new.magnitude.shape[-1]
        new.magnitude[..., :-1, :].copy_(old.magnitude[..., 1:, :])
        if self.measurement.n_values:
            new.values[..., :-1, :].copy_(old.values[..., 1:, :])
            if magnitude is None:
                new.values[..., -1, :].zero_()
            else:
                new.values[..., -1, :].copy_(magnitude[..., n_half:])
        new.present[..., :-1].copy_(old.present[..., 1:])
        new.spectra[..., :-1, :, :].copy_(old.spectra[..., 1:, :, :])
        new.present[..., -1].fill_(magnitude is not None)
        newest = new.spectra[..., -1, :, :]
        if magnitude is None:
            new.magnitude[..., -1, :].zero_()
            newest.zero_()
            self.good.fill_(True)
        else:
            new.magnitude[..., -1, :].copy_(magnitude[..., :n_half])
            low, high = self.extremes.unbind()
            torch.aminmax(magnitude[..., :n_half], dim=-1, out=(low, high))
            torch.logical_and(low >= 0, high <= self._limit, out=self.good)  # False for NaN
            start = spectrum
            if start is None:
                start = start_ahead(old, self.init, magnitude, self.measurement, self._overlap)
            newest.copy_(torch.stack(self.update.start(torch.view_as_real(start)), -3))
        if self.table is not None:
            self._rule(new.spectra, None, self.before_first)

    def _iterate(self, is_first: bool) -> None:
        new = self.new
        if self.table is not None:
            s = self._consistent(self.y)
            return self._rule(new.spectra, s, self.after_first if is_first else self.after)
        state = new.load()
        if is_first:
            state = self.update.first_step(state, self.p_m, self.p_c, new.is_newest())
        else:
            state = self.update.step(state, self.p_m, self.p_c)
        new.store(state)

    def _finish(self, iterated: bool) -> None:
        old, new = self.buffer, self.new
        estimate = self.a
        if not iterated:
            estimate = self._projected()
        elif self.table is None:
            estimate = self.update.estimate(new.load(), self.p_m, self.p_c)
        else:
            self._rule(new.spectra, None, self.estimate)
            if self.table.looks_again:
                self._rule(self._consistent(self.a).unsqueeze(-4), None, self.only_s)
        OPERATIONS.commit(
            self._frames(estimate),
            old.committed,
            old.coverage,
            new.present,
            old.expected,
            self.windows,
            self.floors,
            self.fade,
            self.good,
            old.n_heard,
            new.committed,
            new.coverage,
            new.expected,
            self.hop,
        )
        new.past[..., :-1, :, :].copy_(old.past[..., 1:, :, :])
        new.past[..., -1, :, :].copy_(estimate[..., 0, :, :])

    def _accept(self) -> None:
        old, new = zip(*(pair for pair in self._pairs() if pair[0].numel()), strict=True)
        torch._foreach_copy_(old, new)

    def _accept_the_good(self) -> None:
        good = self.good
        for old, new in self._pairs():
            torch.where(good.view(good.shape + (1,) * (old.ndim - good.ndim)), new, old, out=old)

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.buffer.get_buffer(name), self.new.get_buffer(name)) for name in self.buffer.STATE]

    def _rule(self, x: Tensor, s: Tensor | None, numbers: Tensor) -> None:
        OPERATIONS.rule(x, self.a, self.y, s, self.new.magnitude, self.signs, numbers)

    def _overlap(self) -> Tensor:
        """Return the spectrum `(*batch, n_half)` of the other frames' samples within the newest frame."""
        return torch.view_as_complex(self._consistent(self._projected(), newest_only=True))

    def _projected(self) -> Tensor:
        """Return `P_M` of the iterate."""
        if isinstance(self.measurement, Magnitudes):
            self._rule(self.new.spectra, None, self.only_x)
            return self.a
        return self.p_m(self.new.load()[0])

    def _consistent(self, pairs: Tensor, newest_only: bool = False) -> Tensor:
        """Return `P_C` of pairs of reals `(*batch, n_open, n_half, 2)`."""
        old = self.buffer
        frames = OPERATIONS.overlap(
            self._frames(pairs),
            old.committed,
            old.coverage,
            self.new.present,
            self.windows,
            self.floors,
            self.stft.hop_length,
            old.n_heard,
            old.compensated,
            newest_only,
        )
        return torch.view_as_real(torch.fft.rfft(frames))

    def _frames(self, pairs: Tensor) -> Tensor:
        """Return the inverse transform without window or scale, `(*batch, n_open, n_fft)`."""
        frames: Tensor = torch.fft.irfft(torch.view_as_complex(pairs), n=self.stft.n_fft, norm="forward")
        return frames


def _identity(n_open: int, n_slots: int) -> Tensor:
    """Return numbers `(n_open, 2, 2 + n_slots)` with which operation `rule` computes `P_M` of the iterate."""
    numbers = torch.zeros(n_open, 2, STATE + n_slots, dtype=torch.float64, device="cpu")
    numbers[:, 0, STATE] = numbers[:, 1, OF_MAGNITUDE] = 1
    return numbers


class CudaGraph(Eager):
    """Advances all streams by one frame by replaying CUDA graphs that the constructor recorded.

    The arguments are those of `Eager`. After a `.to()` and in a copy, the first push records the graphs
    again. Pushes with gradients run in `Eager`.
    """

    name = "cuda_graph"
    RECORDS_AT_ONCE = True  # not at the first push that needs the recording

    def __init__(self, stft: STFT, update: Update, init: Start, **options: Any) -> None:
        super().__init__(stft, update, init, **options)
        self._pushes: Pushes | None = None
        self._accepts = "accept"
        if self.RECORDS_AT_ONCE and self.judges:
            self._pushes = self._recorded()

    def offer(
        self, magnitude: Tensor | None, spectrum: Tensor | None = None, *, each: bool
    ) -> tuple[Tensor, Tensor] | None:
        """Compute the next hop of a frame that has not been checked; see `Engine`."""
        if not self._can_record():
            return None
        pushes = self._pushes = self._pushes or self._recorded()
        requires = pushes.spectra.requires_grad or (magnitude is not None and magnitude.requires_grad)
        if requires and torch.is_grad_enabled():
            return None
        if pushes.spectra.requires_grad:
            self.detach()
        self._accepts = "accept the good" if each else "accept"
        # Later pushes, in any mode of torch, write to the recorded tensors.
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(pushes.frame.device):
            return pushes.offer(magnitude, spectrum, self.n_iter), pushes.extremes

    def accept(self) -> None:
        """Make the result of the last `offer` the state; see `Engine`."""
        pushes = self._pushes
        assert pushes is not None
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(pushes.frame.device):
            pushes.replay[self._accepts]()

    def push(
        self, magnitude: Tensor | None, spectrum: Tensor | None = None, streams: Tensor | None = None
    ) -> Tensor:
        """Take in a frame, or None after the last one, and return the next hop; see `Engine`.

        A push of some of the streams runs in `Eager`: it is not recorded, because their number varies.
        """
        offered = None
        if streams is None:
            offered = CudaGraph.offer(self, magnitude, spectrum, each=False)
        if offered is None:
            return super().push(magnitude, spectrum, streams)
        CudaGraph.accept(self)  # subclasses override these methods
        return offered[0]

    @property
    def judges(self) -> bool:
        """True if `offer` accepts frames; it never accepts frames that require gradients."""
        return self._can_record()

    def _can_record(self) -> bool:
        return self.buffer.spectra.device.type == DEVICE and SWITCH not in os.environ

    def _recorded(self) -> Pushes:
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(self.buffer.stft.device):
            return Pushes(self.buffer, self.update, self.init, self.measurement)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pushes": None}  # a copy has its own buffers

    def _apply(self, fn: Any, recurse: bool = True) -> CudaGraph:
        self._pushes = None
        super()._apply(fn, recurse)
        return self


ENGINE = CudaGraph


def suits(stft: STFT, update: Update, init: Start, n_open: int) -> bool:
    """Return whether a push can be recorded: starts with `delay` cannot."""
    return stft.device.type == DEVICE and not init.n_waiting


def lacks_bands(update: Update, n_open: int) -> bool:
    """Return False: this engine supports values of bands, because any torch operation can be recorded."""
    return False
