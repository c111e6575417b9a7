"""Resampling of a stream of samples, for a device or a client with another sample rate."""

from __future__ import annotations

import numpy as np

from rtspecinv.audio.sinks import Block


class Resampler:
    """Resamples blocks `(n_samples, channels)` with soxr's high quality.

    The block lengths do not affect the result. Raises `ImportError` if soxr is not installed.
    """

    def __init__(self, from_rate: float, to_rate: float, channels: int) -> None:
        try:
            import soxr
        except ImportError as error:
            raise ImportError('Resampling needs soxr: pip install "rtspecinv[live]"') from error
        self._stream = soxr.ResampleStream(from_rate, to_rate, channels, "float32")
        self._nothing = np.zeros((0, channels), np.float32)
        self.longest_delay = self._measure(round(from_rate), channels)

    def _measure(self, n_samples: int, channels: int) -> int:
        """Return the largest number of output samples that soxr holds back, as it returns them in bursts."""
        longest = 0
        for _ in range(0, n_samples, 64):
            self.push(np.zeros((64, channels), np.float32))
            longest = max(longest, self.delay)
        self.clear()
        return longest

    @property
    def delay(self) -> int:
        """Number of samples pushed but not returned yet, at the new rate."""
        return int(np.ceil(self._stream.delay()))

    def push(self, block: Block) -> Block:
        """Push a block and return the samples that are ready, `(n_samples, channels)`."""
        out: Block = self._stream.resample_chunk(np.ascontiguousarray(block))
        return out

    def flush(self) -> Block:
        """Return the remaining samples, as if silence followed, and reset."""
        out: Block = self._stream.resample_chunk(self._nothing, last=True)
        self.clear()
        return out

    def clear(self) -> None:
        """Drop all samples pushed, and reset."""
        self._stream.clear()
