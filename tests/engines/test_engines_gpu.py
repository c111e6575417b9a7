"""The engine `cuda_graph`: on a GPU where there is one, else on the CPU on a tape."""

from __future__ import annotations

import copy
from typing import Any

import fake_cuda_graph
import pytest
import torch
from contract import run, verify_contract

from rtspecinv import STFT, StreamingInverter
from rtspecinv.engines.gpu import graph as cuda_graph
from rtspecinv.updates import RULES, DifferenceMap

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def magnitudes(stft: STFT, *batch: int, n_frames: int = 6, seed: int = 0) -> torch.Tensor:
    n_samples = n_frames * stft.hop_length + stft.n_fft
    samples = torch.randn(*batch, n_samples, generator=torch.Generator().manual_seed(seed))
    return stft.magnitude(0.2 * samples.to(stft.device, stft.dtype))[..., :n_frames].contiguous()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of the device, or those of a tape."""
    if DEVICE == "cpu":
        fake_cuda_graph.on_cpu(monkeypatch)


def pair(stft: STFT, **options: Any) -> tuple[StreamingInverter, StreamingInverter]:
    replayed = StreamingInverter(stft, engine="cuda_graph", **options)  # type: ignore[arg-type]
    assert replayed.engine == "cuda_graph"
    return StreamingInverter(stft, engine="eager", **options), replayed  # type: ignore[arg-type]


@pytest.mark.parametrize("update", [*RULES.values(), DifferenceMap(0.8)], ids=str)
@pytest.mark.parametrize("init", ["overlap", "peaks", "zeros"])
def test_replay_is_eager_to_the_bit(graphs, update, init):
    stft = STFT(60, 20, device=DEVICE)
    eager, replayed = pair(stft, update=update, init=init, n_iter=2, batch_shape=(2,))
    S = magnitudes(stft, 2)
    expected = run(eager, S)
    assert torch.equal(run(replayed, S), expected)
    assert torch.equal(run(replayed, S), expected)


def test_cuda_graph_keeps_the_contract(graphs):
    stft = STFT(60, 20, device=DEVICE)

    def make() -> StreamingInverter:
        return StreamingInverter(stft, n_iter=1, batch_shape=(2,), engine="cuda_graph")

    verify_contract(make, magnitudes(stft, 2))


def test_every_kind_of_push_is_recorded_once(graphs):
    stft = STFT(64, 16, device=DEVICE)
    eager, replayed = pair(stft, n_iter=1)
    S = magnitudes(stft)
    spectrum = torch.polar(S, torch.randn_like(S))
    for inverter in (eager, replayed):
        inverter.push_many(S)
    for frames in (S, spectrum, S):
        assert torch.equal(run(eager, frames), run(replayed, frames))
    recordings = replayed._engine._recordings  # type: ignore[attr-defined]
    assert sorted(recordings) == [(False, False, 1), (False, True, 1), (True, True, 1)]
    before = list(recordings.values())
    run(replayed, S)
    assert list(recordings.values()) == before


def test_hops_are_the_callers(graphs):
    stft = STFT(64, 16, device=DEVICE)
    _, replayed = pair(stft)
    S = magnitudes(stft)
    hops = [replayed.push(frame) for frame in S.unbind(-1)]
    kept = [hop.clone() for hop in hops]
    replayed.push_many(S)
    assert all(torch.equal(hop, known) for hop, known in zip(hops, kept, strict=True))


def test_recorded_anew_after_a_move_and_a_copy(graphs):
    stft = STFT(64, 16, device=DEVICE)
    eager, replayed = pair(stft, n_iter=1, batch_shape=(2,))
    S = magnitudes(stft, 2)
    expected = [eager.push(frame) for frame in S.unbind(-1)]
    hops = [replayed.push(frame) for frame in S.unbind(-1)[:2]]
    other = copy.deepcopy(replayed)
    replayed.double()
    assert not replayed._engine._recordings  # type: ignore[attr-defined]
    replayed.float()
    hops += [replayed.push(frame) for frame in S.unbind(-1)[2:]]
    assert torch.equal(torch.cat(hops), torch.cat(expected))
    assert torch.equal(other.push(S[..., 2]), expected[2])


def test_recorded_without_gradients_of_any_kind(graphs):
    """What was recorded in inference mode is replayed outside of it, and the other way round."""
    stft = STFT(64, 16, device=DEVICE)
    S = magnitudes(stft)
    frames = list(S.unbind(-1))
    for first, second in ((True, False), (False, True)):
        eager, replayed = pair(stft)
        for part, mode in ((frames[:3], first), (frames[3:], second)):
            with torch.inference_mode(mode):
                for frame in part:
                    assert torch.equal(replayed.push(frame), eager.push(frame))


def test_switched_off_by_the_environment(graphs, monkeypatch):
    stft = STFT(64, 16, device=DEVICE)
    eager, replayed = pair(stft)
    S = magnitudes(stft)
    monkeypatch.setenv(cuda_graph.SWITCH, "1")
    assert torch.equal(run(eager, S), run(replayed, S))
    assert not replayed._engine._recordings  # type: ignore[attr-defined]


def test_gradients_are_not_recorded_but_flow(graphs):
    stft = STFT(64, 16, device=DEVICE)
    eager, replayed = pair(stft, n_iter=1)
    S = magnitudes(stft)
    grads = []
    for inverter in (eager, replayed):
        inverter.push(S[..., 0])
        wanted = S[..., 1].clone().requires_grad_()
        hops = [inverter.push(wanted), *(inverter.push(frame) for frame in S.unbind(-1)[2:])]
        torch.cat(hops).square().sum().backward()
        grads.append(wanted.grad)
        inverter.detach()
        inverter.push(S[..., 0])
    assert torch.equal(*grads)  # type: ignore[arg-type]
    assert grads[0].any()


def test_phase_gradient_is_refused(graphs):
    with pytest.raises(ValueError, match=r"cuda_graph.*use 'auto'"):
        StreamingInverter(STFT(64, 16, device=DEVICE), init="gradient", engine="cuda_graph")
