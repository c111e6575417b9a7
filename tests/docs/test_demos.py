"""Tests that the demos run and make the sounds that they describe."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import jackd
import numpy as np
import pytest
import torch
from forked import forked

import rtspecinv
from rtspecinv.audio import FileSink, read_audio
from rtspecinv.measure.clip import render

DEMOS = Path(__file__).parents[2] / "demos"
NAMES = sorted(path.name for path in DEMOS.glob("*.py"))
AGENTS = ("livekit_source.py", "pipecat_vocoder.py")  # in tests/serve/test_agents.py
CENTS = 5.0  # largest error of a note
STEADY = 0.2  # largest relative difference of two frames of a held sound


def start(name: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(DEMOS / name), *map(str, args)]
    return subprocess.Popen(
        forked(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(name: str, *args: object) -> str:
    process = start(name, *args)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def pitch(samples: np.ndarray, rate: int) -> float:
    """Return the frequency of the strongest partial in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 2**18))
    return float(np.argmax(spectrum)) * rate / 2**18


def test_they_are_short():
    assert len(NAMES) == 5
    for name in NAMES:
        assert len((DEMOS / name).read_text().splitlines()) < 80


@pytest.fixture
def tune(tmp_path) -> Path:
    """MIDI file with A4 for half a second, then C5, both held until 1.5 s."""
    mido = pytest.importorskip("mido")
    track = mido.MidiTrack()
    for kind, note, ticks in (("on", 69, 0), ("off", 69, 480), ("on", 72, 0), ("off", 72, 960)):
        track.append(mido.Message(f"note_{kind}", note=note, time=ticks))
    file = mido.MidiFile()
    file.tracks.append(track)
    file.save(tmp_path / "tune.mid")
    return tmp_path / "tune.mid"


def test_the_synth_is_in_tune_and_falls_silent(tune, tmp_path):
    run("additive_synth.py", tune, "-o", tmp_path / "a.wav")
    (samples,), rate = read_audio(tmp_path / "a.wav")
    for seconds, frequency in ((0.1, 440.0), (0.9, 523.25)):
        begin = round(seconds * rate)
        assert abs(1200 * np.log2(pitch(samples[begin : begin + rate // 3], rate) / frequency)) < CENTS
    loudest, end = np.abs(samples).max(), np.abs(samples[-rate // 20 :]).max()
    assert 0.1 < loudest <= 1
    assert end < 1e-3 * loudest


def test_keys_need_a_terminal():
    process = start("additive_synth.py")
    assert "give a MIDI file" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def test_chunks_of_any_size_at_any_time_sound_as_one_piece(tmp_path):
    out = run("speech_chunks.py", "--seed", 7, "--speed", 30, "-o", tmp_path / "chunks.wav")
    stft = rtspecinv.STFT(1024, 256)
    magnitude = stft.magnitude(torch.from_numpy(render()))
    inverter = rtspecinv.StreamingInverter(stft)
    whole = torch.cat([inverter.push_many(magnitude), inverter.flush()])[inverter.latency :]
    with FileSink(tmp_path / "whole.wav", 22050) as sink:
        sink.write(whole)
    assert (tmp_path / "chunks.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()
    assert out.startswith(f"{magnitude.shape[-1]} frames")


def test_osc_freezes_the_sound_and_invalid_messages_are_ignored(tmp_path):
    client = pytest.importorskip("pythonosc.udp_client")
    process = start("osc_control.py", "--port", 0, "--seconds", 3, "-o", tmp_path / "a.wav")
    assert process.stdout is not None
    address = re.match(r"listening on 127\.0\.0\.1:(\d+);", process.stdout.readline())
    assert address is not None
    controller = client.SimpleUDPClient("127.0.0.1", int(address[1]))
    time.sleep(1)
    for message in (("/pitch", "x"), ("/stretch", float("nan")), ("/pitch", 7.0), ("/freeze", 1)):
        controller.send_message(*message)
    controller.close()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert sorted(line.split(" ")[0] for line in out.splitlines()) == [
        "/freeze",
        "/pitch",
        "/pitch:",
        "/stretch:",
    ]
    samples, _ = read_audio(tmp_path / "a.wav")
    magnitude = rtspecinv.STFT(1024, 256).magnitude(torch.from_numpy(samples[0]))
    assert 0.9 * 3 * 22050 < samples.shape[1] < 1.1 * 3 * 22050  # in real time
    change = (magnitude[:, 20:] - magnitude[:, :-20]).norm(dim=0) / magnitude.norm(dim=0).amax()
    assert change[-100:-10].max() < STEADY < change[:60].max()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in AGENTS])
def test_they_play(name, card, tune, tmp_path):
    with FileSink(tmp_path / "short.wav", 22050) as sink:
        sink.write(render()[:22050])
    given = {
        "additive_synth.py": [tune],
        "osc_control.py": ["--port", 0, "--seconds", 1],
        "speech_chunks.py": [tmp_path / "short.wav"],
    }
    run(name, *given[name], "-d", jackd.DEVICE)


def test_a_device_that_is_not_there_is_named(tune):
    process = start("additive_synth.py", tune, "-d", "no such device")
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "DeviceError" in err
