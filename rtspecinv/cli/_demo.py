"""Implementation of `rtspecinv demo`: `play` of a clip that is rendered by code, and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import rtspecinv
from rtspecinv.audio import FileSink, read_audio
from rtspecinv.cli._play import play
from rtspecinv.cli._report import note
from rtspecinv.common.printable import printable
from rtspecinv.measure.clip import SAMPLE_RATE, render


def demo(args: argparse.Namespace) -> None:
    """Play and write a clip rendered by code, and draw its spectrograms before and after."""
    folder: Path = args.output
    folder.mkdir(parents=True, exist_ok=True)
    original, inverted, picture = (
        folder / name for name in ("original.wav", "inverted.wav", "spectrograms.png")
    )
    with FileSink(original, SAMPLE_RATE) as sink:
        sink.write(render())
    print(f"written       {printable(original)}")
    args.audio, args.output, args.mono, args.rate, args.raw = original, inverted, True, 1.0, None
    play(args)
    try:
        from rtspecinv.measure.plots import before_and_after
    except ImportError as error:
        note(f"{error}; the picture is not drawn")
        return
    stft = rtspecinv.STFT(args.n_fft, args.hop_length)
    first, second = (torch.from_numpy(read_audio(path)[0][0]) for path in (original, inverted))
    before_and_after(
        picture,
        stft.magnitude(first),
        stft.magnitude(second),
        sample_rate=SAMPLE_RATE,
        hop_length=stft.hop_length,
        samples=(first, second),
    )
    print(f"written       {printable(picture)}")
