"""Program that draws the pictures of maths.md: python docs/drawings.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

HERE = Path(__file__).parent
GREY, LINES = "#7a828c", ("#d55e00", "#0072b2", "#009e73")
CORNERS = np.array([[1, 0.6], [-1, 0.6], [1, -0.6], [-1, -0.6]])  # the real pairs with magnitudes 1 and 0.6
# Direction of the line through the first corner.
ALONG = np.array([np.cos(np.radians(40)), np.sin(np.radians(40))])
START, STEPS = np.array([-1.8, 0.3]), 40


def to_magnitude(c: np.ndarray) -> np.ndarray:
    """Return the nearest corner."""
    return CORNERS[np.argmin(np.square(CORNERS - c).sum(1))]


def to_consistent(c: np.ndarray) -> np.ndarray:
    """Return the nearest point of the line."""
    return CORNERS[0] + ALONG * ((c - CORNERS[0]) @ ALONG)


def griffin_lim(c: np.ndarray) -> np.ndarray:
    """Return the result of both projections in turn."""
    return to_consistent(to_magnitude(c))


def raar(c: np.ndarray, beta: float = 0.9) -> np.ndarray:
    """Return the result of both reflections, relaxed by `beta`."""
    once = 2 * to_magnitude(c) - c
    both = 2 * to_consistent(once) - once
    return beta / 2 * (both + c) + (1 - beta) * to_magnitude(c)


def difference_map(c: np.ndarray) -> np.ndarray:
    """Return the result of both reflections."""
    return raar(c, beta=1.0)


def projections() -> Figure:
    """Draw the paths of three rules between four corners and a line."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    ax = figure.subplots()
    ends = np.array([CORNERS[0] - 3.4 * ALONG, CORNERS[0] + 0.7 * ALONG])
    ax.plot(*ends.T, color=GREY, linewidth=1.5)
    ax.text(
        0.3, -0.25, "spectrograms of signals", color=GREY, rotation=40, fontsize=9, ha="center", va="center"
    )
    ax.plot(*CORNERS.T, "s", color=GREY, markersize=8)
    for corner in CORNERS:
        ax.annotate(
            "right magnitudes",
            corner,
            (0, 9),
            textcoords="offset points",
            color=GREY,
            fontsize=8,
            ha="center",
        )
    rules = {"Griffin-Lim": griffin_lim, "RAAR, β = 0.9": raar, "difference map": difference_map}
    for (name, rule), color in zip(rules.items(), LINES, strict=True):
        path = [START]
        for _ in range(STEPS):
            path.append(rule(path[-1]))
        ax.plot(*np.array(path).T, color=color, marker="o", markersize=3.5, linewidth=1.1, label=name)
    ax.plot(*CORNERS[0], marker="*", color="#e69f00", markersize=15, zorder=9)
    ax.legend(loc="lower right", frameon=False, fontsize=9)
    ax.set_aspect("equal")
    ax.margins(0.06)
    ax.axis("off")
    return figure


def buffer() -> Figure:
    """Draw committed and open frames over time, and the hop that is returned."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    ax = figure.subplots()
    names = ["committed", "committed", "open", "open", "open", "newest"]
    window = np.sin(np.linspace(0, np.pi, 60)) ** 2
    for i, name in enumerate(names):
        color = GREY if name == "committed" else LINES[1] if name == "open" else LINES[0]
        level = len(names) - i
        ax.plot(i + np.linspace(0, 4, 60), level + 0.75 * window, color=color, linewidth=1.4)
        ax.plot([i, i + 4], [level, level], color=color, linewidth=0.8)
        ax.text(i + 4.1, level + 0.1, name, color=color, fontsize=9)
    for hop in range(9):
        heard, leaves = hop < 2, hop == 2
        shade = GREY if heard else "#e69f00" if leaves else "white"
        ax.add_patch(Rectangle((hop, 0), 1, 0.55, facecolor=shade, edgecolor=GREY, alpha=0.8))
    ax.text(1, -0.15, "heard", ha="center", va="top", fontsize=9, color=GREY)
    ax.text(2.5, -0.15, "this hop", ha="center", va="top", fontsize=9, color="#b07800")
    ax.add_patch(FancyArrowPatch((5, -0.3), (8, -0.3), arrowstyle="->", mutation_scale=10, color=GREY))
    ax.text(6.5, -0.4, "time, a hop a square", ha="center", va="top", fontsize=9, color=GREY)
    ax.set_xlim(-0.2, 10.6)
    ax.set_ylim(-0.8, 7.2)
    ax.axis("off")
    return figure


if __name__ == "__main__":
    with rc_context({"svg.hashsalt": "rtspecinv", "svg.fonttype": "none", "font.family": "sans-serif"}):
        for draw in (projections, buffer):
            draw().savefig(HERE / f"{draw.__name__}.svg", metadata={"Date": None}, transparent=True)
