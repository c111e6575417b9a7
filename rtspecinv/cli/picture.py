"""`rtspecinv picture`: its options."""

from __future__ import annotations

import argparse

from rtspecinv.cli import _options as options
from rtspecinv.cli._options import file_name

RUNS = "_picture.picture"
HELP = "draw an audio file as a picture that `image` can play"
DESCRIPTION = """\
Draw the magnitudes of AUDIO, its channels mixed into one, as grey values in dB, and store
the parameters in the picture."""
EXAMPLE = "rtspecinv picture song.flac -o song.png"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rtspecinv picture`."""
    parser.add_argument("audio", metavar="AUDIO", type=file_name)
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=file_name, required=True, help="picture: .png or .tiff"
    )
    parser.add_argument(
        "--height", metavar="ROWS", type=int, help="number of rows (default: one per frequency)"
    )
    parser.add_argument(
        "--bits", type=int, choices=(8, 16), default=16, help="bits of a grey value (default: %(default)s)"
    )
    options.add_scale_options(parser, default="linear")
    options.add_stft_options(parser, n_fft=1024, hop_length=256)
