"""Prints what one push costs, by engine, beside plain C; see bench/README.md.

python bench/push.py                     every table
python bench/push.py --only m            some of them
python bench/push.py --write             put into bench/README.md as well
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import protocol
import torch
from page import ROOT, run
from protocol import A, B, C, Configuration, D
from tables import Bench, db, table
from torch import Tensor

YARDSTICK = ROOT.parent / "shared" / "reference" / "rtisi_la_fftw.c"
ENGINES = ("eager", "numba")
N_ROUNDS = 5


@cache
def yardstick() -> str | None:
    """Program that pushes plain RTISI-LA frames in C with FFTW; None where it cannot be built."""
    compiler = shutil.which("cc")
    if compiler is None or not YARDSTICK.exists():
        print(f"No C compiler or no {YARDSTICK.name}: the columns of C stay empty.\n")
        return None
    program = str(Path(tempfile.mkdtemp()) / "yardstick")
    flags = ["-O3", "-march=native", "-ffast-math", "-o", program, "-lfftw3f", "-lm"]
    built = subprocess.run([compiler, str(YARDSTICK), *flags], capture_output=True, text=True)
    if built.returncode:
        print("libfftw3 is not installed: the columns of C stay empty.\n")
        return None
    return program


def in_c(configuration: Configuration, look_ahead: int, n_iter: int) -> float:
    """Seconds of a push in C, nan where it cannot be had."""
    program = yardstick()
    if program is None:
        return float("nan")
    sizes = (configuration.n_fft, configuration.hop_length, look_ahead, n_iter)
    out = subprocess.run([program, *map(str, sizes)], capture_output=True, text=True, check=True).stdout
    return float(out) * 1e-6


def pushes(configuration: Configuration, magnitude: Tensor, n_pushes: int, **options: Any) -> np.ndarray:
    """Seconds of every one of `n_pushes` pushes after a warm-up; frames `(*batch, n_freq, n_frames)`."""
    inverter = configuration.inverter(batch_shape=magnitude.shape[:-2], **options)
    frames, times = [frame.contiguous() for frame in magnitude.unbind(-1)], []
    for i in range(protocol.WARM_UP + n_pushes):
        begin = time.perf_counter()
        inverter.push(frames[i % len(frames)])
        times.append(time.perf_counter() - begin)
    return np.array(times[protocol.WARM_UP :])


def section_m(bench: Bench) -> str:
    """A push by engine, one stream.

    µs: least, then median (p50), p95, p99, largest of the calmest of 5 rounds, in which C and the engines
    take turns, 2,000 pushes each (`eager`: 400). "C" is a plain RTISI-LA loop with FFTW, its best of 5
    times 250 pushes; the default rule sweeps over revised frames too, and looks once more before it
    commits. Targets for `numba`: 1.4 times C's least at A, 1.5 at B and C; 4.5 times faster than `eager`;
    p99 / p50 1.5.
    """
    rows = []
    for configuration, look_ahead, n_iter in (
        (A, 3, 8),
        (B, 3, 8),
        (C, 3, 8),
        (D, 3, 8),
        (A, 0, 8),
        (A, 3, 32),
    ):
        magnitude = configuration.magnitude(bench.clips(configuration).samples[0])
        best, plain = {}, []
        for _ in range(N_ROUNDS):
            plain.append(in_c(configuration, look_ahead, n_iter))
            for engine in ENGINES:
                n_pushes = 10_000 // N_ROUNDS if engine == "numba" else 2_000 // N_ROUNDS
                times = pushes(
                    configuration, magnitude, n_pushes, engine=engine, look_ahead=look_ahead, n_iter=n_iter
                )
                best.setdefault(engine, []).append(times)
        hop_seconds = configuration.hop_length / configuration.sample_rate
        least = {engine: min(float(times.min()) for times in rounds) for engine, rounds in best.items()}
        for engine, rounds in best.items():
            calm = min(rounds, key=lambda times: float(np.median(times)))
            p50, p95, p99 = np.percentile(calm, (50, 95, 99))
            cells = [f"{1e6 * value:.0f}" for value in (least[engine], p50, p95, p99, calm.max())]
            in_plain_c = np.nanmin(plain) if np.isfinite(plain).any() else float("nan")
            ratios = [least[engine] / in_plain_c, least["eager"] / least[engine], p99 / p50]
            shown = ["" if np.isnan(ratio) else f"{ratio:.2f}" for ratio in ratios]
            factor = f"{p50 / hop_seconds:.4f}"
            rows.append([f"{configuration.name}, {look_ahead}, {n_iter}", engine, *cells, *shown, factor])
    header = ["setting", "engine", "least", "p50", "p95", "p99", "largest", "least / C's"]
    return table([*header, "eager's / this", "p99 / p50", "real-time factor"], rows)


def section_n(bench: Bench) -> str:
    """The best quality for the least time, one stream, engine `numba`, A.

    Settings of the stream, each on the clips of table a; those that another beats in both are left out.
    Target: -30 dB in 80 µs.
    """
    clips, points = bench.clips(A), []
    magnitude = A.magnitude(clips.samples)
    for look_ahead in range(4):
        for revise in range(4):
            for n_iter in (1, 2, 3, 4, 6, 8, 12, 16, 32):
                options = {"look_ahead": look_ahead, "revise": revise, "n_iter": n_iter}
                quality = db(protocol.convergence(A, protocol.invert(A, magnitude, **options), magnitude))
                cost = pushes(A, magnitude[0], 300, engine="numba", **options)
                points.append((float(np.median(cost)), float(quality), options))
    points.sort(key=lambda point: point[0])
    rows, so_far = [], 0.0
    for seconds, quality, options in points:
        if quality < so_far:
            so_far = quality
            rows.append(
                [*(str(value) for value in options.values()), f"{1e6 * seconds:.0f}", f"{quality:.2f}"]
            )
    return table(["look_ahead", "revise", "n_iter", "µs a push (p50)", "SC dB"], rows)


def section_o(bench: Bench) -> str:
    """Many streams in one object, engine `numba`, A, look_ahead 3, 8 iterations.

    Medians of 300 pushes; "throughput": over that of one stream on one thread; "real-time streams": how many
    this machine keeps up with, by the median. Target: throughput 1.85 for 64 streams on 2 threads.
    """
    rows, one = [], 0.0
    magnitude = A.magnitude(bench.clips(A).samples[0])
    threads = torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            for n_streams in (1, 8, 64, 256):
                many = magnitude.expand(n_streams, -1, -1)[..., :64].contiguous()
                seconds = float(np.median(pushes(A, many, 300, engine="numba", look_ahead=3, n_iter=8)))
                one = one or seconds
                keeps_up = int(n_streams * A.hop_length / A.sample_rate / seconds)
                ratio = n_streams * one / seconds
                cells = [
                    f"{1e6 * seconds:.0f}",
                    f"{1e6 * seconds / n_streams:.1f}",
                    f"{ratio:.2f}",
                    str(keeps_up),
                ]
                rows.append([str(n_streams), str(n_threads), *cells])
    finally:
        torch.set_num_threads(threads)
    return table(["streams", "threads", "µs a push", "µs a stream", "throughput", "real-time streams"], rows)


SECTIONS = {"m": section_m, "n": section_n, "o": section_o}

if __name__ == "__main__":
    sys.exit(run(__doc__, SECTIONS, ",".join(SECTIONS), "push"))
