"""The subcommands."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rtspecinv
from rtspecinv.audio import (
    AudioReader,
    DeviceError,
    FileSink,
    Sink,
    SoundDeviceSink,
    TeeSink,
    device_table,
    read_audio,
)
from rtspecinv.cli.analysis import Score, magnitude_frames
from rtspecinv.cli.report import Report, note
from rtspecinv.demo_clip import SAMPLE_RATE, render
from rtspecinv.files import open_spectrogram


@dataclass
class Source:
    """Magnitude frames `(channels, n_freq)` and what is known about them."""

    frames: Iterable[Tensor]
    stft: rtspecinv.STFT
    sample_rate: int
    channels: int
    n_frames: int


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
    _refuse_same_file(args.audio, args.output or default)
    with _device(args, source) as device:
        _stream(args, source, device, args.output or (default if device is None else None))


def invert(args: argparse.Namespace) -> None:
    """Invert a file of magnitudes as a stream and write the sound."""
    spectrogram = open_spectrogram(args.spectrogram, layout=args.layout)
    n_fft, hop_length, sample_rate = spectrogram.settings(
        n_fft=args.n_fft, hop_length=args.hop_length, sample_rate=args.sample_rate
    )
    stft = rtspecinv.STFT(n_fft, hop_length)
    if spectrogram.n_frames < 2:
        raise ValueError(f"{args.spectrogram} has one frame: there is sound only between two")
    frames = (torch.from_numpy(frame) for frame in spectrogram.frames())
    source = Source(frames, stft, sample_rate, spectrogram.channels, spectrogram.n_frames)
    _stream(args, source, None, args.output)


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
    before, after = (
        stft.magnitude(torch.from_numpy(read_audio(path)[0][0])) for path in (original, inverted)
    )
    before_and_after(picture, before, after, sample_rate=SAMPLE_RATE, hop_length=stft.hop_length)
    print(f"written       {picture}")


def devices(args: argparse.Namespace) -> None:
    """List the sound devices."""
    print(device_table())


def _refuse_same_file(source: Path, output: Path) -> None:
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


def _stream(
    args: argparse.Namespace, source: Source, device: SoundDeviceSink | None, output: Path | None
) -> None:
    """Invert `source` frame by frame into `device` and `output`, and say how it went."""
    stft, rate = source.stft, source.sample_rate
    options: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("update", "init", "look_ahead", "revise", "n_iter")
        if getattr(args, name) is not None
    }
    inverter = rtspecinv.StreamingInverter(stft, batch_shape=(source.channels,), **options)
    score = Score(stft)
    report = Report(
        total_seconds=(source.n_frames - 1) * stft.hop_length / rate,
        latency_seconds=inverter.latency / rate,
        sample_rate=rate,
        device=device,
    )
    with ExitStack() as stack:
        stack.enter_context(_one_thread())
        file = stack.enter_context(FileSink(output, rate, source.channels)) if output else None
        stack.enter_context(report)
        sinks: list[Sink] = [score, *filter(None, (file, device))]
        progress = rtspecinv.play(score.watch(source.frames), inverter, TeeSink(*sinks), progress=report)

    channels = f"{source.channels} channel{'' if source.channels == 1 else 's'}"
    print(
        f"inverted      {progress.n_samples / rate:.2f} s, {channels} at {rate} Hz, n_fft {stft.n_fft}, hop "
        f"{stft.hop_length}, look-ahead {inverter.look_ahead} frames, {inverter.n_iter} iterations"
    )
    known = not math.isnan(score.convergence)
    convergence = f"{score.convergence:.1f} dB" if known else "not to be had: silent or too short;"
    print(f"convergence   {convergence} spectral convergence against the input")
    print(
        f"latency       {1000 * inverter.latency / rate:.1f} ms ({inverter.latency} samples) in the inverter"
    )
    report.print_summary(progress)
    if file is not None:
        if file.clipped:
            note(f"{file.clipped} samples were beyond full scale and are clipped in {output}")
        print(f"written       {output}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: a stream's operations are too small to be worth sharing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
