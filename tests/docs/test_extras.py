"""Tests of an installation without extras: a feature that needs more names it in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rtspecinv
from rtspecinv.cli import main

EXTRAS = {
    *("soundfile", "soxr", "safetensors", "PIL", "matplotlib", "tqdm", "jinja2", "numba", "rocket_fft"),
    *("cuda", "rtmixer", "rich", "pesq", "pystoi", "aiohttp", "msgpack", "prometheus_client", "uvloop"),
    *("onnx", "onnxscript"),
}
BARE = """
import sys
for name in {hidden!r}:
    sys.modules[name] = None
if {without_portaudio!r}:
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "sounddevice":
                raise OSError("PortAudio library not found")
    sys.meta_path.insert(0, Broken())
from rtspecinv.cli import main
sys.exit(main({args!r}))
"""


def run(*args: object, cwd: Path, hidden=EXTRAS, without_portaudio=True) -> subprocess.CompletedProcess[str]:
    code = BARE.format(
        hidden=sorted(hidden), without_portaudio=without_portaudio, args=[str(arg) for arg in args]
    )
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=100)


def hide(monkeypatch, module: str) -> None:
    for name in [*sys.modules, module]:
        if name.split(".")[0] == module:
            monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def clip(tmp_path) -> Path:
    path = tmp_path / "clip.wav"
    with rtspecinv.FileSink(path, 8000) as sink:
        sink.write(0.5 * np.sin(np.arange(4000) / 5).astype(np.float32))
    return path


def test_the_demo_runs_to_its_end_with_nothing_optional(tmp_path):
    """Without PortAudio it does not play, and without matplotlib it does not draw; a line reports each."""
    done = run("demo", "-o", tmp_path / "demo", "--n-iter", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {"original.wav", "inverted.wav"}
    notes = [line for line in done.stderr.splitlines() if line.startswith("rtspecinv:")]
    assert [note for note in notes if "libportaudio2" in note]
    missing = [note for note in notes if 'pip install "rtspecinv[plot]"' in note]
    assert [note for note in missing if "the picture is not drawn" in note]
    assert "Traceback" not in done.stderr


def test_play_and_invert_read_and_write_wav_with_nothing_optional(tmp_path, clip):
    done = run("play", clip, "-o", "played.wav", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.save(tmp_path / "m.npy", np.ones((129, 9), np.float32))
    done = run("invert", "m.npy", "--sample-rate", 8000, "-o", "m.wav", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rtspecinv.read_audio(tmp_path / "played.wav")[1] == 8000
    assert rtspecinv.read_audio(tmp_path / "m.wav")[0].shape == (1, 512)


@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [
        ("soundfile", "play clip.flac --no-device -o a.wav", "files"),
        ("soundfile", "play clip.wav --no-device -o a.flac", "files"),
        ("soundfile", "invert m.npz -o a.ogg", "files"),
        ("soundfile", "compare clip.wav -o report", "files"),
        ("safetensors", "invert m.safetensors -o a.wav", "files"),
        ("PIL", "image m.png -o a.wav", "files"),
        ("PIL", "picture clip.wav -o a.png", "files"),
        ("jinja2", "compare clip.wav -o report", "report"),
        ("matplotlib", "compare clip.wav -o report", "plot"),
        ("matplotlib", "bench --plot a.png", "plot"),
        ("onnx", "export -o a.onnx", "export"),
        ("onnxscript", "export -o a.onnx", "export"),
        ("aiohttp", "serve", "serve"),
        ("prometheus_client", "serve", "serve"),
    ],
)
def test_a_missing_package_is_one_line_before_any_work(
    tmp_path, clip, monkeypatch, capsys, module, command, extra
):
    monkeypatch.chdir(tmp_path)
    for name in ("clip.flac", "m.safetensors", "m.png"):
        (tmp_path / name).write_bytes(b"content")
    rtspecinv.save_spectrogram(
        "m.npz", np.ones((33, 5), np.float32), rtspecinv.STFT(64, 16), sample_rate=8000
    )
    hide(monkeypatch, module)
    for name in [*sys.modules]:
        if name.startswith("rtspecinv.serve"):
            monkeypatch.delitem(sys.modules, name)
    for name in ("rtspecinv.cli._page", "rtspecinv.measure.plots"):  # modules that are imported on demand
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(name, raising=False)
    before = {path.name for path in tmp_path.iterdir()}
    assert main(command.split()) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert f'pip install "rtspecinv[{extra}]"' in errors[0]
    assert {path.name for path in tmp_path.iterdir()} == before


CALLS = {
    "soundfile": lambda folder: rtspecinv.FileSink(folder / "a.flac", 8000),
    "soxr": lambda folder: rtspecinv.audio.resample.Resampler(8000, 48000, 1),
    "safetensors": lambda folder: rtspecinv.save_spectrogram(
        folder / "a.safetensors", np.ones((33, 5), np.float32), rtspecinv.STFT(64, 16), sample_rate=8000
    ),
    "PIL": lambda folder: rtspecinv.save_spectrogram(
        folder / "a.png", np.ones((33, 5), np.float32), rtspecinv.STFT(64, 16), sample_rate=8000
    ),
    "tqdm": lambda folder: rtspecinv.invert(
        np.ones((33, 5), np.float32), rtspecinv.STFT(64, 16), progress=True
    ),
    "pesq": lambda folder: rtspecinv.metrics.pesq(np.ones(8000), np.ones(8000), 16000),
    "pystoi": lambda folder: rtspecinv.metrics.estoi(np.ones(8000), np.ones(8000), 16000),
}


@pytest.mark.parametrize("module", CALLS)
def test_every_call_that_needs_an_extra_names_it(tmp_path, monkeypatch, module):

    hide(monkeypatch, module)
    with pytest.raises(ImportError, match=r'pip install "rtspecinv\[\w+\]"'):
        CALLS[module](tmp_path)
    assert not list(tmp_path.iterdir())
