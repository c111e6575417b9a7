"""Tests that the scripts of bench/ can be imported, and that their page has their captions."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import jackd
import pytest

BENCH = Path(__file__).parents[2] / "bench"


ROOM = "room"  # loads a client of JACK


def load(*names: str) -> None:
    code = (
        "import importlib, sys; path = sys.path[:]\n"
        f"for name in {names}: sys.path[:] = path; importlib.import_module(name)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=BENCH, check=True)


@pytest.mark.slow
def test_every_script_loads():
    for name, extra in (("soxr", "files"), ("cuda", "gpu")):
        pytest.importorskip(name, reason=f'{name} is missing: pip install "rtspecinv[{extra}]"')
    names = sorted(path.stem for path in BENCH.glob("*.py"))
    assert len(names) > 12
    load(*(name for name in names if name != ROOM))


@pytest.mark.slow
def test_the_room_loads():
    if reason := jackd.missing():
        pytest.skip(reason)
    load(ROOM)


def test_captions_on_the_page_are_those_of_the_scripts():
    """The docstring of a function is the heading and the caption of its table; only headings change case."""
    page = (BENCH / "README.md").read_text("utf-8")
    n_found = 0
    for path in BENCH.glob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            name = getattr(node, "name", "").replace("_", " ")
            heading = name.replace("gpu", "GPU") if name.startswith("gpu") else name.capitalize()
            found = re.search(rf"^### {re.escape(heading)}: (.*)\n\n(.*)$", page, re.MULTILINE)
            if found is not None and isinstance(node, ast.FunctionDef):
                n_found += 1
                words = " ".join((ast.get_docstring(node) or "").split())
                caption = "" if found[2].startswith("|") else f" {found[2]}"
                assert f"{found[1]}.{caption}".lower() == words.lower(), name
    assert n_found > 25
