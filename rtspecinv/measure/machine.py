"""Description of the machine, the versions and the commit that a measurement was made with."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch

import rtspecinv

_LIBRARIES = ("torch", "numpy", "numba", "rocket-fft", "cuda-bindings")


def processor() -> str:
    """Return the name of the processor."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def commit() -> str:
    """Return the short hash of the package's commit; "unknown" if the package is in no repository.

    The text ends with "and changes" if there are uncommitted changes.
    """
    package = Path(rtspecinv.__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=package, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # raises an error in an unrelated repository
        changes = git("status", "--porcelain", "--", ".")
        return git("rev-parse", "--short", "HEAD") + (" and changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def facts() -> dict[str, str | int]:
    """Return machine, versions, commit and date, by name."""
    return {
        "date": datetime.date.today().isoformat(),
        "rtspecinv": rtspecinv.__version__,
        "commit": commit(),
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version for name in _LIBRARIES if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
