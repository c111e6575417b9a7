"""Reader and writer of audio files by libsndfile.

The package soundfile is imported when the first file that needs it is opened.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rtspecinv.common.printable import printable

# Number of samples per write to libsndfile. It is constant, because the first samples of an OGG file depend
# on it, and small, because the Vorbis encoder needs stack memory in proportion to it.
_WRITE_LENGTH = 8192


def soundfile(what: str = "Audio files other than plain WAV need") -> Any:
    """Return the module soundfile; raises `ImportError` with the command that installs it.

    what: first words of the error message, default: those for audio files.
    """
    try:
        import soundfile as module
    except ImportError as error:
        raise ImportError(f'{what} soundfile: pip install "rtspecinv[files]"') from error
    except OSError as error:  # soundfile was installed without libsndfile
        raise ImportError(
            f"{what} soundfile, which does not find libsndfile ({error}): apt-get install libsndfile1"
        ) from error
    return module


class SoundfileReader:
    """Decodes an audio file of any format that libsndfile knows.

    Raises `ValueError` if the file is not audio.
    """

    def __init__(self, path: Path) -> None:
        self._sf, self._name = soundfile(), printable(path)
        try:
            self._file = self._sf.SoundFile(os.fspath(path))
        except (self._sf.LibsndfileError, TypeError) as error:  # TypeError for .raw
            raise ValueError(f"{self._name} is not audio: expected a WAV, FLAC, OGG or MP3 file") from error
        # After each read of a seekable file, soundfile seeks to the current position. This resets the MP3
        # decoder, and the samples that follow are wrong (seen with soundfile 0.14, libsndfile 1.2.2).
        self._file.seekable = lambda: False
        self.sample_rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.n_samples: int = self._file.frames

    def read(self, n_samples: int) -> npt.NDArray[np.float32]:
        """Return the next samples, `(n, channels)`, fewer at the end of the file.

        Raises `ValueError` if the file is damaged.
        """
        try:
            block: npt.NDArray[np.float32] = self._file.read(n_samples, dtype="float32", always_2d=True)
        except self._sf.LibsndfileError as error:
            raise ValueError(f"{self._name} is damaged: {printable(error)}") from error
        return block

    def __enter__(self) -> SoundfileReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


class SoundfileWriter:
    """Encodes samples with libsndfile and writes them to a file object.

    Raises `ValueError` for a subtype, rate or number of channels that libsndfile does not support.
    """

    def __init__(self, file: Any, sample_rate: int, channels: int, container: str, subtype: str) -> None:
        sf = soundfile(f"{container} files with {subtype} need")
        if not sf.check_format(container, subtype):
            known = ", ".join(sf.available_subtypes(container))
            raise ValueError(f"{container} has no subtype {subtype!r}: use one of {known}")
        try:
            with signals_wait():
                self._file = sf.SoundFile(file, "w", sample_rate, channels, subtype, format=container)
        except (sf.LibsndfileError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"libsndfile cannot write {container} with {subtype}, {sample_rate=}, {channels=}: {error}"
            ) from error
        self._buffer = np.empty((_WRITE_LENGTH, channels), np.float32)
        self._filled = 0

    def write(self, samples: npt.NDArray[np.float32]) -> None:
        """Append samples `(n, channels)`."""
        while len(samples):
            part, samples = np.split(samples, [_WRITE_LENGTH - self._filled])
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            if self._filled == _WRITE_LENGTH:
                self._write_buffer()

    def _write_buffer(self) -> None:
        with signals_wait():
            self._file.write(self._buffer[: self._filled])
        self._filled = 0

    def abandon(self) -> None:
        """Close the file, which may be incomplete, and ignore errors."""
        with signals_wait(), suppress(Exception):
            self._file.close()

    def close(self) -> None:
        """Encode the buffered samples and close the file."""
        self._write_buffer()
        with signals_wait():
            self._file.close()


@contextmanager
def signals_wait() -> Iterator[None]:
    """Delay signals until the end of the `with` block.

    libsndfile calls Python functions; an exception that a signal handler raises in one of them is lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}
    try:
        for number in before:
            signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)
