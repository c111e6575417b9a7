"""The README's snippets run, its commands exist, and its numbers are the bench's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from rtspecinv.cli._parser import parser
from rtspecinv.metrics import sc

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_python_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in snippets("python"):
        if "SoundDeviceSink" not in code:
            exec(compile(code, "README.md", "exec"), names)
    assert names["samples"].shape == (44032,)
    assert (tmp_path / "sound.wav").stat().st_size == 44 + 2 * 44032
    # torch_specinv's examples, and what came of them.
    offline, y, yhat, from_mel = (names[name] for name in ("offline", "y", "yhat", "from_mel"))
    assert sc(names["stft"].magnitude(offline), names["magnitude"]) < -35
    assert sc(names["transform"](yhat), names["transform"](y)) < -20
    linear, mel_frames = names["preset"].linear, names["mel_frames"]
    assert sc(linear(from_mel), names["preset"].expand(mel_frames)) < -25
    assert sc(linear(names["at_once"]), names["preset"].expand(mel_frames)) < -10


@pytest.mark.parametrize("card", ["patient"], indirect=True)
def test_the_device_snippet_plays(card, capsys):
    names: dict[str, object] = {}
    first, *others = snippets("python")
    (code,) = (code for code in others if "SoundDeviceSink" in code)
    # The virtual card has one rate.
    exec(compile(first + code.replace("22050", "48000"), "README.md", "exec"), names)
    assert re.fullmatch(r"\d+ underflows\n", capsys.readouterr().out)  # how many is up to the machine


def test_commands_exist():
    lines = [re.split("[#|]", line)[0].strip() for block in snippets("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("rtspecinv ")]
    assert len(commands) >= 4
    for command in commands:
        parser().parse_args(command)
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    assert targets == {"demo", "quick", "test", "bench"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)


def test_numbers_are_those_of_the_bench():
    measured = (ROOT / "bench" / "README.md").read_text()
    for name in ("measured", "offline", "mel", "pictures", "live"):
        table = README.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0]
        numbers = re.findall(r"-\d+\.\d+|\b[234]\.\d\d\b", table)
        assert len(numbers) >= 8
        assert all(number in measured for number in numbers)
