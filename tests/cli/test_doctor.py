"""Tests of `rtspecinv doctor` on machines with missing parts."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import jackd
import pytest

import rtspecinv
from rtspecinv.cli import _doctor as clinic
from rtspecinv.cli import main
from rtspecinv.mel.models import CONFIGS


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(clinic, "N_PUSHES", 20)


def lacking(module: str, error: str, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the command line while the import of a module raises an error."""
    (folder / f"{module}.py").write_text(f"raise {error}")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "rtspecinv", *args]
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, cwd=folder)


def test_all_is_well_on_a_card(card, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in ("python", "torch", "CUDA", "library", "output", "test stream", "push", "playing"):
        assert re.search(f"^{name} +.", out, re.MULTILINE), name
    assert f"rates         {jackd.SAMPLE_RATE}; 44100, 22050, 16000 Hz are resampled" in out
    assert "streams       of `live`: one for microphone and speakers\n" in out
    assert re.search(r"1 s of silence at 48000 Hz, \d+ underflows, device latency \d+\.\d ms", out)
    assert len(re.findall(r"^ +\d+/\d+: \d+ µs; 8 iterations \d+%", out, re.MULTILINE)) == 3
    assert out.endswith("playing       works\n")


@pytest.mark.parametrize(
    ("module", "error", "fix"),
    [
        ("sounddevice", "OSError('PortAudio library not found')", "apt-get install libportaudio2"),
        ("torch", "OSError('libtorch_cpu.so: no such file')", "pip install torch"),
    ],
)
def test_missing_requirements_of_playback_are_named_and_the_status_is_1(tmp_path, module, error, fix):
    done = lacking(module, error, tmp_path, "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert fix in done.stdout
    assert re.search("^python +3", done.stdout)
    assert done.stdout.endswith("playing       does not work here: see above\n")


def test_without_torch_a_command_that_needs_it_fails_with_a_message(tmp_path):
    done = lacking("torch", "ImportError('no torch')", tmp_path, "demo", "--no-device")
    assert done.returncode == 1
    assert done.stderr == "rtspecinv: error: no torch; `rtspecinv doctor` lists what is missing\n"


def test_a_missing_extra_is_no_reason_not_to_play(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr(clinic, "CHECKS", (clinic._extras,))
    assert clinic.doctor() == 0
    out = capsys.readouterr().out
    assert 'live: rich missing or broken\n              better: pip install "rtspecinv[live]"' in out


def test_rtmixer_without_portaudio_is_not_to_be_installed_again(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", types.ModuleType("rich"))
    monkeypatch.setattr(clinic, "CHECKS", (clinic._extras,))

    def import_module(name):
        if name == "rtmixer":
            raise OSError("PortAudio library not found")
        return importlib.import_module(name)

    monkeypatch.setattr(clinic, "importlib", types.SimpleNamespace(import_module=import_module))
    clinic.doctor()
    assert "live: rtmixer" in capsys.readouterr().out


def test_no_device_is_fatal_and_no_microphone_is_not(capsys, monkeypatch):
    def query_devices(device=None, kind=None):
        if kind == "input":
            raise ValueError("no input")
        output = {"name": "out", "max_output_channels": 2, "max_input_channels": 0}
        return {**output, "default_samplerate": 44100.0} if kind else listed

    sd = types.SimpleNamespace(
        query_devices=query_devices,
        PortAudioError=OSError,
        check_output_settings=lambda **settings: None,
        check_input_settings=None,
    )
    monkeypatch.setattr(clinic, "_sounddevice", lambda: sd)
    monkeypatch.setattr(clinic, "CHECKS", (clinic._devices,))
    listed = [{"max_output_channels": 2, "max_input_channels": 0}]
    assert clinic.doctor() == 0
    assert "input         no default device\n" in capsys.readouterr().out
    listed = []
    assert clinic.doctor() == 1
    assert "0, none to play on\n              needed: a sound card" in capsys.readouterr().out


def test_nothing_makes_it_crash(capsys, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("something\nodd")

    for name in ("_sounddevice", "_broken", "_rate"):
        monkeypatch.setattr(clinic, name, broken)
    monkeypatch.setattr("rtspecinv.measure.timing.measure", broken)
    monkeypatch.setattr("platform.platform", broken)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert out.count("could not be checked: something odd") == len(clinic.CHECKS) - 1  # torch is installed


def test_bins_per_band_of_presets_and_of_a_file(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(clinic, "CHECKS", ())
    lines: dict[int, list[str]] = {}
    rtspecinv.MelConfig(16000, 2048, 512, n_mels=80).save(tmp_path / "mine.json")  # 1024 bins over 80 bands
    for preset in ([], ["--preset", "whisper"], ["--preset", str(tmp_path / "mine.json")]):
        assert main(["doctor", *preset]) == 0
        out = capsys.readouterr().out
        assert out.startswith("mel           bins per band: up to 4")
        lines[len(lines)] = out.splitlines()[1:-1]
    for name, config in CONFIGS.items():
        (line,) = (line for line in lines[0] if re.search(f"[ ]{name} ", line))
        bins = config.bins_per_band
        assert f" {name} {bins:.1f}" in line
        assert line.strip().startswith("little" if bins <= 4 else "some" if bins <= 6 else "much")
    assert lines[1] == ["              little is lost: whisper 2.5"]
    assert lines[2] == [f"              much detail is lost: {tmp_path / 'mine.json'} 12.8"]


@pytest.mark.parametrize(
    ("few", "many", "room", "most"),
    [(80, 320, 400, 40), (80, 320, 80, 8), (80, 320, 0, 0), (500, 500, 400, 0), (1, 1, 1e6, 1000)],
)
def test_iterations_that_fit_lie_on_a_line(few, many, room, most):
    assert clinic.most_iterations(few, many, room) == most
