"""The report of `rtspecinv compare`: one HTML file that contains its pictures and sounds."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from rtspecinv.audio._soundfile import soundfile
from rtspecinv.measure.contest import EVALUATE_EVERY, Contest, Result
from rtspecinv.measure.plots import Curve, convergence_plot, small_picture, small_waveform
from rtspecinv.measure.quality import EDGE_FRAMES

try:
    import jinja2
except ImportError as _error:
    raise ImportError('Reports need jinja2: pip install "rtspecinv[report]"') from _error

PAGE_SECONDS = 10.0  # length of each sound within the page
TEMPLATE = "page.html.jinja"

# Colour, on light and dark backgrounds, and line style "-" or "--" of a curve or the glyph of a point.
_STYLES = {
    "rtisi-la": ("#8a929e", "■"),
    "stream-0": ("#7db4ea", "▼"),
    "stream-1": ("#4a90d9", "◆"),
    "stream-3": ("#2a6fc4", "●"),
    "peaks": ("#8a929e", "✖"),
    "fgla-random": ("#8a929e", "--"),
    "fgla": ("#a9713c", "-"),
    "hybrid": ("#ee6677", "-"),
    "agla": ("#2f9e44", "-"),
    "admm": ("#c9b037", "-"),
    "raar": ("#3bb8dc", "-"),
    "dm": ("#b0479a", "-"),
    "lbfgs": ("#f08c2e", "-"),
}
_MARKERS = {"■": "s", "▼": "v", "◆": "D", "●": "o", "✖": "X"}


@dataclass(frozen=True)
class Column:
    """Column of the table: its name, its number format, and whether higher or lower is better."""

    key: str
    title: str
    attribute: str
    digits: int
    best_of: Callable[..., Result] | None = None  # max or min, None if neither is better

    def value(self, result: Result) -> float:
        """Return the number of a result in this column."""
        return float(getattr(result, self.attribute))

    def text(self, result: Result) -> str:
        """Return the text of a result in this column."""
        value = self.value(result)
        return f"{value:.{self.digits}f}" if math.isfinite(value) else "–"

    def best(self, results: Sequence[Result]) -> str | None:
        """Return the text of the best result; None if fewer than two have a number, or no value is better."""
        known = [result for result in results if math.isfinite(self.value(result))]
        if self.best_of is None or len(known) < 2:
            return None
        return self.text(self.best_of(known, key=self.value))


COLUMNS = (
    Column("sc", "SC dB", "convergence", 2, min),
    Column("lsd", "LSD dB", "log_spectral_distance", 2, min),
    Column("pesq", "PESQ", "pesq", 2, max),
    Column("estoi", "ESTOI", "estoi", 3, max),
    Column("factor", "real-time factor", "real_time_factor", 3),
    Column("seconds", "seconds", "seconds", 2),
)


def render(contest: Contest, results: Sequence[Result], title: str, facts: dict[str, str]) -> str:
    """Return the report as HTML.

    contest: recording and settings.
    results: result of each method.
    title: name of the recording.
    facts: settings and versions, by name.
    """
    template = resources.files("rtspecinv.cli").joinpath(TEMPLATE).read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    best = {column.key: column.best(results) for column in COLUMNS}
    return environment.from_string(template).render(
        title=title,
        facts=facts,
        columns=COLUMNS,
        best=best,
        missing=contest.missing,
        methods=[_method(contest, result) for result in results],
        original={
            "sound": _sound(contest, contest.samples),
            "image": _picture(contest, contest.magnitude),
            "waveform": _waveform(contest.samples, "#8a929e"),
        },
        plots={mode: _plot(contest, results, dark=mode == "dark") for mode in ("light", "dark")},
        part=PAGE_SECONDS if contest.n_seconds > PAGE_SECONDS else None,
        n_iter=contest.n_iter,
        edge=EDGE_FRAMES,
        every=EVALUATE_EVERY,
        duration=f"{contest.n_seconds:.1f}",
        top_hertz=f"{contest.sample_rate / 2000:g}",
    )


def _method(contest: Contest, result: Result) -> dict[str, Any]:
    actual = contest.stft.magnitude(result.samples)
    color, glyph = _STYLES[result.contestant.name]
    return {
        "name": result.contestant.name,
        "label": result.contestant.label,
        "about": result.contestant.about,
        "live": result.contestant.live,
        "color": color,
        "glyph": glyph,
        "cells": [(column.key, column.text(result)) for column in COLUMNS],
        "sound": _sound(contest, result.samples),
        "image": _picture(contest, actual),
        "waveform": _waveform(result.samples, color),
        "difference": _picture(contest, (actual - contest.magnitude).abs()),
    }


def _picture(contest: Contest, magnitude: Tensor) -> str:
    picture = small_picture(magnitude.numpy(), reference=float(contest.magnitude.max()))
    return _data_uri("image/png", picture)


def _waveform(samples: Tensor, color: str) -> str:
    return _data_uri("image/png", small_waveform(samples.numpy(), color=color))


def _plot(contest: Contest, results: Sequence[Result], dark: bool) -> str:
    curves = []
    for result in results:
        color, glyph = _STYLES[result.contestant.name]
        points = [(seconds / contest.n_seconds, db) for seconds, db in result.curve if math.isfinite(db)]
        if points:
            curves.append(Curve(points, color, glyph == "--", _MARKERS.get(glyph, "o")))
    return _data_uri("image/svg+xml", convergence_plot(curves, dark=dark))


def _sound(contest: Contest, samples: Tensor) -> str:
    """Return the first `PAGE_SECONDS` of samples as a data URI of a FLAC file."""
    part = samples[: round(PAGE_SECONDS * contest.sample_rate)].clamp(-1, 1).to(torch.float32)
    file = io.BytesIO()
    soundfile().write(file, part.numpy(), contest.sample_rate, format="FLAC", subtype="PCM_16")
    return _data_uri("audio/flac", file.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
