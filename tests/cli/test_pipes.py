"""Tests of sound from and to pipes on the command line, in separate processes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from forked import forked

import rtspecinv
from rtspecinv.cli import main

FAST = ["--n-fft", "64", "--hop-length", "16", "--n-iter", "1"]


def run(*args: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = forked([sys.executable, "-m", "rtspecinv", *map(str, args)])
    return subprocess.run(command, capture_output=True, timeout=100, **options)


@pytest.fixture
def clip(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with rtspecinv.FileSink("clip.wav", 8000, 2) as sink:
        sink.write(0.5 * np.sin(np.arange(4000) / np.array([[5], [7]])).astype(np.float32))
    magnitude = np.random.default_rng(0).uniform(0, 1, (33, 40)).astype(np.float32)
    np.save("m.npy", magnitude)
    rtspecinv.save_spectrogram("m.npz", magnitude, rtspecinv.STFT(64, 16), sample_rate=8000)
    return tmp_path / "clip.wav"


def heard(content: bytes) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    assert rate == 8000
    return samples


@pytest.mark.parametrize("output", ["-", "/dev/stdout"])
@pytest.mark.parametrize("command", ["play clip.wav", "invert m.npz"])
def test_sound_goes_to_standard_output_and_messages_beside_it(clip, command, output):
    options = FAST if "play" in command else ["--n-iter", "1"]
    done = run(*command.split(), "-o", output, *options)
    assert done.returncode == 0
    assert b"written       standard output" in done.stderr
    assert done.stdout[:8] == b"RIFF\xff\xff\xff\xff"
    assert (
        main([*command.split(), "-o", "a.wav", *options, *(["--no-device"] if "play" in command else [])])
        == 0
    )
    np.testing.assert_array_equal(heard(done.stdout), heard(Path("a.wav").read_bytes()))


def test_mel_frames_and_pictures_go_there_too(clip):
    mel = np.log(np.full((80, 6), 0.1, np.float32))
    rtspecinv.save_spectrogram("mel.npz", mel, "hifigan-22k")
    rtspecinv.save_spectrogram(
        "m.png", np.ones((33, 40), np.float32), rtspecinv.STFT(64, 16), sample_rate=8000
    )
    for command in ("invert mel.npz", "image m.png"):
        done = run(*command.split(), "-o", "-", "--n-iter", 1)
        assert done.returncode == 0, done.stderr
        assert len(soundfile.read(io.BytesIO(done.stdout))[0]) > 500


def test_standard_output_in_a_file_is_written_where_it_is(clip):
    """The file is neither renamed nor emptied, so that `>>` appends."""
    with open("all.wav", "wb") as file:
        file.write(b"before")
        file.flush()
        command = [sys.executable, "-m", "rtspecinv", "invert", "m.npz", "-o", "/dev/stdout", "--n-iter", "1"]
        subprocess.run(forked(command), stdout=file, stderr=subprocess.PIPE, check=True)
    content = Path("all.wav").read_bytes()
    assert content[:10] == b"beforeRIFF"
    assert len(heard(content[6:])) == 39 * 16
    assert sorted(os.listdir()) == ["all.wav", "clip.wav", "m.npy", "m.npz"]


def test_play_reads_wav_and_raw_samples_from_standard_input(clip):
    content = clip.read_bytes()
    expected = run("play", "clip.wav", "-o", "-", *FAST).stdout
    whole = run("play", "-", "-o", "-", *FAST, input=content)
    endless = run("play", "-", "-o", "-", *FAST, input=content.replace(content[40:44], b"\xff" * 4, 1))
    raw = run("play", "-", "--raw", "8000:2", "-o", "-", *FAST, input=content[44:])
    for done in (whole, endless, raw):
        assert done.returncode == 0, done.stderr
        assert done.stdout == expected


@pytest.mark.parametrize("name", ["m.npy", "m.npz"])
def test_invert_reads_arrays_from_standard_input(clip, name):
    options = ["-o", "-", "--n-iter", 1, *(["--sample-rate", 8000] if name == "m.npy" else [])]
    done = run("invert", "-", *options, input=Path(name).read_bytes())
    assert done.returncode == 0, done.stderr
    assert done.stdout == run("invert", name, *options).stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("play - --no-device -o a.wav", b"standard input is not a WAV stream: "),
        ("invert - -o a.wav", b"Standard input is not .npy or .npz"),
        ("invert . -o -", b"A folder becomes a folder"),
        (
            "play clip.wav --raw many -o a.wav",
            b"'many' is not RATE or RATE:CHANNELS, such as 22050 or 48000:2",
        ),
        ("play clip.wav --raw 8000: -o a.wav", b"is not RATE or RATE:CHANNELS"),
    ],
)
def test_rejected_arguments(clip, command, message):
    done = run(*command.split(), input=b"something else")
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert b"Traceback" not in done.stderr
    assert not done.stdout
    assert not Path("a.wav").exists()


def test_a_terminal_gets_no_sound(clip):
    here, there = os.openpty()
    try:
        command = [sys.executable, "-m", "rtspecinv", "invert", "m.npz", "-o", "-"]
        done = subprocess.run(forked(command), stdout=there, stderr=subprocess.PIPE)
    finally:
        os.close(here)
        os.close(there)
    assert done.returncode == 1
    assert b"Standard output is a terminal: send it to a program or a file, or give -o FILE" in done.stderr


def test_a_closed_reader_ends_the_command_without_an_error(clip):
    command = [sys.executable, "-m", "rtspecinv", "play", "-", "--raw", "8000", "-o", "-", *FAST]
    reading, writing = os.pipe()
    os.close(reading)  # without a reader
    with open(writing, "wb") as output:
        done = subprocess.run(
            forked(command), input=bytes(10**6), stdout=output, stderr=subprocess.PIPE, timeout=100
        )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"error" not in done.stderr


def test_a_full_standard_output_is_an_error_of_its_own(clip):
    """The sound file is complete nevertheless."""
    for args in (["--help"], ["invert", "m.npz", "-o", "a.wav", "--n-iter", "1"]):
        for unbuffered in ("", "1"):  # Python writes buffered text again at exit
            environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
            with open("/dev/full", "w") as full:
                command = [sys.executable, "-m", "rtspecinv", *args]
                done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment)
            assert done.returncode == 1
            assert done.stderr.endswith(b"error: Cannot write to standard output: No space left on device\n")
    assert Path("a.wav").exists()


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii", "cp1252"])
def test_a_name_that_standard_output_cannot_encode_is_escaped(clip, encoding):
    os.mkdir("in")
    names = [b"b\xe9.npz", "日本.npz".encode(), b"c.npz"]
    for name in names:
        with open(b"in/" + name, "wb") as file:
            file.write(Path("m.npz").read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = run("invert", "in", "-o", "out", "--n-iter", 1, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"3 written, 0 skipped, 0 failed\n")
    assert len(os.listdir(b"out")) == 3
    done = run(
        "invert", b"in/b\xe9.npz".decode("utf-8", "surrogateescape"), "-o", "b\udce9.wav", env=environment
    )
    assert done.returncode == 0, done.stderr
    assert b"b\\udce9.wav" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "invert  -o out",
        "invert m.npz -o ",
        "play ",
        "image ",
        "picture clip.wav -o ",
        "compare ",
        "demo -o ",
        "bench --json ",
    ],
)
def test_an_empty_name_is_refused(clip, command, capsys):
    """`rtspecinv invert "$UNSET" -o out` would invert the whole working directory."""
    with pytest.raises(SystemExit) as exit:
        main(command.split(" "))
    assert exit.value.code == 2
    assert "the file name is empty: is a shell variable not set?" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["clip.wav", "m.npy", "m.npz"]
