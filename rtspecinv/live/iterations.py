"""Control of the number of iterations by the time that they take."""

from __future__ import annotations

import statistics
from collections import deque

AIM = 0.7  # real-time factor to reach after the sound was late
LATE = 0.5  # a push with a smaller real-time factor did not make the sound late
PATIENCE = 32  # number of pushes in time before one more iteration is tried


class IterationControl:
    """Reduces the iterations when inversion is late, and later increases them one by one.

    wanted: number of iterations when there is time for them.
    least: smallest number of iterations.
    """

    def __init__(self, wanted: int, least: int) -> None:
        self.wanted, self.least = wanted, least
        self._in_time: deque[float] = deque(maxlen=PATIENCE)

    def next(self, n_iter: int, late: bool, factor: float) -> int:
        """Return the number of iterations for the next push.

        n_iter: number of iterations of the last push.
        late: whether the sound was late after the last push.
        factor: real-time factor of the last push, the work divided by the duration of a hop.
        """
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
