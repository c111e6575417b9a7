"""Checks every engine for a GPU against the reference, and times them all, in one run of under 8 minutes.

python bench/gpu.py            prints tables of bench/README.md; "GPU kernel" only where there is no GPU
python bench/gpu.py --write    puts them there as well

Without a GPU it runs to its end on the CPU, `triton` in Triton's interpreter and on tiny sizes, and says
what it could not check or measure.
"""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

GPU = torch.cuda.is_available()
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

from page import named, run  # noqa: E402
from protocol import A, B, C, D  # noqa: E402
from tables import Bench, table  # noqa: E402
from torch import Tensor  # noqa: E402

import rtspecinv  # noqa: E402
from rtspecinv.measure import timing  # noqa: E402
from rtspecinv.measure.timing import Runner, Setting  # noqa: E402
from rtspecinv.updates import RULES  # noqa: E402

DEVICE = "cuda" if GPU else "cpu"
ENGINES = ("cuda_graph", "triton")
SECONDS = 400  # after which no further measurement is begun
BEGIN = time.monotonic()
LIMIT = 1e-5  # error of a push in float32 against float64, relative to its loudest sample
USUAL = A.setting(3, 8)
TINY = Setting(22050, 256, 64, 1, 1)  # what the interpreter can do in time


def gpu_checks(bench: Bench) -> str:
    """Engines for a GPU against `eager` on the same device.

    "Bits": samples of a whole stream that differ from those of `eager`. "Error": the largest of one push in
    float32, of all pushes of a stream, against float64 from the same state, relative to the loudest sample;
    limit 1e-5. "Chunks", "company": samples that differ when the frames are cut otherwise, or when the
    stream runs beside others.
    """
    rows = []
    for engine, what, limit, check in checks():
        if late():
            rows.append([engine, what, "the time was up", "not checked"])
            continue
        try:
            value = check()
        except Exception as error:  # a check that breaks is a result too, and the others go on
            rows.append(
                [engine, what, f"{type(error).__name__}: {' '.join(str(error).split())[:60]}", "FAILED"]
            )
            continue
        rows.append([engine, what, f"{value:.2g}", "ok" if value <= limit else "FAILED"])
    if not GPU:
        rows.append(
            [
                "cuda_graph",
                "everything",
                "no GPU here: only a fake graph, on the CPU",
                "not checked",
            ]
        )
        rows.append(
            [
                "triton",
                "n_fft 512 to 2048",
                "only the tests, on the CPU",
                "not checked",
            ]
        )
    return table(["engine", "what", "value", ""], rows)


def checks() -> Iterator[tuple[str, str, float, Callable[[], float]]]:
    """Engine, what is checked, the largest value that passes, and the check."""
    sizes = [(256, 64), (512, 128), (1024, 256), (1024, 128), (2048, 512)]
    for n_fft, hop_length in sizes if GPU else sizes[:1]:
        setting = Setting(22050, n_fft, hop_length, *((3, 8) if GPU else (1, 1)))
        # Every kernel takes Triton some 20 s to compile: all rules where that costs least.
        for name in RULES if not GPU else ("raar", "fgla", "admm", "agla") if n_fft == 256 else ("raar",):
            yield "triton", f"error, {setting}, {name}", LIMIT, partial(error, setting, name)
        for name in RULES if GPU else ():
            yield "cuda_graph", f"bits, {setting}, {name}", 0, partial(bits, setting, name)
    setting = USUAL if GPU else TINY
    for engine in ENGINES if GPU else ENGINES[1:]:
        yield engine, "chunks", 0, partial(chunks, Runner(engine, DEVICE), setting)
        yield engine, "company", 0, partial(company, Runner(engine, DEVICE), setting)


def noise(setting: Setting, *batch: int, n_frames: int = 12) -> Tensor:
    """Magnitudes `(*batch, n_freq, n_frames)` of noise, the same every time."""
    n_samples = n_frames * setting.hop_length + setting.n_fft
    samples = torch.randn(*batch, n_samples, generator=torch.Generator().manual_seed(0))
    return setting.stft().magnitude(0.2 * samples)[..., :n_frames].to(DEVICE)


def samples_of(inverter: rtspecinv.StreamingInverter, magnitude: Tensor) -> Tensor:
    return torch.cat([*(inverter.push(frame) for frame in magnitude.unbind(-1)), inverter.flush()], -1)


def bits(setting: Setting, update: str) -> float:
    runners = (Runner(engine, DEVICE) for engine in ("eager", "cuda_graph"))
    found = [samples_of(r.inverter(setting, 3, update=update), noise(setting, 3)) for r in runners]
    return float((found[0] != found[1]).sum())


def error(setting: Setting, update: str) -> float:
    """Largest relative error of a push; before each one, the state is taken over from float64."""
    ours = Runner("triton", DEVICE).inverter(setting, 2, update=update)
    if ours.engine != "triton":
        raise ValueError(f"this runs in {ours.engine}")
    exact = copy.deepcopy(Runner("eager", DEVICE).inverter(setting, 2, update=update)).double()
    worst = 0.0
    for frame in noise(setting, 2, n_frames=12 if GPU else 4).unbind(-1):
        buffers = zip(ours.named_buffers(), exact.named_buffers(), strict=True)
        for (name, buffer), (_, known) in buffers:
            if "stft" not in name:
                buffer.copy_(known)
                known.copy_(buffer)  # what float32 cannot hold is no error
        hop, expected = ours.push(frame), exact.push(frame.double())
        worst = max(worst, float((hop - expected).abs().max() / expected.abs().max().clamp_min(1e-3)))
    return worst


def chunks(runner: Runner, setting: Setting) -> float:
    magnitude = noise(setting, n_frames=12 if GPU else 4)
    expected = samples_of(runner.inverter(setting), magnitude)
    inverter = runner.inverter(setting)
    parts = [inverter.push_many(magnitude[..., :3]), inverter.push_many(magnitude[..., 3:]), inverter.flush()]
    return float((torch.cat(parts) != expected).sum())


def company(runner: Runner, setting: Setting) -> float:
    n_streams = 1024 if GPU else 2
    magnitude = noise(setting, n_streams, n_frames=8 if GPU else 3)
    together = samples_of(runner.inverter(setting, n_streams), magnitude)
    magnitude[1:] = magnitude[1:].flip(-1) + 1
    again = samples_of(runner.inverter(setting, n_streams), magnitude)
    return float((together[0] != again[0]).sum())


def gpu_cost(bench: Bench) -> str:
    """A push on the device, by engine and number of streams.

    µs of one push of all streams, over 2,000 pushes or what time allows, the GPU synchronised after each.
    Targets on an H100 at 1024/256, 3 ahead, 8 iterations: one stream in 250 µs by `cuda_graph`, 60 µs by
    `triton`; 5,000 and 20,000 streams with p99 under a hop, 11.6 ms.
    """
    if not GPU:
        return (
            "No GPU here: nothing was measured, neither a push nor the most streams that keep up. What "
            "Triton's interpreter takes says nothing about a GPU."
        )
    rows, notes = [], []
    plan = [(configuration.setting(3, 8), 1) for configuration in (A, B, C, D)]
    plan += [(USUAL, streams) for streams in (16, 256, 1024, 4096, 8192, 16384, 20000, 32768)]
    for setting, streams in plan:
        if late():
            notes.append(f"{setting}, {streams} streams: not measured, the time was up.")
            continue
        names = ("eager", *ENGINES) if streams <= 4096 else ENGINES
        runners = timing.runners(names, [DEVICE], setting)
        n_pushes = max(100, min(2000, 400_000 // streams))
        for record in timing.measure(runners, setting, magnitude(bench, setting), streams, n_pushes):
            each = f"{record.p50_us / streams:.2f}"
            times = [f"{value:.0f}" for value in (record.p50_us, record.p95_us, record.p99_us, record.max_us)]
            rows.append(
                [str(setting), str(streams), record.engine, *times, each, f"{record.real_time_factor:.4f}"]
            )
    for engine in ENGINES:
        if late():
            notes.append(f"Most streams of {engine}: not measured, the time was up.")
            continue
        limit = timing.most_streams(Runner(engine, DEVICE), USUAL, magnitude(bench, USUAL), 300)
        p99 = "" if limit.p99_us is None else f", p99 {limit.p99_us / 1000:.2f} ms"
        notes.append(f"Most streams of {engine} that keep up at {USUAL}: {limit.streams}{p99}.")
    header = [
        "setting",
        "streams",
        "engine",
        "p50",
        "p95",
        "p99",
        "largest",
        "p50 a stream",
        "real-time factor",
    ]
    return "\n\n".join([table(header, rows), *notes])


def magnitude(bench: Bench, setting: Setting) -> Tensor:
    """Of the first recording, `(n_freq, n_frames)`."""
    configuration = next(c for c in (A, B, C, D) if c.setting(3, 8) == setting)
    return bench.magnitude(configuration)[0]


def late() -> bool:
    return time.monotonic() - BEGIN > SECONDS


def gpu_kernel(bench: Bench) -> str:
    """The kernel of `triton` as it is compiled for an H100 (sm_90), rule `raar`, by Triton's own ptxas.

    Compiled, not run: no GPU is needed. "Stack": bytes a thread spills. "Loop": instructions of one
    iteration, of a warp; four warps of a multiprocessor issue one each in a cycle. "At least": µs of a push
    from that alone, 10 iterations' worth at 1.75 GHz; what waits for memory or for others comes on top. One
    stream is on a multiprocessor at a time, and an H100 has 132 of them.
    """
    script = Path(__file__).with_name("gpu_compile.py")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    rows = []
    for n_fft, n_open in ((512, 5), (1024, 2), (1024, 5), (2048, 5)):
        command = [sys.executable, str(script), str(n_fft), str(n_open)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            return f"It could not be compiled here: {done.stderr.strip().splitlines()[-1]}"
        n_warps, registers, stack, shared, loop = map(int, done.stdout.split())
        least = 10 * loop * math.ceil(n_warps / 4) / 1750
        cells = (n_fft, n_open, n_warps, registers, stack, shared, loop)
        rows.append([*map(str, cells), f"{least:.0f}"])
    return table(
        ["n_fft", "frames", "warps", "registers", "stack", "shared memory", "loop", "at least"], rows
    )


SECTIONS = named(gpu_checks, gpu_cost, gpu_kernel)

if __name__ == "__main__":
    sys.exit(run(__doc__, SECTIONS, "gpu-checks,gpu-cost" if GPU else ",".join(SECTIONS), "gpu"))
