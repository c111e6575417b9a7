"""`rtspecinv invert`: its options."""

from __future__ import annotations

import argparse

from rtspecinv.cli import _names as names
from rtspecinv.cli import _options as options
from rtspecinv.cli._options import file_name, preset

RUNS = "_invert.invert"
HELP = "invert a file of magnitudes, or a folder of them"
DESCRIPTION = """\
Invert the magnitudes in SPECTROGRAM (.npy, .npz, .pt, .safetensors), shaped (n_freq, n_frames)
or (channels, n_freq, n_frames). Fields or metadata called sample_rate, n_fft, hop_length and
n_samples, the length of the sound, are used. Two-sided magnitudes have n_fft rows; with n_fft / 2
rows, the row at the Nyquist frequency is missing, and is set to 0. Both need n_fft or --n-fft.

If SPECTROGRAM is a folder, every such file in it and below (except hidden ones) becomes a sound
file of the same name in the folder OUTPUT. Existing sound files are skipped. If a file cannot
be inverted, the command reports it and continues with the other files.

Memory does not grow with the number of frames, except for lbfgs."""
EXAMPLE = "rtspecinv invert magnitude.npy --sample-rate 22050 --hop-length 256 -o sound.wav"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rtspecinv invert`."""
    parser.add_argument(
        "spectrogram", metavar="SPECTROGRAM", type=file_name, help="file, folder, or - for .npy or .npz"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUTPUT",
        type=file_name,
        required=True,
        help="sound file: .wav, .flac or .ogg; - for WAV to standard output; or folder",
    )
    parser.add_argument(
        "--sample-rate", metavar="HZ", type=int, help="sample rate (default: that stored in the file)"
    )
    parser.add_argument(
        "--layout",
        choices=names.LAYOUTS,
        help="order of the last two axes (default: that stored in the file, else freq-time)",
    )
    parser.add_argument(
        "--preset",
        metavar="MODEL",
        type=preset,
        help="parameters of mel frames, if the file does not store them: a .json or .toml file of a "
        f"MelConfig, or one of {', '.join(names.PRESETS)}",
    )
    parser.add_argument(
        "--array",
        metavar="NAME",
        help="name of the array in each file (default: the only one, or else magnitude)",
    )
    parser.add_argument(
        "--scaling",
        choices=names.SCALINGS,
        help="scaling of scipy to undo: spectrum or psd of scipy.signal.stft, magnitude or psd of "
        "ShortTimeFFT",
    )
    parser.add_argument(
        "--format",
        choices=(*names.FORMATS, names.PARQUET),
        help="format of the outputs of a folder (default: wav); parquet, tables of samples, needs --on",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing sound files of a folder")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="print the spectral convergence of each file of a folder, which takes time",
    )
    options.add_stft_options(parser, n_fft=None, hop_length=None)
    group = parser.add_argument_group("inversion")
    group.add_argument(
        "--method",
        choices=names.METHODS,
        default=names.METHODS[0],
        help="stream: frame by frame, as `play` does. lbfgs: L-BFGS on the samples, with the whole file in "
        "memory. The others: rules that iterate over blocks of frames, starting from the stream: agla "
        "is accelerated Griffin-Lim, hybrid the difference map and then agla (default: %(default)s). Mel "
        "frames are inverted as a stream, or with --method lbfgs by L-BFGS",
    )
    group.add_argument(
        "--n-iter",
        metavar="N",
        type=int,
        help="stream: iterations per frame (default: 8, up to 16 for long hops). The others: iterations over "
        f"all frames (default: {names.BATCH_ITERATIONS}). More is slower",
    )
    options.add_stream_options(parser.add_argument_group("inversion with --method stream"))
    group = parser.add_argument_group("inversion of a folder by a cluster")
    group.add_argument(
        "--on",
        choices=names.CLUSTERS,
        help="ray: by Ray Data, on the cores of this machine or on a cluster. The folder may also contain "
        "Parquet files, with a spectrogram in each row, and .npz files of many arrays",
    )
    group.add_argument(
        "--address", metavar="ADDRESS", help="address of a cluster, as for ray.init (default: this machine)"
    )
    group.add_argument(
        "--workers", metavar="N", type=int, help="number of workers (default: one for each CPU)"
    )
    group.add_argument(
        "--worker-gpus",
        metavar="SHARE",
        type=float,
        help="share of a GPU that a worker uses, such as 0.5 (default: 0, it works on its CPU)",
    )
