"""Clips that tables are measured on, and the text of tables in Markdown."""

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
    """The recordings, and measurements that several tables share."""

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
        """Return the time of a push in µs, median and shortest, and the real-time factor, as text."""
        median, fastest = protocol.push_seconds(configuration, self.magnitude(configuration)[0], **options)
        factor = median * configuration.sample_rate / configuration.hop_length
        return [f"{1e6 * median:.0f} ({1e6 * fastest:.0f})", f"{factor:.3g}"]

    def least(self, gains: Tensor) -> str:
        """Return the smallest of `(n_clips,)` values in dB and the name of its clip, as text."""
        gain, clip = gains.min(0)
        return f"{float(gain):+.2f} {self.clips(STANDARD).names[int(clip)]}"


def db(values: Tensor) -> str:
    """Return the mean over the clips, as text."""
    return number(float(values.mean()))


def number(value: float, digits: int = 2) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in GitHub Markdown with aligned columns."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [" | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines]
    rule = " | ".join("-" * w for w in widths)
    return "\n".join(f"| {text} |" for text in (texts[0], rule, *texts[1:]))
