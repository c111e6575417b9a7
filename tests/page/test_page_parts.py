"""Tests of parts of the page without a browser: the ring of player.js, and the transforms, run by node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rtspecinv
from rtspecinv import transforms

PAGE = Path(rtspecinv.__file__).parent / "serve" / "page"
HERE = Path(__file__).parent
QUANTUM = 128  # number of samples per call of an AudioWorklet

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="node is missing: apt-get install nodejs")


def node(script: str, *arguments: object, **options: Any) -> Any:
    program = ["node", str(HERE / script), *map(str, arguments)]
    result = subprocess.run(program, capture_output=True, text=True, timeout=60, **options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(("ring", "hop"), [(512, 256), (1024, 256), (1000, 300), (8192, 64)])
def test_the_ring_plays_every_sample_once_and_counts_each_that_is_missing(ring, hop):
    """Hops are numbered samples 1, 2, 3, ... that come at random, sometimes much too late."""
    ran = node("ring.mjs", PAGE / "player.js", ring, hop)
    tape, stats = np.array(ran["tape"]), ran["stats"]
    played = tape[tape > 0]
    assert np.array_equal(played, np.arange(1, len(played) + 1))
    begin = int(np.flatnonzero(tape)[0])
    is_silent = tape[begin:] == 0
    gaps = np.count_nonzero(np.diff(is_silent.astype(int)) == 1)
    assert stats["played"] == len(played)
    assert (stats["silent"], stats["gaps"]) == (np.count_nonzero(is_silent), gaps)
    # Each hop is requested one ring length before it is due, so only a later hop causes a gap.
    asked, arrived = np.array(ran["asked"]), np.array(ran["arrived"])
    trips = np.full(len(asked), np.inf)
    trips[: len(arrived)] = arrived - asked[: len(arrived)]
    assert stats["lag"] == trips[: len(arrived)].max()
    due = np.flatnonzero(tape)[::hop]
    first = -(-ring // hop)  # earlier hops are present at the beginning
    assert (due - asked[: len(due)] >= ring)[first:].all()
    for start in 1 + begin + np.flatnonzero(np.diff(is_silent.astype(int)) == 1):
        missing = int(np.count_nonzero(tape[:start])) // hop  # number of the missing hop
        assert trips[missing] > ring
    assert (gaps > 0) == (ring < 8192)  # the latest hops take 46 quanta of 128 samples
    # There is no drift: a sample waits at most for the ring, a hop and the silence since then.
    assert len(asked) * hop - len(played) <= ring + QUANTUM + hop
    # All samples present are played, and the silence after them is not counted.
    assert ran["rest"] == list(range(len(played) + 1, len(arrived) * hop + 1))
    assert ran["after"]["silent"] == stats["silent"]


def test_transforms_are_those_of_the_package():
    random = np.random.default_rng(1)
    frames = random.random((6, 129)) ** 4
    frames[1, 20:60] = 0
    frames[2] = 0
    samples = random.standard_normal(1024)
    given = {"frames": frames.tolist(), "samples": samples.tolist()}
    given |= {"pitches": [0.5, 0.97, 1, 1.5, 3.7], "amounts": [0, 0.5, 0.99]}
    found = node("transforms.mjs", PAGE, input=json.dumps(given))

    def wanted(transform: Any) -> Any:
        return np.array([transform(frame) for frame in torch.from_numpy(frames)])

    for ratio, pitched in zip(given["pitches"], found["pitch"], strict=True):
        np.testing.assert_allclose(pitched, wanted(transforms.Pitch(ratio)), rtol=1e-9, atol=1e-12)
    for amount, smeared in zip(given["amounts"], found["smear"], strict=True):
        np.testing.assert_allclose(smeared, wanted(transforms.Smear(amount)), rtol=1e-12)
    assert np.array_equal(found["freeze"], frames[[0, 1, 2, 2, 4, 5]])
    np.testing.assert_allclose(found["magnitudes"], np.abs(np.fft.rfft(samples)), rtol=1e-5, atol=1e-4)
