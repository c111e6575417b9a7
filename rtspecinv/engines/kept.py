"""Files of compiled code in the user's cache folder, written atomically and checked when read.

A file begins with a hash of the rest, which reveals damage. Folders that other users may write to are not
used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("rtspecinv")

_DIGEST = hashlib.sha256().digest_size


def own_folder() -> Path | None:
    """Return the user's cache folder, which nobody else may write to; None if there is none."""
    with suppress(RuntimeError, OSError):  # there is no home folder
        cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
        own = (cache if cache.is_absolute() else Path.home() / ".cache") / "rtspecinv"
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(own):
            return own
    return None


def read(path: Path) -> bytes | None:
    """Return the content that `write` stored; None if it is absent or damaged. A damaged file is removed."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
        return content[_DIGEST:]
    with suppress(OSError):
        path.unlink()
    return None


def write(path: Path, content: bytes) -> None:
    """Write a file atomically: it is whole or absent, even if several processes write it at once."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        part.write_bytes(hashlib.sha256(content).digest() + content)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def load(name: str) -> bytes | None:
    """Return the content that was saved under a name; None if there is none, or if it is damaged."""
    folder = own_folder()
    return None if folder is None else read(folder / name)


def save(name: str, content: bytes) -> None:
    """Save content under a name; do nothing if the cache folder cannot be written to."""
    folder = own_folder()
    if folder is None:
        return
    try:
        write(folder / name, content)
    except OSError as error:
        log.warning("compiled code was not kept (%s), the next process compiles again", error)


def _is_private(folder: Path) -> bool:
    """Return whether nobody else may write to a folder, as far as the system can tell."""
    if not hasattr(os, "getuid"):
        return True
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
