"""Cache of compiled code on disk; if a file of it is damaged, the code is compiled again.

Numba's own cache does not check its files: a file that a power cut has emptied makes every program fail that
reads it, and a damaged one may be executed. A file of this cache begins with a hash of the rest (`kept`).

The cache uses the first of these folders that can be written to: the one that NUMBA_CACHE_DIR names, the
package's own, one of the user's. The files are pickles, which can execute code. So a folder that other users
may write to is not used, unless NUMBA_CACHE_DIR names it.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import numba
import rocket_fft
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from rtspecinv.engines import kept

log = logging.getLogger("rtspecinv")

PACKAGE = Path(__file__).parent
ROOM = 2**20  # free bytes that a folder needs before code is compiled for it: more than any file takes
_VERSIONS = (numba.__version__, llvmlite.__version__, rocket_fft.__version__, sys.implementation.cache_tag)


class CodeCache:
    """Cache of one compiled function, which replaces numba's own cache in a dispatcher of numba.

    function: Python function that is compiled.
    sources: hash of all source files that the compiled code depends on.
    label: name of the function in log messages; if it is empty, nothing is logged.

    It logs a message before code is compiled, and the time that this took afterwards.
    """

    def __init__(self, function: Callable[..., Any], sources: str, label: str = "") -> None:
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        self._sources, self._label = sources, label
        self._folder: Path | None = None  # where the code that is being compiled will be written
        self._begin = 0.0

    cache_path = property(lambda self: None if self._folder is None else str(self._folder))

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return the compiled code for these argument types; None, so that numba compiles it, if absent."""
        target.refresh()
        name = self._file_name(signature, target.codegen())
        self._folder = None
        for folder in folders():
            found = _load(folder / name, target)
            if found is not None:
                return found
            if _has_room(folder):
                self._folder = folder
                break
        self._announce(signature)
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Save compiled code; do nothing if no folder can be written to."""
        if self._label:
            log.info("compiled %s in %.1f s", self._what(signature), time.perf_counter() - self._begin)
        if self._folder is None:
            return
        try:
            content = dumps(compiled._reduce())
            kept.write(self._folder / self._file_name(signature, compiled.codegen), content)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning("compiled code was not kept (%s), the next process compiles again; %s", reason, HINT)

    def enable(self) -> None:
        """Do nothing, because the cache is always enabled."""

    def disable(self) -> None:
        """Do nothing, because the cache is always enabled."""

    def flush(self) -> None:
        """Do nothing, because changed code is saved under another name."""

    def _file_name(self, signature: Any, codegen: Any) -> str:
        key = repr((str(signature), codegen.magic_tuple(), self._sources, _VERSIONS))
        return f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.nbc"

    def _announce(self, signature: Any) -> None:
        self._begin = time.perf_counter()
        if self._label:
            once = "once on this machine" if self._folder else f"each time, as no folder will do; {HINT}"
            log.warning("compiling %s: some 20 s, %s", self._what(signature), once)

    def _what(self, signature: Any) -> str:
        precision = "float64" if "float64" in str(signature) else "float32"
        return f"{self._label} for {precision}"


HINT = "set NUMBA_CACHE_DIR to a folder of yours that has room"


def folders() -> Iterator[Path]:
    """Return the folders that compiled code may be in, in the order in which they are tried."""
    if numba.config.CACHE_DIR:
        yield Path(numba.config.CACHE_DIR) / "rtspecinv"
    yield PACKAGE / "__pycache__"
    own = kept.own_folder()
    if own is not None:
        yield own


def _has_room(folder: Path) -> bool:
    """Return whether a folder has space for the code, by writing a file of that size."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{uuid.uuid4().hex}.tmp"
        try:
            probe.write_bytes(bytes(ROOM))
        finally:
            probe.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _load(path: Path, target: Any) -> Any:
    """Return the code in a file; None if there is none. A file that cannot be used is removed."""
    content = kept.read(path)
    if content is None:
        return None
    try:
        return CompileResult._rebuild(target, *pickle.loads(content))
    except Exception:
        with suppress(OSError):
            path.unlink()
        return None
