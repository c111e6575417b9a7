"""`rtspecinv bench`: its options."""

from __future__ import annotations

import argparse

from rtspecinv.cli import _names as names
from rtspecinv.cli._options import counts, file_name, transforms

RUNS = "_bench.bench"
HELP = "measure the time of a push on this machine"
DESCRIPTION = """\
Push frames, and print the time of a push (µs: minimum, 50th, 95th and 99th percentile, maximum),
the number of streams for which 99 of 100 pushes take less than one hop, and the sound quality.
Engines are measured in turn, after a warm-up that is not counted."""
EXAMPLE = "rtspecinv bench --engines all --n-iter 8,32 --json bench.json --plot bench.png"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rtspecinv bench`."""
    parser.add_argument(
        "audio",
        metavar="AUDIO",
        type=file_name,
        nargs="?",
        help=f"recording, the first {names.BENCH_SECONDS:g} seconds of which are inverted (default: the demo "
        "clip)",
    )
    group = parser.add_argument_group("settings; commas separate the values of a list")
    group.add_argument(
        "--engines",
        metavar="A,B",
        type=_words,
        default=["auto"],
        help=f"engines: {', '.join(names.ENGINES)}, or all (default: auto)",
    )
    group.add_argument(
        "--device", choices=names.DEVICES, help="device (default: all that the engine can run on)"
    )
    group.add_argument(
        "--transforms", metavar="N/H,...", type=transforms, default=[(1024, 256)],
        help="n_fft/hop_length (default: 1024/256)",
    )  # fmt: skip
    for option, default, what in (
        ("--look-ahead", [3], "future frames used before a frame is final"),
        ("--n-iter", [8, 2, 4, 16, 32], "iterations per frame"),
        ("--streams", [1, 4, 16], "streams in one inverter"),
    ):
        group.add_argument(
            option, metavar="N,...", type=counts, default=default,
            help=f"{what} (default: {','.join(map(str, default))})",
        )  # fmt: skip
    group.add_argument(
        "--every",
        action="store_true",
        help="measure every setting with every number of streams; otherwise, the first setting is measured "
        "with every number of streams, and the others with the first number",
    )
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--threads", metavar="N", type=int, default=1, help="CPU threads (default: %(default)s)"
    )
    group.add_argument(
        "--pushes",
        metavar="N",
        type=int,
        default=2000,
        help="timed pushes of each setting (default: %(default)s)",
    )
    group.add_argument("--quick", action="store_true", help=f"{names.QUICK} times fewer pushes")
    group.add_argument(
        "--c-reference", metavar="FILE.c", type=file_name,
        help="program to compare with: called with n_fft, hop_length, look_ahead and n_iter it prints the "
        "microseconds of a push. It is compiled with FFTW and run",
    )  # fmt: skip
    group = parser.add_argument_group("output")
    group.add_argument("--json", metavar="FILE", type=file_name, help="write all numbers to FILE")
    group.add_argument(
        "--plot",
        metavar="FILE.png",
        type=file_name,
        help="draw cost against streams and quality against cost",
    )


def _words(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]
