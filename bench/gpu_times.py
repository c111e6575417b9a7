"""Times of engines for a GPU: pushes, numbers of streams, whole spectrograms, other transforms and rules."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial

import gpu_common as common
import numpy as np
import torch
from gpu_checks import error_of
from gpu_common import Emit
from torch import Tensor

import rtspecinv
from rtspecinv.measure import clip, timing
from rtspecinv.measure.timing import Runner, Setting
from rtspecinv.updates import RULES


def times(emit: Emit, engine: str) -> None:
    """Time a push of all streams, for each number of streams and each `check`."""
    for streams in common.STREAMS:
        if engine == "eager" and streams > 4096:
            continue
        for check in ("now", "later"):
            about = {"engine": engine, "setting": str(common.USUAL), "streams": streams, "check": check}
            common.attempt(emit, partial(timed, engine, streams, check, common.USUAL), **about)


def timed(engine: str, streams: int, check: str, setting: Setting) -> dict[str, float]:
    """Return percentiles of a push in µs, times of the first push, and peak memory.

    A push is timed on the GPU, on the CPU until the call returns, and until its hop is complete.
    """
    torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    inverter = rtspecinv.StreamingInverter(
        setting.stft(common.DEVICE),
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
    end_of_row = time.perf_counter() + common.ROW_SECONDS
    for i in range(common.N_PUSHES):
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
    """Return the magnitudes of the demo clip, `(n_freq, n_frames)`."""
    return setting.stft().magnitude(sound()[: 4 * clip.SAMPLE_RATE])


@cache
def sound() -> Tensor:
    """Return the samples of the demo clip."""
    return torch.from_numpy(clip.render())


def most(emit: Emit, engine: str) -> None:
    """Find the largest number of streams of which 99 of 100 pushes take less than the duration of a hop."""
    limit = timing.most_streams(
        Runner(engine, common.DEVICE), common.USUAL, magnitudes(common.USUAL), common.N_PUSHES
    )
    emit(engine=engine, setting=str(common.USUAL), streams=limit.streams, p99_us=limit.p99_us)


def offline(emit: Emit) -> None:
    """Time the inversion of whole spectrograms; the stream that it starts with runs in each engine."""
    stft = common.USUAL.stft(common.DEVICE)
    mel = rtspecinv.presets["hifigan-22k"]

    def row(what: str, engine: str, n_clips: int, seconds: float, step: Callable[[], object]) -> None:
        about = {"what": what, "engine": engine, "clips": n_clips, "clip_seconds": seconds}
        common.attempt(emit, partial(_second_time, step), **about)

    for n_clips, seconds in common.CLIPS:
        n_samples = round(seconds * common.USUAL.sample_rate)
        samples = sound().repeat(-(-n_samples // len(sound())))[:n_samples].to(common.DEVICE)
        S = stft.magnitude(samples).expand(n_clips, -1, -1)
        for engine in common.engines()[:2]:
            step = partial(rtspecinv.invert, S, stft, engine=engine, n_iter=common.ITERATIONS)
            row("invert", engine, n_clips, seconds, step)
        frames = mel(samples.cpu()).to(common.DEVICE).expand(n_clips, -1, -1)
        step = partial(rtspecinv.Mel(mel.config, device=common.DEVICE).invert, frames)
        row("Mel.invert", "auto", n_clips, seconds, step)
        if n_clips == 1:
            step = partial(rtspecinv.lbfgs, S, stft.magnitude, n_iter=common.ITERATIONS // 2)
            row("lbfgs", "auto", 1, seconds, step)


def _second_time(step: Callable[[], object]) -> dict[str, float]:
    step()  # compiles, and plans the transforms
    torch.cuda.synchronize()
    begin = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - begin}


def sizes(emit: Emit) -> None:
    """Measure the error of a push with other transforms and with all rules, and its time with the former."""
    for engine in common.engines()[:2]:
        for setting in common.OTHERS:
            common.attempt(emit, partial(_size, engine, setting), engine=engine, setting=str(setting))
        for name in RULES:
            common.attempt(emit, partial(_rule, engine, name), engine=engine, setting=name)


def _size(engine: str, setting: Setting) -> dict[str, float]:
    return {"error_of_push": error_of(engine, setting), **timed(engine, 1, "now", setting)}


def _rule(engine: str, name: str) -> dict[str, float]:
    return {"error_of_push": error_of(engine, common.USUAL, update=name)}
