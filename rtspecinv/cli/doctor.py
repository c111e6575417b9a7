"""`rtspecinv doctor`: it has no options."""

from __future__ import annotations

import argparse

RUNS = "_doctor.doctor"
HELP = "say what this machine has, lacks and can hold"
DESCRIPTION = """\
Look at Python, torch, the extras, PortAudio and the devices, play a second of silence, and
measure what a push costs. Says what helps where something is missing; the status is 1 if
nothing can be played."""
EXAMPLE = "rtspecinv doctor"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""
