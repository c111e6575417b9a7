"""What a mel spectrogram is: two frozen records that say all of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rtspecinv.inputs import count
from rtspecinv.masks import unmasked
from rtspecinv.stft import STFT, unknown_name

SCALES = ("slaney", "htk")
CURVES = ("power", "ln", "log10", "dB")
MOST_WEIGHTS = 2**24  # n_mels times n_fft: the tables of a bank take up to 1 GB


@dataclass(frozen=True)
class Compression:
    """What is done to mel values x, and undone: `y = (clip(gain c(max(x, floor)) + offset) - mean) / std`.

    The curve c is `(x / reference)**exponent` ("power"), `ln(x / reference)`, `log10(x / reference)` or "dB",
    `20 log10(x / reference)` of magnitudes and half of that of powers. The default changes nothing.

    Args:
        curve: "power", "ln", "log10" or "dB".
        floor: least x; logarithms need one above 0.
        exponent: of "power".
        reference: x that becomes 1, or 0 of a logarithm.
        dynamic_range: values of the curve further under the largest of their spectrogram are raised to that;
            it cannot be undone, nor known before the whole is there.
        gain, offset: affine map of the curve.
        clip: least and largest value of the affine map.
        mean, std: statistics, one number or one for each band.

    Raises:
        ValueError: a parameter is out of range.
    """

    curve: str = "power"
    floor: float = 0.0
    exponent: float = 1.0
    reference: float = 1.0
    dynamic_range: float | None = None
    gain: float = 1.0
    offset: float = 0.0
    clip: tuple[float, float] | None = None
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        if self.curve not in CURVES:
            raise unknown_name("curve", self.curve, CURVES)
        if not 0 <= self.floor < math.inf or (self.curve != "power" and not self.floor):
            raise ValueError(f"Parameter floor={self.floor} is not above 0, as {self.curve!r} needs!")
        for name in ("exponent", "reference"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"Parameter {name}={getattr(self, name)} is not above 0!")
        if self.dynamic_range is not None and not self.dynamic_range > 0:
            raise ValueError(f"Parameter dynamic_range={self.dynamic_range} is not above 0!")
        if not self.gain or not math.isfinite(self.gain) or not math.isfinite(self.offset):
            raise ValueError(f"Parameters gain={self.gain}, offset={self.offset} cannot be undone!")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"Parameter clip={self.clip} is not (least, largest)!")
        for name in ("mean", "std"):  # arrays become tuples, so that a configuration can be compared
            value = np.asarray(unmasked(getattr(self, name), name), np.float64)
            if not np.isfinite(value).all() or value.ndim > 1 or (name == "std" and not (value > 0).all()):
                raise ValueError(f"Parameter {name} is not finite, above 0 if std, and a number or a list!")
            object.__setattr__(self, name, float(value) if value.ndim == 0 else tuple(value.tolist()))


@dataclass(frozen=True)
class MelConfig:
    """All that says how samples become a mel spectrogram.

    Args:
        sample_rate: Hz.
        n_fft, hop_length, win_length, center, pad_mode: as in `STFT`; the window is a periodic Hann window.
        n_mels: bands.
        fmin: lower edge of the first band, Hz.
        fmax: upper edge of the last band, Hz; None is half the sample rate.
        scale: "slaney" (linear up to 1 kHz, logarithmic above: 15 mel are 1 kHz, 27 more a factor of 6.4) or
            "htk" (`2595 log10(1 + f / 700)`).
        area_norm: give every triangle the area 1 Hz rather than the height 1 (Slaney 1998).
        power: exponent of the magnitudes, 1 or 2.
        epsilon: added to the squared magnitudes.
        drop_last: leave out the last frame.
        flip: the highest band comes first, as in pictures.
        preemphasis: a of `x[n] - a x[n-1]`, which samples go through first.
        compression: of the mel values.

    Raises:
        ValueError: a parameter is out of range.

    Sources: Slaney 1998, Auditory Toolbox; O'Shaughnessy 1987 for the HTK formula.
    """

    sample_rate: float
    n_fft: int = 1024
    hop_length: int = 256
    win_length: int | None = None
    n_mels: int = 80
    fmin: float = 0.0
    fmax: float | None = None
    scale: str = "slaney"
    area_norm: bool = True
    power: float = 1.0
    epsilon: float = 0.0
    center: bool | str = True
    pad_mode: str = "reflect"
    drop_last: bool = False
    flip: bool = False
    preemphasis: float = 0.0
    compression: Compression = field(default_factory=Compression)

    def __post_init__(self) -> None:
        if not 0 < self.sample_rate < math.inf:
            raise ValueError(f"Parameter sample_rate={self.sample_rate} is not above 0 Hz!")
        half = self.sample_rate / 2
        if not 0 <= self.fmin < self.highest <= half:
            raise ValueError(
                f"Parameters fmin={self.fmin}, fmax={self.fmax} are not 0 <= fmin < fmax <= {half}, "
                "half the rate!"
            )
        if self.scale not in SCALES:
            raise unknown_name("scale", self.scale, SCALES)
        if self.power not in (1, 2):
            raise ValueError(f"Parameter power={self.power} is not 1 (magnitude) or 2 (power)!")
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"Parameter epsilon={self.epsilon} is not from 0 to 1!")
        if not 0 <= self.preemphasis < 1:
            raise ValueError(f"Parameter preemphasis={self.preemphasis} is not 0 or more, and under 1!")
        n_weights = count(1, n_mels=self.n_mels) * max(count(1, n_fft=self.n_fft), self.n_mels)
        if n_weights > MOST_WEIGHTS:
            raise ValueError(
                f"Parameters n_mels={self.n_mels}, n_fft={self.n_fft} make {n_weights} weights, more than "
                f"{MOST_WEIGHTS}!"
            )
        if not isinstance(self.compression, Compression):
            raise TypeError(f"Parameter compression={self.compression!r} is not a Compression!")
        for name in ("mean", "std"):
            value = getattr(self.compression, name)
            if isinstance(value, tuple) and len(value) != self.n_mels:
                raise ValueError(f"Parameter {name} has {len(value)} values for n_mels={self.n_mels}!")

    @property
    def highest(self) -> float:
        """Upper edge of the last band, Hz."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax

    @property
    def oversampling(self) -> int:
        """Every how many frequencies there is one that frames without zeros around the window have too."""
        win_length = self.win_length or self.n_fft
        return 1 if self.n_fft % win_length or self.center is False else self.n_fft // win_length

    def stft(self, *, critical: bool = False, **options: Any) -> STFT:
        """Transform that the magnitudes come from, or the one without their oversampling.

        Args:
            critical: leave out zeros around the window, where that leaves every `oversampling`-th frequency:
                the same frames, smaller.
            options: `device` and `dtype`.
        """
        factor = self.oversampling if critical else 1
        return STFT(
            self.n_fft // factor,
            self.hop_length,
            win_length=self.win_length,
            center=self.center,
            pad_mode=self.pad_mode,
            **options,
        )
