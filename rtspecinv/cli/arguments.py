"""Values of options, from the texts that they are given as."""

from __future__ import annotations

import argparse
from pathlib import Path


def raw_format(text: str) -> tuple[int, int]:
    """Parse "RATE" or "RATE:CHANNELS"."""
    rate, colon, channels = text.partition(":")
    if not (rate.isdecimal() and int(rate) and (not colon or (channels.isdecimal() and int(channels)))):
        raise argparse.ArgumentTypeError(f"{text!r} is not RATE or RATE:CHANNELS, such as 22050 or 48000:2")
    return int(rate), int(channels or 1)


def file_name(text: str) -> Path:
    """Parse the name of a file or folder; an empty one is a variable that nobody has set, not this folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty: is a variable not set?")
    return Path(text)
