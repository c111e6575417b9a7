"""A C program that measures a push of textbook RTISI-LA, as a reference for speed."""

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
    """A compiled program that takes `n_fft hop_length look_ahead n_iter` and prints microseconds per push."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def seconds(self, n_fft: int, hop_length: int, look_ahead: int, n_iter: int) -> float:
        """Run the program and return the time of a push, seconds.

        Raises:
            OSError: the program fails or does not print a number above 0.
        """
        command = [str(self.program), *map(str, (n_fft, hop_length, look_ahead, n_iter))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            microseconds = float(done.stdout)
        except ValueError:
            microseconds = math.nan
        if done.returncode or not microseconds > 0:
            raise OSError(
                f"The C reference, called with {' '.join(command[1:])}, returned status {done.returncode} "
                f"and printed {done.stdout[:60]!r}: it must print a push's microseconds"
            )
        return microseconds * 1e-6


@contextmanager
def built(source: Path) -> Iterator[CReference]:
    """Return a context whose value is the program compiled from a C file, linked with FFTW.

    The program is deleted when the context ends.

    Raises:
        OSError: the file does not exist or does not compile, or there is no compiler.
    """
    if not source.is_file():
        raise FileNotFoundError(f"{printable(source)} does not exist: name a C source file")
    compiler = shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError(
            "There is no C compiler (cc): install one (apt-get install gcc), or leave out --c-reference"
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
                f"{printable(source)} cannot be compiled ({printable(reason.strip())}): if FFTW is missing, "
                "apt-get install libfftw3-dev"
            )
        yield CReference(program)
