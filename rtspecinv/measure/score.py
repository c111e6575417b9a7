"""The score of one stream against another."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import rtspecinv
from rtspecinv.audio import Sink


class Score(Sink):
    """Compares the sound it is given with the frames it was made from, in memory that does not grow.

    Pass the frames through `watch` on their way to the inverter, and write the sound here.
    """

    def __init__(self, stft: rtspecinv.STFT) -> None:
        self._analysis = rtspecinv.StreamingAnalysis(stft)
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
        if estimate.shape[-1] > len(self._targets):  # there is sound of no frame: a player has made up some
            self._error = math.nan
        elif estimate.shape[-1]:
            target = torch.stack([self._targets.popleft() for _ in range(estimate.shape[-1])], -1).double()
            self._error += float((estimate - target).square().sum())
            self._energy += float(target.square().sum())

    @property
    def convergence(self) -> float:
        """`20 log10(||estimate - target|| / ||target||)` dB over all channels, NaN for silence."""
        if not self._energy > 0 or math.isnan(self._error):
            return math.nan
        return 10 * math.log10(self._error / self._energy) if self._error else -math.inf
