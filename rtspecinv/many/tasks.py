"""Tasks that invert spectrograms: from files or arrays to sound files or arrays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtspecinv.audio import ArraySink, FileSink
from rtspecinv.batch import invert
from rtspecinv.blocks import invert_blocks
from rtspecinv.common.printable import printable
from rtspecinv.common.warning import muted
from rtspecinv.descent import lbfgs
from rtspecinv.files.opening import Spectrogram
from rtspecinv.inputs import Array
from rtspecinv.levels import no_samples, warn_of_peak
from rtspecinv.many.runner import Opened, Task
from rtspecinv.measure.score import MelScore, Score
from rtspecinv.mel.config import MelConfig
from rtspecinv.mel.spectrogram import Mel
from rtspecinv.mel.stream import MelInverter
from rtspecinv.stft import STFT
from rtspecinv.streaming import StreamingInverter


@dataclass(frozen=True)
class Settings:
    """Parameters of an inversion.

    method: "stream", the name of a rule of `invert_blocks`, or "lbfgs", default: "stream". With "agla", the
        default of the command line, mel frames are inverted as a stream.
    n_iter: number of iterations of methods other than "stream", default: 100.
    scaling, n_fft, hop_length, sample_rate: as in `listen` and `Spectrogram.stft`, default: the values that
        the file stores.
    stream: options of `StreamingInverter`.
    device: device of the inverters, default: the CPU.
    """

    method: str = "stream"
    n_iter: int = 100
    n_fft: int | None = None
    hop_length: int | None = None
    sample_rate: int | None = None
    scaling: str | None = None
    stream: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"


class Inversion(Task):
    """The inversion of a spectrogram.

    Args:
        name: name of the spectrogram for messages.
        read: function that returns the spectrogram.
        output: sound file to write; with None the samples are kept in memory.
        settings: parameters of the inversion.
        measure: whether to measure the spectral convergence, default: False; for mel frames, this keeps all
            samples in memory.

    Attributes:
        samples: samples `(channels, n_samples)` after the end, if there is no `output`.
        has_channels: whether the spectrogram has an axis of channels.
        sample_rate: sample rate, Hz.
        n_samples: number of samples per channel.
        convergence: spectral convergence in dB; NaN if it was not measured, or for silence.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], Spectrogram],
        output: Path | None,
        settings: Settings,
        *,
        measure: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.output = name, output
        self.samples: Array = np.zeros((0, 0), np.float32)
        self.has_channels = False
        self.sample_rate = self.n_samples = 0
        self.convergence = math.nan
        self._read, self._settings, self._measure = read, settings, measure
        self._sink: FileSink | ArraySink | None = None
        self._score: Score | MelScore | None = None
        self._stft: STFT | None = None  # transform of magnitudes; None for mel frames
        self._n_expected = 0

    def open(self) -> Opened | None:
        """Open the spectrogram and the sound file; invert the spectrogram if the method is not a stream."""
        found, method = self._read(), self._settings.method
        self.has_channels = len(found.shape) == 3
        opened = self._magnitudes(found) if found.mel is None else self._mel_frames(found, found.mel)
        self._open_sink(found.channels)
        if method == "lbfgs" or (found.mel is None and method != "stream"):
            self._invert(found, opened)
            return None
        options = (self._settings.device, *sorted(self._settings.stream.items()))
        return replace(opened, kind=(opened.kind, options), blocks=self._watched(opened.blocks))

    def _open_sink(self, channels: int) -> None:
        if self.output is None:
            self._sink = ArraySink()
            return
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self._sink = FileSink(self.output, self.sample_rate, channels, length=self._n_expected)

    def _magnitudes(self, found: Spectrogram) -> Opened:
        settings = self._settings
        n_fft, hop_length, self.sample_rate = found.settings(
            n_fft=settings.n_fft, hop_length=settings.hop_length, sample_rate=settings.sample_rate
        )
        stft = self._stft = _stft(n_fft, hop_length, **found.options)
        length = found.length(stft)
        self._n_expected = stft.length(found.n_frames) if length is None else length
        if self._n_expected < 1:
            raise ValueError(one_frame(found.path))
        if self._measure:
            self._score = Score(stft)

        def make(n_streams: int) -> StreamingInverter:
            on_device = _stft(n_fft, hop_length, device=settings.device, **found.options)
            inverter = StreamingInverter(on_device, batch_shape=(n_streams,), **settings.stream)
            return _ready(inverter, stft.n_freq)

        blocks = found.magnitude_blocks(stft, settings.scaling, self.sample_rate)
        kind = (n_fft, hop_length, *sorted(found.options.items()))
        return Opened(kind, make, blocks, found.channels, length)

    def _mel_frames(self, found: Spectrogram, mel: MelConfig) -> Opened:
        settings, rate, name = self._settings, round(mel.sample_rate), printable(found.path)
        check_mel_options(name, settings.method, {**vars(settings), **settings.stream})
        check_mel_rate(name, rate, settings.sample_rate)
        self.sample_rate, length = rate, found.length(mel)
        stft = _mel_stft(mel)
        self._n_expected = stft.length(found.n_frames + mel.drop_last) if length is None else length
        if self._n_expected < 1:
            raise ValueError(f"{name}: there is nothing to hear: {no_samples(found.n_frames)}")
        if self._measure:
            self._score = MelScore(mel)

        def make(n_streams: int) -> StreamingInverter:
            inverter = MelInverter(mel, device=settings.device, batch_shape=(n_streams,), **settings.stream)
            return _ready(inverter, mel.n_mels)

        return Opened(mel, make, map(torch.from_numpy, found.blocks()), found.channels, length)

    def _invert(self, found: Spectrogram, opened: Opened) -> None:
        """Invert a spectrogram by a method that is not a stream, and write the samples."""
        if found.mel is not None:
            opened.make(1)
        prepare(self._stft if found.mel is None else _mel_stft(found.mel), self._settings.method)
        begin = time.perf_counter()
        for samples in self._pieces(found, opened):
            self.work_seconds += time.perf_counter() - begin
            self.write(samples)
            begin = time.perf_counter()

    def _pieces(self, found: Spectrogram, opened: Opened) -> Iterator[Tensor]:
        settings = self._settings
        blocks, n_iter = self._watched(opened.blocks), settings.n_iter
        if found.mel is not None:
            yield descent(found, found.mel, _whole(blocks), n_iter)
            return
        assert self._stft is not None
        if settings.method == "lbfgs":
            if self._n_expected < self._stft.n_needed:
                raise ValueError(too_short(found, self._stft, "agla"))
            yield lbfgs(_whole(blocks), self._stft.magnitude, length=opened.length, n_iter=n_iter)
        else:
            frames = chain.from_iterable(blocks)
            yield from invert_blocks(
                frames, self._stft, length=opened.length, update=settings.method, n_iter=n_iter
            )

    def _watched(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        for block in blocks:
            if self._score is not None:
                for _ in self._score.watch(block):
                    pass
            yield block

    def write(self, samples: Tensor) -> None:
        """Write samples to the file or keep them in memory; pass them to the score if there is one."""
        assert self._sink is not None
        array = samples.numpy()
        self._sink.write(array)
        self.n_samples += array.shape[-1]
        if self._score is not None:
            self._score.write(array)

    def finish(self) -> None:
        """Finish the sound file, or join the samples; warn if they are silent or far too quiet."""
        self._drain()
        if isinstance(self._sink, FileSink):
            self._sink.close()
            peak = self._sink.level.peak
        else:
            assert self._sink is not None
            self.samples = self._sink.samples
            peak = float(np.abs(self.samples).max(initial=0))
        warn_of_peak(peak, self._stft, self._settings.scaling)

    def _drain(self) -> None:
        """Finish the measurement; a second call does nothing."""
        if self._score is not None:
            self._score.drain()
            self.convergence, self._score = self._score.convergence, None

    def abort(self) -> None:
        """Remove the unfinished sound file."""
        if isinstance(self._sink, FileSink):
            self._sink.abort()


def check_mel_options(name: str, method: str, options: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a method or for options (None if not given) that mel frames do not support."""
    for option in ("n_fft", "hop_length", "init", "revise", "scaling"):
        if options.get(option) is not None:
            raise ValueError(
                f"{name} has mel frames, which do not support --{option.replace('_', '-')}: leave it out"
            )
    if method not in ("agla", "stream", "lbfgs"):
        raise ValueError(f"{name} has mel frames: use --method stream or --method lbfgs")


def check_mel_rate(name: str, rate: int, given: int | None) -> None:
    """Raise `ValueError` if another sample rate than that of the mel frames is given."""
    if given not in (None, rate):
        raise ValueError(f"{name} has mel frames of {rate} Hz: leave out --sample-rate")


def one_frame(path: Path) -> str:
    """Return the message of the error that a file has one frame, which covers no samples."""
    return f"{printable(path)} has one frame: n frames cover n - 1 hops of sound, so save at least two frames"


def too_short(found: Spectrogram, stft: STFT, method: str) -> str:
    """Return the message of the error that lbfgs needs more frames; it recommends `method`."""
    return (
        f"{printable(found.path)} has {found.n_frames} frames, too few for lbfgs with n_fft={stft.n_fft}: "
        f"use --method {method}"
    )


def descent(
    found: Spectrogram, config: MelConfig, values: Tensor, n_iter: int, *, progress: bool = False
) -> Tensor:
    """Return the samples of mel frames `(channels, n_mels, n_frames)` by lbfgs on uncompressed mel values."""
    mel = Mel(config, device="cpu")
    if mel.length(found.n_frames) < mel.stft.n_needed:
        raise ValueError(too_short(found, mel.stft, "stream"))
    length = found.length(config)
    return lbfgs(mel.expand(values), mel.linear, length=length, n_iter=n_iter, progress=progress)


@lru_cache(16)
def prepare(stft: STFT, method: str) -> None:
    """Compile or load what a method other than "stream" runs, so that measured times do not contain this."""
    length = stft.length(stft.look_back + 3) + stft.n_needed
    with muted(""):
        magnitude = stft.magnitude(stft.window.new_ones(length))
        if method == "lbfgs":
            lbfgs(magnitude, stft.magnitude, length=length, n_iter=1)
        else:
            invert(magnitude, stft, update=method)


def _ready(inverter: StreamingInverter, n_rows: int) -> StreamingInverter:
    """Return an inverter that has compiled, or loaded, all that a push runs."""
    shape = (*inverter.batch_shape, n_rows, 1)
    inverter.push_many(torch.zeros(shape, dtype=inverter.stft.dtype, device=inverter.stft.device))
    inverter.reset()
    return inverter


def _whole(blocks: Iterable[Tensor]) -> Tensor:
    """Return blocks `(n_frames, channels, n_freq)` as one spectrogram `(channels, n_freq, n_frames)`."""
    return torch.cat(list(blocks)).permute(1, 2, 0)


@lru_cache(16)
def _stft(n_fft: int, hop_length: int, device: str = "cpu", **options: Any) -> STFT:
    stft = STFT(n_fft, hop_length, device=device, **options)
    return stft.with_center(stft.center)


@lru_cache(16)
def _mel_stft(mel: MelConfig) -> STFT:
    return mel.stft(critical=True, device="cpu")
