"""Tests of saving and opening spectrograms: values, parameters, layouts, and their limits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import rtspecinv
from rtspecinv import STFT, MelConfig, open_spectrogram, save_spectrogram
from rtspecinv.files.metadata import describe, understand
from rtspecinv.files.saving import config_of
from rtspecinv.mel.config import Compression

ARRAYS = [".npz", ".pt", ".safetensors"]
PICTURES = [".png", ".tiff"]
SMALL = STFT(64, 16, win_length=48, window="hamming", center="same", pad_mode="constant", normalized=True)


def magnitudes(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2


def read(path, **options):
    found = open_spectrogram(path, **options)
    return found, np.stack(list(found.frames()), -1)


@pytest.mark.parametrize("suffix", ARRAYS)
@pytest.mark.parametrize("layout", ["freq-time", "time-freq"])
@pytest.mark.parametrize("channels", [0, 2])
def test_arrays_come_back_with_their_stft(tmp_path, suffix, layout, channels):
    values = magnitudes(*([channels] if channels else []), 33, 9)
    save_spectrogram(tmp_path / f"a{suffix}", values, SMALL, sample_rate=8000, layout=layout)
    found, frames = read(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(frames, values.reshape(-1, 33, 9).numpy())
    stft, rate = found.stft()
    assert (repr(stft), rate, found.layout) == (repr(SMALL), 8000, layout)


@pytest.mark.parametrize("suffix", ARRAYS)
@pytest.mark.parametrize("preset", list(rtspecinv.presets))
def test_every_preset_can_be_stored_in_every_format(tmp_path, suffix, preset):
    config = config_of(preset)
    values = magnitudes(config.n_mels, 3) - 3
    save_spectrogram(tmp_path / f"a{suffix}", values, preset)
    found, frames = read(tmp_path / f"a{suffix}")
    assert found.mel == config
    np.testing.assert_array_equal(frames[0], values.numpy())


def test_statistics_are_kept(tmp_path):
    compression = Compression("log10", floor=1e-10, mean=(0.5, -1.0), std=(1.0, 2.0), clip=(-9, 9))
    config = MelConfig(8000, 64, 16, n_mels=2, compression=compression)
    save_spectrogram(tmp_path / "a.npz", magnitudes(2, 5), config)
    assert open_spectrogram(tmp_path / "a.npz").mel == config


@pytest.mark.parametrize("suffix", PICTURES)
@pytest.mark.parametrize(("bits", "most"), [(8, -38), (16, -60)])
def test_pictures_come_back_to_the_accuracy_of_their_bits(tmp_path, suffix, bits, most):
    values = magnitudes(33, 50)
    values[3] = 0
    save_spectrogram(tmp_path / f"a{suffix}", values, SMALL, sample_rate=8000, bits=bits)
    found, frames = read(tmp_path / f"a{suffix}")
    assert repr(found.stft()[0]) == repr(SMALL)
    assert float(rtspecinv.metrics.spectral_convergence(torch.from_numpy(frames[0]), values)) < most
    assert not frames[0, 3].any()


@pytest.mark.parametrize("preset", ["hifigan-22k", "riffusion"])
def test_mel_pictures_have_the_highest_band_on_top(tmp_path, preset):
    config = config_of(preset)
    values = torch.linspace(-8, 1, config.n_mels)[:, None].repeat(1, 4)
    if config.flip:
        values = (values.flip(0) + 8) * 25
    save_spectrogram(tmp_path / "a.png", values, preset)
    with Image.open(tmp_path / "a.png") as image:
        rows = np.asarray(image)
    assert rows[0, 0] > rows[-1, 0]
    frames = read(tmp_path / "a.png")[1]
    np.testing.assert_allclose(frames[0], values.numpy(), atol=float(values.max() - values.min()) / 65535)


def test_a_picture_of_riffusion_needs_no_text(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (512, 6), np.uint8)
    Image.fromarray(grey).convert("RGB").save(tmp_path / "a.png")
    frames = read(tmp_path / "a.png", mel=config_of("riffusion"))[1]
    np.testing.assert_allclose(frames[0], grey, atol=1e-3)
    with pytest.raises(ValueError, match="the mel values of black and white"):
        open_spectrogram(tmp_path / "a.png", mel=config_of("hifigan-22k"))
    with pytest.raises(ValueError, match="metadata do not define its grey values"):
        open_spectrogram(tmp_path / "a.png")


def test_kaldi_layout_by_name(tmp_path):
    np.save(tmp_path / "a.npy", magnitudes(7, 80).numpy())
    mel = config_of("parallel-wavegan")
    with pytest.raises(ValueError, match="it looks transposed, try layout time-freq"):
        open_spectrogram(tmp_path / "a.npy", mel=mel)
    assert read(tmp_path / "a.npy", mel=mel, layout="time-freq")[1].shape == (1, 80, 7)


def test_two_configurations_contradict_each_other(tmp_path):
    save_spectrogram(tmp_path / "a.npz", magnitudes(80, 2), "hifigan-22k")
    with pytest.raises(ValueError, match="stores another mel configuration than the one that was given"):
        open_spectrogram(tmp_path / "a.npz", mel=config_of("tacotron2"))


@pytest.mark.parametrize(
    ("values", "transform", "options", "message"),
    [
        (magnitudes(33, 5) - 1, SMALL, {}, "magnitudes are >= 0"),
        (magnitudes(33, 5) * torch.nan, SMALL, {}, "NaN or infinite"),
        (magnitudes(33, 5).double() * 1e300, SMALL, {}, "NaN or infinite"),
        (magnitudes(32, 5), SMALL, {}, r"shape \(32, 5\), but with this transform it must be"),
        (magnitudes(33, 0), SMALL, {}, "with n_frames >= 1"),
        (magnitudes(33, 5).int(), SMALL, {}, "real floating-point"),
        (magnitudes(33, 5) + 0j, SMALL, {}, "real floating-point"),
        (magnitudes(33, 5), SMALL, {"sample_rate": None}, "sample_rate is missing"),
        (magnitudes(33, 5), SMALL, {"sample_rate": 0}, "not a whole number above 0"),
        (magnitudes(33, 5), STFT(64, 16, onesided=False), {}, r"shape \(33, 5\), but"),
        (magnitudes(33, 5), SMALL, {"length": 1000}, "length=1000 has 62 frames, but values has 5"),
        (magnitudes(33, 5), SMALL, {"length": 0}, "length=0 is not an integer >= 1"),
        (magnitudes(33, 5), STFT(64, 16, window=torch.hann_window(64)), {}, "no name"),
        (magnitudes(80, 5), "hifigan-22k", {"sample_rate": 24000}, "not 22050"),
        (magnitudes(80, 5), "hifigan-23k", {}, "hifigan-22k"),
        (magnitudes(33, 5), SMALL, {"layout": "tf"}, "'freq-time', 'time-freq'"),
        (magnitudes(80, 5), rtspecinv.MelConfig(0.4), {}, "sample_rate=0 is not a whole number above 0"),
    ],
)
def test_a_failed_save_leaves_no_file(tmp_path, values, transform, options, message):
    rate = {"sample_rate": 8000} if isinstance(transform, STFT) else {}
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        save_spectrogram(tmp_path / "a.npz", values, transform, **rate | options)
    assert not list(tmp_path.iterdir())


def test_a_scale_of_another_transform_is_refused(tmp_path):
    options: dict[str, Any] = {"sample_rate": 8000, "scale": rtspecinv.PictureScale(8000, 128)}
    with pytest.raises(ValueError, match=r"has another sample_rate or n_fft than \(8000, 64\)"):
        save_spectrogram(tmp_path / "a.png", magnitudes(33, 5), SMALL, **options)


@pytest.mark.parametrize("name", ["a.npy", "a.wav", "missing/a.npz"])
def test_names_that_cannot_be_written(tmp_path, name):
    with pytest.raises((ValueError, FileNotFoundError), match="Cannot write"):
        save_spectrogram(tmp_path / name, magnitudes(33, 5), SMALL, sample_rate=8000)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("n_fft", value) for value in (0, -1, 1.5, "nan", 2**21, [1, 2], None)],
        *[("window", value) for value in ("rm -rf", "general_cosine", 3)],
        *[("center", value) for value in ("maybe", 1.0)],
        ("layout", "tf"),
        *[("mel_config", value) for value in ("", "[]", "{", '{"n_mels": 80}', "[" * 10**5, 7)],
        *[
            ("mel_config", json.dumps({"sample_rate": 22050, **change}))
            for change in (
                {"n_fft": 2**30},
                {"n_fft": "1024"},
                {"n_mels": 10**9},
                {"n_mels": 4096, "n_fft": 2**20},
                {"other": 1},
                {"compression": {"curve": "exec"}},
                {"compression": 3},
                {"scale": ["slaney"]},
                {"compression": {"std": [1.0] * 79}},
            )
        ],
    ],
)
def test_wrong_fields_are_rejected(field, value):
    with pytest.raises(ValueError, match=f"^{field}"):
        understand({field: value})


def test_fields_are_understood_as_they_were_described():
    said = describe(SMALL, 8000)
    assert understand({name: np.array(value) for name, value in said.items()}) == understand(said)
    assert understand(said)["center"] == "same"
