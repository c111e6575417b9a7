"""Tests of `diagnose`: its statements are true, it leaves unknowns open, and its advice helps."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from features import KINDS, SOUNDS, instructions, kaldi, obeyed, spectrum, untrue, voice

import rtspecinv
from rtspecinv import diagnose
from rtspecinv.measure import clip as demo_clip
from rtspecinv.mel.diagnosis import WORDS
from rtspecinv.mel.evidence import tilt, turned
from rtspecinv.mel.models import CONFIGS

CLIP = torch.from_numpy(demo_clip.render())
# The preset of Riffusion takes a second; `diagnose` does not recognise Kaldi's features yet.
OTHERS = ("riffusion", "kaldi-fbank", "ast")
PRESETS = {name: rtspecinv.presets[name] for name in CONFIGS if name not in OTHERS}
MEL = PRESETS["hifigan-22k"](CLIP)
LINEAR = PRESETS["hifigan-22k"].expand(MEL)
LN10 = math.log(10)
SEED = 2  # thresholds were set on seeds 0 and 1


@cache
def sound(name: str, rate: int) -> np.ndarray:
    return SOUNDS[name](rate, 1.4, seed=SEED)


@cache
def diagnosed(name: str, made_of: str) -> tuple[np.ndarray, rtspecinv.Diagnosis]:
    """Return features and their diagnosis."""
    features = np.asarray(KINDS[name].make(sound(made_of, KINDS[name].rate)))
    return features, diagnose(features)


@pytest.mark.parametrize("name", KINDS)
def test_statements_about_features_are_true(name):
    for made_of in SOUNDS:
        _, found = diagnosed(name, made_of)
        assert untrue(KINDS[name], found) == [], f"{made_of}: {found}"
    single = torch.from_numpy(np.ascontiguousarray(diagnosed(name, "voice")[0])).float()
    assert untrue(KINDS[name], diagnose(single)) == []


@pytest.mark.parametrize("name", KINDS)
def test_following_the_advice_gives_the_right_features(name):
    """Every instruction corrects an error of the features; without an instruction, there is no error."""
    kind = KINDS[name]
    for made_of in SOUNDS:
        features, found = diagnosed(name, made_of)
        said = " ".join(instructions(found))
        right = features.T if kind.transposed and kind.mel and found.layout else features
        right = np.flip(right, -2) if kind.flipped and "flip" in said else right
        np.testing.assert_array_equal(obeyed(features, found), right)


@pytest.mark.parametrize("preset", ["hifigan-22k", "vocos-24k", "bigvgan-v2-44k-128"])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_flip_is_reported_where_the_bank_shows_it_and_its_advice_helps(preset, transposed):
    mel = PRESETS[preset](CLIP)
    given = mel.flip(-2).mT if transposed else mel.flip(-2)
    for array in (given, given.numpy()):
        found = diagnose(array)
        assert "upside down" in str(found)
        np.testing.assert_array_equal(np.asarray(obeyed(array, found)), mel.numpy())
    assert "upside down" not in str(diagnose(mel)) + str(diagnose(mel.mT))


def test_following_the_advice_of_a_flip_improves_the_sound():
    preset = PRESETS["hifigan-22k"]
    given = preset(CLIP[:44100]).flip(-2)
    wanted = preset.stft.magnitude(CLIP[:44100])
    off = []
    for mel in (given, obeyed(given, diagnose(given))):
        heard = preset.stft.magnitude(preset.invert(mel))[..., : wanted.shape[-1]]
        off.append(float(rtspecinv.metrics.spectral_convergence(heard, wanted[..., : heard.shape[-1]])))
    assert off[1] < off[0] - 10  # dB


@pytest.mark.parametrize("made_of", ["hiss", "cymbals", "voice"])
@pytest.mark.parametrize("n_mels", [40, 80, 128])
def test_loud_high_bands_are_not_upside_down(made_of, n_mels):
    """With pre-emphasis, hiss or cymbals, high bands are louder; the order is left open, without advice."""
    found = diagnose(kaldi(sound(made_of, 16000), n_mels))
    assert "upside down" not in str(found)
    assert any("whether the first band is the lowest" in part for part in found.unsure)


def test_the_measure_of_a_bank_ignores_gains_and_level():
    mel = MEL.double().numpy()
    gains = np.linspace(-5, 9, len(mel))[:, None]
    assert turned(mel) == pytest.approx(turned(3 * mel + 1), abs=0.02)
    high = mel[:, (mel > mel.min() + 2).all(0)]  # above the floor, below which gains have no effect
    assert high.shape[1] > 40
    assert turned(high) == pytest.approx(turned(high + gains), abs=0.05)
    assert turned(mel) == pytest.approx(-turned(mel[::-1]), abs=0.1)
    assert tilt(mel) == pytest.approx(-tilt(mel[::-1]))
    assert math.isnan(turned(mel[:, :20]))
    assert math.isnan(turned(np.zeros((80, 100))))


@pytest.mark.parametrize("name", PRESETS)
def test_arrays_as_they_should_be(name):
    found = diagnose(PRESETS[name](CLIP), preset=name)
    assert found.problems == ()
    assert name in found.presets
    assert found.layout == "(..., mels, frames)"
    assert found.n_bands == CONFIGS[name].n_mels
    assert (found.power, found.area_norm) == (None, None)
    assert found == diagnose(PRESETS[name](CLIP).numpy(), preset=name)


@pytest.mark.parametrize("name", PRESETS)
def test_a_recording_decides(name):
    config = CONFIGS[name]
    mel = PRESETS[name](CLIP)
    for array in (mel, mel.mT):
        found = diagnose(array, samples=CLIP, sample_rate=config.sample_rate)
        assert name in found.presets
        assert all(CONFIGS[other].sample_rate == config.sample_rate for other in found.presets)
        assert (found.power, found.area_norm) == (config.power, config.area_norm)
        assert not any("preset" in part or "base" in part for part in found.unsure)
    other = diagnose(mel, samples=CLIP.flip(0), sample_rate=config.sample_rate)
    assert (other.presets, other.area_norm) == ((), None)


@pytest.mark.parametrize("samples", [CLIP[None], CLIP.reshape(2, -1)])
def test_a_recording_of_another_shape_is_refused(samples):
    with pytest.raises(ValueError, match=r"pass one channel and sample_rate= in Hz"):
        diagnose(MEL, samples=samples, sample_rate=22050)
    with pytest.raises(ValueError, match=r"sample_rate=None"):
        diagnose(MEL, samples=samples[0])


def test_presets_are_told_apart_by_rate_and_duration():
    """The diagnosis states each possible preset with the duration that it implies."""
    features = KINDS["CosyVoice 2"].make(voice(32000, 3.0, seed=SEED))
    text = str(diagnose(features))
    frames = features.shape[1]
    assert (
        "22050 Hz, hop 256, 0 to 8000 Hz, bands of area 1, 4.6 bins per band (some detail is lost): "
        f"{frames * 256 / 22050:.2f} s" in text
    )
    assert "cannot tell: which preset made the array; its sample rate, hop" in text
    known = diagnose(features, sample_rate=32000)
    assert known.presets == ()
    assert "MelConfig" in str(known)
    assert "bigvgan-24k-100 has" in str(diagnose(features, preset="bigvgan-24k-100", sample_rate=22050))
    assert "has a sample rate of 24000 Hz, not 22050 Hz" in str(
        diagnose(features, preset="bigvgan-24k-100", sample_rate=22050)
    )


def test_levels_from_0_to_1_are_not_one_model():
    found = diagnose(KINDS["AutoVC"].make(voice(16000, seed=SEED)))
    assert len({CONFIGS[name].sample_rate for name in found.presets}) > 1
    assert any("which levels 0 and 1 stand for" in part for part in found.unsure)
    assert any("sample rate" in part for part in found.unsure)


@pytest.mark.parametrize("shape", [(100, 80), (80, 100), (128, 80), (513, 80), (80, 80)])
def test_a_layout_that_can_be_either_is_left_open(shape):
    array = np.random.default_rng(0).normal(-5, 2, shape)
    found = diagnose(array)
    assert found.layout == ""
    assert "pass array.mT" not in str(found)
    assert "which axis holds the bands" in str(found)
    other = 80 if shape[0] != 80 else 100
    if 80 in shape and shape[0] != shape[1]:
        told = diagnose(array, preset="hifigan-22k")
        assert told.layout == ("(..., frames, mels)" if shape[1] == 80 else "(..., mels, frames)")
        assert told.n_bands == 80
    assert other in (80, 100)


# Name of the error, array, preset that it is passed with, kind of values, words of the diagnosis, and the
# array after the advice; None if there is no definite advice.
SHIFT = math.log(32768)
WRONG = {
    "frames, mels": (MEL.mT, "hifigan-22k", "ln", "the layout is (frames, mels); pass array.mT", MEL),
    "magnitudes for logarithms": (
        LINEAR,
        "hifigan-22k",
        "small",
        "the preset has logarithms; if the array has magnitudes of the same bands, pass",
        None,
    ),
    "logarithms to base 10": (
        MEL / LN10,
        "hifigan-22k",
        "log10",
        "the values are logarithms to base 10 of",
        MEL,
    ),
    "natural for base 10": (MEL, "parallel-wavegan", "ln", "parallel-wavegan has values from -10", None),
    "decibels": (20 / LN10 * MEL, "hifigan-22k", "dB", "the values are decibels; pass array * 0.115", MEL),
    "powers": (2 * MEL, "hifigan-22k", "ln", "natural logarithms of powers; pass array * 0.5", MEL),
    "HTK bank for Slaney": (
        PRESETS["f5-tts"](CLIP),
        "bigvgan-24k-100",
        "ln",
        "the array may be of f5-tts",
        None,
    ),
    "Slaney bank for HTK": (
        PRESETS["bigvgan-24k-100"](CLIP),
        "vocos-24k",
        "ln",
        "the array may be of bigvgan-24k-100 or f5-tts",
        None,
    ),
    "another model's": (
        PRESETS["whisper"](CLIP),
        "hifigan-22k",
        "whisper",
        "the array may be of whisper",
        None,
    ),
    "too many bands": (PRESETS["bigvgan-24k-100"](CLIP), "hifigan-22k", "ln", "has 80 bands, not 100", None),
    "0 to 1": (
        (MEL - MEL.min()) / (MEL.max() - MEL.min()),
        "hifigan-22k",
        "unit",
        "scaled to the range 0 to 1",
        None,
    ),
    "standardised": ((MEL - MEL.mean()) / MEL.std(), "hifigan-22k", "standard", "mean= and std=", None),
    "upside down": (MEL.flip(-2), "hifigan-22k", "ln", "is upside down, with the highest band first", MEL),
    "samples of 32768": (
        PRESETS["hifigan-22k"](32768 * CLIP),
        "hifigan-22k",
        "ln",
        f"if the samples are up to 32768, pass array - {SHIFT:.9g}",
        None,
    ),
    "logarithm of 0": (LINEAR.log(), "hifigan-22k", "unknown", "if they are logarithms of 0", None),
    "samples": (CLIP, "hifigan-22k", "samples", "samples of sound, not a spectrogram", None),
    "spectrum": (
        PRESETS["hifigan-22k"].stft.analyze(CLIP),
        "hifigan-22k",
        "spectrum",
        "absolute values",
        None,
    ),
    "a floor too low": (PRESETS["vocos-24k"](CLIP), "f5-tts", "ln", "the array may be of vocos-24k", None),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_name_the_cause(name):
    array, preset, values, says, right = WRONG[name]
    found = diagnose(array, preset=preset)
    assert found.values == values
    assert any(says in problem for problem in found.problems), found
    assert says in str(found)
    assert WORDS[values] in str(found)
    if right is None:
        assert not instructions(found)
    else:
        torch.testing.assert_close(obeyed(array, found), right, rtol=1e-5, atol=1e-4)
        assert not diagnose(obeyed(array, found), preset=preset).problems


@pytest.mark.parametrize("numpy", [False, True])
def test_conditional_advice_helps_if_its_condition_holds(numpy):
    """The conditions hold here: the values are magnitudes, or the samples are up to 32768."""
    preset = PRESETS["hifigan-22k"]
    for array, wanted in (
        (LINEAR, MEL),
        (preset(32768 * CLIP), preset(CLIP).clamp_min(math.log(1e-5) - SHIFT)),
    ):
        given = array.numpy() if numpy else array
        (problem,) = diagnose(given, preset="hifigan-22k").problems
        expression = problem.rsplit("pass ", 1)[1]
        found = torch.as_tensor(eval(expression, {"array": given, "numpy": np}))
        loud = wanted > -6  # values that epsilon does not change
        torch.testing.assert_close(found[loud], wanted[loud], rtol=1e-4, atol=1e-3)


def test_other_logarithms_without_a_floor_are_named_under_their_condition():
    quiet = torch.where(MEL > -11.5, MEL, -11.2) - 0.01 * torch.rand(MEL.shape)
    found = diagnose(quiet, preset="parallel-wavegan")
    assert found.values == "unknown"
    assert "if the values are natural logarithms of magnitudes, pass array * 0.434294482" in str(found)
    assert not instructions(found)


def test_grey_values_of_a_picture():
    picture = 255 - 255 * (LINEAR / LINEAR.max()) ** 0.25
    found = diagnose(picture.floor().numpy().astype(np.uint8))
    assert found.values == "grey"
    assert "grey values of a picture" in str(found)
    assert diagnose(picture).values == "unknown"


@pytest.mark.parametrize("noise", [1e-3, 1e-2])
def test_levels_that_were_not_clipped_are_not_refused(noise):
    hiss = torch.randn(len(CLIP), generator=torch.Generator().manual_seed(0))
    found = diagnose(PRESETS["coqui"](CLIP + noise * hiss), preset="coqui")
    assert found.low > -4
    assert "coqui" in found.presets
    assert (found.values, found.problems) == ("unknown", ())


def test_logarithms_given_as_magnitudes():
    inverter = rtspecinv.StreamingInverter(PRESETS["hifigan-22k"].stft, n_iter=0, engine="eager")
    with pytest.raises(ValueError, match=r"natural logarithms of magnitudes with exp"):
        inverter.push(torch.full((513,), -11.5))
    found = diagnose(MEL)
    assert (found.values, found.power, found.area_norm) == ("ln", None, None)
    assert found.presets[0] == "hifigan-22k"
    assert "natural logarithms (the least value is that of a power of ten)" in str(found)


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
        (torch.zeros(0, 0, 3), "broken"),
        (torch.zeros(()), "silence"),
        (torch.linspace(-1, 1, 513), "samples"),
        (torch.rand(80, generator=torch.Generator().manual_seed(0)), "unit"),
        (MEL.bfloat16().requires_grad_(), "ln"),
        (PRESETS["hifigan-22k"].stft.analyze(CLIP).conj(), "spectrum"),
        (np.zeros((3, 5, 7), bool), "silence"),
        (np.array([[np.inf, -np.inf], [1, 2]]), "unknown"),
        (np.geomspace(1e-300, 1e308, 80 * 60).reshape(80, 60), "linear"),
        (np.linspace(-8e307, 8e307, 80 * 60).reshape(80, 60), "unknown"),
        (np.arange(12, dtype=np.int8).reshape(3, 4), "unknown"),
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
        cast(Any, diagnose(MEL)).values = "dB"
    with pytest.raises(TypeError, match="array is a list"):
        diagnose(cast(Any, [1.0]))


def test_the_helper_is_what_torch_computes():
    x = voice(22050, 1.0)
    wanted = PRESETS["hifigan-22k"].stft.magnitude(torch.from_numpy(x).float())
    np.testing.assert_allclose(spectrum(x, 1024, 256, pad=384), wanted.numpy(), atol=2e-4)


@pytest.mark.parametrize("curve", [lambda mel: mel, np.log1p, lambda mel: 32768 * mel])
@pytest.mark.parametrize("sample_rate", [16000, 22050])
def test_hiss_in_magnitudes_is_not_upside_down(curve, sample_rate):
    generator, n = np.random.default_rng(3), 3 * sample_rate
    hiss = np.diff(generator.standard_normal(n + 1)) + 0.05 * np.sin(np.arange(n) * 0.05)
    config = rtspecinv.MelConfig(sample_rate, 1024, 256, n_mels=80)
    mel = rtspecinv.Mel(config)(torch.from_numpy(0.1 * hiss).float()).numpy()
    assert not any("upside down" in problem for problem in rtspecinv.diagnose(curve(mel)).problems)
