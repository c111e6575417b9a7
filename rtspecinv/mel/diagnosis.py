"""Diagnosis of an array that should be a spectrogram: claims in words, each with its conditions.

A claim is made only if the values prove it whatever the sound is. If the values fit several explanations, the
diagnosis names all of them, and says how to decide between them, because wrong advice is worse than none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtspecinv.common.checks import MOST_RATE, finite, shown
from rtspecinv.common.masks import unmasked
from rtspecinv.inputs import Array, as_magnitude, check_finite
from rtspecinv.mel.evidence import LOUDER, NEAR, TURNED, Evidence, measure, tilt, turned
from rtspecinv.mel.fit import LN10, able, against, choices, made_by
from rtspecinv.mel.models import CONFIGS, find
from rtspecinv.stft import check_dense

TRANSFORMS = frozenset({2**n for n in range(7, 16)} | {400, 600, 800, 960, 1200, 1920, 2400})  # n_fft
BANDS = frozenset({config.n_mels for config in CONFIGS.values()} | {40, 64, 96, 160, 256})


@dataclass(frozen=True)
class Claim:
    """A kind of values: its description, and the test that recognizes it."""

    words: str
    shown: Callable[[Evidence], bool]


def _floored(e: Evidence, unit: float, least: float) -> bool:
    """Return whether the least value is repeated, negative, and a whole multiple of `unit`."""
    steps = e.low / unit
    return e.repeated and e.low <= least and abs(e.low - unit * round(steps)) < e.tolerance


# The first kind whose test passes is used; the test of "unknown" always passes.
CLAIMS: dict[str, Claim] = {
    "broken": Claim("no finite value", lambda e: math.isnan(e.low)),
    "silence": Claim("one value, repeated everywhere", lambda e: e.low == e.high),
    "samples": Claim("samples of sound, not a spectrogram", Evidence.waves),
    "chroma": Claim("chroma (energies of the twelve notes), not a mel spectrogram", Evidence.chromatic),
    "cepstrum": Claim("cepstral coefficients (MFCC), not a mel spectrogram", Evidence.cepstral),
    "grey": Claim("grey values of a picture", lambda e: e.whole and e.low >= 0 and 20 < e.high <= 255),
    "whisper": Claim(
        "Whisper's values, (log10(power) + 4) / 4, limited to 8 decades below the largest",
        lambda e: e.repeated and abs(e.high - e.low - 2) < e.tolerance and -1.5 - NEAR <= e.low < 0,
    ),
    "symmetric": Claim(
        "levels scaled to the range -4 to 4",
        lambda e: e.repeated and abs(e.low + 4) < NEAR and 0 < e.high <= 4 + NEAR,
    ),
    "ln": Claim(
        "natural logarithms (the least value is that of a power of ten)",
        lambda e: _floored(e, LN10, -6.9) and e.high - e.low < 45,
    ),
    "log10": Claim(
        "logarithms to base 10 (the least value is that of a power of ten)",
        lambda e: _floored(e, 1, -4.5) and e.high - e.low < 15,
    ),
    "standard": Claim("values normalised to mean 0 and variance 1", Evidence.standard),
    "dB": Claim(
        "decibels (judged by the range)",
        lambda e: not e.skewed and e.low < 0 and 45 < e.high - e.low <= 200,
    ),
    "unit": Claim(
        "levels scaled to the range 0 to 1", lambda e: not e.skewed and e.low >= 0 and e.high <= 1 + NEAR
    ),
    "linear": Claim("magnitudes or a power of them, no logarithms", lambda e: e.skewed and e.high > 12),
    "small": Claim(
        "magnitudes, a power of them, or ln(1 + x), which is similar for small values", lambda e: e.skewed
    ),
    "unknown": Claim("values whose kind the range does not show", lambda e: True),
}
NO_SPECTROGRAM = ("broken", "samples", "chroma", "cepstrum", "spectrum")
WORDS = {name: claim.words for name, claim in CLAIMS.items()} | {"spectrum": "a complex spectrum"}

WAYS_OUT = {
    "samples": "samples need no inversion; play them with listen(array, sample_rate=...), or compute mel "
    "frames with presets[...](array)",
    "spectrum": "the array is a complex spectrum; use its absolute values, or invert the spectrum itself",
    "cepstrum": "cepstral coefficients cannot be inverted; convert them to mel levels first, for example "
    "with librosa.feature.inverse.mfcc_to_mel",
    "chroma": "chroma does not contain octaves and cannot be inverted; use the spectrogram that it was "
    "computed from",
    "silence": "all values are equal; the array contains no sound",
}
# Questions that the values of a kind leave open, and what decides them.
CODE = "the code that computed them shows it"
OPEN = {
    "unknown": f"which base, scaling and statistics the values have; {CODE}",
    "ln": f"whether these are logarithms of magnitudes or of powers; {CODE}",
    "log10": f"whether these are logarithms of magnitudes or of powers; {CODE}",
    "dB": f"which level is 0 dB, and whether the levels are of magnitudes or of powers; {CODE}",
    "unit": f"which levels 0 and 1 stand for (gain, offset and clip of Compression); {CODE}",
    "symmetric": f"which levels -4 and 4 stand for (gain, offset and clip of Compression); {CODE}",
    "standard": "which mean and standard deviation were used; pass those of the data as mean= and std= of "
    "Compression, because the levels cannot be restored without them",
    "linear": f"whether these are magnitudes or powers; {CODE}; the magnitudes are the square root of powers",
    "small": f"whether these are magnitudes, powers or ln(1 + x); {CODE}; the square root of powers gives "
    "magnitudes, and expm1 undoes ln(1 + x)",
    "grey": "which level a grey value stands for; `rtspecinv image` turns any picture into sound",
}


@dataclass(frozen=True)
class Diagnosis:
    """Result of `diagnose`; `str()` returns it as text.

    Attributes:
        shape: shape of the array.
        low, high: least and largest finite value.
        layout: order of the axes: "(..., mels, frames)", "(..., frames, mels)", or the same with freq; "" if
            it is unknown.
        n_bands: number of mel bands or frequencies; None if it is unknown.
        values: kind of values, a key of `CLAIMS` or "spectrum"; "unknown" if it is unknown.
        power: 1 for magnitudes, 2 for powers; None without a recording, because values alone do not show it.
        area_norm: whether bands have equal area; None without a recording, because values alone do not show
            it.
        presets: names of the presets that can have made these values, or that made them from the recording.
        problems: errors and contradictions to the given preset, each with a remedy.
        unsure: questions that the values leave open, each with a way to decide it.
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
    unsure: tuple[str, ...]

    def __str__(self) -> str:
        what = "mels" if "mels" in self.layout else "frequencies"
        layout = f", {self.layout} with {self.n_bands} {what}" if self.layout else ", layout unknown"
        kind = WORDS[self.values]
        if self.power is not None:
            kind += f"; computed from {'magnitudes' if self.power == 1 else 'powers'}"
        lines = [f"shape {self.shape}{layout}", f"{self.low:.4g} to {self.high:.4g}: {kind}"]
        lines += choices(self.presets, self.shape) or ["no preset has such values"]
        lines += [f"cannot tell: {part}" for part in self.unsure]
        return "\n".join([*lines, *(f"problem: {problem}" for problem in self.problems)])


@np.errstate(over="ignore", invalid="ignore")  # for values far beyond any sound
def diagnose(
    array: Tensor | Array,
    *,
    preset: str | None = None,
    samples: Tensor | Array | None = None,
    sample_rate: float | None = None,
) -> Diagnosis:
    """Report what kind of spectrogram an array is, its errors as a mel spectrogram, and open questions.

    Args:
        array: spectrogram of any layout and kind, or another array to examine.
        preset: name of the preset that should have made the array; default: any.
        samples: samples `(n_samples,)` from which the array was made; they decide which presets made it.
        sample_rate: sample rate of the sound, Hz; default: unknown.

    Returns:
        A `Diagnosis`.

    Raises:
        KeyError: there is no such preset.
        TypeError: `array` is not a tensor or array of numbers, or `samples` are not floating-point numbers.
        ValueError: `samples` have a wrong shape, are not finite or lack a `sample_rate`, or the rate is
            invalid.

    Values do not show the sample rate, the hop, or the edges and norm of the bands. The diagnosis therefore
    names every preset that can have made them, with the duration that it implies.

    Examples:
        >>> import torch
        >>> from rtspecinv import diagnose, presets
        >>> found = diagnose(presets["hifigan-22k"](torch.randn(44100)).mT)
        >>> found.problems
        ('the layout is (frames, mels); pass array.mT',)
    """
    wanted = None if preset is None else find(preset)
    if sample_rate is not None:
        sample_rate = finite(1, MOST_RATE, sample_rate=sample_rate)
    sound = None if samples is None else _samples(samples, sample_rate)
    values, eps, is_complex = _numbers(unmasked(array, "array"))
    e = measure(values, eps)
    kind = "spectrum" if is_complex else next(name for name, claim in CLAIMS.items() if claim.shown(e))
    layout, n_bands, unsure = _layout(values.shape, None if wanted is None else wanted.n_mels)
    problems = _plain_problems(e, kind, layout)
    found: tuple[str, ...] = ()
    if kind not in NO_SPECTROGRAM:
        found = able(e, n_bands, sample_rate) if kind != "standard" else ()
        made = None if sound is None else made_by(values, found, sound)
        found = found if made is None else made
        unsure += [OPEN[kind]] if kind in OPEN and not made else []
        unsure += _of_presets(found, sample_rate, layout) if not made else []
        if "mels" in layout and kind not in ("grey", "silence", "standard"):
            said, hint = _upside_down(e, layout, isinstance(array, Tensor))
            problems, unsure = problems + said, unsure + hint
    maker = CONFIGS[found[0]] if sound is not None and found else None
    if preset is not None and wanted is not None:
        problems += _against(preset, e, kind, n_bands, found, sample_rate, isinstance(array, Tensor))
    return Diagnosis(
        shape=values.shape,
        low=e.low,
        high=e.high,
        layout=layout,
        n_bands=n_bands,
        values=kind,
        power=None if maker is None else int(maker.power),
        area_norm=None if maker is None else maker.area_norm,
        presets=found,
        problems=tuple(problems),
        unsure=tuple(unsure),
    )


def _numbers(array: Tensor | Array) -> tuple[Array, float, bool]:
    """Return the values in float64, the relative spacing of their dtype, and whether they were complex."""
    values: object = array
    eps = 0.0
    if isinstance(array, Tensor):
        check_dense(array, "array")
        array = array.detach().cpu()
        eps = torch.finfo(array.dtype).eps if array.is_floating_point() else eps
        values = (array.double() if array.is_floating_point() else array.resolve_conj()).numpy()
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fcuib":
        raise TypeError(f"Parameter array is a {type(array).__name__}, not a tensor or an array of numbers")
    if values.dtype.kind == "f":
        eps = max(eps, float(np.finfo(values.dtype).eps))
    is_complex = values.dtype.kind == "c"
    return np.abs(values) if is_complex else values.astype(np.float64), eps, is_complex


def _samples(samples: Tensor | Array, sample_rate: float | None) -> Tensor:
    """Return the samples `(n_samples,)` in float32, after checks."""
    tensor: object = samples
    if isinstance(samples, np.ndarray):
        tensor = as_magnitude(samples, torch.zeros((), dtype=torch.float32, device="cpu"), "samples")
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise TypeError(f"Parameter samples is {shown(samples)}: pass floating-point samples in -1 to 1")
    check_dense(tensor, "samples")
    if sample_rate is None or tensor.ndim != 1:
        raise ValueError(
            f"Parameters samples of shape {tuple(tensor.shape)}, {sample_rate=} are not (n_samples,) and its "
            "rate: pass one channel and sample_rate= in Hz"
        )
    check_finite(tensor, "samples")
    return tensor.detach().to("cpu", torch.float32)


def _layout(shape: tuple[int, ...], wanted: int | None) -> tuple[str, int | None, list[str]]:
    """Return the layout, the number of bands, and open questions about them."""
    if len(shape) < 2:
        return "", None, []
    named = {axis: name for axis in (-2, -1) if (name := _name(shape[axis]))}
    if wanted in shape[-2:]:
        named = {axis: "mels" for axis in (-2, -1) if shape[axis] == wanted}
    texts = {-2: f"(..., {named.get(-2)}, frames)", -1: f"(..., frames, {named.get(-1)})"}
    if len(named) == 1:
        ((axis, _),) = named.items()
        return texts[axis], shape[axis], []
    if not named:
        return (
            "",
            None,
            [f"which axis holds the bands; neither {shape[-2]} nor {shape[-1]} is a usual number of bands"],
        )
    n_bands = shape[-2] if shape[-2] == shape[-1] else None
    return "", n_bands, [
        f"which axis holds the bands; {texts[-2]} would have {shape[-2]} and {texts[-1]} {shape[-1]}, and "
        "both numbers are usual; the number of frames of the recording decides"
    ]  # fmt: skip


def _name(size: int) -> str | None:
    if size in BANDS:
        return "mels"
    n_fft = 2 * (size - 1)  # if the bands are frequencies
    return "freq" if n_fft in TRANSFORMS else None


def _plain_problems(e: Evidence, kind: str, layout: str) -> list[str]:
    """Return the problems that do not depend on the preset."""
    problems = [WAYS_OUT[kind]] if kind in WAYS_OUT else []
    if e.n_bad:
        problems.append(
            f"{e.n_bad} values are NaN or infinite; if they are logarithms of 0, limit the values to a floor "
            "before the logarithm"
        )
    if not e.values.size:
        problems.append("the array is empty")
    if e.values.ndim < 2 and kind not in ("samples", "broken"):
        problems.append("the array has fewer than two axes; for a single frame, pass array[:, None]")
    if layout.startswith("(..., frames") and kind not in NO_SPECTROGRAM:
        problems.append(f"the layout is ({layout[6:]}; pass array.mT")
    return problems


def _upside_down(e: Evidence, layout: str, tensor: bool) -> tuple[list[str], list[str]]:
    """Return the problem that the first band is the highest, or the question whether it is."""
    lies = layout.startswith("(..., frames")
    bands = np.moveaxis(e.values, -1, -2) if lies else e.values
    levels = bands.reshape(-1, *bands.shape[-2:])[0]
    levels = np.where(np.isfinite(levels), levels, e.low)
    if e.skewed:
        levels = np.log(np.maximum(levels, 1e-7 * e.high))
    if tilt(levels) < LOUDER:
        return [], []
    # In magnitudes, which are not negative, hiss can have such a score.
    if e.low < 0 and TURNED[0] < turned(levels) < TURNED[1]:
        upright = "array.mT" if lies else "array"
        way_out = f"{upright}.flip(-2)" if tensor else f"numpy.flip({upright}, -2)"
        return [f"the array is upside down, with the highest band first; pass {way_out}"], []
    return [], [
        "whether the first band is the lowest; the last bands are louder, which hiss, cymbals, pre-emphasis "
        f"or rows in the order of a picture can explain; {CODE}"
    ]


def _of_presets(found: tuple[str, ...], sample_rate: float | None, layout: str) -> list[str]:
    """Return the open questions about the sound, such as its sample rate."""
    if "freq" in layout:
        return [
            f"which sample rate and hop were used; {CODE}; a hop of n_fft // 4 gives 0.2 to 0.3 PESQ more "
            "than one of n_fft // 2"
        ]
    what = (
        "which preset made the array"
        if len(found) > 1
        else "whether this preset made the array"
        if found
        else "which model made the array"
    )
    rate, way_out = "sample rate, ", "pass sample_rate= to shorten the list, or "
    if sample_rate is not None:
        rate = way_out = ""
    return [
        f"{what}; its {rate}hop, bands and duration follow from that, but models share such values; {way_out}"
        "pass the recording as samples= to decide; a model without a preset needs a MelConfig"
    ]


def _against(
    preset: str,
    e: Evidence,
    kind: str,
    n_bands: int | None,
    others: tuple[str, ...],
    sample_rate: float | None,
    tensor: bool,
) -> list[str]:
    """Return the contradictions between the array and the preset."""
    config = CONFIGS[preset]
    problems = []
    if sample_rate not in (None, config.sample_rate):
        problems.append(f"{preset} has a sample rate of {config.sample_rate:g} Hz, not {sample_rate:g} Hz")
    if n_bands is not None and n_bands != config.n_mels:
        problems.append(f"{preset} has {config.n_mels} bands, not {n_bands}")
    if kind in NO_SPECTROGRAM:
        problems.append(f"{preset} has mel frames, but the array has {WORDS[kind]}")
    elif kind == "standard":
        problems.append(
            f"{preset} has values that are not normalised, but the array has {WORDS[kind]}; use a MelConfig "
            "with mean= and std= in its Compression"
        )
    elif kind != "silence":
        problems += against(preset, e, WORDS[kind], others, tensor)
    return problems
