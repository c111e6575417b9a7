"""Tests of the examples in the package's docstrings."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from pathlib import Path

import jackd
import pytest
from forked import forked

import rtspecinv

PACKAGE = Path(rtspecinv.__file__).parent

# Names that people start with. For `presets`, the class has the docstring.
FIRST = (
    "STFT",
    "StreamingInverter",
    "invert",
    "lbfgs",
    "Mel",
    "Presets",
    "listen",
    "Player",
    "SoundDeviceSink",
    "Pitch",
    "diagnose",
    "save_spectrogram",
    "open_spectrogram",
)
NEED_A_DEVICE = ("SoundDeviceSink", "listen")
NOT_RUN = ("SoundDeviceSink", "export_step", "listen")  # they need a device, or an extra and seconds


def examples() -> dict[str, doctest.DocTest]:
    """Return the examples of every docstring of the package by the name of the class or function."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text("utf-8")
        nodes = ast.walk(ast.parse(text)) if ">>> " in text else ()
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                name = getattr(node, "name", path.stem)
                docstring = ast.get_docstring(node) or ""
                test = doctest.DocTestParser().get_doctest(docstring, {}, name, str(path), 0)
                if test.examples:
                    assert name not in found
                    found[name] = test
    return found


EXAMPLES = examples()


def skipped(name: str) -> bool:
    return any(doctest.SKIP in example.options for example in EXAMPLES[name].examples)


def test_every_name_that_people_start_with_has_an_example():
    assert not set(FIRST) - set(EXAMPLES)
    assert [name for name in EXAMPLES if skipped(name)] == sorted(NOT_RUN)
    for test in EXAMPLES.values():
        assert not all(doctest.SKIP in example.options for example in test.examples)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    found = doctest.DocTestRunner().run(EXAMPLES[name], out=said.append, clear_globs=False)
    assert not found.failed, "".join(said)


@pytest.mark.parametrize("name", NEED_A_DEVICE)
def test_example_plays(name, card, tmp_path):
    """Lines that other tests skip run, too; without a working device they would write a file or raise."""
    code = "".join(example.source for example in EXAMPLES[name].examples)
    code = f"import sounddevice; sounddevice.default.device = (None, {jackd.DEVICE!r})\n{code}"
    command = forked([sys.executable, "-c", code])
    played = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (played.returncode, played.stderr) == (0, "")
    assert not list(tmp_path.glob("rtspecinv-*"))
