"""Presets that can have made an array, and the conversion of an array to the format of a preset."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from functools import cache

import numpy as np
from torch import Tensor

from rtspecinv.inputs import Array
from rtspecinv.mel.config import BINS_MEAN, Compression, MelConfig, lost
from rtspecinv.mel.evidence import Evidence, measure
from rtspecinv.mel.models import CONFIGS, presets
from rtspecinv.mel.spectrogram import Mel

SPAN_DB = 25.0  # least range of the levels of a sound, dB; values with a smaller range were scaled
DEEP_DB = 80.0  # usual limit of the distance from the median to the largest level, dB
LN10 = math.log(10)
BASES = {"ln": 1.0, "log10": 1 / LN10, "dB": 20 / LN10}  # units of a neper of magnitudes
NAMES = {"ln": "natural logarithms", "log10": "logarithms to base 10", "dB": "decibels"}


@cache
def _mel(name: str) -> Mel:
    with warnings.catch_warnings():  # the user did not select this preset, so its empty bands do not matter
        warnings.simplefilter("ignore")
        return presets[name]


@cache
def _ends(name: str) -> tuple[float, float, float]:
    """Return a preset's least value, its largest value of silence, and its largest value for full scale."""
    mel = _mel(name)
    silent = mel.filters.new_zeros(mel.stft.n_freq, 1)
    loud = silent + (1 + mel.config.preemphasis) * mel.stft.window.abs().sum() * mel.stft.scale
    quiet, full = mel.bank(silent), mel.bank(loud)
    low, high = sorted((float(quiet.min()), float(full.max())))
    return low, float(quiet.max()) if low == float(quiet.min()) else low, high


def at_floor(name: str, e: Evidence) -> bool:
    """Return whether the least value is the preset's value of silence or the lower end of its range."""
    compression, (least, most, _) = CONFIGS[name].compression, _ends(name)
    if compression.dynamic_range is not None:
        least = most = max(least, e.high - compression.dynamic_range * compression.gain)
    return least - e.tolerance <= e.low <= most + e.tolerance


def fits(name: str, e: Evidence) -> bool:
    """Return whether a preset can make these values from samples in -1 to 1; the floor is not compared."""
    config, (low, _, high) = CONFIGS[name], _ends(name)
    if e.low < low - e.tolerance or e.high > high + e.tolerance:
        return False
    if config.compression.curve == "power":
        return e.high > (0.2 * high if config.compression.clip else 0)
    reach = config.compression.dynamic_range
    if reach is not None and e.high - e.low > reach * config.compression.gain + e.tolerance:
        return False
    if e.skewed and config.compression.curve in BASES:
        return False
    return e.low == e.high or _span(name, e.low, e.high) >= SPAN_DB


def _span(name: str, low: float, high: float) -> float:
    """Return the level difference in dB between two values of a preset."""
    mel = _mel(name)
    ends = mel.filters.new_tensor([[low], [high]]).expand(2, mel.config.n_mels)
    sound = mel.bank.undo(ends).clamp_min(1e-30).log10().amax(-1)
    return 20 / mel.config.power * abs(float(sound[1] - sound[0]))


def able(e: Evidence, n_bands: int | None, sample_rate: float | None) -> tuple[str, ...]:
    """Return the presets that can make such values, with their floor if any; the likelier ones first."""
    sizes = e.values.shape[-2:] if n_bands is None else (n_bands,)
    names = [
        name
        for name, config in CONFIGS.items()
        if config.n_mels in sizes and sample_rate in (None, config.sample_rate) and fits(name, e)
    ]
    if e.repeated or e.low == e.high:  # the least value is a floor
        names = [name for name in names if at_floor(name, e)]
    median = float(np.median(e.some))
    return tuple(sorted(names, key=lambda name: _span(name, median, e.high) > DEEP_DB))


def made_by(values: Array, names: tuple[str, ...], sound: Tensor) -> tuple[str, ...]:
    """Return the presets whose output for `sound`, `(n_samples,)`, is the array.

    The root mean square error may be at most a twentieth of the array's standard deviation.
    """
    found = []
    for name in names:
        mel = _mel(name)(sound).double().numpy()
        given = values if values.shape[-2] == len(mel) else values.swapaxes(-1, -2)
        n_frames = min(mel.shape[-1], given.shape[-1])
        off = given.reshape(-1, *given.shape[-2:])[0][:, :n_frames] - mel[:, :n_frames]
        near = math.sqrt(float(np.square(off).mean())) <= 0.05 * float(values.std())
        if near and abs(mel.shape[-1] - given.shape[-1]) <= 1:
            found.append(name)
    return tuple(found)


def choices(names: tuple[str, ...], shape: tuple[int, ...]) -> list[str]:
    """Return lines that describe the differences of presets; presets without a difference share a line.

    A last line states what the number of bins per band means.
    """
    lines: dict[str, list[str]] = {}
    for name in names:
        c = CONFIGS[name]
        other = -1 if shape[-2:-1] == (c.n_mels,) else -2
        seconds = (shape[other] if len(shape) > 1 else 1) * c.hop_length / c.sample_rate
        text = (
            f"{c.sample_rate:g} Hz, hop {c.hop_length}, {c.fmin:g} to {c.highest:g} Hz, bands of "
            f"{'area' if c.area_norm else 'height'} 1, {c.bins_per_band:.1f} bins per band ({lost(c)}): "
            f"{seconds:.2f} s"
        )
        lines.setdefault(text, []).append(name)
    found = [f"may be of {', '.join(alike)}: {text}" for text, alike in lines.items()]
    return [*found, BINS_MEAN] if found else []


def against(preset: str, e: Evidence, words: str, others: tuple[str, ...], tensor: bool) -> list[str]:
    """Return a problem if a preset cannot have made these values, with the conversion; otherwise nothing.

    Args:
        words: description of the values.
        others: presets that can have made them.
        tensor: whether the array is a torch tensor rather than a NumPy array.
    """
    if fits(preset, e) and not (e.repeated and not at_floor(preset, e)):
        return []
    low, _, high = _ends(preset)
    text = f"{preset} has values from {low:.4g} (silence) to {high:.4g}, but the array from {e.low:.4g}"
    text += f"{' (often repeated)' if e.repeated else ''} to {e.high:.4g}: {words}"
    other = f"; the array may be of {' or '.join(others)}" if others and preset not in others else ""
    return [f"{text}{other}{_remedy(preset, e, tensor)}"]


def _remedy(preset: str, e: Evidence, tensor: bool) -> str:
    """Return the conversion to values of the preset, with its condition unless the floor proves it."""
    config = CONFIGS[preset]
    c = config.compression
    if c.curve not in BASES or replace(c, curve="power", floor=0, reference=1) != Compression():
        return ""  # the preset scales the logarithm
    if e.skewed:
        return _logarithm(config, tensor)
    if e.high > _ends(preset)[2] and (at_floor(preset, e) or not e.repeated):
        shift = math.log(32768) * BASES[c.curve] * config.power
        norms = "height 1" if config.area_norm else "another height"
        louder = (
            f"; that is too loud for samples from -1 to 1: either the bands have {norms}, or the samples are "
            "louder"
        )
        quieter = measure(e.values - shift, e.eps)
        return louder + (
            f"; if the samples are up to 32768, pass array - {shift:.9g}"
            if quieter.high > _ends(preset)[0]
            else ""
        )
    factors = {}
    for base, unit in BASES.items():
        for power, of in ((1, "magnitudes"), (2, "powers"))[: 1 if base == "dB" else 2]:
            factor = BASES[c.curve] / unit * config.power / power
            factors[NAMES[base] + ("" if base == "dB" else f" of {of}")] = factor
    scaled = {what: measure(e.values * factor, e.eps) for what, factor in factors.items() if factor != 1}
    able = [what for what, values in scaled.items() if fits(preset, values)]
    if e.repeated:
        sure = [what for what in able if at_floor(preset, scaled[what])]
        return f"; the values are {sure[0]}; pass array * {factors[sure[0]]:.9g}" if len(sure) == 1 else ""
    return "".join(f"; if the values are {what}, pass array * {factors[what]:.9g}" for what in able)


def _logarithm(config: MelConfig, tensor: bool) -> str:
    """Return the code that converts magnitudes to the logarithms of a configuration."""
    c = config.compression
    function = {"ln": "log", "log10": "log10"}.get(c.curve)
    if function is None or config.power != 1:
        return ""
    once = f"array.clamp_min({c.floor:g}).{function}()"
    once = once if tensor else f"numpy.{function}(numpy.maximum(array, {c.floor:g}))"
    return f"; the preset has logarithms; if the array has magnitudes of the same bands, pass {once}"
