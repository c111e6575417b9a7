"""Tests of a run of bench/gpu.py, on the CPU with a fake CUDA graph."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_cuda_graph
import pytest
import torch

from rtspecinv.measure import timing
from rtspecinv.measure.timing import Setting

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`bench/gpu.py` on tiny sizes without a GPU; packages that a bare machine lacks cannot be imported."""
    for name in ("soundfile", "soxr", "scipy", "tqdm"):
        monkeypatch.setitem(sys.modules, name, None)
    for path in BENCH.glob("gpu_*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])  # as for a script in this folder
    spec = importlib.util.spec_from_file_location("bench_gpu", BENCH / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small = Setting(22050, 128, 32, 1, 1)
    for name, value in {
        "DEVICE": "cpu",
        "ENGINES": ("cuda_graph", "eager"),
        "USUAL": small,
        "OTHERS": [Setting(22050, 64, 16, 1, 1)],
        "STREAMS": (1, 2),
        "N_PUSHES": 2,
        "CLIPS": ((1, 0.1), (64, 0.05)),
        "ITERATIONS": 2,
        "N_RUNS": 2,
    }.items():
        monkeypatch.setattr(module.common, name, value)
    monkeypatch.setattr("gpu_machine.N_NUMBERS", 2**10)
    monkeypatch.setattr(timing, "MOST_STREAMS", 2)
    for name in ("rtspecinv.batch.STREAM_ITER", "rtspecinv.mel.spectrogram.START_ITER"):
        monkeypatch.setattr(name, 1)
    fake_cuda_graph.on_cpu(monkeypatch)
    for name in ("synchronize", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    return module


class Event:
    def __init__(self, **_: Any) -> None:
        pass

    def record(self) -> None:
        pass

    def elapsed_time(self, other: Event) -> float:
        return 1.0


def test_a_whole_visit(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RTSPECINV_COMMIT", "abc1234")
    monkeypatch.setattr(gpu, "compiling", lambda emit: emit(engine="cuda_graph", what="all", seconds=1.0))
    done = []

    def run(command: list[str], seconds: float) -> None:
        done.append(command[-1])
        assert gpu.run_step(Path(command[2]), command[-1]) == 0

    monkeypatch.setattr(gpu, "in_a_process", run)
    monkeypatch.setattr("gpu_machine.shutil.which", lambda name: None)
    gpu.visit(tmp_path, list(gpu.steps()), 1e6)
    assert done == list(gpu.steps())
    rows = gpu.read(tmp_path)
    assert not [row for row in rows if "error" in row or "failed" in row]
    assert all(row["ok"] for row in rows if "ok" in row), [row for row in rows if row.get("ok") is False]
    gpu.visit(tmp_path, list(gpu.steps()), 1e6)  # all steps are done
    assert len(done) == len(gpu.steps())
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"step": "sizes", "cut')  # the machine was lost during a step
    tables = gpu.rendered(gpu.latest(gpu.read(tmp_path)))
    assert set(tables) >= {"gpu-goals", "gpu-checks", "gpu-times", "gpu-streams", "gpu-offline", "gpu-sizes"}
    assert "abc1234" in tables["gpu-checks"]
    assert "FAILED" not in tables["gpu-checks"]


def test_a_failed_step_does_not_stop_the_others(gpu, tmp_path, monkeypatch):
    def broken(emit: Any) -> None:
        gpu.common.attempt(emit, lambda: {"value": 1 / 0}, what="first")
        emit(what="second", value=1)
        raise RuntimeError("an illegal address")

    steps = {"broken": (1.0, broken)}
    monkeypatch.setattr(gpu, "steps", lambda: steps)
    assert gpu.run_step(tmp_path, "broken") == 1
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert ["ZeroDivisionError" in rows[1]["error"], rows[2]["value"]] == [True, 1]
    assert "illegal" in rows[3]["failed"]
    steps["broken"] = (1.0, lambda emit: emit(what="third"))
    monkeypatch.setattr(gpu, "in_a_process", lambda command, _: gpu.run_step(tmp_path, command[-1]))
    gpu.visit(tmp_path, ["broken"], 1e6)  # is repeated
    assert [row.get("what") for row in gpu.latest(gpu.read(tmp_path))["broken"]] == ["third"]


def test_a_table_without_rows_states_it(gpu, tmp_path):
    tables = gpu.rendered(gpu.latest(gpu.read(tmp_path)))
    assert list(tables) == ["gpu-goals"]
    assert tables["gpu-goals"].count("not measured") == 8 + 1  # also in its caption
