"""WAV files and streams of plain samples, read and written without any library.

Reading is sequential, so a pipe can be read, too. A stream of unknown length has the length field 0xFFFFFFFF,
as ffmpeg writes it.

Source: Microsoft and IBM 1991, Multimedia Programming Interface and Data Specifications 1.0; Microsoft 1999,
Multiple Channel Audio Data and WAVE Files, for WAVE_FORMAT_EXTENSIBLE.
"""

from __future__ import annotations

import struct
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from rtspecinv.audio.formats import LARGEST_WAV, MOST_CHANNELS, SAMPLE_BYTES

Block = npt.NDArray[np.float32]
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN = 0xFFFFFFFF
_AT_ONCE = 2**16  # bytes read, or samples converted, at a time
_LONGEST_FORMAT = 2**12  # largest number of bytes read from the chunk "fmt "
_KINDS = {  # dtype of numpy by (format, bytes per sample)
    (_PCM, 1): "u1",
    (_PCM, 2): "<i2",
    (_PCM, 3): "u1",  # three bytes per sample
    (_PCM, 4): "<i4",
    (_FLOAT, 4): "<f4",
    (_FLOAT, 8): "<f8",
}


class WavReader:
    """Reads the samples of a WAV stream from its beginning.

    `n_samples` is the number of samples per channel that are left according to the header; it is None for a
    stream of unknown length. Raises `ValueError` if the file is not a WAV stream of integers or floats.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        begin = _exactly(file, 12)
        if begin[:4] != b"RIFF" or begin[8:] != b"WAVE":
            raise ValueError("it does not begin with the header of a WAV file")
        endless = begin[4:8] in (b"\0\0\0\0", b"\xff\xff\xff\xff")
        found = b""
        while True:
            name, size = struct.unpack("<4sI", _exactly(file, 8))
            if name == b"data":
                break
            kept = _exactly(file, min(size, _LONGEST_FORMAT) if name == b"fmt " else 0)
            found = kept or found
            _skip(file, size + size % 2 - len(kept))
        self.sample_rate, self.channels, self._format, self._width = _format(found)
        n_bytes = None if size == _UNKNOWN or (endless and not size) else size
        self.n_samples = None if n_bytes is None else n_bytes // (self._width * self.channels)

    @classmethod
    def raw(cls, file: IO[bytes], sample_rate: int, channels: int) -> WavReader:
        """Return a reader of a stream without a header: interleaved 16-bit little-endian integers."""
        self = cls.__new__(cls)
        self._file, self.n_samples = file, None
        self.sample_rate, self.channels, self._format, self._width = sample_rate, channels, _PCM, 2
        return self

    def limit(self, n_bytes: int) -> None:
        """Limit `n_samples` to what `n_bytes` bytes hold, as a file may be shorter than its header states."""
        most = n_bytes // (self._width * self.channels)
        self.n_samples = most if self.n_samples is None else min(self.n_samples, most)

    def read(self, n_samples: int) -> Block:
        """Return the next samples, `(n, channels)`; `n` is less than `n_samples` only at the end."""
        if self.n_samples is not None:
            n_samples = min(n_samples, self.n_samples)
        align = self._width * self.channels
        content = _up_to(self._file, n_samples * align)
        values = np.frombuffer(content[: len(content) // align * align], _KINDS[self._format, self._width])
        samples = _decoded(values, self._format, self._width).reshape(-1, self.channels)
        if self.n_samples is not None:
            self.n_samples = self.n_samples - len(samples) if len(samples) == n_samples else 0
        return samples


def _decoded(values: npt.NDArray[Any], format: int, width: int) -> Block:
    if format == _FLOAT:
        with np.errstate(over="ignore"):  # too large a float64 becomes infinite; the caller raises an error
            return values.astype(np.float32)
    if width == 1:
        return (values.astype(np.float32) - 128) / np.float32(128)
    if width == 3:
        bytes_ = values.reshape(-1, 3).astype(np.int32)
        values = (bytes_[:, 0] << 8 | bytes_[:, 1] << 16 | bytes_[:, 2] << 24) >> 8
    decoded: Block = (values / 2.0 ** (8 * width - 1)).astype(np.float32)
    return decoded


def _format(chunk: bytes) -> tuple[int, int, int, int]:
    """Return sample rate, channels, format code and bytes per sample from the chunk "fmt "."""
    if len(chunk) < 16:
        raise ValueError("its header does not state the format of the samples")
    format, channels, rate, _, align, bits = struct.unpack("<HHIIHH", chunk[:16])
    if format == _EXTENSIBLE and len(chunk) >= 26:
        format = struct.unpack("<H", chunk[24:26])[0]
    width = align // channels if channels else 0
    plain = (format, width) in _KINDS and align == width * channels and 8 * width - 8 < bits <= 8 * width
    if not plain or not rate or not 1 <= channels <= MOST_CHANNELS:
        raise ValueError(
            f"its samples (format {format}, {bits} bits, {channels} channels, {rate} Hz) are not integers of "
            "8, 16, 24 or 32 bits or floats of 32 or 64 bits"
        )
    return rate, channels, format, width


def _up_to(file: IO[bytes], n_bytes: int) -> bytes:
    """Return `n_bytes` bytes, fewer only at the end; reads repeatedly, as a pipe may return fewer."""
    parts = []
    while n_bytes and (part := file.read(min(n_bytes, 16 * _AT_ONCE))):
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)


def _exactly(file: IO[bytes], n_bytes: int) -> bytes:
    content = _up_to(file, n_bytes)
    if len(content) < n_bytes:
        raise ValueError("it ends before its samples begin")
    return content


def _skip(file: IO[bytes], n_bytes: int) -> None:
    while n_bytes:
        n_bytes -= len(_exactly(file, min(n_bytes, _AT_ONCE)))


class WavWriter:
    """Writes samples as a WAV file, or as a stream of unknown length; `subtype` is one of `SAMPLE_BYTES`."""

    def __init__(
        self, file: Any, sample_rate: int, channels: int, subtype: str, *, endless: bool = False
    ) -> None:
        self._file, self._endless, self._n_bytes = file, endless, 0
        self._rate, self._channels, self._subtype = sample_rate, channels, subtype
        file.write(self._header())

    def _header(self) -> bytes:
        """Return the header with the current sizes."""
        width, is_float = SAMPLE_BYTES[self._subtype], self._subtype in ("FLOAT", "DOUBLE")
        align = width * self._channels
        per_second = min(self._rate * align, _UNKNOWN)
        format = struct.pack(
            "<HHIIHH",
            *(_FLOAT if is_float else _PCM, self._channels, self._rate, per_second, align, 8 * width),
        )
        data_size = _UNKNOWN if self._endless else self._n_bytes
        chunks = _chunk(b"fmt ", format + (b"\0\0" if is_float else b""))
        if is_float:
            chunks += _chunk(b"fact", struct.pack("<I", _UNKNOWN if self._endless else data_size // align))
        riff_size = _UNKNOWN if self._endless else 4 + len(chunks) + 8 + data_size + data_size % 2
        return (
            struct.pack("<4sI4s", b"RIFF", riff_size, b"WAVE")
            + chunks
            + struct.pack("<4sI", b"data", data_size)
        )

    def write(self, samples: Block) -> None:
        """Append samples `(n, channels)`; raises `OverflowError` when a file, not a stream, passes 4 GiB."""
        content = _encoded(samples, self._subtype)
        if not self._endless and self._n_bytes + len(content) > LARGEST_WAV:
            raise OverflowError("it would exceed 4 GiB, the limit of WAV")
        self._file.write(content)
        self._n_bytes += len(content)

    def abandon(self) -> None:
        """Do nothing: the header of an abandoned file is not completed."""

    def close(self) -> None:
        """Write the final sizes to the header of a file; a stream does not change."""
        if not self._endless:
            self._file.write(b"\0" * (self._n_bytes % 2))
            self._file.seek(0)
            self._file.write(self._header())


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", name, len(content)) + content


def _encoded(samples: Block, subtype: str) -> bytes:
    """Return samples as bytes; integers are rounded and clipped, and full scale is their largest value."""
    if subtype in ("FLOAT", "DOUBLE"):
        return samples.astype("<f4" if subtype == "FLOAT" else "<f8").tobytes()
    bits = 8 * SAMPLE_BYTES[subtype]
    full_scale = 2.0 ** (bits - 1)
    whole = np.rint(samples.astype(np.float64) * full_scale).clip(-full_scale, full_scale - 1)
    if bits == 8:
        return (whole + 128).astype("u1").tobytes()
    if bits == 24:
        return whole.astype("<i4")[..., np.newaxis].view("u1")[..., :3].tobytes()
    return whole.astype(f"<i{bits // 8}").tobytes()
