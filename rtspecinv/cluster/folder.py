"""Folders of spectrograms by Ray Data: a list of jobs, and actors that carry them out.

A job is a group of files, or one shard. The list contains only outputs that are missing, every output is
written whole, and the line about a row is in a journal before its sound file gets its name. So a run that was
killed continues where it stopped.

The module is long because it reads all kinds of sources: files, .npz files of many arrays, and Parquet files.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rtspecinv.cluster.dataset import GPU_STREAMS, n_actors, ray, row_spectrogram
from rtspecinv.cluster.journal import Journal, Key, Line, merge
from rtspecinv.common.printable import printable
from rtspecinv.common.whole_files import WholeFile, make_folder, write_json
from rtspecinv.files.metadata import FIELDS
from rtspecinv.files.opening import ARRAYS, Spectrogram, open_spectrogram
from rtspecinv.files.readers import PREFERRED_NAMES, spectrogram_names
from rtspecinv.inputs import Array
from rtspecinv.many.runner import ERRORS as BAD
from rtspecinv.many.runner import N_STREAMS, carry_out
from rtspecinv.many.tasks import Inversion, Settings
from rtspecinv.mel.config import MelConfig

SHARD = PARQUET = ".parquet"
SUFFIXES = (*ARRAYS, PARQUET)
NAME = "name"  # column with the names of rows
PARTS = "parts.json"  # lists the source files of each Parquet file
MOST_FILES = 64  # largest number of files of a job
JOBS_OF_AN_ACTOR = 4  # least number of jobs per actor, so that all actors end at about the same time
_ROW_GROUP = 64  # number of rows that are written to a Parquet file at once
_ROWS_AT_ONCE = 16  # number of rows that are read from a shard at once


@dataclass(frozen=True)
class Work:
    """Parameters of the inversion of a folder.

    source, output: folders, under the same names on every machine.
    format: suffix of the sound files, or "parquet".
    layout, mel, array: as in `open_spectrogram`; `array` is also the column of a Parquet file.
    settings: parameters of the inversion of each spectrogram.
    overwrite: whether existing outputs are replaced.
    n_threads: number of threads of an actor.
    """

    source: Path
    output: Path
    format: str
    layout: str | None
    mel: MelConfig | None
    array: str | None
    settings: Settings
    overwrite: bool
    n_threads: int


@dataclass(frozen=True)
class Job:
    """Names of source files, relative to the folder, and of the Parquet file that they become, if any."""

    sources: list[str]
    output: str = ""


@dataclass(frozen=True)
class Done:
    """Numbers of files and rows of a job, and its first errors."""

    n_sources: int
    n_written: int
    n_skipped: int
    n_failed: int
    errors: list[str]

    def plus(self, other: Done) -> Done:
        """Return the sum of the numbers of both, without errors."""
        mine, others = vars(self), vars(other)
        return Done(**{name: mine[name] + others[name] for name in mine if name != "errors"}, errors=[])


def plan(work: Work, size: int) -> tuple[list[Job], int]:
    """Return the jobs whose outputs are missing, and the number of files whose outputs exist.

    size: number of actors, among which the jobs are divided.

    Raises:
        ValueError: there are no spectrograms, or two would become the same file.
    """
    names = sources(work.source)
    if work.format == "parquet":
        return _parts(work, names)
    missing, taken = [], dict[Path, str]()
    for name in names:
        output = _sound(work, name)
        if (other := taken.setdefault(output, name)) != name:
            raise ValueError(
                f"{printable(other)} and {printable(name)} would both become {printable(output)}: rename one "
                "of them"
            )
        if work.overwrite or name.endswith(SHARD) or not output.exists():
            missing.append(name)
    shards = [name for name in missing if name.endswith(SHARD)]
    files = [name for name in missing if not name.endswith(SHARD)]
    n_files = max(1, min(MOST_FILES, len(files) // (size * JOBS_OF_AN_ACTOR)))
    jobs = [Job([name]) for name in shards]
    jobs += [Job(files[i : i + n_files]) for i in range(0, len(files), n_files)]
    return jobs, len(names) - len(missing)


def sources(folder: Path) -> list[str]:
    """Return the sorted names of spectrogram files and shards in a folder and below, except hidden ones."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    names = sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
    if not names:
        raise ValueError(f"{printable(folder)} contains no spectrograms ({', '.join(SUFFIXES)})")
    return names


def _sound(work: Work, name: str, row: str = "") -> Path:
    """Return the sound file of a file, or of a row of a shard."""
    path = work.output / name
    return path.with_suffix("") / f"{row}.{work.format}" if row else path.with_suffix(f".{work.format}")


def _parts(work: Work, names: list[str]) -> tuple[list[Job], int]:
    """Return the jobs of missing Parquet files; the file `PARTS` stores the sources of each, from now on."""
    shards = [Job([name], name) for name in names if name.endswith(SHARD)]
    known = work.output / PARTS
    parts: list[list[str]] = json.loads(known.read_text()) if known.exists() else []
    listed = {name for part in parts for name in part}
    new = [name for name in names if not name.endswith(SHARD) and name not in listed]
    parts += [new[i : i + MOST_FILES] for i in range(0, len(new), MOST_FILES)]
    if new:
        write_json(known, parts)
    jobs = shards + [Job(part, f"part-{i:05}{PARQUET}") for i, part in enumerate(parts)]
    missing = [job for job in jobs if work.overwrite or not (work.output / job.output).exists()]
    return missing, len(names) - sum(len(job.sources) for job in missing)


def invert_folder(
    work: Work,
    *,
    address: str | None = None,
    workers: int | None = None,
    num_cpus: int = 1,
    num_gpus: float = 0,
    report: Callable[[Done], object] = lambda done: None,
    begin: Callable[[int], object] = lambda n_sources: None,
) -> tuple[Done, dict[Key, Line]]:
    """Carry out all jobs whose outputs are missing, and return their numbers and the table of errors.

    address: address of a cluster, default: a cluster on the cores of this machine, for this call only.
    workers, num_cpus, num_gpus: as in `invert_dataset`.
    report: function that is called after each job.
    begin: function that is called first with the number of files and shards that are missing.
    """
    module = ray()
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray logs an error about every pool of actors
    make_folder(work.output)
    errors = merge(work.output)  # lines of a run that was killed
    jobs, n_skipped = plan(work, 1)
    begin(sum(len(job.sources) for job in jobs))
    if not jobs:
        return Done(0, 0, n_skipped, 0, []), errors
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    is_mine = not module.is_initialized()
    if is_mine:
        own: dict[str, Any] = {"include_dashboard": False} if address is None else {}
        if workers and address is None:
            own["num_cpus"] = workers * num_cpus
        module.init(address or "local", logging_level="error", log_to_driver=False, **own)
    try:
        size = n_actors(workers, num_cpus, num_gpus)
        jobs, n_skipped = plan(work, size)
        total = Done(0, 0, n_skipped, 0, [])
        for done in _carry_out(module, work, jobs, min(size, len(jobs)), num_cpus, num_gpus):
            report(done)
            total = total.plus(done)
    except module.exceptions.RayError as error:
        raise RuntimeError(f"Ray: {error}") from error
    finally:
        errors = merge(work.output)
        if is_mine:
            module.shutdown()
    return total, errors


def _carry_out(
    module: Any, work: Work, jobs: list[Job], size: int, num_cpus: int, num_gpus: float
) -> Iterator[Done]:
    context = module.data.DataContext.get_current()
    context.enable_progress_bars, context.print_on_execution_start = False, False
    rows = [json.dumps(vars(job)) for job in jobs]
    dataset = module.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Jobs,
        batch_size=1,
        batch_format="numpy",
        compute=module.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        fn_constructor_kwargs={"work": work},
    )
    for row in dataset.iter_rows():
        yield Done(**json.loads(row["done"]))


class Row(Inversion):
    """A spectrogram in a job, whose line is in the journal before its sound file appears."""

    def __init__(self, source: str, row: str, number: int, journal: Journal, *arguments: Any) -> None:
        super().__init__(*arguments, measure=True)
        self.source, self.row, self.number, self._journal = source, row, number, journal

    def finish(self) -> None:
        """Measure the sound, note the row, and store the samples."""
        self._drain()
        self._journal.add(
            source=self.source,
            row=self.row,
            output="" if self.output is None else self.output.name,
            sample_rate=self.sample_rate,
            n_samples=self.n_samples,
            sc=self.convergence,
            seconds=self.work_seconds,
        )
        super().finish()


class Jobs:
    """Actor that carries out jobs."""

    def __init__(self, work: Work) -> None:
        self.work, self._journal = work, Journal(work.output)

    def __call__(self, batch: dict[str, Array]) -> dict[str, list[str]]:
        """Carry out jobs given as JSON texts, and return a `Done` for each as JSON."""
        done = [self.carry_out(Job(**json.loads(text))) for text in batch["item"]]
        return {"done": [json.dumps(vars(each)) for each in done]}

    def carry_out(self, job: Job) -> Done:
        """Invert the sources of a job."""
        self._n_skipped, self._errors = 0, list[str]()
        n_written = 0
        n_streams = N_STREAMS if self.work.settings.device == "cpu" else GPU_STREAMS
        rows = self._rows(job)
        parquet = _Parquet(self.work.output / job.output) if job.output else None
        try:
            with closing(carry_out(rows, n_threads=self.work.n_threads, n_streams=n_streams)) as ended:
                for row in ended:
                    if row.error is None:
                        n_written += 1
                    else:
                        self._fail(row.source, row.row, row.error)
                    if parquet is not None:
                        parquet.add(row)
            if parquet is not None:
                parquet.close()
        except BaseException:
            if parquet is not None:
                parquet.drop()
            raise
        n_failed = len(self._errors)
        return Done(len(job.sources), n_written, self._n_skipped, n_failed, self._errors[:3])

    def _fail(self, source: str, row: str, error: Exception) -> None:
        text = " ".join(str(error).split()) or type(error).__name__
        self._journal.add(source=source, row=row, error=text)
        self._errors.append(text if source in text else f"{source}: {text}")

    def _rows(self, job: Job) -> Iterator[Row]:
        """Yield the rows of a job whose outputs are missing; a row is read when it is opened."""
        number = 0
        for source in job.sources:
            try:
                for row, read in self._spectrograms(self.work.source / source):
                    output = None if job.output else _sound(self.work, source, row)
                    if output is not None and output.exists() and not self.work.overwrite:
                        self._n_skipped += 1
                        continue
                    name = source if not row else f"{source}: {row}"
                    yield Row(source, row, number, self._journal, name, read, output, self.work.settings)
                    number += 1
            except BAD as error:
                self._fail(source, "", error)

    def _spectrograms(self, path: Path) -> Iterator[tuple[str, Callable[[], Spectrogram]]]:
        """Yield the name of each row of a file, "" if it is one spectrogram, and a function that reads it."""
        work, suffix = self.work, path.suffix.lower()
        opened = partial(open_spectrogram, path, layout=work.layout, mel=work.mel)
        if suffix == PARQUET:
            yield from self._table(path)
        elif suffix == ".npz" and work.array is None and _is_shard(names := spectrogram_names(path)):
            with np.load(path, allow_pickle=False) as archive:
                fields = {name: archive[name] for name in archive.files if name in FIELDS}
                for name in names:
                    yield _safe(name), self._reader(archive[name], f"{path}: {name}", fields)
        else:
            yield "", partial(opened, array=work.array)

    def _reader(self, value: Array, name: str, fields: dict[str, Any]) -> Callable[[], Spectrogram]:
        return partial(row_spectrogram, value, name, fields, self.work.layout, self.work.mel)

    def _table(self, path: Path) -> Iterator[tuple[str, Callable[[], Spectrogram]]]:
        from pyarrow import parquet

        file = parquet.ParquetFile(path)
        column, names = self._column(path, file.schema_arrow.names), set[str]()
        fields = [name for name in FIELDS if name in file.schema_arrow.names]
        wanted = [column, *fields, *([NAME] if NAME in file.schema_arrow.names else [])]
        number = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted):
            for i in range(batch.num_rows):
                name = _safe(str(batch[NAME][i])) if NAME in wanted else f"{number:06}"
                if name in names:
                    raise ValueError(f"{printable(path)}: two rows are named {printable(name)}: rename one")
                names.add(name)
                number += 1
                given = {field: batch[field][i].as_py() for field in fields}
                yield name, partial(self._row, batch[column], i, f"{path}: {name}", given)

    def _row(self, values: Any, i: int, name: str, fields: dict[str, Any]) -> Spectrogram:
        return self._reader(_matrix(values.slice(i, 1))[0], name, fields)()

    def _column(self, path: Path, names: list[str]) -> str:
        known = [name for name in PREFERRED_NAMES if name in names]
        column = self.work.array or (known[0] if known else "")
        if column not in names:
            raise ValueError(
                f"{printable(path)} has the columns {', '.join(names)}: name the column of spectrograms with "
                "--array NAME"
            )
        return column


def _is_shard(names: list[str]) -> bool:
    return len(names) > 1 and not set(names) & set(PREFERRED_NAMES)


def _safe(name: str) -> str:
    """Return a row's name as the name of a file."""
    return re.sub(r"[^\w.\- ]", "_", name).lstrip(".") or "_"


def _matrix(values: Any) -> Array:
    """Return a column of nested lists or tensors of equal shapes as an array `(n_rows, ...)`."""
    import pyarrow

    if isinstance(values, pyarrow.ExtensionArray):
        if hasattr(values, "to_numpy_ndarray"):
            tensors: Array = values.to_numpy_ndarray()
            return tensors
        return np.stack([np.asarray(value.as_py()) for value in values])
    if pyarrow.types.is_list(values.type) or pyarrow.types.is_large_list(values.type):
        if values.null_count:
            raise ValueError("the row contains no spectrogram")
        if len(set(values.value_lengths().to_pylist())) > 1:
            raise ValueError("the lists of the spectrogram differ in length: its rows must be equally long")
        inner = _matrix(values.flatten())
        return inner.reshape(len(values), -1, *inner.shape[1:]) if len(values) else inner[None]
    flat: Array = values.to_numpy(zero_copy_only=False)
    return flat


class _Parquet:
    """A Parquet file of samples, with rows in their order; it appears only when it is complete."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        path.parent.mkdir(parents=True, exist_ok=True)
        self._arrow = pyarrow
        single = pyarrow.list_(pyarrow.float32())
        self._schema = pyarrow.schema(
            {
                "source": pyarrow.string(),
                NAME: pyarrow.string(),
                "samples": pyarrow.list_(single),
                "sample_rate": pyarrow.int32(),
                "sc": pyarrow.float32(),
                "seconds": pyarrow.float32(),
            }
        )
        self._file = WholeFile(path)
        self._writer = parquet.ParquetWriter(self._file, self._schema)
        self._waiting: dict[int, Row] = {}  # rows that wait for an earlier one, by number
        self._ready: list[Row] = []
        self._n_added = 0

    def add(self, row: Row) -> None:
        """Add a row; rows may be added in any order, and rows that failed are left out."""
        self._waiting[row.number] = row
        while (next_one := self._waiting.pop(self._n_added, None)) is not None:
            self._n_added += 1
            if next_one.error is None:
                self._ready.append(next_one)
            if len(self._ready) == _ROW_GROUP:
                self._write()

    def _write(self) -> None:
        rows, self._ready = self._ready, []
        columns = [
            [row.source for row in rows],
            [row.row for row in rows],
            [list(row.samples) for row in rows],
            [row.sample_rate for row in rows],
            [None if math.isnan(row.convergence) else row.convergence for row in rows],
            [row.work_seconds for row in rows],
        ]
        self._writer.write_table(self._arrow.table(columns, schema=self._schema))
        self._file.check()

    def close(self) -> None:
        """Write the remaining rows, and give the file its name."""
        if self._ready:
            self._write()
        self._writer.close()
        self._file.keep()

    def drop(self) -> None:
        """Discard the file."""
        self._file.drop()
