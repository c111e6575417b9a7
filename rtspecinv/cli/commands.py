"""The subcommands that play: `play`, `demo`, `devices`, and the stream that `invert` has too."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import rtspecinv
from rtspecinv.audio import (
    AudioReader,
    DeviceError,
    FileSink,
    SoundDeviceSink,
    device_table,
    read_audio,
)
from rtspecinv.cli.analysis import magnitude_frames
from rtspecinv.cli.report import Report, note
from rtspecinv.cli.transfer import Source, print_convergence, print_source, print_written, transfer
from rtspecinv.demo_clip import SAMPLE_RATE, render

STREAM_OPTIONS = ("update", "init", "look_ahead", "revise", "n_iter")


def play(args: argparse.Namespace) -> None:
    """Invert an audio file's magnitudes as a stream, play it and write it."""
    stft = rtspecinv.STFT(args.n_fft, args.hop_length)
    reader = AudioReader(args.audio)
    blocks = reader.blocks(32 * stft.hop_length)
    if args.mono:
        blocks = (block.mean(0, keepdims=True) for block in blocks)
    source = Source(
        frames=magnitude_frames(blocks, stft),
        stft=stft,
        sample_rate=reader.sample_rate,
        channels=1 if args.mono else reader.channels,
        n_frames=1 + reader.n_samples // stft.hop_length,
    )
    default = Path(f"{args.audio.stem}.rtspecinv.wav")
    refuse_same_file(args.audio, args.output or default)
    with _device(args, source) as device:
        stream(args, source, device, args.output or (default if device is None else None))


def demo(args: argparse.Namespace) -> None:
    """Play and write a clip rendered by code, and draw its spectrograms before and after."""
    folder: Path = args.output
    folder.mkdir(parents=True, exist_ok=True)
    original, inverted, picture = (
        folder / name for name in ("original.wav", "inverted.wav", "spectrograms.png")
    )
    with FileSink(original, SAMPLE_RATE) as sink:
        sink.write(render())
    print(f"written       {original}")
    args.audio, args.output, args.mono = original, inverted, True
    play(args)
    try:
        from rtspecinv.plots import before_and_after
    except ImportError as error:
        note(f"{error}; no picture drawn")
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
    print(f"written       {picture}")


def devices(args: argparse.Namespace) -> None:
    """List the sound devices."""
    print(device_table())


def refuse_same_file(source: Path, output: Path) -> None:
    """Raise `ValueError` if the output is the input."""
    if output.exists() and output.samefile(source):
        raise ValueError(f"{output} is the input: choose another name for the output")


@contextmanager
def _device(args: argparse.Namespace, source: Source) -> Iterator[SoundDeviceSink | None]:
    """Open the sound device; None, with a remark, if there is none and none was asked for by name."""
    if args.no_device:
        yield None
        return
    try:
        sink = SoundDeviceSink(source.sample_rate, source.channels, device=args.device, latency=args.latency)
    except DeviceError as error:
        if args.device is not None:
            raise
        note(f"{error}; writing a file instead of playing")
        yield None
        return
    with sink:
        yield sink


def inverter_of(args: argparse.Namespace, source: Source) -> rtspecinv.StreamingInverter:
    """Inverter with the options of the command line."""
    options: dict[str, Any] = {
        name: getattr(args, name) for name in STREAM_OPTIONS if getattr(args, name) is not None
    }
    return rtspecinv.StreamingInverter(source.stft, batch_shape=(source.channels,), **options)


def stream(
    args: argparse.Namespace, source: Source, device: SoundDeviceSink | None, output: Path | None
) -> None:
    """Invert `source` frame by frame into `device` and `output`, and say how it went."""
    inverter, rate = inverter_of(args, source), source.sample_rate
    report = Report(source.seconds, rate, latency_seconds=inverter.latency / rate, device=device)
    outcome = transfer(
        source,
        lambda frames, sink, show: rtspecinv.play(frames, inverter, sink, progress=show),
        report,
        output=output,
        device=device,
    )
    how = f"look-ahead {inverter.look_ahead} frames, {inverter.n_iter} iterations"
    print_source(source, outcome.progress.n_samples, how)
    print_convergence(outcome)
    print(
        f"latency       {1000 * inverter.latency / rate:.1f} ms ({inverter.latency} samples) in the inverter"
    )
    report.print_summary(outcome.progress)
    if output is not None:
        print_written(outcome, output)
