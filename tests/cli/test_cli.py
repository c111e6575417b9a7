"""Tests of the command line with real files, and of its error messages."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jackd
import numpy as np
import pytest
import soundfile
import torch
from fake_clock import workers
from forked import forked

import rtspecinv
from rtspecinv.audio import SoundDeviceSink, read_audio
from rtspecinv.audio.device import Device
from rtspecinv.cli import main
from rtspecinv.cli._report import Report
from rtspecinv.live import Progress
from rtspecinv.measure.clip import SAMPLE_RATE, pluck, render
from rtspecinv.measure.plots import before_and_after
from rtspecinv.measure.score import Score

FAST = ["--n-iter", "2"]


def tone(n_samples: int, channels: int = 1) -> np.ndarray:
    """Return chords with vibrato, a different one in each channel, `(channels, n_samples)` at 22050 Hz."""
    seconds = np.arange(n_samples) / 22050
    pitch = np.array([[1.0, 1.5, 2.5], [1.2, 1.9, 3.1]])[:channels, :, None] * 220
    phase = 2 * np.pi * pitch * (seconds + 0.002 * np.sin(8 * seconds))
    return (np.sin(phase).sum(1) / 5).astype(np.float32)


@pytest.fixture
def clip(tmp_path) -> Path:
    soundfile.write(tmp_path / "clip.wav", tone(30000).T, 22050)
    return tmp_path / "clip.wav"


def run(*args: object, **options) -> subprocess.CompletedProcess[str]:
    command = forked([sys.executable, "-m", "rtspecinv", *map(str, args)])
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def lines(capsys) -> tuple[list[str], list[str]]:
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


def inverted(
    magnitude: torch.Tensor, stft: rtspecinv.STFT, length: int | None = None, **options
) -> torch.Tensor:
    """Return the samples of magnitudes `(channels, n_freq, n_frames)` by a loop over the public interface."""
    inverter = rtspecinv.StreamingInverter(stft, batch_shape=magnitude.shape[:-2], **options)
    pushed = [inverter.push(frame) for frame in magnitude.unbind(-1)]
    owed = None if length is None else length + inverter.latency - len(pushed) * stft.hop_length
    return torch.cat([*pushed, inverter.flush(owed)], -1)[..., inverter.latency :]


# -- the score --


def test_score_is_spectral_convergence():
    stft = rtspecinv.STFT(64, 16)
    target, heard = (torch.from_numpy(tone(1600) * gain) for gain in (1.0, 0.7))
    score = Score(stft)
    for frame, hop in zip(
        score.watch(stft.magnitude(target).unbind(-1)), [None, *heard.split(16, -1)], strict=True
    ):
        assert frame.shape == (1, 33)
        if hop is not None:
            score.write(hop)
    score.drain()
    expected = rtspecinv.metrics.spectral_convergence(stft.magnitude(heard), stft.magnitude(target))
    assert score.convergence == pytest.approx(float(expected), abs=1e-4)
    assert score.convergence == pytest.approx(20 * np.log10(0.3), abs=1e-3)


# -- play --


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_play_writes_what_the_stream_gives(tmp_path, capsys, suffix):
    source, result = tmp_path / f"a{suffix}", tmp_path / "b.flac"
    soundfile.write(source, tone(30000, 2).T, 22050)
    threads = torch.get_num_threads()
    assert main(["play", str(source), "-o", str(result), "--no-device", *FAST]) == 0
    assert torch.get_num_threads() == threads

    stft, samples = rtspecinv.STFT(1024, 256), torch.from_numpy(read_audio(source)[0])
    target = stft.magnitude(samples)
    written, rate = read_audio(result)
    assert (rate, written.shape) == (22050, samples.shape)
    np.testing.assert_allclose(written, inverted(target, stft, samples.shape[1], n_iter=2), atol=1e-4)

    out, err = lines(capsys)
    # There are progress lines if the machine is slow.
    assert not [line for line in err if line.startswith("rtspecinv")]
    assert out[-1] == f"written       {result}"
    stated = float(re.search(r"convergence +(-\d+\.\d) dB", "\n".join(out)).group(1))
    difference = stft.magnitude(torch.from_numpy(written)) - target
    assert stated == pytest.approx(20 * float(torch.log10(difference.norm() / target.norm())), abs=0.1)
    assert re.search(r"speed +real-time factor \d+\.\d{3}", "\n".join(out))
    assert re.search(r"latency +\d+\.\d ms \(\d+ samples\)", "\n".join(out))


def test_options_reach_the_stft_and_the_inverter(tmp_path, clip, capsys):
    command = f"play {clip} --no-device --n-fft 512 --hop-length 128 --look-ahead 1 --n-iter 3 --update rtisi"
    assert main([*command.split(), "-o", str(tmp_path / "a.wav")]) == 0
    stft = rtspecinv.STFT(512, 128)
    target = stft.magnitude(torch.from_numpy(read_audio(clip)[0]))
    expected = inverted(target, stft, 30000, look_ahead=1, n_iter=3, update="rtisi")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], expected, atol=1e-4)
    assert "n_fft 512, hop 128, look-ahead 1 frames, 3 iterations" in capsys.readouterr().out
    assert main([*command.split(), "-o", str(tmp_path / "b.wav"), "--init", "zeros"]) == 0
    assert (read_audio(tmp_path / "b.wav")[0] != read_audio(tmp_path / "a.wav")[0]).any()


def test_mono_mixes(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(9000, 2).T, 22050)
    assert (
        main(["play", str(tmp_path / "a.wav"), "-o", str(tmp_path / "b.wav"), "--no-device", "--mono"]) == 0
    )
    assert read_audio(tmp_path / "b.wav")[0].shape[0] == 1


def test_without_a_device_a_note_is_printed_and_a_file_written(tmp_path, clip):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = run("play", clip, *FAST, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "apt-get install libportaudio2" in done.stderr
    assert done.stderr.endswith("; the sound is written to a file instead\n")
    assert done.stdout.endswith("written       clip.rtspecinv.wav\n")
    assert read_audio(tmp_path / "clip.rtspecinv.wav")[0].shape == (1, 30000)


def test_a_named_device_must_exist(tmp_path, clip, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["play", str(clip), "-d", "no such device"]) == 1
    out, err = lines(capsys)
    assert out == []
    assert len(err) == 1
    assert err[0].startswith("rtspecinv: error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.wav"]


def test_play_plays_what_it_writes(card, tmp_path, capsys, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(40000).T, jackd.SAMPLE_RATE)
    recorder = jackd.Recorder(card, 1, tmp_path / "recorded.npy")
    start = Device.start

    def start_connected(device):
        if not device.running:
            recorder.connect()
        start(device)

    monkeypatch.setattr(Device, "start", start_connected)
    # All samples are queued before the device starts, so that a busy machine does not make the inverter late.
    patient = partial(SoundDeviceSink, queue_seconds=1, prefill_seconds=1)
    monkeypatch.setattr("rtspecinv.cli._play.SoundDeviceSink", patient)
    monkeypatch.setattr("rtspecinv.cli._play._QUEUE_SECONDS", 1)
    args = [
        str(tmp_path / "a.wav"),
        "-o",
        str(tmp_path / "b.wav"),
        "-d",
        jackd.DEVICE,
        "--latency",
        "low",
    ]
    assert main(["play", *args, *FAST]) == 0
    written = read_audio(tmp_path / "b.wav")[0]
    fade = round(0.005 * jackd.SAMPLE_RATE)  # a fade precedes sound that does not begin in silence
    recorded = jackd.sound_in(recorder.stop(), fade + written.shape[1])[:, fade:]
    np.testing.assert_allclose(recorded, written, atol=1 / 2**15)
    assert re.search(r"underflows    \d+ \(0 ms of silence\)", capsys.readouterr().out)


def test_clipping_is_reported(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", 3 * tone(9000).T, 22050, subtype="FLOAT")
    assert main(["play", str(tmp_path / "a.wav"), "-o", str(tmp_path / "b.wav"), "--no-device"]) == 0
    said = capsys.readouterr().err
    assert re.search(r"^rtspecinv: warning: \d+ of 9000 samples \(.*%\) were beyond full scale", said)
    assert said.count("beyond full scale") == 1


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_one_line_on_a_terminal_and_some_lines_elsewhere(capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr("rtspecinv.cli._report._LINE_SECONDS", 0)
    monkeypatch.setattr("rtspecinv.cli._report._UPDATE_SECONDS", 0)
    with Report(65, 8000, latency_seconds=0.05) as report:
        for n_samples in (8000, 61 * 8000):
            report(Progress(1, n_samples, 0.1))
    shown = [
        "0:01.0 / 1:05.0   latency 50 ms   real-time factor 0.100",
        "1:01.0 / 1:05.0   latency 50 ms   real-time factor 0.002",
    ]
    clear = "\r\033[K"
    expected = "".join(clear + line for line in shown) + clear if terminal else "\n".join([*shown, ""])
    assert capsys.readouterr().err == expected


# -- interrupted --


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_leaves_nothing(tmp_path, number, status):
    source = tmp_path / "long.wav"
    soundfile.write(source, np.tile(tone(22050).T, (600, 1)), 22050)
    # A parent process in the background may make its children ignore Ctrl-C.
    code = (
        "import signal, sys\n"
        "from rtspecinv.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "play", "long.wav", "--no-device", "-o", "out.wav"]
    process = subprocess.Popen(forked(command), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    for _ in range(300):
        if any(part.stat().st_size > 10000 for part in tmp_path.glob(".*.part")):
            break
        time.sleep(0.1)
    process.send_signal(number)
    err = process.communicate(timeout=10)[1]
    assert process.returncode == status
    assert err == ("rtspecinv: interrupted\n" if number == signal.SIGINT else "")
    assert [path.name for path in tmp_path.iterdir()] == ["long.wav"]


def test_a_second_ctrl_c_during_exit_prints_nothing():
    code = (
        "import atexit, signal, sys\n"
        "from rtspecinv import cli\n"
        "from rtspecinv.cli import _program as program\n"
        "def run(argv): raise KeyboardInterrupt\n"
        "program.run = run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "atexit.register(signal.raise_signal, signal.SIGINT)\n"
        "sys.exit(cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", code, "devices"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "rtspecinv: interrupted\n")


def test_ctrl_c_while_playing_closes_the_device(card, tmp_path, clip, monkeypatch, capsys):
    sinks = []

    class Noted(SoundDeviceSink):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            sinks.append(self)

    def interrupt(self, frame, stats):
        if stats.n_frames >= 40:
            raise KeyboardInterrupt

    monkeypatch.setattr("rtspecinv.cli._play.SoundDeviceSink", Noted)
    monkeypatch.setattr("rtspecinv.cli._view.View.show", interrupt)
    soundfile.write(clip, tone(90000).T, jackd.SAMPLE_RATE)
    assert main(["play", str(clip), "-d", jackd.DEVICE, "-o", str(tmp_path / "b.wav"), *FAST]) == 130
    with pytest.raises(ValueError, match="closed"):
        sinks[-1].drain()
    assert not workers()
    assert lines(capsys) == ([], ["rtspecinv: interrupted"])
    assert [path.name for path in tmp_path.iterdir()] == ["clip.wav"]


# -- invert --


@pytest.mark.parametrize("layout", ["freq-time", "time-freq"])
@pytest.mark.parametrize("channels", [0, 2])
def test_invert_gives_what_the_stream_gives(tmp_path, capsys, layout, channels):
    stft = rtspecinv.STFT(512, 128)
    magnitude = stft.magnitude(torch.from_numpy(tone(20000, max(1, channels))))
    stored = magnitude if channels else magnitude[0]
    np.save(tmp_path / "a.npy", stored.numpy() if layout == "freq-time" else stored.mT.numpy())
    args = [
        str(tmp_path / "a.npy"),
        "-o",
        str(tmp_path / "b.wav"),
        "--sample-rate",
        "22050",
        "--layout",
        layout,
    ]
    assert main(["invert", *args, "--method", "stream", *FAST]) == 0
    expected = inverted(magnitude, stft, n_iter=2)
    written, rate = read_audio(tmp_path / "b.wav")
    assert rate == 22050
    np.testing.assert_allclose(written, expected, atol=1e-4)
    out, err = lines(capsys)
    assert err == []
    assert "n_fft 512, hop 128" in out[0]


def test_invert_uses_the_parameters_of_the_file_and_prints_warnings(tmp_path, capsys):
    magnitude = 1000 * rtspecinv.STFT(512, 100).analyze(torch.from_numpy(tone(8000)))[0]
    np.savez(tmp_path / "a.npz", magnitude=magnitude.numpy(), sample_rate=16000, hop_length=100)
    assert main(["invert", str(tmp_path / "a.npz"), "-o", str(tmp_path / "b.wav"), *FAST]) == 0
    out, err = lines(capsys)
    assert "at 16000 Hz, n_fft 512, hop 100" in out[0]
    assert soundfile.info(tmp_path / "b.wav").samplerate == 16000
    for line, remark in zip(err, ["complex values", "power", "beyond full scale"], strict=True):
        assert line.startswith("rtspecinv: ")
        assert remark in line


def test_invert_of_bad_values_leaves_no_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rtspecinv.files.opening._BLOCK_VALUES", 257 * 100)
    values = np.ones((257, 300), np.float32)
    values[3, 290] = -3
    np.save(tmp_path / "a.npy", values)
    args = [str(tmp_path / "a.npy"), "-o", str(tmp_path / "b.wav"), "--sample-rate", "8000"]
    assert main(["invert", *args, "--n-iter", "1"]) == 1
    assert re.match("rtspecinv: error: .*decibels or a logarithm", lines(capsys)[1][0])
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


# -- errors, help, devices --


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("play none.wav", "There is no file none.wav"),
        ("play text.wav", "text.wav is not audio"),
        ("play .", "is a folder"),
        ("play short.wav", "100 samples are too few for n_fft=1024"),
        ("play clip.wav -o clip.wav", "clip.wav is the input: choose another name"),
        ("play clip.wav -o out.mp4", "must end in .wav, .flac, .ogg"),
        ("play clip.wav -o none/out.wav", "create the folder none first"),
        ("play clip.wav --update rarr", "raar"),
        ("play clip.wav --look-ahead -1", "look_ahead"),
        ("play clip.wav --rate 0", "--rate 0 is not from 0.001 to 1000"),
        ("play clip.wav --rate nan", "--rate nan"),
        ("play clip.wav --rate 1e-300", "--rate 1e-300 is not from 0.001 to 1000"),
        ("play clip.wav --rate 1e300", "--rate 1e+300 is not from 0.001 to 1000"),
        ("play clip.wav --rate -1", "--rate -1 is not from 0.001 to 1000"),
        ("play clip.wav --n-fft 1000000000000000000000", "n_fft=1000000000000000000000 is more than 4194304"),
        ("live --queue nan", "--queue nan is not from 0 to 2 seconds"),
        ("live --stretch 1e-300", "--stretch 1e-300 is not from 0.001 to 1"),
        ("live --pitch 1e300", "--pitch 1e+300 is not from -36 to 36 semitones"),
        ("live --pitch nan", "--pitch nan is not from -36 to 36 semitones"),
        ("live --freeze inf", "--freeze inf is not from 0 to 1e+07 seconds"),
        ("live --freeze -1", "--freeze -1 is not from 0 to 1e+07 seconds"),
        ("live --seconds inf", "--seconds inf is not from 0 to 1e+07 seconds"),
        ("live --seconds nan", "--seconds nan is not from 0 to 1e+07 seconds"),
        ("live -d 1" + "0" * 20, "device=100000000000000000000 is more than 2147483647"),
        ("live -i 1" + "0" * 20, "device=100000000000000000000 is more than 2147483647"),
        ("live -i 1" + "0" * 20 + " --two-streams", "device=100000000000000000000 is more than 2147483647"),
        ("live --sample-rate -1", "sample_rate=-1 is not an integer >= 1"),
        ("live --look-ahead 1000000000000", "look_ahead=1000000000000"),
        ("play clip.wav --hop-length 2000", "hop_length"),
        ("play clip.wav --n-fft 0", "n_fft"),
        ("play clip.wav --n-fft 3", "hop_length=256 is larger than n_fft=3"),
        ("invert none.npy -o out.wav", "There is no file none.npy"),
        ("invert clip.wav -o out.wav", "not one of .npy, .npz, .pt, .safetensors"),
        ("invert text.npy -o out.wav", "text.npy"),
        ("invert turned.npy -o out.wav --sample-rate 8000", "it looks transposed, try --layout time-freq"),
        ("invert right.npy -o out.wav", "give --sample-rate"),
        (
            "invert right.npy -o out.wav --sample-rate 8000 --n-fft 128",
            "257 frequencies, but n_fft=128 has 65",
        ),
        ("invert frame.npy -o out.wav --sample-rate 8000", "frame.npy has one frame"),
        ("invert right.npy -o out.wav --sample-rate 0", "sample_rate=0"),
        ("invert right.npy -o out.wav --sample-rate 1000000000000", "sample_rate=1000000000000 is more than"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(tmp_path, clip, capsys, monkeypatch, command, message):
    monkeypatch.chdir(tmp_path)
    soundfile.write("short.wav", np.zeros(100), 8000)
    for name in ("text.wav", "text.npy"):
        Path(name).write_text("hello")
    for name, shape in (("turned", (300, 257)), ("right", (257, 300)), ("frame", (257, 1))):
        np.save(name, np.ones(shape, np.float32))
    before = sorted(tmp_path.iterdir())
    no_device = ["--no-device"] if command.startswith("play") else []
    assert main([*command.split(), *no_device]) == 1
    out, err = lines(capsys)
    assert out == []
    assert len(err) == 1
    assert err[0].startswith("rtspecinv: error: ")
    assert message in err[0]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", ["play", "live", "invert", "compare", "demo", "devices", "doctor"])
def test_help_shows_an_example(capsys, command):
    with pytest.raises(SystemExit) as leaving:
        main([command, "--help"])
    assert leaving.value.code == 0
    assert f"example:\n  rtspecinv {command}" in capsys.readouterr().out


def test_wrong_usage_exits_with_2_and_version_is_shown(capsys):
    for args in ([], ["sing"], ["play"], ["invert", "a.npy"], ["play", "a.wav", "--n-fft", "x"]):
        with pytest.raises(SystemExit) as leaving:
            main(args)
        assert leaving.value.code == 2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"rtspecinv {rtspecinv.__version__}\n"


def test_devices(card, capsys):
    assert main(["devices"]) == 0
    assert jackd.DEVICE in capsys.readouterr().out


def test_devices_without_portaudio(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["devices"]) == 1
    assert re.match("rtspecinv: error: Playing needs sounddevice: pip install", capsys.readouterr().err)


# -- demo --


def test_demo_writes_two_sounds_and_a_picture(tmp_path):
    done = run("demo", "--no-device", *FAST, "-o", "new/folder", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    names = ["original.wav", "inverted.wav", "spectrograms.png"]
    written = re.findall("^written +(.*)$", done.stdout, re.MULTILINE)
    assert written == [str(Path("new/folder") / name) for name in names]
    (original, rate), (result, _) = (read_audio(tmp_path / "new/folder" / name) for name in names[:2])
    assert rate == SAMPLE_RATE
    assert original.shape[1] - 256 < result.shape[1] <= original.shape[1]
    assert (tmp_path / "new/folder/spectrograms.png").read_bytes().startswith(b"\x89PNG")


def test_demo_without_matplotlib_names_the_package(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "rtspecinv.measure.plots", raising=False)
    assert main(["demo", "--no-device", *FAST, "-o", str(tmp_path)]) == 0
    err = lines(capsys)[1]
    assert err == [
        'rtspecinv: Pictures need matplotlib: pip install "rtspecinv[plot]"; the picture is not drawn'
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inverted.wav", "original.wav"]


def test_picture_needs_two_of_one_shape(tmp_path):
    with pytest.raises(ValueError, match=r"not \(3, 4\) and \(3, 5\)"):
        before_and_after(tmp_path / "a.png", np.ones((3, 4)), np.ones((3, 5)), sample_rate=8000, hop_length=2)


def test_the_clip_is_in_tune_full_and_always_the_same():
    samples = render()
    np.testing.assert_array_equal(samples, render())
    assert np.abs(samples).max() == pytest.approx(0.8)
    assert 6 < len(samples) / SAMPLE_RATE < 8
    for frequency in (58.27, 220.0, 440.0):
        string = pluck(frequency, 4 * SAMPLE_RATE, np.random.default_rng(0))[SAMPLE_RATE // 4 :]
        spectrum = np.abs(np.fft.rfft(string * np.hanning(len(string)), 2**19))
        bin_width = SAMPLE_RATE / 2**19
        near = slice(int(frequency * 0.9 / bin_width), int(frequency * 1.1 / bin_width))
        heard = (near.start + np.argmax(spectrum[near])) * bin_width
        assert abs(1200 * np.log2(heard / frequency)) < 5  # cents


def test_ctrl_c_while_torch_loads():
    code = (
        "import sys, threading, _thread; threading.Timer(0.1, _thread.interrupt_main).start();"
        "from rtspecinv.cli import main; sys.exit(main(['devices']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (130, "rtspecinv: interrupted\n")
