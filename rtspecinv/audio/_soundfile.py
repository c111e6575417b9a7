"""soundfile, imported when the first file is opened."""

from __future__ import annotations

from typing import Any


def soundfile() -> Any:
    """Return the module; raises `ImportError` with the line that installs it."""
    try:
        import soundfile as module
    except ImportError as error:
        raise ImportError('Audio files need soundfile: pip install "rtspecinv[files]"') from error
    except OSError as error:  # the wheel for this machine has no libsndfile in it
        raise ImportError(f"soundfile finds no libsndfile ({error}): apt-get install libsndfile1") from error
    return module
