"""Where samples come from, audio files and microphones, and a box for frames that are made by hand."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from rtspecinv.audio._soundfile import soundfile
from rtspecinv.audio.inbox import Bell, copy_of
from rtspecinv.audio.portaudio import (
    DeviceError,
    abandon,
    check_settings,
    leave_at_exit,
    opened,
    sounddevice,
    stream_seconds,
    undisturbed,
)

_STALL_SECONDS = 5.0  # a microphone that gives nothing for so long is gone
_PAUSE_SECONDS = 1.0  # and is closed with care when it gave nothing for so long


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


class Microphone:
    """Records through a sound device; iterating gives float32 blocks `(channels, n_samples)` as they come.

    sample_rate: in Hz, one that the device takes; None is the device's own. Use the sink's: input and output
        of one device have one clock, so that neither runs ahead of the other.
    device: a number or a part of a name from `rtspecinv devices`; None is the system's default.
    latency: the device's own input buffering: `"low"`, `"high"` or seconds.
    queue_seconds: how much may wait for the one who iterates; then the oldest block is lost.
    block_length: samples that the device gives at once, 0 leaves it to the device.

    It records from the start of the iteration until `close`, which also ends the iteration from another
    thread. Raises `DeviceError` if PortAudio or the device is missing or refuses these settings, and from the
    iteration if the device stops.
    """

    def __init__(
        self,
        sample_rate: int | None,
        channels: int = 1,
        *,
        device: int | str | None = None,
        latency: float | str = "low",
        queue_seconds: float = 0.5,
        block_length: int = 0,
    ) -> None:
        self.channels = channels
        self._latest = 0.0  # when a block came, 0 if none can
        self._block_length = 0  # of the longest one that came
        self.overflows = 0  # times that sound was lost: by the device, or because nobody took it
        self._blocks: queue.SimpleQueue[npt.NDArray[np.float32] | None] = queue.SimpleQueue()
        sd = sounddevice()
        try:
            if sample_rate is None:
                sample_rate = round(sd.query_devices(device, "input")["default_samplerate"])
            check_settings(sample_rate, channels, queue_seconds)
            self.sample_rate = sample_rate
            self._most = queue_seconds * sample_rate  # samples
            make = partial(
                sd.InputStream,
                samplerate=sample_rate,
                channels=channels,
                device=device,
                latency=latency,
                blocksize=block_length,
                dtype="float32",
                callback=self._callback,
            )
            self._stream = opened(make, lambda stream: stream.close())
        except (ValueError, sd.PortAudioError) as error:
            raise DeviceError(
                f"Cannot record from device {device if device is not None else 'default'!r} with "
                f"{sample_rate=}, {channels=}: {' '.join(str(error).split())}; `rtspecinv devices` lists "
                "what there is"
            ) from error

    @property
    def latency_seconds(self) -> float:
        """Seconds from the air to a block: what the device tells, and not less than a block."""
        return max(stream_seconds(self._stream), self._block_length / self.sample_rate)

    def _callback(self, block: npt.NDArray[np.float32], n_samples: int, clock: Any, status: Any) -> None:
        """On PortAudio's thread: copy, nothing else."""
        self._latest = time.monotonic()
        self._block_length = max(self._block_length, n_samples)
        lost = bool(status.input_overflow)
        if (self._blocks.qsize() + 1) * n_samples > max(self._most, n_samples):
            try:
                self._blocks.get_nowait()
                lost = True
            except queue.Empty:  # it was taken just now
                pass
        self.overflows += lost
        self._blocks.put(block.T.copy())

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        if self._stream.closed:
            raise ValueError("The microphone is closed")
        if not self._stream.active:
            with undisturbed():
                self._stream.start()
        while (block := self._next()) is not None:
            yield block

    def _next(self) -> npt.NDArray[np.float32] | None:
        """Wait for a block; in parts, of which Ctrl-Z, which stops this program itself, takes only one."""
        for _ in range(5):
            with suppress(queue.Empty):
                return self._blocks.get(timeout=_STALL_SECONDS / 5)
        raise DeviceError(f"The microphone has given nothing for {_STALL_SECONDS:.0f} seconds")

    def close(self) -> None:
        """Stop recording and close the device; closing twice is harmless."""
        with undisturbed():
            if self._latest and time.monotonic() - self._latest > _PAUSE_SECONDS:
                abandon(self._stream)
                leave_at_exit(sounddevice())
            else:
                self._stream.close(ignore_errors=True)
        self._latest = 0.0
        self._blocks.put(None)

    def __enter__(self) -> Microphone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Mailbox:
    """The latest frame wins: any thread may `put` frames at any time, iterating gives the latest for ever.

    So a synthesiser draws its frames when it likes, and a `Player` takes one for each hop: with
    `full="block"` it sets the pace of the iteration. The first frame is waited for; `close` ends it.
    """

    def __init__(self) -> None:
        self._latest: Any = None
        self._first, self._closed = Bell(), False

    def put(self, frame: Any) -> None:
        """Give a copy of `frame`, numpy or torch, in place of the one before."""
        self._latest = copy_of(frame)
        self._first.ring()

    def close(self) -> None:
        """End the iteration."""
        self._closed = True
        self._first.ring()

    def __iter__(self) -> Iterator[Any]:
        if self._latest is None and not self._closed:
            self._first.wait()
        while not self._closed:
            yield self._latest
