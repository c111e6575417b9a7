"""Tests of tasks that invert spectrogram files."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from rtspecinv import STFT, StreamingInverter, invert_blocks, presets, save_spectrogram
from rtspecinv.blocks import BLOCK_FRAMES
from rtspecinv.files.opening import open_spectrogram
from rtspecinv.many.runner import carry_out
from rtspecinv.many.tasks import Inversion, Settings, prepare

TRANSFORM = STFT(256, 64)
COMPILING = 0.7  # seconds


def inverted(path: Path, **settings: Any) -> Inversion:
    """Return the task of a file when it has ended."""
    (task,) = carry_out([Inversion(path.name, partial(open_spectrogram, path), None, Settings(**settings))])
    if task.error is not None:
        raise task.error
    return task


@pytest.mark.parametrize(
    ("kind", "method"),
    [(kind, method) for kind in ("magnitude", "mel") for method in ("stream", "agla", "lbfgs")],
)
def test_seconds_of_work_do_not_contain_compiling(tmp_path, monkeypatch, kind, method):
    path = tmp_path / "a.npz"
    began: list[bool] = []
    samples = torch.randn(4000, generator=torch.Generator().manual_seed(0)) / 10
    transform: Any = TRANSFORM if kind == "magnitude" else presets["hifigan-22k"]
    values = transform.magnitude(samples) if kind == "magnitude" else transform(samples)
    save_spectrogram(path, values, transform, sample_rate=22050)
    prepare.cache_clear()  # as in a new process
    push_many = StreamingInverter.push_many

    def compiles_first(*arguments: Any, **options: Any) -> Any:
        if not began:
            began.append(True)
            time.sleep(COMPILING)
        return push_many(*arguments, **options)

    monkeypatch.setattr(StreamingInverter, "push_many", compiles_first)
    task = inverted(path, method=method, n_iter=1)
    assert began
    assert 0 < task.work_seconds < COMPILING


@pytest.mark.parametrize("n_frames", [100, BLOCK_FRAMES + 10])
def test_rules_give_the_samples_of_blocks(tmp_path, n_frames):
    magnitude = torch.rand(2, TRANSFORM.n_freq, n_frames, generator=torch.Generator().manual_seed(0))
    save_spectrogram(tmp_path / "a.npz", magnitude, TRANSFORM, sample_rate=22050)
    task = inverted(tmp_path / "a.npz", method="agla", n_iter=2)
    expected = torch.cat(list(invert_blocks(magnitude.unbind(-1), TRANSFORM, n_iter=2)), -1)
    assert torch.equal(torch.from_numpy(task.samples), expected)
