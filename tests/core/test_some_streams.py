"""Tests of pushes, flushes and resets of some streams of a batch, without effect on the others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from banks import gaps_bank
from hypothesis import given, settings
from hypothesis import strategies as st
from test_streaming import ENGINES, magnitudes

from rtspecinv import STFT, FilterBank, Mel, MelConfig, MelInverter, StreamingInverter

N_STREAMS = 5
SMALL_MEL = MelConfig(sample_rate=8000, n_fft=32, hop_length=8, n_mels=6, preemphasis=0.9)


def linear(engine: str, batch_shape: tuple[int, ...], **options):
    stft = STFT(32, 8, dtype=torch.float64)
    return StreamingInverter(stft, n_iter=2, batch_shape=batch_shape, engine=engine, **options)


def mel(engine: str, batch_shape: tuple[int, ...], **options):
    return MelInverter(SMALL_MEL, n_iter=2, batch_shape=batch_shape, engine=engine, dtype=torch.float64)


def bands(engine: str, batch_shape: tuple[int, ...], **options):
    """With a bank and a start that torch computes; its products of matrices depend on the number of rows."""
    bank = FilterBank(gaps_bank(32), dtype=torch.float64)
    return linear(engine, batch_shape, bank=bank, init="peaks", look_ahead=1)


@cache
def unused(make: Callable[..., StreamingInverter], *arguments: Any) -> StreamingInverter:
    """An inverter to copy, which is faster than to make one."""
    return make(*arguments)


def frames_for(inverter: StreamingInverter, n_frames: int) -> torch.Tensor:
    """Return frames `(N_STREAMS, n_values, n_frames)`."""
    if isinstance(inverter, MelInverter):
        samples = torch.randn(N_STREAMS, 400, generator=torch.Generator().manual_seed(1)).double()
        return Mel(inverter.bank.config, dtype=torch.float64)(samples)[..., :n_frames]
    frames = magnitudes(inverter.stft, N_STREAMS, n_frames=n_frames)
    return frames if inverter.bank is None else inverter.bank.values(frames)


def same(engine: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Compare bits; with eager, whose rounding depends on the number of streams, compare nearly."""
    if engine == "eager":
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    else:
        assert torch.equal(found, wanted)


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "push_many", "flush", "reset"]),
        st.lists(st.integers(0, N_STREAMS - 1), unique=True, max_size=N_STREAMS),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("make", [linear, mel, bands])
@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=15, deadline=None)
@given(acts=ACTS, batch_shape=st.sampled_from([(N_STREAMS,), (1, N_STREAMS)]))
def test_every_stream_has_the_samples_of_its_own_inverter(make, engine, acts, batch_shape):
    together = copy.deepcopy(unused(make, engine, batch_shape))
    alone = [copy.deepcopy(unused(make, engine, ())) for _ in range(N_STREAMS)]
    frames, pushed = frames_for(together, 24), [0] * N_STREAMS
    for act, streams, as_mask in acts:
        as_mask = as_mask or len(batch_shape) > 1
        streams = sorted(streams) if as_mask else streams
        mask = torch.tensor([i in streams for i in range(N_STREAMS)])
        named = mask.reshape(batch_shape) if as_mask else streams
        others = [i for i in range(N_STREAMS) if i not in streams]
        before = {name: state.clone() for name, state in together.state_dict().items()}
        if act.startswith("push"):
            n = 2 if act == "push_many" else 1
            mine = [frames[i, :, pushed[i] : pushed[i] + n] for i in streams]
            taken = torch.stack(mine) if streams else frames[:0, :, :n]
            push = together.push_many if n > 1 else together.push
            hops = push(taken if n > 1 else taken[..., 0], streams=named)
            assert hops.shape == (len(streams), 8 * n)
            for hop, i, part in zip(hops, streams, mine, strict=True):
                same(engine, hop, alone[i].push_many(part))
                pushed[i] += n
        elif act == "flush":
            for owed, i in zip(together.flush(streams=named), streams, strict=True):
                same(engine, owed, alone[i].flush())
        else:
            together.reset(named)
            for i in streams:
                alone[i].reset()
        for name, state in together.state_dict().items():
            if state.shape[: len(batch_shape)] == batch_shape:
                rows = (values.reshape(N_STREAMS, -1)[others] for values in (state, before[name]))
                assert torch.equal(*rows), name


@pytest.mark.parametrize("init", ["peaks", "gradient", "zeros"])
@pytest.mark.parametrize("engine", ENGINES)
def test_starts_look_at_the_past_of_their_own_stream(engine, init):
    together = linear(engine, (N_STREAMS,), init=init)
    alone = [linear(engine, (), init=init) for _ in range(N_STREAMS)]
    for t, frame in enumerate(magnitudes(together.stft, N_STREAMS, n_frames=9).unbind(-1)):
        streams = [(t + 3) % N_STREAMS, t % N_STREAMS]
        hops = together.push(frame[streams], streams=streams)
        for hop, i in zip(hops, streams, strict=True):
            same(engine, hop, alone[i].push(frame[i]))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n_fft", [32, 1024])  # where torch rounds the ends of arrays alike, and differently
def test_masks_of_any_batch_shape_and_complex_frames(engine, n_fft):
    stft = STFT(n_fft, n_fft // 4, dtype=torch.float64)
    alone = StreamingInverter(stft, n_iter=0, engine=engine)
    together = StreamingInverter(stft, n_iter=0, batch_shape=(2, 3), engine=engine)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    generator = torch.Generator().manual_seed(0)
    spectrum = stft.analyze(torch.randn(2, 3, 3000, dtype=torch.float64, generator=generator))[..., 3:5]
    hops = together.push_many(spectrum[mask], streams=mask), together.flush(streams=mask)
    for *found, frames in zip(*hops, spectrum[mask], strict=True):
        same(engine, torch.cat(found), torch.cat([alone.push_many(frames), alone.flush()]))


def test_gradients_reach_back_through_pushes_of_some_streams():
    inverter = linear("eager", (3,))
    frames = magnitudes(inverter.stft, 3, n_frames=4).requires_grad_()
    for t in range(3):
        inverter.push(frames[:2, :, t], streams=[2, 0])
    inverter.push(frames[..., 3]).square().sum().backward()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()
    assert frames.grad[:2, :, 0].abs().sum() > 0


@pytest.mark.parametrize(
    ("streams", "error", "words"),
    [
        ([0, 0], ValueError, "twice"),
        ([5], ValueError, "positions from 0 to 4"),
        ([-1], ValueError, "positions from 0 to 4"),
        ([0.5], TypeError, "torch.bool"),
        ("all", TypeError, "not a bool mask"),
        (np.ones(4, bool), ValueError, r"not batch_shape=\(5,\)"),
        ([[0]], ValueError, "pass one list of positions if"),
    ],
)
def test_streams_that_do_not_exist(streams, error, words):
    inverter = linear("eager", (N_STREAMS,))
    for method in (
        lambda: inverter.push(torch.ones(1, 17, dtype=torch.float64), streams=streams),
        lambda: inverter.flush(streams=streams),
        lambda: inverter.reset(streams),
    ):
        with pytest.raises(error, match=words):
            method()
    with pytest.raises(ValueError, match=r"shape \(2, 17\), not batch_shape \+ \(n_freq,\) = \(1, 17\)"):
        inverter.push(torch.ones(2, 17, dtype=torch.float64), streams=[3])
