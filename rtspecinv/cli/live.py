"""`rtspecinv live`: its options."""

from __future__ import annotations

import argparse

from rtspecinv.cli import _names as names
from rtspecinv.cli import _options as options
from rtspecinv.cli._options import device, file_name

RUNS = "_live.live"
HELP = "play a microphone in real time, rebuilt from its magnitudes alone"
DESCRIPTION = """\
Record, discard the phase, invert the magnitudes frame by frame, and play the result, until
Ctrl-C. The command first prints the expected latency. Wear headphones."""
EXAMPLE = "rtspecinv live --look-ahead 1 --queue 0.01 --pitch -5 -o voice.wav"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rtspecinv live`."""
    group = parser.add_argument_group("effects")
    group.add_argument(
        "--freeze",
        metavar="S",
        type=float,
        nargs="?",
        const=1.0,
        help="freeze the sound after S seconds (default: 1 second); Enter unfreezes it, and freezes it again",
    )
    group.add_argument(
        "--stretch",
        metavar="R",
        type=float,
        default=1.0,
        help=f"slow down at the same pitch, from {names.STRETCH_RATES[0]:g} to 1: 0.5 is half the speed; it "
        "skips to the newest sound when it is 10 s behind",
    )
    group.add_argument(
        "--pitch",
        metavar="SEMITONES",
        type=float,
        default=0.0,
        help="shift in semitones from -36 to 36: 12 is an octave up, -12 an octave down",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=file_name,
        help="also write the played sound to FILE; - is standard output",
    )
    parser.add_argument("--seconds", metavar="S", type=float, help="end after S seconds")
    group = options.add_device_options(parser, default_latency="low")
    group.add_argument(
        "-i",
        "--input",
        metavar="DEVICE",
        type=device,
        help="number or part of the name of the device to record from",
    )
    group.add_argument(
        "--two-streams",
        action="store_true",
        help="open separate streams for microphone and speakers of one device; some drivers need it",
    )
    group.add_argument(
        "--sample-rate", metavar="HZ", type=int, help="rate of the microphone (default: the device's own)"
    )
    group.add_argument(
        "--queue",
        metavar="SECONDS",
        type=float,
        default=0.02,
        help="queued sound in seconds, which prevents gaps on a busy machine (default: %(default)s)",
    )
    options.add_stft_options(parser, n_fft=1024, hop_length=256)
    options.add_inverter_options(parser)
