"""diagnose: arrays as they should be pass in every preset, arrays made wrong on purpose are named."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import rtspecinv
from rtspecinv import demo_clip, diagnose
from rtspecinv.diagnosis import WORDS
from rtspecinv.mel_presets import CONFIGS

CLIP = torch.from_numpy(demo_clip.render())
# Riffusion's takes a second; what Kaldi's features look like is not known here yet.
OTHERS = ("riffusion", "kaldi-fbank", "ast")
PRESETS = {name: rtspecinv.presets[name] for name in CONFIGS if name not in OTHERS}
MEL = PRESETS["hifigan-22k"](CLIP)
LINEAR = PRESETS["hifigan-22k"].expand(MEL)
LN10 = math.log(10)


@pytest.mark.parametrize("name", PRESETS)
def test_arrays_as_they_should_be(name):
    found = diagnose(PRESETS[name](CLIP), preset=name)
    assert found.problems == ()
    assert name in found.presets
    assert found.layout == "(..., mels, frames)"
    assert found.n_bands == CONFIGS[name].n_mels
    assert found == diagnose(PRESETS[name](CLIP).numpy(), preset=name)
    if found.area_norm is not None:
        assert found.area_norm == CONFIGS[name].area_norm


def test_grey_values_of_a_picture():
    picture = 255 - 255 * (LINEAR / LINEAR.max()) ** 0.25
    assert diagnose(picture).values == "grey"
    found = diagnose(picture.floor().numpy().astype(np.uint8))
    assert found.values == "grey"
    assert "grey values of a picture" in str(found)


@pytest.mark.parametrize(("noise", "values"), [(1e-3, "log10"), (1e-2, "standard")])
def test_levels_that_were_not_clipped_look_like_others_and_are_not_refused(noise, values):
    hiss = torch.randn(len(CLIP), generator=torch.Generator().manual_seed(0))
    found = diagnose(PRESETS["coqui"](CLIP + noise * hiss), preset="coqui")
    assert found.low > -4
    assert (found.values, found.presets, found.problems) == (values, ("coqui",), ())


# What is wrong, its array, the preset that it is given as, its kind of values, words of its problem.
WRONG = {
    "frames, mels": (MEL.mT, "hifigan-22k", "ln", "it lies as (frames, mels): pass array.mT"),
    "magnitudes for logarithms": (LINEAR, "hifigan-22k", "linear", "take the logarithm first"),
    "logarithms to base 10": (MEL / LN10, "hifigan-22k", "log10", "multiply by ln(10)"),
    "natural for base 10": (
        torch.where(MEL > -11.5, MEL, -11.2),
        "parallel-wavegan",
        "ln",
        "divide by ln(10)",
    ),
    "decibels": (20 / LN10 * MEL, "hifigan-22k", "dB", "x * ln(10) / 20"),
    "powers": (2 * MEL, "hifigan-22k", "ln", "looks like powers: halve"),
    "HTK bank for Slaney": (
        PRESETS["f5-tts"](CLIP),
        "bigvgan-24k-100",
        "ln",
        "this looks like height 1 (HTK's, as torchaudio's default): it may be f5-tts or vocos-24k",
    ),
    "Slaney bank for HTK": (
        PRESETS["bigvgan-24k-100"](CLIP),
        "vocos-24k",
        "ln",
        "this looks like area norm (Slaney's): it may be bigvgan-24k-100",
    ),
    "another model's": (PRESETS["whisper"](CLIP), "hifigan-22k", "whisper", "it may be whisper"),
    "too many bands": (PRESETS["bigvgan-24k-100"](CLIP), "hifigan-22k", "ln", "has 80 bands, not 100"),
    "0 to 1": ((MEL - MEL.min()) / (MEL.max() - MEL.min()), "hifigan-22k", "unit", "scaled to 0 to 1"),
    "standardised": ((MEL - MEL.mean()) / MEL.std(), "hifigan-22k", "standard", "mean= and std="),
    "upside down": (MEL.flip(-2), "hifigan-22k", "ln", "it may be upside down, pass array.flip(-2)"),
    "samples of 32768": (
        PRESETS["hifigan-22k"](32768 * CLIP),
        "hifigan-22k",
        "ln",
        "as loud as samples of 3",
    ),
    "logarithm of 0": (LINEAR.log(), "hifigan-22k", "ln", "a logarithm of 0 needs a floor"),
    "samples": (CLIP, "hifigan-22k", "samples", "samples of sound, not a spectrogram"),
    "spectrum": (PRESETS["hifigan-22k"].stft.analyze(CLIP), "hifigan-22k", "spectrum", "absolute values"),
    "a floor too low": (PRESETS["vocos-24k"](CLIP), "f5-tts", "ln", "has no values under -11.51"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name):
    array, preset, values, says = WRONG[name]
    found = diagnose(array, preset=preset)
    assert found.values == values
    assert any(says in problem for problem in found.problems), found
    assert says in str(found)
    assert WORDS[values] in str(found)


def test_logarithms_given_as_magnitudes():
    inverter = rtspecinv.StreamingInverter(PRESETS["hifigan-22k"].stft, n_iter=0, engine="eager")
    with pytest.raises(ValueError, match=r"natural logarithms with exp"):
        inverter.push(torch.full((513,), -11.5))
    found = diagnose(MEL)
    assert (found.values, found.power, found.area_norm) == ("ln", 1, True)
    assert found.presets[0] == "hifigan-22k"
    assert "natural logarithms, probably of magnitudes, bands with area norm" in str(found)


def test_linear_spectrograms():
    stft = PRESETS["hifigan-22k"].stft
    found = diagnose(stft.magnitude(CLIP))
    assert (found.layout, found.n_bands, found.values) == ("(..., freq, frames)", 513, "linear")
    assert "(..., freq, frames) with 513 frequencies" in str(found)


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (torch.zeros(80, 20), "silence"),
        (torch.full((80, 20), torch.nan), "broken"),
        (torch.zeros(80, 0), "broken"),
        (torch.zeros(()), "samples"),
        (MEL.bfloat16().requires_grad_(), "ln"),
        (PRESETS["hifigan-22k"].stft.analyze(CLIP).conj(), "spectrum"),
        (np.zeros((3, 5, 7), bool), "silence"),
    ],
)
def test_anything_gets_an_answer(array, values):
    found = diagnose(array)
    assert found.values == values
    assert str(found).startswith("shape (")
    for preset in ("riffusion", "whisper"):
        assert diagnose(array, preset=preset).problems


def test_it_is_a_frozen_record():
    with pytest.raises(dataclasses.FrozenInstanceError):
        diagnose(MEL).values = "dB"
    with pytest.raises(TypeError, match="array is a list"):
        diagnose([1.0])
