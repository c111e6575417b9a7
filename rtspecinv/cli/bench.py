"""`rtspecinv bench`: what a push costs on this machine, how many streams keep up, and how good they are."""

from __future__ import annotations

import argparse
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtspecinv.cli import names, timing, yardstick
from rtspecinv.cli.commands import refuse_same_file
from rtspecinv.cli.compare import read_mono, write_json
from rtspecinv.cli.contest import EDGE_FRAMES
from rtspecinv.cli.machine import facts
from rtspecinv.cli.report import Tally
from rtspecinv.cli.timing import Limit, Measured, Record, Runner, Setting
from rtspecinv.common.printable import printable
from rtspecinv.common.threads import threads
from rtspecinv.common.whole_files import write_whole
from rtspecinv.demo_clip import SAMPLE_RATE, render
from rtspecinv.inputs import iterations

_ENGINE_WIDTH = 18


@dataclass
class Result:
    """All that was measured, on a recording of that name."""

    recording: str
    facts: dict[str, str | int]
    records: list[Record] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)

    def numbers(self) -> dict[str, Any]:
        """Everything, for a file."""
        return asdict(self)


@dataclass(frozen=True)
class Column:
    """A figure of a record: what it is called and how it is written."""

    title: str
    text: Callable[[Record], str]


def _whole(name: str) -> Column:
    return Column(name.removesuffix("_us"), lambda record: f"{getattr(record, name):.0f}")


def _maybe(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def engine_label(measured: Measured) -> str:
    """Name of an engine, and where it runs if that is not the CPU."""
    return measured.engine if measured.device == "cpu" else f"{measured.engine}, {measured.device}"


COLUMNS = (
    Column("engine", engine_label),
    Column("transform", lambda record: f"{record.n_fft}/{record.hop_length}"),
    Column("ahead", lambda record: f"{record.look_ahead}"),
    Column("n_iter", lambda record: f"{record.n_iter}"),
    Column("streams", lambda record: f"{record.streams}"),
    *map(_whole, ("least_us", "p50_us", "p95_us", "p99_us", "max_us")),
    Column("C", lambda record: _maybe(record.yardstick_us, 0)),
    Column(
        "least / C",
        lambda record: _maybe(
            record.yardstick_us and record.least_us / record.streams / record.yardstick_us, 2
        ),
    ),
    Column("real-time factor", lambda record: f"{record.real_time_factor:.4f}"),
    Column("SC dB", lambda record: _maybe(record.sc_db, 2)),
)


def limit_text(limit: Limit) -> str:
    """Say how many streams keep up."""
    setting = limit.setting
    cores = f"{limit.threads} core{_s(limit.threads)}" if limit.device == "cpu" else "the GPU"
    hop = f"one hop, {1000 * setting.hop_seconds:.2f} ms"
    late = "p99 is not under" if limit.p99_us is None else f"p99 {limit.p99_us / 1000:.2f} ms of"
    streams = f"{limit.streams} stream{_s(limit.streams)}"
    return f"{engine_label(limit)}: {streams} keep up on {cores} ({late} {hop}; {setting})"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def measure(
    plan: Sequence[tuple[Setting, int]],
    limits: Sequence[Setting],
    runners: Sequence[Runner],
    magnitude: Callable[[Setting], Tensor],
    result: Result,
    *,
    n_pushes: int,
    program: yardstick.Yardstick | None = None,
) -> Iterator[list[Record] | Limit]:
    """Measure, put what was found into the result and yield it, as soon as it is there.

    Args:
        plan: settings and how many streams there are of each.
        limits: settings of which the most streams are looked for.
        runners: engines; of a setting, all take turns.
        magnitude: gives `(n_clips, n_freq, n_frames)` of a setting; the first clip is for times.
        result: where the records go.
        n_pushes: at least how many, of each.
        program: what they are compared with.
    """
    levels: dict[tuple[Runner, Setting], float | None] = {}
    for setting, streams in plan:
        clips, plain = magnitude(setting), list[float]()

        def ask(setting: Setting = setting, plain: list[float] = plain) -> None:
            if program is not None:
                sizes = (setting.n_fft, setting.hop_length, setting.look_ahead, setting.n_iter)
                plain.append(1e6 * program.seconds(*sizes))

        found = timing.measure(runners, setting, clips[0], streams, n_pushes, between=ask)
        for runner in runners:
            if (runner, setting) not in levels:
                levels[runner, setting] = timing.convergence(runner, setting, clips)
        records = [
            replace(record, sc_db=levels[runner, setting], yardstick_us=min(plain, default=None))
            for record, runner in zip(found, runners, strict=True)
        ]
        result.records += records
        yield records
    for setting, runner in itertools.product(limits, runners):
        limit = timing.most_streams(runner, setting, magnitude(setting)[0], n_pushes)
        result.limits.append(limit)
        yield limit


def bench(args: argparse.Namespace) -> None:
    """Time pushes, print a table, and write the numbers and a plot if they are wanted."""
    draw = _plot_if_wanted(args)
    if args.device and args.device not in timing.devices():
        raise ValueError(f"Parameter device={args.device!r} is not there: torch finds {timing.devices()}")
    if not args.engines:
        raise ValueError("Parameter engines is empty: leave it out, or name one")
    for n_iter in args.n_iter:
        iterations(n_iter=n_iter)
    for name, least in (("pushes", 1), ("streams", 1), ("look_ahead", 0)):
        value = getattr(args, name)
        if np.min(value) < least:
            raise ValueError(f"Parameter {name}={value} is not made of integers >= {least}!")
    if args.threads > (cores := os.cpu_count() or 1):
        raise ValueError(f"Parameter threads={args.threads} is more than the {cores} cores of this machine!")
    n_pushes = math.ceil(args.pushes / names.QUICK) if args.quick else args.pushes
    samples, rate, name = _recording(args)
    settings = [
        Setting(rate, n_fft, hop_length, look_ahead, n_iter)
        for (n_fft, hop_length), look_ahead, n_iter in itertools.product(
            args.transforms, args.look_ahead, args.n_iter
        )
    ]
    magnitudes = {setting: _magnitude(setting, samples) for setting in settings}
    with ExitStack() as stack:
        stack.enter_context(threads(args.threads))
        program = stack.enter_context(yardstick.built(args.yardstick)) if args.yardstick else None
        on = (args.device,) if args.device else timing.devices()
        runners = timing.runners(args.engines, on, settings[0])
        many = settings if args.every else settings[:1]
        plan = [(s, n) for s in settings for n in (args.streams if s in many else args.streams[:1])]
        result = Result(name, facts())
        tally = stack.enter_context(Tally(len(plan) + len(many) * len(runners), "setting"))
        for found in measure(
            plan, many, runners, magnitudes.__getitem__, result, n_pushes=n_pushes, program=program
        ):
            if isinstance(found, Limit):
                tally.line(limit_text(found))
            else:
                _print(found, tally, first=len(result.records) == len(found))
            tally.end()
    print(f"measured      {n_pushes} pushes each, µs; {_machine(result)}; spectral convergence on {name}")
    if args.json:
        write_json(args.json, result.numbers())
        print(f"written       {printable(args.json)}")
    if draw is not None:
        content = draw(result.records)
        write_whole(args.plot, lambda file: file.write(content))
        print(f"written       {printable(args.plot)}")


def _plot_if_wanted(args: argparse.Namespace) -> Callable[[Sequence[Record]], bytes] | None:
    """Complain of files that cannot be written before anything is measured."""
    for path in filter(None, (args.json, args.plot)):
        is_file_or_free = path.is_file() or not path.exists()
        if not (is_file_or_free and path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise OSError(f"{path} cannot be written: it must be a file in a folder that may be written to")
        if args.audio is not None:
            refuse_same_file(args.audio, path)
    if args.json and args.json == args.plot:
        raise ValueError(
            f"Parameters json and plot are both {args.plot}: choose another name for one of them"
        )
    if args.plot is None:
        return None
    if args.plot.suffix.lower() != ".png":
        raise ValueError(f"Parameter plot={str(args.plot)!r} does not end in .png")
    from rtspecinv.plots import push_plot  # needs the extra plot

    return lambda records: push_plot(list(map(point, records)))


def point(record: Record) -> dict[str, Any]:
    """Record for a plot."""
    return {
        **asdict(record),
        "engine": engine_label(record),
        "transform": f"{record.n_fft}/{record.hop_length}",
        "hop_us": 1e6 * record.setting.hop_seconds,
    }


def _recording(args: argparse.Namespace) -> tuple[Tensor, int, str]:
    if args.audio is None:
        demo = torch.from_numpy(render()).float()
        return demo[: round(names.BENCH_SECONDS * SAMPLE_RATE)], SAMPLE_RATE, "the demo clip"
    return *read_mono(args.audio, names.BENCH_SECONDS), args.audio.name


def _magnitude(setting: Setting, samples: Tensor) -> Tensor:
    stft = setting.stft()
    needed = max(stft.n_needed, 3 * EDGE_FRAMES * stft.hop_length)
    if len(samples) < needed:
        raise ValueError(f"{len(samples)} samples are too few for n_fft={stft.n_fft}: {needed} are needed")
    return stft.magnitude(samples)[None]


def _print(records: Sequence[Record], tally: Tally, first: bool) -> None:
    """Print rows, and what the columns are before the first ones."""
    shown = [c for c in COLUMNS if c.title not in ("C", "least / C") or records[0].yardstick_us is not None]
    lines = [[column.title for column in shown]] if first else []
    for cells in [*lines, *([column.text(record) for column in shown] for record in records)]:
        widths = (max(len(column.title), 7) for column in shown[1:])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths, strict=True))
        tally.line(" ".join([cells[0].ljust(_ENGINE_WIDTH), *rest]))


def _machine(result: Result) -> str:
    names = ("processor", "gpu", "threads", "commit")
    return ", ".join(f"{name} {result.facts[name]}" for name in names if name in result.facts)
