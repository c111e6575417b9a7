"""Implementation of `rtspecinv devices`."""

from __future__ import annotations

import argparse

from rtspecinv.audio import device_table


def devices(args: argparse.Namespace) -> None:
    """Print a table of the sound devices."""
    print(device_table())
