"""Tests that files are complete or absent: on a full disk, after a kill, beside another writer, in pipes."""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import soundfile
import torch
from forked import forked

import rtspecinv
from rtspecinv.common.whole_files import WholeFile, is_stream, write_json, write_whole

STFT = rtspecinv.STFT(64, 16)
VALUES = torch.rand(33, 300, generator=torch.Generator().manual_seed(0))


@contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    """Return a context in which a write beyond `n_bytes` of a file raises an error, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def sound(subtype: str | None, n_samples: int = 20000) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, n_samples).astype(np.float32)
        with rtspecinv.FileSink(path, 22050, subtype=subtype) as sink:
            sink.write(samples)

    return write


def spectrogram(path: Path) -> None:
    rtspecinv.save_spectrogram(path, VALUES, STFT, sample_rate=8000)


WRITERS = {
    **{f"{s}-short.{s}": sound(None, 3000) for s in ("wav", "flac", "ogg")},
    **{f"{s}.{s}": sound(None) for s in ("wav", "flac", "ogg")},
    "float.wav": sound("FLOAT"),
    "ulaw.wav": sound("ULAW"),
    "24.flac": sound("PCM_24"),
    **{f"a{suffix}": spectrogram for suffix in (".npz", ".pt", ".safetensors", ".png", ".tiff")},
    "a.json": lambda path: write_json(path, list(range(2000))),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_no_file_and_is_reported(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    for share in (0, 0.1, 0.3, 0.6, 0.9, 0.99, 0.999):
        with (
            room_for(int(share * len(whole))),
            pytest.raises(OSError, match=f"Cannot write .*{name}: File too large") as e,
        ):
            WRITERS[name](path)
        assert e.value.errno == errno.EFBIG
        assert path.read_bytes() == whole  # unchanged
        assert [left.name for left in tmp_path.iterdir()] == [name]
    if path.suffix in (".wav", ".flac", ".ogg"):
        assert soundfile.info(path).frames == (3000 if "short" in name else 20000)


def test_the_reason_is_that_of_the_disk(monkeypatch, tmp_path):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"a\.wav: No space left on device$"):
        sound(None)(tmp_path / "a.wav")
    assert not list(tmp_path.iterdir())


def test_errors_of_the_file_precede_those_of_the_encoder(tmp_path):
    def encode(file: IO[bytes]) -> None:
        file.write(bytes(2000))
        raise RuntimeError("encoder")

    with room_for(1000), pytest.raises(OSError, match="File too large"):
        write_whole(tmp_path / "a", encode)
    with pytest.raises(RuntimeError, match="encoder"):
        write_whole(tmp_path / "a", encode)
    assert not list(tmp_path.iterdir())


def test_the_next_write_removes_the_file_of_a_killed_process(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from rtspecinv.common.whole_files import WholeFile\n"
        "file = WholeFile(Path(sys.argv[1])); file.write(b'half'); os.kill(os.getpid(), 9)"
    )
    for name in ("a.wav", "b.wav"):
        done = subprocess.run(forked([sys.executable, "-c", code, str(tmp_path / name)]))
        assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    sound(None)(tmp_path / "a.wav")
    left = [path.name for path in tmp_path.iterdir() if path.name != "a.wav"]
    assert len(left) == 1
    sound(None)(tmp_path / "b.wav")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav"]


def test_two_writers_of_one_name_do_not_disturb_each_other(tmp_path):
    first, second = WholeFile(tmp_path / "a"), WholeFile(tmp_path / "a")
    first.write(b"first")
    second.write(b"second")
    first.keep()
    assert (tmp_path / "a").read_bytes() == b"first"
    second.keep()
    assert (tmp_path / "a").read_bytes() == b"second"
    first.drop()  # the first writer has ended
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def write_for_ever(sink: rtspecinv.FileSink) -> None:
    while True:
        sink.write(np.zeros((2, 8192), np.float32))


def test_ctrl_c_while_libsndfile_encodes_is_not_lost(tmp_path):
    """Its callbacks into Python would discard the exception, and an incomplete file would remain."""

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    for _ in range(3):
        sink = rtspecinv.FileSink(tmp_path / "a.flac", 48000, 2)
        timer = threading.Timer(0.05, interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt), sink:
            write_for_ever(sink)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["fifo.wav", "fifo", "fifo.flac", "fifo.ogg"])
def test_a_named_pipe_keeps_its_name_and_gets_the_sound(tmp_path, name):
    os.mkfifo(tmp_path / name)
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / name).read_bytes()))
    reader.start()
    sound(None)(tmp_path / name)
    reader.join()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert is_stream(tmp_path / name)
    samples, rate = soundfile.read(io.BytesIO(got[0]))
    assert (len(samples), rate) == (20000, 22050)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_an_open_file_gets_the_sound_and_stays_open(subtype):
    file = io.BytesIO()
    samples = np.linspace(-0.9, 0.9, 1001, dtype=np.float32)
    with rtspecinv.FileSink(file, 8000, subtype=subtype) as sink:
        sink.write(samples)
    assert not file.closed
    file.seek(0)
    read, rate = soundfile.read(file)
    assert rate == 8000
    np.testing.assert_allclose(read, samples, atol=0.02 if subtype == "ULAW" else 2**-15)


def test_a_closed_reader_is_a_broken_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0) as file, pytest.raises(BrokenPipeError):
        rtspecinv.FileSink(file, 8000).write(np.zeros(100, np.float32))
