"""`rtspecinv export`: its options."""

from __future__ import annotations

import argparse

from rtspecinv.cli import _names as names
from rtspecinv.cli import _options as options
from rtspecinv.cli._options import file_name, preset

RUNS = "_export.export"
HELP = "write one push of a stream into a file for other programs: ONNX or torch.export"
DESCRIPTION = """\
Write one push of a stream into a file that other programs run without Python: a function that
takes a frame and a state, and returns a hop of samples and the next state. docs/export.md
describes its inputs and outputs."""
EXAMPLE = "rtspecinv export --preset hifigan-22k --look-ahead 3 -o step.onnx"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rtspecinv export`."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=file_name,
        required=True,
        help="name of the file: .onnx, or .pt2 for torch.export.load",
    )
    parser.add_argument(
        "--preset",
        metavar="MODEL",
        type=preset,
        help="parameters of mel frames, which the file then takes in place of magnitudes, so that --n-fft, "
        "--hop-length and --sample-rate are not allowed: a .json or .toml file of a MelConfig, or one of "
        f"{', '.join(names.PRESETS)}",
    )
    parser.add_argument(
        "--sample-rate", metavar="HZ", type=int, help="sample rate for the file's metadata (default: none)"
    )
    options.add_stft_options(parser, n_fft=None, hop_length=None, known="1024", hop_known="n_fft / 4")
    options.add_inverter_options(parser)
