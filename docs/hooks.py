"""Puts what other files of the project say into pages: `<!-- include FILE -->`, or `FILE#MARK` for a part.

A part is what lies between `<!-- MARK:begin -->` and `<!-- MARK:end -->`, as the benches write it. A table of
the presets takes the place of `<!-- presets -->`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rtspecinv.mel.models import CONFIGS

ROOT = Path(__file__).resolve().parent.parent


def on_page_markdown(markdown: str, **context: Any) -> str:
    """Include what a page asks for; links to the benches' page become links to it."""
    markdown = markdown.replace("<!-- presets -->", _presets())
    return re.sub(r"<!-- include ([\w./]+)(?:#(\w+))? -->", _included, markdown)


def _included(match: re.Match[str]) -> str:
    name, mark = match.groups()
    text = (ROOT / name).read_text("utf-8")
    if mark:
        text = text.split(f"<!-- {mark}:begin -->")[1].split(f"<!-- {mark}:end -->")[0].strip()
    return text.replace("](bench/README.md", "](measured.md")


def _presets() -> str:
    """Table of the presets, from their configurations."""
    rows = ["| preset | rate | n_fft, hop | bands | up to Hz | scale | values |", "|" + "---|" * 7]
    for name, config in CONFIGS.items():
        curve = {"power": "root"}.get(config.compression.curve, config.compression.curve)
        cells = (
            f"`{name}`",
            config.sample_rate,
            f"{config.n_fft}, {config.hop_length}",
            config.n_mels,
            f"{config.highest:g}",
            "Kaldi" if config.slopes == "mel" else {"htk": "HTK", "slaney": "Slaney"}[config.scale],
            f"{curve}, powers" if config.power == 2 else curve,
        )
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)
