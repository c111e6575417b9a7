"""Tests of the documentation: its code runs, commands and links exist, it builds without a warning."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import rtspecinv
from rtspecinv.cli._parser import parser

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]


def snippets(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_runs(page, tmp_path, monkeypatch):
    """The code of a page runs from top to bottom, as a reader would run it."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in snippets(page, "python"):
        exec(compile(code, page.name, "exec"), names)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "rtspecinv/engines/README.md"])
def test_files_that_contributors_are_sent_to_exist(page):
    text = (ROOT / page).read_text("utf-8")
    paths = set(re.findall(r"\w[\w/]*\.(?:py|md|toml)\b", text)) | set(re.findall(r"\b(?:\w+/)+\B", text))
    assert len(paths) > 9
    for path in paths:
        assert (ROOT / path).exists() or (ROOT / page).parent.joinpath(path).exists(), path


def inline_code(page: Path) -> list[str]:
    """Return what stands between backticks in the text of a page, without blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def test_source_files_that_the_text_names_exist():
    folders = ("rtspecinv", "bench", "demos", "docs", "tests")
    there = [path.relative_to(ROOT).as_posix() for name in folders for path in (ROOT / name).rglob("*.*")]
    n_found = 0
    for page in TEXTS:
        for code in inline_code(page):
            for name in re.findall(r"(?<![\w./-])[\w./-]+\.(?:py|c|h|cu|cpp|js|mjs|wasm|md)\b", code):
                n_found += 1
                known = (ROOT / name).exists() or any(f"/{path}".endswith(f"/{name}") for path in there)
                assert known, f"{page.name}: {name}"
    assert n_found > 50


def test_options_that_the_text_names_exist():
    """X has the options in `rtspecinv X --option` and `X --option`; any command has those in `--option`."""
    (commands,) = (dict(action.choices) for action in parser()._actions if action.choices)
    options = {name: set(command._option_string_actions) for name, command in commands.items()}
    of_benchmarks = set(re.findall(r'"(--[a-z-]+)"', (ROOT / "bench" / "page.py").read_text("utf-8")))
    n_found = 0
    for page in TEXTS:
        for code in inline_code(page):
            first, *_ = words = code.removeprefix("rtspecinv ").split()
            known = options.get(first, set().union(*options.values()) | of_benchmarks)
            if first in options or first.startswith("-"):
                for word in words:
                    if re.fullmatch(r"--[a-z][a-z-]*|-[a-z]", word):
                        n_found += 1
                        assert word in known, f"{page.name}: {code}"
    assert n_found > 50


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the workflow runs Python 3.11, which has tomllib")
@pytest.mark.parametrize(
    "urls", ["", '[project.urls]\nSource = "https://example.org"\n'], ids=["without", "with"]
)
def test_a_release_without_addresses_fails(tmp_path, urls):
    workflow = ROOT / ".github" / "workflows" / "release.yml"
    if not workflow.exists():
        pytest.skip("the source distribution has no workflows")
    (code,) = re.findall(
        r"python - <<'END'\n(.*?)^ *END$", workflow.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "a"\n{urls}', "utf-8")
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == (0 if urls else 1)
    assert ("[project.urls]" in done.stderr) == (not urls)


def test_enough_of_the_code_was_found():
    assert sum(len(snippets(page, "python")) for page in PAGES) >= 18


def test_commands_exist():
    lines = [
        re.split("[#|<>]", line)[0]
        for page in PAGES
        for text in snippets(page, "sh")
        for line in text.splitlines()
    ]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("rtspecinv ")]
    assert len(commands) >= 6
    for command in commands:
        parser().parse_args(command)


def test_the_api_page_has_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    shown = set(re.findall(r"^::: rtspecinv\.(?:\w+\.)*(\w+)$", text, re.MULTILINE))
    shown |= {"DeviceError", "presets"}  # these are described on other pages
    assert set(rtspecinv.__all__) <= shown


def test_pictures_are_drawn_by_their_script(tmp_path):
    pytest.importorskip("matplotlib")
    code = (ROOT / "docs" / "drawings.py").read_text("utf-8")
    (tmp_path / "drawings.py").write_text(code, "utf-8")
    subprocess.run([sys.executable, tmp_path / "drawings.py"], check=True)
    for name in ("projections.svg", "buffer.svg"):
        assert b"<svg" in (tmp_path / name).read_bytes()
        assert (ROOT / "docs" / name).stat().st_size < 60_000


def test_the_sounds_of_the_start_page(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    examples = {example.name: example for example in importlib.import_module("hooks").examples()}
    clip = examples.pop("clip")
    assert set(examples) == {"textbook-0", "stream-0", "textbook-3", "stream-3", "mel-3"}
    rms = clip.samples.square().mean().sqrt()
    for example in examples.values():
        assert example.samples.abs().max() < 1
        assert 0 <= len(clip.samples) - len(example.samples) < 256
        assert 0.9 < example.samples.square().mean().sqrt() / rms < 1.1
    for look_ahead in (0, 3):
        stream, textbook = examples[f"stream-{look_ahead}"], examples[f"textbook-{look_ahead}"]
        assert stream.latency == textbook.latency == 256 * look_ahead + 512
        assert stream.convergence < textbook.convergence - 4 < -20
    assert examples["mel-3"].convergence < -20


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    pytest.importorskip("mkdocs", reason='the site needs mkdocs: pip install "rtspecinv[docs]"')
    pytest.importorskip("mkdocstrings", reason='the site needs mkdocstrings: pip install "rtspecinv[docs]"')
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        tmp_path / "site",
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    pages = list((tmp_path / "site").glob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        text = page.read_text("utf-8")
        fetched = re.findall(
            r'<(?:script|img|link|iframe|source)[^>]*(?:src|href)="(?:https?:)?//[^"]+', text
        )
        assert not fetched, f"{page.name} fetches {fetched}"
        assert "<!-- include" not in text
    start = (tmp_path / "site" / "index.html").read_text("utf-8")
    sounds = re.findall(r'<audio[^>]* src="([^"]+)"', start)
    assert len(sounds) == 6
    for path in sounds:
        samples, rate = rtspecinv.read_audio(tmp_path / "site" / path)
        assert rate == 22050
        assert 0.5 < abs(samples).max() < 1
    measured = (ROOT / "README.md").read_text("utf-8").split("<!-- measured:begin -->")[1]
    number, *_ = re.findall(r"\*\*(-\d+\.\d\d)\*\*", measured)
    assert number in (tmp_path / "site" / "choosing.html").read_text("utf-8")
