"""Sinks, the outputs of samples: memory, a file, or several sinks at the same time.

A sink accepts blocks of samples with the shape that an inverter returns, `(n_samples,)` for one channel or
`(channels, n_samples)`, as numpy or torch. The block lengths do not affect the result.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from rtspecinv.audio._soundfile import SoundfileWriter
from rtspecinv.audio.formats import SAMPLE_BYTES, SUFFIXES, check
from rtspecinv.audio.level import Level
from rtspecinv.audio.wav import WavWriter
from rtspecinv.common.checks import able, count, instance
from rtspecinv.common.masks import unmasked
from rtspecinv.common.printable import printable
from rtspecinv.common.whole_files import Guarded, Spool, WholeFile, is_stream, open_stream

Block = npt.NDArray[np.float32]

_SinkType = TypeVar("_SinkType", bound="Sink")


class Sink:
    """Accepts blocks of samples; as a context manager it closes at the end and aborts on an exception."""

    def write(self, samples: npt.ArrayLike) -> None:
        """Write the next samples, `(n_samples,)` or `(channels, n_samples)`; may wait until there is room."""
        raise NotImplementedError

    def start(self) -> None:
        """Start playback with the samples written so far, even if the sink would wait for more."""

    def drain(self) -> None:
        """Wait until all samples written have been played or stored."""

    def clear(self) -> None:
        """Drop the samples not played yet, even while another thread drains; a file keeps its samples."""

    def close(self) -> None:
        """Drain and close the device or file; closing twice is harmless."""

    def abort(self) -> None:
        """Close at once, without draining; an unfinished file is removed."""
        self.close()

    def __enter__(self: _SinkType) -> _SinkType:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def as_block(samples: npt.ArrayLike, channels: int | None) -> Block:
    """Return `samples` as float32 `(channels, n_samples)`; raises an error for an invalid array.

    channels: required number of channels; None accepts any number.
    """
    if hasattr(samples, "detach"):  # a torch tensor may be on a GPU or require gradients
        try:
            samples = samples.detach().cpu().numpy()
        except (TypeError, RuntimeError) as error:  # sparse, bfloat16 or meta tensors
            raise TypeError(
                f"Samples must be a dense tensor of float32 or float64: {_first_line(error)}; "
                "use samples.float(), and samples.to_dense() if it is sparse"
            ) from error
    given = np.asarray(unmasked(samples, "samples"))
    if given.dtype.kind != "f":
        raise TypeError(
            f"Samples must be floats from -1 to 1, not {given.dtype}: divide integers by their full scale"
        )
    block: Block = given.astype(np.float32, copy=False)
    if block.ndim == 1:
        block = block[np.newaxis]
    if block.ndim != 2 or not len(block):
        raise ValueError(
            f"Samples have shape {given.shape}: pass (n_samples,), or (channels, n_samples) with a channel"
        )
    if channels is not None and len(block) != channels:
        is_transposed = given.ndim == 2 and given.shape[1] == channels
        way_out = "pass samples.T" if is_transposed else f"open a sink with channels={len(block)}"
        raise ValueError(f"The sink has {channels=}, but samples have shape {given.shape}: {way_out}")
    if not np.isfinite(block).all():
        n_odd = np.count_nonzero(~np.isfinite(block))
        raise ValueError(
            f"Samples must be finite, but {n_odd} of {block.size} are NaN or infinite: use numpy.nan_to_num"
        )
    return block


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


class ArraySink(Sink):
    """Collects the samples in memory."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._one_dimensional = False

    def write(self, samples: npt.ArrayLike) -> None:
        """Keep a copy of `samples`; every block must have the first one's number of channels."""
        block = as_block(samples, len(self._blocks[0]) if self._blocks else None)
        self._blocks.append(block.copy())
        self._one_dimensional = self._one_dimensional or np.ndim(samples) == 1

    @property
    def samples(self) -> Block:
        """All samples written so far: `(n_samples,)` if the blocks had one axis, else with channels first."""
        if not self._blocks:
            return np.zeros(0, np.float32)
        joined = np.concatenate(self._blocks, axis=-1)
        return joined[0] if self._one_dimensional else joined


_SUBTYPES = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS"}


class FileSink(Sink):
    """Writes a WAV, FLAC or OGG file; the file appears under its name only when it closes without an error.

    path: path of the file, or of a pipe or device, or an open binary file, which stays open. To a pipe, a
        device or an open file the sink writes WAV as samples arrive, or FLAC or OGG when it closes.
    sample_rate: sample rate, Hz.
    channels: number of channels, default: 1.
    subtype: libsndfile's name of the sample format (`"PCM_16"`, `"PCM_24"`, `"FLOAT"`, ...), default:
        `"PCM_16"`, or `"VORBIS"` for OGG. WAV with integers or floats does not need soundfile.
    length: number of samples per channel that will be written, default: unknown.

    Samples beyond full scale are clipped, except in float formats; `clipped` counts them over all channels,
    and closing the file warns of them.

    Raises `ValueError` for a suffix, rate, number of channels, subtype or length that cannot be written,
    `FileNotFoundError` for a missing folder, and `OSError` if the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | BinaryIO,
        sample_rate: int,
        channels: int = 1,
        *,
        subtype: str | None = None,
        length: int | None = None,
    ) -> None:
        self.path = Path(path) if isinstance(path, str | os.PathLike) else None
        if self.path is None:
            able(("write",), "pass a file name, or a file that is open for writing bytes", path=path)
        self._name = "the stream" if self.path is None else printable(self.path)
        container = self._container()
        subtype_name = (
            None if subtype is None else instance(str, "pass a name such as 'FLOAT'", subtype=subtype)
        )
        length = 0 if length is None else count(length=length)
        self._subtype = (subtype_name or _SUBTYPES[container]).upper()
        self.sample_rate, self.channels = check(
            self._name, container, self._subtype, sample_rate, channels, 0 if self._is_stream else length
        )
        self.level = Level()
        self.n_samples = 0  # number of samples per channel so far
        self._keeps_any_value = self._subtype in ("FLOAT", "DOUBLE")
        self._closed = False
        plain_wav = container == "WAV" and self._subtype in SAMPLE_BYTES
        self._file = self._open(path, spooled=not plain_wav)
        try:
            self._writer: WavWriter | SoundfileWriter
            if plain_wav:
                self._writer = WavWriter(
                    self._file, self.sample_rate, self.channels, self._subtype, endless=self._is_stream
                )
            else:
                self._writer = SoundfileWriter(
                    self._file, self.sample_rate, self.channels, container, self._subtype
                )
        except BaseException:
            self._file.drop()
            self._file.check()  # an error of the disk replaces that of the encoder
            raise
        try:
            self._file.check()
        except OSError:
            self.abort()
            raise

    @property
    def _is_stream(self) -> bool:
        return self.path is None or is_stream(self.path)

    def _container(self) -> str:
        if self.path is None:
            return "WAV"
        container = SUFFIXES.get(self.path.suffix.lower())
        if container is None and not self._is_stream:
            raise ValueError(f"Cannot write {self._name}: its name must end in {', '.join(SUFFIXES)}")
        return container or "WAV"

    def _open(self, path: str | os.PathLike[str] | BinaryIO, spooled: bool) -> Guarded:
        if self.path is not None and not self._is_stream:
            return WholeFile(self.path)
        stream = open_stream(path)
        return Spool(stream) if spooled else stream

    def write(self, samples: npt.ArrayLike) -> None:
        """Append `samples`; raises `ValueError` if the file is closed and when a WAV file passes 4 GiB."""
        block = as_block(samples, self.channels)
        if self._closed:
            raise ValueError(f"{self._name} is closed: open a new FileSink")
        if self._keeps_any_value:
            self.level.measure(block)
        else:
            block = self.level.limit(block)
        self.n_samples += block.shape[1]
        try:
            self._writer.write(block.T)
        except OverflowError as error:
            raise ValueError(f"Cannot write {self._name}: {error}; write .flac instead") from error
        finally:
            self._file.check()  # encoders hide or replace errors of the disk

    @property
    def clipped(self) -> int:
        """Number of samples so far that were beyond full scale and were clipped."""
        return self.level.clipped

    def close(self) -> None:
        """Finish the file, which then appears under its name; warns if samples were clipped."""
        if self._closed:
            return
        try:
            try:
                self._writer.close()
            finally:
                self._file.check()
            self._file.keep()
            self._closed = True
        except BaseException:
            self.abort()
            raise
        self.level.warn(self._name)

    def abort(self) -> None:
        """Remove the written samples; an earlier file of that name is not changed."""
        if not self._closed:
            self._closed = True
            try:
                self._writer.abandon()
            finally:
                self._file.drop()


_OF_DEVICES = ("queued", "sample_rate", "latency_seconds", "underflows")


class TeeSink(Sink):
    """Writes samples to several sinks in the given order.

    Files should come first, because a device makes the writer wait. The attributes of devices
    (`queued`, `latency_seconds`, `underflows`) are those of the first sink that has them.
    Raises `ValueError` for sinks of different sample rates.
    """

    def __init__(self, *sinks: Sink) -> None:
        for i, sink in enumerate(sinks):
            able(("write", "drain"), "pass sinks, such as ArraySink()", **{f"sinks[{i}]": sink})
        rates = {sink.sample_rate for sink in sinks if hasattr(sink, "sample_rate")}
        if len(rates) > 1:
            raise ValueError(
                f"All sinks must have one sample_rate, but they have {sorted(rates)}: use sinks of one rate"
            )
        self.sinks = sinks

    def __getattr__(self, name: str) -> Any:
        for sink in self.sinks if name in _OF_DEVICES else ():
            if hasattr(sink, name):
                return getattr(sink, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def write(self, samples: npt.ArrayLike) -> None:
        """Write `samples` to every sink."""
        for sink in self.sinks:
            sink.write(samples)

    def start(self) -> None:
        """Start every sink."""
        for sink in self.sinks:
            sink.start()

    def clear(self) -> None:
        """Clear every sink."""
        for sink in self.sinks:
            sink.clear()

    def drain(self) -> None:
        """Drain every sink."""
        for sink in self.sinks:
            sink.drain()

    def close(self) -> None:
        """Close every sink; if one fails, abort those that are still open and raise its error."""
        try:
            for sink in self.sinks:
                sink.close()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Abort every sink."""
        for sink in self.sinks:
            sink.abort()
