"""Frames in, a file or a device out, and what is said about it: the part that all inversions share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import rtspecinv
from rtspecinv.audio import FileSink, Sink, SoundDeviceSink, TeeSink
from rtspecinv.cli._files import named, sound_output
from rtspecinv.cli._report import Report
from rtspecinv.cli._view import View
from rtspecinv.common.threads import one_thread
from rtspecinv.live import Progress
from rtspecinv.live.stream import Length
from rtspecinv.measure.score import Score

# Inverts frames into a sink, and returns how far it came.
Run = Callable[[Iterable[Tensor], Sink], Progress]


STREAM_OPTIONS = ("update", "init", "look_ahead", "revise", "n_iter")


@dataclass
class Source:
    """Magnitude frames `(channels, n_freq)` and what is known about them.

    n_samples: samples of the sound, as far as is known beforehand; None if nobody knows.
    length: samples of the sound, or what tells them once they are known; default: what the frames cover.
    """

    frames: Iterable[Tensor]
    stft: rtspecinv.STFT
    sample_rate: int
    channels: int
    n_samples: int | None
    length: Length

    @property
    def seconds(self) -> float | None:
        """Length of the sound, if it is known."""
        return None if self.n_samples is None else self.n_samples / self.sample_rate


@dataclass(frozen=True)
class Outcome:
    """How an inversion went: how far, how near to its target in dB, and the largest sample in its file."""

    progress: Progress
    convergence: float
    peak: float


def inverter_of(args: argparse.Namespace, stft: rtspecinv.STFT, channels: int) -> rtspecinv.StreamingInverter:
    """Inverter with the options of the command line."""
    given = {name: getattr(args, name) for name in STREAM_OPTIONS if getattr(args, name) is not None}
    return rtspecinv.StreamingInverter(stft, batch_shape=(channels,), **given)


def transfer(
    source: Source,
    run: Run,
    report: Report | View,
    *,
    output: Path | None = None,
    device: SoundDeviceSink | None = None,
) -> Outcome:
    """Invert `source` into `output` and `device`, on one thread; the file is whole or absent.

    Warns of samples that are clipped in the file.
    """
    score = Score(source.stft)
    with ExitStack() as stack:
        stack.enter_context(one_thread())
        file = None
        if output:
            file = FileSink(
                sound_output(output), source.sample_rate, source.channels, length=source.n_samples
            )
            stack.enter_context(file)
        stack.enter_context(report)
        sinks: list[Sink] = [score, *filter(None, (file, device))]
        progress = run(score.watch(source.frames), TeeSink(*sinks))
    return Outcome(progress, score.convergence, file.level.peak if file else 0.0)


def print_source(source: Source, n_samples: int, how: str) -> None:
    """Print what was inverted, and how."""
    channels = f"{source.channels} channel{'' if source.channels == 1 else 's'}"
    print(
        f"inverted      {n_samples / source.sample_rate:.2f} s, {channels} at {source.sample_rate} Hz, "
        f"n_fft {source.stft.n_fft}, hop {source.stft.hop_length}, {how}"
    )


def print_convergence(outcome: Outcome) -> None:
    """Print how near the sound is to the input."""
    known = not math.isnan(outcome.convergence)
    convergence = f"{outcome.convergence:.1f} dB" if known else "not to be had: silent or too short;"
    print(f"convergence   {convergence} spectral convergence against the input")


def stream(args: argparse.Namespace, source: Source, output: Path) -> Outcome:
    """Invert `source` frame by frame into `output`, and say how it went."""
    inverter, rate = inverter_of(args, source.stft, source.channels), source.sample_rate
    report = Report(source.seconds, rate, latency_seconds=inverter.latency / rate)
    outcome = transfer(
        source,
        lambda frames, sink: rtspecinv.play(frames, inverter, sink, length=source.length, progress=report),
        report,
        output=output,
    )
    print_stream(source, inverter, outcome.progress.n_samples)
    print_convergence(outcome)
    report.print_summary(outcome.progress)
    print(f"written       {named(output)}")
    return outcome


def print_stream(source: Source, inverter: rtspecinv.StreamingInverter, n_samples: int) -> None:
    print_source(source, n_samples, f"look-ahead {inverter.look_ahead} frames, {inverter.n_iter} iterations")
    milliseconds = 1000 * inverter.latency / source.sample_rate
    print(f"latency       {milliseconds:.1f} ms ({inverter.latency} samples) in the inverter")
