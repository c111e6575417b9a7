"""Implementation of `rtspecinv bench`: time of a push, number of streams in real time, and quality."""

from __future__ import annotations

import argparse
import itertools
import math
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from rtspecinv.cli import _names as names
from rtspecinv.cli._files import refuse_same_file, sound_file
from rtspecinv.cli._report import Tally
from rtspecinv.common.checks import count
from rtspecinv.common.printable import printable
from rtspecinv.common.threads import threads
from rtspecinv.common.whole_files import write_json, write_whole
from rtspecinv.inputs import iterations
from rtspecinv.measure import c_reference, timing
from rtspecinv.measure.clip import SAMPLE_RATE, render
from rtspecinv.measure.machine import facts
from rtspecinv.measure.recording import read_mono, samples_needed, transform_for
from rtspecinv.measure.table import COLUMNS, Result, limit_text, measure, point
from rtspecinv.measure.timing import Limit, Record, Setting

_ENGINE_WIDTH = 18
_MOST_PUSHES = 10**7  # their times need 80 MB of memory


def bench(args: argparse.Namespace) -> None:
    """Time pushes and print a table; writes the numbers and a plot if the arguments name files for them."""
    draw = _plot_if_wanted(args)
    if args.device and args.device not in timing.devices():
        raise ValueError(f"Parameter device={args.device!r} is not available: torch finds {timing.devices()}")
    if not args.engines:
        raise ValueError("Parameter engines is empty: leave out --engines, or name an engine")
    for n_iter in args.n_iter:
        iterations(n_iter=n_iter)
    for name, least in (("pushes", 1), ("streams", 1), ("look_ahead", 0)):
        value = getattr(args, name)
        if np.min(value) < least:
            raise ValueError(f"Parameter {name}={value} needs integers >= {least}")
    count(1, _MOST_PUSHES, pushes=args.pushes)
    if args.threads > (cores := os.cpu_count() or 1):
        raise ValueError(f"Parameter threads={args.threads} is more than the {cores} cores of this machine")
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
        program = stack.enter_context(c_reference.built(args.c_reference)) if args.c_reference else None
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
    print(
        f"measured      {n_pushes} pushes each, µs; {_machine(result)}; spectral convergence on "
        f"{printable(name)}"
    )
    if args.json:
        write_json(args.json, result.numbers())
        print(f"written       {printable(args.json)}")
    if draw is not None:
        content = draw(result.records)
        write_whole(args.plot, lambda file: file.write(content))
        print(f"written       {printable(args.plot)}")


def _plot_if_wanted(args: argparse.Namespace) -> Callable[[Sequence[Record]], bytes] | None:
    """Return the function that draws the plot, None without a plot; raises if an output cannot be written."""
    for path in filter(None, (args.json, args.plot)):
        is_file_or_free = path.is_file() or not path.exists()
        if not (is_file_or_free and path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise OSError(
                f"{printable(path)} cannot be written: name a file in a folder that you can write to"
            )
        if args.audio is not None:
            refuse_same_file(args.audio, path)
    if args.json and args.json == args.plot:
        raise ValueError(
            f"Parameters json and plot are both {printable(args.plot)}: choose another name for one of them"
        )
    if args.plot is None:
        return None
    if args.plot.suffix.lower() != ".png":
        raise ValueError(f"{printable(args.plot)} is not a name of a .png file: give --plot FILE.png")
    from rtspecinv.measure.plots import push_plot  # needs the extra plot

    return lambda records: push_plot(list(map(point, records)))


def _recording(args: argparse.Namespace) -> tuple[Tensor, int, str]:
    if args.audio is None:
        demo = torch.from_numpy(render()).float()
        return demo[: round(names.BENCH_SECONDS * SAMPLE_RATE)], SAMPLE_RATE, "the demo clip"
    sound_file(args.audio)  # raises an error that names the right command for other files
    return *read_mono(args.audio, names.BENCH_SECONDS), args.audio.name


def _magnitude(setting: Setting, samples: Tensor) -> Tensor:
    stft = setting.stft()
    needed = samples_needed(stft)
    if len(samples) < needed:
        fitting = transform_for(len(samples))
        smaller = "" if fitting is None else " or --transforms {}/{}".format(*fitting)
        raise ValueError(
            f"{len(samples)} samples are too few for n_fft={stft.n_fft} with hop_length={stft.hop_length}: "
            f"{needed} are needed; use a longer recording{smaller}"
        )
    return stft.magnitude(samples)[None]


def _print(records: Sequence[Record], tally: Tally, first: bool) -> None:
    """Print one row for each record, and the column titles before the first rows."""
    shown = [c for c in COLUMNS if c.title not in ("C", "least / C") or records[0].c_reference_us is not None]
    lines = [[column.title for column in shown]] if first else []
    for cells in [*lines, *([column.text(record) for column in shown] for record in records)]:
        widths = (max(len(column.title), 7) for column in shown[1:])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths, strict=True))
        tally.line(" ".join([cells[0].ljust(_ENGINE_WIDTH), *rest]))


def _machine(result: Result) -> str:
    names = ("processor", "gpu", "threads", "commit")
    return ", ".join(f"{name} {result.facts[name]}" for name in names if name in result.facts)
