"""Tests of pictures: to sound, from sound and back, wrong and hostile files."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import rtspecinv
from rtspecinv import PictureScale
from rtspecinv.cli import main
from rtspecinv.files.images import read_image, resize_columns, write_image
from rtspecinv.measure.clip import SAMPLE_RATE, render
from rtspecinv.metrics import spectral_convergence

STFT = rtspecinv.STFT(1024, 256)


@pytest.fixture(scope="module")
def magnitude() -> torch.Tensor:
    return STFT.magnitude(torch.from_numpy(render())[: 2 * SAMPLE_RATE])


def convergence(scale: PictureScale, magnitude: torch.Tensor, height: int | None, bits: int) -> float:
    levels = scale.levels(magnitude.numpy(), height)
    whole = np.rint(levels * (2**bits - 1)) / (2**bits - 1)
    return float(spectral_convergence(torch.from_numpy(scale.magnitude(whole)), magnitude))


@pytest.mark.parametrize(("bits", "most"), [(8, -39), (16, -60)])
def test_a_row_for_every_frequency_loses_only_what_bits_lose(magnitude, bits, most):
    """A step of 8 bits is 0.31 dB, so errors are uniform within 1.8 %: 1.04 % is -39.7 dB."""
    scale = PictureScale(SAMPLE_RATE, 1024, white=float(magnitude.max()), range_db=80)
    assert convergence(scale, magnitude, None, bits) < most


@pytest.mark.parametrize("scale", ["log", "mel"])
def test_other_scales_come_near_and_nearer_with_more_rows(magnitude, scale):
    picture = PictureScale(SAMPLE_RATE, 1024, scale, 30, white=float(magnitude.max()))
    coarse, fine = (convergence(picture, magnitude, height, 16) for height in (128, 1024))
    assert fine < coarse - 3
    assert fine < -14


@pytest.mark.parametrize("scale", ["linear", "log", "mel"])
@pytest.mark.parametrize("height", [1, 2, 7, 513, 900])
def test_a_bright_row_is_heard_at_its_frequency(scale, height):
    picture = PictureScale(16000, 1024, scale, 100, 6000)
    rows = picture._rows(height)
    assert picture.levels(np.ones((513, 2)), height) == pytest.approx(np.ones((height, 2)))
    for row in {0, height // 2, height - 1}:
        levels = np.zeros((height, 2), np.float32)
        levels[height - 1 - row] = 1
        magnitude = picture.magnitude(levels)[:, 0]
        if magnitude.any():  # a row may lie between two frequencies
            loudest = np.flatnonzero(magnitude == magnitude.max()) * (16000 / 1024)
            spacing = max(16000 / 1024, np.abs(np.diff(rows)).max() if height > 1 else 6000)
            assert np.abs(loudest - rows[row]).min() <= spacing
        frequencies = np.flatnonzero(magnitude) * (16000 / 1024)
        assert not len(frequencies) or (frequencies.min() >= 90 and frequencies.max() <= 6010)


def test_black_is_silence_and_white_is_white():
    picture = PictureScale(8000, 64, white=3.0, range_db=60)
    assert not picture.magnitude(np.zeros((33, 4))).any()
    np.testing.assert_allclose(picture.magnitude(np.ones((33, 4))), 3.0)
    np.testing.assert_allclose(picture.magnitude(np.full((33, 4), 0.5)), 3.0 * 10 ** (-30 / 20), rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"scale": "bark"},
        {"fmin": -1},
        {"fmin": 9000},
        {"fmax": 8001},
        {"scale": "log", "fmin": 0},
        {"range_db": 0},
        {"range_db": float("nan")},
        {"white": 0},
        {"white": float("inf")},
        {"fmax": float("nan")},
    ],
)
def test_invalid_scales_are_rejected(options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))}|scale|fmin"):
        PictureScale(16000, 1024, **options)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("bits", [8, 16])
def test_levels_and_texts_come_back(tmp_path, suffix, bits):
    levels = np.linspace(0, 1, 60).reshape(6, 10)
    texts: dict[str, Any] = {"sample_rate": 22050, "scale": "log"}
    write_image(tmp_path / f"a{suffix}", levels, texts, bits=bits)
    found, said = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(found, levels, atol=0.51 / (2**bits - 1))
    assert {name: said[name] for name in texts} == {name: str(value) for name, value in texts.items()}


def test_pictures_of_every_mode(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (4, 5), np.uint8)
    picture = Image.fromarray(grey)
    for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK"):
        path = tmp_path / f"a{'.tiff' if mode == 'CMYK' else '.png'}"
        picture.convert(mode).save(path)
        expected = np.where(grey > 127, 255, 0) if mode == "1" else grey
        if mode != "1":  # mode "1" is dithered
            np.testing.assert_allclose(read_image(path)[0] * 255, expected, atol=1.01, err_msg=mode)
        assert set(np.unique(read_image(path)[0])) <= (
            {0, 1} if mode == "1" else set(np.arange(256, dtype=np.float32) / np.float32(255))
        )
    transparent = Image.new("RGBA", (3, 2), (255, 255, 255, 0))
    transparent.save(tmp_path / "b.png")
    assert not read_image(tmp_path / "b.png")[0].any()
    for values in (grey.astype(np.float32), grey.astype(np.int32) * 10**6):
        Image.fromarray(values).save(tmp_path / "c.tiff")
        with pytest.raises(ValueError, match=r"floating-point|16 bits"):
            read_image(tmp_path / "c.tiff")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_small_picture_of_very_many_frequencies_is_refused(tmp_path):
    """Its metadata request 524289 magnitudes per column, 3 GB."""
    texts: dict[str, Any] = {"sample_rate": 8000, "n_fft": 2**20, "scale": "linear", "fmin": 0, "fmax": 4000}
    write_image(tmp_path / "a.png", np.ones((1, 1500)), texts | {"white": 1, "range_db": 80})
    with pytest.raises(ValueError, match=r"a\.png: 524289 x 1500 values are more than 67108864"):
        rtspecinv.open_spectrogram(tmp_path / "a.png")
    with pytest.raises(ValueError, match="100000000 x 1 values are more than"):
        PictureScale(8000, 64).levels(np.ones((33, 1)), 10**8)


def test_pictures_with_too_large_sizes(tmp_path):
    header = struct.pack(">IIBBBBB", 2**20, 2**20, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))
    (tmp_path / "a.png").write_bytes(bomb + chunk(b"IEND", b""))
    with pytest.raises(ValueError, match=r"pixels"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ValueError, match=r"not a picture \(PNG, TIFF"):
        read_image(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_image(tmp_path / "b.png")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_image(tmp_path)


@given(columns=st.integers(1, 40), wanted=st.integers(1, 90))
@settings(deadline=None, max_examples=40)
def test_resizing_keeps_the_mean_of_a_ramp(columns, wanted):
    levels = np.tile(np.linspace(0, 1, columns, dtype=np.float32), (3, 1))
    found = resize_columns(levels, wanted)
    assert found.shape == (3, wanted)
    assert abs(found.mean() - levels.mean()) < 0.02
    assert (np.diff(found, axis=1) >= -1e-6).all()


# -- the command line ----------------------------------------------------------------------------------------


def test_there_and_back_again(tmp_path, capsys):
    with rtspecinv.FileSink(tmp_path / "a.wav", SAMPLE_RATE) as sink:
        sink.write(render()[: 2 * SAMPLE_RATE + 33])
    drawn, heard = str(tmp_path / "a.png"), str(tmp_path / "b.wav")
    assert main(["picture", str(tmp_path / "a.wav"), "-o", drawn, "--bits", "8"]) == 0
    assert main(["image", drawn, "-o", heard]) == 0
    before, after = (rtspecinv.read_audio(tmp_path / name)[0][0] for name in ("a.wav", "b.wav"))
    assert len(before) == len(after)
    before, after = (STFT.magnitude(torch.from_numpy(samples)) for samples in (before, after))
    assert float(spectral_convergence(after, before)) < -20
    assert "8 bits; 0 to 11025 Hz, linear, 80 dB" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [["--scale", "log"], ["--scale", "mel", "--dark-is-loud"], ["--fmax", "4000"]]
)
def test_any_picture_sounds_as_long_and_as_loud_as_it_should(tmp_path, options):
    levels = np.random.default_rng(0).uniform(0, 1, (60, 90)) ** 4
    write_image(tmp_path / "a.png", levels, {}, bits=8)
    said = [
        "image",
        str(tmp_path / "a.png"),
        "-o",
        str(tmp_path / "a.wav"),
        "--seconds",
        "0.7",
        "--n-iter",
        "1",
    ]
    assert main([*said, *options]) == 0
    samples, rate = rtspecinv.read_audio(tmp_path / "a.wav")
    assert samples.shape[-1] == round(0.7 * rate)
    assert 0.02 < samples.std() < 0.2
    assert np.abs(samples).max() < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "does not state its duration: give --seconds"),
        (["--seconds", "nan"], "not a finite number > 0"),
        (["--seconds", "1e9"], "use smaller --seconds"),
        (["--seconds", "1", "--range", "0"], "range_db=0.0 is not a finite number from 1 to 200"),
        (["--seconds", "1", "--scale", "log", "--fmin", "0"], "fmin"),
        (["--seconds", "1", "--n-fft", "0"], "n_fft"),
        (["--seconds", "1", "--sample-rate", "0"], "sample_rate=0 is not an integer >= 1"),
        (["--seconds", "1", "--sample-rate", "1" + "0" * 12], "sample_rate=1000000000000 is more than"),
    ],
)
def test_pictures_that_cannot_be_heard(tmp_path, capsys, options, message):
    write_image(tmp_path / "a.png", np.ones((9, 9)), {})
    before = set(tmp_path.iterdir())
    status = main(["image", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.wav"), *options])
    assert (status, set(tmp_path.iterdir())) == (1, before)
    assert message in capsys.readouterr().err


def test_black_is_refused_and_silence_cannot_be_drawn(tmp_path, capsys):
    write_image(tmp_path / "a.png", np.zeros((9, 9)), {})
    assert main(["image", str(tmp_path / "a.png"), "--seconds", "1", "-o", str(tmp_path / "a.wav")]) == 1
    with rtspecinv.FileSink(tmp_path / "a.wav", 8000) as sink:
        sink.write(np.zeros(8000, np.float32))
    assert main(["picture", str(tmp_path / "a.wav"), "-o", str(tmp_path / "b.png")]) == 1
    said = capsys.readouterr().err
    assert "has only silent pixels" in said
    assert "is silent" in said
    assert not (tmp_path / "b.png").exists()
