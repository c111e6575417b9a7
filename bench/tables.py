"""The clips that tables are measured on, and the text of tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import protocol
from protocol import STANDARD, Clips, Configuration, Score
from torch import Tensor


class Bench:
    """The recordings, and what more than one table asks of them."""

    def __init__(self, files: Sequence[Path], begin: float) -> None:
        self.files, self.begin = files, begin
        self.clips, self._known = cache(self._clips), dict[str, Score]()

    def _clips(self, configuration: Configuration) -> Clips:
        return protocol.read_clips(self.files, configuration.sample_rate, self.begin)

    def magnitude(self, configuration: Configuration) -> Tensor:
        return configuration.magnitude(self.clips(configuration).samples)

    def score(self, configuration: Configuration, **options: Any) -> Score:
        key = f"{configuration} {sorted(options.items())}"
        if key not in self._known:
            self._known[key] = protocol.score(configuration, self.clips(configuration), **options)
        return self._known[key]

    def cost(self, configuration: Configuration, **options: Any) -> list[str]:
        """Microseconds of a push, median and fastest, and real-time factor of the median."""
        median, fastest = protocol.push_seconds(configuration, self.magnitude(configuration)[0], **options)
        factor = median * configuration.sample_rate / configuration.hop_length
        return [f"{1e6 * median:.0f} ({1e6 * fastest:.0f})", f"{factor:.3g}"]

    def least(self, gains: Tensor) -> str:
        """Smallest of `(n_clips,)` dB and whose it is."""
        gain, clip = gains.min(0)
        return f"{float(gain):+.2f} {self.clips(STANDARD).names[int(clip)]}"


def db(values: Tensor) -> str:
    """Mean over the clips."""
    return number(float(values.mean()))


def number(value: float, digits: int = 2) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """GitHub markdown, padded so that it reads well as text too."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [" | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines]
    rule = " | ".join("-" * w for w in widths)
    return "\n".join(f"| {text} |" for text in (texts[0], rule, *texts[1:]))
