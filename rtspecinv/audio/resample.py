"""Resampling a stream for a device that has another rate."""

from __future__ import annotations

import numpy as np

from rtspecinv.audio.sinks import Block


class Resampler:
    """Resamples blocks `(n_samples, channels)` with soxr's high quality, the same for every way of cutting.

    Raises `ImportError` without soxr.
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
        """Return the most output samples that it ever holds back: it gives them in bursts."""
        longest = 0
        for _ in range(0, n_samples, 64):
            self.push(np.zeros((64, channels), np.float32))
            longest = max(longest, self.delay)
        self.clear()
        return longest

    @property
    def delay(self) -> int:
        """Samples, at the new rate, that went in and have not come out yet."""
        return int(np.ceil(self._stream.delay()))

    def push(self, block: Block) -> Block:
        """Return what can be given by now, `(n_samples, channels)`."""
        out: Block = self._stream.resample_chunk(np.ascontiguousarray(block))
        return out

    def flush(self) -> Block:
        """Return the rest, as if silence followed, and begin anew."""
        out: Block = self._stream.resample_chunk(self._nothing, last=True)
        self.clear()
        return out

    def clear(self) -> None:
        """Forget everything pushed."""
        self._stream.clear()
