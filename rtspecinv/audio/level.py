"""Measurement and limiting of the level of samples, with one warning about limited samples."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rtspecinv.common.warning import warn

Block = npt.NDArray[np.float32]


class Level:
    """Measures the level of blocks of samples and limits them to full scale.

    Attributes:
        n_samples: number of samples so far, over all channels.
        clipped: number of these samples that were beyond full scale.
        peak: largest absolute sample.
    """

    def __init__(self) -> None:
        self.n_samples = self.clipped = 0
        self.peak = 0.0

    def measure(self, block: Block) -> Block:
        """Measure samples of any shape and return them unchanged."""
        self.n_samples += block.size
        self.peak = max(self.peak, float(np.abs(block).max(initial=0)))
        return block

    def limit(self, block: Block) -> Block:
        """Measure samples of any shape and return them clipped to -1 to 1."""
        self.clipped += int(np.count_nonzero(np.abs(self.measure(block)) > 1))
        return block.clip(-1, 1)

    def warn(self, where: str) -> None:
        """Warn if samples were beyond full scale; `where` names the output in the warning."""
        if self.clipped:
            share = self.clipped / self.n_samples
            warn(
                f"{self.clipped} of {self.n_samples} samples ({share:.2%}) were beyond full scale and are "
                f"clipped in {where}: multiply the samples by {self.factor:.3g} to avoid this"
            )

    @property
    def factor(self) -> float:
        """Factor, rounded down to three digits, that brings all measured samples within full scale."""
        if self.peak <= 1:
            return 1.0
        digits = 10.0 ** (2 - math.floor(math.log10(1 / self.peak)))
        return math.floor(digits / self.peak) / digits
