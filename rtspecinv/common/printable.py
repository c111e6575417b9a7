"""Escaping and shortening of text from files and file names, so that it can be printed.

A terminal executes control characters, wherever they come from. File names, and texts read from files, pass
through `printable` before they become part of a message.
"""

from __future__ import annotations

import re

LONGEST = 400  # largest number of characters of a text
_OTHER = re.compile(r"[^ -~]")  # every character that is not printable ASCII


def printable(text: object, most: int = LONGEST) -> str:
    """Return a text in one line without control characters, bidirectional marks or lone surrogates.

    Every character that `str.isprintable` rejects is replaced by its escape sequence in Python. A text of
    more than `most` characters loses its middle.
    """
    whole = str(text)
    if len(whole) > most:  # cut before escaping, which would take long
        half = (most - 1) // 2
        whole = f"{whole[:half]}…{whole[len(whole) - half :]}"
    return _OTHER.sub(_escaped, whole)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
