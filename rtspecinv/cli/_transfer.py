"""Code that all inversions share: frames are inverted to a file or a device, and a report is printed."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

# Function that inverts frames, writes the samples to a sink and returns the final progress.
Run = Callable[[Iterable[Tensor], Sink], Progress]


STREAM_OPTIONS = ("update", "init", "look_ahead", "revise", "n_iter")


@dataclass
class Source:
    """Magnitude frames `(channels, n_freq)` with their transform, sample rate and length.

    n_samples: expected number of samples of the sound, None if unknown.
    length: number of samples of the sound, or a function that returns it at the end; None for the number
        that the frames cover.
    """

    frames: Iterable[Tensor]
    stft: rtspecinv.STFT
    sample_rate: int
    channels: int
    n_samples: int | None
    length: Length

    @property
    def seconds(self) -> float | None:
        """Expected length of the sound in seconds, None if unknown."""
        return None if self.n_samples is None else self.n_samples / self.sample_rate


@dataclass(frozen=True)
class Outcome:
    """Result of an inversion: final progress, spectral convergence in dB, and the largest sample written."""

    progress: Progress
    convergence: float
    peak: float


def inverter_of(args: argparse.Namespace, stft: rtspecinv.STFT, channels: int) -> rtspecinv.StreamingInverter:
    """Return an inverter with the options of the command line."""
    return rtspecinv.StreamingInverter(stft, batch_shape=(channels,), **stream_options(args))


def stream_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a `StreamingInverter` that the command line gives."""
    return {name: getattr(args, name) for name in STREAM_OPTIONS if getattr(args, name) is not None}


def transfer(
    source: Source,
    run: Run,
    report: Report | View,
    *,
    output: Path | None = None,
    device: SoundDeviceSink | None = None,
) -> Outcome:
    """Invert `source` with one thread of torch, and write the samples to a file and a device.

    The file is not written if an error occurs. A warning is issued if samples are clipped in the file.

    source: frames to invert.
    run: function that inverts the frames and writes the samples to a sink.
    report: context that shows the progress.
    output: path of the file, default: none.
    device: sound device, default: none.
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
    """Print length, channels and transform of the source, and `how` it was inverted."""
    channels = f"{source.channels} channel{'' if source.channels == 1 else 's'}"
    print(
        f"inverted      {n_samples / source.sample_rate:.2f} s, {channels} at {source.sample_rate} Hz, "
        f"n_fft {source.stft.n_fft}, hop {source.stft.hop_length}, {how}"
    )


def print_convergence(outcome: Outcome) -> None:
    """Print the spectral convergence of the sound against the input."""
    known = not math.isnan(outcome.convergence)
    convergence = f"{outcome.convergence:.1f} dB" if known else "n/a (silent or too short):"
    print(f"convergence   {convergence} spectral convergence against the input")


def stream(args: argparse.Namespace, source: Source, output: Path) -> Outcome:
    """Invert `source` as a stream, write the samples to `output`, and print a report."""
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
