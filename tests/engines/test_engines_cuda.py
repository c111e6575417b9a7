"""Tests of the engine `cuda`: its kernels on a GPU, or on the CPU by g++; its resources on an H100."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import cuda_on_cpu
import fake_cuda_graph
import pytest
import torch
from contract import run, verify_contract

from rtspecinv import STFT, StreamingInverter
from rtspecinv.engines import kept
from rtspecinv.updates import RAAR, RULES, AcceleratedGriffinLim, DifferenceMap, GriffinLim

if importlib.util.find_spec("cuda") is None:
    pytest.skip('cuda-bindings is missing: pip install "rtspecinv[gpu]"', allow_module_level=True)

import sass

from rtspecinv.engines.gpu import cuda, nvrtc

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
LINEAR = [
    *(*RULES.values(), RAAR(momentum=0.3), GriffinLim(0.5), AcceleratedGriffinLim(0.5, 0.3, 1.1)),
    DifferenceMap(0.8),
]
# Largest difference to float64 after one push from the same state, relative to the loudest sample.
TOLERANCE = 1e-5
MANY = {"blocks": 0, "clusters": 10**9}  # streams of one frame that are spread over clusters


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run kernels on the CPU where there is no GPU."""
    if GPU or request.node.get_closest_marker("compiles"):
        return
    if reason := cuda_on_cpu.missing():
        pytest.skip(reason)
    cuda_on_cpu.on_cpu(monkeypatch)


def magnitudes(stft: STFT, *batch: int, n_frames: int = 6, seed: int = 0) -> torch.Tensor:
    n_samples = n_frames * stft.hop_length + stft.n_fft
    samples = torch.randn(*batch, n_samples, generator=torch.Generator().manual_seed(seed))
    return stft.magnitude(0.2 * samples.to(stft.device, stft.dtype))[..., :n_frames].contiguous()


def streams_of(stft: STFT, **options: Any) -> Any:
    inverter: Any = StreamingInverter(stft, engine="cuda", **options)
    assert inverter.engine == "cuda"
    assert inverter._engine._ready is not None
    return inverter


def one_push_from_everywhere(stft: STFT, magnitude: torch.Tensor, **options: Any) -> float:
    """Return the largest error of a push against float64; each push starts from the state in float64."""
    exact_stft = copy.deepcopy(stft).double()
    exact: Any = StreamingInverter(exact_stft, engine="eager", **options)
    ours = streams_of(stft, **options)
    worst = 0.0
    for frame in [*magnitude.unbind(-1), None, None]:
        for name in exact._engine.buffer.STATE:
            state = exact._engine.buffer.get_buffer(name)
            ours._engine.buffer.get_buffer(name).copy_(state)
            state.copy_(ours._engine.buffer.get_buffer(name))  # now both have the same numbers
        hop = ours._engine.push(frame)
        expected = exact._engine.push(None if frame is None else frame.double())
        scale = expected.abs().max().clamp_min(1e-3)
        worst = max(worst, float((hop - expected).abs().max() / scale))
    return worst


@pytest.mark.parametrize("update", LINEAR, ids=str)
def test_every_rule_is_exact(update):
    stft = STFT(256, 64, device=DEVICE)
    options = {"update": update, "look_ahead": 2, "n_iter": 2, "batch_shape": (2,)}
    assert one_push_from_everywhere(stft, magnitudes(stft, 2, n_frames=4), **options) < TOLERANCE


@pytest.mark.parametrize(
    ("n_fft", "hop_length", "kind", "options"),
    [
        (256, 16, "blocks", {"look_ahead": 1, "revise": 3}),
        (256, 64, "blocks", {"look_ahead": 1, "n_iter": 0}),
        (256, 32, "clusters", {"look_ahead": 4, "revise": 3}),
        (256, 64, "blocks", {"look_ahead": 1, "init": "peaks"}),
        (512, 256, "blocks", {"look_ahead": 1}),
        (512, 128, "clusters", {"look_ahead": 1, "init": "zeros"}),
        (1024, 256, "clusters", {"look_ahead": 3}),
        (1024, 256, "blocks", {"look_ahead": 0, "revise": 0}),
        (1024, 128, "blocks", {"look_ahead": 2, "update": "rtisi"}),
        (2048, 512, "blocks", {"look_ahead": 1}),
        (4096, 1024, "blocks", {"look_ahead": 1}),
    ],
)
def test_every_size_and_start_is_exact(n_fft, hop_length, kind, options, monkeypatch):
    monkeypatch.setattr(cuda, "IN_CLUSTERS", MANY[kind])
    stft = STFT(n_fft, hop_length, window="hamming", win_length=n_fft - 6, normalized=True, device=DEVICE)
    error = one_push_from_everywhere(stft, magnitudes(stft, n_frames=3), **{"n_iter": 1, **options})
    assert error < TOLERANCE


@pytest.mark.parametrize("update", ["raar", "admm"])
def test_known_phase_with_an_imaginary_part_at_0_hz(update):
    """No samples have such a spectrum; the reference keeps the imaginary part in its state."""
    stft = STFT(256, 64, device=DEVICE)
    S = magnitudes(stft, n_frames=4)
    spectrum = torch.polar(S, 3 * S)
    options = {"update": update, "look_ahead": 2, "n_iter": 1}
    expected = run(StreamingInverter(stft, engine="eager", **options), spectrum)
    assert expected.abs().max() > 0.01
    found = run(streams_of(stft, **options), spectrum)
    assert (found - expected).abs().max() < TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("kind", MANY)
def test_it_keeps_the_contract(kind, monkeypatch):
    monkeypatch.setattr(cuda, "IN_CLUSTERS", MANY[kind])
    stft = STFT(256, 128, device=DEVICE)

    def make() -> StreamingInverter:
        return streams_of(stft, look_ahead=1, n_iter=1, batch_shape=(2,))

    verify_contract(make, magnitudes(stft, 2, n_frames=4), chunks=(2,))


@pytest.mark.skipif(GPU, reason="a GPU has an order of its own")
@pytest.mark.parametrize("n_fft", [256, 1024])
def test_bits_depend_neither_on_the_order_of_threads_nor_on_how_they_are_spread(n_fft, monkeypatch):
    """On the CPU, each thread runs until it waits at a barrier, in an order that the test chooses."""
    stft = STFT(n_fft, n_fft // 4)
    S = magnitudes(stft, 2, n_frames=3)
    found = []
    for kind in MANY.values():
        monkeypatch.setattr(cuda, "IN_CLUSTERS", kind)
        for order in (0, 1, 2, 3):
            monkeypatch.setattr(cuda_on_cpu, "order", order)
            inverter = streams_of(stft, look_ahead=2, n_iter=2, update="agla", batch_shape=(2,))
            found.append(run(inverter, S))
    assert found[0].any()
    assert all(torch.equal(samples, found[0]) for samples in found)
    alone = run(streams_of(stft, look_ahead=2, n_iter=2, update="agla"), S[1])
    assert torch.equal(alone, found[0][1])


@pytest.mark.skipif(GPU, reason="only the CPU runs the threads in orders that show it")
@pytest.mark.parametrize("barrier", ["frame_barrier(frame);", "stream_barrier();"])
def test_a_missing_barrier_is_detected(barrier, monkeypatch, tmp_path):
    for name in nvrtc.FILES:
        text = (nvrtc.HERE / name).read_text()
        (tmp_path / name).write_text(text.replace(barrier, "", 1))
    monkeypatch.setattr(nvrtc, "HERE", tmp_path)
    cuda_on_cpu._library.cache_clear()
    stft, found = STFT(256, 64), []
    for order in (0, 1):
        monkeypatch.setattr(cuda_on_cpu, "order", order)
        found.append(run(streams_of(stft, look_ahead=1, n_iter=1), magnitudes(stft, n_frames=3)))
    cuda_on_cpu._library.cache_clear()
    assert not torch.equal(*found)


@pytest.mark.parametrize("init", ["overlap", "peaks"])
def test_some_streams_are_pushed_and_the_others_stay(init):
    stft = STFT(256, 64, device=DEVICE)
    options = {"look_ahead": 1, "n_iter": 1, "init": init}
    S = magnitudes(stft, 3, n_frames=5)
    engine = streams_of(stft, batch_shape=(3,), **options)._engine
    alone = [streams_of(stft, **options)._engine for _ in range(3)]
    for t, streams in enumerate(([2, 0], [1], [0, 1, 2], [2], [1, 2])):
        before = {name: state.clone() for name, state in engine.state().items()}
        which = torch.tensor(streams, device=DEVICE)
        hops = engine.push(S[streams, :, t], streams=which)
        for hop, stream in zip(hops, streams, strict=True):
            assert torch.equal(hop, alone[stream].push(S[stream, :, t]))
        for name, state in engine.state().items():
            for stream in range(3):
                assert torch.equal(state[stream], alone[stream].state()[name])
                assert stream in streams or torch.equal(state[stream], before[name][stream])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1.0, torch.finfo(torch.float32).max])
def test_a_bad_frame_changes_nothing_and_is_reported(value):
    stft = STFT(256, 64, device=DEVICE)
    S = magnitudes(stft, 3, n_frames=4)
    ours, known = (streams_of(stft, look_ahead=1, n_iter=1, batch_shape=(3,))._engine for _ in range(2))
    hops, verdict = ours.launch(S[..., 0], check="all")
    assert torch.equal(hops, known.push(S[..., 0]))
    assert is_good(verdict)
    bad = S[..., 1].clone()
    bad[1, 77] = value
    before = {name: state.clone() for name, state in ours.state().items()}
    hops, verdict = ours.launch(bad, check="all")
    assert not is_good(verdict)
    assert not hops.any()
    assert all(torch.equal(state, before[name]) for name, state in ours.state().items())
    hops, verdict = ours.launch(bad, check="each")
    assert not is_good(verdict)
    assert [int(flag) == verdict.serial for flag in verdict.flags] == [False, True, False]
    expected = known.push(S[..., 1])
    assert not hops[1].any()
    assert torch.equal(hops[0::2], expected[0::2])
    assert all(torch.equal(state[1], before[name][1]) for name, state in ours.state().items())
    assert all(torch.equal(state[0::2], known.state()[name][0::2]) for name, state in ours.state().items())
    hops, verdict = ours.launch(S[..., 2], check="all")
    assert is_good(verdict)
    assert torch.equal(hops[0::2], known.push(S[..., 2])[0::2])


def is_good(verdict: cuda.Verdict | None) -> bool:
    if GPU:
        torch.cuda.synchronize()
    assert verdict is not None
    return not verdict.is_bad


def test_gradients_other_precisions_and_copies_continue_the_state_of_the_kernel():
    stft = STFT(256, 64, device=DEVICE)
    S = magnitudes(stft, n_frames=8)
    options: dict[str, Any] = {"look_ahead": 1, "n_iter": 1, "update": "gla"}
    expected = run(StreamingInverter(stft, engine="eager", **options), S)
    inverter = streams_of(stft, **options)
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


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ((300, 75), {}),
        ((8192, 2048), {}),
        ((256, 80), {}),
        ((256, 64), {"look_ahead": 8}),
    ],
)
def test_settings_without_a_kernel_are_replayed_or_rejected(settings, options, monkeypatch):
    stft = STFT(*settings, device=DEVICE)
    if not GPU:
        with pytest.raises(ValueError, match=r"cuda.*use 'auto'"):
            StreamingInverter(stft, engine="cuda", **options)
        fake_cuda_graph.on_cpu(monkeypatch)
    assert StreamingInverter(stft, engine="cuda", **options).engine == "cuda_graph"


def test_a_bad_frame_delays_its_own_stream_or_all():
    stft = STFT(256, 64, device=DEVICE)
    options = {"look_ahead": 0, "n_iter": 1, "batch_shape": (2,)}
    good = magnitudes(stft, 2)[..., 0]
    bad = good.clone()
    bad[1, 7] = torch.nan
    now, late = streams_of(stft, **options), streams_of(stft, check="later", **options)
    first = now.push(good)
    with pytest.raises(ValueError, match="nan"):
        now.push(bad)
    assert torch.equal(late.push(good), first)
    assert not late.push(bad)[1].any()
    with pytest.raises(ValueError, match="frame 1 since the last reset"):
        late.check()
    assert torch.equal(late.push(good)[1], now.push(good)[1])  # its last frame was rejected


# -- machine code of NVRTC -----------------------------------------------------------------------------------


# n_fft, hop, look-ahead, whether a cluster: blocks that a multiprocessor has room for, at least; registers,
# bytes of stack and instructions an iteration, at most.
H100 = {
    (1024, 256, 3, False): (2, 96, 400, 1300),
    (1024, 256, 3, True): (4, 224, 0, 1280),
    (2048, 512, 3, False): (1, 168, 1400, 2800),
    (4096, 1024, 6, False): (1, 64, 2200, 3300),
}


@pytest.mark.compiles
@pytest.mark.parametrize("size", H100)
def test_resources_of_an_h100(size):
    if reason := sass.missing():
        pytest.skip(reason)
    code = sass.measure(*size)
    print(size, code)
    n_blocks, registers, stack, loop = H100[size]
    assert code.n_blocks >= n_blocks
    assert code.registers <= registers
    assert code.stack <= stack
    assert 500 < code.loop <= loop
    assert code.shared <= 232448


@pytest.mark.compiles
@pytest.mark.parametrize("architecture", ["sm_80", "sm_120"])
def test_other_cards_have_machine_code(architecture):
    if reason := sass.missing():
        pytest.skip(reason)
    constants, _ = sass.constants_of(256, 64, 0)
    assert nvrtc.built(constants, architecture)[0]


@pytest.mark.compiles
def test_machine_code_is_cached_and_damage_is_detected(tmp_path, monkeypatch):
    if reason := sass.missing():
        pytest.skip(reason)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []
    monkeypatch.setattr(nvrtc, "built", lambda *what: (made.append(what), (b"code", ""))[1])
    for _ in range(2):
        nvrtc.compiled.cache_clear()
        assert nvrtc.compiled("constants", "sm_90") == b"code"
    assert len(made) == 1
    (file,) = (tmp_path / "rtspecinv").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert kept.load(file.name) is None
    nvrtc.compiled.cache_clear()
    assert nvrtc.compiled("constants", "sm_90") == b"code"
    assert nvrtc.compiled("others", "sm_90") == b"code"
    assert len(made) == 3
    nvrtc.compiled.cache_clear()


@pytest.mark.compiles
def test_errors_of_the_compiler_are_shown():
    if reason := sass.missing():
        pytest.skip(reason)
    with pytest.raises(RuntimeError, match=r"(?s)sm_90.*N_FFT"):
        nvrtc.built("", "sm_90")


@pytest.mark.compiles
def test_without_nvrtc_the_error_states_how_to_install_it(monkeypatch):
    def missing() -> None:
        raise RuntimeError("no libnvrtc")

    monkeypatch.setattr(nvrtc.library, "nvrtcVersion", missing)
    nvrtc.compiled.cache_clear()
    with pytest.raises(ImportError, match=r"no libnvrtc.*pip install \"rtspecinv\[gpu\]\""):
        nvrtc.compiled("constants", "sm_90")
