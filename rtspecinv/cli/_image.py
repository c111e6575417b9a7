"""Implementation of `rtspecinv image`: it converts a picture to sound."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rtspecinv
from rtspecinv.cli import _names as names
from rtspecinv.cli._files import named, sound_output
from rtspecinv.common.checks import LONGEST_SOUND, MOST_RATE, count
from rtspecinv.common.printable import printable
from rtspecinv.common.threads import one_thread
from rtspecinv.files.bounds import MOST_FRAMES, check_frames
from rtspecinv.files.images import Levels, read_image, resize_columns
from rtspecinv.files.metadata import LENGTH, MEL, understand
from rtspecinv.files.picture_scale import MOST_VALUES, PictureScale, number

# Options whose values a picture's metadata may contain.
_OPTIONS = ("n_fft", "hop_length", "sample_rate", "scale", "fmin", "fmax", "range")
LOUDEST_RMS = 0.15  # RMS of the loudest frame of a picture without a known level; full scale is 1


def image(args: argparse.Namespace) -> None:
    """Convert a picture to sound: rows are frequencies, columns are times, and bright pixels are loud."""
    levels, texts = read_image(args.picture)
    if MEL in texts:
        raise ValueError(f"{printable(args.picture)} is a mel spectrogram: use `rtspecinv invert`")
    try:
        known = understand(texts)
    except ValueError as error:
        raise ValueError(f"{printable(args.picture)}: {error}") from error
    try:
        stft, rate = _transform(args, known)
        scale, shown = _scales(args, texts, known.get("sample_rate", rate), rate, stft.n_fft)
    except ValueError as error:
        if any(getattr(args, name) is not None for name in _OPTIONS):  # an option may be the cause
            raise
        raise ValueError(f"{printable(args.picture)}: {error}") from error
    _check_seconds(args, rate, stft)
    length = _length(args, known, levels.shape[1], rate, stft)
    levels = _columns(args, 1 - levels if args.dark_is_loud else levels, "hop_length" in known, rate, stft)
    magnitude = torch.from_numpy(scale.magnitude(levels))
    if not magnitude.any():
        raise ValueError(
            f"{printable(args.picture)} has only silent pixels: "
            f"{'leave out' if args.dark_is_loud else 'use'} --dark-is-loud"
        )
    if "white" not in texts:
        magnitude *= _gain(magnitude, stft)
    with one_thread():
        sound = rtspecinv.listen(
            magnitude,
            stft=stft,
            sample_rate=rate,
            length=length,
            output=args.output and sound_output(args.output),
            device=args.device,
            update=args.update,
            look_ahead=args.look_ahead,
            n_iter=args.n_iter,
        )
    print(
        f"inverted      {sound.samples.shape[-1] / rate:.2f} s at {rate} Hz, n_fft {stft.n_fft}, hop "
        f"{stft.hop_length}; {shown.lowest:g} to {shown.highest:g} Hz, {shown.scale}, {shown.range_db:g} dB"
    )
    _print_convergence(torch.from_numpy(sound.samples), magnitude, stft)
    output: Path | None = args.output or sound.path
    if output is not None:
        print(f"written       {named(output)}")


def _transform(args: argparse.Namespace, known: Mapping[str, object]) -> tuple[rtspecinv.STFT, int]:
    """Return STFT and sample rate from the options, else from the picture's metadata, else the defaults."""
    whole = {name: value for name, value in known.items() if isinstance(value, int)}
    n_fft = whole.get("n_fft", names.PICTURE_N_FFT) if args.n_fft is None else args.n_fft
    hop_length = whole.get("hop_length", max(1, n_fft // 4)) if args.hop_length is None else args.hop_length
    same = n_fft == whole.get("n_fft")
    others = ("win_length", "window", "normalized", "center", "pad_mode")
    options = {name: known[name] for name in others if name in known and same}
    if args.sample_rate is not None:
        count(1, int(MOST_RATE), sample_rate=args.sample_rate)
    rate = whole.get("sample_rate", names.PICTURE_RATE) if args.sample_rate is None else args.sample_rate
    stft = rtspecinv.STFT(n_fft, hop_length, **options)  # type: ignore[arg-type]  # `understand` checked them
    if args.n_fft is None or args.hop_length is None:
        try:
            check_frames(n_fft, hop_length, 1, rate)
        except ValueError as error:
            unsaid = args.hop_length is None and "hop_length" not in whole
            why = ", and hop_length is n_fft / 4 by default" if unsaid else ""
            larger = 4 * -(-rate // MOST_FRAMES)
            more = f": use --n-fft {larger} or more" if unsaid and n_fft < larger else ""
            raise ValueError(
                f"{error}{why}{more}; if that is right, give both: --n-fft {n_fft} --hop-length {hop_length}"
            ) from error
    return stft, rate


def _scales(
    args: argparse.Namespace, texts: Mapping[str, str], own_rate: Any, rate: int, n_fft: int
) -> tuple[PictureScale, PictureScale]:
    """Return two scales of the picture: at its own sample rate, and at the rate at which it is played.

    Values come from the options, else from the picture's metadata; default: linear, 80 dB. A picture that is
    played at another rate keeps its rows, and all its frequencies are multiplied by the same factor.
    """
    faster = rate / own_rate
    numbers: dict[str, Any] = {
        name: given if given is not None else number(texts, name) * unit if name in texts else default
        for name, given, default, unit in (
            ("fmin", args.fmin, None, faster),
            ("fmax", args.fmax, None, faster),
            ("range_db", args.range, names.RANGE_DB, 1.0),
            ("white", None, 1.0, 1.0),
        )
    }
    shown = PictureScale(rate, n_fft, args.scale or texts.get("scale", "linear"), **numbers)
    if faster == 1:
        return shown, shown
    highest = min(shown.highest / faster, own_rate / 2)
    return replace(shown, sample_rate=own_rate, fmin=shown.lowest / faster, fmax=highest), shown


def _check_seconds(args: argparse.Namespace, rate: int, stft: rtspecinv.STFT) -> None:
    """Raise `ValueError` if `--seconds` is not positive, shorter than a sample or too long."""
    seconds: float | None = args.seconds
    if seconds is None:
        return
    if not 0 < seconds < math.inf:
        raise ValueError(f"Parameter seconds={seconds} is not a finite number > 0")
    if seconds * rate < 1:
        raise ValueError(
            f"--seconds {seconds:g} is shorter than a sample at {rate} Hz: give --seconds "
            f"{stft.hop_length / rate:.9g}, the length of a hop, or more"
        )
    if seconds * rate > LONGEST_SOUND:
        raise ValueError(
            f"--seconds {seconds:g} is more than {LONGEST_SOUND} samples at {rate} Hz: use smaller --seconds"
        )


def _length(
    args: argparse.Namespace, known: Mapping[str, Any], n_columns: int, rate: int, stft: rtspecinv.STFT
) -> int | None:
    """Return the number of samples of the sound; None if neither `--seconds` nor metadata define it.

    The length in the metadata counts only if the picture still has as many columns as that many samples.
    """
    if args.seconds is not None:
        n_samples: int = round(args.seconds * rate)
        return n_samples
    if LENGTH not in known or "hop_length" not in known:
        return None
    length = round(known[LENGTH] * stft.hop_length / known["hop_length"])
    return length if stft.count_frames(length) == n_columns else None


def _columns(
    args: argparse.Namespace, levels: Levels, timed: bool, rate: int, stft: rtspecinv.STFT
) -> Levels:
    """Return the picture with one column for each frame, resized if `--seconds` is given."""
    if args.seconds is None:
        if not timed:
            raise ValueError(f"{printable(args.picture)} does not state its duration: give --seconds")
        n_frames = levels.shape[1]
    else:
        n_frames = max(2, 1 + round(args.seconds * rate / stft.hop_length))
    if n_frames < 2 and stft.padding:
        raise ValueError(f"{printable(args.picture)} has one frame, but sound needs two: give --seconds")
    if n_frames * max(stft.n_freq, len(levels)) > MOST_VALUES:
        raise ValueError(
            f"{n_frames} frames of {stft.n_freq} frequencies are more than {MOST_VALUES} values: use "
            "smaller --seconds or a larger --hop-length"
        )
    return levels if n_frames == levels.shape[1] else resize_columns(levels, n_frames)


def _gain(magnitude: Tensor, stft: rtspecinv.STFT) -> float:
    """Return the factor that gives the loudest frame an RMS of `LOUDEST_RMS`.

    For samples x of a frame and the window g, `sum (g x)**2 = 2 / n_fft sum |X|**2`.
    """
    energy = 2 * float(magnitude.square().sum(-2).max()) / stft.n_fft / stft.scale**2
    return LOUDEST_RMS / math.sqrt(energy / float(stft.window.square().sum()))


def _print_convergence(samples: Tensor, magnitude: Tensor, stft: rtspecinv.STFT) -> None:
    if samples.shape[-1] >= stft.n_needed and stft.count_frames(samples.shape[-1]) <= magnitude.shape[-1]:
        heard = stft.magnitude(samples)
        target = magnitude[:, : heard.shape[-1]]
        convergence = float(rtspecinv.metrics.spectral_convergence(heard, target))
        print(f"convergence   {convergence:.1f} dB spectral convergence against the picture")
