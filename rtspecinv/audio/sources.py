"""Sources of samples: audio files and streams."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from rtspecinv.audio._soundfile import SoundfileReader
from rtspecinv.audio.formats import MOST_CHANNELS
from rtspecinv.audio.wav import WavReader
from rtspecinv.common.checks import MOST_RATE, able, count, file_name, shown, sizes
from rtspecinv.common.printable import printable

_LONGEST_BLOCK = 2**24  # samples


class AudioReader:
    """Reads a WAV, FLAC, OGG or MP3 file block by block, so that memory does not grow with its length.

    WAV with integers or floats needs no soundfile. `sample_rate` is in Hz; `n_samples` (per channel) is the
    number in the file's header, an estimate for MP3.
    Iteration over the reader yields its `blocks()`.
    Raises `FileNotFoundError` or `IsADirectoryError` if there is no such file, `ValueError` if it is not
    audio, is damaged or holds no samples, and `ImportError` if soundfile is needed but not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = file_name(path=path)
        self._name = printable(self.path)
        if self.path.is_dir():
            raise IsADirectoryError(f"{self._name} is a folder, not an audio file")
        if not self.path.exists():
            raise FileNotFoundError(f"There is no file {self._name}")
        if not self.path.is_file():
            raise ValueError(
                f"{self._name} is a pipe or a device, which can be read only once: open it, and pass it "
                "to AudioStream"
            )
        with self._open() as file:
            self.sample_rate: int = file.sample_rate
            self.channels: int = file.channels
            self.n_samples: int = file.n_samples
        if self.n_samples == 0:
            raise ValueError(f"{self._name} contains no samples")

    @contextmanager
    def _open(self) -> Iterator[Any]:
        with open(self.path, "rb") as file:
            wav = _plain_wav(file)
            if wav is not None:
                yield wav
                return
        with SoundfileReader(self.path) as found:
            yield found

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return self.blocks()

    def blocks(self, n_samples: int = 8192) -> Iterator[npt.NDArray[np.float32]]:
        """Yield float32 blocks `(channels, n_samples)` from the beginning; the last one may be shorter."""
        return self._blocks(count(1, _LONGEST_BLOCK, n_samples=n_samples))

    def _blocks(self, n_samples: int) -> Iterator[npt.NDArray[np.float32]]:
        with self._open() as file:
            yield from _blocks(file, n_samples, self._name)


class AudioStream:
    """Reads a WAV stream from an open binary file or a pipe, once, as it arrives; needs no soundfile.

    Args:
        file: open binary file.
        raw: sample rate in Hz and number of channels of a stream of 16-bit little-endian integers without a
            header, default: the stream has a WAV header.
        name: name of the stream in messages, default: "the stream".

    `n_samples` (per channel) is None if the stream does not state its length.
    Raises `ValueError` if the file is not such a stream.
    """

    def __init__(
        self, file: IO[bytes], *, raw: tuple[int, int] | None = None, name: str = "the stream"
    ) -> None:
        self._name = printable(name)
        given: object = able(("read",), "pass a file that is open for reading bytes", file=file)
        if isinstance(given, io.TextIOBase):
            raise TypeError(f"Parameter file is open for text, {shown(given)}: open it with mode 'rb'")
        form = None if raw is None else _raw(raw)
        try:
            self._wav = WavReader(file) if form is None else WavReader.raw(file, *form)
        except ValueError as error:
            raise ValueError(
                f"{self._name} is not a WAV stream: {error}; for PCM without a header, pass "
                "raw=(sample_rate, channels)"
            ) from error
        self.sample_rate, self.channels = self._wav.sample_rate, self._wav.channels
        self.n_samples = self._wav.n_samples

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return self.blocks()

    def blocks(self, n_samples: int = 8192) -> Iterator[npt.NDArray[np.float32]]:
        """Yield float32 blocks `(channels, n_samples)` of the rest; the last one may be shorter."""
        return _blocks(self._wav, count(1, _LONGEST_BLOCK, n_samples=n_samples), self._name)


def _raw(raw: tuple[int, int]) -> tuple[int, int]:
    """Return the checked sample rate and number of channels of a stream without a header."""
    rule = "(sample_rate, channels), two integers >= 1"
    found = sizes(rule, raw=raw)
    if len(found) != 2:
        raise ValueError(f"Parameter raw={shown(raw)} is not {rule}")
    return count(1, int(MOST_RATE), sample_rate=found[0]), count(1, MOST_CHANNELS, channels=found[1])


def _plain_wav(file: IO[bytes]) -> WavReader | None:
    """Return a reader of the file, or None if it is not a WAV file of plain samples."""
    try:
        wav = WavReader(file)
    except ValueError:
        return None
    wav.limit(os.fstat(file.fileno()).st_size - file.tell())
    return wav


def _blocks(file: Any, n_samples: int, name: str) -> Iterator[npt.NDArray[np.float32]]:
    while len(block := file.read(n_samples)):
        if not np.isfinite(block).all():
            raise ValueError(f"{name} contains samples that are NaN or infinite: all must be finite")
        yield np.ascontiguousarray(block.T)


def read_audio(path: str | os.PathLike[str]) -> tuple[npt.NDArray[np.float32], int]:
    """Return the samples of an audio file, float32 `(channels, n_samples)`, and its sample rate in Hz."""
    reader = AudioReader(path)
    return np.concatenate(list(reader.blocks(65536)), axis=-1), reader.sample_rate
