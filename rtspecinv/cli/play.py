"""`rtspecinv play`: its options."""

from __future__ import annotations

import argparse

from rtspecinv.cli import _names as names
from rtspecinv.cli import _options as options
from rtspecinv.cli._options import file_name, raw_format

RUNS = "_play.play"
HELP = "play an audio file, rebuilt from its magnitudes alone"
DESCRIPTION = """\
Analyse AUDIO (WAV, FLAC, OGG, MP3), discard the phase, and invert the magnitudes frame by
frame during playback."""
EXAMPLE = "rtspecinv play song.flac --look-ahead 1 -o song-inverted.wav"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rtspecinv play`."""
    parser.add_argument(
        "audio", metavar="AUDIO", type=file_name, help="sound file, or - for WAV on standard input"
    )
    parser.add_argument(
        "--raw",
        metavar="RATE[:CHANNELS]",
        type=raw_format,
        help="AUDIO has no header: 16-bit little-endian integers at RATE Hz",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=file_name,
        help="write the sound to FILE (.wav, .flac, .ogg) as well; - is WAV to standard output",
    )
    parser.add_argument("--mono", action="store_true", help="mix all channels into one")
    parser.add_argument(
        "--rate",
        metavar="R",
        type=float,
        default=1.0,
        help="speed at the same pitch, from {:g} to {:g}: 0.5 is half (default: 1)".format(
            *names.STRETCH_RATES
        ),
    )
    options.add_stft_options(parser, n_fft=1024, hop_length=256)
    options.add_inverter_options(parser)
    options.add_no_device(options.add_device_options(parser))
