"""Tests of the README: its code runs, its commands exist, and its numbers are those of the benchmarks."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import served
import torch

from rtspecinv import presets
from rtspecinv.cli._parser import parser
from rtspecinv.client import URL as CLIENT_URL
from rtspecinv.metrics import sc

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# Pages with a few rows of a table of bench/README.md; the table of `diagnose` is in docs/mel.md alone.
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text("utf-8")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
SUMMARIES = {
    name: page
    for page, text in PAGES.items()
    for name in re.findall(r"^<!-- (\w+):begin -->$", text, re.MULTILINE)
    if name != "diagnose"
}


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_python_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in snippets("python"):
        if "SoundDeviceSink" not in code:
            exec(compile(code, "README.md", "exec"), names)
    assert names["samples"].shape == (44032,)
    assert sc(names["stft"].magnitude(names["offline"]), names["magnitude"]) < -35
    linear, mel_frames = names["preset"].linear, names["mel_frames"]
    assert sc(linear(names["from_mel"]), names["preset"].expand(mel_frames)) < -25
    assert sc(linear(names["at_once"]), names["preset"].expand(mel_frames)) < -10
    assert len(names["hops"]) == mel_frames.shape[-1]


def test_the_client_snippet_returns_what_an_inverter_returns():
    for name, extra in (("aiohttp", "serve"), ("rocket_fft", "fast")):
        pytest.importorskip(name, reason=f'{name} is missing: pip install "rtspecinv[{extra}]"')
    (code,) = snippets("py")
    preset = presets["hifigan-22k"]
    names: dict[str, Any] = {"mel_frames": preset(torch.sin(0.05 * torch.arange(22050)))}
    with served.served() as server:
        assert CLIENT_URL in code
        exec(compile(code.replace(CLIENT_URL, server.stream), "README.md", "exec"), names)
    expected = preset.inverter().run(names["mel_frames"])
    assert len(expected) > 22050 - preset.config.hop_length
    np.testing.assert_array_equal(names["samples"], expected.numpy())


@pytest.mark.parametrize("card", ["patient"], indirect=True)
def test_the_device_snippet_plays(card, capsys):
    names: dict[str, Any] = {}
    first, *others = snippets("python")
    (code,) = (code for code in others if "SoundDeviceSink" in code)
    # The virtual card supports one rate.
    exec(compile(first + code.replace("22050", "48000"), "README.md", "exec"), names)
    assert re.fullmatch(r"\d+ underflows\n", capsys.readouterr().out)  # the number depends on the machine


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


def test_the_readme_is_short():
    assert len(README.encode()) <= 9000


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", README)
    assert len(links) >= 10
    for page, anchor in links:
        assert (ROOT / page).exists(), page
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}


@pytest.mark.parametrize("name", ["measured", "offline", "mel", "pictures", "live"])
def test_numbers_are_those_of_the_bench(name):
    measured = (ROOT / "bench" / "README.md").read_text()
    table = PAGES[SUMMARIES[name]].split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0]
    numbers = re.findall(r"-\d+\.\d+|\b[234]\.\d\d\b", table)
    assert len(numbers) >= 8
    assert all(number in measured for number in numbers)
    assert re.search(r"^From .*commit [0-9a-f]{7}|\. From .*commit [0-9a-f]{7}", table, re.MULTILINE)


def test_the_scripts_write_each_table_where_it_is():
    scripts = {path.stem: path.read_text() for path in (ROOT / "bench").glob("*.py")}
    (known,) = re.findall(r"^SUMMARIES = (\{.*?^\})", scripts["page"], re.MULTILINE | re.DOTALL)
    assert ast.literal_eval(known) == SUMMARIES
    for name in SUMMARIES:
        assert sum(f'summarise("{name}"' in text for text in scripts.values()) == 1
