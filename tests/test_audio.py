"""Sinks, readers and the playing loop."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import jackd
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtspecinv.audio import (
    ArraySink,
    AudioReader,
    DeviceError,
    FileSink,
    Sink,
    SoundDeviceSink,
    TeeSink,
    device,
    device_table,
    play,
    read_audio,
)

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


# -- what every sink accepts --


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
        (np.zeros((3, 4), np.float32), ValueError, r"channels=2, got samples of shape \(3, 4\)"),
        (np.zeros((4, 2), np.float32), ValueError, "looks transposed"),
        (np.array([[0, np.nan], [np.inf, 0]], np.float32), ValueError, "2 NaN or Inf"),
    ],
)
def test_sinks_refuse_what_is_not_samples(tmp_path, samples, error, message):
    with pytest.raises(error, match=message), FileSink(tmp_path / "a.wav", 8000, 2) as sink:
        sink.write(samples)
    assert list(tmp_path.iterdir()) == []


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
    with FileSink(tmp_path / "a.wav", 8000) as sink:
        sink.write(np.array([1.0, 1.5, -1.0, -7.0, 0.5], np.float32))
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


def test_finished_file_has_usual_permissions_and_takes_no_more(tmp_path):
    sink = FileSink(tmp_path / "a.wav", 8000)
    sink.close()
    sink.close()
    sink.abort()
    (tmp_path / "other").touch()
    assert (tmp_path / "a.wav").stat().st_mode == (tmp_path / "other").stat().st_mode
    with pytest.raises(ValueError, match="closed"):
        sink.write(noise(1))


def test_file_sink_says_what_it_cannot_write(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"must end in \.wav, \.flac, \.ogg"):
        FileSink(tmp_path / "a.mp4", 8000)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        FileSink(tmp_path / "no" / "a.wav", 8000)
    (tmp_path / "d.wav").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        FileSink(tmp_path / "d.wav", 8000)
    with pytest.raises(ValueError, match="WAV has no subtype 'VORBIS', only"):
        FileSink(tmp_path / "a.wav", 8000, subtype="VORBIS")
    with pytest.raises(ValueError, match="sample_rate=0"):
        FileSink(tmp_path / "a.wav", 0)
    monkeypatch.setattr("rtspecinv.audio.sinks._LARGEST_WAV", 1000)
    with pytest.raises(ValueError, match="4 GiB"):
        interrupted(FileSink(tmp_path / "a.wav", 8000), noise(10000))
    assert [p.name for p in tmp_path.iterdir()] == ["d.wav"]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_reader_gives_the_same_in_any_blocks(tmp_path, suffix, channels):
    path = tmp_path / f"a{suffix}"
    samples = 0.3 * np.sin(np.arange(30000) / 20)[:, None].repeat(channels, 1)
    soundfile.write(path, samples, 44100)
    whole, rate = read_audio(path)
    assert (whole.shape[0], rate, whole.dtype) == (channels, 44100, np.float32)
    reader = AudioReader(path)
    assert (reader.channels, reader.n_samples) == whole.shape
    for n in (1000, 7777, 10**6):
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks(n)), -1), whole)
    if suffix != ".mp3":  # which adds silence at the beginning
        assert np.abs(whole - samples.T).max() < 0.02


def test_reader_says_what_it_cannot_read(tmp_path, monkeypatch):
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "a.raw").write_bytes(b"0123")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    for name, error, message in [
        ("none.wav", FileNotFoundError, "There is no file .*none.wav"),
        (".", IsADirectoryError, "is a folder"),
        ("text.wav", ValueError, "is not audio"),
        ("a.raw", ValueError, "is not audio"),
        ("empty.wav", ValueError, "holds no samples"),
    ]:
        with pytest.raises(error, match=message):
            AudioReader(tmp_path / name)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r'pip install "rtspecinv\[files\]"'):
        read_audio(tmp_path / "text.wav")


def test_tee_writes_to_all_and_aborts_what_is_open_when_one_fails(tmp_path):
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
    """Stands in for an inverter: a frame's first `hop` values are its sound, `latency` samples late."""

    def __init__(self, hop: int, latency: int, batch: tuple[int, ...] = ()) -> None:
        self.hop, self.latency, self.batch = hop, latency, batch
        self.reset()

    def reset(self) -> None:
        self.late = np.zeros((*self.batch, self.latency), np.float32)

    def push(self, frame):
        joined = np.concatenate([self.late, frame[..., : self.hop]], -1)
        self.late = joined[..., self.hop :]
        return joined[..., : self.hop]

    def flush(self):
        late = self.late
        self.reset()
        return late


@pytest.mark.parametrize("batch", [(), (1,), (2,)])
@pytest.mark.parametrize("latency", [0, 3, 10, 1000])
def test_play_gives_exactly_what_was_pushed(batch, latency):
    frames = noise(20, *batch, 16)
    inverter, sink, seen = Delay(10, latency, batch), ArraySink(), []
    inverter.push(frames[0])  # play starts afresh
    last = play(iter(frames), inverter, sink, progress=seen.append)
    np.testing.assert_array_equal(sink.samples, np.concatenate(list(frames[..., :10]), -1))
    assert seen[-1] == last
    assert [s.n_frames for s in seen] == [*range(1, 21), 20]
    assert last.n_samples == 200
    assert 0 < last.work_seconds < 1


def test_play_of_nothing_is_nothing():
    sink = ArraySink()
    assert play([], Delay(10, 5), sink).n_samples == 0
    assert sink.samples.shape == (0,)


# -- the sound device: bookkeeping, with a stream that the test calls by hand --


class HandStream:
    latency = 0.01

    def __init__(self, callback, channels, **options):
        self.callback, self.channels, self.active, self.options = callback, channels, False, options

    def start(self):
        self.active = True

    def stop(self):
        self.active = False

    def close(self, ignore_errors=True):
        self.active = False

    def ask(self, n: int, late: bool = False) -> np.ndarray:
        out = np.full((n, self.channels), np.nan, np.float32)
        self.callback(out, n, None, types.SimpleNamespace(output_underflow=late))
        return out.T


FAKE_SOUNDDEVICE = types.SimpleNamespace(
    OutputStream=HandStream, PortAudioError=OSError, CallbackAbort=StopIteration
)


@pytest.fixture
def by_hand(monkeypatch):
    monkeypatch.setattr(device, "sounddevice", lambda: FAKE_SOUNDDEVICE)


@settings(deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=30))
def test_what_is_asked_is_what_was_written_with_every_gap_counted(steps):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(device, "sounddevice", lambda: FAKE_SOUNDDEVICE)
        sink = SoundDeviceSink(100, 2, queue_seconds=0.97, prefill_seconds=0)
        written, heard = noise(2, 0), []
        for n_write, n_ask in steps:
            n_write = min(n_write, 97 - sink.queued)
            block = noise(2, n_write, seed=len(heard)) + 2  # never zero
            sink.write(block)
            written = np.concatenate([written, block], -1)
            if sink._stream.active:
                heard.append(sink._stream.ask(n_ask))
        heard = np.concatenate([*heard, noise(2, 0)], -1)
        sounding = heard[0] != 0
        np.testing.assert_array_equal(heard[:, sounding], written[:, : sounding.sum()])
        assert sink.queued == written.shape[1] - sounding.sum()
        inner = np.trim_zeros(heard[0]) == 0
        assert sink.underflow_samples == inner.sum()
        assert sink.underflows == np.count_nonzero(np.diff(inner.astype(int)) == 1)


def test_device_starts_when_prefilled_and_drain_starts_a_short_one(by_hand):
    sink = SoundDeviceSink(100, queue_seconds=0.5, prefill_seconds=0.2)
    sink.write(noise(19))
    assert not sink._stream.active
    assert sink.latency_seconds == pytest.approx(0.19 + 0.01)
    sink.write(noise(1))
    assert sink._stream.active
    player = threading.Timer(0.1, sink._stream.ask, [20])
    player.start()
    sink.drain()
    player.join()
    assert (sink.queued, sink._stream.active, sink.underflows) == (0, False, 0)


def test_pause_after_drain_is_no_underflow_but_lateness_within_the_sound_is(by_hand):
    sink = SoundDeviceSink(100, queue_seconds=0.5, prefill_seconds=0)
    sink.write(noise(10))
    sink._stream.ask(20, late=True)  # before the first sound: not heard
    sink.drain()
    sink.write(noise(10))
    sink._stream.ask(10)
    assert (sink.underflows, sink.underflow_samples) == (0, 0)
    sink.write(noise(10))
    sink._stream.ask(10, late=True)
    assert (sink.underflows, sink.underflow_samples) == (1, 0)


def test_full_queue_makes_the_writer_wait_and_abort_lets_it_go(by_hand):
    sink = SoundDeviceSink(100, queue_seconds=0.1, prefill_seconds=0.1)
    errors = []

    def write():
        try:
            sink.write(noise(50))
        except ValueError as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.1)
    assert writer.is_alive()
    assert sink.queued == 10
    sink.abort()
    writer.join(1)
    assert not writer.is_alive()
    assert "closed" in str(errors[0])


def test_error_in_the_callback_surfaces_at_the_next_write(by_hand, monkeypatch):
    sink = SoundDeviceSink(100, prefill_seconds=0)
    sink.write(noise(5))
    monkeypatch.setattr(sink, "_ring_parts", lambda *_: 1 / 0)
    with pytest.raises(StopIteration):
        sink._stream.ask(5)
    with pytest.raises(DeviceError, match="ZeroDivisionError"):
        sink.write(noise(5))


def test_stopped_and_stalled_devices_are_noticed(by_hand, monkeypatch):
    monkeypatch.setattr(device, "_STALL_SECONDS", 0.1)
    sink = SoundDeviceSink(100, queue_seconds=0.1, prefill_seconds=0)
    with pytest.raises(DeviceError, match="taken no samples"):
        sink.write(noise(50))
    sink._stream.active = False
    with pytest.raises(DeviceError, match="stopped"):
        sink.drain()
    sink.abort()


def test_options_reach_the_device(by_hand):
    sink = SoundDeviceSink(100, 2, device="x", latency=0.2, block_length=64)
    options = {"samplerate": 100, "device": "x", "latency": 0.2, "blocksize": 64, "dtype": "float32"}
    assert sink._stream.options == options
    assert sink._stream.channels == 2
    for wrong in (
        {"prefill_seconds": 1.0},
        {"queue_seconds": 0, "prefill_seconds": 0},
        {"prefill_seconds": -1},
    ):
        with pytest.raises(ValueError, match="prefill_seconds"):
            SoundDeviceSink(100, **wrong)
    with pytest.raises(ValueError, match="channels=0"):
        SoundDeviceSink(100, 0)


def test_no_portaudio_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(DeviceError, match="pip install sounddevice"):
        SoundDeviceSink(8000)
    monkeypatch.delitem(sys.modules, "sounddevice")
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match=r"apt-get install libportaudio2.*FileSink.*-o FILE"):
        SoundDeviceSink(8000)
    with pytest.raises(DeviceError, match="apt-get install libportaudio2"):
        device_table()


# -- the sound device: on a JACK server, recorded by another process --


@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_played_is_what_was_written(card, tmp_path, channels):
    samples = noise(channels, 40000) + 1.5
    recorder = jackd.Recorder(card, channels, tmp_path / "recorded.npy")
    # A long prefill, so that a busy machine does not make the writer late.
    options = {"queue_seconds": 0.6, "prefill_seconds": 0.6}
    with SoundDeviceSink(jackd.SAMPLE_RATE, channels, device=jackd.DEVICE, **options) as sink:
        recorder.connect()
        for block in np.split(samples, [5, 4000, 4001, 9000, 30000], axis=-1):
            sink.write(block)
    recorded = recorder.stop()
    np.testing.assert_array_equal(jackd.sound_in(recorded, 40000), samples)
    assert np.count_nonzero(recorded) == samples.size
    assert sink.underflow_samples == 0


def test_silence_because_the_writer_is_late_is_counted_to_the_sample(card, tmp_path):
    samples = noise(1, 20000) + 1.5
    recorder = jackd.Recorder(card, 1, tmp_path / "recorded.npy")
    with SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE, queue_seconds=0.3) as sink:
        recorder.connect()
        sink.write(samples[:, :12000])
        time.sleep(0.5)
        sink.write(samples[:, 12000:])
    recorded = np.trim_zeros(recorder.stop()[0])
    np.testing.assert_array_equal(recorded[recorded != 0], samples[0])
    assert sink.underflows >= 1
    assert sink.underflow_samples == len(recorded) - samples.size > 0


@pytest.mark.parametrize("card", ["impatient"], indirect=True)
def test_lateness_of_the_callback_is_counted(card):
    with SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE, queue_seconds=1) as sink:
        sink.write(noise(1, 40000))
        begin = time.monotonic()
        while time.monotonic() - begin < 0.3:
            sum(range(3 * 10**6))  # one call that keeps the GIL
        sink.write(noise(1, 8000))
    assert sink.underflows > 0


def test_device_refuses_wrong_settings_in_one_line(card):
    for options in (
        {"sample_rate": 22050},
        {"channels": 99},
        {"device": "no such device"},
        {"device": 12345},
    ):
        with pytest.raises(DeviceError, match="rtspecinv devices") as error:
            SoundDeviceSink(**{"sample_rate": jackd.SAMPLE_RATE, "device": jackd.DEVICE, **options})
        assert "\n" not in str(error.value)
    assert "JACK" in device_table()


def test_ctrl_c_closes_the_device(card):
    before = threading.active_count()
    sink = SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE)
    with pytest.raises(KeyboardInterrupt):
        interrupted(sink, noise(1, 60000))
    assert sink._stream.closed
    assert threading.active_count() == before
    with SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE) as sink:  # the device is free again
        sink.write(noise(1, 5000))


def test_play_through_a_device_to_a_file_at_once(card, tmp_path: Path):
    frames = noise(200, 256) + 1.5
    recorder = jackd.Recorder(card, 1, tmp_path / "recorded.npy")
    speaker = SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE, prefill_seconds=0.5)
    file = FileSink(tmp_path / "a.wav", jackd.SAMPLE_RATE, subtype="FLOAT")
    with TeeSink(file, speaker) as sink:
        recorder.connect()
        play(frames, Delay(128, 300), sink)
    expected = frames[:, :128].reshape(-1)
    np.testing.assert_array_equal(jackd.sound_in(recorder.stop(), 200 * 128)[0], expected)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0][0], expected)
