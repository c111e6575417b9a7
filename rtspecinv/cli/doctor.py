"""Options of `rtspecinv doctor`."""

from __future__ import annotations

import argparse

from rtspecinv.cli import _names as names
from rtspecinv.cli._options import preset

RUNS = "_doctor.doctor"
HELP = "check the installation and the speed of this machine"
DESCRIPTION = """\
Check Python, torch, the extras, PortAudio and the devices, play a second of silence, and
measure the time of a push. If something is missing, a line states the remedy. The exit
status is 1 if no sound can be played. The last lines state how many frequencies of the
spectrum there are for each band of a mel spectrogram, and what this means."""
EXAMPLE = "rtspecinv doctor --preset hifigan-22k"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--preset",
        metavar="MODEL",
        type=preset,
        help="mel spectrogram to describe: a .json or .toml file of a MelConfig, or one of "
        f"{', '.join(names.PRESETS)} (default: all of these)",
    )
