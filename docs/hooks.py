"""Puts what other files of the project say into pages: `<!-- include FILE -->`, or `FILE#MARK` for a part.

A part is what lies between `<!-- MARK:begin -->` and `<!-- MARK:end -->`, as the benches write it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def on_page_markdown(markdown: str, **context: Any) -> str:
    """Include what a page asks for; links to the benches' page become links to it."""
    return re.sub(r"<!-- include ([\w./]+)(?:#(\w+))? -->", _included, markdown)


def _included(match: re.Match[str]) -> str:
    name, mark = match.groups()
    text = (ROOT / name).read_text("utf-8")
    if mark:
        text = text.split(f"<!-- {mark}:begin -->")[1].split(f"<!-- {mark}:end -->")[0].strip()
    return text.replace("](bench/README.md", "](measured.md")
