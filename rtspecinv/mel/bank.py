"""Mel frames from magnitudes, and estimates of magnitudes from mel frames, one frame at a time.

samples --pre-emphasis, STFT--> magnitude --power, filters--> mel --compression--> what a model sees
                                magnitude <--steps-- start <--bands-- mel <--expansion-- what a model says
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv.common.modes import Module, home
from rtspecinv.common.warning import warn
from rtspecinv.inputs import Array
from rtspecinv.mel.config import LOGARITHMS, MelConfig

# Steps of an inverse, and their relaxation: each is worth 1.5 plain ones; 2 would be the most that is stable.
# Twice as many gain 0.07 PESQ for a tenth of a push. The last frame as a start gains no more than that, and
# would be one more state. Measured in bench/README.md, table "mel choices".
N_STEPS = 5
RELAXATION = 1.5
QUIETEST = 1e-10  # a start is at least this share of the loudest band: multiplying cannot leave 0
AT_FLOOR = 1e-4  # values within this share of the floor, guard included, are the floor, that is silence


def mel_filters(config: MelConfig) -> tuple[Array, Array]:
    """Triangular filters `(n_mels, n_fft // 2 + 1)` and their centres in Hz, `(n_mels,)`, in float64."""
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
    """Triangles of height 1 between every three neighbours of `edges`, `(len(edges) - 2, len(at))`."""
    lower, centre, upper = (edges[i : len(edges) - 2 + i, None] for i in range(3))
    rising, falling = (at - lower) / (centre - lower), (upper - at) / (upper - centre)
    filters: Array = np.maximum(0, np.minimum(rising, falling))
    return filters


class MelBank(Module):
    """Mel frames of magnitudes, and magnitudes of mel frames.

    Args:
        config: parameters of the mel spectrogram.
        extend: True to continue the level of the last band above it, False for zeros there.
        device, dtype: of the frames.

    Attributes:
        filters: W, `(n_mels, n_fft // 2 + 1)`.

    Filters too narrow to meet a frequency of the transform are empty; a warning says how many, if they are
    more than one in a hundred.
    """

    filters: Tensor
    shares: Tensor
    interpolation: Tensor
    density: Tensor
    at_least: Tensor
    beyond: Tensor
    floor: Tensor
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
        super().__init__()
        self.config, self.extend, device = config, extend, home(device)
        if torch.device(device).type == "meta":
            raise ValueError("Parameter device is 'meta', where nothing has values: pass device='cpu'")
        filters, centres = mel_filters(config)
        area, heard = filters.sum(1), filters.sum(0)  # of bands, of frequencies
        live = area > 0
        empty = int((~live).sum())
        if empty > config.n_mels // 100:  # of AST's 128 there is one
            warn(
                f"{empty} of {config.n_mels} mel filters meet no frequency: use fewer n_mels or a larger "
                "n_fft"
            )
        frequencies = np.arange(len(heard)) * (config.sample_rate / config.n_fft)
        weights = _interpolation(frequencies, centres, live)
        above = (heard == 0) & (frequencies > centres[-1])
        constants = {
            "filters": filters,
            # W^T over its row sums: of the bands that hear a frequency, how much each says about it.
            "shares": np.divide(filters, heard, out=np.zeros_like(filters), where=heard > 0).T,
            # Of logarithms of the bands, to those of every frequency.
            "interpolation": weights,
            "density": -weights @ np.log(np.where(live, area, 1.0)),
            "at_least": np.where(live, 1e-20, 1.0),  # keeps divisions finite
            "beyond": (above if extend else np.zeros_like(heard)).astype(float),
            "floor": np.maximum(config.compression.floor, area * config.epsilon ** (config.power / 2)),
            "mean": np.broadcast_to(np.asarray(config.compression.mean, float), area.shape),
            "std": np.broadcast_to(np.asarray(config.compression.std, float), area.shape),
        }
        for name, values in constants.items():
            buffer = torch.from_numpy(np.array(values)).to(device, dtype)
            self.register_buffer(name, buffer, persistent=False)
        self._set_limits()

    def forward(self, magnitude: Tensor) -> Tensor:
        """Mel spectrogram `(*batch, n_mels, n_frames)` of `(*batch, n_fft // 2 + 1, n_frames)`."""
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
        """Mel values x of frames `(..., n_mels)` as `forward` gives them, 0 at the floor."""
        return self._silenced(self.undo(frame))

    def undo(self, frame: Tensor) -> Tensor:
        """Mel values x of frames `(..., n_mels)`, with what is left at the floor."""
        frame = frame.flip(-1) if self.config.flip else frame
        if frame.requires_grad:
            # What is silenced in the end has a gradient of 0, even where that of a power overflows near 0.
            frame = frame.where(self._invert_curve(frame.detach()) > self.floor, frame.detach())
        return self._invert_curve(frame)

    def _silenced(self, mel: Tensor) -> Tensor:
        return mel.where(mel > self.floor, 0)

    def inverse(self, frame: Tensor) -> Tensor:
        """Non-negative magnitudes `(..., n_fft // 2 + 1)` whose mel frames are nearly `(..., n_mels)`.

        Levels are interpolated between the bands on a logarithmic scale; then come relaxed multiplicative
        steps `S <- S (sum_m w_m M_m / (W S)_m)**1.5`, w being `W^T` over its row sums, which decrease the
        Kullback-Leibler divergence of `W S` from M.

        Source: Lee & Seung 2001, theorem 2; relaxed as in Lucy 1974 and its successors.
        """
        return self.unmix(self.undo(frame))

    def unmix(self, mel: Tensor) -> Tensor:
        """Magnitudes of mel values as `undo` gives them; see `inverse`."""
        mel, power = self._silenced(mel), self.config.power
        peak = mel.amax(-1, keepdim=True)
        mel = mel / peak.where(peak > 0, 1)
        levels = F.linear(mel.clamp_min(QUIETEST).log(), self.interpolation, self.density)
        # Magnitudes all along, no root at the end: near 0 its second derivative overflows.
        found = (levels / power).exp()
        for _ in range(N_STEPS):
            values = found if power == 1 else found.square()
            ratio = mel / F.linear(values, self.filters, self.at_least)
            found = found * _power(F.linear(ratio, self.shares, self.beyond), RELAXATION / power)
        return found * (peak if power == 1 else _power(peak, 0.5))

    def unmixing(self) -> tuple[dict[str, Tensor], int, float, bool]:
        """All that `unmix` works with, for compiled code."""
        names = ("filters", "shares", "interpolation", "density", "beyond", "at_least", "floor")
        constants = {name: self.get_buffer(name) for name in names}
        return constants, N_STEPS, QUIETEST, self.config.power == 2

    def check(self, frame: Tensor) -> None:
        """Raise `ValueError` if a value of `(..., n_mels)` is NaN, infinite or far beyond any sound."""
        if not frame.numel():
            return
        low, high = (
            float(value) for value in torch.aminmax(frame.detach() if frame.requires_grad else frame)
        )
        if not (math.isfinite(low) and math.isfinite(high)):
            odd = high if math.isfinite(low) else low
            raise ValueError(f"Parameter mel has the value {odd}: only finite ones can be inverted")
        if low < self._lowest:
            raise ValueError(
                f"Parameter mel has the value {low:g} < {self._lowest:g}: if it is a logarithm or dB, say "
                "so with Compression('ln', floor=1e-5), or ask rtspecinv.diagnose; if a model is off by so "
                f"much, pass mel.clamp_min({self._lowest:g})"
            )
        if high > self._highest:
            raise ValueError(
                f"Parameter mel has the value {high:g}, which overflows where values are up to "
                f"{self._highest:.3g}: ask rtspecinv.diagnose what it is"
            )

    def _curve(self, mel: Tensor) -> Tensor:
        compression = self.config.compression
        mel = mel + compression.guard if compression.guard else mel
        mel = mel / compression.reference if compression.reference != 1 else mel
        if compression.curve == "power":
            return mel if compression.exponent == 1 else _power(mel, compression.exponent)
        if compression.curve == "log1p":
            return mel.log1p()
        return mel.log() * self._per_nat()

    def _per_nat(self) -> float:
        """Growth of a logarithmic curve where its argument grows by a factor of e."""
        return {"ln": 1.0, "log10": 1 / math.log(10), "dB": 20 / self.config.power / math.log(10)}[
            self.config.compression.curve
        ]

    def _affine(self, value: Tensor) -> Tensor:
        """Affine map, clipping and statistics of `(..., n_mels)`."""
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
            value = _power(value.clamp_min(0), 1 / compression.exponent)
        value = value * compression.reference if compression.reference != 1 else value
        return (value - compression.guard).clamp_min(0) if compression.guard else value

    def _has_statistics(self) -> bool:
        return (self.config.compression.mean, self.config.compression.std) != (0, 1)

    def _set_limits(self) -> None:
        """Floor after what compression does to it, and the range of values that can be expanded."""
        compression = self.config.compression
        floor = self._invert_curve(self._affine(self._curve(self.floor)))
        self.floor.copy_(floor + (floor + compression.guard) * AT_FLOOR)
        large = torch.full_like(floor, torch.finfo(floor.dtype).max ** 0.9)
        ends = torch.stack([self._affine(self._curve(end)) for end in (torch.zeros_like(large), large)])
        bounded = compression.clip is not None  # what is beyond is clipped
        self._lowest = -math.inf if bounded or compression.curve in LOGARITHMS else _under(float(ends.amin()))
        self._highest = math.inf if bounded else float(ends.amax())


def _power(values: Tensor, exponent: float) -> Tensor:
    """Power of non-negative values whose gradient at 0 is 0, whatever the exponent."""
    positive = values > 0
    return values.where(positive, 1).pow(exponent) * positive


def _interpolation(frequencies: Array, centres: Array, live: Array) -> Array:
    """Weights `(n_freq, n_mels)` between the centres of the bands that hear something."""
    weights = np.zeros((len(frequencies), len(centres)))
    for column, band in enumerate(np.flatnonzero(live)):
        weights[:, band] = np.interp(frequencies, centres[live], np.eye(live.sum())[column])
    return weights


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
    """Value that rounding does not reach from above."""
    return lowest - 1e-5 * abs(lowest)
