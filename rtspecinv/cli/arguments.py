"""Values of options, from the texts that they are given as."""

from __future__ import annotations

import argparse
import difflib
from contextlib import suppress
from pathlib import Path

from rtspecinv.cli import names


def raw_format(text: str) -> tuple[int, int]:
    """Parse "RATE" or "RATE:CHANNELS"."""
    rate, colon, channels = text.partition(":")
    if not (rate.isdecimal() and int(rate) and (not colon or (channels.isdecimal() and int(channels)))):
        raise argparse.ArgumentTypeError(f"{text!r} is not RATE or RATE:CHANNELS, such as 22050 or 48000:2")
    return int(rate), int(channels or 1)


def file_name(text: str) -> Path:
    """Parse the name of a file or folder; an empty one is a variable that nobody has set, not this folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty: is a variable not set?")
    return Path(text)


def preset(text: str) -> str:
    """Name of a preset or of a file that has a configuration."""
    if text in names.PRESETS or Path(text).suffix.lower() in names.CONFIG_FILES:
        return text
    near = difflib.get_close_matches(text, names.PRESETS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names.PRESETS)}"
    raise argparse.ArgumentTypeError(
        f"{text!r} is no preset and no {' or '.join(names.CONFIG_FILES)} file; {hint}"
    )


def device(text: str) -> int | str:
    """Parse a number or a name."""
    return int(text) if text.isdecimal() else text


def latency(text: str) -> float | str:
    """Parse "low", "high" or seconds."""
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
    """Parse integers between commas, each of them once."""
    try:
        return list(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not integers between commas, such as 1,4,16"
        ) from error


def transforms(text: str) -> list[tuple[int, int]]:
    """Parse n_fft/hop_length, or several between commas, each of them once."""
    pairs = (word.split("/") for word in text.split(","))
    try:
        return list(dict.fromkeys((int(n_fft), int(hop_length)) for n_fft, hop_length in pairs))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not n_fft/hop_length, such as 1024/256, or several between commas"
        ) from error
