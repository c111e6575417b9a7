"""Prints how good and how fast streaming inversion is; see bench/README.md.

python bench/quality.py                    every table but g, the slow one
python bench/quality.py --only a,d         some of them
python bench/quality.py --all --write      every table, put into bench/README.md as well
python bench/quality.py --audio DIR        of other recordings; those named speech_* get PESQ and ESTOI
"""

from __future__ import annotations

import sys

import protocol
import torch
from page import ROOT, commit, processor, replace_between, run
from tables import SECTIONS, Bench, summary


def write_summary(letter: str, bench: Bench) -> None:
    """Put the few rows that sum up section a into the README of the project."""
    if letter != "a" or not bench.files:
        return
    caption = (
        f"Mean of {len(bench.clips(protocol.A).names)} recordings, 4 s each, 22.05 kHz, n_fft 1024, hop 256. "
        "SC is spectral convergence, the lower the better; PESQ (wideband) and ESTOI are of the speech among "
        "them; textbook is RTISI-LA; latency is that of the inverter. Real-time factor: seconds of work per "
        f"second of sound, engine `{protocol.A.inverter().engine}` on one core.\n\n"
    )
    made = f"commit {commit()}, {processor()}, torch {torch.__version__}"
    origin = f"From [bench/README.md](bench/README.md), {made}."
    replace_between(ROOT / "README.md", "measured", f"{summary(bench)}\n\n{caption}{origin}\n")


if __name__ == "__main__":
    usual = "a,b,c,d,e,f"  # g takes as long as all the others
    sys.exit(run(__doc__, SECTIONS, usual, "quality", after=write_summary))
