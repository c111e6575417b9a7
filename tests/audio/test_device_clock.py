"""Tests of the sound device on a real audio clock: a JACK server, recorded by another process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jackd
import numpy as np
import pytest
import soxr
from busy_machine import gil_held

from rtspecinv.audio import DeviceError, FileSink, SoundDeviceSink, TeeSink, device_table, read_audio
from rtspecinv.live import play

RESAMPLED = 1e-6  # largest float32 difference between blocks and the whole
BACKENDS = pytest.mark.parametrize("backend", ["rtmixer", "callback"])


@pytest.fixture(autouse=True)
def _backend_is_installed(request):
    if "backend" in request.fixturenames and request.getfixturevalue("backend") == "rtmixer":
        pytest.importorskip("_rtmixer", reason='rtmixer is not installed: pip install "rtspecinv[live]"')


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, shape).astype(np.float32)


def tone(n_samples: int, hertz: float = 220.0, rate: int = jackd.SAMPLE_RATE) -> np.ndarray:
    return np.sin(2 * np.pi * hertz / rate * np.arange(n_samples) + 0.5)[np.newaxis].astype(np.float32)


def gaps(sink: SoundDeviceSink) -> int:
    """Return the number of gaps that the writer caused, without late blocks, which lose no samples here."""
    return sink.underflows - sink.late_blocks


def largest_jump(samples: np.ndarray) -> float:
    return float(np.abs(np.diff(samples)).max())


@BACKENDS
@pytest.mark.parametrize(
    ("card", "rate", "channels"),
    [("patient", 48000, 1), ("patient", 48000, 2), ("22050 Hz", 22050, 2)],
    indirect=["card"],
)
def test_a_device_plays_the_written_samples(card, tmp_path, backend, rate, channels):
    samples = noise(channels, 40000)
    recorder = jackd.Recorder(card, channels, tmp_path / "recorded.npy")
    # A long prefill, so that a busy machine does not make the writer late.
    options: dict[str, Any] = {"queue_seconds": 1.0, "prefill_seconds": 0.6, "backend": backend}
    with SoundDeviceSink(rate, channels, device=jackd.DEVICE, **options) as sink:
        recorder.connect()
        for block in np.split(samples, [5, 4000, 4001, 9000, 30000], axis=-1):
            sink.write(block)
    recorded = recorder.stop()
    begin = jackd.place_of(samples, recorded)
    np.testing.assert_array_equal(recorded[:, begin : begin + 40000], samples)
    # Only the fades besides the samples.
    assert np.count_nonzero(recorded.any(0)) <= 40000 + 2 * 0.005 * rate + 1
    assert largest_jump(recorded) == largest_jump(samples)
    assert gaps(sink) == sink.underflow_samples == 0


@BACKENDS
@pytest.mark.parametrize(
    ("card", "rate", "own_rate"), [("patient", 22050, 48000), ("22050 Hz", 44100, 22050)], indirect=["card"]
)
def test_a_refused_rate_is_replaced_by_that_of_the_device(card, tmp_path, backend, rate, own_rate):
    samples = np.concatenate([noise(1, 20000), tone(20000, 440, rate)], -1)
    recorder = jackd.Recorder(card, 1, tmp_path / "recorded.npy")
    options: dict[str, Any] = {"queue_seconds": 1.0, "prefill_seconds": 0.6, "backend": backend}
    with SoundDeviceSink(rate, device=jackd.DEVICE, **options) as sink:
        recorder.connect()
        assert sink.device_rate == own_rate
        for block in np.split(samples, [5, 4000, 4001, 9000, 30000], axis=-1):
            sink.write(block)
    recorded = recorder.stop()[0]
    expected = soxr.resample(samples[0], rate, own_rate)
    begin = np.argmax(np.correlate(recorded[: len(recorded) // 2], expected[:2000], "valid"))
    played = recorded[begin : begin + len(expected)]
    assert np.abs(played - expected).max() < RESAMPLED
    steady = slice(round(25000 / rate * own_rate), round(35000 / rate * own_rate))
    pure = np.sin(2 * np.pi * 440 * (np.arange(len(expected)) / own_rate - 20000 / rate) + 0.5)
    assert np.abs(played - pure)[steady].max() < 1e-5
    assert gaps(sink) == 0


@BACKENDS
def test_gaps_are_counted_exactly_end_and_do_not_click(card, tmp_path, backend):
    n_late, samples = 4, tone(60000)
    recorder = jackd.Recorder(card, 1, tmp_path / "recorded.npy")
    options: dict[str, Any] = {"queue_seconds": 1.0, "prefill_seconds": 0.1, "backend": backend}
    late_at = []
    with SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE, **options) as sink:
        recorder.connect()
        for i, block in enumerate(np.split(samples, n_late + 1, -1)):
            if i:
                while sink.queued:  # until the device has taken all samples and an underflow begins
                    time.sleep(0.005)
                time.sleep(0.1)
                late_at.append(i * block.shape[1])
            sink.write(block)
    recorded = np.trim_zeros(recorder.stop()[0])
    assert gaps(sink) == n_late
    fade = round(0.005 * jackd.SAMPLE_RATE)
    # Every sample is delayed by exactly the gaps before it, so no sample is lost.
    place, lengths = fade, []
    for block in np.split(samples[0], n_late + 1):
        found = place + jackd.place_of(block[np.newaxis], recorded[np.newaxis, place:])
        np.testing.assert_array_equal(recorded[found : found + len(block)], block)
        lengths.append(found - place)
        place = found + len(block)
    assert lengths[0] == 0
    assert min(lengths[1:]) > 0.1 * jackd.SAMPLE_RATE
    assert sum(lengths) == sink.underflow_samples
    begins = np.round(np.array(sink.underflow_seconds) * jackd.SAMPLE_RATE)
    assert set(fade + np.array(late_at) + np.cumsum(lengths[:-1])) <= set(begins)
    assert largest_jump(recorded) <= largest_jump(samples)


@BACKENDS
def test_clear_cuts_within_a_block_without_a_click(card, tmp_path, backend):
    samples = tone(40000)
    recorder = jackd.Recorder(card, 1, tmp_path / "recorded.npy")
    with SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE, queue_seconds=1, backend=backend) as sink:
        recorder.connect()
        sink.write(samples)
        while sink.queued > 30000:
            time.sleep(0.001)
        sink.clear()
        taken = 40000 - sink._timeline.end
        assert sink.queued == 0
        sink.write(samples)
    recorded = np.trim_zeros(recorder.stop()[0])
    assert taken > 0
    period, fade = jackd.CARDS["patient"]["period"], round(0.005 * jackd.SAMPLE_RATE)
    silent = np.nonzero(recorded == 0)[0]
    cut = silent[np.searchsorted(silent, 1000)]  # the tone itself is never exactly 0
    assert cut <= 10000 + 2 * period + 2 * fade
    begin = cut + jackd.place_of(samples, recorded[np.newaxis, cut:])
    np.testing.assert_array_equal(recorded[begin : begin + 40000], samples[0])
    assert largest_jump(recorded) <= largest_jump(samples)
    assert gaps(sink) == 0


class Loss(NamedTuple):
    """Samples that were written and not played."""

    held_up: int  # periods during which the callback of the player did not finish
    gaps: int  # number of gaps caused by the writer
    samples: int  # number of samples that are missing in the recording
    periods: int  # number of periods lost by the server for any reason, such as a late recorder


def loss_while_gil_is_held(card: str, path: Path, backend: str, seconds: float) -> Loss:
    n_samples, hop, before = round(seconds * jackd.SAMPLE_RATE), 256, jackd.late_clients(card)
    # Each value encodes its position.
    samples = (np.arange(1, n_samples + 1) / 2**24).astype(np.float32)[np.newaxis]
    recorder = jackd.Recorder(card, 1, path)
    options: dict[str, Any] = {"queue_seconds": 1.0, "prefill_seconds": 0.5, "backend": backend}
    with SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE, **options) as sink:
        recorder.connect()
        with gil_held(0.8, 0.1):
            for begin in range(0, n_samples, hop):
                sink.write(samples[:, begin : begin + hop])
            sink.drain()
    recorded = recorder.stop()[0].astype(np.float64) * 2**24
    heard = np.unique(recorded[(recorded == np.round(recorded)) & (recorded > 0)])
    late = jackd.late_clients(card) - before
    return Loss(late["PortAudio", "Running"], gaps(sink), n_samples - len(heard), late.total())


def test_a_held_gil_loses_nothing_with_rtmixer(card, tmp_path):
    pytest.importorskip("_rtmixer", reason='rtmixer is not installed: pip install "rtspecinv[live]"')
    loss = loss_while_gil_is_held(card, tmp_path / "recorded.npy", "rtmixer", 2)
    assert (loss.gaps, loss.samples) == (0, 0)


@pytest.mark.soak
@pytest.mark.parametrize("card", ["impatient"], indirect=True)
def test_a_held_gil_loses_nothing_with_rtmixer_for_half_a_minute(card, tmp_path):
    pytest.importorskip("_rtmixer", reason='rtmixer is not installed: pip install "rtspecinv[live]"')
    period = jackd.CARDS["impatient"]["period"]
    with_callback = loss_while_gil_is_held(card, tmp_path / "recorded.npy", "callback", 30)
    with_rtmixer = loss_while_gil_is_held(card, tmp_path / "recorded.npy", "rtmixer", 30)
    print(f"in 30 s: callback {with_callback}, rtmixer {with_rtmixer}, load {os.getloadavg()[0]:.1f}")
    assert with_callback.held_up > 0  # otherwise the test shows nothing
    assert (with_rtmixer.held_up, with_rtmixer.gaps) == (0, 0)
    # The missing samples are those that the server lost.
    assert with_rtmixer.samples <= period * with_rtmixer.periods


@pytest.mark.parametrize("card", ["impatient"], indirect=True)
def test_lateness_of_the_callback_is_counted(card):
    with SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE, queue_seconds=1, backend="callback") as sink:
        sink.write(noise(1, 40000))
        with gil_held(0.9, 0.3):
            time.sleep(0.3)
        sink.write(noise(1, 8000))
    assert sink.underflows > 0


@BACKENDS
def test_wrong_settings_of_a_device_are_reported_in_one_line(card, backend):
    for options in ({"channels": 99}, {"device": "no such device"}, {"device": 12345}):
        with pytest.raises(DeviceError, match="rtspecinv devices") as error:
            SoundDeviceSink(
                **{
                    "sample_rate": jackd.SAMPLE_RATE,
                    "device": jackd.DEVICE,
                    "backend": backend,
                    **options,
                }
            )
        assert "\n" not in str(error.value)
    assert "JACK" in device_table()


@BACKENDS
def test_device_is_found_by_number(card, backend):
    import sounddevice

    number = next(i for i, each in enumerate(sounddevice.query_devices()) if each["name"] == "system")
    SoundDeviceSink(jackd.SAMPLE_RATE, device=number, backend=backend).close()


class Echo:
    """Fake inverter: the values of a frame are its samples."""

    latency = 0

    def reset(self):
        pass

    def push(self, frame):
        return frame

    def flush(self, n_samples: int | None = None):
        return np.zeros(0, np.float32)


def test_play_through_a_device_to_a_file_at_once(card, tmp_path: Path):
    frames = noise(200, 128)
    recorder = jackd.Recorder(card, 1, tmp_path / "recorded.npy")
    speaker = SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE, prefill_seconds=0.5)
    file = FileSink(tmp_path / "a.wav", jackd.SAMPLE_RATE, subtype="FLOAT")
    with TeeSink(file, speaker) as sink:
        recorder.connect()
        play(frames, Echo(), sink)
    expected = frames.reshape(1, -1)
    recorded = recorder.stop()
    begin = jackd.place_of(expected, recorded)
    np.testing.assert_array_equal(recorded[:, begin : begin + expected.size], expected)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], expected)


# -- interruptions, in a separate process, which must exit without an error --


def roughly(what: str, n_rounds: int, backend: str, seed: int = 0) -> None:
    if reason := jackd.missing():
        pytest.skip(reason)
    program = [
        sys.executable,
        str(Path(__file__).parents[1] / "support" / "abuse_device.py"),
        what,
        str(n_rounds),
        backend,
        str(seed),
    ]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60 + 10 * n_rounds)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == f"{n_rounds} rounds"


STREAMS = pytest.mark.parametrize("stream", ["", "-duplex"], ids=["output", "duplex"])


@pytest.mark.card
@BACKENDS
@STREAMS
@pytest.mark.parametrize(("what", "n_rounds"), [("ctrl-c", 3), ("unplug", 1)])
def test_an_interrupted_device_ends_with_one_error(backend, stream, what, n_rounds):
    roughly(what, n_rounds, backend + stream)


@pytest.mark.soak
@pytest.mark.card
@BACKENDS
@STREAMS
@pytest.mark.parametrize("what", ["ctrl-c", "unplug"])
def test_an_interrupted_device_ends_with_one_error_200_times(backend, stream, what):
    roughly(what, 200, backend + stream, seed=1)
