"""Tests that the work and memory for a file are proportional to its size and its sound."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import bounded, little_memory
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import rtspecinv
from rtspecinv import MelConfig
from rtspecinv.cli import main
from rtspecinv.files.bounds import MOST_BANK_WORK, MOST_OPEN, MOST_OVERLAP, check_frames, check_mel
from rtspecinv.files.images import read_image

REAL = [  # n_fft, hop_length, channels, Hz
    (4096, 64, 2, 44100),
    (1024, 16, 2, 22050),
    (17640, 441, 2, 44100),
    (16384, 256, 1, 48000),
    (1024, 256, 128, 16000),
    (65536, 16384, 8, 192000),
    (64, 1, 1, 1000),
]


@pytest.mark.parametrize("numbers", REAL)
def test_real_settings_pass(numbers):
    check_frames(*numbers)


@pytest.mark.parametrize("name", list(rtspecinv.presets))
def test_presets_pass_in_stereo(name):
    check_mel(rtspecinv.presets[name].config, 2)


@given(
    n_fft=st.integers(1, 2**20), hop_length=st.integers(1, 2**20), channels=st.integers(1, 1024),
    rate=st.integers(1, 2**20),
)  # fmt: skip
def test_accepted_files_are_bounded(n_fft, hop_length, channels, rate):
    try:
        check_frames(n_fft, hop_length, channels, rate)
    except ValueError:
        return
    assert n_fft <= MOST_OVERLAP * hop_length
    assert channels * n_fft * -(-n_fft // hop_length) <= MOST_OPEN
    assert hop_length <= 10 * rate


HOSTILE = [
    ((32769, 4), {"n_fft": 65536, "hop_length": 16}),
    ((32769, 4), {"n_fft": 65536, "hop_length": 64}),
    ((2049, 4), {"n_fft": 4096, "hop_length": 1}),
    ((513, 4), {"n_fft": 1024, "hop_length": 1}),
    ((524289, 2), {"n_fft": 2**20, "hop_length": 2**18}),
    ((2**18, 3, 2), {"n_fft": 4, "hop_length": 1}),
    ((1025, 5), {"n_fft": 2048, "hop_length": 2048, "sample_rate": 100}),
]


@pytest.mark.parametrize(("shape", "numbers"), HOSTILE)
def test_small_files_with_huge_sizes_are_rejected_at_once(tmp_path, monkeypatch, capsys, shape, numbers):
    monkeypatch.chdir(tmp_path)
    fields = {"sample_rate": 22050, **numbers}
    np.savez_compressed("a.npz", magnitude=np.full(shape, 0.5, np.float32), **fields)
    with little_memory(), bounded():
        with pytest.raises(ValueError, match="if that is right, give both: --n-fft"):
            rtspecinv.listen("a.npz", output=rtspecinv.ArraySink())
        assert main(["invert", "a.npz", "-o", "a.wav"]) == 1
    assert "more than" in capsys.readouterr().err
    assert os.listdir() == ["a.npz"]


def test_explicit_parameters_are_accepted(tmp_path, monkeypatch):
    """This is the remedy in the message; in Python the user passes the transform."""
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", magnitude=np.ones((129, 4), np.float32), sample_rate=8000, n_fft=256, hop_length=1)
    assert main(["invert", "a.npz", "-o", "a.wav", "--method", "stream", "--n-iter", "1"]) == 1
    ways = ["--n-fft", "256", "--hop-length", "1"]
    assert main(["invert", "a.npz", "-o", "a.wav", *ways, "--method", "stream", "--n-iter", "1"]) == 0
    sink = rtspecinv.ArraySink()
    rtspecinv.listen("a.npz", stft=rtspecinv.STFT(256, 1), n_iter=1, output=sink)
    assert sink.samples.shape == (3,)


@pytest.mark.parametrize(
    "config",
    [
        MelConfig(22050, 65536, 16, n_mels=4),
        MelConfig(22050, 4096, 1024, n_mels=4096),
        MelConfig(100, 2048, 2048, n_mels=4),
    ],
)
def test_mel_frames_too(tmp_path, config):
    values = np.ones((config.n_mels, 3), np.float32)
    rtspecinv.save_spectrogram(tmp_path / "a.npz", values, config)
    with bounded(), pytest.raises(ValueError, match="if that is right, pass the mel configuration"):
        rtspecinv.open_spectrogram(tmp_path / "a.npz")
    assert rtspecinv.open_spectrogram(tmp_path / "a.npz", mel=config).mel == config
    assert config.n_mels**2 * config.n_fft > MOST_BANK_WORK or config.n_mels == 4


def test_pictures_too(tmp_path, capsys):
    stft = rtspecinv.STFT(4096, 1)
    rtspecinv.save_spectrogram(tmp_path / "a.png", np.ones((2049, 4), np.float32), stft, sample_rate=8000)
    out = str(tmp_path / "a.wav")
    for command in ("image", "invert"):
        assert main([command, str(tmp_path / "a.png"), "-o", out]) == 1
        assert "give both: --n-fft 4096 --hop-length 1" in capsys.readouterr().err


def scans(n: int) -> bytes:
    """Return a JPEG whose last scan is repeated."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * n + content[-2:]


def test_pictures_of_many_scans_are_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(scans(80))
    assert read_image(tmp_path / "a.jpg")[0].shape == (64, 64)
    (tmp_path / "a.jpg").write_bytes(scans(3000))
    with bounded(), pytest.raises(ValueError, match=r"has 30\d\d scans, more than 100: save it with fewer"):
        read_image(tmp_path / "a.jpg")


def tiled(side: int) -> bytes:
    """Return a TIFF of 16 x 16 pixels in one compressed tile."""
    content = zlib.compress(bytes(side * side), 9)
    numbers = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side)]
    entries = [*numbers, (324, 8 + 2 + 12 * 10 + 4), (325, len(content))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + content


def test_tiles_larger_than_any_picture_are_refused(tmp_path):
    (tmp_path / "a.tiff").write_bytes(tiled(16))
    assert read_image(tmp_path / "a.tiff")[0].shape == (16, 16)
    (tmp_path / "a.tiff").write_bytes(tiled(2**14))
    with little_memory(), pytest.raises(ValueError, match="its tiles have more than"):
        read_image(tmp_path / "a.tiff")


def test_an_archive_of_many_members_is_refused_at_once(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for number in range(20000):
            archive.writestr(f"{number:08}.npy", b"")
    with bounded(), little_memory(), pytest.raises(ValueError, match="table of contents") as error:
        rtspecinv.open_spectrogram(tmp_path / "a.npz")
    assert len(str(error.value)) < 500
    (tmp_path / "a.npz").rename(tmp_path / "a.pt")
    with bounded(), pytest.raises(ValueError, match="table of contents"):
        rtspecinv.open_spectrogram(tmp_path / "a.pt")


def test_many_arrays_are_named_in_one_short_line(tmp_path):
    arrays: dict[str, Any] = {f"{'x' * 200}{n}": np.ones((3, 3)) for n in range(500)}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=r"holds 500 arrays .*, \.\.\.\)") as error:
        rtspecinv.open_spectrogram(tmp_path / "a.npz")
    assert len(str(error.value)) < 1000


def npz(path: Path, member: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("magnitude.npy", member)
    return path


def test_headers_that_unpack_to_much_are_not_unpacked(tmp_path):
    """A header of version 2 may state a length of four gigabytes."""
    bomb = b"\x93NUMPY\x02\0" + (2**29).to_bytes(4, "little") + bytes(2**27)
    with little_memory(), bounded(), pytest.raises(ValueError, match=r"a\.npz"):
        rtspecinv.open_spectrogram(npz(tmp_path / "a.npz", bomb))


def test_what_unpacks_out_of_proportion_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rtspecinv.files.readers._FREE_SIZE", 2**20)
    np.savez_compressed(tmp_path / "a.npz", magnitude=np.zeros((513, 4000), np.float32))
    with pytest.raises(
        ValueError, match=r"out of proportion: if that is right, save the array with numpy\.save"
    ):
        rtspecinv.open_spectrogram(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", np.zeros((513, 4000), np.float32))
    assert rtspecinv.open_spectrogram(tmp_path / "a.npy").n_frames == 4000
    noise = np.random.default_rng(0).uniform(0, 1, (513, 4000)).astype(np.float32)
    np.savez_compressed(tmp_path / "b.npz", magnitude=noise)
    assert rtspecinv.open_spectrogram(tmp_path / "b.npz").n_frames == 4000


def test_the_old_format_of_pt_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr("rtspecinv.files.opening._BLOCK_VALUES", 100)
    values = torch.rand(33, 50)
    torch.save(values, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    loads, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: loads.append(1) or load(*args, **options))
    frames = np.stack(list(rtspecinv.open_spectrogram(tmp_path / "a.pt").frames()), -1)
    np.testing.assert_array_equal(frames[0], values.numpy())
    assert len(loads) == 1


def test_an_unpacked_array_has_no_name(tmp_path, monkeypatch):
    """The system therefore removes it at the end of the process."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    np.savez_compressed(tmp_path / "a.npz", magnitude=np.ones((33, 5), np.float32))
    found = rtspecinv.open_spectrogram(tmp_path / "a.npz")
    assert not list((tmp_path / "temporary").iterdir())
    assert len(list(found.frames())) == 5


@pytest.mark.parametrize("n_fft", [2, 8, 128])
def test_frames_far_shorter_than_any_sound_needs_are_refused(tmp_path, n_fft):
    """A file of some kilobytes may hold a million frames, each of which costs a push."""
    magnitude = np.full((n_fft // 2 + 1, 100_000), 0.1, np.float32)
    np.savez_compressed(tmp_path / "a.npz", magnitude=magnitude, sample_rate=22050, n_fft=n_fft, hop_length=1)
    with pytest.raises(ValueError, match="has 22050 frames in a second, more than 4000"):
        rtspecinv.listen(tmp_path / "a.npz", output=rtspecinv.ArraySink())
