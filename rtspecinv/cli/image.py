"""`rtspecinv image`: its options."""

from __future__ import annotations

import argparse

from rtspecinv.cli import _names as names
from rtspecinv.cli import _options as options
from rtspecinv.cli._options import device, file_name

RUNS = "_image.image"
HELP = "turn any picture into sound"
DESCRIPTION = """\
Read PICTURE (PNG, TIFF, JPEG, ...) as a magnitude spectrogram: rows are frequencies, columns are
time, bright is loud, black is silence. Parameters stored by `rtspecinv picture` are used."""
EXAMPLE = "rtspecinv image photo.jpg --seconds 5 --scale log -o photo.wav"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rtspecinv image`."""
    parser.add_argument("picture", metavar="PICTURE", type=file_name)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=file_name,
        help="write .wav, .flac or .ogg, or WAV to standard output (-), instead of playing",
    )
    parser.add_argument("--seconds", metavar="S", type=float, help="length of the sound")
    parser.add_argument(
        "--sample-rate",
        metavar="HZ",
        type=int,
        help="sample rate; another rate than that of the picture changes speed and pitch (default: that of "
        f"the picture, else {names.PICTURE_RATE})",
    )
    parser.add_argument(
        "--dark-is-loud", action="store_true", help="dark pixels are loud, bright pixels are silent"
    )
    options.add_scale_options(parser, default=None)
    known = f"from the picture's metadata, else {names.PICTURE_N_FFT}"
    options.add_stft_options(parser, n_fft=None, hop_length=None, known=known)
    group = parser.add_argument_group("inversion")
    group.add_argument("--update", metavar="NAME", help=f"update rule: {', '.join(names.RULES)}")
    group.add_argument("--look-ahead", metavar="K", type=int, help="number of later frames that are used")
    group.add_argument("--n-iter", metavar="N", type=int, help="iterations per frame; more is slower")
    parser.add_argument("-d", "--device", metavar="DEVICE", type=device, help="number or name of the device")
