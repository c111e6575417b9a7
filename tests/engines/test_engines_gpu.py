"""The engines for a GPU: on one where there is one, else on the CPU in Triton's interpreter and on a tape."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import fake_cuda_graph
import pytest
import torch
from contract import LINEAR as LINEAR_FRAMES
from contract import does_not_depend_on_chunks, run, streams_are_independent, verify_contract
from triton_interpreter import INTERPRET

from rtspecinv import STFT, StreamingInverter
from rtspecinv.engines.gpu import graph as cuda_graph
from rtspecinv.updates import RAAR, RULES, AcceleratedGriffinLim, DifferenceMap, GriffinLim

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LINEAR = [*RULES.values(), RAAR(momentum=0.3), GriffinLim(0.5), AcceleratedGriffinLim(0.5, 0.3, 1.1)]
# One push, from the same state: the largest difference to float64, relative to the loudest sample.
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run kernels in the interpreter where there is no GPU."""
    if DEVICE == "cpu":
        monkeypatch.setenv(INTERPRET, "1")


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason='triton is missing: pip install "rtspecinv[gpu]"'
)


def magnitudes(stft: STFT, *batch: int, n_frames: int = 6, seed: int = 0) -> torch.Tensor:
    n_samples = n_frames * stft.hop_length + stft.n_fft
    samples = torch.randn(*batch, n_samples, generator=torch.Generator().manual_seed(seed))
    return stft.magnitude(0.2 * samples.to(stft.device, stft.dtype))[..., :n_frames].contiguous()


# -- triton --------------------------------------------------------------------------------------------


def one_push_from_everywhere(stft: STFT, magnitude: torch.Tensor, **options: Any) -> float:
    """Largest error of a push against float64, the state before it taken from the float64 stream."""
    exact_stft = copy.deepcopy(stft).double()
    exact = StreamingInverter(exact_stft, engine="eager", **options)  # type: ignore[arg-type]
    ours = StreamingInverter(stft, engine="triton", **options)  # type: ignore[arg-type]
    assert ours.engine == "triton"
    worst = 0.0
    for frame in [*magnitude.unbind(-1), None, None]:
        for name in exact._engine.buffer.STATE:  # type: ignore[attr-defined]
            state = exact._engine.buffer.get_buffer(name)  # type: ignore[attr-defined]
            ours._engine.buffer.get_buffer(name).copy_(state)  # type: ignore[attr-defined]
            state.copy_(ours._engine.buffer.get_buffer(name))  # type: ignore[attr-defined]  # now both have the same numbers
        hop = ours._engine.push(frame)
        expected = exact._engine.push(None if frame is None else frame.double())
        scale = expected.abs().max().clamp_min(1e-3)
        worst = max(worst, float((hop - expected).abs().max() / scale))
    return worst


@needs_triton
@pytest.mark.parametrize("update", LINEAR, ids=str)
def test_every_rule_is_exact(update):
    stft = STFT(256, 64, device=DEVICE)
    options: dict[str, Any] = {"update": update, "look_ahead": 2, "n_iter": 2, "batch_shape": (2,)}
    assert one_push_from_everywhere(stft, magnitudes(stft, 2, n_frames=4), **options) < TOLERANCE


@needs_triton
@pytest.mark.parametrize(
    ("n_fft", "hop_length", "options"),
    [
        (256, 16, {"look_ahead": 1, "revise": 3}),
        (512, 256, {"look_ahead": 1}),
        (1024, 256, {"look_ahead": 0, "revise": 0}),
        (1024, 128, {"look_ahead": 2, "revise": 1}),
        (2048, 512, {"look_ahead": 1}),
        (256, 64, {"look_ahead": 1, "n_iter": 0}),
        (512, 128, {"look_ahead": 1, "init": "zeros"}),
    ],
)
def test_every_size_and_start_is_exact(n_fft, hop_length, options):
    stft = STFT(n_fft, hop_length, window="hamming", win_length=n_fft - 6, normalized=True, device=DEVICE)
    error = one_push_from_everywhere(stft, magnitudes(stft, n_frames=3), **{"n_iter": 1, **options})
    assert error < TOLERANCE


def triton_streams() -> StreamingInverter:
    stft = STFT(256, 128, device=DEVICE)  # interpreted, every push takes long
    return StreamingInverter(stft, look_ahead=0, revise=1, n_iter=1, batch_shape=(2,), engine="triton")


@needs_triton
def test_triton_streams_are_independent_and_give_the_same_bits_for_every_cut():
    magnitude = magnitudes(triton_streams().stft, 2, n_frames=4)
    samples = run(triton_streams(), magnitude)
    does_not_depend_on_chunks(triton_streams(), magnitude, samples, (2,))
    streams_are_independent(triton_streams(), magnitude, samples, LINEAR_FRAMES)


@pytest.mark.soak
@needs_triton
def test_triton_keeps_the_whole_contract():
    verify_contract(triton_streams, magnitudes(triton_streams().stft, 2, n_frames=4), chunks=(2,))


@needs_triton
def test_gradients_other_precisions_and_copies_go_on_where_the_kernel_was():
    stft = STFT(256, 64, device=DEVICE)
    S = magnitudes(stft, n_frames=8)
    options: dict[str, Any] = {"look_ahead": 1, "n_iter": 1, "update": "gla"}
    expected = run(StreamingInverter(stft, engine="eager", **options), S)
    inverter = StreamingInverter(stft, engine="triton", **options)
    frames = list(S.unbind(-1))
    hops = [inverter.push(frame) for frame in frames[:2]]
    wanted = frames[2].clone().requires_grad_()
    hops.append(inverter.push(wanted))
    hops.append(inverter.push(frames[3]))
    torch.cat(hops[2:]).square().sum().backward()
    assert wanted.grad.isfinite().all()
    assert wanted.grad.any()
    inverter.detach()
    inverter = copy.deepcopy(inverter).double()
    hops += [inverter.push(frame.double()).float() for frame in frames[4:6]]
    inverter = inverter.float()
    hops += [inverter.push(frame) for frame in frames[6:]]
    samples = torch.cat([*(hop.detach() for hop in hops), inverter.flush()])
    assert (samples - expected).abs().max() < 1e-3 * expected.abs().max()


@needs_triton
@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ((300, 75), {}),
        ((4096, 1024), {}),
        ((256, 80), {}),
        ((256, 64), {"update": DifferenceMap(0.8)}),
        ((256, 64), {"init": "peaks"}),
    ],
)
def test_what_has_no_kernel_is_replayed_or_refused(settings, options, monkeypatch):
    stft = STFT(*settings, device=DEVICE)
    if DEVICE == "cpu":
        with pytest.raises(ValueError, match=r"triton.*use 'auto'"):
            StreamingInverter(stft, engine="triton", **options)
        fake_cuda_graph.on_cpu(monkeypatch)
    assert StreamingInverter(stft, engine="triton", **options).engine == "cuda_graph"


@needs_triton
def test_more_frames_than_fit_are_left_to_the_others():
    stft = STFT(256, 16, device=DEVICE)
    S = magnitudes(stft)
    eager, ours = (StreamingInverter(stft, n_iter=1, engine=name) for name in ("eager", "triton"))
    assert ours._engine._ready is None  # type: ignore[attr-defined]
    assert torch.equal(run(ours, S), run(eager, S))


# -- cuda_graph --------------------------------------------------------------------------------------------


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
