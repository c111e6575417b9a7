"""A program in C that pushes frames of plain RTISI-LA, to compare with."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rtspecinv.common.printable import printable

_FLAGS = ("-O3", "-march=native", "-ffast-math")
_LIBRARIES = ("-lfftw3f", "-lm")


class CReference:
    """A built program that takes `n_fft hop_length look_ahead n_iter` and prints microseconds a push."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def seconds(self, n_fft: int, hop_length: int, look_ahead: int, n_iter: int) -> float:
        """Seconds of a push.

        Raises:
            OSError: the program fails or prints no number.
        """
        command = [str(self.program), *map(str, (n_fft, hop_length, look_ahead, n_iter))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            microseconds = float(done.stdout)
        except ValueError:
            microseconds = math.nan
        if done.returncode or not microseconds > 0:
            raise OSError(
                f"The C reference, called with {' '.join(command[1:])}, gave status {done.returncode} and "
                f"{done.stdout[:60]!r}: it must print the microseconds of a push"
            )
        return microseconds * 1e-6


@contextmanager
def built(source: Path) -> Iterator[CReference]:
    """Build a program from C that needs FFTW, for as long as the context lasts.

    Raises:
        OSError: there is no such file, no compiler, or it does not compile.
    """
    if not source.is_file():
        raise FileNotFoundError(f"{printable(source)} does not exist: the C reference is a program in C")
    compiler = shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError(
            "No C compiler (cc): install one (apt-get install gcc), or leave the C reference out"
        )
    with TemporaryDirectory() as folder:
        program = Path(folder) / "c_reference"
        command = [compiler, *_FLAGS, str(source), "-o", str(program), *_LIBRARIES]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = next(
                (line for line in done.stderr.splitlines() if "error" in line or "cannot" in line), ""
            )
            raise OSError(
                f"{printable(source)} cannot be built ({printable(reason.strip())}): is FFTW there "
                "(apt-get install libfftw3-dev)?"
            )
        yield CReference(program)
