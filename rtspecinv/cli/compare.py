"""`rtspecinv compare`: its options."""

from __future__ import annotations

import argparse
from pathlib import Path

from rtspecinv.cli import _names as names
from rtspecinv.cli import _options as options
from rtspecinv.cli._options import file_name

RUNS = "_compare.compare"
HELP = "invert a recording by every method, and compare"
DESCRIPTION = """\
Analyse AUDIO (WAV, FLAC, OGG, MP3; its channels mixed into one), discard the phase, and invert
the magnitudes by every method. Prints a table and writes a folder: index.html, one page with
table, plot, spectrograms and sounds; results.json; a WAV file of each method."""
EXAMPLE = "rtspecinv compare song.flac --seconds 10 -o report"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rtspecinv compare`."""
    parser.add_argument("audio", metavar="AUDIO", type=file_name)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        type=file_name,
        default=Path("rtspecinv-report"),
        help="default: %(default)s",
    )
    parser.add_argument("--seconds", metavar="S", type=float, help="use only the first S seconds")
    parser.add_argument(
        "--methods",
        metavar="A,B,...",
        help=f"methods to compare, of {', '.join(names.CONTESTANTS)} (default: all)",
    )
    parser.add_argument(
        "--n-iter",
        metavar="N",
        type=int,
        default=names.BATCH_ITERATIONS,
        help="iterations of the methods that process the whole recording; streams use 8 per frame "
        "(default: %(default)s)",
    )
    options.add_stft_options(parser, n_fft=1024, hop_length=256)
