"""Text from files and file names, fit to be shown: escaped and bounded.

A terminal obeys control characters, wherever they come from. What is read out of a file, or is its name, goes
through `printable` before it becomes part of a message.
"""

from __future__ import annotations

import re

LONGEST = 400  # characters of one text
_OTHER = re.compile(r"[^ -~]")  # all that is not plain ASCII is looked at


def printable(text: object, most: int = LONGEST) -> str:
    """Text in one line without control characters, bidirectional marks or lone surrogates.

    Whatever `str.isprintable` refuses becomes an escape sequence as in Python's source. Of a text of more
    than `most` characters the middle is left out.
    """
    whole = str(text)
    if len(whole) > most:  # before the escapes, so that a text of a gigabyte costs nothing
        half = (most - 1) // 2
        whole = f"{whole[:half]}…{whole[len(whole) - half :]}"
    return _OTHER.sub(_escaped, whole)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
