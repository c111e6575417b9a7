"""Tables of results and errors that a killed run does not lose: lines are appended at once, merged later."""

from __future__ import annotations

import csv
import io
import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from rtspecinv.common.whole_files import write_whole

COLUMNS = ("source", "row", "output", "sample_rate", "n_samples", "sc", "seconds", "error")
RESULTS, ERRORS = "results.csv", "errors.csv"
_FOLDER = ".rtspecinv-journal"

Key = tuple[str, str]  # source and row
Line = dict[str, str]


class Journal:
    """File in which one process appends a line for each row that it has inverted."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FOLDER / f"{uuid.uuid4().hex}.jsonl"

    def add(self, **line: Any) -> None:
        """Append a line; it is in the file when the function returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({name: _text(line.get(name, "")) for name in COLUMNS}).encode() + b"\n"
        with open(self._path, "ab", buffering=0) as file:
            file.write(content)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def merge(folder: Path) -> dict[Key, Line]:
    """Merge the journals in a folder into its tables, and return the errors by source and row.

    If there are several lines about a row, the last one is used. A row that failed and was inverted later
    thus has no error.
    """
    lines: dict[Key, Line] = {}
    for name in (ERRORS, RESULTS):
        for line in _table(folder / name):
            lines[line["source"], line["row"]] = line
    journals = sorted((folder / _FOLDER).glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    for path in journals:
        for text in path.read_bytes().splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # the process was killed while it wrote
                continue
            lines[line["source"], line["row"]] = line
    errors = {key: line for key, line in sorted(lines.items()) if line["error"]}
    _write(folder / ERRORS, errors.values())
    _write(folder / RESULTS, [line for _, line in sorted(lines.items()) if not line["error"]])
    for path in journals:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # another run uses the folder
        (folder / _FOLDER).rmdir()
    return errors


def _table(path: Path) -> list[Line]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, lines: Any) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator=os.linesep)
    writer.writeheader()
    writer.writerows(lines)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))
