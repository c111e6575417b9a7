"""Parameters of a mel spectrogram: the frozen records `MelConfig` and `Compression`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtspecinv.common.checks import MOST_RATE, choice, count, file_name, finite, flag, keep, shown
from rtspecinv.common.masks import unmasked
from rtspecinv.common.printable import printable
from rtspecinv.common.settings import check_names, read_settings
from rtspecinv.common.whole_files import write_whole
from rtspecinv.stft import PAD_MODES, STFT, check_center
from rtspecinv.stft import WINDOWS as PERIODIC

SCALES = ("slaney", "htk")
SLOPES = ("hz", "mel")
LOGARITHMS = ("ln", "log10", "dB")  # curves without a value at 0
CURVES = ("power", *LOGARITHMS, "log1p")
WINDOWS = (*PERIODIC, "povey")
MOST_WEIGHTS = 2**24  # largest n_mels * n_fft; the tables of such a bank take 1 GB

# Bins per band up to which little is lost, and above which much is. The main lobe of a Hann window has 4 bins
# between its zeros, so that partials further apart are separated by the window, but not by a wider band. With
# half as many bins again, PESQ is lower by 0.6 and more (bench/README.md, table "mel bins").
MAIN_LOBE = 4
WIDE = 6
BINS_MEAN = (
    f"bins per band: up to {MAIN_LOBE}, the main lobe of a Hann window, little is lost; with more, bands "
    f"merge partials that the window separates, and above {WIDE} much detail is lost"
)


@dataclass(frozen=True)
class Compression:
    """Compression of mel values x, and its inverse: `y = (clip(gain c(u) + offset) - mean) / std`.

    The curve c is applied to `u = (max(x, floor) + guard) / reference`. It is `u**exponent` ("power"),
    `ln(u)`, `log10(u)`, `ln(1 + u)` ("log1p"), or "dB", which is `20 log10(u)` for magnitudes and
    `10 log10(u)` for powers. With the default parameters y equals x.

    Args:
        curve: name of the curve: "power", "ln", "log10", "dB" or "log1p".
        floor: least x; logarithms other than log1p need a floor or a guard above 0.
        exponent: exponent of the curve "power".
        reference: value of x that becomes 1 before the curve, so its logarithm is 0.
        dynamic_range: largest distance of a value of the curve from the largest value of the spectrogram;
            smaller values are raised to this distance. It needs the whole spectrogram and cannot be undone.
        gain, offset: factor and summand that are applied to the values of the curve.
        clip: least and largest value of the affine map.
        mean, std: statistics for normalization, one number or one per band.
        guard: number added to x, as in `ln(x + 1e-6)`.

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
    guard: float = 0.0

    def __post_init__(self) -> None:
        keep(self, partial(choice, CURVES), "curve")
        keep(self, partial(finite, 0), "floor", "guard")
        keep(self, partial(finite, 0, above=True), "exponent", "reference")
        keep(self, finite, "gain", "offset")
        if self.dynamic_range is not None:
            keep(self, partial(finite, 0, above=True), "dynamic_range")
        if self.curve in LOGARITHMS and not self.floor + self.guard:
            raise ValueError(
                f"Parameters floor={self.floor}, guard={self.guard} are both 0, but curve={self.curve!r} has "
                "no finite value at 0: pass the least mel value as floor, or the added number as guard"
            )
        if not self.gain:
            raise ValueError(
                f"Parameter gain={self.gain} maps all values to offset={self.offset}, so that it cannot be "
                "undone: use a gain other than 0"
            )
        # Lists and arrays become tuples, so that a configuration can be compared.
        if self.clip is not None:
            clip = _values("clip", self.clip)
            if len(clip) != 2 or not clip[0] < clip[1]:
                raise ValueError(
                    f"Parameter clip={shown(self.clip)} is not (least, largest) with least < largest"
                )
            object.__setattr__(self, "clip", clip)
        for name in ("mean", "std"):
            values = _values(name, getattr(self, name))
            if not np.isfinite(values).all() or (name == "std" and min(values, default=0) <= 0):
                given = shown(getattr(self, name))
                raise ValueError(
                    f"Parameter {name}={given} is not finite{' and above 0' if name == 'std' else ''}: pass "
                    "a number, or a list with a number for each band"
                )
            is_number = np.ndim(getattr(self, name)) == 0
            object.__setattr__(self, name, values[0] if is_number else values)


@dataclass(frozen=True)
class MelConfig:
    """Parameters that determine a mel spectrogram of samples.

    Args:
        sample_rate: sample rate, Hz.
        n_fft, hop_length, win_length, center, pad_mode: as in `STFT`.
        n_mels: number of mel bands.
        fmin: lower edge of the first band, Hz.
        fmax: upper edge of the last band, Hz; default: half the sample rate.
        scale: mel scale: "slaney" (linear up to 15 mel at 1 kHz; above, 27 mel are a factor of 6.4) or "htk"
            (`2595 log10(1 + f / 700)`, which Kaldi writes as `1127 ln(1 + f / 700)`).
        area_norm: whether every triangle has the area 1 Hz rather than the height 1 (Slaney 1998).
        power: exponent of the magnitudes, 1 or 2.
        epsilon: number added to the squared magnitudes.
        drop_last: whether the last frame is left out.
        flip: whether the highest band comes first, as in pictures.
        preemphasis: coefficient a of the pre-emphasis `x[n] - a x[n-1]` of the samples.
        compression: compression of the mel values.
        window: name of a window of `STFT`, "povey" (Kaldi's, Hann to the power of 0.85), or its values.
        periodic: whether a window given by name is periodic over `win_length` samples; Kaldi and NeMo use
            symmetric windows.
        slopes: variable in which the sides of the triangles are straight: "hz", or "mel" as in HTK and Kaldi.
        per_frame: whether, as in HTK and Kaldi, the mean of each frame is subtracted, which inversion does
            not undo, and pre-emphasis is applied within the frame, with its first sample repeated before it.
            Inversion undoes the filter of all samples, which is the same for windows that begin with 0. With
            a Hamming window, the magnitudes differ by about -48 dB.

    Raises:
        ValueError: a parameter is out of range.

    Sources: Slaney 1998, Auditory Toolbox; O'Shaughnessy 1987 for the HTK formula; Young et al. 2006, The HTK
    Book, sections 5.2 and 5.4; Povey et al. 2011 (Kaldi).
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
    window: str | Sequence[float] = "hann"
    periodic: bool = True
    slopes: str = "hz"
    per_frame: bool = False

    def __post_init__(self) -> None:
        keep(self, partial(finite, 0, MOST_RATE, above=True), "sample_rate")
        keep(self, partial(finite, 0), "fmin")
        keep(self, partial(finite, 0, 1, below=True), "epsilon", "preemphasis")
        keep(self, partial(count, 1), "n_fft", "hop_length", "n_mels")
        keep(self, flag, "area_norm", "drop_last", "flip", "periodic", "per_frame")
        if self.fmax is not None:
            keep(self, finite, "fmax")
        if self.win_length is not None:
            keep(self, partial(count, 1), "win_length")
        keep(self, partial(choice, SCALES), "scale")
        keep(self, partial(choice, SLOPES), "slopes")
        keep(self, partial(choice, PAD_MODES), "pad_mode")
        half = self.sample_rate / 2
        if not 0 <= self.fmin < self.highest <= half:
            raise ValueError(
                f"Parameters fmin={self.fmin:g} and fmax={self.fmax} must be 0 <= fmin < fmax <= {half:g}, "
                f"half of sample_rate={self.sample_rate:g}; with fmax=None, fmax is that half"
            )
        check_center(self.center)
        keep(self, finite, "power")
        if self.power not in (1, 2):
            raise ValueError(f"Parameter power={self.power} is not 1 (magnitude) or 2 (power)")
        self._check_window()
        n_weights = self.n_mels * max(self.n_fft, self.n_mels)
        if n_weights > MOST_WEIGHTS:
            raise ValueError(
                f"Parameters n_mels={self.n_mels}, n_fft={self.n_fft} require {n_weights} weights, but at "
                f"most {MOST_WEIGHTS} are allowed: use fewer bands or a smaller n_fft"
            )
        if not isinstance(self.compression, Compression):
            raise TypeError(f"Parameter compression={shown(self.compression)} is not a Compression")
        for name in ("mean", "std"):
            value = getattr(self.compression, name)
            if isinstance(value, tuple) and len(value) != self.n_mels:
                raise ValueError(
                    f"Parameter {name} has {len(value)} values, but n_mels={self.n_mels}: pass one number, "
                    "or one for each band"
                )

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> MelConfig:
        """Return the configuration with these parameters; `compression` is a dictionary, too.

        Raises:
            ValueError: a name is unknown, `sample_rate` is missing, or a parameter is out of range.
        """
        check_names(given, [part.name for part in fields(cls)], ["sample_rate"])
        compression = given.get("compression", {})
        if not isinstance(compression, Compression):
            check_names(compression, [part.name for part in fields(Compression)], [], "compression.")
        try:
            if not isinstance(compression, Compression):
                compression = Compression(**compression)
            return cls(**{**given, "compression": compression})
        except TypeError as error:  # a wrong type in a file is a wrong value
            raise ValueError(str(error)) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters by name, as `from_dict` takes them, in types that JSON has."""
        return asdict(self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MelConfig:
        """Read a configuration file: `{"sample_rate": 16000, "compression": {"curve": "ln", ...}, ...}`.

        Args:
            path: path of a .json file, or of a .toml file (Python 3.11 or later), whose keys are the
                parameters of `MelConfig` and `Compression`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not of this kind, or a parameter is unknown, missing or out of range.
            ImportError: the file is .toml and Python is 3.10.
        """
        path = file_name(path=path)
        try:
            return cls.from_dict(read_settings(path))
        except ValueError as error:
            text, name = str(error), printable(path)
            raise ValueError(text if name in text else f"{name}: {text}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .json file that `load` reads; its path can be given instead of the name of a preset.

        Raises:
            ValueError: the name does not end in .json.
            OSError: the file cannot be written.
        """
        path = file_name(path=path)
        if path.suffix.lower() != ".json":
            raise ValueError(f"Cannot write {printable(path)}: its name must end in .json")
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        write_whole(path, lambda file: file.write(text.encode()))

    @property
    def highest(self) -> float:
        """Upper edge of the last band, Hz."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax

    @property
    def bins_per_band(self) -> float:
        """Mean number of frequencies per band, zeros around the window not counted; fewer lose less."""
        win_length = self.win_length or self.n_fft
        return (self.highest - self.fmin) * win_length / self.sample_rate / self.n_mels

    @property
    def oversampling(self) -> int:
        """Step between the frequencies that remain if frames have no zeros around the window."""
        win_length = self.win_length or self.n_fft
        # Otherwise the zeros on both sides differ by one, and frames would begin a sample later.
        is_even = (self.n_fft - win_length) % 2 == 0
        fits = self.n_fft % win_length == 0 and is_even and self.center is not False
        return self.n_fft // win_length if fits else 1

    def stft(
        self,
        *,
        critical: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> STFT:
        """Return the transform that the magnitudes come from, or the same without oversampling.

        Args:
            critical: whether to leave out the zeros around the window if this leaves every `oversampling`-th
                frequency unchanged; the frames are then shorter.
            device, dtype: as in `STFT`.
        """
        factor = self.oversampling if critical else 1
        return STFT(
            self.n_fft // factor,
            self.hop_length,
            win_length=self.win_length,
            window=self._window(),
            center=self.center,
            pad_mode=self.pad_mode,
            device=device,
            dtype=dtype,
        )

    def _check_window(self) -> None:
        win_length = self.n_fft if self.win_length is None else self.win_length
        if isinstance(self.window, str):
            choice(WINDOWS, window=self.window)
            return
        values = _values("window", self.window)
        if len(values) != win_length or not np.isfinite(values).all():
            raise ValueError(
                f"Parameter window={shown(self.window)} has {len(values)} values, but must have {win_length} "
                "finite values: as many as win_length, or n_fft if win_length is not given"
            )
        object.__setattr__(self, "window", values)

    def _window(self) -> str | Tensor:
        """Return the window as `STFT` takes it."""
        if not isinstance(self.window, str):
            return torch.tensor(self.window, dtype=torch.float64, device="cpu")
        if self.window != "povey" and (self.periodic or self.window in ("rectangular", "boxcar")):
            return self.window
        make = getattr(torch.signal.windows, "hann" if self.window == "povey" else self.window)
        values: Tensor = make(
            self.win_length or self.n_fft, sym=not self.periodic, dtype=torch.float64, device="cpu"
        )
        return values.clamp_min(0).pow(0.85) if self.window == "povey" else values


def lost(config: MelConfig) -> str:
    """Return how much of a sound is lost in the bands, by their number of bins."""
    bins = config.bins_per_band
    return f"{'little' if bins <= MAIN_LOBE else 'some detail' if bins <= WIDE else 'much detail'} is lost"


def _values(name: str, given: Any) -> tuple[float, ...]:
    """Return a number, or a list or an array of numbers, as a tuple."""
    value = given.detach().cpu() if isinstance(given, Tensor) else unmasked(given, name)
    try:
        array = np.asarray(value)
        if array.ndim > 1 or array.dtype.kind not in "fiu":
            raise TypeError
        return tuple(array.astype(np.float64).reshape(-1).tolist())
    except (TypeError, ValueError) as error:
        raise ValueError(f"Parameter {name}={shown(given)} is not a number or a list of numbers") from error
