"""Warnings that point at the caller's line, however deep within the library they are issued."""

from __future__ import annotations

import sys
import warnings


def warn(message: str) -> None:
    """Issue a warning that points at the nearest calling line outside the library, or in its command line."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_passed(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _is_passed(module: str) -> bool:
    is_library = module.split(".")[0] == "rtspecinv" and not module.startswith("rtspecinv.cli")
    return is_library or module == "contextlib"  # contextlib calls the library when a `with` block ends
