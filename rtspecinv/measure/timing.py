"""What a push costs and how good it is: settings and engines in, records out.

`rtspecinv bench` shows them, and so do the tables of bench/push.py.
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
WARM_UP = 50  # pushes that do not count
ROUNDS = 4  # in which all engines take turns, so that what else the machine does hits them alike
MOST_STREAMS = 2**18
_POOL_BYTES = 2**26  # of frames that are pushed over and over
_PROBE = 20  # of so many parts of a measurement, one is enough to look for a number of streams


@dataclass(frozen=True)
class Setting:
    """Parameters of a stream: its transform, look-ahead and iterations."""

    sample_rate: int
    n_fft: int
    hop_length: int
    look_ahead: int
    n_iter: int

    @property
    def hop_seconds(self) -> float:
        """Duration of a hop, the time available for a push."""
        return self.hop_length / self.sample_rate

    def stft(self, device: str = "cpu") -> rtspecinv.STFT:
        """Transform of the magnitudes."""
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
        """Inverter of a setting."""
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
    """What was measured: engine, setting and number of streams."""

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
        """What the streams did."""
        return Setting(self.sample_rate, self.n_fft, self.hop_length, self.look_ahead, self.n_iter)


@dataclass(frozen=True)
class Record(Measured):
    """What was measured of a setting: times of one push of all streams.

    real_time_factor: seconds of work per second of sound, of all streams together; under 1 keeps up.
    sc_db: spectral convergence of the same setting, None if it has none: silence, or it was not asked for.
    c_reference_us: a push of one stream by the C reference, the least.
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
    """Most streams that keep up: 99 of 100 pushes take less than a hop.

    streams_per: of one core, or of one GPU.
    p99_us: with so many, None if there are none.
    """

    streams_per: float
    p99_us: float | None


def devices() -> tuple[str, ...]:
    """Devices of this machine that inverters may run on."""
    return DEVICES if torch.cuda.is_available() else DEVICES[:1]


def runners(engines: Sequence[str], on: Sequence[str], setting: Setting) -> list[Runner]:
    """Engines of these names, on every one of the devices that they can run on; "all" is all that can.

    Raises:
        ValueError, ImportError: an engine that was named runs on none of them; says why.
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
    """Runner of the engine that is really at work, or why there is none."""
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
    """Seconds of every one of `n_pushes` pushes after a warm-up, `(n_pushes,)`.

    Args:
        inverter: inverter of any number of streams.
        magnitude: magnitudes `(n_freq, n_frames)`; every stream begins at another frame of them.
        n_pushes: number of pushes.
        warm_up: number of pushes before the measurement; default: WARM_UP.
        enough: function of the times so far, called after every push; a true result ends the measurement.
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
    """Frames `(*batch_shape, n_freq)` on the device."""
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
    """Time pushes of several engines in turn, a record for each.

    Args:
        runners: engines.
        setting: what the streams do.
        magnitude: `(n_freq, n_frames)`.
        streams: how many.
        n_pushes: how many, of each.
        between: called in every round.
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
    """Find the most streams that keep up.

    Short runs look for the number, to about 6 %; it then has to hold over `n_pushes`.
    """
    one = runner.inverter(setting, 1)

    def p99(streams: int, n_pushes: int) -> float:
        """99th percentile in seconds, or something beyond a hop as soon as it cannot be less."""

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
    """Return whether a GPU is full: libraries of CUDA say that in their own words."""
    words = ("out of memory", "alloc_failed")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error).lower() for word in words)


def convergence(runner: Runner, setting: Setting, magnitude: Tensor) -> float | None:
    """Spectral convergence in dB of what a setting makes of magnitudes, None of silence.

    Args:
        runner: engine.
        setting: what the stream does.
        magnitude: `(*batch, n_freq, n_frames)`; the mean over a batch is that of dB. The first and the last
            frames do not count.
    """
    inverter = runner.inverter(setting, *magnitude.shape[:-2])
    given = magnitude.to(runner.device)
    level = float(inner_convergence(inverter.stft.magnitude(inverter.run(given)), given).mean())
    return level if math.isfinite(level) else None
