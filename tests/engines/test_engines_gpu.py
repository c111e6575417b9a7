"""Tests of the engine `cuda_graph`, on a GPU if there is one, else on the CPU with a fake graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import fake_cuda_graph
import pytest
import torch
from contract import run, verify_contract
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)
from torch.utils._pytree import tree_leaves

import rtspecinv
from rtspecinv import STFT, Compression, MelConfig, MelInverter, StreamingInverter, engines
from rtspecinv.engines.gpu import graph as cuda_graph
from rtspecinv.phase import Gradient
from rtspecinv.updates import RAAR, RULES, DifferenceMap

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def magnitudes(stft: STFT, *batch: int, n_frames: int = 6, seed: int = 0) -> torch.Tensor:
    n_samples = n_frames * stft.hop_length + stft.n_fft
    samples = torch.randn(*batch, n_samples, generator=torch.Generator().manual_seed(seed))
    return stft.magnitude(0.2 * samples.to(stft.device, stft.dtype))[..., :n_frames].contiguous()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record real graphs on a GPU, otherwise fake ones."""
    if DEVICE == "cpu":
        fake_cuda_graph.on_cpu(monkeypatch)


def pair(stft: STFT, **options: Any) -> tuple[StreamingInverter, StreamingInverter]:
    replayed = StreamingInverter(stft, engine="cuda_graph", **options)
    assert replayed.engine == "cuda_graph"
    return StreamingInverter(stft, engine="eager", **options), replayed


def engine_of(inverter: StreamingInverter) -> Any:
    return inverter._engine


@dataclass(frozen=True)
class Twofold(RAAR):
    """Rule without a table, because its step is not linear."""

    def step(self, state, p_m, p_c):
        return (super().step(state, p_m, p_c)[0].sinh().asinh(),)


def agree(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Check that samples agree except for rounding errors, which iterations amplify."""
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize(
    "update", [*RULES.values(), RAAR(momentum=0.3), DifferenceMap(0.8), Twofold()], ids=str
)
def test_replay_equals_eager(graphs, update):
    stft = STFT(60, 20, window="hamming", normalized=True, dtype=torch.float64, device=DEVICE)
    eager, replayed = pair(stft, update=update, n_iter=2, batch_shape=(2,))
    S = magnitudes(stft, 2)
    expected, found = run(eager, S), run(replayed, S)
    agree(found, expected)
    assert torch.equal(run(replayed, S), found)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ((60, 20), {"init": "peaks", "batch_shape": (2, 1)}),
        ((60, 20), {"init": "zeros", "update": "agla"}),
        ((60, 20), {"n_iter": 0}),
        ((64, 48), {"update": "rtisi", "look_ahead": 0}),
        ((50, 50), {"look_ahead": 0, "init": "overlap"}),
        ((60, 20), {"look_ahead": 0, "init": "gradient"}),
        ((64, 24), {"revise": 2, "look_ahead": 1}),
        ((63, 9), {"update": "admm"}),
    ],
)
def test_replay_equals_eager_for_every_start_and_size(graphs, settings, options):
    stft = STFT(*settings, window="hamming", dtype=torch.float64, device=DEVICE)
    eager, replayed = pair(stft, **{"n_iter": 1, **options})
    S = magnitudes(stft, *eager.batch_shape)
    agree(run(replayed, S), run(eager, S))


def test_cuda_graph_keeps_the_contract(graphs):
    stft = STFT(60, 20, device=DEVICE)

    def make() -> StreamingInverter:
        return StreamingInverter(stft, n_iter=1, batch_shape=(2,), engine="cuda_graph")

    verify_contract(make, magnitudes(stft, 2))


def test_everything_is_recorded_when_the_engine_is_made(graphs, monkeypatch):
    stft = STFT(64, 16, dtype=torch.float64, device=DEVICE)
    eager, replayed = pair(stft, n_iter=3)

    def refused(self: object) -> None:
        raise AssertionError("recorded in mid-stream")

    monkeypatch.setattr(cuda_graph.Recorder, "__init__", refused)
    S = magnitudes(stft)
    spectrum = torch.polar(S, torch.randn_like(S))
    for frames, n_iter in ((S, 3), (spectrum, 1), (S, 0), (S, 4)):  # a late player reduces the iterations
        eager.n_iter = replayed.n_iter = n_iter
        agree(run(replayed, frames), run(eager, frames))


def test_a_failed_recording_states_the_reason_and_leaves_no_graph(graphs, monkeypatch):
    def full(*args: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda_graph.Pushes, "_accept", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        StreamingInverter(STFT(64, 16, device=DEVICE), engine="cuda_graph")
    monkeypatch.undo()
    fake_cuda_graph.on_cpu(monkeypatch)
    assert pair(STFT(64, 16, device=DEVICE))[1].push(torch.ones(33, device=DEVICE)).isfinite().all()


def test_returned_hops_are_not_overwritten(graphs):
    stft = STFT(64, 16, device=DEVICE)
    _, replayed = pair(stft)
    S = magnitudes(stft)
    hops = [replayed.push(frame) for frame in S.unbind(-1)]
    kept = [hop.clone() for hop in hops]
    replayed.push_many(S)
    assert all(torch.equal(hop, known) for hop, known in zip(hops, kept, strict=True))


def test_a_move_or_a_copy_records_again(graphs):
    stft = STFT(64, 16, dtype=torch.float64, device=DEVICE)
    eager, replayed = pair(stft, n_iter=1, batch_shape=(2,))
    S = magnitudes(stft, 2)
    expected = [eager.push(frame) for frame in S.unbind(-1)]
    hops = [replayed.push(frame) for frame in S.unbind(-1)[:2]]
    other = copy.deepcopy(replayed)
    assert engine_of(replayed.to(DEVICE))._pushes is None
    hops += [replayed.push(frame) for frame in S.unbind(-1)[2:]]
    agree(torch.cat(hops), torch.cat(expected))
    agree(torch.cat([other.push(frame) for frame in S.unbind(-1)[2:]]), torch.cat(expected[2:]))
    assert torch.cat(expected[2:]).any()


def test_recorded_without_gradients_of_any_kind(graphs):
    """A graph recorded in inference mode is replayed outside of it, and vice versa."""
    stft = STFT(64, 16, device=DEVICE)
    frames = list(magnitudes(stft).unbind(-1))
    _, replayed = pair(stft)
    expected = [replayed.push(frame) for frame in frames]
    for first, second in ((True, False), (False, True)):
        with torch.inference_mode(first):
            _, replayed = pair(stft)
        for part, known, mode in ((frames[:3], expected[:3], first), (frames[3:], expected[3:], second)):
            with torch.inference_mode(mode):
                assert all(torch.equal(replayed.push(f), hop) for f, hop in zip(part, known, strict=True))


def test_switched_off_by_the_environment(graphs, monkeypatch):
    stft = STFT(64, 16, device=DEVICE)
    eager, replayed = pair(stft)
    S = magnitudes(stft)
    monkeypatch.setenv(cuda_graph.SWITCH, "1")
    assert torch.equal(run(eager, S), run(replayed, S))
    assert engine_of(pair(stft)[1])._pushes is None


def test_gradients_flow_without_a_recording(graphs):
    stft = STFT(64, 16, dtype=torch.float64, device=DEVICE)
    eager, replayed = pair(stft, n_iter=1)
    S = magnitudes(stft)
    grads = []
    for inverter in (eager, replayed):
        inverter.push(S[..., 0])
        wanted = S[..., 1].clone().requires_grad_()
        hops = [inverter.push(wanted), *(inverter.push(frame) for frame in S.unbind(-1)[2:])]
        torch.cat(hops).square().sum().backward()
        assert wanted.grad is not None
        grads.append(wanted.grad)
        inverter.detach()
        inverter.push(S[..., 0])
    agree(*grads)
    assert grads[0].any()


def test_a_start_with_a_delay_is_refused(graphs):
    with pytest.raises(ValueError, match=r"cuda_graph.*use 'auto'"):
        StreamingInverter(STFT(64, 16, device=DEVICE), init=Gradient(delay=1), engine="cuda_graph")


# -- operations of a push on the device -------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """Counts the launches of a push, and lists operations that wait for the GPU or copy to or from the CPU.

    On a GPU these are reading a value of a tensor, an index that depends on values, and a copy.
    """

    SYNCS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "item", "is_nonzero", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.syncs, self.copies = list[str](), list[str](), list[str]()
        self.order = list[str]()  # order of replays and syncs

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.__name__.partition(".")[0]
        outputs = function(*args, **kwargs)
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if name in self.SYNCS or (
            name == "index" and any(t.dtype in (torch.bool, torch.uint8) for t in tensors[1:])
        ):
            self.syncs.append(name)
            self.order.append("sync")
        elif name in ("_to_copy", "lift_fresh", "pin_memory") or str(kwargs.get("device", DEVICE)) != DEVICE:
            self.copies.append(name)
        elif function._schema.is_mutable or not self._is_view(outputs, tensors):
            self.launches.append(name)
        return outputs

    @staticmethod
    def _is_view(outputs: object, tensors: list[torch.Tensor]) -> bool:
        storages = {t.untyped_storage().data_ptr() for t in tensors}
        new = [t for t in tree_leaves(outputs) if isinstance(t, torch.Tensor)]
        return all(t.untyped_storage().data_ptr() in storages for t in new)


def watched(step: Callable[[], object]) -> Watch:
    with Watch() as watch:
        step()
    return watch


@pytest.fixture
def quiet_tapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake graphs whose replays are invisible to `Watch`, as on a GPU."""
    if DEVICE == "cuda":
        pytest.skip("this watches operations on the CPU")
    fake_cuda_graph.on_cpu(monkeypatch)
    replay = fake_cuda_graph.Tape.replay

    def unseen(tape: fake_cuda_graph.Tape) -> None:
        for watch in (mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, Watch)):
            watch.order.append("replay")
        with _disable_current_modes():
            replay(tape)

    monkeypatch.setattr(fake_cuda_graph.Tape, "replay", unseen)


def test_a_push_is_75_launches(quiet_tapes):
    """At 1024/256, look_ahead 3, 8 iterations; each inverse transform of torch first copies its input."""
    _, replayed = pair(STFT(1024, 256), look_ahead=3, n_iter=8)
    replay = engine_of(replayed)._pushes.replay
    pieces = {name: [str(step[0]) for step in piece.__self__.steps] for name, piece in replay.items()}
    assert len(pieces["iterate"]) == 4
    whole = [*pieces["begin"], *pieces["iterate first"], *(7 * pieces["iterate"]), *pieces["finish"]]
    whole += pieces["accept"] + watched(lambda: replayed.push(torch.ones(513))).launches
    assert len(whole) + sum("fft_c2r" in name for name in whole) <= 75


def streams(check: str = "now", **options: Any) -> StreamingInverter:
    return StreamingInverter(STFT(64, 16), batch_shape=(2,), engine="cuda_graph", check=check, **options)


def mel_streams(check: str = "now", **options: Any) -> MelInverter:
    compression = Compression("ln", floor=1e-5)
    config = MelConfig(8000, 128, 32, n_mels=12, preemphasis=0.9, compression=compression)
    return MelInverter(config, batch_shape=(2,), engine="cuda_graph", check=check, **options)


@pytest.mark.parametrize("make", [streams, mel_streams])
@pytest.mark.parametrize("init", ["overlap", "peaks"])
def test_a_push_waits_for_the_device_at_its_end_or_never(quiet_tapes, make, init):
    """The only copy to the CPU is that of the extremes of the frame; on a GPU, `cpu()` waits for it."""
    frame = torch.rand(2, 33) if make is streams else torch.rand(2, 12) - 6
    now, later = (make(check, init=init, n_iter=2) for check in ("now", "later"))
    watch = watched(lambda: now.push(frame))
    assert not watch.copies
    # The magnitudes of mel frames; begin, two iterations, finish.
    pieces = ["replay"] * ((make is mel_streams) + 4)
    assert watch.order[: len(pieces) + 1] == [*pieces, "sync"]
    assert set(watch.order[len(pieces) : -1]) == {"sync"}
    assert watch.order[-1] == "replay"  # accept
    watch = watched(lambda: later.push(frame))
    assert watch.copies == ["_to_copy"]
    assert watch.order == [*pieces, "replay"]
    assert later.engine == now.engine == "cuda_graph"


def test_mel_frames_are_replayed_too(quiet_tapes):
    config = MelConfig(8000, 128, 32, n_mels=12, preemphasis=0.9)
    options: dict[str, Any] = {"device": DEVICE, "dtype": torch.float64, "batch_shape": (2,), "n_iter": 1}
    mel = 0.1 * torch.rand(2, 12, 6, dtype=torch.float64, device=DEVICE)
    eager, replayed = (MelInverter(config, engine=name, **options) for name in ("eager", "cuda_graph"))
    expected = run(eager, mel)
    agree(run(replayed, mel), expected)
    agree(run(copy.deepcopy(replayed), mel, (2, 3)), expected)
    assert len(watched(lambda: replayed.push(mel[..., 0])).launches) < 25
    replayed.push(mel[..., 0].clone().requires_grad_()).sum().backward()


def test_a_flush_and_a_reset_do_not_wait(quiet_tapes):
    inverter = streams()
    inverter.push(torch.ones(2, 33))
    for step in (inverter.flush, inverter.reset, lambda: inverter.reset(torch.tensor([True, False]))):
        watch = watched(step)
        assert not watch.syncs


# -- errors that come later ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [streams, mel_streams])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1e30, 3e38])
def test_a_bad_frame_does_not_delay_other_streams_and_is_named_later(graphs, make, bad):
    n_values = 33 if make is streams else 12
    good = torch.rand(2, n_values, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    if make is mel_streams:
        good, bad = good - 3, -torch.inf if bad < 0 else bad  # logarithms have no lower limit
    broken = good.clone()
    broken[1, 3] = bad
    others, late = make(), make("later")
    known = [others.push(frame) for frame in (good, good + 1)]
    hops = [late.push(good), late.push(broken)]
    assert torch.equal(hops[0], known[0])
    assert torch.equal(hops[1][0], others_of(make, good, broken)[0])
    assert not hops[1][1].any()
    with pytest.raises(ValueError, match=r"frame 1 since the last reset"):
        late.check()
    late.check()  # once
    # The stream with the bad frame continues as if the frame had not been pushed.
    assert torch.equal(late.push(good + 1)[1], known[1][1])
    late.push(broken)
    for step in (late.flush, late.reset):
        with pytest.raises(ValueError, match="since the last reset"):
            step()
        step()
        late.push(broken)


def others_of(make: Callable[[], StreamingInverter], *frames: torch.Tensor) -> torch.Tensor:
    """Return the last hop of streams whose bad frames are replaced by those of stream 0."""
    inverter = make()
    hops = [inverter.push(torch.stack([frame[0], frame[0]])) for frame in frames]
    return hops[-1]


def test_other_engines_reject_a_bad_frame_at_once():
    inverter = StreamingInverter(STFT(64, 16), check="later", engine="eager")
    with pytest.raises(ValueError, match="nan"):
        inverter.push(torch.full((33,), torch.nan))
    with pytest.raises(ValueError, match="check="):
        StreamingInverter(STFT(64, 16), check="never")


# -- auto ------------------------------------------------------------------------------------------------


def test_auto_selects_the_fastest_engine_that_supports_rule_and_start(graphs, monkeypatch):
    stft = STFT(64, 16, device=DEVICE)

    def refused(name: str) -> object:
        assert "cpu" not in name, "numba is a second of imports that a GPU does not need"
        return import_module(name)

    if DEVICE == "cpu":  # the fake graph runs on the CPU, where only this check differs
        monkeypatch.setattr(engines, "CPU", "elsewhere")
    monkeypatch.setattr(engines, "import_module", refused)
    assert StreamingInverter(stft).engine == "cuda_graph"
    assert StreamingInverter(stft, init=Gradient(delay=1)).engine == "eager"
    assert StreamingInverter(stft, update=Twofold()).engine == "eager"  # its step is unknown
    wanted = magnitudes(stft).requires_grad_()
    assert StreamingInverter(stft, n_iter=1).push(wanted[:, 0]).requires_grad


def test_inversions_that_start_with_a_stream_use_the_same_engine(graphs, monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setattr(engines, "CPU", "elsewhere")
    made = []
    monkeypatch.setattr(
        cuda_graph.CudaGraph,
        "offer",
        lambda self, *frame, each: made.append(self) if frame[0] is not None else None,
    )
    stft = STFT(64, 16, device=DEVICE)
    S = magnitudes(stft, n_frames=20)
    config = MelConfig(8000, 128, 32, n_mels=12)
    for step in (
        lambda: rtspecinv.invert(S, stft, n_iter=1),
        lambda: rtspecinv.lbfgs(S, stft.magnitude, n_iter=1),
        lambda: rtspecinv.Mel(config, device=DEVICE).invert(torch.ones(12, 8, device=DEVICE)),
        lambda: list(
            rtspecinv.invert_blocks(S.unbind(-1), stft, n_iter=1, block_frames=16, overlap_frames=8)
        ),
    ):
        made.clear()
        step()
        assert made
