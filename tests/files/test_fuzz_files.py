"""Random files for all functions that read files; fuzzing.py has the limits."""

from __future__ import annotations

import io
import struct
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import (
    EFFORT,
    N_FREQ,
    STFT,
    attempt,
    bounded,
    quick,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as safetensors_bytes

import rtspecinv
from rtspecinv import ArraySink
from rtspecinv.cli import main
from rtspecinv.files.images import read_image

pytestmark = pytest.mark.usefixtures("little_memory")


def file_of(suffix: str) -> bytes:
    values = np.random.default_rng(0).uniform(0, 1, (N_FREQ, 12)).astype(np.float32)
    buffer = io.BytesIO()
    if suffix == ".npy":
        np.save(buffer, values)
    elif suffix == ".npz":
        np.savez_compressed(buffer, magnitude=values, sample_rate=8000, n_fft=64, window="hann")
    elif suffix == ".pt":
        torch.save({"magnitude": torch.from_numpy(values), "sample_rate": 8000}, buffer)
    elif suffix == ".safetensors":
        return safetensors_bytes({"magnitude": values}, {"sample_rate": "8000", "n_fft": "64"})
    return buffer.getvalue()


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    contents = {suffix: file_of(suffix) for suffix in (".npy", ".npz", ".pt", ".safetensors")}
    for suffix in (".png", ".tiff"):
        rtspecinv.save_spectrogram(folder / f"a{suffix}", torch.rand(N_FREQ, 12), STFT, sample_rate=8000)
        contents[suffix] = (folder / f"a{suffix}").read_bytes()
    for suffix in (".wav", ".flac", ".ogg"):
        with rtspecinv.FileSink(folder / f"a{suffix}", 8000) as sink:
            sink.write(np.random.default_rng(0).uniform(-1, 1, 900).astype(np.float32))
        contents[suffix] = (folder / f"a{suffix}").read_bytes()
    return contents


@settings(quick, max_examples=150 * EFFORT)
@given(data=st.data())
def test_damaged_files(tmp_path_factory, whole_files, data):
    suffix = data.draw(st.sampled_from(list(whole_files)), "suffix")
    content = bytearray(whole_files[suffix])
    if data.draw(st.booleans(), "cut"):
        content = content[: data.draw(st.integers(0, len(content)), "length")]
    for at in data.draw(st.lists(st.integers(0, max(0, min(len(content), 400) - 1)), max_size=6), "at"):
        if content:
            content[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255, 46, 57]), "byte")
    named = data.draw(st.sampled_from([suffix, suffix, suffix, ".npy", ".png", ".wav"]), "name")
    path = tmp_path_factory.mktemp("damaged") / f"a{named}"
    path.write_bytes(content)
    attempt(lambda: rtspecinv.listen(path, sample_rate=None, output=ArraySink(), n_iter=1).samples)
    attempt(lambda: read_image(path)[0])
    attempt(lambda: rtspecinv.read_audio(path)[0])
    with bounded():
        out = str(path.parent / "out.wav")
        assert main(["invert", str(path), "-o", out, "--method", "stream", "--n-iter", "1"]) in (0, 1)
        assert main(
            ["image", str(path), "-o", out, "--seconds", "0.1", "--n-fft", "64", "--n-iter", "1"]
        ) in (0, 1)


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_2_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


HUGE = st.sampled_from([0, 1, N_FREQ, 2**20, 2**31, 2**40, 2**62])


@settings(quick, max_examples=40 * EFFORT)
@given(
    shape=st.lists(HUGE, min_size=1, max_size=4).map(tuple),
    dtype=st.sampled_from(["<f4", "|O", "<U9", "|V1000000000", "<c16"]),
)
def test_wrong_headers_are_rejected(tmp_path_factory, shape, dtype):
    folder = tmp_path_factory.mktemp("liars")
    lie = npy_header(shape, dtype) + bytes(200)
    (folder / "a.npy").write_bytes(lie)
    good = io.BytesIO()
    np.save(good, np.ones((N_FREQ, 5), np.float32))
    for name, members in (
        ("a.npz", {"magnitude.npy": lie}),
        ("b.npz", {"magnitude.npy": good.getvalue(), "n_fft.npy": lie, "mel_config.npy": lie}),
    ):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    sizes = ",".join(map(str, shape))
    header = f'{{"magnitude":{{"dtype":"F32","shape":[{sizes}],"data_offsets":[0,200]}}}}'.encode()
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(200))
    (folder / "b.safetensors").write_bytes(struct.pack("<Q", 2**60) + header)
    tensor = torch.zeros(1).expand(*(min(size, 2**30) for size in shape[:2]))
    torch.save({"magnitude": tensor}, folder / "a.pt")
    wave = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 60000, 8000, 8000, 2, 16)
    (folder / "a.wav").write_bytes(wave + b"data" + struct.pack("<I", 2**32 - 1) + bytes(200))
    for path in folder.iterdir():
        attempt(partial(samples_of, path))


def samples_of(path: Path) -> np.ndarray:
    return rtspecinv.listen(path, sample_rate=8000, output=ArraySink(), n_iter=1).samples


def test_an_archive_that_unpacks_to_more_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10**5}))
    np.savez_compressed(tmp_path / "a.npz", magnitude=np.zeros((N_FREQ, 2000), np.float32))
    with pytest.raises(ValueError, match="unpacks to 264128 bytes"):
        rtspecinv.open_spectrogram(tmp_path / "a.npz")
