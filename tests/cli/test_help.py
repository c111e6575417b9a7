"""Tests of `--help`: it is fast, and its names are those of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rtspecinv
from rtspecinv.audio.portaudio import LATENCIES, LONGEST_LATENCY
from rtspecinv.batch import BATCH_RULES
from rtspecinv.cli import _names as names
from rtspecinv.cli import main
from rtspecinv.common.settings import SUFFIXES
from rtspecinv.conventions import SCALINGS
from rtspecinv.files.metadata import LAYOUTS
from rtspecinv.files.picture_scale import SCALES
from rtspecinv.measure import timing
from rtspecinv.measure.contest import CONTESTANTS

COMMANDS = [
    *("play", "live", "invert", "image", "picture", "compare", "demo", "export", "bench"),
    *("devices", "doctor"),
]


def test_the_names_are_those_of_the_package():
    assert tuple(rtspecinv.engines.ENGINES) == names.ENGINES
    assert tuple(rtspecinv.presets) == names.PRESETS
    assert tuple(rtspecinv.updates.RULES) == names.RULES
    assert tuple(rtspecinv.phase.STARTS) == names.STARTS
    assert tuple(contestant.name for contestant in CONTESTANTS) == names.CONTESTANTS
    assert names.CONFIG_FILES == SUFFIXES
    assert rtspecinv.transforms.RATES == names.STRETCH_RATES
    assert (LAYOUTS, SCALES) == (names.LAYOUTS, names.PICTURE_SCALES)
    assert SCALINGS == names.SCALINGS
    assert (LATENCIES, LONGEST_LATENCY) == (names.LATENCIES, names.LONGEST_LATENCY)
    assert timing.DEVICES == names.DEVICES
    assert set(names.BATCH_RULES) <= {*BATCH_RULES, *rtspecinv.updates.RULES}


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)])
def test_help_loads_neither_torch_nor_numpy(command):
    code = (
        "import sys\nfrom rtspecinv.cli import main\n"
        f"try: main({[*command, '--help']})\n"
        "finally: print(sorted({'torch', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert "usage: rtspecinv" in done.stdout


def test_every_command_is_there(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)
