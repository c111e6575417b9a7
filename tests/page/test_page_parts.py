"""Tests of parts of the page without a browser, run by node: the ring, the transforms, the C kernel."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import c_kernel
import numpy as np
import pytest
import torch

import rtspecinv
from rtspecinv import STFT, StreamingInverter, transforms
from rtspecinv.kernel import kernel_plan
from rtspecinv.measure.clip import render

PAGE = Path(rtspecinv.__file__).parent / "serve" / "page"
HERE = Path(__file__).parent
QUANTUM = 128  # number of samples per call of an AudioWorklet

MOST_BYTES = 40_000  # of push.wasm

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is missing: apt-get install nodejs")


def node(script: str, *arguments: object, **options: Any) -> Any:
    program = ["node", str(HERE / script), *map(str, arguments)]
    result = subprocess.run(program, capture_output=True, text=True, timeout=60, **options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@needs_node
@pytest.mark.parametrize(("ring", "hop"), [(512, 256), (1024, 256), (1000, 300), (8192, 64)])
def test_the_ring_plays_every_sample_once_and_counts_each_that_is_missing(ring, hop):
    """The samples of hops are the numbers 1, 2, 3, ...; hops arrive at random times, some much too late."""
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


@needs_node
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


@needs_node
@pytest.mark.parametrize(("n_fft", "hop_length"), [(1024, 256), (1024, 512)])
def test_the_kernel_of_the_page_is_that_of_a_c_compiler_bit_for_bit(n_fft, hop_length, tmp_path):
    stft = STFT(n_fft, hop_length)
    inverter = StreamingInverter(stft, engine="eager")
    S = stft.magnitude(torch.from_numpy(render())[3000 : 3000 + 40 * hop_length])
    plan, frames, hops = (tmp_path / name for name in ("plan", "frames", "hops"))
    plan.write_bytes(kernel_plan(inverter))
    frames.write_bytes(S.mT.contiguous().numpy().tobytes())
    found = node("kernel.mjs", PAGE, plan, frames, hops)
    samples = np.fromfile(hops, np.float32)
    if c_kernel.MISSING:  # else it is compared with the reference in tests/engines/test_c_kernel.py
        assert np.abs(samples).max() > 0.1
    else:
        assert np.array_equal(samples, c_kernel.Stream(inverter).run(S))
    assert found["imports"] == 0
    assert found["again"]
    assert found["negative"] == "A magnitude is negative, not a number or too large"
    assert found["cut"] == "The plan is not whole"
    n_flush = inverter.latency + inverter.length(0)
    assert found["sizes"] == [hop_length, stft.n_freq, inverter.latency, n_flush, inverter.n_iter]


def test_the_kernel_of_the_page_is_small_and_made_of_its_source(tmp_path):
    """The file contains the version of its compiler; the same version compiles the same bytes."""
    shipped = (PAGE / "push.wasm").read_bytes()
    assert len(shipped) <= MOST_BYTES
    maker = re.search(rb"clang.([\d.]+)", shipped)
    assert maker
    clang, make = shutil.which("clang"), shutil.which("make")
    if not clang or not make or not shutil.which("wasm-ld"):
        pytest.skip("clang, lld or make is missing: apt-get install clang lld make")
    version = subprocess.run([clang, "--version"], capture_output=True, text=True, check=True).stdout
    if f"version {maker[1].decode()}" not in version:
        pytest.skip(f"push.wasm is made by clang {maker[1].decode()}, this is {version.splitlines()[0]}")
    made = tmp_path / "push.wasm"
    root = PAGE.parents[2]
    subprocess.run([make, "-C", str(root), "--silent", "wasm", f"WASM={made}"], check=True)
    assert made.read_bytes() == shipped, "the source has changed: run make wasm"
