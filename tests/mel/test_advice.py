"""Tests of the advice in errors and warnings, and of presets that contradict a file."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
import torch

import rtspecinv
from rtspecinv import ArraySink, Compression, MelConfig, listen, open_spectrogram
from rtspecinv.cli import main
from rtspecinv.measure import clip as demo_clip

CLIP = torch.from_numpy(demo_clip.render())[:22050]
PRESET = rtspecinv.presets["hifigan-22k"]
MEL = PRESET(CLIP)
STFT = PRESET.stft
MAGNITUDE = STFT.magnitude(CLIP).clamp_min(1e-5)
LN10 = math.log(10)


@pytest.mark.filterwarnings("ignore:.*beyond full scale")
@pytest.mark.parametrize(("field", "value"), [("sample_rate", 24000), ("hop_length", 480), ("n_fft", 1920)])
@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_a_preset_that_contradicts_its_file_is_refused(tmp_path, capsys, field, value, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez(path, mel=MEL.numpy(), **{field: value})
    else:
        torch.save({"mel": MEL, field: value}, path)
    says = f"states {field}={value}, but the given mel configuration has {getattr(PRESET.config, field)}"
    with pytest.raises(ValueError, match=says):
        open_spectrogram(path, mel=PRESET.config)
    for preset in ("hifigan-22k", PRESET, PRESET.config):
        with pytest.raises(ValueError, match=f"give a preset or MelConfig with {field}={value}"):
            listen(path, preset=preset, output=ArraySink())
    output = tmp_path / "a.wav"
    command = ["invert", str(path), "--preset", "hifigan-22k", "-o", str(output)]
    assert main(command) == 1
    assert says in capsys.readouterr().err
    assert not output.exists()
    config = MelConfig(**{"sample_rate": 22050, field: value}, compression=Compression("ln", floor=1e-5))
    sound = listen(path, preset=config, output=ArraySink(), n_iter=0)
    assert sound.sample_rate == config.sample_rate


def test_a_preset_that_agrees_with_its_file_is_heard(tmp_path):
    np.savez(tmp_path / "a.npz", mel=MEL.numpy(), sample_rate=22050, hop_length=256, n_fft=1024)
    sound = listen(tmp_path / "a.npz", preset="hifigan-22k", output=ArraySink(), sample_rate=22050, n_iter=0)
    assert sound.sample_rate == 22050


def test_a_rate_that_contradicts_the_preset_of_a_file_is_refused(tmp_path, capsys):
    np.save(tmp_path / "a.npy", MEL.numpy())
    with pytest.raises(ValueError, match="is not 22050, that of the preset"):
        listen(tmp_path / "a.npy", preset="hifigan-22k", sample_rate=16000, output=ArraySink())
    command = ["invert", str(tmp_path / "a.npy"), "--preset", "hifigan-22k", "-o", str(tmp_path / "a.wav")]
    assert main([*command, "--sample-rate", "16000"]) == 1
    assert "is not 22050" in capsys.readouterr().err
    assert main([*command, "--sample-rate", "22050"]) == 0
    assert rtspecinv.read_audio(tmp_path / "a.wav")[1] == 22050


@pytest.mark.parametrize(
    ("levels", "way_out"),
    [
        (20 * MAGNITUDE.log10(), "10 ** (x / 20)"),
        (10 * MAGNITUDE.square().log10(), "10 ** (x / 20)"),
        (MAGNITUDE.log(), "exp(x)"),
        (2 * MAGNITUDE.log(), "exp(x / 2)"),
    ],
)
def test_the_advice_for_negative_magnitudes_gives_magnitudes(levels, way_out):
    with pytest.raises(ValueError, match=r"has the value -\d+") as error:
        rtspecinv.invert(levels, STFT, n_iter=0)
    assert way_out in str(error.value)
    found = eval(way_out, {"x": levels, "exp": torch.exp})
    torch.testing.assert_close(found, MAGNITUDE, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("levels", "way_out"), [(MAGNITUDE.log(), "exp(values)"), (2 * MAGNITUDE.log(), "exp(values / 2)")]
)
def test_the_advice_for_a_file_of_logarithms_gives_magnitudes(tmp_path, levels, way_out):
    np.save(tmp_path / "a.npy", levels.numpy())
    with pytest.raises(ValueError, match="a magnitude is never negative") as error:
        listen(tmp_path / "a.npy", stft=STFT, sample_rate=22050, output=ArraySink())
    assert way_out in str(error.value)
    found = eval(way_out, {"values": levels, "exp": torch.exp})
    torch.testing.assert_close(found, MAGNITUDE, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loud", [lambda m: (100 * m).square(), lambda m: 32768 * m])
def test_one_of_the_ways_out_of_loudness_helps(loud):
    with pytest.warns(UserWarning, match="the largest magnitude of samples from -1 to 1") as caught:
        rtspecinv.invert(loud(MAGNITUDE), STFT, n_iter=0)
    ways = re.findall(r"(magnitude\.sqrt\(\)|magnitude / 32768)", str(caught[0].message))
    assert len(ways) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peaks = [
            float(rtspecinv.invert(eval(way, {"magnitude": loud(MAGNITUDE)}), STFT, n_iter=0).abs().max())
            for way in ways
        ]
    assert (
        min(abs(math.log(peak / float(CLIP.abs().max()) / scale)) for peak in peaks for scale in (1, 100)) < 1
    )


def test_negative_values_of_a_linear_preset_have_a_way_out_that_works():
    with pytest.raises(ValueError, match="if the values are logarithms or dB") as error:
        PRESET.linear.invert(MEL)
    (way_out,) = re.findall(r"Compression\(.*?\)", str(error.value))
    config = MelConfig(22050, fmax=8000, compression=eval(way_out, {"Compression": Compression}))
    assert rtspecinv.Mel(config).invert(MEL).isfinite().all()


def test_an_array_that_is_not_sound_is_described_briefly():
    with pytest.raises(ValueError, match=r"natural logarithms \(.*\); may be of hifigan-22k") as error:
        listen(MEL, sample_rate=22050, output=ArraySink())
    assert "cannot tell" not in str(error.value)
