"""Frames on their way to an engine: checks, conversion, and checks that follow a push (`check="later"`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rtspecinv import engines
from rtspecinv.bands import FilterBank
from rtspecinv.inputs import (
    Array,
    as_magnitude,
    check_range,
    check_values,
    full_scale,
    largest_magnitude,
    warn_of_power,
)
from rtspecinv.phase import Start
from rtspecinv.stft import STFT


class Intake:
    """Checks magnitude frames, converts them to the input of an engine, and pushes them.

    Args:
        engine, stft, init, batch_shape: those of the inverter.
        is_late: whether an engine that checks values itself reports a bad frame after its push.

    Attributes:
        n_pushed: number of pushes since the last reset.
    """

    def __init__(
        self, engine: engines.Engine, stft: STFT, init: Start, batch_shape: tuple[int, ...], is_late: bool
    ) -> None:
        self._engine, self._stft, self._init, self._batch_shape = engine, stft, init, batch_shape
        self._is_late = is_late
        self._unseen: deque[_Unseen] = deque()
        self._full_scale = full_scale(stft)
        self.has_warned = False
        self.n_pushed = 0

    @property
    def limit(self) -> float:
        """Largest magnitude of a frame that is accepted."""
        return largest_magnitude(self._stft.dtype, self._stft.n_fft)

    def checked(
        self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the engine's input of frames after all checks: half spectra.

        Args:
            value: frames as the user passes them.
            n_axes: 1 for a frame `(*batch_shape, n_freq)`, 2 for frames `(*batch_shape, n_freq, n_frames)`.
            batch_shape: shape of the streams that receive a frame.

        Returns:
            Magnitudes, followed by values of bands if joint, and the spectrum, None of real frames.

        Raises:
            ValueError, TypeError: as in `StreamingInverter.push`.
        """
        magnitude, spectrum = self._shaped(value, n_axes, batch_shape)
        self._check_magnitudes(magnitude)
        return self._half(magnitude, n_axes), None if spectrum is None else self._half(spectrum, n_axes)

    def check(self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]) -> None:
        """Raise the errors of `checked` without making the input of the engine."""
        self.checked(value, n_axes, batch_shape)

    def push(self, value: Tensor | Array) -> tuple[Tensor, Tensor | None]:
        """Push a frame to all streams.

        Returns:
            The hop and, if the engine checks values and reports bad frames later, the smallest and largest
            magnitude of each stream, which show the streams that a bad frame did not advance; else None.
        """
        return self._push(*self._shaped(value, 1, self._batch_shape))

    def look_back(self, *, wait: bool) -> None:
        """Raise the error of the first bad frame that was pushed unchecked.

        wait: whether to wait for all pushed frames; otherwise only those that are complete are checked.
        """
        while self._unseen and self._unseen[0].has_arrived(wait):
            late = self._unseen.popleft()
            try:
                self._judge(late.extremes)
            except ValueError as error:
                raise ValueError(
                    f"{error}. This was frame {late.number} since the last reset, 0 being the first: its "
                    "hop was silence, and it did not change its stream"
                ) from None

    def _shaped(
        self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """Return magnitude and spectrum, None of real frames; shape and type are checked, values are not."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise RuntimeError(
                "A push changes the state of the inverter, which torch.jit.trace does not record: trace the "
                "model that makes the magnitudes, and push its output"
            )
        value = as_magnitude(value, self._stft.window)
        n_fft, n_freq = self._stft.n_fft, self._stft.n_freq
        _check_shape(value.shape, batch_shape, n_freq, n_axes, f"n_fft ({n_fft} gives {n_freq})")
        if not value.is_complex():
            return value, None
        if self._init.n_waiting:
            raise ValueError(
                f"Parameter magnitude is complex, so it has its own phase, but {self._init} computes the "
                "phase: use an inverter with init='overlap', or pass magnitude.abs()"
            )
        return _modulus(value, n_axes), value

    def _half(self, value: Tensor, n_axes: int) -> Tensor:
        n_half = self._stft.n_fft // 2 + 1
        return value if n_half == self._stft.n_freq else value.narrow(-n_axes, 0, n_half)

    def _push(
        self, magnitude: Tensor, spectrum: Tensor | None, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Push a frame of the right shape; the engine checks its values if it can.

        magnitude: magnitudes `(*batch, n_freq)`, unchecked.
        spectrum: spectrum of a complex frame, otherwise None.
        seen: smallest and largest band values `(2, *batch)`, default: none, magnitudes were pushed.

        Returns:
            As `push`.
        """
        offered = None
        if self._stft.onesided:
            offered = self._engine.offer(magnitude, spectrum, each=self._is_late)
        if offered is None:
            if seen is not None:
                self._check_bands(*_span(seen.cpu()))
            self._check_magnitudes(magnitude)
            halves = (None if value is None else self._half(value, 1) for value in (magnitude, spectrum))
            hop, late = self._engine.push(*halves), None
        else:
            hop, extremes = offered
            both = extremes if seen is None else torch.cat([extremes, seen])
            if self._is_late:
                late = extremes
                self._engine.accept()
                self._unseen.append(self._sent(both))
            else:
                self._judge(both.cpu())
                self._engine.accept()
                late = None
        self.n_pushed += 1
        return hop, late

    def _sent(self, extremes: Tensor) -> _Unseen:
        here = extremes.to("cpu", non_blocking=True, copy=True)
        event: Any = None
        if extremes.is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(extremes.device))
        return _Unseen(self.n_pushed, here, event)

    def _judge(self, extremes: Tensor) -> None:
        """Raise an error or issue a warning if values are out of range.

        extremes: smallest and largest magnitudes, then those of band values if any, `(2 or 4, *batch)`.
        """
        if len(extremes) > 2:
            self._check_bands(*_span(extremes[2:]))
        low, high = _span(extremes[:2])
        check_range(low, high, self.limit)
        self._warn_of_power(high)

    def _check_magnitudes(self, magnitude: Tensor) -> None:
        self._warn_of_power(check_values(magnitude, self._stft.n_fft))

    def _check_bands(self, low: float, high: float) -> None:
        """Raise `ValueError` if band values from `low` to `high` cannot be inverted."""
        check_range(low, high, self.limit)

    def _warn_of_power(self, largest: float) -> None:
        if largest > 2 * self._full_scale and not self.has_warned:
            self.has_warned = True
            warn_of_power(largest, self._full_scale)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_unseen": deque()}  # a copy has no pending errors


class BandIntake(Intake):
    """Checks values of bands and converts them to magnitudes, followed by the values if joint.

    Args:
        engine, stft, init, batch_shape, is_late: as in `Intake`.
        bank: filter bank of the values.
        joint: whether the engine also takes the values of bands.
    """

    def __init__(
        self,
        engine: engines.Engine,
        stft: STFT,
        init: Start,
        batch_shape: tuple[int, ...],
        is_late: bool,
        bank: FilterBank,
        joint: bool,
    ) -> None:
        super().__init__(engine, stft, init, batch_shape, is_late)
        self._bank, self._joint = bank, joint
        self._framer: tuple[Tensor, Callable[[Tensor], Tensor]] | None = None
        self._framed(stft.window.new_zeros(*batch_shape, bank.n_bands))  # compiles before the first push

    def checked(
        self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the engine's input of values of bands after all checks, as in `Intake`."""
        frames = self.checked_bands(value, n_axes, batch_shape)
        if not len(frames):
            return self._stft.window.new_zeros(*batch_shape, 0, 0), None
        many = frames.unbind(0) if n_axes == 2 else (frames,)
        framed = [self._framed(self._of_bands(frame)) for frame in many]
        magnitude = torch.stack(framed, -1) if n_axes == 2 else framed[0]
        self._check_magnitudes(magnitude, n_axes)
        return magnitude, None

    def check(self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]) -> None:
        """Raise the errors of `checked_bands`."""
        self.checked_bands(value, n_axes, batch_shape)

    def push(self, value: Tensor | Array) -> tuple[Tensor, Tensor | None]:
        """Push values of bands to all streams, as in `Intake`."""
        if not self._engine.judges:
            hop = self._engine.push(self.checked(value, 1, self._batch_shape)[0])
            self.n_pushed += 1
            return hop, None
        values = self._shaped_bands(value, 1, self._batch_shape)
        seen = torch.stack(torch.aminmax(values.detach(), dim=-1))
        # The bank could make valid magnitudes of a bad frame. NaN, which the engine rejects, replaces them.
        frame = self._framed(self._of_bands(values))
        return self._push(frame.where(self._fits(*seen).unsqueeze(-1), torch.nan), None, seen)

    def checked_bands(self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]) -> Tensor:
        """Return contiguous band values after checks of shape and range.

        Args:
            value, n_axes, batch_shape: as in `checked`.

        Returns:
            Band values `(*batch_shape, n_bands)`, or `(n_frames, *batch_shape, n_bands)` if `n_axes` is 2.
        """
        values = self._shaped_bands(value, n_axes, batch_shape)
        if values.numel():
            self._check_bands(*map(float, torch.aminmax(values.detach())))
        return values

    def _framed(self, values: Tensor) -> Tensor:
        """Return the engine's input for values `(*batch, n_bands)`: magnitudes, and values if joint."""
        bank, joint = self._bank, self._joint
        if self._framer is None or self._framer[0] is not bank.filters:  # after `.to()`, too
            unmix = engines.unmixer(self._engine, bank)
            step = (bank.filters.shape[1] - 1) // max(1, self._stft.n_fft // 2)

            def frame_of(values: Tensor) -> Tensor:
                magnitude = unmix(values)[..., ::step]
                return torch.cat([magnitude, bank.heard(values)], -1) if joint else magnitude

            self._framer = bank.filters, engines.replayed(self._engine, frame_of, bank.filters.device)
        return self._framer[1](values)

    def _half(self, value: Tensor, n_axes: int) -> Tensor:
        return value  # banks return half spectra

    def _check_magnitudes(self, magnitude: Tensor, n_axes: int = 1) -> None:
        # Values of bands follow the magnitudes and are not checked here.
        super()._check_magnitudes(magnitude.narrow(-n_axes, 0, self._stft.n_fft // 2 + 1))

    def _shaped_bands(self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]) -> Tensor:
        """Return contiguous band values of checked shape, as in `checked_bands`."""
        values = as_magnitude(value, self._stft.window)
        n_bands = self._bank.n_bands
        _check_shape(values.shape, batch_shape, n_bands, n_axes, f"bank (this one has {n_bands} bands)")
        if values.is_complex():
            raise ValueError("Parameter magnitude is complex: values of bands have no phase, pass its .abs()")
        return (values.movedim(-1, 0) if n_axes == 2 else values).contiguous()

    def _fits(self, low: Tensor, high: Tensor) -> Tensor:
        """Return a bool tensor: whether `_check_bands` accepts each stream; does not wait for the GPU."""
        return (low >= 0) & (high <= self.limit)

    def _of_bands(self, frame: Tensor) -> Tensor:
        """Return the band values of a pushed frame; subclasses undo compression here."""
        return frame

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_framer": None}  # a copy makes a new function for its own bank


class _Unseen(NamedTuple):
    """Smallest and largest values of a frame that are being copied to the CPU and are not checked yet."""

    number: int  # number of the push since the last reset
    extremes: Tensor
    arrival: Any  # CUDA event of the copy, None if there is nothing to wait for

    def has_arrived(self, wait: bool) -> bool:
        """Return whether the copy is complete; if `wait` is true, wait until it is."""
        if self.arrival is not None and wait:
            self.arrival.synchronize()
        return self.arrival is None or bool(self.arrival.query())


def _span(extremes: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest value of extremes `(2, *batch)` on the CPU."""
    return float(extremes[0].amin()), float(extremes[1].amax())


def _modulus(spectrum: Tensor, n_axes: int) -> Tensor:
    """Return the modulus of one frame or of several, computed frame by frame, and on a CPU stream by stream.

    Torch rounds values at the end of an array, which do not fill a SIMD vector, differently from the others.
    Which values these are must not depend on the number of frames in a call, nor on the number of streams.
    """
    if n_axes == 2 and spectrum.shape[-1]:
        return torch.stack([_modulus(frame, 1) for frame in spectrum.unbind(-1)], -1)
    if spectrum.ndim == 1 or not spectrum.numel() or spectrum.device.type != "cpu":
        return spectrum.contiguous().abs()
    return torch.stack([_modulus(stream, 1) for stream in spectrum])


def _check_shape(
    shape: torch.Size, batch_shape: tuple[int, ...], n_freq: int, n_axes: int, source: str
) -> None:
    """Raise unless the shape is batch_shape + (n_freq,), followed by n_frames if `n_axes` is 2.

    source: parameter that determines n_freq, for the error message.
    """
    one = (*batch_shape, n_freq)
    many = len(shape) == len(one) + 1 and shape[: len(batch_shape)] == batch_shape
    if (n_axes == 1 and shape == one) or (n_axes == 2 and many and shape[-2] == n_freq):
        return
    layout = (
        f"batch_shape + (n_freq,) = {one}"
        if n_axes == 1
        else f"batch_shape + (n_freq, n_frames) = {one} + ..."
    )
    if many and shape[-2] == n_freq:
        way_out = "there are several frames, use push_many"
    elif many and shape[-1] == n_freq:
        way_out = "it looks like (frames, freq), use push_many(magnitude.mT)"
    elif n_axes == 2 and shape == one:
        way_out = "it is one frame, use push"
    elif len(shape) == len(one) + n_axes - 1:
        way_out = f"make the inverter for its batch_shape and {source}"
    else:
        way_out = f"batch_shape={batch_shape} wants {len(one) + n_axes - 1} axes"
    raise ValueError(f"Parameter magnitude has shape {tuple(shape)}, not {layout}: {way_out}")
