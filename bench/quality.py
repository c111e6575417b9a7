"""Measures quality and time of streaming inversion; see bench/README.md.

python bench/quality.py                    prints all tables but the slow stream-choices, stream-overlaps
python bench/quality.py --only stream-quality,stream-noise    prints some of them
python bench/quality.py --all --write      prints all tables and writes them into bench/README.md
python bench/quality.py --audio DIR        uses other recordings; PESQ and ESTOI are those of files speech_*
"""

from __future__ import annotations

import sys

import protocol
import torch
from page import run, summarise
from quality_tables import SECTIONS, summary
from tables import Bench

from rtspecinv.measure.machine import commit, processor


def write_summary(name: str, bench: Bench) -> None:
    """Write a few rows of table "stream quality" into README.md."""
    if name != "stream-quality" or not bench.files:
        return
    caption = (
        f"Mean of {len(bench.clips(protocol.STANDARD).names)} recordings, 4 s each, 22.05 kHz, n_fft 1024, "
        "hop 256. SC is spectral convergence: the lower, the better. PESQ (wideband) and ESTOI are means of "
        "the recordings of speech. The textbook is RTISI-LA. Latency is that of the inverter. The real-time "
        "factor is seconds of work per second of sound, with the engine "
        f"`{protocol.STANDARD.inverter().engine}` on one core.\n\n"
    )
    made = f"commit {commit()}, {processor()}, torch {torch.__version__}"
    origin = f"From [bench/README.md](bench/README.md), {made}."
    summarise("measured", f"{summary(bench)}\n\n{caption}{origin}")


if __name__ == "__main__":
    slow = ("stream-choices", "stream-overlaps")  # each takes as much time as all other tables together
    usual = ",".join(name for name in SECTIONS if name not in slow)
    sys.exit(run(__doc__, SECTIONS, usual, "quality", after=write_summary))
