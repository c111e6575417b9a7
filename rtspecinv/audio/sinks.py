"""Where samples go: into memory, into a file, into several sinks at once.

A sink takes blocks of samples in the layout an inverter returns, `(n_samples,)` for one channel or
`(channels, n_samples)`, as numpy or torch. How the samples are cut into blocks changes nothing.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rtspecinv.audio._soundfile import soundfile
from rtspecinv.checks import able
from rtspecinv.masks import unmasked

Block = npt.NDArray[np.float32]
_SinkType = TypeVar("_SinkType", bound="Sink")


class Sink:
    """Takes blocks of samples; as a context manager it closes at the end and aborts on an exception."""

    def write(self, samples: npt.ArrayLike) -> None:
        """Take the next samples, `(n_samples,)` or `(channels, n_samples)`; may wait until there is room."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin with what was written, where more was waited for."""

    def drain(self) -> None:
        """Wait until everything written has arrived."""

    def clear(self) -> None:
        """Forget what is not heard yet, even while another thread drains; a file keeps what it has."""

    def close(self) -> None:
        """Drain and let go of the device or file; closing twice is harmless."""

    def abort(self) -> None:
        """Let go at once and leave nothing half-finished behind."""
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
    """Return `samples` as float32 `(channels, n_samples)`, or say what is wrong with them.

    `channels=None` accepts any number of channels.
    """
    if hasattr(samples, "detach"):  # a torch tensor, perhaps on another device or part of a graph
        try:
            samples = samples.detach().cpu().numpy()
        except (TypeError, RuntimeError) as error:  # sparse, bfloat16, or without values
            raise TypeError(f"Samples must be a plain tensor of floats: {_first_line(error)}") from error
    given = np.asarray(unmasked(samples, "samples"))
    if given.dtype.kind != "f":
        raise TypeError(
            f"Samples must be floats in -1 to 1, got {given.dtype}: divide integers by their full scale"
        )
    block: Block = given.astype(np.float32, copy=False)
    if block.ndim == 1:
        block = block[np.newaxis]
    if block.ndim != 2 or not len(block):
        raise ValueError(
            f"Samples must be (n_samples,) or (channels, n_samples) with a channel, got shape {given.shape}"
        )
    if channels is not None and len(block) != channels:
        transposed = ": it looks transposed" if given.ndim == 2 and given.shape[1] == channels else ""
        raise ValueError(f"This sink has {channels=}, got samples of shape {given.shape}{transposed}")
    if not np.isfinite(block).all():
        raise ValueError(f"Samples must be finite, got {np.count_nonzero(~np.isfinite(block))} NaN or Inf")
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
        """Everything written so far: `(n_samples,)` if the blocks were, else `(channels, n_samples)`."""
        if not self._blocks:
            return np.zeros(0, np.float32)
        joined = np.concatenate(self._blocks, axis=-1)
        return joined[0] if self._one_dimensional else joined


_SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16", ".ogg": "VORBIS"}
_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}
_LARGEST_WAV = 2**32 - 2**16  # bytes: the length field of a WAV file has 32 bits
# Samples handed to libsndfile at once: always the same number, because the first ones of an OGG file depend
# on it, and few, because its Vorbis encoder needs stack in proportion.
_WRITE_LENGTH = 8192


class FileSink(Sink):
    """Writes a WAV, FLAC or OGG file, whole or absent: it gets its name when it closes without an error.

    `sample_rate` is in Hz. `subtype` is libsndfile's name of the sample format (`"PCM_16"`, `"PCM_24"`,
    `"FLOAT"`, ...). Samples beyond full scale are clipped and counted in `clipped`, except in float formats,
    which keep them.
    Raises `ValueError` for a suffix, rate or subtype that cannot be written and `FileNotFoundError` for a
    missing folder.
    """

    def __init__(
        self, path: str | os.PathLike[str], sample_rate: int, channels: int = 1, *, subtype: str | None = None
    ) -> None:
        self.path = Path(path)
        self.sample_rate = sample_rate
        self.channels = channels
        self.clipped = 0  # samples beyond full scale so far
        self.n_samples = 0  # samples per channel so far
        suffix = self.path.suffix.lower()
        if suffix not in _FORMATS:
            raise ValueError(f"Cannot write {self.path}: its name must end in {', '.join(_FORMATS)}")
        if self.path.is_dir():
            raise IsADirectoryError(f"Cannot write {self.path}: it is a folder")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"Cannot write {self.path}: there is no folder {self.path.parent}")
        self._subtype = subtype or _SUBTYPES[suffix]
        self._keeps_any_value = self._subtype.upper() in ("FLOAT", "DOUBLE")
        self._open(_FORMATS[suffix])
        self._buffer = np.empty((_WRITE_LENGTH, channels), np.float32)
        self._filled = 0

    def _open(self, container: str) -> None:
        sf = soundfile()
        if not sf.check_format(container, self._subtype):
            known = ", ".join(sf.available_subtypes(container))
            raise ValueError(f"{container} has no subtype {self._subtype!r}, only {known}")
        self._temporary = self.path.with_name(f".{secrets.token_hex(8)}.part")
        name = os.fspath(self._temporary)
        try:
            self._file = sf.SoundFile(
                name, "w", self.sample_rate, self.channels, self._subtype, format=container
            )
        except (sf.LibsndfileError, TypeError, ValueError, OverflowError) as error:
            self._temporary.unlink(missing_ok=True)
            raise ValueError(
                f"Cannot write {self.path} with sample_rate={self.sample_rate} and channels={self.channels}: "
                f"{str(error).replace(name, str(self.path))}"
            ) from error

    def write(self, samples: npt.ArrayLike) -> None:
        """Append `samples`; raises `ValueError` if the file is closed and when a WAV file passes 4 GiB."""
        block = as_block(samples, self.channels)
        if self._file.closed:
            raise ValueError(f"{self.path} is closed")
        if not self._keeps_any_value:
            self.clipped += int(np.count_nonzero(np.abs(block) > 1))
            block = np.clip(block, -1, 1)
        self.n_samples += block.shape[1]
        while block.shape[1]:
            part, block = np.split(block, [_WRITE_LENGTH - self._filled], axis=1)
            self._buffer[self._filled : self._filled + part.shape[1]] = part.T
            self._filled += part.shape[1]
            if self._filled == _WRITE_LENGTH:
                self._write_buffer()

    def _write_buffer(self) -> None:
        self._file.write(self._buffer[: self._filled])
        self._filled = 0
        if self._file.format == "WAV" and os.path.getsize(self._temporary) > _LARGEST_WAV:
            raise ValueError(f"{self.path} would pass the 4 GiB that WAV can hold: write .flac instead")

    def close(self) -> None:
        """Finish the file and give it its name."""
        if not self._file.closed:
            try:
                self._write_buffer()
                self._file.close()
                os.replace(self._temporary, self.path)
            except BaseException:
                self.abort()
                raise

    def abort(self) -> None:
        """Remove what was written; a file of that name from before stays as it was."""
        try:
            self._file.close()
        finally:
            self._temporary.unlink(missing_ok=True)


_OF_DEVICES = ("queued", "sample_rate", "latency_seconds", "underflows")


class TeeSink(Sink):
    """Writes to several sinks in the order given: files first, because a device makes the writer wait.

    What only a device has (`queued`, `latency_seconds`, `underflows`) is that of the first with it.
    Raises `ValueError` for sinks of different sample rates.
    """

    def __init__(self, *sinks: Sink) -> None:
        for i, sink in enumerate(sinks):
            able(("write", "drain"), "pass sinks, such as ArraySink()", **{f"sinks[{i}]": sink})
        rates = {sink.sample_rate for sink in sinks if hasattr(sink, "sample_rate")}
        if len(rates) > 1:
            raise ValueError(f"It must be one sample_rate, these sinks have {sorted(rates)}!")
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
