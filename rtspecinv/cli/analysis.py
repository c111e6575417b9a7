"""Analysis of a signal that arrives in blocks, and the score of one stream against another."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

import rtspecinv
from rtspecinv.audio import Sink

Block = npt.NDArray[np.float32]


class StreamingAnalysis:
    """Magnitude frames of a signal that comes in blocks: the same as `stft.magnitude` of the whole signal.

    `stft` must pad with "reflect", "replicate" or "constant", or not at all.
    """

    def __init__(self, stft: rtspecinv.STFT) -> None:
        self.stft = stft
        self._pending: Tensor | None = None  # (channels, n): from the next frame's first sample on
        self._tail: Tensor | None = None  # the last padding + 1 samples, which the padding at the end mirrors
        self._started = False

    def push(self, block: Block) -> Tensor:
        """Take the next `(channels, n_samples)`, return what it completes, `(channels, n_freq, n_frames)`."""
        new = torch.from_numpy(np.array(block))
        keep = self.stft.padding + 1
        self._tail = (
            new[:, -keep:] if self._tail is None else torch.cat([self._tail, new[:, -keep:]], -1)[:, -keep:]
        )
        self._pending = new if self._pending is None else torch.cat([self._pending, new], -1)
        if not self._started:
            if self._pending.shape[-1] < keep:
                return self._no_frames(self._pending)
            self._pending = F.pad(self._pending, (self.stft.padding, 0), mode=self.stft.pad_mode)
            self._started = True
        return self._take()

    def finish(self) -> Tensor:
        """Return the frames that reach beyond the end; raises `ValueError` for a signal too short to pad."""
        if self._pending is None or self._tail is None or not self._started:
            n_samples = 0 if self._pending is None else self._pending.shape[-1]
            raise ValueError(
                f"{n_samples} samples are too few for n_fft={self.stft.n_fft}, "
                f"which needs {self.stft.padding + 1}: "
                "use a smaller n_fft"
            )
        padding = self.stft.padding
        mirrored = F.pad(self._tail, (0, padding), mode=self.stft.pad_mode)[:, self._tail.shape[-1] :]
        self._pending = torch.cat([self._pending, mirrored], -1)
        return self._take()

    def _take(self) -> Tensor:
        assert self._pending is not None
        if self._pending.shape[-1] < self.stft.n_fft:
            return self._no_frames(self._pending)
        frames = self.stft.frame(self._pending)
        self._pending = self._pending[:, frames.shape[-2] * self.stft.hop_length :]
        return self.stft.transform(frames * self.stft.window).mT.abs()

    def _no_frames(self, like: Tensor) -> Tensor:
        return like.new_zeros(like.shape[0], self.stft.n_freq, 0)


def magnitude_frames(blocks: Iterable[Block], stft: rtspecinv.STFT) -> Iterator[Tensor]:
    """Yield the magnitude frames `(channels, n_freq)` of a signal given in blocks `(channels, n_samples)`."""
    analysis = StreamingAnalysis(stft)
    for block in blocks:
        yield from analysis.push(block).unbind(-1)
    yield from analysis.finish().unbind(-1)


class Score(Sink):
    """Compares the sound it is given with the frames it was made from, in memory that does not grow.

    Pass the frames through `watch` on their way to the inverter, and write the sound here.
    """

    def __init__(self, stft: rtspecinv.STFT) -> None:
        self._analysis = StreamingAnalysis(stft)
        self._targets: deque[Tensor] = deque()
        self._error = self._energy = 0.0

    def watch(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield `frames` unchanged and remember those that have not been heard yet."""
        for frame in frames:
            self._targets.append(frame)
            yield frame

    def write(self, samples: npt.ArrayLike) -> None:
        """Compare the frames that `samples`, `(channels, n_samples)`, complete."""
        self._compare(self._analysis.push(np.asarray(samples)))

    def drain(self) -> None:
        """Compare the last frames; nothing can be written after that."""
        try:
            self._compare(self._analysis.finish())
        except ValueError:  # shorter than half a frame: there is nothing to compare
            self._error = math.nan

    def _compare(self, estimate: Tensor) -> None:
        if estimate.shape[-1]:
            target = torch.stack([self._targets.popleft() for _ in range(estimate.shape[-1])], -1).double()
            self._error += float((estimate - target).square().sum())
            self._energy += float(target.square().sum())

    @property
    def convergence(self) -> float:
        """`20 log10(||estimate - target|| / ||target||)` dB over all channels, NaN for silence."""
        if not self._energy > 0 or math.isnan(self._error):
            return math.nan
        return 10 * math.log10(self._error / self._energy) if self._error else -math.inf
