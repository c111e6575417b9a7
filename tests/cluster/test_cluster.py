"""Tests of folders and datasets by Ray Data: same bytes as by one process, also after kills."""

from __future__ import annotations

import csv
import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rtspecinv
from rtspecinv.cli import main
from rtspecinv.cluster.dataset import Rows
from rtspecinv.cluster.folder import Done, Jobs, Work, plan
from rtspecinv.cluster.journal import Journal, merge
from rtspecinv.many.tasks import Settings
from rtspecinv.measure.clip import SAMPLE_RATE, render

CLIP = torch.from_numpy(render())
STFT = rtspecinv.STFT(512, 128)
SETTINGS = Settings(stream={"n_iter": 1})
FIELDS: dict[str, Any] = {"sample_rate": SAMPLE_RATE, "n_fft": 512, "hop_length": 128}


def magnitude(i: int, channels: int | None = None) -> np.ndarray:
    samples = 0.5 * CLIP[6000 * (1 + i) :][: 3000 + 500 * i]
    return STFT.magnitude(samples if channels is None else samples.expand(channels, -1)).numpy()


@pytest.fixture
def work(tmp_path) -> Work:
    """Work with three files, one of which has two channels, a bad file, and a shard of two rows."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(("a", "b", "sub/a")):
        np.savez(folder / f"{name}.npz", magnitude=magnitude(i, 2 if i == 1 else None), **FIELDS)
    (folder / "bad.npy").write_text("hello")
    rows: dict[str, Any] = {"x": magnitude(3), "y/..": magnitude(4), **FIELDS}
    np.savez(folder / "shard.npz", **rows)
    return Work(folder, tmp_path / "out", "wav", None, None, None, SETTINGS, False, 1)


def files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and ".rtspecinv" not in str(path)
    )


def carried_out(work: Work, size: int = 1) -> list[Done]:
    work.output.mkdir(parents=True, exist_ok=True)
    actor = Jobs(work)
    return [actor.carry_out(job) for job in plan(work, size)[0]]


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


SOUNDS = ["a.wav", "b.wav", "shard/x.wav", "shard/y_...wav", "sub/a.wav"]


def test_jobs_write_the_bytes_of_single_files_and_tables(work, tmp_path):
    done = carried_out(work)
    assert sum(each.n_written for each in done) == 5
    assert sum(each.n_failed for each in done) == 1
    assert files(work.output) == SOUNDS
    command = ["--method", "stream", "--n-iter", "1", "-o", str(tmp_path / "one.wav")]
    assert main(["invert", str(work.source / "b.npz"), *command]) == 0
    assert (tmp_path / "one.wav").read_bytes() == (work.output / "b.wav").read_bytes()
    errors = merge(work.output)
    assert list(errors) == [("bad.npy", "")]
    assert "no .npy header" in table(work.output / "errors.csv")[0]["error"]
    results = table(work.output / "results.csv")
    assert [(line["source"], line["row"]) for line in results] == [
        ("a.npz", ""),
        ("b.npz", ""),
        ("shard.npz", "x"),
        ("shard.npz", "y_.."),
        ("sub/a.npz", ""),
    ]
    for line in results:
        assert float(line["sc"]) < -10
        assert float(line["seconds"]) > 0
        assert int(line["sample_rate"]) == SAMPLE_RATE


def test_what_is_there_is_left_out(work):
    carried_out(work)
    before = {name: (work.output / name).stat().st_mtime_ns for name in SOUNDS}
    jobs, n_skipped = plan(work, 1)
    assert [name for job in jobs for name in job.sources] == ["bad.npy", "shard.npz"]
    assert n_skipped == 3
    (work.output / "shard/x.wav").unlink()
    again = carried_out(work)
    assert sum(each.n_written for each in again) == 1
    assert sum(each.n_skipped for each in again) == 1
    after = {name: (work.output / name).stat().st_mtime_ns for name in SOUNDS}
    assert [name for name in SOUNDS if before[name] != after[name]] == ["shard/x.wav"]
    assert list(merge(work.output)) == [("bad.npy", "")]
    np.save(work.source / "bad.npy", magnitude(0))
    carried_out(replace(work, settings=replace(SETTINGS, sample_rate=SAMPLE_RATE)))
    assert merge(work.output) == {}
    assert len(table(work.output / "results.csv")) == 6


def test_two_files_of_one_name(work):
    np.save(work.source / "a.npy", magnitude(0))
    with pytest.raises(ValueError, match=r"a.npy and a.npz would both become .*a.wav"):
        plan(work, 1)


KILLED = """
import os, sys
from pathlib import Path
from rtspecinv.audio import FileSink
from rtspecinv.cluster.folder import Jobs, Work, plan
from rtspecinv.many.tasks import Settings

FileSink.close = lambda sink: os._exit(9)
work = Work(Path(sys.argv[1]), Path(sys.argv[2]), "wav", None, None, None, Settings(), False, 1)
Jobs(work).carry_out(plan(work, 1)[0][0])
"""


def test_a_line_is_in_the_journal_before_its_file(work):
    """If a process is killed between the two, the next run inverts the row again."""
    work.output.mkdir()
    folders = [str(work.source), str(work.output)]
    assert subprocess.run([sys.executable, "-c", KILLED, *folders], check=False).returncode == 9
    assert files(work.output) == []
    merge(work.output)
    assert len(table(work.output / "results.csv")) == 1
    carried_out(work)
    assert not list(work.output.rglob(".*.part"))
    merge(work.output)
    assert len(table(work.output / "results.csv")) == 5


def test_tables_merge_and_damaged_lines_are_dropped(tmp_path):
    journal = Journal(tmp_path)
    journal.add(source="a", row="", error='bad, "very"')
    journal.add(source="b", row="1", sc=math.pi)
    (tmp_path / ".rtspecinv-journal" / "x.jsonl").write_text('{"source": "c", "row"')
    assert list(merge(tmp_path)) == [("a", "")]
    assert table(tmp_path / "errors.csv")[0]["error"] == 'bad, "very"'
    assert table(tmp_path / "results.csv")[0]["sc"] == "3.14159"
    assert not (tmp_path / ".rtspecinv-journal").exists()
    journal = Journal(tmp_path)
    journal.add(source="a", row="", sc=-1.0)
    assert merge(tmp_path) == {}
    assert [line["source"] for line in table(tmp_path / "results.csv")] == ["a", "b"]


def test_rows_of_a_batch():
    """Rows may be arrays of other lengths, nested lists, have channels, or be bad; each has its settings."""
    values = np.empty(4, object)
    values[:] = [magnitude(0), magnitude(1, 2), [list(row) for row in magnitude(2)], -magnitude(0)]
    batch = {"magnitude": values, "name": np.array(list("abcd")), "hop_length": np.full(4, 128)}
    actor = Rows("magnitude", None, None, replace(SETTINGS, sample_rate=8000), 1)
    found = actor(batch)
    assert sorted(found) == sorted(["name", "hop_length", "samples", "sample_rate", "sc", "seconds", "error"])
    alone = rtspecinv.StreamingInverter(STFT, n_iter=1)
    for i in (0, 2):
        expected = alone.run(torch.from_numpy(magnitude(i)))
        np.testing.assert_allclose(found["samples"][i], expected, atol=1e-4)
    assert found["samples"][1].shape == (2, 3500 // 128 * 128)
    assert [bool(text) for text in found["error"]] == [False, False, False, True]
    assert "never negative" in found["error"][3]
    assert (found["sc"][:3] < -10).all()
    with pytest.raises(ValueError, match="column='mel' is not one of"):
        Rows("mel", None, None, SETTINGS, 1)(batch)


def test_parquet_in_and_out(work):
    """The input has nested lists; files that are added later do not change existing Parquet files."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra cluster")
    from pyarrow import parquet

    rows = {
        "name": ["one", "two", "bad"],
        "mag": [magnitude(0).tolist(), magnitude(1).tolist(), None],
        **{name: [value] * 3 for name, value in FIELDS.items()},
    }
    parquet.write_table(pyarrow.table(rows), work.source / "table.parquet")
    tables = replace(work, array="mag", format="parquet")
    (work.source / "shard.npz").unlink()
    for path in work.source.rglob("*.np?"):
        path.unlink()
    done = carried_out(tables)
    assert [(each.n_written, each.n_failed) for each in done] == [(2, 1)]
    found = parquet.read_table(work.output / "table.parquet").to_pylist()
    assert [row["name"] for row in found] == ["one", "two"]
    expected = rtspecinv.StreamingInverter(STFT, n_iter=1).run(torch.from_numpy(magnitude(1)))
    np.testing.assert_allclose(found[1]["samples"][0], expected, atol=1e-4)
    assert found[1]["sample_rate"] == SAMPLE_RATE
    assert found[1]["sc"] < -10
    (work.output / "table.parquet").unlink()
    assert sum(each.n_written for each in carried_out(replace(tables, format="wav"))) == 2
    assert files(work.output) == ["table/one.wav", "table/two.wav"]
    for i in range(70):
        np.savez(work.source / f"{i:02}.npz", mag=magnitude(i % 3), **FIELDS)
    (work.source / "table.parquet").unlink()
    assert sum(each.n_written for each in carried_out(tables)) == 70
    assert plan(tables, 1) == ([], 70)
    np.savez(work.source / "00a.npz", mag=magnitude(0), **FIELDS)
    assert [job.sources for job in plan(tables, 1)[0]] == [["00a.npz"]]
    parts = [parquet.read_table(work.output / f"part-0000{i}.parquet").to_pylist() for i in (0, 1)]
    assert [row["source"] for part in parts for row in part] == [f"{i:02}.npz" for i in range(70)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("in/a.npz -o out.wav --on ray", "--on is for folders"),
        ("in -o out --workers 2", "--workers is an option of --on ray"),
        ("in -o out --format parquet", "--format parquet needs --on ray"),
        ("in -o out --on ray --worker-gpus 0.5", "--worker-gpus is for streams: add --method stream"),
    ],
)
def test_options_that_do_not_fit(work, monkeypatch, capsys, options, message):
    monkeypatch.chdir(work.source.parent)
    assert main(["invert", *options.split()]) == 1
    assert message in capsys.readouterr().err


def test_without_ray_the_error_names_the_install_line(work, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["invert", str(work.source), "-o", str(work.output), "--on", "ray"]) == 1
    assert 'pip install "rtspecinv[cluster]"' in capsys.readouterr().err


# -- with Ray, in processes of their own: it leaves threads and signal handlers behind --


@pytest.fixture
def many(tmp_path) -> Path:
    """Folder of 40 files and a bad one."""
    pytest.importorskip("ray", reason="ray is not installed: pip install '.[cluster]'")
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(40):
        np.savez(folder / f"{i:02}.npz", magnitude=np.tile(magnitude(i % 7), 8), **FIELDS)
    (folder / "bad.npy").write_text("hello")
    return folder


def command(folder: Path, output: str, *options: str) -> list[str]:
    stream = ["--method", "stream", "--n-iter", "1"]
    arguments = ["invert", str(folder), "-o", str(folder.parent / output), *stream, *options]
    return [sys.executable, "-m", "rtspecinv", *arguments]


def start(folder: Path, output: str, *options: str) -> subprocess.Popen[str]:
    ray = ["--on", "ray", "--workers", "2", *options]
    return subprocess.Popen(
        command(folder, output, *ray), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(output: Path, n_files: int) -> None:
    for _ in range(2400):
        if len(list(output.glob("*.wav"))) >= n_files:
            return
        time.sleep(0.05)
    raise TimeoutError


def worker_pids(driver: int) -> list[int]:
    """Return the process ids of the actors of a run whose driver is this process: its descendants."""
    found, parents = [], {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            parents[int(path.name)] = int(fields[1])
            if (path / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                found.append(int(path.name))

    def is_below(pid: int) -> bool:
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    return [pid for pid in found if is_below(pid)]


@pytest.mark.soak
def test_a_killed_worker_and_a_killed_run_lose_nothing(many):
    output = many.parent / "killed"
    assert subprocess.run(command(many, "local"), capture_output=True, check=False).returncode == 1
    run = start(many, "killed")
    wait_for(output, 3)
    run.kill()
    run.communicate()
    time.sleep(3)  # the workers notice
    first = {path: path.stat().st_mtime_ns for path in output.glob("*.wav")}
    assert 3 <= len(first) < 40
    run = start(many, "killed")
    wait_for(output, len(first) + 3)
    workers = worker_pids(run.pid)
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    said, _ = run.communicate(timeout=200)
    assert run.returncode == 1
    assert re.search(r"\d+ written, \d+ skipped, 1 failed", said)
    sounds = sorted(path.name for path in (many.parent / "local").glob("*.wav"))
    assert sounds == sorted(path.name for path in output.glob("*.wav"))
    for name in sounds:
        assert (output / name).read_bytes() == (many.parent / "local" / name).read_bytes()
    assert all(path.stat().st_mtime_ns == before for path, before in first.items())
    assert [line["source"] for line in table(output / "results.csv")] == [f"{i:02}.npz" for i in range(40)]
    assert [line["source"] for line in table(output / "errors.csv")] == ["bad.npy"]
    assert not list(output.rglob("*.part"))


PIPELINE = """
import json, sys
import numpy as np, ray, torch
import rtspecinv
from rtspecinv.cluster import invert_dataset

ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
stft = rtspecinv.STFT(512, 128)

def spectrogram(row):
    samples = torch.from_numpy(np.sin(0.01 * (1 + row["id"]) * np.arange(3000 + 500 * (row["id"] % 3))))
    return {**row, "magnitude": stft.magnitude(0.3 * samples.float()).numpy()}

dataset = ray.data.range(20).map(spectrogram)
found = invert_dataset(dataset, stft=stft, sample_rate=8000, workers=1, batch_size=6)
rows = found.map(lambda row: {**row, "peak": float(np.abs(row["samples"]).max())}).take_all()
inverter = rtspecinv.StreamingInverter(stft)
for row in rows:
    expected = inverter.run(torch.from_numpy(spectrogram({"id": row["id"]})["magnitude"]))
    assert np.allclose(row["samples"], expected, atol=1e-4), row
    assert row["sc"] < -10 and row["sample_rate"] == 8000, row
    assert not row["error"] and 0.1 < row["peak"] < 0.6, row
print("rows", sorted(int(row["id"]) for row in rows) == list(range(20)))
"""


@pytest.mark.soak
def test_a_dataset_in_a_pipeline(many):
    done = subprocess.run([sys.executable, "-c", PIPELINE], capture_output=True, text=True, timeout=300)
    assert "rows True" in done.stdout, done.stderr[-3000:]
