"""Measures a push as a file in other programs; see docs/export.md.

python bench/export.py            prints the table
python bench/export.py --write    also writes it into bench/README.md and docs/export.md

It needs the extras `export` and `test`, and for the row of onnxruntime-web `npm ci --prefix tests/export`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import protocol
import torch
from page import ROOT, named, run, summarise
from protocol import STANDARD
from tables import Bench, db, table
from torch import Tensor

import rtspecinv
from rtspecinv.export.step import Step

HOST = ROOT / "tests" / "export" / "host.mjs"
USUAL: dict[str, Any] = {"look_ahead": 3, "n_iter": 8}
RULES = ("raar", "gla", "fgla")
PRESET = "hifigan-22k"
N_TIMED, N_COMPARED = 400, 120  # pushes
Program = Callable[..., list[Tensor]]
HEADER = ["frames", "program", "file, KB", "push, ms: least", "median"]
HEADER += ["difference: median", "largest", "SC dB"]


def export_push(bench: Bench) -> str:
    """A push as a file, in other programs.

    The setting is 1024/256 at 22.05 kHz, look_ahead 3 and 8 iterations. Times are those of 400 pushes of one
    stream on one thread. "Difference" compares 120 pushes of the first
    clip with `eager`, each from the same state; it is the largest of the hop, relative to the hop's peak. SC
    is defined as in table "stream quality", for mel frames against the mel values of the clips; the clips
    are streams of one run. A hop lasts 11.6 ms. Targets for onnxruntime are 1.5 ms, 1000 KB, a difference
    of at most 1e-5, and an SC within 0.5 dB of that of `eager`.
    """
    rows = [row for rule in RULES for row in of_magnitudes(bench, rule)]
    return table(HEADER, rows + of_mel(bench))


def of_magnitudes(bench: Bench, rule: str) -> list[list[str]]:
    """Return rows for magnitudes and one rule: the engines, and the programs that run the file."""
    magnitude = bench.magnitude(STANDARD)

    def inverter(engine: str, *batch_shape: int) -> rtspecinv.StreamingInverter:
        return STANDARD.inverter(update=rule, engine=engine, batch_shape=batch_shape, **USUAL)

    def convergence(samples: Tensor) -> str:
        return db(protocol.convergence(STANDARD, samples, magnitude))

    programs = ("numba", "eager", "onnxruntime", "onnxruntime-web", "torch.export")
    kept = programs if rule == RULES[0] else programs[1:3]
    return rows_of(f"magnitudes, {rule}", kept, magnitude, inverter, convergence)


def of_mel(bench: Bench) -> list[list[str]]:
    """Return rows for mel frames."""
    preset = rtspecinv.presets[PRESET]
    mel = preset(bench.clips(STANDARD).samples)
    values = preset.expand(mel)

    def inverter(engine: str, *batch_shape: int) -> rtspecinv.StreamingInverter:
        return preset.inverter(engine=engine, batch_shape=batch_shape, **USUAL)

    def convergence(samples: Tensor) -> str:
        return db(rtspecinv.metrics.sc(preset.linear(samples), values[..., : preset(samples).shape[-1]]))

    return rows_of(f"mel, {PRESET}", ("numba", "eager", "onnxruntime"), mel, inverter, convergence)


def rows_of(
    title: str,
    programs: tuple[str, ...],
    frames: Tensor,
    inverter: Callable[..., rtspecinv.StreamingInverter],
    convergence: Callable[[Tensor], str],
) -> list[list[str]]:
    """Return a row for each program; frames are `(n_clips, n_freq, n_frames)`."""
    rows, many = [], len(frames)
    with tempfile.TemporaryDirectory() as folder:
        for name in programs:
            if name in ("numba", "eager"):
                least, median = engine_times(inverter(name), frames[0])
                compared = differences(inverter("eager"), engine_program(inverter(name)), frames[0])
                quality = convergence(inverter(name, many).run(frames))
                rows.append([title, name, "", least, median, *compared, quality])
                continue
            path = Path(folder) / ("step.pt2" if name == "torch.export" else "step.onnx")
            if not path.exists():
                rtspecinv.export_step(inverter("eager"), path)
            size = f"{path.stat().st_size / 1000:.0f}"
            if name == "onnxruntime-web":
                rows.append([title, name, size, *web_times(path, frames[0]), "", "", ""])
                continue
            program = in_onnxruntime(path) if name == "onnxruntime" else in_torch(path)
            times = program_times(inverter("eager"), program, frames[0])
            compared = differences(inverter("eager"), program, frames[0])
            quality = convergence(streams(inverter("eager", many), program, frames))
            rows.append([title, name, size, *times, *compared, quality])
    return rows


def in_onnxruntime(path: Path) -> Program:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def program(*given: Tensor) -> list[Tensor]:
        fed = {name: value.numpy() for name, value in zip(names, given, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, fed)]

    return program


def in_torch(path: Path) -> Program:
    module = torch.export.load(path).module()

    def program(*given: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(module(*given))

    return program


def engine_program(inverter: rtspecinv.StreamingInverter) -> Program:
    """Return a push of another engine as a program; it starts from the state of the compared inverter."""

    def program(frame: Tensor, state: dict[str, Any]) -> list[Tensor]:
        inverter.load_state_dict(state)
        return [inverter.push(frame[0])[None]]

    return program


def differences(eager: rtspecinv.StreamingInverter, program: Program, frames: Tensor) -> list[str]:
    """Return median and largest difference of pushes from the same state, relative to the peak of the hop."""
    step, found = Step(eager), []
    is_engine = program.__qualname__.startswith("engine_program")
    for frame in frames.mT[:N_COMPARED].contiguous():
        state = (eager.state_dict(),) if is_engine else step.state_of(eager)
        hop = program(frame[None], *state)[0][0]
        expected = eager.push(frame)
        found.append(float((hop - expected).abs().max() / expected.abs().max().clamp_min(1e-30)))
    return [f"{value:.1e}" for value in (np.median(found), max(found))]


def streams(inverter: rtspecinv.StreamingInverter, program: Program, frames: Tensor) -> Tensor:
    """Return the samples of frames as `inverter.run` returns them, but computed by a program."""
    state = [torch.zeros(len(frames), *shape) for shape in Step(inverter).shapes.values()]
    n_samples = inverter.length(frames.shape[-1])
    hops: list[Tensor] = []
    for i in range(-(-(n_samples + inverter.latency) // inverter.stft.hop_length)):
        is_there = i < frames.shape[-1]
        frame = frames[..., i].contiguous() if is_there else torch.full_like(frames[..., 0], torch.nan)
        hop, *state = program(frame, *state)
        hops.append(hop)
    return torch.cat(hops, 1)[:, inverter.latency :][:, :n_samples]


def engine_times(inverter: rtspecinv.StreamingInverter, frames: Tensor) -> tuple[str, str]:
    return shown([timed(inverter.push, frame) for frame in repeated(frames)])


def program_times(inverter: rtspecinv.StreamingInverter, program: Program, frames: Tensor) -> tuple[str, str]:
    state = [torch.zeros(1, *shape) for shape in Step(inverter).shapes.values()]
    seconds = []
    for frame in repeated(frames):
        begin = time.perf_counter()
        _, *state = program(frame[None], *state)
        seconds.append(time.perf_counter() - begin)
    return shown(seconds)


def web_times(path: Path, frames: Tensor) -> tuple[str, str]:
    """Return times of pushes in onnxruntime-web under Node, if both are installed."""
    if not shutil.which("node") or not (HOST.parent / "node_modules").is_dir():
        return "", ""
    file = path.with_name("frames")
    np.stack([frame.numpy() for frame in repeated(frames)]).tofile(file)
    command = ["node", HOST, path, file, path.with_name("hops"), frames.shape[0]]
    done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    return f"{found['least_ms']:.2f}", f"{found['median_ms']:.2f}"


def repeated(frames: Tensor) -> list[Tensor]:
    many = frames.mT.contiguous()
    return [many[i % len(many)] for i in range(N_TIMED)]


def timed(function: Callable[[Tensor], object], frame: Tensor) -> float:
    begin = time.perf_counter()
    function(frame)
    return time.perf_counter() - begin


def shown(seconds: list[float]) -> tuple[str, str]:
    return f"{1000 * min(seconds):.2f}", f"{1000 * float(np.median(seconds)):.2f}"


def write_summary(name: str, bench: Bench) -> None:
    """Copy the table from bench/README.md into docs/export.md."""
    text = (ROOT / "bench" / "README.md").read_text().split("<!-- export:begin -->")[1]
    summarise("export", text.split("<!-- export:end -->")[0].split("\n\n", 2)[2].strip())


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", named(export_push), "export-push", "export", after=write_summary))
