"""How many iterations there is time for."""

from __future__ import annotations

import statistics
from collections import deque

AIM = 0.7  # share of a hop's time that inverting it should take where time is short
LATE = 0.5  # a push that took less than this share is not what made the sound late
PATIENCE = 32  # pushes in time before one more iteration is tried


class IterationControl:
    """Fewer iterations when inverting is late, and back again: down at once, up one by one.

    wanted: as many as there should be.
    least: not fewer than that.
    """

    def __init__(self, wanted: int, least: int) -> None:
        self.wanted, self.least = wanted, least
        self._in_time: deque[float] = deque(maxlen=PATIENCE)

    def next(self, n_iter: int, late: bool, factor: float) -> int:
        """Number for the next push, after one of `n_iter` with this real-time factor."""
        least = min(self.least, self.wanted)
        if n_iter > self.wanted:
            return self.wanted
        if late and factor > LATE:
            self._in_time.clear()
            return max(least, min(n_iter - 1, int(n_iter * AIM / factor)))
        self._in_time.append(factor)
        if n_iter < self.wanted and len(self._in_time) == PATIENCE:
            expected = statistics.median(self._in_time) * (n_iter + 1) / max(1, n_iter)
            self._in_time.clear()
            return n_iter + (expected < AIM)
        return n_iter
