"""`rtspecinv demo`: its options."""

from __future__ import annotations

import argparse
from pathlib import Path

from rtspecinv.cli import _options as options
from rtspecinv.cli._options import file_name

RUNS = "_demo.demo"
HELP = "play a generated clip, rebuilt from its magnitudes alone"
DESCRIPTION = """\
Render a few seconds of plucked strings and a voice, play them as `play` does, and write the
original, the inverted sound and a picture of both spectrograms."""
EXAMPLE = "rtspecinv demo -o demo-folder"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rtspecinv demo`."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        type=file_name,
        default=Path("rtspecinv-demo"),
        help="default: %(default)s",
    )
    options.add_stft_options(parser, n_fft=1024, hop_length=256)
    options.add_inverter_options(parser)
    options.add_no_device(options.add_device_options(parser))
