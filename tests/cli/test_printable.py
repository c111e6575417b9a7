"""Tests that text from files is escaped and bounded, in Python and on the command line."""

from __future__ import annotations

import ast
import errno
import fcntl
import io
import json
import os
import struct
import subprocess
import sys
import termios
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import forked
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import rtspecinv
from rtspecinv.cli import main
from rtspecinv.cli._report import Outlet, note
from rtspecinv.common.printable import printable

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u2066\udce9\r\n\0"
NAMED = EVIL.replace("\0", "").replace("/", "")


def harmless(text: str) -> bool:
    return not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text.replace("\n", ""))


@given(st.text(st.characters(exclude_categories=[])), st.integers(9, 60))
def test_printable_text_has_no_control_characters_and_is_bounded(text, most):
    shown = printable(text, most)
    assert harmless(shown)
    assert "\n" not in shown
    assert len(shown) <= 10 * most
    if len(text) <= most and text.isprintable():
        assert shown == text


def test_escapes_are_those_of_python():
    assert printable("a\x1b\u202e\udce9\n日") == r"a\x1b\u202e\udce9\n日"
    assert printable("x" * 1000, 11) == "xxxxx…xxxxx"


def safetensors(path: Path, arrays: list[str], metadata: dict[str, str]) -> None:
    header: dict[str, Any] = {"__metadata__": metadata}
    for number, name in enumerate(arrays):
        at = [number * 8208, (number + 1) * 8208]
        header[name] = {"dtype": "F32", "shape": [513, 4], "data_offsets": at}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(len(arrays) * 8208))


EVIL_TEXT = EVIL.replace("\udce9", "")


def evil_files(folder: Path) -> None:
    values = np.ones((513, 4), np.float32)
    safetensors(folder / "value.safetensors", ["magnitude"], {"sample_rate": EVIL_TEXT})
    safetensors(folder / "window.safetensors", ["magnitude"], {"window": EVIL_TEXT})
    safetensors(folder / "mel.safetensors", ["magnitude"], {"mel_config": json.dumps({EVIL_TEXT: 1})})
    curve = {"sample_rate": 8000, "n_mels": 513, "compression": {"curve": EVIL_TEXT}}
    safetensors(folder / "curve.safetensors", ["mel"], {"mel_config": json.dumps(curve)})
    safetensors(folder / "names.safetensors", [EVIL_TEXT, "b"], {"sample_rate": "22050"})
    torch.save({EVIL: torch.ones(513, 4), "b": torch.ones(513, 4)}, folder / "names.pt")
    torch.save({"magnitude": torch.ones(513, 4), "sample_rate": EVIL}, folder / "value.pt")
    named: dict[str, Any] = {EVIL_TEXT.replace("\0", ""): values, "b": values}
    np.savez(folder / "names.npz", **named)
    np.savez(folder / "value.npz", magnitude=values, window=EVIL)
    (folder / "header.npy").write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", 99) + EVIL_TEXT.encode() * 9)
    for field in ("sample_rate", "white", "scale"):
        texts = {"sample_rate": "8000", "n_fft": "64", "scale": "linear", "white": "1"}
        info = PngInfo()
        for name, text in (texts | {"fmin": "0", "fmax": "4000", "range_db": "80", field: EVIL_TEXT}).items():
            info.add_itxt(name, text)
        Image.fromarray(np.ones((33, 9), np.uint8)).save(folder / f"{field}.png", pnginfo=info)


def test_messages_in_python_are_safe(tmp_path):
    evil_files(tmp_path)
    paths = [*tmp_path.iterdir(), tmp_path / f"{NAMED}.npy", tmp_path / f"{NAMED}.wav"]
    for path in paths:
        with pytest.raises((ValueError, OSError)) as error:
            rtspecinv.listen(path, output=rtspecinv.ArraySink(), sample_rate=8000)
        assert harmless(str(error.value)), path
        assert len(str(error.value)) < 2000, path
    for suffix in (".wav", ".mp4", "/a.wav"):
        with pytest.raises((ValueError, OSError)) as error:
            rtspecinv.FileSink(tmp_path / f"{NAMED}{suffix}", 0)
        assert harmless(str(error.value))
    with pytest.raises(ValueError, match="Cannot write") as error:
        rtspecinv.save_spectrogram(
            tmp_path / NAMED, torch.ones(33, 4), rtspecinv.STFT(64, 16), sample_rate=8000
        )
    assert harmless(str(error.value))


def test_the_command_line_is_safe(tmp_path, capsys, monkeypatch):
    """Names with control characters are in a folder, are arguments, or are unknown options."""
    monkeypatch.chdir(tmp_path)
    evil_files(tmp_path)
    os.mkdir("in")
    rtspecinv.save_spectrogram(f"in/{NAMED}.npz", torch.rand(33, 9), rtspecinv.STFT(64, 16), sample_rate=8000)
    os.link(f"in/{NAMED}.npz", f"{NAMED}.npz")
    for path in list(tmp_path.glob("*.*")):
        main(["invert", path.name, "-o", f"{NAMED}.wav", "--n-iter", "1"])
        if path.suffix == ".png":
            main(["image", path.name, "-o", f"{NAMED}.wav", "--n-iter", "1"])
    assert main(["invert", "in", "-o", f"out{NAMED}", "--n-iter", "1"]) == 0
    assert main(["invert", ".", "-o", f"all{NAMED}", "--n-iter", "1"]) == 1
    main(["play", f"{NAMED}.wav", "--no-device", "-o", f"{NAMED}.ogg"])
    main(["picture", f"{NAMED}.wav", "-o", f"{NAMED}.png"])
    with pytest.raises(SystemExit):
        main(["invert", f"{NAMED}.npz", "-o", "a.wav", NAMED])
    out, err = capsys.readouterr()
    assert harmless(out)
    assert harmless(err)
    assert max(map(len, out.splitlines())) < 2000


RUNS = {  # invalid arguments, whose names appear in the message
    "bench plot": ["bench", "--plot", "{name}.gif"],
    "bench json": ["bench", "--json", "no{name}/a.json"],
    "bench both": ["bench", "--json", "{name}.png", "--plot", "{name}.png"],
    "bench audio": ["bench", "{name}.wav"],
    "bench C": ["bench", "--c-reference", "{name}.c", "--quick"],
    "compare audio": ["compare", "{name}.wav"],
    "compare output": ["compare", "clip.wav", "-o", "{name}"],
    "play": ["play", "{name}.wav", "--no-device"],
    "play array": ["play", "{name}.npz", "--no-device"],
    "invert": ["invert", "{name}.npz", "-o", "a.wav"],
    "invert format": ["invert", "{name}", "-o", "a.wav", "--format", "ogg"],
    "invert sound": ["invert", "{name}.wav", "-o", "a.wav"],
    "invert preset": ["invert", "clip.wav", "-o", "a.wav", "--preset", "{name}.json"],
    "image": ["image", "{name}.png"],
    "picture": ["picture", "{name}.wav", "-o", "a.png"],
    "picture output": ["picture", "clip.wav", "-o", "{name}.gif"],
}


@pytest.mark.parametrize("run", RUNS)
def test_a_rejected_file_is_named_as_printable_text(tmp_path, capsys, monkeypatch, run):
    """The line of a message joins lines, so an unescaped name would lose its line break."""
    name = "a\x1b[2J\nb"
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    with rtspecinv.FileSink("clip.wav", 8000) as sink:
        sink.write(np.ones(4096, np.float32))
    assert main([word.format(name=name) for word in RUNS[run]]) == 1
    err = capsys.readouterr().err
    assert printable(name) in err
    assert harmless(err)


SAYING = ("print", "note", "warn", "line", "begin")  # functions that print or raise a text
OF_FILES = ("path", "folder", "file", "audio", "output", "plot", "json", "picture", "spectrogram", "source")


def shown_raw(tree: ast.AST) -> list[str]:
    """Return uses of file names (variables with these names) in messages without `printable`."""
    found = []
    for said in ast.walk(tree):
        function = said.func if isinstance(said, ast.Call) else None
        name = getattr(function, "attr", getattr(function, "id", ""))
        for part in ast.walk(said) if isinstance(said, ast.Raise) or name in SAYING else ():
            value = part.value if isinstance(part, ast.FormattedValue) else None
            while isinstance(value, ast.Call) and ast.unparse(value.func) == "str":
                value = value.args[0]
            if not isinstance(value, ast.Name | ast.Attribute):
                continue
            words = ast.unparse(value).split(".")
            if words[-1] in OF_FILES or (words[-1] in ("name", "stem") and words[-2:][0] in OF_FILES):
                found.append(f"{value.lineno}: {ast.unparse(value)}")
    return found


def test_no_message_contains_an_unescaped_file_name():
    assert shown_raw(ast.parse("raise OSError(f'{args.output} is a file')"))
    assert shown_raw(ast.parse("print(f'on {path.name}', file=out)"))
    assert not shown_raw(ast.parse("print(f'{printable(path)}', named(args.output), f'{n_frames}')"))
    modules = sorted(Path(rtspecinv.__file__).parent.rglob("*.py"))
    raw = {path.name: lines for path in modules if (lines := shown_raw(ast.parse(path.read_text("utf-8"))))}
    assert not raw


def test_a_terminal_with_a_bar_is_safe(tmp_path):
    os.mkdir(tmp_path / "in")
    path = tmp_path / "in" / f"{NAMED}.npz"
    rtspecinv.save_spectrogram(path, torch.rand(33, 9), rtspecinv.STFT(64, 16), sample_rate=8000)
    (tmp_path / "in" / f"damaged {NAMED}.npz").write_bytes(b"")
    here, there = os.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # a bar needs this width
    command = [sys.executable, "-m", "rtspecinv", "invert", "in", "-o", "out", "--n-iter", "1"]
    done = subprocess.run(forked(command), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=there)
    assert done.returncode == 1
    shown = os.read(here, 10**6)
    os.close(here)
    os.close(there)
    assert b"owned" in shown
    assert b"\x1b]" not in shown
    assert b"\x1b[2J" not in shown
    assert b"\x07" not in shown


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_messages_do_not_fail_without_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    note("text")
    monkeypatch.setattr(sys, "stderr", Full())
    note("text")
    outlet = Outlet(Full())
    outlet.write("text\n")
    with pytest.raises(OSError, match="standard output: No space left"):
        outlet.finish()
