"""Settings, inputs and rows that the modules of `gpu.py` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import rtspecinv
from rtspecinv.measure.timing import Setting

DEVICE = "cuda"
ENGINES = ("cuda_graph", "cuda", "eager")  # "cuda" launches one kernel per push
USUAL = Setting(22050, 1024, 256, 3, 8)
OTHERS = [
    Setting(22050, n_fft, hop, 3, 8) for n_fft, hop in ((512, 128), (1024, 128), (2048, 512), (4096, 1024))
]
STREAMS = (1, 8, 64, 512, 4096, 20_000)
# A row of times has this number of pushes, or at least 100 and as many as fit into this duration.
N_PUSHES, ROW_SECONDS = 2000, 6.0
CLIPS = ((1, 4.0), (16, 4.0), (64, 4.0), (1, 60.0))  # number of clips, and their duration in seconds
ITERATIONS = 100
N_RUNS = 100  # number of equal runs, whose bits must be equal

Emit = Callable[..., None]
Rows = dict[str, list[dict[str, Any]]]


def attempt(emit: Emit, make: Callable[[], dict[str, Any]], **about: Any) -> None:
    """Write a row with the result of `make`, or with its error, so that later rows are still made."""
    try:
        emit(**about, **make())
    except Exception as error:
        emit(**about, error=short(error))


def short(error: Exception) -> str:
    """Return an error as one line of at most 200 characters and its type."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def engines() -> list[str]:
    """Return the engines that this version has; those for a GPU come first."""
    return [name for name in ENGINES if name in rtspecinv.engines.ENGINES]


def noise(setting: Setting, *batch: int, n_frames: int = 12) -> Tensor:
    """Return magnitudes `(*batch, n_freq, n_frames)` of noise, the same in every call."""
    n_samples = n_frames * setting.hop_length + setting.n_fft
    samples = torch.randn(*batch, n_samples, generator=torch.Generator().manual_seed(0))
    return setting.stft().magnitude(0.2 * samples)[..., :n_frames].to(DEVICE)


def samples_of(inverter: rtspecinv.StreamingInverter, magnitude: Tensor) -> Tensor:
    """Return the samples of all frames and of the flush."""
    return torch.cat([*(inverter.push(frame) for frame in magnitude.unbind(-1)), inverter.flush()], -1)


def inverter_of(engine: str, *batch: int, check: str = "now") -> rtspecinv.StreamingInverter:
    """Return an inverter of the usual setting; raise `ValueError` if it runs in another engine."""
    found = rtspecinv.StreamingInverter(
        USUAL.stft(DEVICE),
        look_ahead=USUAL.look_ahead,
        n_iter=USUAL.n_iter,
        batch_shape=batch,
        engine=engine,
        check=check,
    )
    if found.engine != engine:
        raise ValueError(f"The engine {engine!r} is not available: this runs in {found.engine!r}")
    return found
