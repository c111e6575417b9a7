"""Tests of the Triton kernels of the engine `cuda_graph` against plain torch, on a CPU interpreted."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from interpreted import INTERPRET
from torch import Tensor

from rtspecinv.engines.gpu import fused

kernels = pytest.importorskip("rtspecinv.engines.gpu.kernels", reason="triton is missing: pip install triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
N_OPEN, N_FFT, N_HALF = 3, 12, 7


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `fused` use plain torch on a GPU, too; elsewhere, interpret the kernels that tests call."""
    if DEVICE == "cpu":
        monkeypatch.setenv(INTERPRET, "1")
    monkeypatch.setattr(fused, "_kernels", lambda like: None)


def noise(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + math.prod(shape))
    return torch.randn(*shape, generator=generator, dtype=dtype).to(DEVICE)


def agree(one: list[Tensor], other: list[Tensor]) -> None:
    for found, expected in zip(one, other, strict=True):
        assert (found - expected).abs().max() <= 30 * torch.finfo(found.dtype).eps * expected.abs().max()


@PRECISIONS
@pytest.mark.parametrize("n_slots", [1, 2, 3])
@pytest.mark.parametrize("has_s", [True, False])
def test_rule(dtype, n_slots, has_s):
    x, a = noise(2, n_slots, N_OPEN, N_HALF, 2, dtype=dtype), noise(2, N_OPEN, N_HALF, 2, dtype=dtype)
    goal, signs = noise(2, N_OPEN, N_HALF, dtype=dtype, seed=1).abs(), noise(N_HALF, dtype=dtype).sign()
    scale = torch.finfo(dtype).max ** 0.6  # its square overflows, and that of its inverse underflows
    x[0, :, 0] *= scale
    x[0, :, 1] /= scale
    x[1, :, 1, 2:4] = 0
    if has_s:  # values that are 0 before P_M are also 0 after the sums
        a[1, 1, 2:4] = 0
    s = a.flip(0).flip(1) if has_s else None
    numbers = noise(N_OPEN, (n_slots if has_s else 0) + 2, 2 + n_slots, dtype=dtype)
    if not has_s:
        numbers[:, -2, :2] = 0
    numbers[:, -1, 0] = numbers[:, -2, 0] = numbers[:, -2, 1] = 0
    found: Any
    expected: Any
    found, expected = ([t.clone() for t in (x, a, a)] for _ in range(2))
    kernels.launch_rule(*found, s, goal, signs, numbers)
    fused.rule(expected[0], expected[1], expected[2], s, goal, signs, numbers)
    # Where terms cancel, the phase of a sum depends on rounding; these random terms do not cancel.
    agree([t[i, ..., k, :, :] for t in found for i in range(2) for k in range(N_OPEN)],
          [t[i, ..., k, :, :] for t in expected for i in range(2) for k in range(N_OPEN)])  # fmt: skip
    assert torch.allclose(torch.linalg.vector_norm(found[1], dim=-1), goal)


def overlapping(dtype: torch.dtype, hop_length: int, n_open: int) -> dict[str, Tensor]:
    n_samples = (n_open - 1) * hop_length + N_FFT
    present = torch.ones(2, n_open, dtype=dtype, device=DEVICE)
    present[1, 0] = 0
    return {
        "frames": noise(2, n_open, N_FFT, dtype=dtype),
        "committed": noise(2, n_samples, dtype=dtype),
        "coverage": noise(2, n_samples, dtype=dtype, seed=1).abs(),
        "present": present,
        "windows": noise(5, N_FFT, dtype=dtype).abs(),
        "floors": torch.tensor([0.4, 0.2], dtype=dtype, device=DEVICE),
    }


@PRECISIONS
@pytest.mark.parametrize(("hop_length", "n_open", "n_heard"), [(3, 4, 3), (5, 3, 0), (12, 2, 12), (4, 1, 0)])
@pytest.mark.parametrize("compensated", [True, False])
@pytest.mark.parametrize("newest_only", [True, False])
def test_overlap(dtype, hop_length, n_open, n_heard, compensated, newest_only):
    given: Any = overlapping(dtype, hop_length, n_open).values()
    options: Any = (hop_length, n_heard, compensated, newest_only)
    agree([kernels.launch_overlap(*given, *options)], [fused.overlap(*given, *options)])


@PRECISIONS
@pytest.mark.parametrize(
    ("hop_length", "n_open", "n_heard", "n_fade"), [(3, 4, 6, 2), (5, 3, 0, 0), (12, 2, 12, 0), (4, 1, 0, 3)]
)
def test_commit(dtype, hop_length, n_open, n_heard, n_fade):
    given = overlapping(dtype, hop_length, n_open)
    *head, windows, floors = given.values()
    expected, fade = noise(2, n_fade, dtype=dtype), noise(n_fade, dtype=dtype)
    good = torch.tensor([True, False], device=DEVICE)
    committed = given["committed"]
    outs = [
        [torch.full_like(t, torch.nan) for t in (committed, committed, expected)]
        + [committed.new_full((2, hop_length), torch.nan)]
        for _ in range(2)
    ]
    for function, out in zip((kernels.launch_commit, fused.commit), outs, strict=True):
        function(*head, expected, windows, floors, fade, good, n_heard, *out)
    agree([t for t in outs[0] if t.numel()], [t for t in outs[1] if t.numel()])
    assert not outs[0][-1][1].any()


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rtspecinv.engines.gpu import kernels

def compiled(kernel, pointers, **constants):
    names = [parameter.name for parameter in kernel.params]
    signature = {name: pointers.get(name, "i32") for name in names} | dict.fromkeys(constants, "constexpr")
    triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))

for number, tiny in (("*fp32", 2.0**-126), ("*fp64", 2.0**-1022)):
    numbers = dict.fromkeys("x a y s goal signs numbers".split(), number)
    for n_slots, has_s in ((1, True), (3, True), (2, False)):
        compiled(kernels._rule, numbers, N_SLOTS=n_slots, HAS_S=has_s, TINY=tiny, BLOCK=kernels.BLOCK)
    numbers = dict.fromkeys("frames committed coverage present windows floors out".split(), number)
    for compensated, newest_only in ((True, True), (True, False), (False, True), (False, False)):
        options = {"COMPENSATED": compensated, "NEWEST_ONLY": newest_only, "BLOCK": kernels.BLOCK}
        compiled(kernels._overlap, numbers, N_OVERLAPS=4, **options)
    given = "frames committed coverage present expected windows floors fade"
    numbers = dict.fromkeys(f"{given} new_committed new_coverage new_expected hop".split(), number)
    compiled(kernels._commit, numbers | {"good": "*u8"}, N_OVERLAPS=4, BLOCK=kernels.BLOCK)
"""


@pytest.mark.slow
def test_kernels_compile_without_a_gpu(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop(INTERPRET, None)
    subprocess.run([sys.executable, "-c", COMPILE], env=environment, check=True)
