"""Reading of parameters from .json and .toml files, with checks of file size, syntax and names."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rtspecinv.common.printable import printable

SUFFIXES = (".json", ".toml")
LARGEST_FILE = 2**18  # bytes; a file with statistics of 4096 bands has a third of this size


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the names and values in a .json or .toml file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the suffix is another one, or the file is too large or not valid JSON or TOML.
        ImportError: the file is .toml, which Python 3.10 cannot read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"The name {printable(path)} does not end in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {printable(path)}" if not path.exists() else f"{printable(path)} is not a file"
        )
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(
            f"{printable(path)} has more than {LARGEST_FILE} bytes: pass a file with parameters alone"
        )
    try:
        text = content.decode("utf-8-sig")
        return json.loads(text, parse_int=_whole) if suffix == ".json" else _toml(text, path)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{printable(path)} is not a valid {suffix} file: {printable(error)}") from error


def _whole(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"the number {text[:20]}... has more than 20 characters")
    return int(text)


def _toml(text: str, path: Path) -> dict[str, Any]:
    if sys.version_info < (3, 11):
        raise ImportError(
            f"{printable(path)}: .toml files need Python 3.11 or newer; write the parameters to a .json file"
        )
    import tomllib

    return tomllib.loads(text)


def check_names(given: object, known: Sequence[str], needed: Sequence[str], within: str = "") -> None:
    """Raise `ValueError` for an unknown name, suggesting the most similar one, and for a missing one.

    given: parameters by name; anything that is not a mapping is rejected.
    known: names that are allowed.
    needed: names that must be given.
    within: prefix of the names in messages, such as "compression.", default: none.
    """
    if not isinstance(given, Mapping):
        place = f"Parameter {within[:-1]}" if within else "The content"
        raise ValueError(f"{place} is a {type(given).__name__}, not a mapping of names to values")
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {within}{near[0]}?" if near else f"the parameters are {', '.join(known)}"
            raise ValueError(f"There is no parameter {within}{printable(name, 40)}: {hint}")
    for name in needed:
        if name not in given:
            raise ValueError(f"Parameter {within}{name} is missing")
