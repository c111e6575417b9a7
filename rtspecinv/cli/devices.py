"""`rtspecinv devices`: it has no options."""

from __future__ import annotations

import argparse

RUNS = "_devices.devices"
HELP = DESCRIPTION = "list the sound devices"
EXAMPLE = "rtspecinv devices"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""
