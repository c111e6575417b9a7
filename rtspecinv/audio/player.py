"""The loop that turns frames into sound."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from rtspecinv.audio.sinks import Sink


class Inverter(Protocol):
    """What `play` needs of a streaming inverter."""

    @property
    def latency(self) -> int:
        """Samples to drop at the beginning."""

    def push(self, magnitude: Any, /) -> Any:
        """`(*batch, n_freq)` to `(*batch, hop_length)`."""

    def flush(self) -> Any:
        """Return the samples still owed, `(*batch, n_samples)`."""

    def reset(self) -> None:
        """Forget everything pushed."""


@dataclass(frozen=True)
class Progress:
    """How far playing has come."""

    n_frames: int = 0  # pushed
    n_samples: int = 0  # written, per channel
    work_seconds: float = 0.0  # spent in the inverter


def play(
    frames: Iterable[Any],
    inverter: Inverter,
    sink: Sink,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Push every frame through `inverter` as it comes, write the sound to `sink` and wait until it is heard.

    frames: magnitudes `(*batch, n_freq)`, where `batch` is the inverter's batch shape: `()` or `(channels,)`.
    progress: called after each frame with how far it has come; the last state is also returned.

    The inverter is reset first. The first `inverter.latency` samples are dropped, so what is written is
    exactly what a batch run returns. The sink stays open.
    """
    state = Progress()
    to_drop = inverter.latency

    def write(step: Callable[[], Any], n_frames: int) -> None:
        nonlocal state, to_drop
        begin = time.perf_counter()
        samples = step()
        work = time.perf_counter() - begin
        samples, to_drop = samples[..., to_drop:], max(0, to_drop - samples.shape[-1])
        if samples.shape[-1]:
            sink.write(samples)
        state = Progress(
            state.n_frames + n_frames, state.n_samples + samples.shape[-1], state.work_seconds + work
        )
        if progress is not None:
            progress(state)

    inverter.reset()
    for frame in frames:
        write(partial(inverter.push, frame), 1)
    write(inverter.flush, 0)
    sink.drain()
    return state
