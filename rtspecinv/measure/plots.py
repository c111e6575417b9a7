"""Plots of spectrograms, waveforms, convergence and push times; the module needs matplotlib."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from rtspecinv.common.whole_files import write_whole

try:
    from matplotlib import colormaps, rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator
    from PIL import Image
except ImportError as _error:
    raise ImportError('Pictures need matplotlib: pip install "rtspecinv[plot]"') from _error

_RANGE_DB = 80.0  # range of colours below the original's largest magnitude; smaller values are darkest


def before_and_after(
    path: str | os.PathLike[str],
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    *,
    sample_rate: int,
    hop_length: int,
    samples: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
) -> None:
    """Draw two magnitude spectrograms `(n_freq, n_frames)` and their difference into a PNG file.

    All three share one scale in dB relative to the largest value of `before`. The difference is that of the
    magnitudes.

    path: name of the PNG file.
    before: magnitudes of the original.
    after: magnitudes of the result, of the same shape.
    sample_rate: sample rate, Hz.
    hop_length: samples from one frame to the next.
    samples: samples `(n_samples,)` before and after, drawn as waveforms below; default: no waveforms.

    Raises:
        ValueError: the shapes differ.
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if before.shape != after.shape or before.ndim != 2:
        raise ValueError(f"Both must have one shape (n_freq, n_frames), not {before.shape} and {after.shape}")
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
    figure = Figure(figsize=(10, 9 if samples is None else 10.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    heights = [3.0] * len(panels) + ([] if samples is None else [1.4])
    axes = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    reference = before.max() or 1.0
    for ax, (title, magnitude) in zip(axes, panels.items(), strict=False):
        image = _draw(ax, magnitude / reference, sample_rate, hop_length)
        ax.set_title(title, loc="left", fontsize=11)
        ax.set_ylabel("frequency in Hz")
    if samples is not None:
        _draw_waveforms(axes[-1], samples, sample_rate)
    axes[-1].set_xlabel("time in seconds")
    spectra = list(axes[: len(panels)])
    label = "dB relative to the original's maximum"
    figure.colorbar(image, ax=spectra, label=label, shrink=0.6, pad=0.015)
    write_whole(path, lambda file: figure.savefig(file, format="png"))


_WIDTH = 1000  # number of columns in which a waveform is drawn


def _draw_waveforms(ax: Any, samples: tuple[npt.ArrayLike, npt.ArrayLike], sample_rate: int) -> None:
    for name, wave, color in zip(("original", "result"), samples, ("#9aa3ad", "#d55e00"), strict=True):
        low, high = envelope(wave, _WIDTH)
        seconds = (np.arange(len(low)) + 0.5) * (len(np.asarray(wave)) / sample_rate / len(low))
        filled = name == "original"
        ax.fill_between(seconds, low, high, color=color, alpha=1 if filled else 0, linewidth=0)
        for edge in () if filled else (low, high):
            ax.plot(seconds, edge, color=color, linewidth=0.8)
        ax.plot([], [], color=color, label=name, linewidth=4 if filled else 1)
    ax.set_title(
        "Waveforms: the least and the largest sample of every few milliseconds", loc="left", fontsize=11
    )
    ax.set_ylabel("sample value")
    ax.set_xlim(0, max(len(np.asarray(wave)) for wave in samples) / sample_rate)
    ax.legend(loc="upper right", ncols=2, frameon=False, fontsize=9)


def envelope(samples: npt.ArrayLike, width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the smallest and largest of samples `(n_samples,)` in each of `width` parts of equal length.

    If there are fewer samples than parts, every sample is a part.
    """
    wave = np.asarray(samples, np.float64)
    if wave.ndim != 1 or not wave.size:
        raise ValueError(f"A waveform must have shape (n_samples,) and samples, not {wave.shape}")
    begins = np.linspace(0, wave.size, min(width, wave.size), endpoint=False).astype(int)
    return np.minimum.reduceat(wave, begins), np.maximum.reduceat(wave, begins)


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


@dataclass(frozen=True)
class Curve:
    """Points `(x, y)` with the colour and style of their line; a single point is drawn as a marker."""

    points: Sequence[tuple[float, float]]
    color: str
    dashed: bool = False
    marker: str = "o"


def convergence_plot(curves: Sequence[Curve], *, dark: bool) -> bytes:
    """Draw spectral convergence in dB against seconds of work per second of sound; returns an SVG file.

    curves: curve of each method.
    dark: whether text and grid suit a dark background.
    """
    text, grid = ("#d5dae1", "#3a424d") if dark else ("#333a44", "#dde1e6")
    with rc_context({"svg.hashsalt": "rtspecinv", "font.size": 11, "svg.fonttype": "path"}):
        figure = Figure(figsize=(6.6, 4.2), layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        ax = figure.subplots()
        ax.set_facecolor("none")
        for curve in curves:
            x, y = zip(*curve.points, strict=True)
            alone = len(curve.points) == 1
            ax.plot(
                x,
                y,
                color=curve.color,
                linestyle="none" if alone else "--" if curve.dashed else "-",
                linewidth=2,
                marker=curve.marker if alone else "none",
                markersize=9,
                clip_on=False,
            )
        ax.set_xlabel("seconds of work per second of sound", color=text)
        ax.set_ylabel("spectral convergence in dB", color=text)
        ax.set_xlim(left=0)
        ax.tick_params(colors=text, length=0)
        ax.grid(color=grid, linewidth=0.8)
        ax.set_axisbelow(True)
        for spine in ax.spines.values():
            spine.set_visible(False)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()


_ENGINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito 2008
_MARKERS = "osD^vP"


def push_plot(points: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw push time against number of streams, and quality against push time; returns a PNG file.

    Args:
        points: measurements, each with `engine`, `transform`, `look_ahead`, `n_iter`, `streams`, `p50_us`,
            `p99_us`, `hop_us` and `sc_db`, which may be None.
    """
    figure = Figure(figsize=(11, 5.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    colors = dict(zip(dict.fromkeys(p["engine"] for p in points), cycle(_ENGINE_COLORS), strict=False))
    groups = _groups(points, "engine", "transform", "look_ahead", "n_iter")
    several = {key: group for key, group in groups.items() if len(group) > 1} or groups
    for i, (key, group) in _of_each_engine(several):
        group.sort(key=lambda p: p["streams"])
        x, style = [p["streams"] for p in group], {"color": colors[key[0]], "marker": _MARKERS[i % 6]}
        label = f"{key[0]}, {key[1]}, {key[2]} ahead, n_iter {key[3]}"
        left.plot(x, [p["p50_us"] for p in group], **style, label=label)
        left.plot(x, [p["p99_us"] for p in group], **style, linestyle=":", markersize=3)
    for hop in sorted({p["hop_us"] for group in several.values() for p in group}):
        left.axhline(hop, color="#888888", linewidth=1)
        left.annotate(
            "one hop", (0.01, hop), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", fontsize=9, color="#666666",
        )  # fmt: skip
    left.set(title="Cost of a push: median, and 99th percentile (dotted)", xlabel="streams", ylabel="µs")
    fewest = min((p["streams"] for p in points), default=1)
    judged = [p for p in points if p["streams"] == fewest and p["sc_db"] is not None]
    for i, (key, group) in _of_each_engine(_groups(judged, "engine", "transform", "look_ahead")):
        group.sort(key=lambda p: p["n_iter"])
        label, style = (
            f"{key[0]}, {key[1]}, {key[2]} ahead",
            {"color": colors[key[0]], "marker": _MARKERS[i % 6]},
        )
        right.plot([p["p50_us"] for p in group], [p["sc_db"] for p in group], **style, label=label)
        for p in group:
            right.annotate(
                str(p["n_iter"]), (p["p50_us"], p["sc_db"]), xytext=(-6, -9) if i % 3 == 0 else (6, 3),
                ha="right" if i % 3 == 0 else "left", textcoords="offset points", fontsize=8,
                color=colors[key[0]],
            )  # fmt: skip
    right.set(
        title="Quality against cost, at each point n_iter",
        xlabel=f"µs a push, median, {fewest} stream{'' if fewest == 1 else 's'}",
        ylabel="spectral convergence in dB (lower is better)",
    )
    for ax in (left, right):
        ax.set_xscale("log")
        ax.grid(color="#dde1e6", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.title.set_fontsize(11)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=8, frameon=False)
        ax.margins(x=0.1)
        low, high = ax.get_xlim()
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1, 3)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:,.0f}")
    left.set_xticks(sorted({p["streams"] for group in several.values() for p in group}))
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _groups(points: Sequence[Mapping[str, Any]], *names: str) -> dict[tuple[Any, ...], list[Any]]:
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for point in points:
        groups.setdefault(tuple(point[name] for name in names), []).append(point)
    return groups


def _of_each_engine(groups: Mapping[tuple[Any, ...], list[Any]]) -> Iterator[tuple[int, Any]]:
    """Yield each group with its number within its engine."""
    counts: dict[str, int] = {}
    for key, group in groups.items():
        counts[key[0]] = counts.get(key[0], -1) + 1
        yield counts[key[0]], (key, group)


_COLORS = 64  # number of colours of a small picture


def small_picture(
    magnitude: npt.ArrayLike, *, reference: float, width: int = 480, height: int = 160
) -> bytes:
    """Draw a magnitude spectrogram `(n_freq, n_frames)` without axes; returns a PNG file of a few kilobytes.

    A pixel that covers several values shows the root of their mean square. If there are fewer values than
    pixels, the picture has one pixel for each value.

    magnitude: magnitudes to draw.
    reference: magnitude of 0 dB.
    width: largest width, pixels, default: 480.
    height: largest height, pixels, default: 160.
    """
    power = np.asarray(magnitude, np.float64) ** 2
    for axis, size in ((0, height), (1, width)):
        begins = np.linspace(0, power.shape[axis], min(size, power.shape[axis]), endpoint=False).astype(int)
        counts = np.diff(begins, append=power.shape[axis])
        shape = [-1 if i == axis else 1 for i in range(2)]
        power = np.add.reduceat(power, begins, axis) / counts.reshape(shape)
    floor = 10 ** (-_RANGE_DB / 10)
    decibels = 10 * np.log10(np.maximum(power / (reference**2 or 1.0), floor))
    levels = np.clip((1 + decibels / _RANGE_DB) * (_COLORS - 1), 0, _COLORS - 1).round().astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels[::-1]))
    palette = (colormaps["magma"](np.linspace(0, 1, _COLORS))[:, :3] * 255).round().astype(np.uint8)
    image.putpalette(palette.tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def small_waveform(samples: npt.ArrayLike, *, color: str, width: int = 480, height: int = 48) -> bytes:
    """Draw samples `(n_samples,)` from -1 to 1, opaque in a colour `#rrggbb`; returns a small PNG file."""
    low, high = (edge.clip(-1, 1) for edge in envelope(samples, width))
    rows = 1 - (np.arange(height) + 0.5) / height * 2  # sample value at the centre of a row
    half = 1 / height  # half a row, so that silence is drawn as a line
    drawn = (rows[:, None] >= low - half) & (rows[:, None] <= high + half)
    image = Image.fromarray(drawn.astype(np.uint8))
    image.putpalette(bytes(3) + bytes.fromhex(color.removeprefix("#")))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=0)
    return file.getvalue()
