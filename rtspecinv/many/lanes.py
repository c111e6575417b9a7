"""Inversion of spectrograms of any lengths at the same time, each by one or more streams of an inverter."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, repeat

import torch
from torch import Tensor

from rtspecinv.common.checks import LONGEST_SOUND, count, instance, iterable
from rtspecinv.inputs import Array, as_magnitude
from rtspecinv.streaming import StreamingInverter

AT_ONCE = 32  # largest number of frames per call of `push_many`; streams begin and end only between two calls
MOST_IDLE = 4  # largest number of lanes that are kept without a spectrogram


@dataclass(eq=False)
class Item:
    """A spectrogram that a lane inverts.

    Attributes:
        blocks: blocks of frames `(n_frames, channels, n_freq)` on the CPU.
        channels: number of channels, each of which takes a stream.
        length: number of samples of the sound; None for as many as the frames cover.
        write: function that takes the next samples, `(channels, n)`.
        work_seconds: share of the spectrogram in the duration of the pushes so far, seconds.
    """

    blocks: Iterator[Tensor]
    channels: int
    length: int | None
    write: Callable[[Tensor], object]
    work_seconds: float = 0.0
    _streams: list[int] = field(default_factory=list)
    _block: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float32, device="cpu"))
    _to_drop: int = 0  # number of samples of the latency that have not been dropped yet
    _n_given: int = 0
    _is_warned: bool = False  # whether the warning about too large magnitudes was issued

    def _give(self, samples: Tensor) -> None:
        n_dropped = min(self._to_drop, samples.shape[-1])
        self._to_drop -= n_dropped
        missing = None if self.length is None else self.length - self._n_given
        samples = samples[..., n_dropped:][..., :missing]
        self._n_given += samples.shape[-1]
        if samples.shape[-1]:
            self.write(samples)

    def _owed(self) -> int | None:
        """Return the number of samples that a flush must return; None for what the frames cover."""
        return None if self.length is None else self._to_drop + self.length - self._n_given


class Lane:
    """Spectrograms in the streams of one inverter, which are pushed together.

    All spectrograms in the lane advance by the same number of frames, at most up to the end of the shortest
    one; other spectrograms may then take its streams. An error in the frames or the `write` of one does not
    affect the others. With the engine `numba`, samples are bit-identical to those of `inverter.run`.
    """

    def __init__(self, inverter: StreamingInverter) -> None:
        self.inverter = inverter
        self._free = list(range(inverter.batch_shape[0]))
        self._items: list[Item] = []

    def __len__(self) -> int:
        """Return the number of spectrograms in the lane."""
        return len(self._items)

    @property
    def n_free(self) -> int:
        """Number of free streams."""
        return len(self._free)

    def add(self, item: Item) -> None:
        """Assign streams to a spectrogram; raises the error of its first block."""
        item._to_drop = self.inverter.latency
        self._read(item)
        self._free.sort()
        item._streams, self._free = self._free[: item.channels], self._free[item.channels :]
        self._items.append(item)
        self._items.sort(key=lambda item: item._streams[0])  # consecutive streams need one compiled call

    def step(self) -> list[tuple[Item, Exception | None]]:
        """Push up to `AT_ONCE` frames of each spectrogram; return those that ended, with an error or None."""
        ended: list[tuple[Item, Exception | None]] = []
        whole: list[Item] = []
        n_frames = min([AT_ONCE, *(len(item._block) for item in self._items)])
        begin = time.perf_counter()
        hops = self._push(n_frames)
        self._share(time.perf_counter() - begin, self._items)
        for item, samples in zip(self._items, hops, strict=True):
            item._block = item._block[n_frames:]
            try:
                item._give(samples)
                if not len(item._block) and not self._read(item):
                    whole.append(item)
            except Exception as error:
                ended.append((item, error))
        self.inverter.reset([stream for item, _ in ended for stream in item._streams])
        ended += self._flush(whole)
        for item, _ in ended:
            self._items.remove(item)
            self._free += item._streams
        return ended

    def _push(self, n_frames: int) -> list[Tensor]:
        """Push the next frames of all spectrograms, and return the samples of each."""
        if not self._items:
            return []
        device = self.inverter.stft.device
        frames = torch.cat([item._block[:n_frames] for item in self._items], 1).to(device)
        self.inverter._intake.has_warned = self.inverter.bank is None  # `_read` has checked each spectrogram
        # After this permutation, the frames of one push are contiguous in memory, as the engine needs them.
        hops = self.inverter.push_many(frames.permute(1, 2, 0), streams=self._streams(self._items))
        return _split(hops, self._items)

    def _streams(self, items: list[Item]) -> list[int] | None:
        """Return the streams of items; None for all streams in their order."""
        streams = [stream for item in items for stream in item._streams]
        return None if streams == list(range(*self.inverter.batch_shape)) else streams

    def _read(self, item: Item) -> bool:
        """Read the next block of frames, and return whether there was one."""
        for block in item.blocks:
            if len(block):
                frames = block.to(self.inverter.stft.device).permute(1, 2, 0)
                self.inverter._intake.has_warned = item._is_warned
                self.inverter._intake.check(frames, 2, (item.channels,))
                item._is_warned = self.inverter._intake.has_warned
                item._block = block
                return True
        return False

    def _flush(self, items: list[Item]) -> list[tuple[Item, Exception | None]]:
        """Flush the streams of items whose frames have all been pushed, and write the samples."""
        ended: list[tuple[Item, Exception | None]] = []
        alike: dict[int | None, list[Item]] = {}
        for item in items:
            alike.setdefault(item._owed(), []).append(item)
        for n_samples, members in alike.items():
            begin = time.perf_counter()
            owed = self.inverter.flush(n_samples, streams=self._streams(members))
            self._share(time.perf_counter() - begin, members)
            pairs = zip(members, _split(owed, members), strict=True)
            ended += [(item, _failure(item, samples)) for item, samples in pairs]
        return ended

    def _share(self, seconds: float, items: list[Item]) -> None:
        n_streams = sum(item.channels for item in items)
        for item in items:
            item.work_seconds += seconds * item.channels / n_streams


def _split(samples: Tensor, items: list[Item]) -> list[Tensor]:
    """Return the samples of each item, on the CPU."""
    return list(torch.split(samples.detach().cpu(), [item.channels for item in items]))


def _failure(item: Item, samples: Tensor) -> Exception | None:
    """Write samples of an item, and return the error of its `write`, or None."""
    try:
        item._give(samples)
    except Exception as error:
        return error
    return None


Make = Callable[[int], StreamingInverter]  # takes the number of streams


class Lanes:
    """A lane for each kind of spectrogram: for all that one inverter can invert.

    n_streams: largest number of streams in use in all lanes together. A spectrogram with more channels gets
        its own lane, once no other spectrogram is in progress.
    """

    def __init__(self, n_streams: int) -> None:
        self.n_streams = n_streams
        self._lanes: dict[Hashable, Lane] = {}
        self._n_busy = 0

    def __bool__(self) -> bool:
        """Return whether a spectrogram is in progress."""
        return self._n_busy > 0

    def fits(self, channels: int) -> bool:
        """Return whether enough streams are free for a spectrogram with this number of channels."""
        return not self._n_busy or self._n_busy + channels <= self.n_streams

    def add(self, kind: Hashable, make: Make, item: Item) -> None:
        """Add a spectrogram that fits to the lane of its kind; raises the error of its first block.

        kind: value that is equal for all spectrograms that one inverter can invert.
        make: function that returns such an inverter with `batch_shape=(n_streams,)`.
        """
        n_streams = max(self.n_streams, item.channels)
        lane = self._lanes.pop((kind, n_streams), None)
        if lane is None:
            for idle in [key for key, lane in self._lanes.items() if not len(lane)][: 1 - MOST_IDLE]:
                del self._lanes[idle]
            lane = Lane(make(n_streams))
        self._lanes[kind, n_streams] = lane  # the lane used last comes last
        lane.add(item)
        self._n_busy += item.channels

    def step(self) -> list[tuple[Item, Exception | None]]:
        """Advance all lanes, and return the spectrograms that ended; see `Lane.step`."""
        ended = [pair for lane in self._lanes.values() if len(lane) for pair in lane.step()]
        self._n_busy -= sum(item.channels for item, _ in ended)
        return ended


def stream_many(
    magnitudes: Iterable[Tensor | Array],
    inverter: StreamingInverter,
    *,
    lengths: Iterable[int | None] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the samples of many spectrograms of any lengths, several of which are inverted at the same time.

    Args:
        magnitudes: magnitudes or mel frames of each spectrogram, real, `(n_freq, n_frames)`. A spectrogram is
            taken from the iterable when a stream is free for it, so the iterable may read files.
        inverter: `StreamingInverter` or `MelInverter` with `batch_shape=(n_streams,)`, such as `(16,)` for
            each core of a CPU. Its streams are reset.
        lengths: number of samples to return for each spectrogram, or None for the number that its frames
            cover; default: None for all.

    Yields:
        Pairs of the index of a spectrogram, from 0, and its samples `(n_samples,)`, in the order in which
        they are complete. They equal the result of `inverter.run` on each spectrogram alone; with the engine
        `numba` they do to the bit.

    Raises:
        ValueError, TypeError: as in `StreamingInverter.run`; the message states the index. The spectrograms
            that are not complete are lost.

    Examples:
        >>> import torch
        >>> from rtspecinv import STFT, StreamingInverter, stream_many
        >>> stft = STFT(n_fft=1024, hop_length=256)
        >>> magnitudes = [stft.magnitude(torch.randn(256 * n)) for n in (10, 40, 20)]
        >>> inverter = StreamingInverter(stft, batch_shape=(2,))
        >>> found = dict(stream_many(magnitudes, inverter))
        >>> [len(found[i]) // 256 for i in range(3)]
        [10, 40, 20]
    """
    iterable(magnitudes=magnitudes)
    instance(StreamingInverter, "pass one with batch_shape=(16,)", inverter=inverter)
    if len(inverter.batch_shape) != 1:
        raise ValueError(
            f"Parameter inverter has batch_shape={inverter.batch_shape}, not one axis: make it with "
            "batch_shape=(16,) for 16 spectrograms at once"
        )
    wanted = repeat(None) if lengths is None else iter(iterable(lengths=lengths))
    source = enumerate(zip(magnitudes, wanted, strict=lengths is not None))
    inverter.reset()
    lane = Lane(inverter)
    found: dict[Item, tuple[int, list[Tensor]]] = {}
    try:
        while True:
            for number, (value, length) in islice(source, lane.n_free):
                pieces = [inverter.stft.window.new_zeros(1, 0, device="cpu")]
                with _named(number):
                    frames = _frames(value, inverter)
                    length = None if length is None else count(1, LONGEST_SOUND, length=length)
                    item = Item(iter([frames]), 1, length, pieces.append)
                    lane.add(item)
                found[item] = number, pieces
            if not len(lane):
                return
            for item, error in lane.step():
                number, pieces = found.pop(item)
                with _named(number):
                    if error is not None:
                        raise error
                yield number, torch.cat(pieces, -1)[0]
    finally:
        inverter.reset()


def _frames(value: Tensor | Array, inverter: StreamingInverter) -> Tensor:
    """Return a spectrogram as frames `(n_frames, 1, n_freq)`."""
    magnitude = as_magnitude(value, inverter.stft.window)
    if magnitude.is_complex():
        raise TypeError("Parameter magnitude is complex: pass its .abs()")
    if magnitude.ndim != 2 or not magnitude.shape[-1]:
        raise ValueError(
            f"Parameter magnitude has shape {tuple(magnitude.shape)}, not (n_freq, n_frames) with frames in "
            "it: pass the channels of a sound one by one"
        )
    return magnitude.mT.unsqueeze(1)


@contextmanager
def _named(number: int) -> Iterator[None]:
    """Return a context whose errors state the index of a spectrogram."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"Spectrogram {number}: {error}") from error
