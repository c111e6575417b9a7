"""Options that several subcommands share, and functions that parse the values of options."""

from __future__ import annotations

import argparse
import difflib
from contextlib import suppress
from pathlib import Path

from rtspecinv.cli import _names as names


def raw_format(text: str) -> tuple[int, int]:
    """Return sample rate in Hz and channels, default 1, of "RATE" or "RATE:CHANNELS"."""
    rate, colon, channels = text.partition(":")
    if not (rate.isdecimal() and int(rate) and (not colon or (channels.isdecimal() and int(channels)))):
        raise argparse.ArgumentTypeError(f"{text!r} is not RATE or RATE:CHANNELS, such as 22050 or 48000:2")
    return int(rate), int(channels or 1)


def file_name(text: str) -> Path:
    """Return the path of a file or folder; an empty name, as of an unset shell variable, is an error."""
    if not text:
        raise argparse.ArgumentTypeError("the file name is empty: is a shell variable not set?")
    return Path(text)


def preset(text: str) -> str:
    """Return the name of a preset or of a configuration file; any other text is an error."""
    if text in names.PRESETS or Path(text).suffix.lower() in names.CONFIG_FILES:
        return text
    near = difflib.get_close_matches(text, names.PRESETS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the presets are {', '.join(names.PRESETS)}"
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither a preset nor a {' or '.join(names.CONFIG_FILES)} file; {hint}"
    )


def device(text: str) -> int | str:
    """Return the number or the name of a sound device."""
    return int(text) if text.isdecimal() else text


def latency(text: str) -> float | str:
    """Return a device latency: "low", "high" or seconds."""
    if text in names.LATENCIES:
        return text
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) <= names.LONGEST_LATENCY:
            return seconds
    known = ", ".join(names.LATENCIES)
    raise argparse.ArgumentTypeError(
        f"{text!r} is not {known} or seconds from 0 to {names.LONGEST_LATENCY:g}"
    )


def counts(text: str) -> list[int]:
    """Return integers that commas separate, without duplicates."""
    try:
        return list(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers, such as 1,4,16") from error


def transforms(text: str) -> list[tuple[int, int]]:
    """Return pairs of n_fft and hop_length that commas separate, such as 1024/256, without duplicates."""
    pairs = (word.split("/") for word in text.split(","))
    try:
        return list(dict.fromkeys((int(n_fft), int(hop_length)) for n_fft, hop_length in pairs))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not n_fft/hop_length, such as 1024/256, or a list such as 512/128,1024/256"
        ) from error


def add_scale_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add options that map rows to frequencies and pixels to levels.

    default: frequency scale, or None if values in the picture's metadata replace the defaults.
    """
    group = parser.add_argument_group("pixels")
    group.add_argument(
        "--scale",
        choices=names.PICTURE_SCALES,
        default=default,
        help="frequency scale of the rows (default: linear)",
    )
    group.add_argument(
        "--fmin", metavar="HZ", type=float, help="frequency of the lowest row (default: 0; log: 20)"
    )
    group.add_argument(
        "--fmax", metavar="HZ", type=float, help="frequency of the highest row (default: half the rate)"
    )
    group.add_argument(
        "--range",
        metavar="DB",
        type=float,
        default=default and names.RANGE_DB,
        help=f"level difference between white and black (default: {names.RANGE_DB:g})",
    )


def add_stft_options(
    parser: argparse.ArgumentParser,
    n_fft: int | None,
    hop_length: int | None,
    *,
    known: str = "from the file's metadata or its shape",
    hop_known: str = "from the file's metadata, else n_fft / 4",
) -> None:
    """Add `--n-fft` and `--hop-length`.

    n_fft, hop_length: default values, None for those that `known` and `hop_known` describe.
    """
    group = parser.add_argument_group("spectrogram")
    known = f"default: {n_fft or known}"
    group.add_argument("--n-fft", metavar="N", type=int, default=n_fft, help=f"samples in a frame ({known})")
    known = f"default: {hop_length or hop_known}"
    group.add_argument(
        "--hop-length",
        metavar="N",
        type=int,
        default=hop_length,
        help=f"samples from one frame to the next ({known})",
    )


def add_inverter_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("inversion")
    add_stream_options(group)
    group.add_argument("--n-iter", metavar="N", type=int, help="iterations per frame; more is slower")


def add_stream_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--update", metavar="NAME", help=f"update rule: {', '.join(names.RULES)}")
    group.add_argument(
        "--init", metavar="NAME", help=f"first phase of the newest frame: {', '.join(names.STARTS)}"
    )
    group.add_argument(
        "--look-ahead",
        metavar="K",
        type=int,
        help="number of later frames that arrive before a frame is final; a larger value adds latency",
    )
    group.add_argument(
        "--revise",
        metavar="R",
        type=int,
        help="number of final frames that are revised until they are played; more is slower",
    )


def add_device_options(
    parser: argparse.ArgumentParser, default_latency: str = "high"
) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("sound device")
    group.add_argument(
        "-d",
        "--device",
        metavar="DEVICE",
        type=device,
        help="device number or part of its name, see `rtspecinv devices`",
    )
    group.add_argument(
        "--latency",
        type=latency,
        default=default_latency,
        help="the device's buffering: low, high or seconds (default: %(default)s)",
    )
    return group


def add_no_device(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--no-device", action="store_true", help="write the file without playing it")
