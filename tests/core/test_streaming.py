"""Tests of StreamingInverter: contract, reference, state, arguments and errors."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any, cast

import numpy as np
import pytest
import reference
import torch
from banks import BANKS
from contract import run, verify_contract
from hypothesis import given, settings
from hypothesis import strategies as st

import rtspecinv
from rtspecinv import STFT, FilterBank, StreamingInverter
from rtspecinv.phase import STARTS, Gradient
from rtspecinv.updates import ADMM, RAAR, RULES, AcceleratedGriffinLim, DifferenceMap, GriffinLim

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
    ),
]
ENGINES = [
    "eager",
    pytest.param(
        "numba",
        marks=pytest.mark.skipif(
            not all(importlib.util.find_spec(name) for name in ("numba", "rocket_fft")),
            reason='numba or rocket-fft is missing: pip install "rtspecinv[fast]"',
        ),
    ),
]
SETTINGS: list[dict[str, Any]] = [
    {"n_fft": 32, "hop_length": 8},
    {"n_fft": 32, "hop_length": 4},
    {"n_fft": 33, "hop_length": 10},
    {"n_fft": 32, "hop_length": 8, "win_length": 24, "window": "blackman"},
    {"n_fft": 32, "hop_length": 16, "window": "hamming"},
    {"n_fft": 32, "hop_length": 32, "window": "rectangular"},
    {"n_fft": 32, "hop_length": 8, "center": False},
    {"n_fft": 31, "hop_length": 8, "normalized": True, "onesided": False},
    {"n_fft": 128, "hop_length": 30},
]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def magnitudes(stft: STFT, *batch: int, n_frames: int = 10, seed: int = 0) -> torch.Tensor:
    n_samples = (n_frames - 1) * stft.hop_length + stft.n_fft - 2 * stft.padding
    samples = 0.2 * noise(*batch, n_samples, seed=seed, dtype=stft.dtype)
    return stft.magnitude(samples.to(stft.device))


# --- The contract ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("update", "setting"),
    [*(("raar", setting) for setting in SETTINGS), *((update, SETTINGS[0]) for update in RULES)],
    ids=str,
)
def test_contract_of_rules_and_settings(update, setting, device, engine):
    if engine == "numba" and device != "cpu":
        pytest.skip("numba runs on the CPU only")
    stft = STFT(**setting, device=device)
    verify_contract(
        lambda: StreamingInverter(stft, update=update, batch_shape=(2,), n_iter=2, engine=engine),
        magnitudes(stft, 2),
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("init", [*STARTS.values(), Gradient(delay=1)], ids=str)
@pytest.mark.parametrize(("setting", "n_iter"), [(SETTINGS[0], 0), (SETTINGS[2], 2)], ids=str)
def test_contract_of_starts(init, setting, n_iter, engine):
    stft = STFT(**setting)
    options: dict[str, Any] = {"init": init, "look_ahead": 1, "n_iter": n_iter, "engine": engine}
    verify_contract(
        lambda: StreamingInverter(stft, batch_shape=(2,), **options),
        magnitudes(stft, 2),
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:magnitudes up to")  # estimates from the few bands of n_fft 4
@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=20, deadline=None)
@given(
    update=st.sampled_from(sorted(RULES)),
    init=st.sampled_from(["overlap", "overlap", "zeros", "peaks", "gradient", Gradient(delay=1)]),
    window=st.sampled_from(["hann", "hamming", "blackman"]),
    onesided=st.booleans(),
    normalized=st.booleans(),
    n_fft=st.integers(4, 40),
    overlap=st.integers(2, 6),
    center=st.sampled_from([True, False, "same", "snip"]),
    bank=st.sampled_from([None, None, "Bark"]),
    power=st.sampled_from([1, 2]),
    joint=st.booleans(),
    batch=st.sampled_from([(), (1,), (3,), (2, 2)]),
    look_ahead=st.integers(0, 3),
    revise=st.integers(0, 8),
    n_iter=st.integers(0, 2),
    double=st.booleans(),
    chunks=st.lists(st.integers(1, 6), max_size=4),
    seed=st.integers(0, 99),
)
def test_contract_of_anything(
    engine,
    update,
    init,
    window,
    onesided,
    normalized,
    n_fft,
    overlap,
    center,
    bank,
    power,
    joint,
    batch,
    look_ahead,
    revise,
    n_iter,
    double,
    chunks,
    seed,
):
    dtype = torch.float64 if double else torch.float32
    hop_length = max(1, n_fft // overlap)
    stft = STFT(
        n_fft,
        hop_length,
        window=window if overlap > 2 else "hamming",
        center=center,
        pad_mode="constant",
        onesided=onesided,
        normalized=normalized,
        dtype=dtype,
    )
    frames, filters = magnitudes(stft, *batch, n_frames=6, seed=seed), None
    if bank is not None:
        filters = FilterBank(BANKS[bank](n_fft), power=power, dtype=dtype)
        frames = filters.values(frames[..., : n_fft // 2 + 1, :])
    unused = StreamingInverter(
        stft,
        update=update,
        init=init,
        look_ahead=look_ahead if isinstance(init, str) else max(look_ahead, init.n_waiting),
        revise=0 if RULES[update].textbook else min(revise, stft.look_back),
        n_iter=n_iter,
        batch_shape=batch,
        bank=filters,
        joint=joint,
        engine=engine,
    )
    verify_contract(lambda: copy.deepcopy(unused), frames, chunks)


# --- Comparison with the reference, and measurements ------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("look_ahead", "revise"), [(0, 0), (1, 1), (3, 0), (2, 99)])
@pytest.mark.parametrize("setting", [s for s in SETTINGS if s["hop_length"] < 32], ids=str)
@pytest.mark.parametrize("name", reference.RULES)
def test_equals_the_reference(name, setting, look_ahead, revise, engine):
    update = RULES.get(name) or RAAR(momentum=0.3)
    stft = STFT(**setting, dtype=torch.float64)
    revise = 0 if update.textbook else min(revise, stft.look_back)
    # Iterations amplify rounding errors, for some rules by more than 10 per push, so few frames are compared.
    S = magnitudes(stft, n_frames=7)
    options: dict[str, Any] = {"look_ahead": look_ahead, "revise": revise, "n_iter": 2}
    inverter = StreamingInverter(stft, update=update, init="overlap", engine=engine, **options)
    samples = run(inverter, S)[inverter.latency :].numpy()
    expected = reference.invert(S.numpy(), stft, name, **options)
    np.testing.assert_allclose(samples, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("update", RULES)
def test_float32_is_near_float64(update):
    stft = STFT(64, 16, dtype=torch.float64)
    S = magnitudes(stft, n_frames=6)
    make = lambda stft: StreamingInverter(stft, update=update, n_iter=2)  # noqa: E731
    exact = run(make(stft), S)
    rounded = run(make(STFT(64, 16)), S.float())
    assert (exact - rounded).norm() < 1e-3 * exact.norm()


@pytest.mark.parametrize("update", RULES)
def test_the_true_phase_is_a_fixed_point(update):
    """A consistent spectrum is a fixed point: the phase of a recording gives the recording."""
    stft = STFT(64, 16, dtype=torch.float64)
    samples = noise(800, dtype=torch.float64)
    inverter = StreamingInverter(stft, update=update, n_iter=4)
    for n_iter in (0, 4):
        inverter = StreamingInverter(stft, update=update, n_iter=n_iter)
        result = run(inverter, stft.analyze(samples))[inverter.latency :]
        # The newest frame is not compared before all frames that overlap it have arrived.
        assert (result - samples).norm() < (1e-9 if n_iter == 0 else 0.1) * samples.norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_complex_frames_start_with_their_phase(engine):
    stft = STFT(64, 16)
    spectrum = stft.analyze(noise(800))
    by_phase = run(StreamingInverter(stft, engine=engine), spectrum)
    assert not torch.equal(by_phase, run(StreamingInverter(stft, engine=engine), spectrum.abs()))
    assert torch.equal(by_phase, run(StreamingInverter(stft, engine=engine), spectrum, (5, 7)))


def voice(n_samples: int = 8000, rate: int = 16000) -> torch.Tensor:
    """Return harmonics of a gliding fundamental with a decaying envelope, for tests of convergence."""
    t = torch.arange(n_samples, dtype=torch.float64) / rate
    phase = 2 * torch.pi * (140 * t + 20 * torch.sin(2 * torch.pi * 3 * t) / (2 * torch.pi * 3) * 2)
    tone = sum(torch.sin(k * phase) / k for k in range(1, 30))
    return (0.1 * tone * (1 + torch.sin(2 * torch.pi * 5 * t))).float()


def convergence(stft: STFT, samples: torch.Tensor, **options: Any) -> float:
    S = stft.magnitude(samples)
    inverter = StreamingInverter(stft, **options)
    result = run(inverter, S)[inverter.latency :]
    return float(rtspecinv.metrics.spectral_convergence(stft.magnitude(result)[:, 4:-4], S[:, 4:-4]))


def test_more_look_ahead_and_iterations_improve_the_result():
    stft, samples = STFT(512, 128), voice()
    default = convergence(stft, samples)
    assert default < -30
    assert default < convergence(stft, samples, update="rtisi") - 3
    assert default < convergence(stft, samples, look_ahead=0) - 0.5
    assert default < convergence(stft, samples, n_iter=2) - 1
    assert convergence(stft, samples, look_ahead=0) < convergence(stft, samples, look_ahead=0, revise=0) - 1
    assert convergence(stft, samples, init="overlap") < convergence(stft, samples, init="zeros") - 1


@pytest.mark.parametrize(("init", "look_ahead"), [("gradient", 0), (Gradient(delay=1), 1), ("peaks", 0)])
def test_starts_alone_are_algorithms(init, look_ahead):
    stft, samples = STFT(512, 64, window="blackman"), voice()
    alone = convergence(stft, samples, init=init, n_iter=0, look_ahead=look_ahead)
    nothing = convergence(stft, samples, init="zeros", n_iter=0, look_ahead=look_ahead)
    assert alone < nothing - 10


@pytest.mark.parametrize("engine", ENGINES)
def test_sound_after_silence_is_as_good_as_before(engine):
    stft, samples = STFT(512, 128), voice()
    gap = torch.cat([samples, torch.zeros(16000), samples])
    S = stft.magnitude(gap)
    inverter = StreamingInverter(stft, engine=engine)
    result = stft.magnitude(run(inverter, S)[inverter.latency :])
    n_frames = len(samples) // stft.hop_length - 4  # without the frames at the edges, as in convergence()
    error = rtspecinv.metrics.spectral_convergence(result[:, -n_frames:-4], S[:, -n_frames:-4])
    assert float(error) < convergence(stft, samples) + 5


@pytest.mark.parametrize("engine", ENGINES)
def test_scale_is_only_scale(engine):
    stft = STFT(64, 16)
    S = magnitudes(stft)
    for exponent in (-40, 2):  # a power of two, which changes no rounding
        scaled = run(StreamingInverter(stft, engine=engine), S * 2.0**exponent)
        assert torch.equal(scaled, run(StreamingInverter(stft, engine=engine), S) * 2.0**exponent)


@pytest.mark.parametrize("options", [{}, {"look_ahead": 0}, {"look_ahead": 0, "revise": 3}], ids=str)
def test_no_clicks_between_hops(options):
    """An amplitude-modulated tone has no energy above 4 kHz; any energy there comes from hop boundaries."""
    stft, rate = STFT(512, 128), 16000
    t = torch.arange(2 * rate, dtype=torch.float64) / rate
    tone = sum(torch.sin(2 * torch.pi * 110 * k * t) / k**2 for k in range(1, 20))
    tone = (0.2 * tone * (1 + 0.5 * torch.sin(2 * torch.pi * 6 * t))).float()
    inverter = StreamingInverter(stft, **options)
    middle = run(inverter, stft.magnitude(tone))[inverter.latency :][rate // 2 : -rate // 2].double()
    window = torch.signal.windows.blackman(len(middle), dtype=torch.float64)
    power = torch.fft.rfft(middle * window).abs().square()
    above = power[4000 * len(middle) // rate :].sum() / power.sum()
    assert 10 * torch.log10(above) < -100


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("look_ahead", [1, 3])
@pytest.mark.parametrize(("n_fft", "hop_length"), [(64, 32), (64, 16), (60, 20)])
def test_uncentred_ends_fade_as_documented(n_fft, hop_length, look_ahead, engine):
    """With known phase, the result is the inverse STFT, except where the window sum is below 4 %."""
    stft = STFT(n_fft, hop_length, center=False, dtype=torch.float64)
    samples = noise(20 * hop_length + n_fft).double()
    spectrum = stft.analyze(samples)
    inverter = StreamingInverter(stft, init="overlap", n_iter=0, look_ahead=look_ahead, engine=engine)
    result = run(inverter, spectrum)[inverter.latency :]
    coverage = stft.overlap_add(stft.envelope.expand(spectrum.shape[-1], -1))
    assert torch.allclose(result, samples * (coverage / 0.04).clamp_max(1), atol=1e-9)
    fading = (coverage < 0.04).nonzero().flatten()
    assert min(int(i) for i in fading if i > hop_length) > len(samples) - hop_length
    if hop_length == n_fft // 4:
        assert int((fading < hop_length).sum()) == pytest.approx(n_fft / 6, abs=1)


# --- State of a stream -----------------------------------------------------------------------------------


def test_streams_of_a_batch_are_those_of_one():
    stft = STFT(64, 16, dtype=torch.float64)
    S = magnitudes(stft, 3, 2, n_frames=6)
    together = run(StreamingInverter(stft, batch_shape=(3, 2)), S)
    for index in np.ndindex(3, 2):
        assert torch.allclose(together[index], run(StreamingInverter(stft), S[index]), atol=1e-8)
    assert not torch.allclose(together[0, 0], together[1, 0], atol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_to_in_mid_stream(engine):
    stft = STFT(64, 16)
    S = magnitudes(stft)
    inverter = StreamingInverter(stft, n_iter=2, engine=engine)
    expected = run(StreamingInverter(stft.to(torch.float64), n_iter=2, engine=engine), S.double())
    hops = [inverter.push_many(S[:, :5])]
    inverter.to(torch.float64)
    hops += [inverter.push_many(S[:, 5:].double()), inverter.flush()]
    assert hops[1].dtype == torch.float64
    assert (torch.cat([h.double() for h in hops]) - expected).norm() < 0.05 * expected.norm()
    with pytest.raises(TypeError, match=r"magnitude.to\(torch.float64\)"):
        inverter.push(S[:, 0])
    inverter.to(torch.float32)
    assert torch.equal(run(inverter, S), run(StreamingInverter(STFT(64, 16), n_iter=2, engine=engine), S))


def test_the_inverter_copies_its_stft():
    stft = STFT(64, 16)
    inverter = StreamingInverter(stft)
    inverter.to(torch.float64)
    assert stft.dtype == torch.float32


@pytest.mark.parametrize("engine", ENGINES)
def test_state_is_written_in_place_and_does_not_grow(engine):
    stft = STFT(64, 16)
    inverter = StreamingInverter(stft, update="agla", batch_shape=(2,), engine=engine)
    where = {name: (b.data_ptr(), b.shape) for name, b in inverter.named_buffers()}
    run(inverter, magnitudes(stft, 2))
    inverter.reset(torch.tensor([True, False]))
    assert {name: (b.data_ptr(), b.shape) for name, b in inverter.named_buffers()} == where


@pytest.mark.parametrize("engine", ENGINES)
def test_a_copy_is_independent(engine):
    stft = STFT(64, 16)
    S = magnitudes(stft)
    inverter = StreamingInverter(stft, engine=engine)
    inverter.push_many(S[:, :5])
    twin = copy.deepcopy(inverter)
    rest = torch.cat([inverter.push_many(S[:, 5:]), inverter.flush()])
    assert torch.equal(torch.cat([twin.push_many(S[:, 5:]), twin.flush()]), rest)


def test_arrays_are_converted():
    stft = STFT(64, 16)
    S = magnitudes(stft)
    expected = run(StreamingInverter(stft), S)
    inverter = StreamingInverter(stft)
    array = S.double().numpy()
    hops = [inverter.push(array[:, t]) for t in range(4)] + [inverter.push_many(array[:, 4:])]
    assert torch.equal(torch.cat([*hops, inverter.flush()]), expected)
    with pytest.raises(TypeError, match=r"int16.*astype"):
        inverter.push(np.ones(33, np.int16))


@pytest.mark.slow
@pytest.mark.parametrize("update", RULES)
def test_gradients_are_right(update):
    stft = STFT(8, 2, dtype=torch.float64)
    # With this seed no c passes through 0 within eps, where the phase and the derivative would jump.
    S = magnitudes(stft, n_frames=4, seed=1).requires_grad_()
    inverter = StreamingInverter(stft, update=update, n_iter=2, look_ahead=1)
    assert torch.autograd.gradcheck(lambda S: run(inverter, S), S, eps=1e-7, atol=1e-4)
    assert not run(inverter, S.detach()).requires_grad
    with torch.no_grad():
        assert not run(inverter, S).requires_grad


def test_gradients_can_be_cut():
    stft = STFT(32, 8)
    S = magnitudes(stft)
    inverter = StreamingInverter(stft)
    for t in range(4):
        frame = S[:, t].clone().requires_grad_()
        inverter.push(frame).square().sum().backward()
        inverter.detach()
        assert frame.grad is not None or t < inverter.look_ahead
    assert not inverter.push(S[:, 4]).requires_grad


@pytest.mark.parametrize("engine", ENGINES)
def test_inference_mode_does_not_change_the_result(engine):
    stft = STFT(32, 8)
    S = magnitudes(stft)
    with torch.inference_mode():
        inverter = StreamingInverter(STFT(32, 8), engine=engine)
        head = inverter.push_many(S[:, :5])
    samples = torch.cat([head, inverter.push_many(S[:, 5:]), inverter.flush()])
    assert torch.equal(samples, run(StreamingInverter(stft, engine=engine), S))


@pytest.mark.parametrize("init", ["peaks", "gradient", "zeros", "overlap"])
def test_gradients_are_finite(init):
    stft = STFT(32, 8)
    S = magnitudes(stft)
    S[:, 3:6] = 0
    S.requires_grad_()
    run(StreamingInverter(stft, init=init), S).square().sum().backward()
    assert S.grad is not None
    assert S.grad.isfinite().all()
    assert S.grad.any()


# --- Arguments and their errors --------------------------------------------------------------------------


def test_every_argument_matters():
    stft = STFT(64, 16)
    S = magnitudes(stft, n_frames=12)

    def result(**options: Any) -> torch.Tensor:
        inverter = StreamingInverter(stft, **options)
        return run(inverter, S)[inverter.latency :]

    results = [
        result(),
        result(update="rtisi"),
        result(update="gla"),
        *(result(update=GriffinLim(momentum=m)) for m in (0.5, 0.99)),
        *(result(update=RAAR(beta=b)) for b in (0.5, 0.7)),
        *(result(update=RAAR(ramp=r)) for r in (0.0, 0.1)),
        result(update=RAAR(momentum=0.3)),
        *(result(update=DifferenceMap(beta=b)) for b in (0.8, 1.0)),
        *(result(update=ADMM(rho=r)) for r in (0.0, 0.1, 0.5)),
        *(result(update=AcceleratedGriffinLim(gamma=g)) for g in (1.1, 1.25)),
        *(result(init=i) for i in ("gradient", Gradient(tolerance=0.1), Gradient(delay=1), "peaks", "zeros")),
        *(result(look_ahead=k) for k in (0, 1, 2, 5)),
        *(result(revise=r) for r in (0, 2, 3)),
        *(result(n_iter=n) for n in (0, 1, 9)),
    ]
    for i, one in enumerate(results):
        for other in results[:i]:
            assert not torch.allclose(one, other, atol=1e-4)


def test_defaults():
    inverter = StreamingInverter(STFT(1024, 256))
    assert (inverter.look_ahead, inverter.revise, inverter.n_iter) == (3, 1, 8)
    assert inverter.latency == 3 * 256 + 512
    assert StreamingInverter(STFT(1024, 128)).look_ahead == 7
    assert StreamingInverter(STFT(), update="rtisi").revise == 0
    assert repr(inverter).startswith("StreamingInverter(\n  look_ahead=3, revise=1, n_iter=8")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"update": "raarr"}, ValueError, "update='raarr'.*did you mean 'raar'"),
        ({"init": "overlapp"}, ValueError, "did you mean 'overlap'"),
        ({"engine": "eagre"}, ValueError, "did you mean 'eager'"),
        ({"look_ahead": -1}, ValueError, "look_ahead=-1 is not an integer >= 0"),
        ({"look_ahead": 1.5}, ValueError, "look_ahead=1.5 is not an integer"),
        ({"n_iter": -8}, ValueError, "n_iter=-8"),
        ({"revise": 4}, ValueError, "revise=4 is larger than look_back=3"),
        ({"update": "rtisi", "revise": 1}, ValueError, "GriffinLim"),
        ({"init": Gradient(delay=1), "look_ahead": 0}, ValueError, "look_ahead=0 is too small"),
        ({"batch_shape": (2, 0)}, ValueError, r"batch_shape=\(2, 0\) is not a tuple of integers >= 1"),
        ({"batch_shape": 3}, ValueError, "batch_shape=3 is not a tuple"),
        ({"update": RAAR}, TypeError, r"use RAAR\(\)"),
    ],
)
def test_bad_options(options, error, words):
    with pytest.raises(error, match=words):
        StreamingInverter(STFT(1024, 256), **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RAAR(beta=1.5), "beta=1.5 is not a finite number from 0 to 1"),
        (lambda: GriffinLim(momentum=-1), "momentum=-1"),
        (lambda: DifferenceMap(beta=0), "beta=0 is not a finite number from 0.1 to 2"),
        (lambda: ADMM(rho=-0.1), "rho=-0.1"),
        (lambda: AcceleratedGriffinLim(gamma=float("nan")), "gamma=nan"),
        (lambda: Gradient(delay=2), "delay=2"),
        (lambda: Gradient(tolerance=0), "tolerance=0"),
    ],
)
def test_bad_rules(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("method", "shape", "words"),
    [
        ("push", (10, 33), "looks like .frames, freq., use push_many.magnitude.mT"),
        ("push", (33, 10), "several frames, use push_many"),
        ("push", (65,), "64 gives 33"),
        ("push", (), "axes"),
        ("push_many", (33,), "one frame, use push"),
        ("push_many", (10, 33), "looks like .frames, freq."),
        ("push_many", (65, 10), "n_fft"),
        ("push_many", (2, 33, 10), "axes"),
    ],
)
def test_wrong_shapes_are_reported_with_a_way_out(method, shape, words):
    inverter = StreamingInverter(STFT(64, 16))
    with pytest.raises(ValueError, match=words):
        getattr(inverter, method)(torch.ones(shape))


def test_other_misuse():
    stft = STFT(64, 16)
    with pytest.raises(TypeError, match="dict"):
        StreamingInverter(cast(Any, {}))
    inverter = StreamingInverter(stft, batch_shape=(2,))
    with pytest.raises(TypeError, match="bool"):
        inverter.reset(torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="batch_shape"):
        inverter.reset(torch.tensor([True]))
    with pytest.raises(ValueError, match=r"complex.*overlap"):
        StreamingInverter(stft, init=Gradient(delay=1)).push(stft.analyze(noise(200))[:, 0])


def test_powers_are_reported_once():
    stft = STFT(64, 16)
    inverter = StreamingInverter(stft)
    power = torch.full((33,), (0.5 * 16) ** 2)  # a full-scale sinusoid has |X| = 16
    inverter.push(power.sqrt())
    with pytest.warns(UserWarning, match=r"sqrt.*powers"):
        inverter.push(10 * power)
    inverter.push(10 * power)


# --- Changes of the number of iterations --------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("engine", ENGINES)
@given(
    update=st.sampled_from(["raar", "rtisi", "fgla", "admm"]),
    n_iters=st.lists(st.integers(0, 4), min_size=10, max_size=10),
    batch=st.sampled_from([(), (2,)]),
)
def test_iterations_may_change_between_pushes(engine, update, n_iters, batch):
    """A push after a change of n_iter equals that of an inverter made with this n_iter, in the same state."""
    stft = STFT(n_fft=32, hop_length=8)
    magnitude = magnitudes(stft, *batch)
    changing = StreamingInverter(stft, update=update, n_iter=7, batch_shape=batch, engine=engine)
    for n_iter, frame in zip(n_iters, magnitude.unbind(-1), strict=True):
        fixed = StreamingInverter(stft, update=update, n_iter=n_iter, batch_shape=batch, engine=engine)
        for name, state in changing._engine.state().items():
            fixed._engine.state()[name].copy_(state)
        changing.n_iter = n_iter
        assert torch.equal(changing.push(frame), fixed.push(frame))


@pytest.mark.parametrize("engine", ENGINES)
def test_bad_n_iter_changes_nothing(engine):
    inverter = StreamingInverter(STFT(n_fft=32, hop_length=8), n_iter=3, engine=engine)
    for wrong in (-1, 2.5, True, "8", None):
        with pytest.raises(ValueError, match=r"n_iter=.* is not an integer >= 0"):
            inverter.n_iter = cast(Any, wrong)
    assert inverter.n_iter == 3
    inverter.n_iter = 5
    assert "n_iter=5" in repr(inverter)
    assert copy.deepcopy(inverter).n_iter == 5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("n_fft", "hop_length", "batch"), [(64, 8, ()), (100, 25, (2,)), (4, 1, (3,))])
def test_complex_frames_give_the_same_bits_for_every_cut(engine, n_fft, hop_length, batch):
    stft = STFT(n_fft, hop_length, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(*batch, 40 * hop_length + n_fft, generator=generator, dtype=torch.float64)
    spectrum = 0.1 * stft.analyze(samples)
    expected = run(StreamingInverter(stft, look_ahead=1, batch_shape=batch, engine=engine), spectrum)
    for size in (2, 3, 7):
        inverter = StreamingInverter(stft, look_ahead=1, batch_shape=batch, engine=engine)
        parts = [inverter.push_many(part) for part in spectrum.split(size, -1)]
        assert torch.equal(torch.cat([*parts, inverter.flush()], -1), expected)


# --- A whole spectrogram at once ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_shape", [(), (2,)])
@pytest.mark.parametrize("length", [None, 0, 1, 1000, 5000])
def test_run_pushes_all_flushes_and_drops_the_latency(batch_shape, length):
    stft = STFT(64, 16)
    magnitude = torch.rand(*batch_shape, stft.n_freq, 30, generator=torch.Generator().manual_seed(0))
    inverter, other = (StreamingInverter(stft, batch_shape=batch_shape) for _ in range(2))
    inverter.push(magnitude[..., 7])  # `run` resets the inverter
    samples = inverter.run(magnitude, length=length)
    pushed = other.push_many(magnitude)
    owed = None if length is None else max(0, other.latency + length - pushed.shape[-1])
    expected = torch.cat([pushed, other.flush(owed)], -1)[..., other.latency :][..., :length]
    assert torch.equal(samples, expected)
    assert samples.shape == (*batch_shape, stft.length(30) if length is None else length)
    assert torch.equal(inverter.run(magnitude, length=length), samples)


def test_run_of_bad_frames_changes_nothing():
    stft = STFT(64, 16)
    magnitude = torch.rand(stft.n_freq, 30, generator=torch.Generator().manual_seed(0))
    inverter, other = StreamingInverter(stft), StreamingInverter(stft)
    for each in (inverter, other):
        each.push_many(magnitude)
    with pytest.raises(ValueError, match="< 0"):
        inverter.run(-magnitude)
    with pytest.raises(ValueError, match="length"):
        inverter.run(magnitude, length=-1)
    assert torch.equal(inverter.flush(), other.flush())


@pytest.mark.parametrize(("init", "least"), [("overlap", 0.93), ("gradient", 0.8)])
@pytest.mark.parametrize("window", ["hann", "blackman"])
@pytest.mark.parametrize("win_length", [200, 256])
def test_a_click_keeps_the_energy_of_its_magnitudes_though_not_that_of_its_samples(
    window, win_length, init, least
):
    # With s[n] = sum_t w[n - tH]^2, magnitudes fix sum_n s[n] x[n]^2 (Parseval), not the energy of x: a sound
    # with those of a click at p has at least s[p] / max s of its energy, little where windows hardly overlap.
    stft = STFT(256, 128, win_length=win_length, window=window, dtype=torch.float64)
    clicks = torch.zeros(128, 2048, dtype=torch.float64)
    clicks[range(128), range(1000, 1128)] = 1
    magnitude = stft.magnitude(clicks)
    wanted = magnitude.square().sum((-1, -2))
    stream = StreamingInverter(stft, init=init, batch_shape=(128,))
    samples = torch.cat([stream.push_many(magnitude), stream.flush()], -1)[:, stream.latency :]
    kept = stft.magnitude(samples).square().sum((-1, -2)) / wanted
    assert kept.min() > least
    assert kept.median() > 0.97
    assert (samples.square().sum(-1) > 0.93 * wanted / wanted.max()).all()
    stream.n_iter = 0
    samples = torch.cat([stream.push_many(stft.analyze(clicks)), stream.flush()], -1)[:, stream.latency :]
    torch.testing.assert_close(samples[:, :2048], clicks[:, : samples.shape[-1]])
