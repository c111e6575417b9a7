"""Measurement of the time and the quality of pushes, for settings and engines.

`rtspecinv bench` and bench/push.py print the records.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import rtspecinv
from rtspecinv.measure.quality import inner_convergence

Seconds = npt.NDArray[np.float64]

DEVICES = ("cpu", "cuda")
WARM_UP = 50  # pushes before the timed ones
ROUNDS = 4  # rounds in which engines are timed in turn, so that other load of the machine affects all alike
MOST_STREAMS = 2**18
_POOL_BYTES = 2**26  # size of the frames that are pushed repeatedly
_PROBE = 20  # the search for the number of streams uses this fraction of the pushes, 1 / 20


@dataclass(frozen=True)
class Setting:
    """Parameters of a stream: sample rate in Hz, transform, look-ahead in frames, iterations per push."""

    sample_rate: int
    n_fft: int
    hop_length: int
    look_ahead: int
    n_iter: int

    @property
    def hop_seconds(self) -> float:
        """Duration of a hop in seconds, which is the time available for a push."""
        return self.hop_length / self.sample_rate

    def stft(self, device: str = "cpu") -> rtspecinv.STFT:
        """Return the transform of the magnitudes."""
        return rtspecinv.STFT(self.n_fft, self.hop_length, device=device)

    def __str__(self) -> str:
        rate = f"{self.sample_rate / 1000:g} kHz {self.n_fft}/{self.hop_length}"
        return f"{rate}, {self.look_ahead} ahead, {self.n_iter} iterations"


@dataclass(frozen=True)
class Runner:
    """An engine on a device."""

    engine: str
    device: str = "cpu"

    def inverter(
        self, setting: Setting, *batch_shape: int, update: str | rtspecinv.updates.Update = "raar"
    ) -> rtspecinv.StreamingInverter:
        """Return an inverter with this engine and the parameters of a setting."""
        return rtspecinv.StreamingInverter(
            setting.stft(self.device),
            update=update,
            look_ahead=setting.look_ahead,
            n_iter=setting.n_iter,
            batch_shape=batch_shape,
            engine=self.engine,
        )


@dataclass(frozen=True)
class Measured:
    """Conditions of a measurement: engine, device, threads, setting and number of streams."""

    engine: str
    device: str
    threads: int
    sample_rate: int
    n_fft: int
    hop_length: int
    look_ahead: int
    n_iter: int
    streams: int

    @property
    def setting(self) -> Setting:
        """Parameters of the streams."""
        return Setting(self.sample_rate, self.n_fft, self.hop_length, self.look_ahead, self.n_iter)


@dataclass(frozen=True)
class Record(Measured):
    """Measurement of a setting: times of one push of all streams, in µs, and quality.

    real_time_factor: seconds of work for all streams per second of sound; below 1 is real time.
    sc_db: spectral convergence of the setting in dB, None if not measured or the target is silent.
    c_reference_us: shortest push of one stream by the C reference in µs, None if not measured.
    """

    pushes: int
    least_us: float
    p50_us: float
    p95_us: float
    p99_us: float
    max_us: float
    real_time_factor: float
    sc_db: float | None = None
    c_reference_us: float | None = None


@dataclass(frozen=True)
class Limit(Measured):
    """Largest number of streams in real time, for which 99 of 100 pushes take less than a hop's duration.

    streams_per: number of streams per core of the CPU, or on one GPU.
    p99_us: 99th percentile of the push time with so many streams in µs, None if no stream is in real time.
    """

    streams_per: float
    p99_us: float | None


def devices() -> tuple[str, ...]:
    """Return the names of the devices of this machine that inverters support."""
    return DEVICES if torch.cuda.is_available() else DEVICES[:1]


def runners(engines: Sequence[str], on: Sequence[str], setting: Setting) -> list[Runner]:
    """Return a runner for each named engine and each device that it supports.

    engines: names of engines; "all" means every available engine.
    on: names of devices.
    setting: setting that the engines must support.

    Raises:
        ValueError: a named engine supports none of the devices, or not the setting.
        ImportError: a named engine is not installed.
    """
    found: dict[Runner, None] = {}
    for name in engines:
        names = [n for n in rtspecinv.engines.ENGINES if n != "auto"] if name == "all" else [name]
        tried = [_resolved(Runner(n, device), setting) for n in names for device in on]
        able = [runner for runner in tried if isinstance(runner, Runner)]
        if not able and isinstance(tried[0], Exception):
            raise tried[0]
        found.update(dict.fromkeys(able))
    return list(found)


def _resolved(runner: Runner, setting: Setting) -> Runner | Exception:
    """Return a runner with the engine that the inverter selects, or the error if there is none."""
    try:
        return Runner(runner.inverter(setting).engine, runner.device)
    except (ValueError, ImportError) as error:
        return error


def push_seconds(
    inverter: rtspecinv.StreamingInverter,
    magnitude: Tensor,
    n_pushes: int,
    *,
    warm_up: int | None = None,
    enough: Callable[[Seconds], bool] = lambda seconds: False,
) -> Seconds:
    """Return the times of `n_pushes` pushes after a warm-up, `(n_pushes,)`, seconds.

    Args:
        inverter: inverter of any number of streams.
        magnitude: magnitudes `(n_freq, n_frames)`; each stream starts at a different frame.
        n_pushes: number of timed pushes.
        warm_up: number of pushes before the timed ones; default: WARM_UP.
        enough: function of the times so far, called after every push, which returns whether to stop; default:
            never.
    """
    frames, done = _frames(inverter, magnitude), _waits_for(inverter.stft.device)
    seconds = np.empty(n_pushes)
    for i in range(-(WARM_UP if warm_up is None else warm_up), n_pushes):
        begin = time.perf_counter()
        inverter.push(frames[i % len(frames)])
        done()
        if i >= 0:
            seconds[i] = time.perf_counter() - begin
            if enough(seconds[: i + 1]):
                return seconds[: i + 1]
    return seconds


def _frames(inverter: rtspecinv.StreamingInverter, magnitude: Tensor) -> list[Tensor]:
    """Return frames `(*batch_shape, n_freq)` on the device of the inverter."""
    shape, n_frames = inverter.batch_shape, magnitude.shape[-1]
    n_streams = math.prod(shape)
    fit = _POOL_BYTES // (magnitude.element_size() * magnitude.shape[0] * n_streams)
    places = 7 * torch.arange(n_streams, device="cpu")
    magnitude = magnitude.mT.to(inverter.stft.device).contiguous()
    return [magnitude[(places + i) % n_frames].reshape(*shape, -1) for i in range(max(4, min(n_frames, fit)))]


def _waits_for(device: torch.device) -> Callable[[], None]:
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def measure(
    runners: Sequence[Runner],
    setting: Setting,
    magnitude: Tensor,
    streams: int = 1,
    n_pushes: int = 2000,
    between: Callable[[], None] = lambda: None,
) -> list[Record]:
    """Time pushes of several engines in turn, and return a record for each.

    Args:
        runners: engines to time.
        setting: parameters of the streams.
        magnitude: magnitudes `(n_freq, n_frames)`.
        streams: number of streams, default: 1.
        n_pushes: number of timed pushes of each engine, default: 2000.
        between: function called before every round, default: none.
    """
    inverters = [runner.inverter(setting, streams) for runner in runners]
    counts = np.diff(np.linspace(0, n_pushes, 1 + min(ROUNDS, n_pushes)).astype(int))
    times: list[list[Seconds]] = [[] for _ in runners]
    for i, count in enumerate(counts):
        between()
        for inverter, known in zip(inverters, times, strict=True):
            warm_up = WARM_UP // 10 if i else WARM_UP
            known.append(push_seconds(inverter, magnitude, int(count), warm_up=warm_up))
    return [
        _record(inverter.engine, runner.device, setting, streams, np.concatenate(known))
        for runner, inverter, known in zip(runners, inverters, times, strict=True)
    ]


def _record(engine: str, device: str, setting: Setting, streams: int, seconds: Seconds) -> Record:
    p50, p95, p99 = (float(value) for value in np.percentile(1e6 * seconds, (50, 95, 99)))
    return Record(
        engine,
        device,
        torch.get_num_threads(),
        **vars(setting),
        streams=streams,
        pushes=len(seconds),
        least_us=1e6 * float(seconds.min()),
        p50_us=p50,
        p95_us=p95,
        p99_us=p99,
        max_us=1e6 * float(seconds.max()),
        real_time_factor=float(seconds.mean()) / setting.hop_seconds,
    )


def most_streams(runner: Runner, setting: Setting, magnitude: Tensor, n_pushes: int = 2000) -> Limit:
    """Return the largest number of streams that run in real time.

    Short runs search for the number, to about 6 %. A run of `n_pushes` then confirms or lowers it.

    runner: engine and device.
    setting: parameters of the streams.
    magnitude: magnitudes `(n_freq, n_frames)`.
    n_pushes: number of timed pushes of the final run, default: 2000.
    """
    one = runner.inverter(setting, 1)

    def p99(streams: int, n_pushes: int) -> float:
        """Return the 99th percentile of the push time in seconds; infinity if it exceeds a hop's duration."""

        def too_late(seconds: Seconds) -> bool:
            return int((seconds >= setting.hop_seconds).sum()) > n_pushes // 100

        try:
            inverter = runner.inverter(setting, streams)
            seconds = push_seconds(inverter, magnitude, n_pushes, enough=too_late)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
                raise
            return math.inf
        return math.inf if too_late(seconds) else float(np.percentile(seconds, 99))

    def keeps_up(streams: int) -> bool:
        return p99(streams, max(1, n_pushes // _PROBE)) < setting.hop_seconds

    low, high = 0, 1
    while high <= MOST_STREAMS and keeps_up(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if keeps_up(middle) else (low, middle)
    late = math.inf
    while low and (late := p99(low, n_pushes)) >= setting.hop_seconds:
        low -= max(1, low // 16)
    threads = torch.get_num_threads()
    per = low / threads if runner.device == "cpu" else low
    reached = 1e6 * late if low else None
    return Limit(
        one.engine, runner.device, threads, **vars(setting), streams=low, streams_per=per, p99_us=reached
    )


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means that a GPU is out of memory, by its class or the wording of CUDA."""
    words = ("out of memory", "alloc_failed")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error).lower() for word in words)


def convergence(runner: Runner, setting: Setting, magnitude: Tensor) -> float | None:
    """Return the spectral convergence in dB of inverted magnitudes, without edge frames; None for silence.

    Args:
        runner: engine and device.
        setting: parameters of the stream.
        magnitude: magnitudes `(*batch, n_freq, n_frames)`; values in dB are averaged over the batch.
    """
    inverter = runner.inverter(setting, *magnitude.shape[:-2])
    given = magnitude.to(runner.device)
    level = float(inner_convergence(inverter.stft.magnitude(inverter.run(given)), given).mean())
    return level if math.isfinite(level) else None
