"""Transforms of magnitude frames before inversion: time stretch, pitch, formants and others.

Frames are `(*batch, n_freq)`, numpy or torch; the result has the type of the input. `Pitch` and `Formants`
accept two-sided frames with `onesided=False`. Transforms copy the frames that they return or keep, so the
caller may write to inputs and results. `Stretch` is an iterator over frames; all other transforms are
functions of one frame, which compose with `map`:

    stretch, pitch = Stretch(frames, rate=0.5), Pitch(1.2)
    for frame in map(pitch, stretch):
        player.push(frame)

Every setting is an attribute that any thread may change at any time; it applies from the next frame on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv.common.checks import able, count, finite, flag, iterable, real, shown
from rtspecinv.common.masks import unmasked

Array = np.ndarray[Any, Any]
Frame = TypeVar("Frame", Tensor, Array)
T = TypeVar("T")

# Lowest value of an envelope relative to its loudest bin; weaker bins are noise and are not amplified.
RANGE = 1e-3

RATES = (1e-3, 1e3)  # smallest and largest rate of `Stretch`, apart from 0
_MOST_MEMORY = 2**24  # frames
_MOST_DB = 600.0  # a factor of 10**30; larger ones exceed the range of float32
_IS_NO_GAIN = f"not a number or an array (n_freq,) of numbers <= {_MOST_DB:g}; use -inf for silence"


def _own(frame: Any) -> Any:
    """Return a copy of a tensor, with its graph, or of an array, so that the caller may write to either."""
    return frame.clone() if isinstance(frame, Tensor) else np.array(frame)


class _Checked(Generic[T]):
    """An attribute that is checked when it is set.

    check: function that takes the value as one named parameter, as in `checks`, and returns it.
    """

    def __init__(self, check: Callable[..., T]) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> T:
        if instance is None:
            raise AttributeError(self._name)
        value: T = instance.__dict__[self._name]
        return value

    def __set__(self, instance: Any, value: T) -> None:
        instance.__dict__[self._name] = self._check(**{self._name: value})


def _number(low: float = -math.inf, high: float = math.inf) -> Callable[..., float]:
    """Return a check for a finite number from `low` to `high`."""
    return lambda **parameter: float(finite(low, high, **parameter))


def _rate(**parameter: Any) -> float:
    """Return one named parameter, a rate of `Stretch`; anything else raises ValueError."""
    ((name, value),) = parameter.items()
    rate, (least, most) = float(real(value)), RATES
    if rate and not least <= abs(rate) <= most:
        raise ValueError(
            f"Parameter {name}={shown(value)} is not 0, a number from {least:g} to {most:g}, "
            f"or a number from {-most:g} to {-least:g}"
        )
    return rate


class Stretch(Iterator[Any]):
    """Time stretch: reads frames at a rate that may change during playback.

    The position p grows by `rate` per output frame, which is `(1 - a) X[i] + a X[i + 1]` with the whole part
    i and the fraction a of p. Rate 1 returns the frames unchanged, 0.5 plays at half speed and the same
    pitch, 0 repeats one frame, -1 plays backwards. The iteration ends when p reaches the number of frames n,
    which takes `ceil(n / rate)` output frames at a constant rate. The last frame is repeated beyond the end.

    frames: iterable of frames; it is read as far as the position requires.
    rate: input frames per output frame: 0, or 0.001 to 1000, or -1000 to -0.001 backwards.
    memory: number of frames kept for playing backwards; the position stops at the oldest one.

    Source: Portnoff 1981 (time scale by reading the short-time spectrum at another rate).
    """

    rate = _Checked(_rate)

    def __init__(self, frames: Iterable[Frame], rate: float = 1.0, *, memory: int = 1024) -> None:
        if isinstance(frames, (Tensor, np.ndarray)):
            raise TypeError(
                f"Parameter frames is an array of shape {tuple(frames.shape)}: pass a list of frames, "
                "such as frames.unbind(-1) of a tensor"
            )
        memory = count(2, _MOST_MEMORY, memory=memory)
        self.rate = rate
        self.position = 0.0  # p of the last output frame
        self._frames: Iterator[Any] = iter(iterable(frames=frames))
        self._kept: deque[Any] = deque(maxlen=memory)
        self._n_read = 0
        # p is `_from + _steps * rate`, because a running sum would accumulate rounding errors.
        self._from, self._steps, self._rate = 0.0, 0, self.rate

    def __next__(self) -> Any:
        rate = self.rate
        if rate != self._rate:
            self._from, self._steps, self._rate = self.position, min(self._steps, 1), rate
        position = self._from + self._steps * rate
        oldest = self._n_read - len(self._kept)
        if position < oldest:
            position = self._from = float(oldest)
            self._steps = 0
        index = math.floor(position)
        if not self._read(index):
            raise StopIteration
        self.position, self._steps = position, self._steps + 1
        a = position - index
        frame = self._kept[index - self._n_read]
        if a and self._read(index + 1):
            return (1 - a) * self._kept[index - self._n_read] + a * self._kept[index + 1 - self._n_read]
        return _own(frame)

    def _read(self, index: int) -> bool:
        """Read up to frame `index`; return False if there are fewer frames."""
        while self._n_read <= index:
            try:
                frame = next(self._frames)
            except StopIteration:
                return False
            self._kept.append(
                _own(able(("__array__",), "pass an iterable of tensors or arrays", frames=frame))
            )
            self._n_read += 1
        return True


class Transform(ABC):
    """A function that is called with one frame after the other."""

    def __call__(self, frame: Frame) -> Frame:
        """Return the transformed frame."""
        if isinstance(frame, np.ndarray):
            frame = unmasked(frame, "frame")
            return self(torch.from_numpy(np.array(frame, frame.dtype.newbyteorder("=")))).numpy()
        if not isinstance(frame, Tensor):
            raise TypeError(f"Parameter frame is a {type(frame).__name__}: pass a tensor or an array")
        if not frame.is_floating_point() or frame.layout != torch.strided or frame.is_meta:
            raise TypeError(
                f"Parameter frame is {frame.dtype}, {frame.layout} on {frame.device}: pass a dense "
                "tensor of floats, such as frame.abs() of a complex one"
            )
        if not frame.ndim or not frame.numel():
            raise ValueError(f"Parameter frame has shape {tuple(frame.shape)}, not (*batch, n_freq)")
        result: Tensor = _own(self._of(frame))
        return result

    @abstractmethod
    def _of(self, frame: Tensor) -> Tensor: ...


class _Moving(Transform):
    """A transform that moves magnitudes to other frequencies.

    onesided: whether frames have `n_fft // 2 + 1` frequencies rather than `n_fft`. The lower half of
        two-sided frames is changed and mirrored.
    """

    def __init__(self, onesided: bool) -> None:
        self.onesided = flag(onesided=onesided)

    def _of(self, frame: Tensor) -> Tensor:
        if self.onesided:
            return self._moved(frame)
        n_fft = frame.shape[-1]
        half = self._moved(frame[..., : n_fft // 2 + 1])
        return torch.cat([half, half[..., 1 : (n_fft + 1) // 2].flip(-1)], -1)

    @abstractmethod
    def _moved(self, frame: Tensor) -> Tensor: ...


class Freeze(Transform):
    """Repeats one frame: while `on`, Y[t] is X at the time of switching on; otherwise Y[t] = X[t]."""

    on = _Checked(flag)

    def __init__(self, on: bool = False) -> None:
        self.on = on
        self._held: Tensor | None = None

    def _of(self, frame: Tensor) -> Tensor:
        if not self.on:
            self._held = None
            return frame
        if self._held is None:
            self._held = _own(frame)
        return self._held


class Smear(Transform):
    """Smooths frames over time: `Y[t] = (1 - amount) X[t] + amount Y[t - 1]`.

    After the end of a sound, its magnitudes decay by the factor `amount` per frame, to 37 % in
    `-1 / ln(amount)` frames. An amount of 0 changes nothing.
    """

    amount = _Checked(_number(0.0, 1.0))

    def __init__(self, amount: float = 0.9) -> None:
        self.amount = amount
        self._last: Tensor | None = None

    def _of(self, frame: Tensor) -> Tensor:
        amount = self.amount
        last = self._last
        if last is None or last.shape != frame.shape or not amount:
            self._last = _own(frame)
        else:
            self._last = torch.where(last.isfinite(), (1 - amount) * frame + amount * last, frame)
        return self._last


class Gain(Transform):
    """Changes the level of all frequencies, or of each frequency separately: `Y[k] = 10**(d[k] / 20) X[k]`.

    decibels: gain d, dB, a number or `(n_freq,)`, up to 600; `-inf` is silence.
    """

    def __init__(self, decibels: float | Tensor | Array = 0.0) -> None:
        self.decibels = decibels

    @property
    def decibels(self) -> float | Tensor | Array:
        """Gain in decibels."""
        return self._decibels

    @decibels.setter
    def decibels(self, decibels: float | Tensor | Array) -> None:
        decibels = unmasked(decibels, "decibels")
        try:
            if isinstance(decibels, (bool, str, bytes)):
                raise TypeError
            values = torch.as_tensor(decibels, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(f"Parameter decibels={shown(decibels)} is {_IS_NO_GAIN}") from error
        if values.ndim > 1 or not values.numel() or not bool((values <= _MOST_DB).all()):  # also rejects NaN
            shape = f" of shape {tuple(values.shape)}" if values.ndim else ""
            raise ValueError(f"Parameter decibels={shown(decibels)}{shape} is {_IS_NO_GAIN}")
        self._decibels = _own(decibels) if values.ndim else float(values)
        self._factor = 10 ** (values / 20)
        self._at_hand = self._factor  # copy with the device and dtype of the frames

    def _of(self, frame: Tensor) -> Tensor:
        factor = self._factor
        if factor.ndim and factor.shape != frame.shape[-1:]:
            raise ValueError(
                f"Parameter decibels has {len(factor)} values, but the frame has {frame.shape[-1]}: pass one "
                "number, or a value for each frequency"
            )
        if not factor.ndim:
            return frame * float(factor)
        if (self._at_hand.device, self._at_hand.dtype) != (frame.device, frame.dtype):
            with torch.inference_mode(False):
                self._at_hand = factor.to(frame)
        return frame * self._at_hand


class Pitch(_Moving):
    """Pitch shift: moves each partial from frequency f to `ratio * f`; the width of its lobe stays.

    `Y[k] = X[f + (k - ratio f)]`, where f is the frequency in bins of the peak nearest to `k / ratio`, so
    each lobe moves as a whole. The region of a peak ends half way to the next peak; above the last frequency
    magnitudes are 0. Stretching the lobes as well, `X[k / ratio]`, would shift partials by up to `ratio / 2`
    bins, and no signal has such lobes.

    Formants move, too; a following `Formants(1 / ratio)` moves them back. A semitone is the ratio
    `2 ** (1 / 12)`.

    Source: Laroche & Dolson 1999, section 3 (peaks and their regions), here of magnitudes alone.

    Examples:
        >>> import torch
        >>> from rtspecinv import STFT, transforms
        >>> frames = STFT(n_fft=1024).magnitude(torch.sin(torch.pi / 8 * torch.arange(4096))).mT
        >>> pitch = transforms.Pitch(1.5)
        >>> int(frames[8].argmax()), int(pitch(frames[8]).argmax())
        (64, 96)
    """

    ratio = _Checked(_number(0.1, 10.0))

    def __init__(self, ratio: float = 1.0, *, onesided: bool = True) -> None:
        super().__init__(onesided)
        self.ratio = ratio

    def _moved(self, frame: Tensor) -> Tensor:
        ratio = self.ratio
        if ratio == 1:
            return frame
        bins = torch.arange(frame.shape[-1], device=frame.device)
        last = frame.shape[-1] - 1
        nearest, first, end = _regions(frame)
        source = bins.to(frame.dtype) / ratio
        peak = nearest[..., source.round().clamp_max(last).long()]
        place = bins - (ratio - 1) * _refined(frame, nearest).gather(-1, peak)
        place = torch.minimum(torch.maximum(place, first.gather(-1, peak)), end.gather(-1, peak))
        # A cubic fits the square root of a lobe better than the lobe itself.
        shifted = _cubic(frame.sqrt(), place).clamp_min(0).square()
        return torch.where(source <= last, shifted, 0)


class Formants(_Moving):
    """Moves the formants without the harmonics: `Y[k] = X[k] E[k / ratio] / E[k]` with the envelope E.

    log E is log X after a morphological closing (the running maximum over `width` bins, then the running
    minimum), smoothed over `width` bins.

    ratio: factor of the formant frequencies; above 1 a voice sounds smaller.
    width: width of the windows in bins, above the distance of harmonics and below the width of formants.
    """

    ratio = _Checked(_number(0.1, 10.0))
    width = _Checked(_number(1.0))

    def __init__(self, ratio: float = 1.0, width: float = 16.0, *, onesided: bool = True) -> None:
        super().__init__(onesided)
        self.ratio, self.width = ratio, width

    def envelope(self, frame: Tensor) -> Tensor:
        """Return E of a frame `(*batch, n_freq)`, of the same shape; 0 for silence."""
        loudest = frame.amax(-1, keepdim=True)
        floor = (RANGE * loudest).clamp_min(torch.finfo(frame.dtype).tiny)
        reach = min(math.ceil(self.width / 2), frame.shape[-1] - 1)
        n = 2 * reach + 1
        log = torch.maximum(frame, floor).log().reshape(-1, 1, frame.shape[-1])
        tops = F.max_pool1d(log, n, 1, reach)
        filled = -F.max_pool1d(-tops, n, 1, reach)
        smooth = F.avg_pool1d(F.pad(filled, (reach, reach), mode="replicate"), n, 1)
        return torch.where(loudest > 0, smooth.reshape(frame.shape).exp(), 0)

    def _moved(self, frame: Tensor) -> Tensor:
        ratio = self.ratio
        if ratio == 1:
            return frame
        envelope = self.envelope(frame)
        last = frame.shape[-1] - 1
        source = torch.arange(last + 1, device=frame.device, dtype=frame.dtype) / ratio
        moved = torch.where(source <= last, _linear(envelope, source.clamp_max(last)), 0)
        return frame * torch.where(envelope > 0, moved / envelope, 0)


def _regions(frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nearest peak of every bin, and the ends of its region, half way to the next peaks."""
    n = frame.shape[-1]
    bins = torch.arange(n, device=frame.device)
    beside = F.pad(frame, (1, 1), value=-1.0)
    is_peak = (frame >= beside[..., :-2]) & (frame > beside[..., 2:])
    before = torch.where(is_peak, bins, -2 * n).cummax(-1).values  # far away if there is no peak
    after = torch.where(is_peak, bins, 4 * n).flip(-1).cummin(-1).values.flip(-1)
    nearest = torch.where(bins - before <= after - bins, before, after).clamp(0, n - 1)  # NaN has no peak
    first = (bins + F.pad(before[..., :-1], (1, 0), value=-2 * n)) / 2
    end = (bins + F.pad(after[..., 1:], (0, 1), value=4 * n)) / 2
    return nearest, first.clamp_min(0), end.clamp_max(n - 1)


def _refined(frame: Tensor, nearest: Tensor) -> Tensor:
    """Return the frequency of the peak in each bin, in bins, by a parabola through three logarithms."""
    n, tiny = frame.shape[-1], torch.finfo(frame.dtype).tiny
    log = frame.clamp_min(tiny).log()
    beside = F.pad(log, (1, 1), value=math.inf)
    left, right = beside[..., :-2], beside[..., 2:]
    bins = torch.arange(n, device=log.device)
    is_peak = (nearest == bins) & (bins > 0) & (bins < n - 1)
    curvature = torch.where(is_peak, 2 * log - left - right, 1).clamp_min(tiny)
    offset = torch.where(is_peak, 0.5 * (right - left) / curvature, 0)
    return bins + offset.clamp(-0.5, 0.5)


def _linear(values: Tensor, place: Tensor) -> Tensor:
    """Return values `(..., n_freq)` interpolated linearly at places `(n_freq,)` between bins."""
    low = place.floor().long()
    a = (place - low).to(values.dtype)
    return (1 - a) * values[..., low] + a * values[..., (low + 1).clamp_max(values.shape[-1] - 1)]


def _cubic(values: Tensor, place: Tensor) -> Tensor:
    """Return values `(..., n_freq)` interpolated at places of the same shape by a cubic through four bins."""
    low = place.floor().long()
    a = (place - low).to(values.dtype)
    v0, v1, v2, v3 = (values.gather(-1, (low + i).clamp(0, values.shape[-1] - 1)) for i in (-1, 0, 1, 2))
    below, above = a + 1, a - 1
    outer = a * above * (below * v3 - (a - 2) * v0) / 6  # Lagrange's polynomials
    return outer + below * (a - 2) * (above * v1 - a * v2) / 2
