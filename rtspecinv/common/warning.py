"""Warnings in the name of the line that led to them, however deep within the library they are made."""

from __future__ import annotations

import sys
import warnings


def warn(message: str) -> None:
    """Warn in the name of the nearest line that is outside the library, or in its command line."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_passed(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _is_passed(module: str) -> bool:
    is_library = module.split(".")[0] == "rtspecinv" and not module.startswith("rtspecinv.cli")
    return is_library or module == "contextlib"  # whose exits call ours
