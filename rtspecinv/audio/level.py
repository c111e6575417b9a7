"""Measurement and limiting of the level of samples, with one warning about limited samples."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rtspecinv.common.warning import warn

Block = npt.NDArray[np.float32]


class Level:
    """Measures samples on their way, and limits them to full scale.

    Attributes:
        n_samples: number of samples so far, over all channels.
        clipped: number of these samples that were beyond full scale.
        peak: largest absolute sample.
    """

    def __init__(self) -> None:
        self.n_samples = self.clipped = 0
        self.peak = 0.0

    def measure(self, block: Block) -> Block:
        """Count samples of any shape; returns them as they are."""
        self.n_samples += block.size
        self.peak = max(self.peak, float(np.abs(block).max(initial=0)))
        return block

    def limit(self, block: Block) -> Block:
        """Count samples of any shape; returns them within -1 to 1."""
        self.clipped += int(np.count_nonzero(np.abs(self.measure(block)) > 1))
        return block.clip(-1, 1)

    def warn(self, where: str) -> None:
        """Warn of samples that were beyond full scale, if there were any."""
        if self.clipped:
            share = self.clipped / self.n_samples
            warn(
                f"{self.clipped} of {self.n_samples} samples ({share:.2%}) were beyond full scale and are "
                f"clipped in {where}: multiplied by {self.factor:.3g}, the sound would fit"
            )

    @property
    def factor(self) -> float:
        """What to multiply the samples by, so that all are within full scale: three digits, rounded down."""
        if self.peak <= 1:
            return 1.0
        digits = 10.0 ** (2 - math.floor(math.log10(1 / self.peak)))
        return math.floor(digits / self.peak) / digits
