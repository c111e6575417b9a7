"""Lower bounds of the time of a push, from its operations and bytes; a table of bench/push.py."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from protocol import DENSE, LONG, SHORT, STANDARD
from scale import label, runners
from tables import Bench, number, table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rtspecinv.engines.eager import Eager
from rtspecinv.frames import FrameBuffer
from rtspecinv.measure.timing import Runner, Setting

ROUNDS, N_PUSHES, SECONDS = 5, 200, 0.3  # largest numbers and duration
SETTINGS = [
    (STANDARD, 3, 8, 1),
    (STANDARD, 3, 8, 64),
    (LONG, 3, 8, 1),
    (SHORT, 3, 8, 1),
    (DENSE, 3, 8, 1),
    (STANDARD, 0, 8, 1),
    (STANDARD, 3, 32, 1),
]
# Flops per bin in an iteration of RAAR: magnitude 3, root and quotient 2, scaling 5, product with the
# magnitude 2, y 6, the remaining sums 6, the new iterate 4. Flops per sample: window and overlap-add 3.
PER_BIN, PER_SAMPLE = 28, 3


def push_floor(bench: Bench) -> str:
    """Lower bounds of the time of a push, and the times of the engines.

    Times are minima of up to 1,000 pushes, in µs, for all streams together on one thread. "FFTs" is the
    number of real FFTs in a push, counted in torch's calls or, for `numba`, by its code. "Mflop" is the
    work of these FFTs (2.5 n log2 n each, Frigo & Johnson 2005) and, estimated, that of all other
    operations of the sweeps. "kB" is the size of the state with the frame and the hop, which a push reads
    and writes once; "bytes" is the time for this at the speed at which the device copies 256 MB. "FFTs
    alone" is the time of the same transforms without other operations, by torch in the same batches or, for
    `numba`, by its own transforms with windows and overlap-add. "Rest" is the time of projections, rule and
    state; for `eager` it is mostly the overhead of calling operations, whose number is "calls". "Checks" is
    the time before the engine receives the frame.
    """
    rows = []
    for configuration, look_ahead, n_iter, streams in SETTINGS:
        setting = configuration.setting(look_ahead, n_iter)
        for runner in runners():
            frame = bench.magnitude(configuration)[0][:, 40].expand(streams, -1)
            cells = _cells(runner, setting, frame.contiguous().to(runner.device))
            rows.append(
                [f"{configuration.name}, {look_ahead}, {n_iter}", label(runner), str(streams), *cells]
            )
    header = [
        "setting",
        "engine",
        "streams",
        "FFTs",
        "Mflop: FFTs",
        "else",
        "kB",
        "bytes",
        "FFTs alone",
        "rest",
    ]
    return table([*header, "checks", "push", "push / FFTs alone", "calls"], rows)


def _cells(runner: Runner, setting: Setting, frame: Tensor) -> list[str]:
    streams, n_fft = len(frame), setting.n_fft
    inverter = runner.inverter(setting, streams)
    reference = Runner("eager", runner.device).inverter(setting, streams)
    engine: Any = inverter._engine
    assert isinstance(reference._engine, Eager)
    buffer = reference._engine.buffer
    for _ in range(3 * buffer.n_open + 20):
        inverter.push(frame)
    # The reference is counted, because operations of a graph or of compiled code are invisible.
    with Counter() as counter:
        reference.push(frame)
    n_ffts, alone = counter.n_ffts, counter.again(frame.device)
    if engine.name == "numba":
        forward, inverse = ffts_of_numba(buffer, inverter.n_iter)
        n_ffts, alone = streams * (forward + inverse), compiled_ffts(engine, forward, inverse)
    jobs = (lambda: inverter.push(frame), lambda: engine.push(frame, None), alone)
    push, inside, ffts = least(*jobs, device=frame.device)
    flops = n_ffts * 2.5 * n_fft * math.log2(n_fft)
    others = n_ffts / 2 * (PER_BIN * (n_fft // 2 + 1) + PER_SAMPLE * n_fft)
    state = sum(buffer.get_buffer(name).nbytes for name in buffer.STATE)
    n_bytes = 2 * state + frame.nbytes + streams * setting.hop_length * frame.element_size()
    return [
        *(str(n_ffts), number(flops / 1e6), number(others / 1e6)),
        *(number(n_bytes / 1e3, 0), number(1e6 * n_bytes / copy_speed(runner.device))),
        *(number(1e6 * seconds, 0) for seconds in (ffts, inside - ffts, push - inside, push)),
        *(number(push / ffts), str(counter.n_calls) if engine.name == "eager" else ""),
    ]


class Counter(TorchDispatchMode):
    """Counts calls of torch, and remembers the real Fourier transforms among them."""

    def __init__(self) -> None:
        super().__init__()
        self.n_calls, self.ffts = 0, list[tuple[bool, torch.Size, int]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.n_calls += 1
        if func is torch.ops.aten._fft_r2c.default:
            self.ffts.append((True, args[0].shape, args[0].shape[-1]))
        elif func is torch.ops.aten._fft_c2r.default:
            self.ffts.append((False, args[0].shape, result.shape[-1]))
        return result

    @property
    def n_ffts(self) -> int:
        return sum(math.prod(shape[:-1]) for _, shape, _ in self.ffts)

    def again(self, device: torch.device) -> Callable[[], None]:
        """Repeat the transforms, with other numbers."""
        shapes = {(forward, shape) for forward, shape, _ in self.ffts}
        given = {
            (forward, shape): torch.rand(shape, device=device).to(
                torch.float32 if forward else torch.complex64
            )
            for forward, shape in shapes
        }

        def transform() -> None:
            for forward, shape, n_fft in self.ffts:
                if forward:
                    torch.fft.rfft(given[forward, shape])
                else:
                    torch.fft.irfft(given[forward, shape], n=n_fft)

        return transform


def ffts_of_numba(buffer: FrameBuffer, n_iter: int) -> tuple[int, int]:
    """Return the numbers of forward and inverse transforms in a compiled push of one stream."""
    n_open, n_revised = buffer.n_open, buffer.n_heard // buffer.stft.hop_length
    n_heard = min(n_open, n_revised + (2 if buffer.n_fade else 1))  # number of frames that contain the hop
    start, sweeps = (1, n_open - 1), (n_iter * n_open, n_iter * n_open)
    estimate, commit = (n_heard, n_open), (0, n_heard)
    forward, inverse = (sum(parts) for parts in zip(start, sweeps, estimate, commit, strict=True))
    return forward, inverse


def compiled_ffts(engine: Any, forward: int, inverse: int) -> Callable[[], None]:
    """Return a function that does this number of transforms for every stream, with windows, in compiled code.

    It uses the threads of the engine.
    """
    import numba

    from rtspecinv.engines.cpu.fft import analyze, synthesize
    from rtspecinv.engines.cpu.host import parallel_for
    from rtspecinv.engines.cpu.lanes import pointers, unpack
    from rtspecinv.engines.cpu.memory import Memory, Plan, move

    global _compiled
    if _compiled is None:

        @numba.njit(nogil=True)
        def transforms(plan, memory, number, forward, inverse, first, last):  # type: ignore[no-untyped-def]
            plan, memory = unpack(Plan, plan), pointers(unpack(Memory, memory), number)
            for stream in range(first, last):
                move(memory.work, plan.samples, memory.committed, stream * plan.n_samples, plan.n_samples)
                for i in range(forward):
                    to = plan.samples + i % plan.n_open * plan.hop_length
                    analyze(plan, memory, memory.window, 0, to, plan.y)
                for i in range(inverse):
                    to = plan.samples + i % plan.n_open * plan.hop_length
                    synthesize(plan, memory, plan.y, to)

        _compiled = transforms
    ready = engine._ready

    def part(thread: int, first: int, last: int) -> None:
        _compiled(ready.plan, ready.memories[thread], ready.number, forward, inverse, first, last)

    return lambda: parallel_for(part, ready.n_streams, len(ready.memories))


_compiled: Any = None


def least(*jobs: Callable[[], Any], device: torch.device) -> list[float]:
    """Return the shortest time of every job in seconds; the jobs take turns."""
    best = [math.inf] * len(jobs)
    for _ in range(ROUNDS):
        for i, job in enumerate(jobs):
            begin_of_all = time.perf_counter()
            for _ in range(N_PUSHES):
                begin = time.perf_counter()
                job()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                now = time.perf_counter()
                best[i] = min(best[i], now - begin)
                if now - begin_of_all > SECONDS:
                    break
    return best


@cache
def copy_speed(device: str) -> float:
    """Return bytes per second, those read plus those written, while 256 MB are copied."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    (seconds,) = least(lambda: target.copy_(source), device=source.device)
    return 2 * source.nbytes / seconds
