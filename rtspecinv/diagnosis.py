"""What an array looks like that is said to be a spectrogram: by its shape, range and steps, in words.

The rules are those of sound at usual levels, peaks within -20 dB of full scale; thresholds were found on
music and speech in every preset. Guesses are called guesses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rtspecinv.inputs import Array
from rtspecinv.masks import unmasked
from rtspecinv.mel_config import MelConfig
from rtspecinv.mel_presets import CONFIGS, find
from rtspecinv.stft import check_dense

BANDS = frozenset({config.n_mels for config in CONFIGS.values()} | {40, 64, 96, 160, 256})
MOST_VALUES = 2**20  # looked at
EXACT = 2e-3  # how near a value must be to count as another
LOGARITHMS = ("ln", "log10", "dB")
LOUD = 12.0  # mel values over this, of magnitudes of sound within -1 to 1, are of bands without area norm

WORDS = {
    "linear": "linear values, neither a logarithm nor scaled",
    "ln": "natural logarithms",
    "log10": "logarithms to base 10",
    "dB": "decibels",
    "whisper": "Whisper's (log10(power) + 4) / 4, at most 8 decades",
    "unit": "levels scaled to 0 to 1",
    "symmetric": "levels scaled to -4 to 4",
    "standard": "normalised to mean 0 and variance 1: undo that with mean= and std= of Compression",
    "grey": "grey values of a picture",
    "samples": "samples of sound, not a spectrogram",
    "spectrum": "a complex spectrum: take its absolute values, or push it as it is",
    "broken": "not finite everywhere",
    "silence": "one value only",
}


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; `str()` says it in words.

    Attributes:
        shape: of the array.
        low, high: of the finite values.
        layout: "(..., mels, frames)", "(..., frames, mels)", the same with freq; "" if it cannot be told.
        n_bands: mel bands or frequencies; None if it cannot be told.
        values: "linear", "ln", "log10", "dB", "whisper", "unit" (0 to 1), "symmetric" (-4 to 4),
            "standard" (mean 0, variance 1), "grey", "samples", "spectrum", "broken", "silence".
        power: 1 for magnitudes, 2 for powers, None if it cannot be told.
        area_norm: whether bands have the same area; None if it cannot be told.
        presets: names of presets that it may be, the likeliest first.
        problems: what is wrong, or is not as the given preset has it, each with the way out.
    """

    shape: tuple[int, ...]
    low: float
    high: float
    layout: str
    n_bands: int | None
    values: str
    power: int | None
    area_norm: bool | None
    presets: tuple[str, ...]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        kind = WORDS[self.values]
        if self.power and self.values in ("linear", *LOGARITHMS):
            kind += f", probably of {'magnitudes' if self.power == 1 else 'powers'}"
        if self.area_norm is not None:
            kind += ", bands with area norm" if self.area_norm else ", bands without area norm (as HTK's)"
        what = "mels" if "mels" in self.layout else "frequencies"
        layout = f", {self.layout} with {self.n_bands} {what}" if self.layout else ", layout unknown"
        lines = [f"shape {self.shape}{layout}", f"{self.low:.4g} to {self.high:.4g}: {kind}"]
        lines.append(f"may be {', '.join(self.presets)}" if self.presets else "no preset is like this")
        return "\n".join([*lines, *(f"problem: {problem}" for problem in self.problems)])


def diagnose(array: Tensor | Array, *, preset: str | None = None) -> Diagnosis:
    """Say what an array looks like, and what is wrong with it as a mel spectrogram of a model.

    Args:
        array: a spectrogram of any layout and kind, or what is taken for one.
        preset: name of the preset that it should be; None is any.

    Returns:
        A `Diagnosis`.

    Raises:
        KeyError: there is no such preset.
        TypeError: not a tensor or array of numbers.

    HTK and Slaney scales are told apart by their usual norms only, a logarithm's base by range and floor;
    quiet recordings may deceive it.
    """
    wanted = None if preset is None else find(preset)
    array = unmasked(array, "array")
    values: object = array
    if isinstance(array, Tensor):
        check_dense(array, "array")
        array = array.detach().cpu()
        values = (array.double() if array.is_floating_point() else array.resolve_conj()).numpy()
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fcuib":
        raise TypeError(f"Parameter array is a {type(array).__name__}, not a tensor or an array of numbers!")
    is_complex = values.dtype.kind == "c"
    real = np.abs(values) if is_complex else values.astype(np.float64)
    layout, n_bands, problems = _layout(values.shape)
    flat = real.ravel()[:: max(1, real.size // MOST_VALUES)]
    finite = flat[np.isfinite(flat)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (math.nan, math.nan)
    kind, power = "spectrum" if is_complex else "broken", None
    if not is_complex and finite.size:
        kind, power = ("samples", None) if values.ndim < 2 else _kind(finite, low, high)
    loud = _loudest(kind, power, high) if "mels" in layout else None
    area_norm = None if loud is None else loud <= LOUD
    if finite.size < flat.size or not flat.size:
        n_bad = flat.size - finite.size
        problems.append(
            f"{n_bad} values are NaN or infinite: a logarithm of 0 needs a floor" if n_bad else "it is empty"
        )
    if loud is not None and loud > 1e4:
        problems.append(f"it is as loud as samples of {loud / 3:.0f}: scale them to -1 to 1 first")
    if n_bands and kind not in ("samples", "spectrum", "grey", "broken", "silence"):
        problems += _upside_down(real, layout)
    likely = _presets(kind, n_bands, area_norm, low, high, finite)
    if preset is not None and wanted is not None:
        problems += _against(preset, wanted, kind, power, n_bands, layout, area_norm, low, likely)
    elif kind == "samples":
        problems.append("it has one axis: make a mel spectrogram of it with presets[...](samples)")
    return Diagnosis(
        values.shape, low, high, layout, n_bands, kind, power, area_norm, likely, tuple(problems)
    )


def _layout(shape: tuple[int, ...]) -> tuple[str, int | None, list[str]]:
    """Layout, number of bands, and what is unusual about it."""
    if len(shape) < 2:
        return "", None, []
    first, second = shape[-2:]

    def name(size: int) -> str | None:
        if size in BANDS:
            return "mels"
        n_fft = 2 * (size - 1)  # of a linear spectrogram
        return "freq" if n_fft >= 128 and (n_fft & (n_fft - 1) == 0 or n_fft % 100 == 0) else None

    if name(first) and not (name(second) and first > second and name(first) != "mels"):
        return f"(..., {name(first)}, frames)", first, []
    if name(second):
        way_out = f"it lies as (frames, {name(second)}): pass array.mT"
        return f"(..., frames, {name(second)})", second, [way_out]
    return "", None, [f"neither {first} nor {second} is a usual number of bands"]


def _kind(values: Array, low: float, high: float) -> tuple[str, int | None]:
    """Kind of values, and 1 for magnitudes, 2 for powers."""
    if low == high:
        return "silence", None
    p25, median, p95 = np.percentile(values, (25, 50, 95)).tolist()
    span, spread = high - low, p95 - p25
    if low >= 0:
        whole = (np.rint(values) == values).mean() > 0.9 and median > 20 and high > 1.5
        if high <= 255 and (whole or median > 128):  # few magnitudes are as near to the largest as that
            return "grey", None
        if high <= 1 + EXACT and median > 0.1 * high:
            return "unit", None
        floored = np.log(np.maximum(values, 1e-7 * high))
        decades = float(np.subtract(*np.percentile(floored, (95, 25))))
        return "linear", 2 if decades > 9.5 else 1
    at_low = (values < low + EXACT).mean()
    if span <= 2 + EXACT and high < 2:
        return "whisper", 2
    if abs(low + 4) < EXACT and high <= 4 + EXACT and at_low > 1e-3:
        return "symmetric", None
    if abs(values.mean()) < 0.35 and 0.7 < values.std() < 1.4 and high > 1.2 and low > -8:
        return "standard", None
    if spread > 18 or span > 45:
        return "dB", None
    for floor, kind in ((-10, "log10"), (-5, "log10"), (math.log(1e-5), "ln"), (math.log(1e-7), "ln")):
        if abs(low - floor) < EXACT:
            return kind, 1
    if span < 8:
        return "log10", 1
    return "ln", 2 if spread > 9.5 or span > 18 else 1


def _loudest(kind: str, power: int | None, high: float) -> float | None:
    """Largest mel value of magnitudes, where that is known."""
    if kind == "linear":
        return float(high ** (1 / (power or 1)))
    per_neper = {"ln": 1.0, "log10": 1 / math.log(10), "dB": 20 / math.log(10)}.get(kind)
    return None if per_neper is None else math.exp(min(high / per_neper / (power or 1), 300))


def _usual(config: MelConfig) -> str:
    """Kind of the values of a configuration."""
    compression = config.compression
    if compression.clip is not None:
        return {0: "unit" if compression.clip[1] == 1 else "grey", -4: "symmetric"}[int(compression.clip[0])]
    if compression.dynamic_range is not None:
        return "whisper"
    return "linear" if compression.curve == "power" else compression.curve


def _floor(config: MelConfig) -> float:
    """Least value that a configuration with a plain logarithm makes."""
    return math.log(config.compression.floor) / (math.log(10) if config.compression.curve == "log10" else 1)


def _presets(
    kind: str, n_bands: int | None, area_norm: bool | None, low: float, high: float, values: Array
) -> tuple[str, ...]:
    """Presets that may have made these values, those with exactly their floor first."""
    found: dict[str, bool] = {}
    for name, config in CONFIGS.items():
        usual = _usual(config)
        # Of a noisy recording they do not reach down to -4, and look like others.
        unclipped = usual == "symmetric" and kind in ("standard", "log10") and low >= -4 and high <= 4
        if n_bands not in (None, config.n_mels) or not (kind == usual or unclipped):
            continue
        if unclipped:
            found[name] = False
        elif kind not in LOGARITHMS:
            found[name] = True
        elif low >= _floor(config) - EXACT and config.area_norm == area_norm:
            found[name] = abs(low - _floor(config)) < EXACT
    return tuple(sorted(found, key=lambda name: not found[name]))


def _upside_down(values: Array, layout: str) -> list[str]:
    """Whether the highest bands are louder than the lowest, which hardly any sound has."""
    bands = np.moveaxis(values, -1, -2) if "frames, " in layout else values
    with np.errstate(invalid="ignore"):
        level = np.nanmean(np.where(np.isfinite(bands), bands, np.nan), (*range(bands.ndim - 2), -1))
    quarter = max(1, len(level) // 4)
    if level[-quarter:].mean() > level[:quarter].mean() + 0.5 * level.std():
        return ["high bands are louder than low ones: it may be upside down, pass array.flip(-2)"]
    return []


def _against(
    preset: str,
    config: MelConfig,
    kind: str,
    power: int | None,
    n_bands: int | None,
    layout: str,
    area_norm: bool | None,
    low: float,
    likely: tuple[str, ...],
) -> list[str]:
    """What is not as the preset has it."""
    problems = []
    expected = _usual(config)
    others = f": it may be {' or '.join(likely)}" if likely else ""
    if n_bands is not None and n_bands != config.n_mels:
        problems.append(f"{preset} has {config.n_mels} bands, not {n_bands}")
    if kind != expected and preset not in likely:
        remedies = {
            ("linear", "ln"): "take the logarithm first, or give it to presets[...].linear",
            ("dB", "ln"): "convert with x * ln(10) / 20",
            ("log10", "ln"): "multiply by ln(10)",
            ("ln", "log10"): "divide by ln(10)",
        }
        remedy = remedies.get((kind, expected))
        problems.append(
            f"{preset} has {WORDS[expected]}, this looks like {WORDS[kind]}"
            + (f": {remedy}" if remedy else others)
        )
    elif kind in LOGARITHMS and power == 2 and config.power == 1:
        problems.append(f"{preset} has magnitudes, this looks like powers: halve the logarithms")
    elif kind in LOGARITHMS and low < _floor(config) - EXACT:
        problems.append(f"{preset} has no values under {_floor(config):.4g}, this has {low:.4g}{others}")
    if kind == expected and area_norm is not None and area_norm != config.area_norm:
        norms = {True: "area norm (Slaney's)", False: "height 1 (HTK's, as torchaudio's default)"}
        problems.append(
            f"{preset} has bands of {norms[config.area_norm]}, this looks like {norms[area_norm]}{others}"
        )
    return problems
