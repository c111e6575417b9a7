"""Tests of sinks, readers and `play`."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtspecinv.audio import ArraySink, AudioReader, FileSink, Sink, TeeSink, read_audio
from rtspecinv.live import play
from rtspecinv.live.stream import Progress

SPLITS = st.lists(st.integers(0, 400), max_size=12)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, shape).astype(np.float32)


def write_split(sink, samples: np.ndarray, lengths: list[int]) -> None:
    sink_blocks = np.split(samples, np.cumsum(lengths).clip(max=samples.shape[-1]), axis=-1)
    for block in sink_blocks:
        sink.write(block)


def interrupted(sink: Sink, samples: np.ndarray, error: type[BaseException] = KeyboardInterrupt) -> None:
    with sink:
        sink.write(samples)
        raise error


def test_import_opens_no_sound_or_file_library():
    code = (
        "import sys, rtspecinv, rtspecinv.cli\n"
        "print(sorted({'sounddevice', 'soundfile', 'matplotlib', 'safetensors', 'soxr'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# -- input of sinks --


@given(SPLITS)
def test_array_sink_ignores_how_samples_are_split(lengths):
    for samples in (noise(1000), noise(2, 1000)):
        sink = ArraySink()
        write_split(sink, samples, lengths)
        np.testing.assert_array_equal(sink.samples, samples)


def test_array_sink_copies_and_takes_torch():
    sink, block = ArraySink(), noise(10)
    sink.write(block)
    sink.write(torch.from_numpy(block).requires_grad_())
    expected = np.concatenate([block, block])
    block[:] = 0
    np.testing.assert_array_equal(sink.samples, expected)
    assert ArraySink().samples.shape == (0,)


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        (np.zeros(4, np.int16), TypeError, "int16: divide integers"),
        (np.zeros((1, 2, 4), np.float32), ValueError, r"\(1, 2, 4\)"),
        (np.zeros((0, 4), np.float32), ValueError, r"\(0, 4\)"),
        (np.zeros(4, np.float32), ValueError, r"channels=2, but samples have shape \(4,\)"),
        (np.zeros((3, 4), np.float32), ValueError, r"channels=2, but samples have shape \(3, 4\)"),
        (np.zeros((4, 2), np.float32), ValueError, "pass samples.T"),
        (np.array([[0, np.nan], [np.inf, 0]], np.float32), ValueError, "2 of 4 are NaN or infinite"),
    ],
)
def test_sinks_reject_invalid_samples(tmp_path, samples, error, message):
    with pytest.raises(error, match=message), FileSink(tmp_path / "a.wav", 8000, 2) as sink:
        sink.write(samples)
    assert list(tmp_path.iterdir()) == []
    array_sink, before = ArraySink(), noise(2, 4)
    array_sink.write(before)
    with pytest.raises(error, match=message):
        array_sink.write(samples)
    np.testing.assert_array_equal(array_sink.samples, before)


# -- files --


@settings(deadline=None, max_examples=15)
@given(lengths=SPLITS, suffix=st.sampled_from([".wav", ".flac", ".ogg"]))
def test_file_sink_ignores_how_samples_are_split(tmp_path_factory, lengths, suffix):
    folder = tmp_path_factory.mktemp("split")
    samples = noise(2, 3000)
    for name, parts in (("whole", []), ("split", lengths)):
        with FileSink(folder / f"{name}{suffix}", 22050, 2) as sink:
            write_split(sink, samples, parts)
    whole, split = (read_audio(folder / f"{name}{suffix}")[0] for name in ("whole", "split"))
    np.testing.assert_array_equal(split, whole)
    assert whole.shape == samples.shape
    if suffix != ".ogg":
        assert np.abs(whole - samples).max() <= 1 / 2**15


def test_file_sink_float_is_exact_and_keeps_any_value(tmp_path):
    samples = 3 * noise(1000)
    with FileSink(tmp_path / "a.wav", 48000, subtype="FLOAT") as sink:
        sink.write(samples)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0][0], samples)
    assert (sink.clipped, sink.n_samples) == (0, 1000)


def test_file_sink_clips_and_counts(tmp_path):
    sink = FileSink(tmp_path / "a.wav", 8000)
    sink.write(np.array([1.0, 1.5, -1.0, -7.0, 0.5], np.float32))
    with pytest.warns(
        UserWarning, match=r"2 of 5 samples \(40.00%\).*a\.wav: multiply .* by 0\.142 to"
    ) as told:
        sink.close()
    assert told[0].filename == __file__
    assert sink.clipped == 2
    expected = np.array([2**15 - 1, 2**15 - 1, -(2**15), -(2**15), 2**14]) / 2**15
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0][0], expected.astype(np.float32))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_file_is_absent_and_an_older_one_survives(tmp_path, error):
    path = tmp_path / "a.flac"
    for before in (None, b"older"):
        if before:
            path.write_bytes(before)
        with pytest.raises(error):
            interrupted(FileSink(path, 8000), noise(100), error)
        assert [p.name for p in tmp_path.iterdir()] == (["a.flac"] if before else [])
    assert path.read_bytes() == b"older"


def test_a_finished_file_has_usual_permissions_and_rejects_samples(tmp_path):
    sink = FileSink(tmp_path / "a.wav", 8000)
    sink.close()
    sink.close()
    sink.abort()
    (tmp_path / "other").touch()
    assert (tmp_path / "a.wav").stat().st_mode == (tmp_path / "other").stat().st_mode
    with pytest.raises(ValueError, match="closed"):
        sink.write(noise(1))


def test_file_sink_errors_name_the_reason(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"must end in \.wav, \.flac, \.ogg"):
        FileSink(tmp_path / "a.mp4", 8000)
    with pytest.raises(FileNotFoundError, match="create the folder"):
        FileSink(tmp_path / "no" / "a.wav", 8000)
    (tmp_path / "d.wav").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        FileSink(tmp_path / "d.wav", 8000)
    with pytest.raises(ValueError, match="WAV has no subtype 'VORBIS': use one of"):
        FileSink(tmp_path / "a.wav", 8000, subtype="VORBIS")
    with pytest.raises(ValueError, match="sample_rate=0"):
        FileSink(tmp_path / "a.wav", 0)
    monkeypatch.setattr("rtspecinv.audio.wav.LARGEST_WAV", 1000)
    with pytest.raises(ValueError, match="4 GiB"):
        interrupted(FileSink(tmp_path / "a.wav", 8000), noise(10000))
    assert [p.name for p in tmp_path.iterdir()] == ["d.wav"]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_reader_returns_the_same_samples_for_any_block_length(tmp_path, suffix, channels):
    path = tmp_path / f"a{suffix}"
    samples = 0.3 * np.sin(np.arange(30000) / 20)[:, None].repeat(channels, 1)
    soundfile.write(path, samples, 44100)
    whole, rate = read_audio(path)
    assert (whole.shape[0], rate) == (channels, 44100)
    assert whole.dtype == np.float32
    reader = AudioReader(path)
    assert (reader.channels, reader.n_samples) == whole.shape
    for n in (1000, 7777, 10**6):
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks(n)), -1), whole)
    if suffix != ".mp3":  # MP3 adds silence at the beginning
        assert np.abs(whole - samples.T).max() < 0.02


def test_reader_errors_name_the_reason(tmp_path, monkeypatch):
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "a.raw").write_bytes(b"0123")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    for name, error, message in [
        ("none.wav", FileNotFoundError, "There is no file .*none.wav"),
        (".", IsADirectoryError, "is a folder"),
        ("text.wav", ValueError, "is not audio"),
        ("a.raw", ValueError, "is not audio"),
        ("empty.wav", ValueError, "contains no samples"),
    ]:
        with pytest.raises(error, match=message):
            AudioReader(tmp_path / name)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r'pip install "rtspecinv\[files\]"'):
        read_audio(tmp_path / "text.wav")


def test_tee_writes_to_all_sinks_and_aborts_open_ones_after_an_error(tmp_path):
    memory, samples = ArraySink(), noise(100)
    with TeeSink(memory, FileSink(tmp_path / "a.wav", 8000, subtype="FLOAT")) as tee:
        tee.write(samples)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0][0], memory.samples)

    class Broken(ArraySink):
        def close(self):
            raise OSError("full")

        def abort(self):
            pass

    with pytest.raises(OSError, match="full"), TeeSink(Broken(), FileSink(tmp_path / "b.wav", 8000)) as tee:
        tee.write(samples)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


# -- the playing loop --


class Delay:
    """Fake inverter: the first `hop` values of a frame are its samples, delayed by `latency` samples."""

    def __init__(self, hop: int, latency: int, batch: tuple[int, ...] = ()) -> None:
        self.hop, self.latency, self.batch = hop, latency, batch
        self.reset()

    def reset(self) -> None:
        self.late = np.zeros((*self.batch, self.latency), np.float32)

    def push(self, frame):
        joined = np.concatenate([self.late, frame[..., : self.hop]], -1)
        self.late = joined[..., self.hop :]
        return joined[..., : self.hop]

    def flush(self, n_samples: int | None = None):
        late = self.late
        self.reset()
        return late


@pytest.mark.parametrize("batch", [(), (1,), (2,)])
@pytest.mark.parametrize("latency", [0, 3, 10, 1000])
def test_play_writes_exactly_the_samples_of_the_frames(batch, latency):
    frames = noise(20, *batch, 16)
    inverter, sink = Delay(10, latency, batch), ArraySink()
    seen: list[Progress] = []
    inverter.push(frames[0])  # play resets the inverter
    last = play(iter(frames), inverter, sink, progress=seen.append)
    np.testing.assert_array_equal(sink.samples, np.concatenate(list(frames[..., :10]), -1))
    assert seen[-1] == last
    assert [s.n_frames for s in seen] == [*range(1, 21), 20]
    assert last.n_samples == 200
    assert 0 < last.work_seconds < 1


def test_play_of_no_frames_writes_no_samples():
    sink = ArraySink()
    assert play([], Delay(10, 5), sink).n_samples == 0
    assert sink.samples.shape == (0,)
