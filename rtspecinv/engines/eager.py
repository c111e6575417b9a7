"""The reference engine: plain torch, any device, differentiable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor

from rtspecinv.bands import Bands, Magnitudes
from rtspecinv.common.modes import Module
from rtspecinv.frames import FrameBuffer
from rtspecinv.phase import Context, Start
from rtspecinv.projections import to_consistent
from rtspecinv.stft import STFT
from rtspecinv.updates import Projection, Update, of_pairs


class Eager(Module):
    """Advances all streams by one frame with plain torch operations.

    Args:
        stft: the transform.
        update: rule of one iteration.
        init: start of the newest frame.
        look_ahead: number of later frames that arrive before a frame is committed.
        n_revised: number of committed frames whose unheard samples may still change.
        n_iter: iterations per push, each over all open frames; it may change from push to push.
        batch_shape: shape of the streams.
        measurement: targets of a frame, magnitudes or values of bands; P_M projects on them.
    """

    name = "eager"

    def __init__(
        self,
        stft: STFT,
        update: Update,
        init: Start,
        *,
        look_ahead: int,
        n_revised: int,
        n_iter: int,
        batch_shape: tuple[int, ...],
        measurement: Bands | None = None,
    ) -> None:
        super().__init__()
        self.measurement = Magnitudes() if measurement is None else measurement
        self.update, self.init, self.n_iter = update, init, n_iter
        self.buffer = FrameBuffer(
            stft,
            n_open(init, look_ahead, n_revised),
            n_revised=n_revised,
            n_waiting=init.n_waiting,
            n_carried=update.n_carried,
            n_values=self.measurement.n_values,
            batch_shape=batch_shape,
            compensated=not update.textbook,
        )

    def push(
        self, magnitude: Tensor | None, spectrum: Tensor | None = None, streams: Tensor | None = None
    ) -> Tensor:
        """Take in a frame, or None after the last one, and return the next hop; see `Engine`."""
        with self.preserved():
            if streams is None:
                return self._advance(magnitude, spectrum)
            whole, self.buffer = self.buffer, self.buffer.part(streams)
            try:
                hops = self._advance(magnitude, spectrum)
            finally:
                part, self.buffer = self.buffer, whole
            if not part.spectra.requires_grad:
                whole.detach()
            whole.put(streams, part)
            return hops

    @property
    def judges(self) -> bool:
        """False: `offer` accepts no frames."""
        return False

    def offer(
        self, magnitude: Tensor | None, spectrum: Tensor | None = None, *, each: bool
    ) -> tuple[Tensor, Tensor] | None:
        """Return None, because this engine does not check values itself; see `Engine`."""
        return None

    def accept(self) -> None:
        """Do nothing, because `offer` never computes a result."""

    def push_many(
        self, magnitudes: Tensor, spectra: Tensor | None = None, streams: Tensor | None = None
    ) -> Sequence[Tensor]:
        """Take in frames one after the other, and return their hops; see `Engine`."""
        starts = (None,) * len(magnitudes) if spectra is None else spectra.unbind()
        return [self.push(*pair, streams) for pair in zip(magnitudes.unbind(), starts, strict=True)]

    def _advance(self, magnitude: Tensor | None, spectrum: Tensor | None) -> Tensor:
        buffer = self.buffer
        with torch.set_grad_enabled(self._wants_grad(magnitude)):
            buffer.push(magnitude)
            p_m = of_pairs(
                partial(self.measurement.project, magnitude=buffer.target(), values=buffer.measured())
            )
            p_c = of_pairs(partial(to_consistent, buffer=buffer))
            start = self._start(p_m) if spectrum is None else spectrum
            buffer.start(self.update.start(torch.view_as_real(start)))
            state = buffer.load()
            if self.n_iter:
                state = self.update.first_step(state, p_m, p_c, buffer.is_newest())
            for _ in range(self.n_iter - 1):
                state = self.update.step(state, p_m, p_c)
            buffer.store(state)
            estimate = self.update.estimate(state, p_m, p_c) if self.n_iter else p_m(state[0])
            return buffer.commit(torch.view_as_complex(estimate))

    def detach(self) -> None:
        """Detach the state from the gradients of earlier frames."""
        self.buffer.detach()

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that change from push to push, by name."""
        return {name: self.buffer.get_buffer(name) for name in self.buffer.STATE}

    def changed(self) -> None:
        """Update what is derived from the buffers, after other code has written to them."""

    def preserved(self, n_pushes: int = 1) -> AbstractContextManager[None]:
        """Restore the state if a push in this context fails or is interrupted."""
        return preserved(list(self.state().values()))

    def reset(self, streams: Tensor | None = None) -> None:
        """Reset the state of all streams, or of those selected, as in `FrameBuffer.reset`."""
        self.buffer.reset(streams)

    def _start(self, p_m: Projection) -> Tensor:
        """Return the spectrum `(*batch, n_half)` that the newest frame starts from."""
        buffer = self.buffer

        def past() -> Tensor:
            return torch.view_as_complex(buffer.past.clone())

        def estimate() -> Tensor:
            return torch.view_as_complex(p_m(buffer.load()[0]))

        return self.init(
            Context(
                buffer.stft,
                magnitude=lambda: torch.cat([past().abs(), buffer.magnitude], -2),
                previous=lambda: torch.cat([past(), estimate()[..., :-1, :]], -2)[..., -1, :],
                overlap=lambda: buffer.analyze_newest(estimate()),
            )
        )

    def _wants_grad(self, magnitude: Tensor | None) -> bool:
        requires = self.buffer.spectra.requires_grad or (magnitude is not None and magnitude.requires_grad)
        if not (wanted := torch.is_grad_enabled() and requires):
            self.buffer.detach()
        return wanted


def n_open(init: Start, look_ahead: int, n_revised: int) -> int:
    """Return the number of frames that the rule is applied to."""
    return n_revised + 1 + look_ahead - init.n_waiting


@contextmanager
def preserved(state: list[Tensor]) -> Iterator[None]:
    """Restore tensors to their present values if the context ends with an exception."""
    before = [tensor.clone() for tensor in state]
    try:
        yield
    except BaseException:
        for tensor, value in zip(state, before, strict=True):
            tensor.detach_().copy_(value)
        raise


def _no_overlap() -> Tensor:
    raise NotImplementedError("The overlap is not available to this start")


def start_ahead(
    buffer: FrameBuffer,
    init: Start,
    magnitude: Tensor,
    measurement: Magnitudes | Bands,
    overlap: Callable[[], Tensor] = _no_overlap,
) -> Tensor:
    """Return the start `(*batch, n_half)` of a frame that the buffer has not taken in yet.

    magnitude: magnitudes of the frame, then the values of bands if there are any; see `Engine.push`.
    overlap: function that returns the spectrum of the other frames' samples within this one; only some
        starts call it.
    """
    n_half = buffer.magnitude.shape[-1]

    def past() -> Tensor:
        return torch.view_as_complex(buffer.past.clone())

    def previous() -> Tensor:
        if buffer.n_open == 1:
            return past()[..., -1, :]
        newest = torch.view_as_complex(buffer.spectra[..., 0, -1, :, :].contiguous())
        return measurement.project(newest, buffer.magnitude[..., -1, :], buffer.values[..., -1, :])

    def known() -> Tensor:
        return torch.cat([past().abs(), buffer.magnitude[..., 1:, :], magnitude[..., None, :n_half]], -2)

    return init(Context(buffer.stft, magnitude=known, previous=previous, overlap=overlap))
