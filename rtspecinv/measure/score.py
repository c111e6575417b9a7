"""Spectral convergence of a sound against the frames it was made from, measured while it is written."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import rtspecinv
from rtspecinv.audio import Sink


class Score(Sink):
    """A sink that compares a sound with the frames it was made from, in constant memory.

    Pass the frames through `watch` before they are pushed to the inverter, and write the sound to this sink.
    """

    def __init__(self, stft: rtspecinv.STFT) -> None:
        self._analysis = rtspecinv.StreamingAnalysis(stft)
        self._targets: deque[Tensor] = deque()
        self._error = self._energy = 0.0

    def watch(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield `frames` unchanged, and keep each until the sound for it was written."""
        for frame in frames:
            self._targets.append(frame)
            yield frame

    def write(self, samples: npt.ArrayLike) -> None:
        """Compare all frames that are complete after these samples, `(channels, n_samples)`."""
        self._compare(self._analysis.push(np.asarray(samples)))

    def drain(self) -> None:
        """Compare the last frames; nothing can be written after that."""
        try:
            self._compare(self._analysis.finish())
        except ValueError:  # shorter than half a frame: there is nothing to compare
            self._error = math.nan

    def _compare(self, estimate: Tensor) -> None:
        if estimate.shape[-1] > len(self._targets):  # more sound than frames: a player repeated late ones
            self._error = math.nan
        elif estimate.shape[-1]:
            target = torch.stack([self._targets.popleft() for _ in range(estimate.shape[-1])], -1).double()
            self._error += float((estimate - target).square().sum())
            self._energy += float(target.square().sum())

    @property
    def convergence(self) -> float:
        """Spectral convergence over all channels, `20 log10(||estimate - target|| / ||target||)` dB.

        It is NaN if the target is silent, or if frames and sound do not correspond.
        """
        if not self._energy > 0 or math.isnan(self._error):
            return math.nan
        return 10 * math.log10(self._error / self._energy) if self._error else -math.inf


class MelScore(Sink):
    """A sink that compares a sound with the mel frames it was made from, without compression.

    It is used as a `Score` is, but keeps all samples and frames in memory.
    """

    def __init__(self, config: rtspecinv.MelConfig) -> None:
        self._mel, self._linear = _mel(config)
        self._targets: list[Tensor] = []
        self._samples: list[Tensor] = []
        self.convergence = math.nan

    def watch(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield mel frames `(channels, n_mels)` unchanged, and keep them."""
        for frame in frames:
            self._targets.append(frame)
            yield frame

    def write(self, samples: npt.ArrayLike) -> None:
        """Keep samples, `(channels, n_samples)`."""
        self._samples.append(torch.from_numpy(np.array(samples, np.float32)))

    def drain(self) -> None:
        """Compute the convergence, which is NaN if the target is silent or the sound too short."""
        target = self._mel.expand(torch.stack(self._targets, -1))
        samples = torch.cat(self._samples, -1)
        if samples.shape[-1] >= self._linear.stft.n_needed:
            estimate = self._linear(samples)
            n_frames = min(estimate.shape[-1], target.shape[-1])
            if bool(target[..., :n_frames].any()):
                pair = (estimate[..., :n_frames], target[..., :n_frames])
                self.convergence = float(rtspecinv.metrics.sc(*pair))


@lru_cache(8)
def _mel(config: rtspecinv.MelConfig) -> tuple[rtspecinv.Mel, rtspecinv.Mel]:
    mel = rtspecinv.Mel(config, device="cpu")
    return mel, mel.linear
