"""Tests of `rtspecinv bench`: its numbers, its files and its errors."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import rtspecinv
from rtspecinv.cli import _bench as bench
from rtspecinv.cli import _names as names
from rtspecinv.cli import main
from rtspecinv.measure import c_reference, table, timing
from rtspecinv.measure.clip import render
from rtspecinv.measure.quality import EDGE_FRAMES
from rtspecinv.measure.timing import Runner, Setting

SMALL = Setting(22050, 256, 64, 3, 1)
QUICK = ["bench", "--engines", "eager", "--transforms", "256/64", "--pushes", "20", "--streams", "1,2"]
TOLERANCE_DB = 1e-3  # largest difference between two computations of the convergence


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(timing, "WARM_UP", 4)
    monkeypatch.setattr(names, "BENCH_SECONDS", 1.0)


@pytest.fixture(scope="module")
def magnitude() -> torch.Tensor:
    return SMALL.stft().magnitude(torch.from_numpy(render()).float()[:22050])


class Clock:
    """Fake clock that pushes advance: a push of n streams takes n ms, and some pushes take longer."""

    def __init__(self, monkeypatch, every=0, late_ms=0):
        self.now = 0.0
        self.n_pushes = 0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

        def push(inverter, frame):
            self.n_pushes += 1
            late = late_ms if every and self.n_pushes % every == 0 else 0
            self.now += 1e-3 * (int(np.prod(inverter.batch_shape)) + late)

        monkeypatch.setattr(rtspecinv.StreamingInverter, "push", push)


def test_figures_are_those_of_the_clock(monkeypatch, magnitude):
    Clock(monkeypatch, every=10, late_ms=100)
    (record,) = timing.measure([Runner("eager")], SMALL, magnitude, streams=3, n_pushes=1000)
    expected = {"least_us": 3e3, "p50_us": 3e3, "p95_us": 103e3, "p99_us": 103e3, "max_us": 103e3}
    assert {name: round(getattr(record, name)) for name in expected} == expected
    assert record.pushes == 1000
    assert record.real_time_factor == pytest.approx(13e-3 / SMALL.hop_seconds)  # the mean, not the median


@pytest.mark.parametrize(("hop_ms", "streams"), [(0.5, 0), (1.5, 1), (3.5, 3), (100.5, 100)])
def test_most_streams(monkeypatch, magnitude, hop_ms, streams):
    """A stream takes 1 ms, so the duration of a hop in ms is the number of streams; it is found to 6 %."""
    Clock(monkeypatch)
    setting = Setting(64000, 256, round(64 * hop_ms), 0, 0)
    monkeypatch.setattr(Setting, "stft", lambda setting, device: rtspecinv.STFT(256, 64))
    limit = timing.most_streams(Runner("eager"), setting, magnitude, n_pushes=100)
    assert streams * (1 - 1 / 16) - 1 < limit.streams <= streams
    assert (limit.p99_us is None) == (streams == 0)
    assert limit.p99_us is None or limit.p99_us < 1e6 * setting.hop_seconds


def test_one_in_a_hundred_may_be_late(monkeypatch, magnitude):
    for every, keeps_up in ((200, True), (20, False)):
        Clock(monkeypatch, every=every, late_ms=1000)
        setting = Setting(22050, 256, 64, 0, 0)  # 2.9 ms
        assert (timing.most_streams(Runner("eager"), setting, magnitude, 2000).streams > 0) == keeps_up


@pytest.mark.parametrize("error", [MemoryError, torch.cuda.OutOfMemoryError])
def test_streams_that_do_not_fit_do_not_keep_up(monkeypatch, magnitude, error):
    """A push needs more memory than the inverter, and an error of memory ends the search."""

    def push(inverter, frame):
        if inverter.batch_shape[0] > 5:
            raise error

    Clock(monkeypatch)
    monkeypatch.setattr(rtspecinv.StreamingInverter, "push", push)
    assert timing.most_streams(Runner("eager"), SMALL, magnitude, n_pushes=100).streams == 5


def test_every_stream_gets_other_frames(magnitude):
    frames = timing._frames(Runner("eager").inverter(SMALL, 3), magnitude)
    assert len(frames) == magnitude.shape[-1]
    assert torch.equal(frames[5][0], magnitude[:, 5])
    assert torch.equal(frames[5][2], magnitude[:, 19])


def test_convergence_is_that_of_the_sound(magnitude):
    clips = torch.stack([magnitude, magnitude.flip(-1)])
    inverter = Runner("eager").inverter(SMALL, 2)
    samples = torch.cat([inverter.push_many(clips), inverter.flush()], -1)[..., inverter.latency :]
    inner = slice(EDGE_FRAMES, -EDGE_FRAMES)
    actual = torch.stft(samples, 256, 64, window=torch.hann_window(256), return_complex=True).abs()
    both = zip(actual[..., inner], clips[..., inner], strict=True)
    expected = sum(float(rtspecinv.metrics.sc(*pair)) for pair in both) / 2
    assert timing.convergence(Runner("eager"), SMALL, clips) == pytest.approx(expected, abs=TOLERANCE_DB)
    assert timing.convergence(Runner("eager"), SMALL, 0 * clips) is None


def test_engines_are_found_by_trying():
    names = {runner.engine for runner in timing.runners(["all"], ["cpu"], SMALL)}
    assert "eager" in names
    assert names <= set(rtspecinv.engines.ENGINES) - {"auto"}
    (auto,) = timing.runners(["auto", "auto"], ["cpu"], SMALL)
    assert auto.engine == rtspecinv.StreamingInverter(SMALL.stft()).engine
    with pytest.raises(ValueError, match="eagre"):
        timing.runners(["eagre"], ["cpu"], SMALL)


def test_the_command(tmp_path, capsys):
    numbers, plot = tmp_path / "bench.json", tmp_path / "bench.png"
    assert main([*QUICK, "--n-iter", "1,2", "--json", str(numbers), "--plot", str(plot)]) == 0
    found = json.loads(numbers.read_text())
    settings = [(r["n_iter"], r["streams"], r["pushes"]) for r in found["records"]]
    assert settings == [(1, 1, 20), (1, 2, 20), (2, 1, 20)]
    for r in found["records"]:
        assert 0 < r["least_us"] <= r["p50_us"] <= r["p95_us"] <= r["p99_us"] <= r["max_us"]
        assert r["sc_db"] < -10
        assert r["c_reference_us"] is None
    assert found["records"][2]["sc_db"] < found["records"][0]["sc_db"]
    assert len(found["limits"]) == 1
    assert found["facts"].keys() >= {"commit", "processor", "torch", "python", "cores", "date"}
    assert found["facts"]["torch"] == torch.__version__
    with Image.open(plot) as image:
        assert image.format == "PNG"
        assert len(set(image.convert("L").tobytes())) > 10
    out = capsys.readouterr().out
    assert re.search(r"^eager +256/64 ", out, re.MULTILINE)
    assert "keep up on 1 core" in out
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["bench.json", "bench.png"]


def test_every_setting_with_every_number_of_streams(capsys):
    assert main([*QUICK, "--n-iter", "1,0", "--every"]) == 0
    rows = [line.split()[3:5] for line in capsys.readouterr().out.splitlines() if line.startswith("eager   ")]
    assert rows == [["1", "1"], ["1", "2"], ["0", "1"], ["0", "2"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "{folder}/none/bench.json"], "cannot be written"),
        (["--json", "{folder}"], "cannot be written"),
        (["--json", os.devnull], "cannot be written"),
        (["--plot", "{folder}/bench.jpg"], "is not a name of a .png file"),
        (["--pushes", "0"], "pushes=0 needs integers >= 1"),
        (["--pushes", "1" + "0" * 15], "pushes=1000000000000000 is more than 10000000"),
        (["--threads", "0"], "threads=0 is not an integer >= 1"),
        (["--threads", "1000000"], "threads=1000000 is more than the"),
        (["--streams", "0"], "streams=[0] needs integers >= 1"),
        (["--n-iter", "-1"], "n_iter=-1"),
        (["--engines", "eagre"], "eagre"),
        *([] if torch.cuda.is_available() else [(["--device", "cuda"], "device='cuda' is not available")]),
        (["--engines", ""], "engines is empty"),
        (["--transforms", "256/512"], "hop_length"),
        (["--transforms", "262144/65536"], "too few"),
        (["--c-reference", "{folder}/none.c"], "does not exist"),
        (["{folder}/none.wav"], "none.wav"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(monkeypatch, tmp_path, capsys, options, message):
    monkeypatch.setattr(timing, "push_seconds", lambda *a, **k: pytest.fail("measured"))
    assert main([*QUICK, *(option.format(folder=tmp_path) for option in options)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("rtspecinv: error: ")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_written_to(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench.os, "access", lambda path, mode: path != tmp_path)
    monkeypatch.setattr(timing, "push_seconds", lambda *a, **k: pytest.fail("measured"))
    assert main([*QUICK, "--json", str(tmp_path / "bench.json")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_invalid_lists_are_rejected(capsys):
    for option in (["--streams", "many"], ["--transforms", "256"], ["--transforms", "256/64/2"]):
        with pytest.raises(SystemExit):
            main([*QUICK, *option])
        assert f"argument {option[0]}" in capsys.readouterr().err


def test_interrupted_files_are_absent_and_threads_are_restored(monkeypatch, tmp_path):
    before = torch.get_num_threads()
    monkeypatch.setattr(bench.os, "cpu_count", lambda: 2)

    def interrupt(*_, **__):
        assert torch.get_num_threads() == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(timing, "push_seconds", lambda *_, **__: np.ones(1))
    monkeypatch.setattr(timing, "convergence", lambda *_: None)
    monkeypatch.setattr(timing, "most_streams", interrupt)
    assert main([*QUICK, "--n-iter", "1", "--threads", "2", "--json", str(tmp_path / "bench.json")]) == 130
    assert torch.get_num_threads() == before
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_c_reference(monkeypatch, tmp_path):
    monkeypatch.setattr(c_reference, "_LIBRARIES", ())
    source = tmp_path / "reference.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n"
        "int main(int n, char **v) { if (atoi(v[4]) > 99) return 1;"
        ' printf("%d.5\\n", atoi(v[1]) + atoi(v[2]) + atoi(v[3]) + atoi(v[4])); return 0; }\n'
    )
    with c_reference.built(source) as program:
        assert program.seconds(1024, 256, 3, 8) == pytest.approx(1291.5e-6)
        with pytest.raises(OSError, match="status 1"):
            program.seconds(1024, 256, 3, 100)
    assert not program.program.exists()
    source.write_text("int main( { }")
    with pytest.raises(OSError, match=r"reference.c cannot be compiled.*error"), c_reference.built(source):
        pass


def test_c_reference_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(c_reference.shutil, "which", lambda name: None)
    (tmp_path / "reference.c").touch()
    with pytest.raises(OSError, match="There is no C compiler"), c_reference.built(tmp_path / "reference.c"):
        pass


def test_per_stream_and_per_core():
    record = timing._record("eager", "cpu", SMALL, 4, np.full(10, 2e-3))
    ratio = next(column for column in table.COLUMNS if column.title == "least / C")
    assert ratio.text(record) == ""
    assert ratio.text(table.replace(record, c_reference_us=250.0)) == "2.00"


@pytest.mark.parametrize("on_terminal", [True, False])
def test_what_the_library_logs_is_noted_and_details_on_a_terminal(monkeypatch, capsys, on_terminal):
    log, before = logging.getLogger("rtspecinv"), len(logging.getLogger("rtspecinv").handlers)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: on_terminal, raising=False)

    def table() -> str:
        log.warning("compiling %s", "it")
        log.info("compiled %s", "it")
        return "none"

    monkeypatch.setattr("rtspecinv.cli._devices.device_table", table)
    assert main(["devices"]) == 0
    details = "rtspecinv: compiled it\n" if on_terminal else ""
    assert capsys.readouterr().err == f"rtspecinv: compiling it\n{details}"
    assert (log.level, len(log.handlers)) == (logging.NOTSET, before)
