"""The reference engine: plain torch, any device, differentiable."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rtspecinv.frames import FrameBuffer
from rtspecinv.phase import Context, Start
from rtspecinv.projections import to_consistent, to_magnitude
from rtspecinv.stft import STFT
from rtspecinv.updates import Update


class Eager(torch.nn.Module):
    """Advances all streams by one frame with plain torch operations.

    Args:
        stft: the transform.
        update: rule of one iteration.
        init: start of the newest frame.
        look_ahead: frames that come in after a frame before it is committed.
        n_revised: committed frames that may still change where they have not been heard.
        n_iter: iterations per push, each over all open frames.
        batch_shape: shape of the streams.
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
    ) -> None:
        super().__init__()
        self.update, self.init, self.n_iter = update, init, n_iter
        self.buffer = FrameBuffer(
            stft,
            n_revised + 1 + look_ahead - init.n_waiting,
            n_revised=n_revised,
            n_waiting=init.n_waiting,
            n_carried=update.n_carried,
            batch_shape=batch_shape,
            compensated=not update.textbook,
        )

    def push(self, magnitude: Tensor | None, spectrum: Tensor | None = None) -> Tensor:
        """Take in a frame, or its absence, and return the next hop of samples; see `Engine`."""
        buffer = self.buffer
        with torch.set_grad_enabled(self._wants_grad(magnitude)):
            buffer.push(magnitude)
            target = buffer.target()
            p_m = partial(to_magnitude, magnitude=target)
            p_c = partial(to_consistent, buffer=buffer)
            start = self._start(p_m(buffer.load()[0])) if spectrum is None else spectrum
            buffer.start(self.update.start(start))
            state = buffer.load()
            for _ in range(self.n_iter):
                state = self.update.step(state, p_m, p_c)
            buffer.store(state)
            return buffer.commit(self.update.estimate(state, p_m, p_c) if self.n_iter else p_m(state[0]))

    def reset(self, streams: Tensor | None = None) -> None:
        """Forget everything, in all streams or where the bool mask `streams` is true."""
        self.buffer.reset(streams)

    def _start(self, estimate: Tensor) -> Tensor:
        """Spectrum `(*batch, n_half)` that the newest frame starts from; the others are `estimate`."""
        buffer = self.buffer
        past = torch.view_as_complex(buffer.past.clone())
        known = torch.cat([past, estimate[..., :-1, :]], -2)  # every frame before the newest
        magnitude = torch.cat([past.abs(), buffer.magnitude], -2)
        return self.init(
            Context(buffer.stft, magnitude, known[..., -1, :], partial(buffer.analyze_newest, estimate))
        )

    def _wants_grad(self, magnitude: Tensor | None) -> bool:
        state = self.buffer.spectra
        wanted = torch.is_grad_enabled() and (
            state.requires_grad or (magnitude is not None and magnitude.requires_grad)
        )
        if not wanted:
            for name in FrameBuffer.STATE:
                self.buffer.get_buffer(name).detach_()
        return wanted
