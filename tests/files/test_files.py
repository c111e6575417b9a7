"""Tests of spectrogram files: formats, layouts, constant memory, wrong and hostile files."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import rtspecinv
from rtspecinv.files.opening import open_spectrogram

FORMATS = [".npy", ".npz", ".pt", ".safetensors"]
PARAMETERS = {"sample_rate": 22050, "n_fft": 64, "hop_length": 16}


def magnitudes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 2, shape).astype(np.float32)


def save(path: Path, array: np.ndarray, **parameters: Any) -> Path:
    array = np.ascontiguousarray(array)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, magnitude=array, **parameters)
    elif path.suffix == ".pt":
        torch.save({"magnitude": torch.from_numpy(array), **parameters}, path)
    else:
        save_file({"magnitude": array}, path, {name: str(value) for name, value in parameters.items()})
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("channels", [0, 1, 2])
@pytest.mark.parametrize("layout", ["freq-time", "time-freq"])
def test_frames_are_the_file_in_every_format_and_layout(tmp_path, monkeypatch, suffix, channels, layout):
    # Several blocks, of which the last is shorter.
    monkeypatch.setattr("rtspecinv.files.opening._BLOCK_VALUES", 300)
    array = magnitudes(channels, 33, 50) if channels else magnitudes(33, 50)
    stored = array if layout == "freq-time" else array.swapaxes(-1, -2)
    found = open_spectrogram(save(tmp_path / f"a{suffix}", stored, **PARAMETERS), layout=layout)
    assert (found.channels, found.n_freq, found.n_frames) == (max(1, channels), 33, 50)
    frames = np.stack(list(found.frames()), -1)
    np.testing.assert_array_equal(frames, array.reshape(-1, 33, 50))
    assert frames.dtype == np.float32
    expected = (None, None, None) if suffix == ".npy" else (22050, 64, 16)
    assert (found.sample_rate, found.n_fft, found.hop_length) == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.dtype(">f4")])
def test_other_floats_are_converted(tmp_path, dtype):
    array = magnitudes(33, 5).astype(dtype)
    found = open_spectrogram(save(tmp_path / "a.npy", array))
    np.testing.assert_array_equal(np.stack(list(found.frames()), -1)[0], array.astype(np.float32))


def test_torch_tensors_of_every_kind(tmp_path):
    array = torch.from_numpy(magnitudes(33, 5))
    for name, content in {
        "bare": array,
        "bfloat16": array.bfloat16(),
        "parameter": torch.nn.Parameter(array),
        "transposed view": array.T.contiguous().T,
    }.items():
        torch.save(content, tmp_path / "a.pt")
        frames = np.stack(list(open_spectrogram(tmp_path / "a.pt").frames()), -1)[0]
        np.testing.assert_array_equal(frames, content.detach().float().numpy(), name)
    torch.save(array, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert open_spectrogram(tmp_path / "a.pt").n_freq == 33


@pytest.mark.parametrize("suffix", FORMATS)
def test_complex_values_give_their_magnitude_and_a_warning(tmp_path, suffix):
    array = (magnitudes(33, 5) - 1j).astype(np.complex64)
    with pytest.warns(UserWarning, match="complex values: only their magnitude"):
        found = open_spectrogram(save(tmp_path / f"a{suffix}", array))
    np.testing.assert_allclose(np.stack(list(found.frames()), -1)[0], np.abs(array), rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((33, 5), np.uint8), r"uint8 values \(an image\?\): magnitudes must be floats"),
        (np.zeros((33, 5), np.int64), "int64 values: magnitudes must be floats"),
        (np.zeros((33, 5), bool), "bool values"),
        (np.zeros(33, np.float32), r"shape \(33,\), expected \(n_freq, n_frames\)"),
        (np.zeros((1, 2, 1, 33, 5), np.float32), r"shape \(2, 1, 33, 5\)"),
        (np.zeros((33, 0), np.float32), "it contains no values"),
        (np.zeros((33, 5), [("a", "f4")]), "void"),
        (np.array([[{}]], object), "Python objects, not loaded because they could run code"),
    ],
)
def test_arrays_that_are_not_magnitudes(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", magnitude=array)
    with pytest.raises(ValueError, match=message):
        open_spectrogram(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=message if array.ndim > 1 else "0 arrays of two or more axes"):
        open_spectrogram(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-80.0, r"go down to -80.*decibels or a logarithm"),
        (np.nan, "frame 3 holds NaN"),
        (np.inf, "frame 3 holds NaN"),
    ],
)
def test_values_that_are_not_magnitudes(tmp_path, monkeypatch, value, message):
    monkeypatch.setattr("rtspecinv.files.opening._BLOCK_VALUES", 66)
    array = magnitudes(33, 5)
    array[7, 3] = value
    found = open_spectrogram(save(tmp_path / "a.npy", array))
    with pytest.raises(ValueError, match=message):
        list(found.frames())


def test_double_too_large_for_single_is_reported(tmp_path):
    found = open_spectrogram(save(tmp_path / "a.npy", np.full((33, 5), 1e300)))
    with pytest.raises(ValueError, match="frame 0 holds NaN or Inf"):
        list(found.frames())


def test_settings_come_from_arguments_file_and_shape(tmp_path):
    bare = open_spectrogram(save(tmp_path / "a.npy", magnitudes(33, 5)))
    assert bare.settings(sample_rate=8000) == (64, 16, 8000)
    assert bare.settings(sample_rate=8000, n_fft=65, hop_length=9) == (65, 9, 8000)
    full = open_spectrogram(save(tmp_path / "a.npz", magnitudes(33, 5), **PARAMETERS))
    assert full.settings() == full.settings(n_fft=64) == (64, 16, 22050)
    with pytest.raises(ValueError, match="hop_length=16, but hop_length=8 was given"):
        full.settings(hop_length=8)
    with pytest.raises(ValueError, match="does not state its sample rate: give --sample-rate"):
        bare.settings()
    with pytest.raises(ValueError, match=r"33 frequencies, but n_fft=128 has 65: give --n-fft 64 or 65$"):
        bare.settings(n_fft=128, sample_rate=8000)


def test_transposed_and_mel_files_are_recognised(tmp_path):
    transposed = open_spectrogram(save(tmp_path / "a.npy", magnitudes(50, 33)))
    for n_fft in (None, 64):
        with pytest.raises(ValueError, match="it looks transposed, try --layout time-freq"):
            transposed.settings(n_fft=n_fft, sample_rate=8000)
    mel = open_spectrogram(save(tmp_path / "b.npy", magnitudes(80, 100)))
    with pytest.raises(ValueError, match=r"80 frequencies.*a mel spectrogram\?.*give --n-fft 158"):
        mel.settings(sample_rate=8000)
    assert mel.settings(n_fft=158, sample_rate=8000)[0] == 158


@pytest.mark.parametrize("value", [0, -1, 1.5, float("nan"), "many", [1, 2]])
def test_parameters_that_are_not_numbers(tmp_path, value):
    np.savez(tmp_path / "a.npz", magnitude=magnitudes(33, 5), n_fft=value)
    with pytest.raises(ValueError, match=r"n_fft=.* is not a whole number above 0"):
        open_spectrogram(tmp_path / "a.npz")


def test_which_of_several_arrays(tmp_path):
    array = magnitudes(33, 5)
    np.savez(tmp_path / "a.npz", one=array, two=array)
    with pytest.raises(
        ValueError,
        match=r"2 arrays of two or more axes \(one, two\) and none of them is named 'magnitude': name one",
    ):
        open_spectrogram(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", other=array[:, :2], magnitude=array)
    assert open_spectrogram(tmp_path / "a.npz").n_frames == 5
    torch.save([torch.zeros(2, 2)], tmp_path / "a.pt")
    with pytest.raises(ValueError, match="holds a list, expected a tensor or a dictionary"):
        open_spectrogram(tmp_path / "a.pt")
    torch.save(torch.zeros(33, 5).to_sparse(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="sparse"):
        open_spectrogram(tmp_path / "a.pt")
    torch.save(torch.zeros(33, 5, device="meta"), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="without values"):
        open_spectrogram(tmp_path / "a.pt")


def test_names_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        open_spectrogram(tmp_path / "a.npy")
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"not one of \.npy, \.npz, \.pt, \.safetensors, \.png, \.tif"):
        open_spectrogram(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="layout='tf' is not one of 'freq-time', 'time-freq'"):
        open_spectrogram(tmp_path / "a.txt", layout="tf")


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran-code",)


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_code_is_run(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez(path, magnitude=np.array([[RunsCode()]], object))
    elif suffix == ".pt":
        torch.save({"magnitude": RunsCode()}, path)
    else:
        path.write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(ValueError, match=r"a\.(npy|npz|pt|safetensors)"):
        open_spectrogram(path)
    assert not (tmp_path / "ran-code").exists()


@settings(deadline=None, max_examples=40)
@given(suffix=st.sampled_from(FORMATS), data=st.data())
def test_damaged_files_are_refused_in_one_error(tmp_path_factory, suffix, data):
    path = save(tmp_path_factory.mktemp("damaged") / f"a{suffix}", magnitudes(33, 5))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), "cut"):
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1), "length")])
    else:
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=9), "at"):
            content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
    with contextlib.suppress(ValueError, OSError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        list(open_spectrogram(path).frames())


@pytest.mark.parametrize("suffix", [*FORMATS, ".png", ".wav"])
def test_folders_and_pipes_are_no_files(tmp_path, suffix):
    """Reading a pipe without a writer would wait for ever."""
    (tmp_path / f"folder{suffix}").mkdir()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    for name in ("folder", "pipe"):
        with pytest.raises((ValueError, IsADirectoryError), match=f"{name}{suffix} is a (folder|pipe)"):
            rtspecinv.listen(tmp_path / f"{name}{suffix}", sample_rate=8000, output=rtspecinv.ArraySink())


def test_a_compressed_pt_file_is_not_unpacked(tmp_path):
    """Its pickle would be read into memory completely, and a megabyte may unpack to a gigabyte."""
    torch.save(torch.zeros(33, 5), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as whole:
        contents = {member.filename: whole.read(member) for member in whole.infolist()}
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"a\.pt: it is compressed"):
        open_spectrogram(tmp_path / "a.pt")


def test_headers_with_too_large_sizes(tmp_path):
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 513)}
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        file.write(bytes(100))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "magnitude.npy")
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match=name):
            open_spectrogram(tmp_path / name)


@pytest.mark.parametrize("suffix", FORMATS)
def test_memory_does_not_grow_with_the_file(tmp_path, suffix):
    """Reading 200 MB takes less than 80 MB."""
    path = tmp_path / f"a{suffix}"
    zeros = np.lib.format.open_memmap(
        tmp_path / "zeros.npy", "w+", np.float32, (513, 100_000)
    )  # sparse on disk
    if suffix == ".npy":
        (tmp_path / "zeros.npy").rename(path)
    else:
        save(path, zeros)
    del zeros
    code = (
        "import resource, sys\n"
        "from rtspecinv.files.opening import open_spectrogram\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert sum(1 for _ in open_spectrogram(sys.argv[1]).frames()) == 100_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    run = [sys.executable, "-c", code, str(path)]
    grown = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert grown < 80_000  # kB
