"""Facts about the GPU and its driver, times of compilation, and the kernels of a push."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_common as common
import torch
from gpu_common import Emit

from rtspecinv.measure import machine

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "RTSPECINV_COMMIT"
N_NUMBERS = 2**26  # number of values that are copied


def facts(emit: Emit) -> None:
    """Write the card, the versions, and the times of a copy, an empty launch and a small transfer."""
    commit = os.environ.get(COMMIT) or machine.commit()
    emit(**{**machine.facts(), "commit": commit, "torch": torch.__version__, "cuda": torch.version.cuda})
    query = "name,driver_version,clocks.sm,clocks.max.sm,memory.total,power.limit"
    if shutil.which("nvidia-smi"):
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True
        )
        emit(smi=done.stdout.strip())
    numbers = torch.zeros(N_NUMBERS, device=common.DEVICE)
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
    """Time the first push of each kind, which compiles, in one process per kind, all at once."""
    code = (
        "import sys; sys.path.insert(0, 'bench'); import gpu_common as common; "
        "from rtspecinv.measure.timing import Runner, Setting; "
        "setting = Setting(22050, {1}, {2}, 3, 2); "
        "inverter = Runner({0!r}, common.DEVICE).inverter(setting, update={3!r}); "
        "common.samples_of(inverter, common.noise(setting, n_frames=3))"
    )
    kinds = [
        (engine, n_fft, n_fft // 4, "raar") for engine in common.engines()[:2] for n_fft in (512, 1024, 2048)
    ]
    kinds += [
        (engine, 1024, 256, rule) for engine in common.engines()[:2] for rule in ("fgla", "agla", "rtisi")
    ]
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


def profile(emit: Emit, engine: str) -> None:
    """Write the number of kernels of a push, and the times of the longest ones."""
    inverter = common.inverter_of(engine, 1)
    frame = common.noise(common.USUAL, 1)[..., 0]
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
