"""Implementation of `rtspecinv export`."""

from __future__ import annotations

import argparse
from pathlib import Path

import rtspecinv
from rtspecinv.cli import _names as names
from rtspecinv.cli._transfer import STREAM_OPTIONS
from rtspecinv.common.printable import printable


def export(args: argparse.Namespace) -> None:
    """Write a push of the stream that the options describe."""
    inverter = _inverter(args)
    rtspecinv.export_step(inverter, args.output, sample_rate=args.sample_rate)
    size = args.output.stat().st_size / 1000
    print(f"written       {printable(args.output)}, {size:.0f} KB, {inverter.n_iter} iterations per push")
    print(f"latency       {inverter.latency} samples, hop {inverter.stft.hop_length}")


def _inverter(args: argparse.Namespace) -> rtspecinv.StreamingInverter:
    given = {name: getattr(args, name) for name in STREAM_OPTIONS if getattr(args, name) is not None}
    if args.preset is None:
        stft = rtspecinv.STFT(1024 if args.n_fft is None else args.n_fft, args.hop_length)
        return rtspecinv.StreamingInverter(stft, engine="eager", **given)
    for name in ("n_fft", "hop_length", "sample_rate"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is part of the preset: leave it out")
    is_file = Path(args.preset).suffix.lower() in names.CONFIG_FILES
    config = rtspecinv.MelConfig.load(args.preset) if is_file else rtspecinv.presets[args.preset].config
    return rtspecinv.MelInverter(config, engine="eager", **given)
