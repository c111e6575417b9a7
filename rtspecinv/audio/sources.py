"""Where samples and frames come from: audio files, and a box for frames that are made by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rtspecinv.audio._soundfile import soundfile
from rtspecinv.audio.inbox import Bell, copy_of
from rtspecinv.checks import able, count

_LONGEST_BLOCK = 2**24  # samples


class AudioReader:
    """Reads a WAV, FLAC, OGG or MP3 file block by block, so that memory does not grow with its length.

    `sample_rate` is in Hz; `n_samples` (per channel) is what the file's header says, an estimate for MP3.
    Raises `FileNotFoundError`, `IsADirectoryError`, and `ValueError` for a file that is not audio, is damaged
    or holds no samples. Iterating over it gives its `blocks()`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder, not an audio file")
        if not self.path.exists():
            raise FileNotFoundError(f"There is no file {self.path}")
        if not self.path.is_file():
            raise ValueError(f"{self.path} is a pipe or a device, which is read only once: expected a file")
        self._sf = soundfile()
        with self._open() as file:
            self.sample_rate: int = file.samplerate
            self.channels: int = file.channels
            self.n_samples: int = file.frames
        if self.n_samples == 0:
            raise ValueError(f"{self.path} holds no samples")

    def _open(self) -> Any:
        try:
            file = self._sf.SoundFile(os.fspath(self.path))
        except (self._sf.LibsndfileError, TypeError) as error:  # TypeError: .raw
            raise ValueError(f"{self.path} is not audio (WAV, FLAC, OGG, MP3)") from error
        # soundfile seeks to where it is after each read of a seekable file, which makes the MP3 decoder lose
        # its state: what follows comes out wrong (seen with soundfile 0.14, libsndfile 1.2.2).
        file.seekable = lambda: False
        return file

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return self.blocks()

    def blocks(self, n_samples: int = 8192) -> Iterator[npt.NDArray[np.float32]]:
        """Yield float32 blocks `(channels, n_samples)` from the beginning; the last one may be shorter."""
        return self._blocks(count(1, _LONGEST_BLOCK, n_samples=n_samples))

    def _blocks(self, n_samples: int) -> Iterator[npt.NDArray[np.float32]]:
        with self._open() as file:
            while True:
                try:
                    block = file.read(n_samples, dtype="float32", always_2d=True)
                except self._sf.LibsndfileError as error:
                    raise ValueError(f"{self.path} is damaged: {error}") from error
                if len(block) == 0:
                    return
                if not np.isfinite(block).all():
                    raise ValueError(
                        f"{self.path} has samples that are NaN or infinite: only finite ones are sound"
                    )
                yield np.ascontiguousarray(block.T)


def read_audio(path: str | os.PathLike[str]) -> tuple[npt.NDArray[np.float32], int]:
    """Read a whole audio file: float32 `(channels, n_samples)` within -1 to 1, and its rate in Hz."""
    reader = AudioReader(path)
    return np.concatenate(list(reader.blocks(65536)), axis=-1), reader.sample_rate


class Mailbox:
    """The latest frame wins: any thread may `put` frames at any time, iterating gives the latest for ever.

    So a synthesiser draws its frames when it likes, and a `Player` takes one for each hop: with
    `full="block"` it sets the pace of the iteration. The first frame is waited for; `close` ends it.
    """

    def __init__(self) -> None:
        self._latest: Any = None
        self._first, self._closed = Bell(), False

    def put(self, frame: Any) -> None:
        """Give a copy of `frame`, numpy or torch, in place of the one before; else it is a TypeError."""
        able(("__array__",), "pass a tensor or an array", frame=frame)
        self._latest = copy_of(frame)
        self._first.ring()

    def close(self) -> None:
        """End the iteration."""
        self._closed = True
        self._first.ring()

    def __iter__(self) -> Iterator[Any]:
        if self._latest is None and not self._closed:
            self._first.wait()
            self._first.ring()  # for others who wait
        while not self._closed:
            yield self._latest
