"""Tests of masked arrays: hidden values are rejected, and masks without hidden values are accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import rtspecinv
from rtspecinv import ArraySink, MelConfig, PictureScale, StreamingInverter
from rtspecinv.live import transforms

STFT = rtspecinv.STFT(64, 16)
CONFIG = MelConfig(8000, 64, 16, n_mels=8)
RANDOM = np.random.default_rng(0)
SAMPLES = RANDOM.uniform(-0.5, 0.5, 500).astype("f4")
FRAMES = STFT.magnitude(torch.from_numpy(SAMPLES)).numpy()
MELS = rtspecinv.Mel(CONFIG)(torch.from_numpy(SAMPLES)).numpy()
SPECTRUM = STFT.analyze(torch.from_numpy(SAMPLES)).numpy()


def inverter(**options: Any) -> StreamingInverter:
    return StreamingInverter(STFT, engine="eager", n_iter=1, **options)


def saved(array: Any, folder: Any) -> bytes:
    path = folder / "a.npz"
    rtspecinv.save_spectrogram(path, array, STFT, sample_rate=8000)
    return path.read_bytes()


def written(array: Any, folder: Any) -> bytes:
    path = folder / "a.wav"
    with rtspecinv.FileSink(path, 8000) as sink:
        sink.write(array)
    return path.read_bytes()


def sunk(array: Any) -> Any:
    sink = ArraySink()
    sink.write(array)
    return sink.samples


DOORS: dict[str, tuple[Any, Callable[[Any, Any], Any]]] = {
    "push": (FRAMES[:, 0], lambda a, _: inverter().push(a)),
    "check": (FRAMES[:, 0], lambda a, _: inverter().check(a)),
    "push_many": (FRAMES, lambda a, _: inverter().push_many(a)),
    "a spectrum": (SPECTRUM, lambda a, _: inverter().push_many(a)),
    "reset": (np.array([True, False]), lambda a, _: inverter(batch_shape=(2,)).reset(a)),
    "invert": (FRAMES, lambda a, _: rtspecinv.invert(a, STFT, n_iter=1)),
    "invert, init": (SPECTRUM, lambda a, _: rtspecinv.invert(FRAMES, STFT, n_iter=1, init=a)),
    "invert, known": (SAMPLES[:99], lambda a, _: rtspecinv.invert(FRAMES, STFT, n_iter=1, known=a)),
    "invert_many": (FRAMES, lambda a, _: rtspecinv.invert_many([a], STFT, n_iter=1)[0]),
    "invert_blocks": (FRAMES, lambda a, _: torch.cat([*rtspecinv.invert_blocks(a.T, STFT, n_iter=1)], -1)),
    "Mel.inverse": (MELS, lambda a, _: rtspecinv.Mel(CONFIG).inverse(a)),
    "Mel.invert": (MELS, lambda a, _: rtspecinv.Mel(CONFIG).invert(a)),
    "MelInverter": (MELS, lambda a, _: rtspecinv.MelInverter(CONFIG, engine="eager").push_many(a)),
    "analysis": (SAMPLES, lambda a, _: rtspecinv.StreamingAnalysis(STFT).push(a)),
    "window": (np.hanning(64) + 0.1, lambda a, _: rtspecinv.STFT(64, 16, window=a).window),
    "mean": (np.zeros(8), lambda a, _: np.array(rtspecinv.Compression(mean=a).mean)),
    "transform": (FRAMES[:, 0], lambda a, _: transforms.Pitch(1.2)(a)),
    "gain": (np.zeros(33), lambda a, _: transforms.Gain(a)(FRAMES[:, 0])),
    "sink": (SAMPLES, lambda a, _: sunk(a)),
    "file sink": (SAMPLES, written),
    "listen": (SAMPLES, lambda a, _: rtspecinv.listen(a, sample_rate=8000, output=ArraySink()).samples),
    "listen to frames": (
        FRAMES,
        lambda a, _: rtspecinv.listen(a, stft=STFT, sample_rate=8000, output=ArraySink()).samples,
    ),
    "save": (FRAMES, saved),
    "diagnose": (FRAMES, lambda a, _: str(rtspecinv.diagnose(a))),
    "picture": (FRAMES, lambda a, _: PictureScale(8000, 64).levels(a)),
    "of a picture": (np.clip(FRAMES, 0, 1), lambda a, _: PictureScale(8000, 64).magnitude(a)),
    "play": (FRAMES, lambda a, _: rtspecinv.play(a.T, inverter(), sink := ArraySink()) and sink.samples),
}


@pytest.mark.parametrize("door", DOORS)
def test_hidden_values_are_rejected(door, tmp_path):
    values, call = DOORS[door]
    if door == "file sink":
        pytest.importorskip("soundfile", reason='soundfile is missing: pip install "rtspecinv[files]"')
    mask = np.zeros(values.shape, bool)
    expected = call(values, tmp_path)
    assert_same(call(np.ma.MaskedArray(values, mask), tmp_path), expected)
    assert_same(call(np.ma.MaskedArray(values), tmp_path), expected)
    mask.flat[3 % mask.size] = True
    hiding = np.ma.MaskedArray(values, mask)
    with pytest.raises(ValueError, match=r"has a mask that hides 1 of \d+ values: replace .*\.filled\(0\)"):
        call(hiding, tmp_path)
    call(hiding.filled(0 if door != "window" else 0.5), tmp_path)  # the advice of the error


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(found, torch.Tensor | np.ndarray):
        assert np.array_equal(np.asarray(found), np.asarray(expected))
    else:
        assert found == expected
