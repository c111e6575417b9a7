"""Checks every engine for a GPU against the reference, and times them all, in one run of under 8 minutes.

python bench/gpu.py            prints tables of bench/README.md; "GPU kernel" only where there is no GPU
python bench/gpu.py --write    puts them there as well

Without a GPU it runs to its end on the CPU, `cuda` compiled by g++ and on tiny sizes, and says
what it could not check or measure.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from page import named, run
from protocol import A, B, C, D
from tables import Bench, table
from torch import Tensor

import rtspecinv
from rtspecinv.engines.gpu import nvrtc
from rtspecinv.measure import timing
from rtspecinv.measure.timing import Runner, Setting
from rtspecinv.updates import RULES

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
import cuda_on_cpu
import gpu_compile

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
ENGINES = ("cuda_graph", "cuda")
SECONDS = 400  # after which no further measurement is begun
BEGIN = time.monotonic()
LIMIT = 1e-5  # error of a push in float32 against float64, relative to its loudest sample
USUAL = A.setting(3, 8)
TINY = Setting(22050, 256, 64, 1, 1)  # what a CPU can do in time


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
                "cuda",
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
        for name in RULES if not GPU else ("raar", "fgla", "admm", "agla") if n_fft == 256 else ("raar",):
            yield "cuda", f"error, {setting}, {name}", LIMIT, partial(error, setting, name)
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
    ours = Runner("cuda", DEVICE).inverter(setting, 2, update=update)
    if ours.engine != "cuda":
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
    `cuda`; 5,000 and 20,000 streams with p99 under a hop, 11.6 ms.
    """
    if not GPU:
        return (
            "No GPU here: nothing was measured, neither a push nor the most streams that keep up. What "
            "the kernels take on a CPU says nothing about a GPU."
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
    """The kernel of `cuda` as NVRTC compiles it for an H100 (sm_90), rule `raar`.

    Compiled, not run: no GPU is needed. "Stack": bytes a thread spills. "Blocks": of a multiprocessor, which
    has room for so many. "Loop": instructions of one iteration, of a warp, those for numbers out of range
    included. "Warps x loop": of all warps of a stream; a multiprocessor issues four in a cycle.
    """
    return table(list(gpu_compile.COLUMNS), gpu_compile.rows())


SECTIONS = named(gpu_checks, gpu_cost, gpu_kernel)

if __name__ == "__main__":
    if not GPU:
        nvrtc.DEVICE, nvrtc.load = DEVICE, cuda_on_cpu.load
        nvrtc.has_clusters = lambda device: True
    sys.exit(run(__doc__, SECTIONS, "gpu-checks,gpu-cost" if GPU else ",".join(SECTIONS), "gpu"))
