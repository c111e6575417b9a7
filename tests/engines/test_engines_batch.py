"""Tests that compiled batch inversion agrees with plain torch within a tolerance, in any threads."""

from __future__ import annotations

import importlib.util
import sys
import threading
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sounds import SMALL, sound, transforms
from torch import Tensor

from rtspecinv import STFT, invert, invert_blocks
from rtspecinv.batch import Hybrid, Iteration
from rtspecinv.engines import EagerBatch, find_batch
from rtspecinv.metrics import spectral_convergence
from rtspecinv.updates import ADMM, RAAR, RULES, AcceleratedGriffinLim, DifferenceMap, GriffinLim

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("numba", "rocket_fft")),
    reason='numba or rocket-fft is missing: pip install "rtspecinv[fast]"',
)
# Relative to the largest magnitude, for float64 and float32, after at most four iterations: rules amplify
# rounding errors, some by more than 10 an iteration.
TOLERANCE, TOLERANCE_SINGLE = 1e-9, 2e-3
# Mean difference of spectral convergence, dB, over sixteen sounds after many iterations, when rounding errors
# have changed all bits.
TOLERANCE_LATER = 0.5

ALL = [
    *RULES.values(),
    RAAR(0.9, ramp=0.0, momentum=0.3),
    DifferenceMap(beta=0.8),
    ADMM(rho=0.5),
    GriffinLim(0.5),
    Hybrid(),
    Hybrid(GriffinLim(0.5), DifferenceMap(0.7), 0.5),
]


def given_start(magnitude: Tensor, seed: int = 0) -> Tensor:
    turns = torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(seed), dtype=magnitude.dtype)
    return torch.polar(magnitude + 0.1, 6 * turns)


def assert_agree(magnitude: Tensor, stft: STFT, tolerance: float, **options: Any) -> None:
    """Check that callbacks receive the same values."""
    seen: dict[str, list[Iteration]] = {"eager": [], "numba": []}
    for engine, so_far in seen.items():
        start = given_start(magnitude)
        invert(magnitude, stft, init=start, engine=engine, callback=so_far.append, **options)
    eager, compiled = seen.values()
    assert [now.number for now in eager] == [now.number for now in compiled]
    for one, other in zip(eager, compiled, strict=True):
        assert one.actual.shape == other.actual.shape
        assert one.samples.shape == other.samples.shape
        assert (one.actual - other.actual).abs().max() <= tolerance * one.target.abs().max()


@settings(max_examples=100, deadline=None)
@given(
    stft=transforms(),
    update=st.sampled_from(ALL),
    n_frames=st.sampled_from([1, 2, 3, 10, 17, 40]),
    batch=st.sampled_from([(), (3,), (2, 2)]),
    more=st.sampled_from([None, -3, 0, 2, 50]),
    n_known=st.sampled_from([0, 0, 7]),
    n_iter=st.integers(0, 4),
    every=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_agrees_with_plain_torch(stft, update, n_frames, batch, more, n_known, n_iter, every, seed):
    """This holds for every padding, odd n_fft, hops that do not divide it, shorter and longer results."""
    natural = (n_frames - 1) * stft.hop_length + stft.n_fft - 2 * stft.padding
    # Most of the spectrum of a constant frame is rounding error, and so are its phases. Few samples and their
    # padding may be constant, and so are repeated samples within a short window.
    assume(natural > 10 and not (stft.pad_mode == "replicate" and stft.win_length < stft.n_fft))
    generator = torch.Generator().manual_seed(seed)
    magnitude = torch.rand(*batch, stft.n_freq, n_frames, generator=generator, dtype=torch.float64) / 4
    known = torch.rand(*batch, n_known, generator=generator, dtype=torch.float64) if n_known else None
    length = None if more is None else natural + more
    options: dict[str, Any] = {
        "update": update,
        "n_iter": n_iter,
        "evaluate_every": every,
        "length": length,
        "known": known,
    }
    assert_agree(magnitude, stft, TOLERANCE, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_fft", [64, 100, 101, 128, 256, 512, 1024, 2048, 4096])
def test_every_length_has_its_transform(n_fft, dtype):
    stft = STFT(n_fft, n_fft // 4, dtype=dtype)
    magnitude = stft.magnitude(sound(9 * stft.hop_length).to(dtype))
    tolerance = TOLERANCE_SINGLE if dtype == torch.float32 else TOLERANCE
    for update in ("agla", "raar"):
        assert_agree(magnitude, stft, tolerance, update=update, n_iter=2)


@pytest.mark.parametrize("update", ["agla", "hybrid", "raar"])
def test_quality_is_equal_after_many_iterations(update):
    stft = STFT(256, 64)
    magnitude = stft.magnitude(sound(5000, 16).float())
    values = []
    for engine in ("eager", "numba"):
        samples = invert(magnitude, stft, update=update, init="random", n_iter=60, engine=engine)
        values.append(spectral_convergence(stft.magnitude(samples), magnitude))
    difference = values[1] - values[0]
    assert difference.mean().abs() < TOLERANCE_LATER
    assert (difference != 0).any()  # the code differs


@pytest.mark.parametrize("update", ["agla", "dm", DifferenceMap(beta=0.8), "hybrid"])
def test_threads_and_other_items_do_not_change_the_result(update):
    stft = STFT(1024, 256)
    for batch in ((), (2,)):  # blocks of one item, and of several
        magnitude = stft.magnitude(sound(40_000, *batch).float())
        options: dict[str, Any] = {"update": update, "init": "random", "n_iter": 5}
        expected = invert(magnitude, stft, **options)
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            assert torch.equal(invert(magnitude, stft, **options), expected)
            assert torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(before)
    alone = invert(magnitude[1], stft, **options)
    assert torch.equal(alone, expected[1])


def test_runs_in_threads_of_their_own():
    magnitudes = [SMALL.magnitude(sound(3000, 4, seed=seed)) for seed in range(4)]
    expected = [invert(m, SMALL, init="peaks", n_iter=20) for m in magnitudes]
    results: list[Tensor] = [torch.empty(0)] * 4

    def work(index: int) -> None:
        results[index] = invert(magnitudes[index], SMALL, init="peaks", n_iter=20)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(torch.equal, results, expected))


def test_tensors_kept_by_a_callback_do_not_change():
    magnitude = SMALL.magnitude(sound(500))
    seen: list[tuple[Iteration, Iteration]] = []

    def keep(now: Iteration) -> None:
        copied = Iteration(**{**vars(now), "samples": now.samples.clone(), "actual": now.actual.clone()})
        seen.append((now, copied))

    invert(magnitude, SMALL, n_iter=6, evaluate_every=1, callback=keep)
    assert len(seen) == 7
    assert all(torch.equal(now.samples, then.samples) for now, then in seen)
    assert all(torch.equal(now.actual, then.actual) for now, then in seen)


def test_gradients_use_plain_torch():
    magnitude = SMALL.magnitude(sound(500))
    gradients: list[Any] = []
    for engine in ("eager", "numba"):
        value = magnitude.clone().requires_grad_()
        samples = invert(value, SMALL, n_iter=3, init=given_start(magnitude), engine=engine)
        samples.square().sum().backward()
        gradients.append(value.grad)
    assert torch.equal(gradients[0], gradients[1])
    value = magnitude.clone().requires_grad_()
    with torch.no_grad():
        plain = invert(value, SMALL, n_iter=3)
    assert torch.equal(plain, invert(magnitude, SMALL, n_iter=3))
    assert not plain.requires_grad
    with torch.inference_mode():
        assert torch.equal(invert(SMALL.magnitude(sound(500)), SMALL, n_iter=3), plain)


def test_the_selected_engine():
    class Same(RAAR):
        pass

    class Other(RAAR):
        def step(self, state, p_m, p_c):
            return super().step(super().step(state, p_m, p_c), p_m, p_c)

    from rtspecinv.engines.cpu.batch import NumbaBatch

    rule, other = RAAR(ramp=0.0), Other(ramp=0.0)
    assert find_batch("auto", SMALL, (rule, Same()), 5, needs_grad=False) is NumbaBatch
    assert find_batch("auto", SMALL, (rule,), 5, needs_grad=True) is EagerBatch
    assert find_batch("eager", SMALL, (rule,), 5, needs_grad=False) is EagerBatch
    assert find_batch("auto", SMALL, (rule, other), 5, needs_grad=False) is EagerBatch
    magnitude = SMALL.magnitude(sound(300))
    assert invert(magnitude, SMALL, update=Other(), n_iter=2, init="peaks").isfinite().all()
    with pytest.raises(ValueError, match=r"engine='numba' has no compiled code for.*use 'auto'"):
        invert(magnitude, SMALL, update=other, engine="numba")
    with pytest.raises(ValueError, match="did you mean 'numba'"):
        invert(magnitude, SMALL, engine="nmba")


@pytest.mark.slow
def test_eager_uses_no_compiled_code(monkeypatch):
    """This includes the stream that a run starts from, and `invert_blocks`."""
    monkeypatch.setitem(sys.modules, "rtspecinv.engines.cpu.stream", None)
    monkeypatch.delattr("rtspecinv.engines.cpu.stream", raising=False)
    magnitude = SMALL.magnitude(sound(1500))
    plain = invert(magnitude, SMALL, n_iter=3, engine="eager")
    assert torch.equal(invert(magnitude, SMALL, n_iter=3), plain)
    with pytest.raises(ImportError, match=r'pip install "rtspecinv\[fast\]"'):
        invert(magnitude, SMALL, init="zeros", engine="numba")
    monkeypatch.undo()
    assert torch.equal(invert(magnitude, SMALL, n_iter=3, engine="eager"), plain)
    blocks: dict[str, Any] = {"block_frames": 40, "overlap_frames": 10, "n_iter": 2}
    eager, compiled = (
        torch.cat(list(invert_blocks(magnitude.mT, SMALL, engine=engine, **blocks)))
        for engine in ("eager", "numba")
    )
    assert eager.shape == compiled.shape
    assert spectral_convergence(SMALL.magnitude(compiled), SMALL.magnitude(eager)) < -10


def test_overflow_does_not_affect_other_items():
    """A rule that diverges does not change other items, and the best estimate is returned."""
    stft = STFT(100, 30)  # not a multiple of the width of a vector
    magnitude = stft.magnitude(sound(2000, 3).float())
    magnitude[::2] = 0
    actual: list[Tensor] = []
    samples = invert(
        magnitude,
        stft,
        update=AcceleratedGriffinLim(2.0, 2.0, 2.0),
        init="random",
        n_iter=1000,
        callback=lambda now: actual.append(now.actual) and None,
    )
    assert actual[-1][1].isnan().all()
    assert all((a[::2] == 0).all() for a in actual)
    assert samples.isfinite().all()
