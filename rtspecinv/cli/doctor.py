"""`rtspecinv doctor`: it has no options."""

from __future__ import annotations

import argparse

RUNS = "_doctor.doctor"
HELP = "check the installation and the speed of this machine"
DESCRIPTION = """\
Check Python, torch, the extras, PortAudio and the devices, play a second of silence, and
measure the time of a push. If something is missing, a line states the remedy. The exit
status is 1 if no sound can be played."""
EXAMPLE = "rtspecinv doctor"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""
