"""Checks and times every engine for a GPU, made for one short visit to a machine that has one.

python bench/gpu.py DIR             runs every step, in a process of its own; DIR/results.jsonl has its rows
python bench/gpu.py DIR             ... once more: does what is not done yet
python bench/gpu.py DIR --only times-cuda,most-cuda
python bench/gpu.py DIR --render    prints the tables of bench/README.md; without rows, what is on paper
python bench/gpu.py DIR --render --write    puts them there as well

Runs from a bare checkout with torch, numpy and triton. Where there is no repository, RTSPECINV_COMMIT says of
which commit the checkout is.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a bare checkout is not installed

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import rtspecinv  # noqa: E402
from rtspecinv.measure import clip, machine, timing  # noqa: E402
from rtspecinv.measure.timing import Runner, Setting  # noqa: E402
from rtspecinv.updates import RULES  # noqa: E402

DEVICE = "cuda"
COMMIT = "RTSPECINV_COMMIT"
ENGINES = ("cuda_graph", "cuda", "eager")  # "cuda" is the kernel
USUAL = Setting(22050, 1024, 256, 3, 8)
OTHERS = [
    Setting(22050, n_fft, hop, 3, 8) for n_fft, hop in ((512, 128), (1024, 128), (2048, 512), (4096, 1024))
]
STREAMS = (1, 8, 64, 512, 4096, 20_000)
N_PUSHES, ROW_SECONDS = 2000, 6.0  # of a row of times, whichever ends first; 100 pushes at least
CLIPS = ((1, 4.0), (16, 4.0), (64, 4.0), (1, 60.0))  # clips and their seconds
ITERATIONS = 100
N_RUNS = 100  # equal ones, which must give equal bits
N_NUMBERS = 2**26  # that are copied
LIMIT = 1e-5  # error of a push in float32 against float64, relative to its loudest sample
SECONDS = 560  # after which no step begins; a command may have 10 minutes

Emit = Callable[..., None]
Rows = dict[str, list[dict[str, Any]]]


# -- steps -----------------------------------------------------------------------------------------------


def facts(emit: Emit) -> None:
    """Card, versions, and what the card and its driver need for next to nothing."""
    commit = os.environ.get(COMMIT) or machine.commit()
    emit(**{**machine.facts(), "commit": commit, "torch": torch.__version__, "cuda": torch.version.cuda})
    query = "name,driver_version,clocks.sm,clocks.max.sm,memory.total,power.limit"
    if shutil.which("nvidia-smi"):
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True
        )
        emit(smi=done.stdout.strip())
    numbers = torch.zeros(N_NUMBERS, device=DEVICE)
    other = torch.empty_like(numbers)
    seconds = _fastest(lambda: other.copy_(numbers))
    emit(what="copy, TB/s", value=2 * numbers.numel() * 4 / seconds / 1e12)
    one = numbers[:1]
    emit(what="launch and sync, us", value=1e6 * _fastest(lambda: one.add_(1)))
    emit(what="two numbers to the CPU, us", value=1e6 * _fastest(lambda: numbers[:2].cpu()))


def _fastest(step: Callable[[], object], n: int = 50) -> float:
    seconds = []
    for _ in range(n):
        begin = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def compiling(emit: Emit) -> None:
    """What is compiled at the first push of each kind, all at once, a process each."""
    code = (
        "import sys; sys.path.insert(0, 'bench'); import gpu; "
        "setting = gpu.Setting(22050, {1}, {2}, 3, 2); "
        "inverter = gpu.Runner({0!r}, gpu.DEVICE).inverter(setting, update={3!r}); "
        "gpu.samples_of(inverter, gpu.noise(setting, n_frames=3))"
    )
    kinds = [(engine, n_fft, n_fft // 4, "raar") for engine in engines()[:2] for n_fft in (512, 1024, 2048)]
    kinds += [(engine, 1024, 256, rule) for engine in engines()[:2] for rule in ("fgla", "agla", "rtisi")]
    begun = {}
    for kind in kinds:
        command = [sys.executable, "-c", code.format(*kind)]
        begun[kind] = (
            time.monotonic(),
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True),
        )
    for (engine, n_fft, hop_length, rule), (begin, process) in begun.items():
        _, errors = process.communicate()
        why = errors.strip().splitlines()[-1:] if process.returncode else []
        emit(
            engine=engine,
            what=f"{n_fft}/{hop_length}, {rule}",
            seconds=round(time.monotonic() - begin, 1),
            error="".join(why),
        )


def checks(emit: Emit, engine: str) -> None:
    """Everything that must hold, at the usual setting."""
    for what, limit, check in _checks(engine):
        attempt(emit, partial(_verdict, check, limit), engine=engine, what=what)


def _verdict(check: Callable[[], float], limit: float) -> dict[str, Any]:
    value = float(check())
    return {"value": value, "ok": value <= limit}


def attempt(emit: Emit, make: Callable[[], dict[str, Any]], **about: Any) -> None:
    """Write a row; what breaks is a row too, and the others go on."""
    try:
        emit(**about, **make())
    except Exception as error:
        emit(**about, error=_short(error))


def _checks(engine: str) -> Iterator[tuple[str, float, Callable[[], float]]]:
    """What is checked, the largest value that passes, and the check."""
    for name in ("raar", "rtisi", "fgla", "admm", "agla", "dm"):
        yield f"error of a push, {name}", LIMIT, partial(error_of, engine, USUAL, update=name)
    yield "error of a push, from zeros", LIMIT, partial(error_of, engine, USUAL, init="zeros")
    yield "error of a push, from peaks", math.inf, partial(error_of, engine, USUAL, init="peaks")
    yield "samples that differ: frames cut otherwise", 0, partial(_of_chunks, engine)
    yield "samples that differ: among other streams", 0, partial(_of_company, engine)
    yield f"samples that differ: {N_RUNS} equal runs", 0, partial(_of_repetition, engine)
    yield "samples that differ: after a reset of other streams", 0, partial(_of_masked_reset, engine)
    yield "samples that differ: after a bad frame", 0, partial(_of_bad_frame, engine)
    if engine != "eager":  # which names them at once
        yield "bad frames that are not named later", 0, partial(_of_late_errors, engine)
    yield "moved to the CPU and back, relative error", 1e-3, partial(_of_moving, engine)
    yield "gradients that are not finite", 0, partial(_of_gradients, engine)


def error_of(engine: str, setting: Setting, update: str = "raar", init: str = "overlap") -> float:
    """Largest relative error of a push; before each one, the state is taken over from float64."""
    options: dict[str, Any] = {
        "look_ahead": setting.look_ahead,
        "n_iter": setting.n_iter,
        "batch_shape": (2,),
    }
    options |= {"update": update, "init": init}
    stft = setting.stft(DEVICE)
    ours = rtspecinv.StreamingInverter(stft, engine=engine, **options)
    if ours.engine != engine:
        raise ValueError(f"this runs in {ours.engine}")
    exact = rtspecinv.StreamingInverter(copy.deepcopy(stft).double(), engine="eager", **options)
    worst = 0.0
    for frame in noise(setting, 2).unbind(-1):
        for state, known in zip(ours._state().values(), exact._state().values(), strict=True):
            state.copy_(known)
            known.copy_(state)  # what float32 cannot hold is no error
        ours._state_changed()
        hop, expected = ours.push(frame), exact.push(frame.double())
        worst = max(worst, float((hop - expected).abs().max() / expected.abs().max().clamp_min(1e-3)))
    return worst


def noise(setting: Setting, *batch: int, n_frames: int = 12) -> Tensor:
    """Magnitudes `(*batch, n_freq, n_frames)` of noise, the same every time."""
    n_samples = n_frames * setting.hop_length + setting.n_fft
    samples = torch.randn(*batch, n_samples, generator=torch.Generator().manual_seed(0))
    return setting.stft().magnitude(0.2 * samples)[..., :n_frames].to(DEVICE)


def samples_of(inverter: rtspecinv.StreamingInverter, magnitude: Tensor) -> Tensor:
    return torch.cat([*(inverter.push(frame) for frame in magnitude.unbind(-1)), inverter.flush()], -1)


def _of_chunks(engine: str) -> float:
    magnitude, inverter = noise(USUAL), _inverter(engine)
    expected = samples_of(inverter, magnitude)
    parts = [inverter.push_many(magnitude[..., :3]), inverter.push_many(magnitude[..., 3:]), inverter.flush()]
    return float((torch.cat(parts) != expected).sum())


def _of_company(engine: str) -> float:
    n_streams = min(1024, max(STREAMS))
    magnitude = noise(USUAL, n_streams, n_frames=8)
    together = samples_of(_inverter(engine, n_streams), magnitude)
    magnitude[1:] = magnitude[1:].flip(-1) + 1
    again = samples_of(_inverter(engine, n_streams), magnitude)
    return float((together[0] != again[0]).sum())


def _of_repetition(engine: str) -> float:
    magnitude, inverter = noise(USUAL, 3, n_frames=6), _inverter(engine, 3)
    expected = samples_of(inverter, magnitude)
    return sum(float((samples_of(inverter, magnitude) != expected).sum()) for _ in range(N_RUNS))


def _of_masked_reset(engine: str) -> float:
    magnitude = noise(USUAL, 2)
    inverter = _inverter(engine, 2)
    fresh = samples_of(inverter, magnitude)
    long = samples_of(inverter, torch.cat([magnitude, magnitude], -1))
    inverter.push_many(magnitude)
    inverter.reset(torch.tensor([True, False], device=DEVICE))
    again = samples_of(inverter, magnitude)
    return float((again[0] != fresh[0]).sum() + (again[1] != long[1, -again.shape[-1] :]).sum())


def _of_bad_frame(engine: str) -> float:
    magnitude, inverter = noise(USUAL, 2), _inverter(engine, 2)
    expected, hops = samples_of(inverter, magnitude), []
    for i, frame in enumerate(magnitude.unbind(-1)):
        bad = frame.clone()
        bad[i % 2, i] = (torch.nan, torch.inf, -1.0)[i % 3]
        try:
            inverter.push(bad)
        except ValueError:
            hops.append(inverter.push(frame))
        else:
            raise AssertionError(f"a frame with {float(bad[i % 2, i])} was taken in")
    return float((torch.cat([*hops, inverter.flush()], -1) != expected).sum())


def _of_late_errors(engine: str) -> float:
    return sum(f"frame {number} " not in _late_error(engine, number) for number in range(3))


def _late_error(engine: str, number: int) -> str:
    """What a stream says of a frame that is bad, in whatever call."""
    inverter, frame = _inverter(engine, 2, check="later"), noise(USUAL, 2)[..., 0]
    try:
        for i in range(4):
            inverter.push(torch.full_like(frame, torch.nan) if i == number else frame)
        inverter.check()
    except ValueError as error:
        return str(error)
    return ""


def _of_moving(engine: str) -> float:
    magnitude = noise(USUAL)
    expected, inverter = samples_of(_inverter("eager"), magnitude), _inverter(engine)
    hops = [inverter.push_many(magnitude[..., :4])]
    hops.append(inverter.to("cpu").push_many(magnitude[..., 4:8].cpu()).to(DEVICE))
    hops += [inverter.to(DEVICE).push_many(magnitude[..., 8:]), inverter.flush()]
    return float((torch.cat(hops) - expected).abs().max() / expected.abs().max())


def _of_gradients(engine: str) -> float:
    inverter = _inverter(engine)
    wanted = noise(USUAL, n_frames=4).requires_grad_()
    inverter.push_many(wanted).square().sum().backward()  # type: ignore[no-untyped-call]
    assert wanted.grad is not None
    return float((~wanted.grad.isfinite()).sum())


def _inverter(engine: str, *batch: int, check: str = "now") -> rtspecinv.StreamingInverter:
    found = rtspecinv.StreamingInverter(
        USUAL.stft(DEVICE),
        look_ahead=USUAL.look_ahead,
        n_iter=USUAL.n_iter,
        batch_shape=batch,
        engine=engine,
        check=check,
    )
    if found.engine != engine:
        raise ValueError(f"this runs in {found.engine}")
    return found


def times(emit: Emit, engine: str) -> None:
    """A push of all streams: on the GPU, on the CPU until it returns, and until the hop is there; memory."""
    for streams in STREAMS:
        if engine == "eager" and streams > 4096:
            continue
        for check in ("now", "later"):
            about = {"engine": engine, "setting": str(USUAL), "streams": streams, "check": check}
            attempt(emit, partial(timed, engine, streams, check), **about)


def timed(engine: str, streams: int, check: str, setting: Setting = USUAL) -> dict[str, float]:
    torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    inverter = rtspecinv.StreamingInverter(
        setting.stft(DEVICE),
        look_ahead=setting.look_ahead,
        n_iter=setting.n_iter,
        batch_shape=(streams,),
        engine=engine,
        check=check,
    )
    torch.cuda.synchronize()
    made = time.perf_counter() - begin
    frames = timing._frames(inverter, magnitudes(setting))
    begin = time.perf_counter()
    inverter.push(frames[0])
    torch.cuda.synchronize()
    first = time.perf_counter() - begin
    for i in range(10):
        inverter.push(frames[i % len(frames)])
    on_gpu, host, whole = [], [], []
    end_of_row = time.perf_counter() + ROW_SECONDS
    for i in range(N_PUSHES):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        begin = time.perf_counter()
        events[0].record()
        inverter.push(frames[i % len(frames)])
        events[1].record()
        returned = time.perf_counter()
        torch.cuda.synchronize()
        whole.append(1e6 * (time.perf_counter() - begin))
        host.append(1e6 * (returned - begin))
        on_gpu.append(1e3 * events[0].elapsed_time(events[1]))
        if i >= 100 and time.perf_counter() > end_of_row:
            break
    p50, p95, p99 = np.percentile(whole, (50, 95, 99)).tolist()
    return {
        "pushes": len(whole),
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "gpu_p50": float(np.median(on_gpu)),
        "host_p50": float(np.median(host)),
        "made_ms": 1e3 * made,
        "first_ms": 1e3 * first,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
    }


def magnitudes(setting: Setting) -> Tensor:
    """Of the demo clip, `(n_freq, n_frames)`."""
    return setting.stft().magnitude(sound()[: 4 * clip.SAMPLE_RATE])


@cache
def sound() -> Tensor:
    """Samples of the demo clip."""
    return torch.from_numpy(clip.render())


def most(emit: Emit, engine: str) -> None:
    """Most streams of which 99 of 100 pushes take less than a hop."""
    limit = timing.most_streams(Runner(engine, DEVICE), USUAL, magnitudes(USUAL), N_PUSHES)
    emit(engine=engine, setting=str(USUAL), streams=limit.streams, p99_us=limit.p99_us)


def offline(emit: Emit) -> None:
    """Whole spectrograms, the stream that they start from by each engine."""
    stft = USUAL.stft(DEVICE)
    mel = rtspecinv.presets["hifigan-22k"]

    def row(what: str, engine: str, n_clips: int, seconds: float, step: Callable[[], object]) -> None:
        about = {"what": what, "engine": engine, "clips": n_clips, "clip_seconds": seconds}
        attempt(emit, partial(_second_time, step), **about)

    for n_clips, seconds in CLIPS:
        n_samples = round(seconds * USUAL.sample_rate)
        samples = sound().repeat(-(-n_samples // len(sound())))[:n_samples].to(DEVICE)
        S = stft.magnitude(samples).expand(n_clips, -1, -1)
        for engine in engines()[:2]:
            step = partial(rtspecinv.invert, S, stft, engine=engine, n_iter=ITERATIONS)
            row("invert", engine, n_clips, seconds, step)
        frames = mel(samples.cpu()).to(DEVICE).expand(n_clips, -1, -1)
        step = partial(rtspecinv.Mel(mel.config, device=DEVICE).invert, frames)
        row("Mel.invert", "auto", n_clips, seconds, step)
        if n_clips == 1:
            step = partial(rtspecinv.lbfgs, S, stft.magnitude, n_iter=ITERATIONS // 2)
            row("lbfgs", "auto", 1, seconds, step)


def _second_time(step: Callable[[], object]) -> dict[str, float]:
    step()  # compiles, and makes plans
    torch.cuda.synchronize()
    begin = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - begin}


def profile(emit: Emit, engine: str) -> None:
    """Kernels of one push: how many, and the longest."""
    inverter = _inverter(engine, 1)
    frame = noise(USUAL, 1)[..., 0]
    for _ in range(5):
        inverter.push(frame)
    with torch.profiler.profile() as profiler:
        inverter.push(frame)
        torch.cuda.synchronize()
    kernels = [
        event for event in profiler.events() if "cuda" in str(getattr(event, "device_type", "")).lower()
    ]
    emit(engine=engine, kernels=len(kernels), us=sum(_device_us(event) for event in kernels))
    for event in sorted(profiler.key_averages(), key=_device_us, reverse=True)[:40]:
        emit(engine=engine, kernel=event.key[:80], count=event.count, us=_device_us(event))


def _device_us(event: Any) -> float:
    return float(getattr(event, "device_time_total", 0) or 0)


def sizes(emit: Emit) -> None:
    """Other transforms, and all rules."""
    for engine in engines()[:2]:
        for setting in OTHERS:
            attempt(emit, partial(_size, engine, setting), engine=engine, setting=str(setting))
        for name in RULES:
            attempt(emit, partial(_rule, engine, name), engine=engine, setting=name)


def _size(engine: str, setting: Setting) -> dict[str, float]:
    return {"error_of_push": error_of(engine, setting), **timed(engine, 1, "now", setting)}


def _rule(engine: str, name: str) -> dict[str, float]:
    return {"error_of_push": error_of(engine, USUAL, update=name)}


def engines() -> list[str]:
    """Engines of this version, the kernel and the graph first."""
    return [name for name in ENGINES if name in rtspecinv.engines.ENGINES]


def steps() -> dict[str, tuple[float, Callable[[Emit], None]]]:
    """Steps by name, in their order: the most seconds that each may take, and what it does."""
    found: dict[str, tuple[float, Callable[[Emit], None]]] = {
        "facts": (60, facts),
        "compiling": (150, compiling),
    }
    for name, seconds, step in (("checks", 90, checks), ("times", 120, times), ("most", 90, most)):
        found |= {f"{name}-{engine}": (seconds, partial(step, engine=engine)) for engine in engines()}
    found["offline"] = (120, offline)
    found |= {f"profile-{engine}": (60, partial(profile, engine=engine)) for engine in engines()[:2]}
    return found | {"sizes": (120, sizes)}


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


# -- a visit ---------------------------------------------------------------------------------------------


def emitter(folder: Path, step: str) -> Emit:
    """What appends a row to the results at once, so that nothing is lost with the process."""

    def emit(**row: Any) -> None:
        with (folder / "results.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(step, row, flush=True)

    return emit


def run_step(folder: Path, name: str) -> int:
    """Do one step in this process."""
    emit = emitter(folder, name)
    emit(begin=True)
    try:
        steps()[name][1](emit)
    except Exception as error:
        traceback.print_exc()
        emit(failed=_short(error))
        return 1
    emit(done=True)
    return 0


def in_a_process(command: list[str], seconds: float) -> None:
    """Run a command for so long at most."""
    subprocess.run(command, timeout=seconds, check=False)


def visit(folder: Path, names: list[str], seconds: float) -> None:
    """Do the steps that are not done, each in a process of its own and for as long as it may take."""
    end = time.monotonic() + seconds
    done = {row["step"] for row in read(folder) if row.get("done")}
    for name in names:
        left = end - time.monotonic()
        if name in done or left < 5:
            print(f"{name}: {'was done before' if name in done else 'the time is up'}", flush=True)
            continue
        command = [sys.executable, str(Path(__file__)), str(folder), "--step", name]
        try:
            in_a_process(command, min(steps()[name][0], left))
        except subprocess.TimeoutExpired:
            emitter(folder, name)(failed="it took too long")


def read(folder: Path) -> list[dict[str, Any]]:
    """All rows so far; a last line that was cut is left out."""
    path = folder / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def latest(rows: list[dict[str, Any]]) -> Rows:
    """Rows of every step since it last began."""
    found: Rows = {}
    for row in rows:
        if row.get("begin"):
            found[row["step"]] = []
        elif not row.get("done"):
            found.setdefault(row["step"], []).append(row)
    return found


# -- tables ----------------------------------------------------------------------------------------------


def gpu_goals(rows: Rows) -> str:
    """Targets of the engines for a GPU.

    The targets are for an H100 at 22.05 kHz, 1024/256, look_ahead 3, 8 iterations, float32. "On paper" is
    computed from the numbers of launches and instructions, not measured. The time of a stream is from the
    frame in GPU memory to the hop in GPU memory, including the check of the frame.
    """

    def of(step: str) -> list[dict[str, Any]]:
        return [row for name, found in rows.items() if name.startswith(step) for row in found]

    times = {
        (r["engine"], r["streams"]): r["p50"] for r in of("times-") if "p50" in r and r["check"] == "now"
    }
    most = {r["engine"]: r["streams"] for r in of("most-") if "streams" in r}
    first = "error of a push, raar"
    errors = {r["engine"]: r["value"] for r in of("checks-") if r.get("what") == first and "value" in r}
    inverts = [r for r in of("offline") if r.get("what") == "invert" and "seconds" in r]
    inverted = {r["engine"]: r["seconds"] for r in inverts if r["clips"] == 64}
    launches = {r["engine"]: r["kernels"] for r in of("profile-") if "kernels" in r}

    def cell(found: dict[Any, float], key: Any, form: str) -> str:
        return form.format(found[key]) if key in found else "not measured"

    graph, kernel, keep_up = "`cuda_graph`", "`cuda`", "streams with p99 < 11.6 ms"
    lines = [
        [f"one stream, p50, {graph}", "200 µs", "120 to 160 µs", cell(times, ("cuda_graph", 1), "{:.0f} µs")],
        [
            f"one stream, p50, {kernel}",
            "60 µs, then 35",
            "45 to 60 µs",
            cell(times, ("cuda", 1), "{:.0f} µs"),
        ],
        [f"{keep_up}, {graph}", "5,000", "11,000 to 13,000", cell(most, "cuda_graph", "{:,}")],
        [f"{keep_up}, {kernel}", "25,000, then 45,000", "40,000 to 50,000", cell(most, "cuda", "{:,}")],
        [
            f"error of a push, noise, {graph}",
            "1e-5",
            "8.7e-7, on a CPU",
            cell(errors, "cuda_graph", "{:.1e}"),
        ],
        [f"error of a push, noise, {kernel}", "1e-5", "5.5e-7", cell(errors, "cuda", "{:.1e}")],
        ["`invert` of 64 clips of 4 s", "50 times the CPU", "", cell(inverted, "cuda_graph", "{:.2f} s")],
        [f"launches of a push, {graph}", "75", "71", cell(launches, "cuda_graph", "{}")],
    ]
    return table(["what", "goal", "on paper", "measured"], lines)


def gpu_checks(rows: Rows) -> str:
    """Engines for a GPU against `eager` in float64, and against themselves.

    "Error": the largest of one push in float32 from the same state, relative to the loudest sample;
    limit 1e-5.
    """
    found = [row for name in rows if name.startswith("checks-") for row in rows[name] if "what" in row]
    return table(
        ["engine", "what", "value", ""],
        [
            [r["engine"], r["what"], r.get("error") or f"{r['value']:.2g}", "ok" if r.get("ok") else "FAILED"]
            for r in found
        ],
    )


def gpu_times(rows: Rows) -> str:
    """A push on the GPU, by engine, number of streams and check.

    µs. "On the GPU": between events around the push. "Host": until the call returns. The percentiles: until
    the GPU is done. "First": of the first push, in ms, after the inverter was made.
    """
    names = ("gpu_p50", "host_p50", "p50", "p95", "p99")
    found = [row for name in rows if name.startswith("times-") for row in rows[name] if "streams" in row]
    return table(
        [
            "engine",
            "streams",
            "check",
            "on the GPU",
            "host",
            "p50",
            "p95",
            "p99",
            "made, ms",
            "first, ms",
            "GB",
        ],
        [
            [r["engine"], f"{r['streams']:,}", r["check"], r["error"], *[""] * 7]
            if "error" in r
            else [
                r["engine"],
                f"{r['streams']:,}",
                r["check"],
                *(f"{r[name]:.0f}" for name in names),
                f"{r['made_ms']:.0f}",
                f"{r['first_ms']:.1f}",
                f"{r['peak_gb']:.2f}",
            ]
            for r in found
        ],
    )


def gpu_streams(rows: Rows) -> str:
    """Most streams of which 99 of 100 pushes take less than a hop, 11.6 ms."""
    found = [row for name in rows if name.startswith("most-") for row in rows[name] if "streams" in row]
    return table(
        ["engine", "streams", "p99, ms"],
        [[r["engine"], f"{r['streams']:,}", f"{(r['p99_us'] or math.nan) / 1000:.2f}"] for r in found],
    )


def gpu_offline(rows: Rows) -> str:
    """Whole spectrograms on the GPU, seconds; "engine" is that of the stream at the start."""
    return table(
        ["what", "engine", "clips", "seconds each", "seconds"],
        [
            [
                r["what"],
                r["engine"],
                str(r["clips"]),
                f"{r['clip_seconds']:g}",
                r.get("error") or f"{r['seconds']:.3f}",
            ]
            for r in rows.get("offline", [])
            if "what" in r
        ],
    )


def gpu_sizes(rows: Rows) -> str:
    """Other transforms and rules: error of a push, and p50 of one stream in µs."""
    return table(
        ["engine", "setting", "error", "p50"],
        [
            [
                r["engine"],
                r["setting"],
                r.get("error") or f"{r['error_of_push']:.1e}",
                f"{r['p50']:.0f}" if "p50" in r else "",
            ]
            for r in rows.get("sizes", [])
            if "engine" in r
        ],
    )


def gpu_kernels(rows: Rows) -> str:
    """The longest kernels of one push of one stream, µs."""
    found = [row for name in rows if name.startswith("profile-") for row in rows[name] if "kernel" in row]
    return table(
        ["engine", "kernel", "count", "µs"],
        [[r["engine"], f"`{r['kernel']}`", str(r["count"]), f"{r['us']:.1f}"] for r in found if r["us"]],
    )


TABLES = (gpu_goals, gpu_checks, gpu_times, gpu_streams, gpu_offline, gpu_sizes, gpu_kernels)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown, in columns; empty without rows."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def rendered(rows: Rows) -> dict[str, str]:
    """Tables by name, those without rows left out."""
    about = next((row for row in rows.get("facts", []) if "commit" in row), None)
    where = (
        "{date}, commit {commit}, {gpu}, Python {python}, torch {torch}".format(**{"gpu": "no GPU"} | about)
        if about
        else "Nothing was measured so far"
    )
    where = f"<sub>{where}: `bench/gpu.py --render`</sub>"
    found = {}
    for make in TABLES:
        title, _, caption = " ".join((make.__doc__ or "").split()).partition(". ")
        if text := make(rows):
            name = make.__name__.replace("_", "-")
            words = name.replace("-", " ").replace("gpu", "GPU")
            heading = f"### {words}: {title[0].lower()}{title[1:].rstrip('.')}"
            found[name] = "\n\n".join(part for part in (heading, caption, text, where) if part) + "\n"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "gpu", metavar="DIR")
    parser.add_argument("--only", metavar="STEP,...", help=f"of {', '.join(steps())}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which no step begins")
    parser.add_argument("--render", action="store_true", help="print the tables")
    parser.add_argument("--write", action="store_true", help="with --render: put them into bench/README.md")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.render:
        tables = rendered(latest(read(args.folder)))
        print("\n".join(tables.values()))
        if args.write:
            readme = ROOT / "bench" / "README.md"
            pattern = r"(<!-- gpu:begin -->\n).*(<!-- gpu:end -->)"
            text = "\n".join(tables.values())
            readme.write_text(
                re.sub(
                    pattern, lambda found: f"{found[1]}\n{text}\n{found[2]}", readme.read_text(), flags=re.S
                )
            )
        return 0
    names = args.only.split(",") if args.only else list(steps())
    if unknown := sorted(set(names) - set(steps())):
        parser.error(f"no step {', '.join(unknown)}: there are {', '.join(steps())}")
    if not torch.cuda.is_available():
        print("No GPU here: nothing can be measured. --render prints what is on paper.", file=sys.stderr)
        return 1
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.step:
        return run_step(args.folder, args.step)
    visit(args.folder, names, args.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
