"""Tests of WAV files without libraries, and of the limits of sound formats."""

from __future__ import annotations

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from forked import forked
from hypothesis import given, settings
from hypothesis import strategies as st

from rtspecinv import AudioStream, FileSink, read_audio

STEP = {"PCM_U8": 2**-7, "PCM_16": 2**-15, "PCM_24": 2**-23, "PCM_32": 2**-23, "FLOAT": 0, "DOUBLE": 0}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("subtype", STEP)
@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_what_libsndfile_writes_is_read_as_libsndfile_reads_it(tmp_path, subtype, container, channels):
    soundfile.write(tmp_path / "a.wav", noise(501, channels), 44100, subtype, format=container)
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "soundfile", None)
        samples, rate = read_audio(tmp_path / "a.wav")
    assert rate == 44100
    np.testing.assert_array_equal(samples, expected.T)


@pytest.mark.parametrize("subtype", STEP)
@pytest.mark.parametrize("n_samples", [1, 500, 501])
def test_libsndfile_reads_what_is_written_to_a_step(tmp_path, subtype, n_samples):
    samples = noise(3, n_samples)
    with FileSink(tmp_path / "a.wav", 22050, 3, subtype=subtype) as sink:
        sink.write(samples)
    read, rate = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)
    assert (rate, soundfile.info(tmp_path / "a.wav").subtype) == (22050, subtype)
    assert (tmp_path / "a.wav").stat().st_size % 2 == 0
    np.testing.assert_allclose(read.T, samples, atol=STEP[subtype], rtol=0)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24"])
def test_integers_are_unchanged_after_reading_and_writing(tmp_path, subtype):
    with FileSink(tmp_path / "a.wav", 8000, subtype=subtype) as sink:
        sink.write(noise(70000))
    with FileSink(tmp_path / "b.wav", 8000, subtype=subtype) as sink:
        sink.write(read_audio(tmp_path / "a.wav")[0])
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=5), cut=st.integers(0, 3))
def test_a_stream_of_unknown_length_is_read_in_any_pieces(sizes, cut):
    """A pipe returns the bytes that it has at the moment; the last sample may be incomplete."""

    class Pipe(io.BytesIO):
        turn = 0

        def read(self, size=-1):
            self.turn += 1
            return super().read(min(size, sizes[self.turn % len(sizes)]))

    file, samples = io.BytesIO(), noise(2, 900)
    with FileSink(file, 8000, 2) as sink:
        sink.write(samples)
    content = file.getvalue()
    assert content[4:8] == b"\xff\xff\xff\xff"
    stream = AudioStream(Pipe(content[: len(content) - cut]))
    assert (stream.sample_rate, stream.channels, stream.n_samples) == (8000, 2, None)
    read = np.concatenate(list(stream.blocks(100)), -1)
    assert read.shape == (2, 900 if not cut else 899)
    np.testing.assert_allclose(read, samples[:, : read.shape[1]], atol=2**-15)


def test_a_stream_without_a_header_is_integers_of_16_bits():
    values = np.arange(-6, 6, dtype="<i2")
    stream = AudioStream(io.BytesIO(values.tobytes()), raw=(16000, 2))
    np.testing.assert_array_equal(next(iter(stream)), values.reshape(-1, 2).T / np.float32(32768))


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ((1, 2, 8000, 32000, 4, 12), None),  # 12 bits in two bytes, as in the standard
        ((1, 0, 8000, 0, 0, 16), "0 channels"),
        ((1, 60000, 8000, 8000, 2, 16), "60000 channels"),
        ((1, 1, 0, 0, 2, 16), "0 Hz"),
        ((2, 1, 8000, 8000, 256, 4), "format 2, 4 bits"),
        ((3, 1, 8000, 8000, 2, 16), "format 3, 16 bits"),
    ],
)
def test_other_headers_are_rejected(format, message):
    content = b"RIFF\xff\xff\xff\xffWAVEjunk\x03\0\0\0abc\0fmt \x10\0\0\0" + struct.pack("<HHIIHH", *format)
    content += b"data\xff\xff\xff\xff" + bytes(8)
    if message is None:
        assert next(iter(AudioStream(io.BytesIO(content)))).shape == (2, 2)
        return
    with pytest.raises(ValueError, match=f"not a WAV stream: its samples .*{message}"):
        AudioStream(io.BytesIO(content))
    with pytest.raises(ValueError, match="ends before its samples begin"):
        AudioStream(io.BytesIO(content[:30]))


def test_a_truncated_file_has_the_number_of_samples_present(tmp_path):
    with FileSink(tmp_path / "a.wav", 8000) as sink:
        sink.write(noise(1000))
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[:-801])
    assert read_audio(tmp_path / "a.wav")[0].shape == (1, 599)


REFUSED = [
    ("a.ogg", 200001, 1, "VORBIS supports 1 to 200000 Hz; use .wav"),
    ("a.ogg", 384000, 1, r"\.wav \(PCM_16\) or \.flac"),
    ("a.ogg", 44100, 256, r"at most 255 channels; use \.wav"),
    ("a.flac", 65537, 1, "above 65535 only multiples of 10"),
    ("a.flac", 192001, 2, r"\.wav \(PCM_16\) or \.ogg"),
    ("a.flac", 655360, 1, "1 to 655350 Hz"),
    ("a.flac", 44100, 9, "at most 8 channels"),
    ("a.wav", 2**31, 1, "no format supports this"),
    ("a.wav", 8000, 1025, "at most 1024 channels"),
    *[("a.wav", rate, 1, "sample_rate is not an integer >= 1") for rate in (0, -1, 8000.0, True, None)],
    ("a.flac", 8000, 0, "channels is not an integer >= 1"),
]


@pytest.mark.parametrize(("name", "rate", "channels", "message"), REFUSED)
def test_unsupported_formats_are_rejected_before_the_first_sample(tmp_path, name, rate, channels, message):
    with pytest.raises(ValueError, match=message) as refusal:
        FileSink(tmp_path / name, rate, channels)
    assert f"sample_rate={rate!r}" in str(refusal.value)
    assert not list(tmp_path.iterdir())
    offered = str(refusal.value).split("; ")[-1]
    for suffix in (".wav", ".flac", ".ogg"):  # the named formats can contain the sound
        if suffix in offered and "can hold it" in offered:
            subtype = "VORBIS" if suffix == ".ogg" else "PCM_16"
            with FileSink(tmp_path / f"b{suffix}", rate, channels, subtype=subtype) as sink:
                sink.write(np.zeros((channels, 10000), np.float32))
            assert soundfile.info(tmp_path / f"b{suffix}").samplerate == rate


HELD = """
import numpy as np, rtspecinv, soundfile, sys
for suffix, rates, channels in (
    (".ogg", (1, 7999, 199999, 200000), (1, 255)),
    (".flac", (1, 65535, 65540, 655350), (1, 8)),
    (".wav", (1, 200001, 2**31 - 1), (1, 1024)),
):
    for rate in rates:
        for n in channels:
            with rtspecinv.FileSink("a" + suffix, rate, n) as sink:
                sink.write(np.zeros((n, 3000), np.float32))
            info = soundfile.info("a" + suffix)
            assert (info.samplerate, info.channels, info.frames) == (rate, n, 3000), (suffix, rate, n)
"""


def test_formats_support_what_the_table_states(tmp_path):
    """It runs in a separate process, because libsndfile may end it if the table is wrong."""
    command = forked([sys.executable, "-c", HELD])
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_opus_has_few_rates(tmp_path):
    with pytest.raises(ValueError, match="8000, 12000, 16000, 24000, 48000 Hz"):
        FileSink(tmp_path / "a.ogg", 44100, subtype="OPUS")
    with FileSink(tmp_path / "a.ogg", 48000, subtype="OPUS") as sink:
        sink.write(noise(5000))


def test_a_too_large_known_length_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"4 GiB\); .*\.ogg"):
        FileSink(tmp_path / "a.wav", 48000, 2, length=2**30)
    FileSink(tmp_path / "a.wav", 48000, 2, length=2**29).abort()
    assert not list(tmp_path.iterdir())
