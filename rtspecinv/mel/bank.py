"""Mel frames from magnitudes, and estimates of magnitudes from mel frames, one frame at a time.

samples --pre-emphasis, STFT--> magnitude --power, filters--> mel --compression--> input of a model
                                magnitude <--steps-- start <--bands-- mel <--expansion-- output of a model
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rtspecinv.bands import FilterBank, root
from rtspecinv.common.modes import Module, home
from rtspecinv.common.warning import warn
from rtspecinv.inputs import Array, extremes
from rtspecinv.mel.config import LOGARITHMS, MelConfig

AT_FLOOR = 1e-4  # values within this share of the floor, guard included, are the floor, that is silence


def mel_filters(config: MelConfig) -> tuple[Array, Array]:
    """Return triangular filters `(n_mels, n_fft // 2 + 1)` and centres in Hz, `(n_mels,)`, in float64."""
    lowest, highest = _to_mel(np.array([config.fmin, config.highest]), config.scale).tolist()
    edges = _from_mel(np.linspace(lowest, highest, config.n_mels + 2), config.scale)
    frequencies = np.arange(config.n_fft // 2 + 1) * (config.sample_rate / config.n_fft)
    if config.slopes == "mel":
        filters = _triangles(
            np.linspace(lowest, highest, config.n_mels + 2), _to_mel(frequencies, config.scale)
        )
    else:
        filters = _triangles(edges, frequencies)
    filters *= (frequencies > config.fmin) & (frequencies < config.highest)  # not within rounding of an edge
    height = 2 / (edges[2:] - edges[:-2]) if config.area_norm else np.ones(config.n_mels)
    return filters * height[:, None], edges[1:-1]


def _triangles(edges: Array, at: Array) -> Array:
    """Return triangles of height 1 over three neighbouring `edges` each, `(len(edges) - 2, len(at))`."""
    lower, centre, upper = (edges[i : len(edges) - 2 + i, None] for i in range(3))
    rising, falling = (at - lower) / (centre - lower), (upper - at) / (upper - centre)
    filters: Array = np.maximum(0, np.minimum(rising, falling))
    return filters


class MelBank(FilterBank):
    """Converts magnitudes to mel frames and estimates magnitudes from mel frames.

    Args:
        config: parameters of the mel spectrogram.
        extend: whether magnitudes above the last band continue at its level; otherwise they are 0.
        device, dtype: device and type of the frames.

    Attributes:
        filters: filters W, `(n_mels, n_fft // 2 + 1)`.

    A filter that contains no frequency of the transform is empty. If more than one filter in a hundred is
    empty, a warning states their number.
    """

    limit: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: MelConfig,
        *,
        extend: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        Module.__init__(self)
        self.config, self.extend, device = config, extend, home(device)
        if torch.device(device).type == "meta":
            raise ValueError("Parameter device is 'meta', where tensors have no values: pass device='cpu'")
        filters, centres = mel_filters(config)
        area, compression = filters.sum(1), config.compression
        empty = int((area == 0).sum())
        if empty > config.n_mels // 100:  # one of AST's 128 bands is empty
            warn(
                f"{empty} of {config.n_mels} mel filters contain no frequency of the transform, so their "
                "values are 0: use fewer bands (n_mels) or a larger n_fft"
            )
        frequencies = np.arange(filters.shape[1]) * (config.sample_rate / config.n_fft)
        floor = np.maximum(compression.floor, area * config.epsilon ** (config.power / 2))
        self._set_bank(filters, frequencies, centres, floor, extend, config.power, device, dtype)
        for name in ("mean", "std"):
            values = np.broadcast_to(np.asarray(getattr(compression, name), float), area.shape)
            buffer = torch.from_numpy(np.array(values)).to(device, dtype)
            self.register_buffer(name, buffer, persistent=False)
        self._set_limits()

    def forward(self, magnitude: Tensor) -> Tensor:
        """Return the mel spectrogram `(*batch, n_mels, n_frames)` of `(*batch, n_fft // 2 + 1, n_frames)`."""
        config, compression = self.config, self.config.compression
        if config.epsilon:
            magnitude = (magnitude.square() + config.epsilon).sqrt()
        mel = self.filters @ (magnitude if config.power == 1 else magnitude.square())
        value = self._curve(mel.clamp_min(compression.floor) if compression.floor else mel)
        if compression.dynamic_range is not None and value.numel():
            value = value.maximum(value.amax((-2, -1), keepdim=True) - compression.dynamic_range)
        value = self._affine(value.mT).mT
        return value.flip(-2) if config.flip else value

    def expand(self, frame: Tensor) -> Tensor:
        """Undo the compression of frames `(..., n_mels)`; values at the floor become 0."""
        return self.heard(self.undo(frame))

    def undo(self, frame: Tensor) -> Tensor:
        """Undo the compression of frames `(..., n_mels)`; values at the floor keep its value."""
        frame = frame.flip(-1) if self.config.flip else frame
        if frame.requires_grad:
            # What is silenced in the end has a gradient of 0, even where that of a power overflows near 0.
            frame = frame.where(self._invert_curve(frame.detach()) > self.floor, frame.detach())
        return self._invert_curve(frame)

    def inverse(self, frame: Tensor) -> Tensor:
        """Return non-negative magnitudes `(..., n_fft // 2 + 1)` with nearly the mel frames `(..., n_mels)`.

        The method is that of `FilterBank.unmix`.
        """
        return self.unmix(self.undo(frame))

    def check(self, frame: Tensor) -> None:
        """Raise `ValueError` if a value of `(..., n_mels)` is NaN, infinite or far beyond any sound."""
        if frame.numel():
            self.check_range(*extremes(frame))

    def fits(self, low: Tensor, high: Tensor) -> Tensor:
        """Return, without waiting, whether frames with these smallest and largest values pass `check`."""
        most = torch.finfo(low.dtype).max
        return (low >= max(self._lowest, -most)) & (high <= min(self._highest, most))

    def check_range(self, low: float, high: float) -> None:
        """Raise `ValueError` if the smallest and the largest value of frames cannot be inverted."""
        if not (math.isfinite(low) and math.isfinite(high)):
            odd = high if math.isfinite(low) else low
            raise ValueError(f"Parameter mel has the value {odd}: only finite values can be inverted")
        if low < self._lowest:
            raise ValueError(
                f"Parameter mel has the value {low:g}, but with this compression the least value is "
                f"{self._lowest:g}: if the values are logarithms or dB, declare it, for example with "
                "Compression('ln', floor=1e-5); rtspecinv.diagnose(mel) helps to find out; if a model's "
                f"values are slightly too low, pass mel.clamp_min({self._lowest:g})"
            )
        if high > self._highest:
            raise ValueError(
                f"Parameter mel has the value {high:g}, but with this compression values above "
                f"{self._highest:.3g} overflow: rtspecinv.diagnose(mel) helps to find out what they are"
            )

    def _curve(self, mel: Tensor) -> Tensor:
        compression = self.config.compression
        mel = mel + compression.guard if compression.guard else mel
        mel = mel / compression.reference if compression.reference != 1 else mel
        if compression.curve == "power":
            return mel if compression.exponent == 1 else root(mel, compression.exponent)
        if compression.curve == "log1p":
            return mel.log1p()
        return mel.log() * self._per_nat()

    def _per_nat(self) -> float:
        """Return the growth of a logarithmic curve when its argument grows by a factor of e."""
        return {"ln": 1.0, "log10": 1 / math.log(10), "dB": 20 / self.config.power / math.log(10)}[
            self.config.compression.curve
        ]

    def _affine(self, value: Tensor) -> Tensor:
        """Apply the affine map, clipping and statistics to `(..., n_mels)`."""
        compression = self.config.compression
        if (compression.gain, compression.offset) != (1, 0):
            value = value * compression.gain + compression.offset
        if compression.clip is not None:
            value = value.clamp(*compression.clip)
        return (value - self.mean) / self.std if self._has_statistics() else value

    def _invert_curve(self, value: Tensor) -> Tensor:
        compression = self.config.compression
        if self._has_statistics():
            value = value * self.std + self.mean
        if compression.clip is not None:
            value = value.clamp(*compression.clip)
        if (compression.gain, compression.offset) != (1, 0):
            value = (value - compression.offset) / compression.gain
        if compression.curve in LOGARITHMS:
            value = (value / self._per_nat()).exp()
        elif compression.curve == "log1p":
            value = value.expm1()
        elif compression.exponent != 1:
            value = root(value.clamp_min(0), 1 / compression.exponent)
        value = value * compression.reference if compression.reference != 1 else value
        return (value - compression.guard).clamp_min(0) if compression.guard else value

    def _has_statistics(self) -> bool:
        return (self.config.compression.mean, self.config.compression.std) != (0, 1)

    def _set_limits(self) -> None:
        """Set the floor after compression and the range of values that can be expanded."""
        compression = self.config.compression
        floor = self._invert_curve(self._affine(self._curve(self.floor)))
        self.floor.copy_(floor + (floor + compression.guard) * AT_FLOOR)
        large = torch.full_like(floor, torch.finfo(floor.dtype).max ** 0.9)
        ends = torch.stack([self._affine(self._curve(end)) for end in (torch.zeros_like(large), large)])
        bounded = compression.clip is not None  # values beyond are clipped
        self._lowest = -math.inf if bounded or compression.curve in LOGARITHMS else _under(float(ends.amin()))
        self._highest = math.inf if bounded else float(ends.amax())


def _to_mel(frequency: Array, scale: str) -> Array:
    if scale == "htk":
        return 2595 * np.log10(1 + frequency / 700)
    logarithmic = 15 + 27 * np.log(np.maximum(frequency, 1000) / 1000) / np.log(6.4)
    return np.where(frequency < 1000, frequency * 3 / 200, logarithmic)


def _from_mel(mel: Array, scale: str) -> Array:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def _under(lowest: float) -> float:
    """Return a value slightly below the given one, which rounding errors of it do not reach."""
    return lowest - 1e-5 * abs(lowest)
