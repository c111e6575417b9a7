"""Opening of the files and pipes that the command line names: `-`, `/dev/stdin`, `/dev/stdout`, pipes."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rtspecinv.common.printable import printable
from rtspecinv.common.whole_files import is_stream

if TYPE_CHECKING:
    from rtspecinv.audio import AudioReader, AudioStream

_TAKES_SOUND = ("play", "live", "invert", "image")  # subcommands whose output is a sound file
_INPUTS = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
_OUTPUTS = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_MAGIC = {b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz"}


def is_standard_output(path: Path | None) -> bool:
    """Return whether an output path means the program's standard output."""
    return path is not None and str(path) in _OUTPUTS


@contextmanager
def sound_to_standard_output(args: argparse.Namespace) -> Iterator[None]:
    """Return a context in which messages go to standard error if sound goes to standard output.

    Raises:
        ValueError: sound goes to standard output, which is a terminal or closed.
    """
    if args.command not in _TAKES_SOUND or not is_standard_output(args.output):
        yield
        return
    if sys.__stdout__ is None:
        raise ValueError("Standard output is closed: give a file with -o FILE")
    if os.isatty(1):
        raise ValueError("Standard output is a terminal: send it to a program or a file, or give -o FILE")
    with redirect_stdout(sys.stderr):
        yield


def sound_output(path: Path) -> Path | BinaryIO:
    """Return the path or file that `FileSink` writes to; an open file for standard output."""
    return open(1, "wb", closefd=False) if is_standard_output(path) else path


def named(path: Path) -> str:
    """Return the name of an output for messages."""
    return "standard output" if is_standard_output(path) else printable(path)


def sound_input(path: Path, raw: tuple[int, int] | None) -> AudioReader | AudioStream:
    """Return a reader of a sound file, or of a stream that contains WAV or raw samples.

    path: name of a file or pipe, or "-" for standard input.
    raw: sample rate in Hz and number of channels of raw samples, None for WAV or a sound file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the content is not sound.
    """
    from rtspecinv.audio import AudioStream  # imported here so that `--help` loads neither numpy nor torch

    if str(path) in _INPUTS:
        return AudioStream(_standard_input(), raw=raw, name="standard input")
    if raw is not None or is_stream(path):
        return AudioStream(open(path, "rb"), raw=raw, name=str(path))
    return sound_file(path)


def sound_file(path: Path) -> AudioReader:
    """Return a reader of a sound file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not sound; the message names the command that converts it to sound.
    """
    from rtspecinv.audio import AudioReader
    from rtspecinv.files.opening import LOADERS, no_sound

    if path.suffix.lower() in LOADERS and path.is_file():  # libsndfile would open some of these as sound
        raise no_sound(path)
    try:
        return AudioReader(path)
    except ValueError as error:
        if "is not audio" not in str(error):
            raise
        raise no_sound(path) from error


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise ValueError("Standard input is closed: give a file")
    if sys.stdin.isatty():
        raise ValueError("Standard input is a terminal: send it a file or the output of a program")
    return sys.stdin.buffer


@contextmanager
def spectrogram_file(path: Path) -> Iterator[Path]:
    """Return a context whose value is the file to read: `path`, or a temporary copy of the content of a pipe.

    Raises:
        ValueError: the content of a pipe is not .npy or .npz.
    """
    is_standard = str(path) in _INPUTS
    if not is_standard and not is_stream(path):
        yield path
        return
    source = _standard_input() if is_standard else open(path, "rb")  # noqa: SIM115
    begin = source.read(6)
    suffix = next((suffix for magic, suffix in _MAGIC.items() if begin.startswith(magic)), None)
    if suffix is None:
        raise ValueError(f"{'Standard input' if is_standard else printable(path)} is not .npy or .npz")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"{'standard-input' if is_standard else path.stem}{suffix}"
        with open(copy, "wb") as file:
            file.write(begin)
            while part := source.read(2**20):
                file.write(part)
        yield copy


def refuse_same_file(source: Path, output: Path) -> None:
    """Raise `ValueError` if the output is the same file as the input."""
    if output.exists() and source.exists() and output.samefile(source):
        raise ValueError(f"{printable(output)} is the input: choose another name for the output")
