"""Tests of exported pushes in other programs: onnxruntime, torch.export.load, onnxruntime-web in Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

import rtspecinv
from rtspecinv import STFT, MelConfig, MelInverter, StreamingInverter, export_step, phase
from rtspecinv.cli import main
from rtspecinv.export.files import ABOUT
from rtspecinv.export.step import Step
from rtspecinv.measure import clip
from rtspecinv.measure.quality import inner_convergence

HERE = Path(__file__).parent
Run = Callable[..., list[Tensor]]
N_CLIPS = 5


def in_onnxruntime(path: Path) -> Run:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is missing: pip install onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*given: Tensor) -> list[Tensor]:
        fed = dict(zip(names, (value.numpy() for value in given), strict=True))
        return [torch.from_numpy(value) for value in session.run(None, fed)]

    return run


@dataclass(frozen=True)
class Exported:
    inverter: StreamingInverter
    path: Path
    magnitude: Tensor  # (N_CLIPS, n_freq, n_frames)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exported:
    """Demo clip, and an inverter that is exported to ONNX."""
    pytest.importorskip("onnxscript", reason='onnx is missing: pip install "rtspecinv[export]"')
    stft = STFT(512, 128)
    inverter = StreamingInverter(stft, look_ahead=2, n_iter=1, engine="eager")
    path = tmp_path_factory.mktemp("exported") / "step.onnx"
    export_step(inverter, path, sample_rate=clip.SAMPLE_RATE)
    samples = torch.from_numpy(clip.render()).float()[: N_CLIPS * 22000].view(N_CLIPS, -1)
    return Exported(inverter, path, stft.magnitude(samples))


def agree(inverter: StreamingInverter, run: Run, frames: Tensor) -> None:
    """Compare pushes of frames `(n_frames, n_freq)` with eager, each from the same state."""
    step = Step(inverter)
    inverter.reset()
    for frame in frames:
        state = step.state_of(inverter)
        hop, *new = run(frame[None], *state)
        expected = inverter.push(frame)
        assert (hop[0] - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert [part.shape for part in new] == [part.shape for part in state]


def stream(step: Step, run: Run, magnitude: Tensor) -> Tensor:
    """Return the samples `(streams, n_samples)` of new streams, which get frames, then frames of NaN."""
    state = [torch.zeros(len(magnitude), *shape) for shape in step.shapes.values()]
    hops = []
    for frame in [*magnitude.unbind(-1), *[torch.full_like(magnitude[..., 0], torch.nan)] * 12]:
        hop, *state = run(frame.contiguous(), *state)
        hops.append(hop)
    return torch.cat(hops, 1)


def test_onnxruntime_agrees_with_eager_from_the_same_state(exported):
    agree(exported.inverter, in_onnxruntime(exported.path), exported.magnitude[1].mT[:40])


def test_the_spectral_convergence_of_streams_is_that_of_eager(exported):
    """The mean is compared, because rounding alone changes that of a short clip by up to 1 dB."""
    inverter, stft, magnitude = exported.inverter, exported.inverter.stft, exported.magnitude
    many = StreamingInverter(stft, look_ahead=2, n_iter=1, batch_shape=(N_CLIPS,), engine="eager")
    expected = many.run(magnitude)
    samples = stream(Step(inverter), in_onnxruntime(exported.path), magnitude)
    samples = samples[:, inverter.latency :][:, : expected.shape[1]]
    found, known = (inner_convergence(stft.magnitude(x), magnitude).mean() for x in (samples, expected))
    assert known < -20
    assert abs(found - known) < 0.5


def test_streams_do_not_depend_on_each_other(exported):
    step, run = Step(exported.inverter), in_onnxruntime(exported.path)
    few = exported.magnitude[1:4, :, 20:23]
    together, alone = stream(step, run, few), torch.cat([stream(step, run, one[None]) for one in few])
    assert (together - alone).abs().max() <= 1e-4 * alone.abs().max()


def test_an_onnx_file_has_the_names_and_facts_that_the_page_promises(exported):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is missing: pip install onnxruntime")
    session = runtime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    inverter, names = exported.inverter, list(Step(exported.inverter).shapes)
    assert [value.name for value in session.get_inputs()] == ["magnitude", *(f"state_{n}" for n in names)]
    assert [value.name for value in session.get_outputs()] == ["hop", *(f"next_{n}" for n in names)]
    assert session.get_inputs()[0].shape == ["streams", inverter.stft.n_freq]
    about = session.get_modelmeta().custom_metadata_map
    facts = {"sample_rate": clip.SAMPLE_RATE, "n_fft": 512, "hop_length": 128, "n_freq": 257, "n_iter": 1}
    facts |= {"latency": inverter.latency, "flush_samples": inverter.flush().shape[-1]}
    assert facts.items() <= {key: int(about[key]) for key in facts}.items()
    assert exported.path.stat().st_size < 1e6


def test_mel_frames_run_in_onnxruntime(tmp_path):
    pytest.importorskip("onnxscript", reason='onnx is missing: pip install "rtspecinv[export]"')
    config = MelConfig(
        sample_rate=8000, n_fft=96, hop_length=24, n_mels=12, preemphasis=0.9, fmin=0, fmax=4000
    )
    inverter = MelInverter(config, look_ahead=1, n_iter=1, engine="eager")
    export_step(inverter, tmp_path / "step.onnx")
    run = in_onnxruntime(tmp_path / "step.onnx")
    frames = 0.1 * torch.rand(9, 12, generator=torch.Generator().manual_seed(0))
    agree(inverter, run, frames)
    inverter.reset()
    assert not run(torch.full((1, 12), torch.nan), *Step(inverter).state_of(inverter))[0].any()


def test_torch_export_runs_it(tmp_path, capsys):
    """The command line writes the file."""
    path = tmp_path / "step.pt2"
    options = "--n-fft 128 --look-ahead 1 --n-iter 1 --update gla --sample-rate 8000"
    assert main(["export", *options.split(), "-o", str(path)]) == 0
    assert "latency       96 samples" in capsys.readouterr().out
    about = {ABOUT: ""}
    program = torch.export.load(path, extra_files=about).module()
    assert json.loads(about[ABOUT])["sample_rate"] == "8000"
    inverter = StreamingInverter(STFT(128, 32), update="gla", look_ahead=1, n_iter=1, engine="eager")
    frames = torch.rand(9, 65, generator=torch.Generator().manual_seed(0))
    agree(inverter, lambda *given: list(program(*given)), frames)


def test_onnxruntime_web_gives_the_hops_of_onnxruntime(exported, tmp_path):
    if not shutil.which("node"):
        pytest.skip("node is missing: apt-get install nodejs npm")
    if not (HERE / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is missing: npm ci --prefix tests/export")
    frames = exported.magnitude[1].mT[:6].contiguous().numpy()
    frames.tofile(tmp_path / "frames")
    command = ["node", HERE / "host.mjs", exported.path, tmp_path / "frames", tmp_path / "hops"]
    done = subprocess.run([*map(str, command), str(frames.shape[1])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    hops = torch.from_numpy(np.fromfile(tmp_path / "hops", np.float32))
    step, run = Step(exported.inverter), in_onnxruntime(exported.path)
    expected = stream(step, run, torch.from_numpy(frames).mT[None])[0, : len(hops)]
    assert (hops - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_an_error_leaves_an_earlier_file_as_it_is(tmp_path):
    path = tmp_path / "step.pt2"
    path.write_bytes(b"earlier")
    inverter = StreamingInverter(STFT(64, 16), init="peaks", engine="eager")
    with pytest.raises(ValueError, match="init='overlap'"):
        export_step(inverter, path)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_arguments_are_named(tmp_path):
    inverter = StreamingInverter(STFT(64, 16), engine="eager")
    with pytest.raises(ValueError, match=r"step\.txt.*\.onnx or \.pt2"):
        export_step(inverter, tmp_path / "step.txt")
    export_step(inverter, tmp_path / "STEP.PT2")
    assert torch.export.load(tmp_path / "STEP.PT2")
    with pytest.raises(TypeError, match=r"inverter.*StreamingInverter"):
        export_step(cast(Any, phase.Overlap()), tmp_path / "step.pt2")
    with pytest.raises(ValueError, match="sample_rate=0"):
        export_step(inverter, tmp_path / "step.pt2", sample_rate=0)
    with pytest.raises(FileNotFoundError, match="create the folder"):
        export_step(inverter, tmp_path / "missing" / "step.pt2")


def test_options_of_a_preset_are_not_repeated(tmp_path, capsys):
    arguments = ["--preset", "hifigan-22k", "--n-fft", "512", "-o", str(tmp_path / "step.pt2")]
    assert main(["export", *arguments]) == 1
    assert "--n-fft is part of the preset: leave it out" in capsys.readouterr().err
    assert rtspecinv.presets["hifigan-22k"].config.n_fft != 512
