"""Magnitude frames of a signal that arrives in blocks: from a file, a microphone, an array."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv.common.checks import iterable
from rtspecinv.common.masks import unmasked
from rtspecinv.stft import STFT, check_dense, check_stft

Block = Tensor | np.ndarray[Any, Any]


class StreamingAnalysis:
    """Computes magnitude frames of a signal in blocks, equal to `stft.magnitude` of the whole signal.

    A frame is complete when its last sample has arrived, half a frame after its centre. With
    `pad_mode="circular"` the first frame needs the end of the signal, so `finish` returns all frames and
    memory grows until then. Blocks are moved to the device and converted to the precision of `stft`.
    """

    def __init__(self, stft: STFT) -> None:
        self.stft = check_stft(stft)
        self._pending: Tensor | None = None  # (*channels, n), from the first sample of the next frame
        self._tail: Tensor | None = None  # the last padding + 1 samples, from which the end is padded
        self._n_samples = 0
        self._padded = False  # whether the beginning is padded

    def push(self, block: Block) -> Tensor:
        """Take a block `(*channels, n_samples)`, return complete frames `(*channels, n_freq, n_frames)`.

        A block may have any length, including 0.

        Raises:
            ValueError: the block has no axis, no channel, or other channels than the blocks before.
            TypeError: the block is not a dense tensor or array of real floating-point numbers.
        """
        new = self._checked(block).clone()  # the caller may overwrite the block
        keep = self.stft.padding + 1
        joined = new if self._tail is None else torch.cat([self._tail, new[..., -keep:]], -1)
        self._tail = joined[..., -keep:]
        self._pending = new if self._pending is None else torch.cat([self._pending, new], -1)
        self._n_samples += new.shape[-1]
        if not self._padded:
            if self._n_samples < (keep if self.stft.pad_mode == "reflect" else 1) or self._is_circular:
                return self._no_frames(self._pending)
            self._pending = self._pad(self._pending, (self.stft.padding, 0))
            self._padded = True
        return self._take()

    def finish(self) -> Tensor:
        """Return the frames that extend beyond the end; raises `ValueError` for a signal without a frame."""
        if self._pending is None or self._tail is None or self._n_samples < self.stft.n_needed:
            raise ValueError(
                f"{self._n_samples} samples are too few for n_fft={self.stft.n_fft}, "
                f"which needs {self.stft.n_needed}: push more samples, or use a smaller n_fft"
            )
        padding = self.stft.padding
        if self._is_circular:
            self._pending = self._pad(self._pending, (padding, padding))
        else:
            mirrored = self._pad(self._tail, (0, padding))[..., self._tail.shape[-1] :]
            self._pending = torch.cat([self._pending, mirrored], -1)
        return self._take()

    @property
    def _is_circular(self) -> bool:
        return self.stft.pad_mode == "circular" and self.stft.padding > 0

    def _checked(self, block: Block) -> Tensor:
        if not isinstance(block, Tensor | np.ndarray):
            raise TypeError(f"Parameter block is a {type(block).__name__}: pass a tensor or an array")
        if not (block.is_floating_point() if isinstance(block, Tensor) else block.dtype.kind == "f"):
            raise TypeError(f"Parameter block has {block.dtype} values: convert and scale them to floats")
        if not isinstance(block, Tensor):
            block = unmasked(block, "block")
            block = torch.from_numpy(np.array(block, block.dtype.newbyteorder("=")))
        check_dense(block, "block")
        channels = block.shape[:-1] if self._pending is None else self._pending.shape[:-1]
        if not block.ndim or 0 in block.shape[:-1]:
            raise ValueError(
                f"Parameter block has shape {tuple(block.shape)}, not (*channels, n_samples) with a channel"
            )
        if block.shape[:-1] != channels:
            raise ValueError(
                f"Parameter block has shape {tuple(block.shape)}, but earlier blocks have shape "
                f"{(*channels, 'n_samples')}: use the same channels, or a new StreamingAnalysis"
            )
        return block.to(self.stft.device, self.stft.dtype)

    def _pad(self, samples: Tensor, padding: tuple[int, int]) -> Tensor:
        flat = samples.reshape(-1, 1, samples.shape[-1])  # F.pad requires (batch, channel, n_samples)
        return F.pad(flat, padding, mode=self.stft.pad_mode).reshape(*samples.shape[:-1], -1)

    def _take(self) -> Tensor:
        assert self._pending is not None
        if self._pending.shape[-1] < self.stft.n_fft:
            return self._no_frames(self._pending)
        frames = self.stft.frame(self._pending)
        self._pending = self._pending[..., frames.shape[-2] * self.stft.hop_length :]
        return self.stft.spectrum(frames * self.stft.window).abs()

    def _no_frames(self, like: Tensor) -> Tensor:
        return like.new_zeros(*like.shape[:-1], self.stft.n_freq, 0)


def magnitude_frames(blocks: Iterable[Block], stft: STFT) -> Iterator[Tensor]:
    """Yield the magnitude frames `(*channels, n_freq)` of a signal in blocks `(*channels, n_samples)`.

    blocks: iterable of blocks: an `AudioReader` or its `blocks()`, a `Microphone`, a list of arrays.

    Raises `ValueError` at the end of a signal that is too short to pad.
    """
    return _magnitude_frames(iterable(blocks=blocks), StreamingAnalysis(stft))


def _magnitude_frames(blocks: Iterable[Block], analysis: StreamingAnalysis) -> Iterator[Tensor]:
    for block in blocks:
        yield from analysis.push(block).unbind(-1)
    yield from analysis.finish().unbind(-1)
