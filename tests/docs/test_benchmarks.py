"""Tests that the scripts of bench/ can be imported."""

from __future__ import annotations

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
