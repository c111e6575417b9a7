"""Tests of `rtspecinv live`, of playback at another rate, and of the display on a terminal."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jackd
import numpy as np
import pytest
import soundfile
import torch
from fake_clock import workers
from hypothesis import given, settings
from hypothesis import strategies as st

import rtspecinv
from rtspecinv.audio import DeviceError, SoundDeviceSink, portaudio, read_audio
from rtspecinv.cli import _live as performing
from rtspecinv.cli import _view as views
from rtspecinv.cli import main
from rtspecinv.cli._view import Meter, View, spectrum_rows
from rtspecinv.live import PlayerStats
from rtspecinv.live.pace import slowed
from rtspecinv.live.transforms import Stretch

SINGER = "singer, JACK"  # PortAudio's name for the microphone
TONE = 440.0
CENTS = 15.0  # largest error of a held or shifted tone
LIVE = ["live", "-d", jackd.DEVICE, "-i", SINGER, "--queue", "0.1", "--n-iter", "2"]
STATS = PlayerStats(
    n_frames=100,
    n_samples=25600,
    n_waiting=0,
    n_dropped=0,
    n_held=0,
    n_late=3,
    n_iter=8,
    underflows=2,
    real_time_factor_p50=0.0214,
    real_time_factor_p99=0.05,
    queue_ms=12.0,
    latency_ms=41.2,
)


@pytest.fixture(autouse=True)
def no_orphan_thread() -> Iterator[None]:
    yield
    assert not workers()


def lines(capsys) -> tuple[list[str], list[str]]:
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


def status_of(args: list[str]) -> object:
    try:
        return main(args)
    except SystemExit as terminated:
        return terminated.code


@contextmanager
def singing(server: str, glide: float = 0.0) -> Iterator[None]:
    """Return a context with a device that records TONE, rising by `glide` octaves per second."""
    phase, n_given = 0.0, 0

    def sing(n_samples: int) -> np.ndarray:
        nonlocal phase, n_given
        seconds = (n_given + np.arange(n_samples)) / jackd.SAMPLE_RATE
        phases = phase + np.cumsum(2 * np.pi * TONE * 2 ** (glide * seconds) / jackd.SAMPLE_RATE)
        phase, n_given = phases[-1] % (2 * np.pi), n_given + n_samples
        return 0.3 * np.sin(phases)

    with jackd.device(server, "singer", sing, lambda heard: None):
        yield


def pitches(path: Path) -> np.ndarray:
    """Return the strongest frequency in Hz at ten moments in the second half of a sound."""
    (samples,), rate = read_audio(path)
    found = []
    for begin in np.linspace(len(samples) // 2, len(samples) - 8192, 10).astype(int):
        spectrum = np.abs(np.fft.rfft(samples[begin : begin + 8192] * np.hanning(8192), 2**17))
        found.append(np.argmax(spectrum) * rate / 2**17)
    return np.array(found)


def cents(frequencies: np.ndarray, expected: float) -> float:
    return float(np.abs(1200 * np.log2(frequencies / expected)).max())


# -- live --


@pytest.mark.parametrize(
    ("options", "streams"),
    [
        (["-d", jackd.DEVICE], "two, for microphone and for speakers"),
        (["-d", SINGER], "one for microphone and speakers"),
        (["-d", SINGER, "--two-streams"], "two, for microphone and for speakers"),
    ],
)
def test_live_plays_the_recorded_tone_and_states_its_latency(card, tmp_path, capsys, options, streams):
    with singing(card):
        args = [*options, "--look-ahead", "1", "--seconds", "1.5", "-o", str(tmp_path / "a.wav")]
        assert main([*LIVE, *args]) == 0
    out, _ = lines(capsys)
    assert out[1] == f"streams       {streams}"
    stated = [float(number) for number in re.findall(r"\d+\.\d", out[0])]
    assert out[0].startswith("latency ")
    assert stated[0] == pytest.approx(sum(stated[1:]), abs=0.3)
    analysis, inverter = 1000 * 512 / jackd.SAMPLE_RATE, 1000 * (256 + 512) / jackd.SAMPLE_RATE
    assert stated[1:4] == pytest.approx([analysis, inverter, 100], abs=0.051)
    assert any(line.startswith("headphones ") for line in out)
    assert out[-1] == f"written       {tmp_path / 'a.wav'}"
    assert cents(pitches(tmp_path / "a.wav"), TONE) < CENTS
    assert soundfile.info(tmp_path / "a.wav").duration > 1.4


def test_a_device_that_cannot_do_both_at_once_gets_two_streams(card, tmp_path, capsys, monkeypatch):
    def one_way(*arguments, **options):
        if options["input_channels"]:
            raise DeviceError("half-duplex")
        return SoundDeviceSink(*arguments, **options)

    monkeypatch.setattr(performing, "SoundDeviceSink", one_way)
    with singing(card):
        args = ["-d", SINGER, "--seconds", "0.5", "-o", str(tmp_path / "a.wav")]
        assert main([*LIVE, *args]) == 0
    assert lines(capsys)[0][1].startswith("streams       two, for")
    assert cents(pitches(tmp_path / "a.wav"), TONE) < CENTS


def test_live_shifts(card, tmp_path):
    with singing(card):
        args = ["--pitch", "-5", "--stretch", "0.5", "--seconds", "1.5", "-o", str(tmp_path / "a.wav")]
        assert main([*LIVE, *args]) == 0
    assert cents(pitches(tmp_path / "a.wav"), TONE * 2 ** (-5 / 12)) < CENTS


def test_live_holds(card, tmp_path):
    with singing(card, glide=1.0):
        path = tmp_path / "held.wav"
        assert main([*LIVE, "--freeze", "0.3", "--seconds", "1.5", "-o", str(path)]) == 0
        assert main([*LIVE, "--seconds", "1.5", "-o", str(tmp_path / "free.wav")]) == 0
    held, free = pitches(path), pitches(tmp_path / "free.wav")
    assert cents(held, float(np.median(held))) < CENTS
    assert cents(free, float(np.median(free))) > 20 * CENTS


@pytest.mark.parametrize("device", [jackd.DEVICE, SINGER], ids=["two streams", "one stream"])
@pytest.mark.parametrize(
    ("error", "status", "says"),
    [(KeyboardInterrupt, 0, ""), (DeviceError("unplugged"), 1, "unplugged"), (SystemExit(143), 143, "")],
)
def test_live_writes_the_played_sound_for_every_kind_of_end(
    card, tmp_path, capsys, monkeypatch, error, status, says, device
):
    def end(self, frame, stats):
        if stats.n_frames > 60:
            raise error

    monkeypatch.setattr(View, "show", end)
    with singing(card):
        assert status_of([*LIVE, "-d", device, "-o", str(tmp_path / "a.wav")]) == status
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert soundfile.info(tmp_path / "a.wav").frames > 30 * 256
    out, err = lines(capsys)
    assert out[-1] == f"written       {tmp_path / 'a.wav'}"
    errors = [line for line in err if line.startswith("rtspecinv:")]
    assert errors == ([f"rtspecinv: error: {says}"] if says else [])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--stretch", "2"], "--stretch 2 is not from 0.001 to 1"),
        (["--stretch", "nan"], "--stretch nan"),
        (["--queue", "-1"], "--queue -1 is not from 0 to 2 seconds"),
        (["--seconds", "0"], "--seconds 0 is too short"),
        (["-i", "no such device"], "Cannot record from device 'no such device'"),
        (["--n-fft", "7"], "hop_length=256 is larger than n_fft=7"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, args, message):
    if reason := jackd.missing():
        pytest.skip(reason)
    assert main(["live", "-o", str(tmp_path / "a.wav"), *args]) == 1
    out, err = lines(capsys)
    said = [line for line in err if line.startswith("rtspecinv:")]
    assert (out, len(said)) == ([], 1)
    assert message in said[0]
    assert not list(tmp_path.iterdir())


def test_without_portaudio_live_names_the_package(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["live"]) == 1
    assert re.match("rtspecinv: error: Playing needs sounddevice: pip install", capsys.readouterr().err)


@settings(deadline=None)
@given(st.floats(0.01, 1.0), st.integers(1, 60))
def test_slowed_frames_are_stretched_ones_one_for_each(rate, n):
    frames = list(torch.arange(float(n)).unsqueeze(-1))
    expected = Stretch(frames, rate)
    for got in slowed(iter(frames), rate, most=n):
        torch.testing.assert_close(got, next(expected))


def test_a_stretched_stream_that_is_too_late_skips_to_the_newest_frame():
    heard = torch.cat(list(slowed(torch.arange(1000.0).unsqueeze(-1), 0.5, most=20)))
    behind = torch.arange(1000.0) - heard
    assert behind.max() <= 21
    assert behind[-100:].min() <= 2
    assert (heard.diff() >= 0).all()


# -- at another rate --


@pytest.mark.parametrize("rate", [0.5, 1.3])
def test_play_at_another_rate_inverts_stretched_frames(tmp_path, rate):
    random = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", random.uniform(-0.3, 0.3, 20000), 22050, subtype="FLOAT")
    args = [str(tmp_path / "a.wav"), "--no-device", "--n-iter", "2", "--rate", str(rate)]
    assert main(["play", *args, "-o", str(tmp_path / "b.wav")]) == 0
    stft = rtspecinv.STFT(1024, 256)
    magnitude = stft.magnitude(torch.from_numpy(read_audio(tmp_path / "a.wav")[0][0]))
    frames = list(Stretch(magnitude.unbind(-1), rate))
    assert len(frames) == math.ceil(magnitude.shape[-1] / rate)
    inverter = rtspecinv.StreamingInverter(stft, n_iter=2)
    length = round(read_audio(tmp_path / "a.wav")[0].shape[-1] / rate)
    pushed = torch.cat([*map(inverter.push, frames)])
    owed = inverter.flush(max(0, length + inverter.latency - len(pushed)))
    expected = torch.cat([pushed, owed])[inverter.latency :][:length]
    written = read_audio(tmp_path / "b.wav")[0][0]
    np.testing.assert_allclose(written, expected.clamp(-1, 1), atol=1e-4)


# -- display --


def shown(capsys, monkeypatch, n: int = 1, terminal: bool = True, **options) -> str:
    """Return the text on stderr of a view that is updated `n` times."""
    monkeypatch.setattr(views, "on_terminal", lambda: terminal)
    monkeypatch.setattr("rtspecinv.cli._report.on_terminal", lambda: terminal)
    monkeypatch.setattr("rtspecinv.cli._report._LINE_SECONDS", 0)
    monkeypatch.setattr("rtspecinv.cli._report._UPDATE_SECONDS", 0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    stft = rtspecinv.STFT(1024, 256)
    sine = torch.sin(2 * math.pi * 1000 * torch.arange(8192) / 22050)
    with View(stft, 22050, **options) as view:
        for _ in range(n):
            view.meter.write(0.5 * sine)
            view.show(0.5 * stft.magnitude(sine)[None, :, 16], STATS)
    return capsys.readouterr().err


def test_a_terminal_shows_level_spectrum_and_figures(capsys, monkeypatch):
    text = shown(capsys, monkeypatch, total_seconds=65.0, before_seconds=lambda: 0.0128)
    rows = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", row).strip("\r") for row in text.splitlines()]
    (head,) = {row for row in rows if row.startswith("0:01.2 / 1:05.0")}
    assert head.endswith("level  -6 dB")
    begin = rows.index(head)
    meter, *spectrum = rows[begin + 1 : begin + 6]
    assert meter.count("█") / len(meter) == pytest.approx(1 - 6 / 60, abs=0.02)
    # 1 kHz lies at ln(1000 / 50) / ln(11025 / 50) of the width, 6 dB of 80 under the top
    heights = [sum(" ▁▂▃▄▅▆▇█".index(row.ljust(59)[x]) for row in spectrum) for x in range(59)]
    assert np.argmax(heights) / 59 == pytest.approx(math.log(20) / math.log(220.5), abs=0.03)
    assert max(heights) / 32 == pytest.approx(1 - 6 / 80, abs=1 / 32)
    assert rows[begin + 6] == "latency 54 ms   real-time factor 0.021"
    assert rows[begin + 7].startswith("iterations 8   late 3   underflows 2")


def test_without_a_terminal_lines_are_printed(capsys, monkeypatch):
    text = shown(capsys, monkeypatch, n=2, terminal=False)
    first, second = text.splitlines()
    assert first == second
    figures = "latency 41 ms   real-time factor 0.021   iterations 8   late 3   underflows 2"
    assert first == f"0:01.2   level  -6 dB   {figures}"


def test_without_rich_one_line_and_a_hint_are_shown(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.live", None)
    hint, line = shown(capsys, monkeypatch).split("\n")
    assert hint == 'rtspecinv: the meters need rich: pip install "rtspecinv[live]"'
    assert line.startswith("\r\033[K0:01.2   level")


def test_it_is_due_ten_times_a_second(monkeypatch):
    now, n_shown = 100.0, 0
    monkeypatch.setattr("rtspecinv.cli._view.time.monotonic", lambda: now)
    view = View(rtspecinv.STFT(1024, 256), 22050)
    for _ in range(3000):
        if view.due:
            view.show(torch.zeros(1, 513), STATS)
            n_shown += 1
        now += 0.001
    assert n_shown == pytest.approx(30, abs=1)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_spectrum_columns_are_as_high_as_they_should_be(heights):
    rows = spectrum_rows(np.array(heights))
    for x, height in enumerate(heights):
        column = [" ▁▂▃▄▅▆▇█".index(row[x]) for row in rows]
        assert sum(column) == pytest.approx(32 * height, abs=0.51)
        assert column == sorted(column)


def test_the_meter_takes_the_peak_once():
    meter = Meter()
    meter.write(np.array([[0.1, -0.7], [0.2, 0.3]]))
    meter.write(torch.zeros(0))
    assert [meter.take(), meter.take()] == [0.7, 0.0]


def test_an_impossible_latency_is_ignored():
    class Stream:
        latency: float | tuple[float, float] = 2**32 / 48000

    for is_output, seconds in ((False, 0.25), (True, 0.5)):
        Stream.latency = 2**32 / 48000
        assert portaudio.stream_seconds(Stream(), is_output) == 0
        Stream.latency = seconds
        assert portaudio.stream_seconds(Stream(), is_output) == seconds
        Stream.latency = (0.25, 0.5)  # of a duplex stream
        assert portaudio.stream_seconds(Stream(), is_output) == seconds
