"""Pictures of spectrograms; needs matplotlib."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as _error:
    raise ImportError('Pictures need matplotlib: pip install "rtspecinv[plot]"') from _error

_RANGE_DB = 80.0  # below the loudest value of the original; what is softer is drawn in the darkest colour


def before_and_after(
    path: str | os.PathLike[str],
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    *,
    sample_rate: int,
    hop_length: int,
) -> None:
    """Draw two magnitude spectrograms `(n_freq, n_frames)` and their difference into a PNG file.

    All three share one scale in dB relative to the loudest value of `before`; the difference is that of the
    magnitudes.
    Raises `ValueError` if the shapes differ.
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if before.shape != after.shape or before.ndim != 2:
        raise ValueError(
            f"Both must be (n_freq, n_frames) of one shape, got {before.shape} and {after.shape}"
        )
    difference = np.abs(after - before)
    with np.errstate(divide="ignore"):
        convergence = 20 * np.log10(
            np.linalg.norm(difference) / max(np.linalg.norm(before), np.finfo(float).tiny)
        )
    panels = {
        "Original": before,
        "From its magnitudes alone, inverted as a stream": after,
        f"Difference of the magnitudes (spectral convergence {convergence:.1f} dB)": difference,
    }
    figure = Figure(figsize=(10, 9), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), sharex=True, sharey=True)
    reference = before.max() or 1.0
    for ax, (title, magnitude) in zip(axes, panels.items(), strict=True):
        image = _draw(ax, magnitude / reference, sample_rate, hop_length)
        ax.set_title(title, loc="left", fontsize=11)
        ax.set_ylabel("frequency in Hz")
    axes[-1].set_xlabel("time in seconds")
    figure.colorbar(image, ax=axes, label="dB relative to the original's maximum", shrink=0.6, pad=0.015)
    figure.savefig(path)


def _draw(ax: Any, magnitude: npt.NDArray[np.float64], sample_rate: int, hop_length: int) -> Any:
    n_freq, n_frames = magnitude.shape
    decibels = 20 * np.log10(np.maximum(magnitude, 10 ** (-_RANGE_DB / 20)))
    duration, bin_width = n_frames * hop_length / sample_rate, sample_rate / 2 / (n_freq - 1)
    half_hop = hop_length / sample_rate / 2
    extent = (-half_hop, duration - half_hop, -bin_width / 2, sample_rate / 2 + bin_width / 2)
    return ax.imshow(
        decibels,
        origin="lower",
        aspect="auto",
        extent=extent,
        cmap="magma",
        vmin=-_RANGE_DB,
        vmax=0,
        interpolation="nearest",
    )
