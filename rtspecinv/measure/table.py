"""Measurement of benchmark records, and the columns in which they are printed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from rtspecinv.measure import timing
from rtspecinv.measure.c_reference import CReference
from rtspecinv.measure.timing import Limit, Measured, Record, Runner, Setting


@dataclass
class Result:
    """All measurements, with the name of the recording and facts about the machine."""

    recording: str
    facts: dict[str, str | int]
    records: list[Record] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)

    def numbers(self) -> dict[str, Any]:
        """Return all fields as a dictionary, for a JSON file."""
        return asdict(self)


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, and a function that returns its text for a record."""

    title: str
    text: Callable[[Record], str]


def _whole(name: str) -> Column:
    return Column(name.removesuffix("_us"), lambda record: f"{getattr(record, name):.0f}")


def _maybe(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def engine_label(measured: Measured) -> str:
    """Return the name of an engine, followed by its device unless that is the CPU."""
    return measured.engine if measured.device == "cpu" else f"{measured.engine}, {measured.device}"


COLUMNS = (
    Column("engine", engine_label),
    Column("transform", lambda record: f"{record.n_fft}/{record.hop_length}"),
    Column("ahead", lambda record: f"{record.look_ahead}"),
    Column("n_iter", lambda record: f"{record.n_iter}"),
    Column("streams", lambda record: f"{record.streams}"),
    *map(_whole, ("least_us", "p50_us", "p95_us", "p99_us", "max_us")),
    Column("C", lambda record: _maybe(record.c_reference_us, 0)),
    Column(
        "least / C",
        lambda record: _maybe(
            record.c_reference_us and record.least_us / record.streams / record.c_reference_us, 2
        ),
    ),
    Column("real-time factor", lambda record: f"{record.real_time_factor:.4f}"),
    Column("SC dB", lambda record: _maybe(record.sc_db, 2)),
)


def limit_text(limit: Limit) -> str:
    """Return a sentence that states how many streams run in real time."""
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
    program: CReference | None = None,
) -> Iterator[list[Record] | Limit]:
    """Measure every setting, add the records to the result, and yield them as soon as they are measured.

    Args:
        plan: settings, each with its number of streams.
        limits: settings for which the largest number of streams is searched.
        runners: engines, which are timed in turns for each setting.
        magnitude: function that returns magnitudes `(n_clips, n_freq, n_frames)` for a setting; only the
            first clip is used for times.
        result: result to which the records are added.
        n_pushes: number of timed pushes for each setting and engine.
        program: C program to compare with; default: none.
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
            replace(record, sc_db=levels[runner, setting], c_reference_us=min(plain, default=None))
            for record, runner in zip(found, runners, strict=True)
        ]
        result.records += records
        yield records
    for setting, runner in itertools.product(limits, runners):
        limit = timing.most_streams(runner, setting, magnitude(setting)[0], n_pushes)
        result.limits.append(limit)
        yield limit


def point(record: Record) -> dict[str, Any]:
    """Return the values of a record that `plots.push_plot` draws as one point."""
    return {
        **asdict(record),
        "engine": engine_label(record),
        "transform": f"{record.n_fft}/{record.hop_length}",
        "hop_us": 1e6 * record.setting.hop_seconds,
    }
