"""Implementation of `rtspecinv play`: an audio file's magnitudes are inverted as a stream and played."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

import rtspecinv
from rtspecinv.audio import DeviceError, Sink, SoundDeviceSink, TeeSink
from rtspecinv.cli._files import is_standard_output, named, refuse_same_file, sound_input
from rtspecinv.cli._names import STRETCH_RATES
from rtspecinv.cli._playing import perform, print_performance
from rtspecinv.cli._report import note
from rtspecinv.cli._transfer import (
    Source,
    inverter_of,
    print_convergence,
    print_stream,
    stream,
    transfer,
)
from rtspecinv.cli._view import View
from rtspecinv.live import Player, PlayerStats, Progress

_NO_LENGTH = 2**40  # samples; libsndfile reports more if a file does not contain its length
_QUEUE_SECONDS = 0.4  # a long queue is safe, and its delay does not matter for a recording


def play(args: argparse.Namespace) -> None:
    """Invert an audio file's magnitudes as a stream, and play the sound or write it to a file, or both."""
    stft = rtspecinv.STFT(args.n_fft, args.hop_length)
    least, most = STRETCH_RATES
    if not least <= args.rate <= most:
        raise ValueError(
            f"--rate {args.rate:g} is not from {least:g} to {most:g}: 0.5 plays at half the speed"
        )
    reader = sound_input(args.audio, args.raw)
    length = _Length(args.rate, _declared(reader.n_samples))
    blocks = length.watch(reader.blocks(32 * stft.hop_length))
    if args.mono:
        blocks = (block.mean(0, keepdims=True) for block in blocks)
    source = Source(
        frames=rtspecinv.transforms.Stretch(rtspecinv.magnitude_frames(blocks, stft), args.rate),
        stft=stft,
        sample_rate=reader.sample_rate,
        channels=1 if args.mono else reader.channels,
        n_samples=length.expected,
        length=length,
    )
    stem = "standard-input" if str(args.audio) == "-" else args.audio.stem
    default = Path(f"{stem}.rtspecinv.wav")
    refuse_same_file(args.audio, args.output or default)
    with _device(args, source) as device:
        if device is None:
            stream(args, source, args.output or default)
        else:
            _perform(args, source, device)


def _declared(n_samples: int | None) -> int | None:
    """Return the number of samples in a file's header; None if unknown, as for FLAC written to a pipe."""
    return None if n_samples is None or n_samples >= _NO_LENGTH else n_samples


class _Length:
    """Number of samples of a recording at another speed, known once the recording was read to its end.

    The samples are counted because headers may be wrong. Calling the object returns the number, or None
    before the end.

    rate: speed, 1 is the original.
    declared: number of samples in the header, None if unknown.
    """

    def __init__(self, rate: float, declared: int | None) -> None:
        self._rate, self._n_samples, self._is_known = rate, 0, False
        self.expected = None if declared is None else self._at_rate(declared)

    def watch(self, blocks: Iterable[npt.NDArray[np.float32]]) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the recording's blocks `(channels, n_samples)` unchanged, and count their samples."""
        for block in blocks:
            self._n_samples += block.shape[-1]
            yield block
        self._is_known = True

    def __call__(self) -> int | None:
        return self._at_rate(self._n_samples) if self._is_known else None

    def _at_rate(self, n_samples: int) -> int:
        return max(1, round(n_samples / self._rate))


def _perform(args: argparse.Namespace, source: Source, device: SoundDeviceSink) -> None:
    """Play `source` through a player, and print a report."""
    inverter = inverter_of(args, source.stft, source.channels)
    view = View(source.stft, source.sample_rate, total_seconds=source.seconds)
    stats: PlayerStats | None = None

    def run(frames: Iterable[Tensor], sink: Sink) -> Progress:
        nonlocal stats
        with Player(
            inverter, TeeSink(view.meter, sink), queue_seconds=_QUEUE_SECONDS, length=source.length
        ) as player:
            perform(frames, player, view)
        stats = player.stats
        return Progress(stats.n_frames, stats.n_samples)

    outcome = transfer(source, run, view, output=args.output, device=device)
    assert stats is not None
    print_stream(source, inverter, stats.n_samples)
    if stats.n_held:
        print("convergence   n/a: late frames were replaced by copies of earlier ones")
    else:
        print_convergence(outcome)
    print_performance(stats, view, device)
    if args.output is not None:
        print(f"written       {named(args.output)}")


@contextmanager
def _device(args: argparse.Namespace, source: Source) -> Iterator[SoundDeviceSink | None]:
    """Return a context whose value is the sound device, or None if sound goes to a file only.

    If no device can be opened, a note is printed and the value is None, unless the arguments name a device.
    """
    if args.no_device or is_standard_output(args.output):
        yield None
        return
    try:
        sink = SoundDeviceSink(source.sample_rate, source.channels, device=args.device, latency=args.latency)
    except DeviceError as error:
        if args.device is not None:
            raise
        note(f"{error}; the sound is written to a file instead")
        yield None
        return
    with sink:
        yield sink
