"""Tests that engines agree with the reference within a tolerance, and of their selection."""

from __future__ import annotations

import copy
import importlib.util
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import torch
from banks import BANKS
from contract import run
from hypothesis import given, settings
from hypothesis import strategies as st

from rtspecinv import STFT, FilterBank, StreamingInverter
from rtspecinv.engines.eager import Eager
from rtspecinv.phase import Gradient, Overlap, Peaks
from rtspecinv.updates import ADMM, RAAR, RULES, DifferenceMap, GriffinLim

fast = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("numba", "rocket_fft")),
    reason='numba or rocket-fft is missing: pip install "rtspecinv[fast]"',
)
# Relative to the loudest sample, for float64 and float32, after few iterations and frames: rules amplify
# rounding errors, some by more than 10 per push.
TOLERANCE, TOLERANCE_SINGLE = 1e-6, 1e-3


def magnitudes(stft: STFT, *batch: int, n_frames: int = 6, seed: int = 0) -> torch.Tensor:
    n_samples = (n_frames - 1) * stft.hop_length + stft.n_fft - 2 * stft.padding
    samples = torch.randn(*batch, n_samples, generator=torch.Generator().manual_seed(seed), dtype=stft.dtype)
    return stft.magnitude(0.2 * samples)


def assert_agree(stft: STFT, magnitude: torch.Tensor, tolerance: float, **options: Any) -> None:
    eager, compiled = (
        run(StreamingInverter(stft, engine=engine, **options), magnitude) for engine in ("eager", "numba")
    )
    assert compiled.shape == eager.shape
    assert (compiled - eager).abs().max() <= tolerance * eager.abs().max()


@fast
@settings(max_examples=40, deadline=None)
@given(
    update=st.sampled_from(
        [*RULES.values(), RAAR(momentum=0.3), DifferenceMap(beta=0.8), ADMM(rho=0.5), GriffinLim(0.5)]
    ),
    init=st.sampled_from(["overlap", "overlap", "zeros", "peaks", "gradient", Gradient(delay=1)]),
    window=st.sampled_from(["hann", "hamming", "blackman"]),
    onesided=st.booleans(),
    normalized=st.booleans(),
    n_fft=st.one_of(st.integers(16, 600), st.sampled_from([128, 256, 512])),
    shorter=st.floats(0.5, 1.0),
    overlap=st.integers(3, 8),
    batch=st.sampled_from([(), (1,), (3,), (2, 2)]),
    look_ahead=st.integers(0, 4),
    revise=st.integers(0, 8),
    n_iter=st.integers(0, 2),
    bank=st.sampled_from([None, None, *BANKS]),
    power=st.sampled_from([1, 2]),
    joint=st.booleans(),
    seed=st.integers(0, 99),
)
def test_agrees_with_the_reference(
    update,
    init,
    window,
    onesided,
    normalized,
    n_fft,
    shorter,
    overlap,
    batch,
    look_ahead,
    revise,
    n_iter,
    bank,
    power,
    joint,
    seed,
):
    win_length = round(shorter * n_fft)
    stft = STFT(
        n_fft,
        win_length // overlap,
        win_length=win_length,
        window=window,
        center=False,
        onesided=onesided,
        normalized=normalized,
        dtype=torch.float64,
    )
    options: dict[str, Any] = {
        "update": update,
        "init": init,
        "look_ahead": max(look_ahead, 0 if isinstance(init, str) else init.n_waiting),
        "revise": 0 if update.textbook else min(revise, stft.look_back),
        "n_iter": n_iter,
        "batch_shape": batch,
        "joint": joint,
    }
    frames = magnitudes(stft, *batch, seed=seed)
    if bank is not None and update != DifferenceMap(beta=0.8):  # not compiled for bands
        options["bank"] = made = FilterBank(BANKS[bank](n_fft), power=power, dtype=torch.float64)
        frames = made.values(frames[..., : n_fft // 2 + 1, :])
    assert_agree(stft, frames, TOLERANCE, **options)


@fast
@settings(max_examples=30, deadline=None)
@given(
    init=st.sampled_from([Gradient(), Gradient(tolerance=0.1), Gradient(delay=1, tolerance=0.3), Peaks()]),
    span=st.sampled_from([0, 3, 12]),
    of_bands=st.booleans(),
    seed=st.integers(0, 99),
)
def test_starts_agree_at_any_range_of_levels(init, span, of_bands, seed):
    """Also where a loud bin has only quiet neighbours, and was far quieter in the frame before."""
    stft = STFT(64, 16, dtype=torch.float64)
    levels = torch.rand(2, 33, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    bank = FilterBank(torch.eye(33), dtype=torch.float64) if of_bands else None
    options: dict[str, Any] = {"init": init, "look_ahead": 1, "n_iter": 0, "batch_shape": (2,), "bank": bank}
    assert_agree(stft, 10 ** (1 - span * levels), TOLERANCE, **options)


@fast
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_fft", [64, 100, 101, 128, 256, 512, 1024, 2048, 4096, 8192])
def test_every_length_has_its_transform(n_fft, dtype):
    stft = STFT(n_fft, n_fft // 4, dtype=dtype)
    single = dtype == torch.float32
    tolerance = TOLERANCE_SINGLE if single else TOLERANCE
    assert_agree(stft, magnitudes(stft, n_frames=4), tolerance, update="gla", n_iter=1)


@fast
def test_threads_make_no_difference():
    stft = STFT(1024, 256)
    S = magnitudes(stft, 6)
    expected = run(StreamingInverter(stft, batch_shape=(6,)), S)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(run(StreamingInverter(stft, batch_shape=(6,)), S), expected)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@fast
def test_an_interrupt_waits_for_the_threads():
    """The threads write to memory that is freed afterwards, so even repeated Ctrl-C must wait for them."""
    from rtspecinv.engines.cpu.host import parallel_for

    done, main_thread = [], threading.main_thread().ident
    assert main_thread is not None
    presses = [
        threading.Timer(wait, signal.pthread_kill, (main_thread, signal.SIGINT)) for wait in (0.1, 0.2)
    ]

    begun = threading.Event()

    def part(thread: int, first: int, last: int) -> None:
        if thread:
            begun.set()
            time.sleep(0.5)
            done.append(thread)
        else:
            begun.wait()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for press in presses:
            press.start()
        with pytest.raises(KeyboardInterrupt):
            parallel_for(part, 2, 2)
        assert done == [1]
    finally:
        torch.set_num_threads(before)
        for press in presses:
            press.join()


@fast
def test_without_a_cache_the_code_is_still_compiled(monkeypatch):
    from numba.core import caching

    from rtspecinv.engines.cpu.memory import jit_cached

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert jit_cached()(lambda x: x + 1)(1) == 2


@fast
def test_inverters_in_threads_of_their_own():
    stft = STFT(256, 64)
    S = [magnitudes(stft, 8, n_frames=20, seed=seed) for seed in range(4)]
    expected = [run(StreamingInverter(stft, batch_shape=(8,)), s) for s in S]
    results: list[torch.Tensor] = [torch.empty(0)] * 4

    def work(index: int) -> None:
        results[index] = run(StreamingInverter(stft, batch_shape=(8,)), S[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(torch.equal, results, expected))


@fast
@pytest.mark.parametrize("update", ["raar", "agla", "admm"])
def test_eager_can_continue_a_compiled_stream_and_back(update):
    """The engine changes in the middle of a stream, when a magnitude requires a gradient."""
    stft = STFT(128, 32, dtype=torch.float64)
    S = magnitudes(stft, n_frames=9)
    inverter = StreamingInverter(stft, update=update, n_iter=2, engine="numba")
    expected = run(StreamingInverter(stft, update=update, n_iter=2, engine="eager"), S)
    hops = []
    for t, frame in enumerate(S.unbind(-1)):
        hops.append(inverter.push(frame.clone().requires_grad_(t in (2, 3, 7))))
        assert hops[-1].requires_grad == (t in (2, 3, 7, 8))  # a graph continues until it is cut
        if t == 3:
            inverter.detach()
    samples = torch.cat([*(hop.detach() for hop in hops), inverter.flush().detach()])
    assert (samples - expected).abs().max() < TOLERANCE * expected.abs().max()


@fast
def test_gradients_are_those_of_the_reference():
    stft = STFT(128, 32, dtype=torch.float64)
    gradients: list[Any] = []
    for engine in ("eager", "numba"):
        S = magnitudes(stft).requires_grad_()
        run(StreamingInverter(stft, n_iter=1, engine=engine), S).square().sum().backward()
        gradients.append(S.grad)
    assert torch.equal(gradients[0], gradients[1])


@fast
def test_views_of_all_kinds_are_taken():
    stft = STFT(128, 32)
    S = magnitudes(stft, 2)
    expected = run(StreamingInverter(stft, batch_shape=(2,)), S)
    strided = torch.empty(S.shape[2], S.shape[1], 2).permute(2, 1, 0)
    strided.copy_(S)
    assert torch.equal(run(StreamingInverter(stft, batch_shape=(2,)), strided), expected)
    negative = torch.complex(S, -S).conj().imag
    assert negative.is_neg()
    assert torch.equal(run(StreamingInverter(stft, batch_shape=(2,)), negative), expected)


@pytest.mark.parametrize("engine", ["eager", pytest.param("numba", marks=fast)])
def test_conjugates_are_taken(engine):
    """A complex frame may be a view that torch conjugates later."""
    stft = STFT(128, 32)
    spectrum = torch.polar(magnitudes(stft), magnitudes(stft))
    assert spectrum.conj().is_conj()
    found = run(StreamingInverter(stft, engine=engine), spectrum.conj())
    assert torch.equal(found, run(StreamingInverter(stft, engine=engine), spectrum.conj().resolve_conj()))


@fast
def test_memory_is_written_in_place():
    inverter = StreamingInverter(STFT(64, 16), engine="numba")
    twin = copy.deepcopy(inverter)
    frame = torch.ones(33)
    for _ in range(3):
        assert torch.equal(inverter.push(frame), twin.push(frame))
    hops = {inverter.push(frame).data_ptr() for _ in range(2)}
    where = [b.data_ptr() for b in inverter.buffers()]
    inverter.push(frame)
    assert where == [b.data_ptr() for b in inverter.buffers()]
    assert len({*where, *(b.data_ptr() for b in twin.buffers()), *hops}) > len(where)


@fast
def test_the_selected_engine():
    class Same(RAAR):
        pass

    class Other(RAAR):
        def step(self, state, p_m, p_c):
            return super().step(super().step(state, p_m, p_c), p_m, p_c)

    class Else(Overlap):
        pass

    stft = STFT(64, 16)
    for options in (
        {},
        {"init": "gradient"},
        {"init": Gradient(delay=1)},
        {"update": Same(), "init": "zeros"},
    ):
        assert StreamingInverter(stft, **options).engine == "numba"
    assert StreamingInverter(stft, engine="eager").engine == "eager"
    assert StreamingInverter(stft, engine="numba").engine == "numba"
    for other in ({"update": Other()}, {"init": Else()}):
        assert StreamingInverter(stft, **other).engine == "eager"
        with pytest.raises(ValueError, match=r"engine='numba' has no compiled code for.*use 'auto'"):
            StreamingInverter(stft, engine="numba", **other)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rtspecinv.engines.cpu.stream", None)
    monkeypatch.delattr("rtspecinv.engines.cpu.stream", raising=False)
    inverter = StreamingInverter(STFT(64, 16))
    assert inverter.engine == "eager"
    assert isinstance(inverter._engine, Eager)
    with pytest.raises(ImportError, match=r'pip install "rtspecinv\[fast\]"'):
        StreamingInverter(STFT(64, 16), engine="numba")


@pytest.mark.slow
@fast
def test_code_is_compiled_once_and_cached(tmp_path):
    """A new process loads the compiled code from the cache, and its first push does not compile."""
    code = """
import torch, rtspecinv
from rtspecinv.engines.cpu.push import push
inverter = rtspecinv.StreamingInverter(rtspecinv.STFT(64, 16))
compiled = len(push.signatures)
inverter.push(torch.ones(33))
print(compiled, len(push.signatures), sum(push.stats.cache_misses.values()))
"""
    command = [sys.executable, "-c", code]
    for _ in range(2):
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.split() == ["1", "1", "0"]
