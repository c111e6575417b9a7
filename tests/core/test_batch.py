"""Tests of batch inversion: fixed points, the papers' loops, independence, gradients, bad input."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import SMALL, sound, transforms
from torch import Tensor

from rtspecinv import STFT, invert
from rtspecinv.batch import BATCH_RULES, Hybrid, Iteration, start_stream
from rtspecinv.frames import MIN_COVERAGE
from rtspecinv.metrics import spectral_convergence
from rtspecinv.updates import RAAR, AcceleratedGriffinLim, GriffinLim


def told(magnitude: Tensor, stft: STFT, **options) -> list[Iteration]:
    """Return the iterations that a callback receives, in order."""
    seen: list[Iteration] = []
    invert(magnitude, stft, callback=seen.append, **options)
    return seen


@pytest.mark.parametrize("update", BATCH_RULES)
@settings(deadline=None, max_examples=15)
@given(stft=transforms())
def test_a_signal_with_its_true_phase_is_a_fixed_point(update, stft):
    n_frames = 4 + 2 * stft.n_fft // stft.hop_length
    samples = sound((n_frames - 1) * stft.hop_length + stft.n_fft - 2 * stft.padding)
    spectrum = stft.analyze(samples)
    seen = told(spectrum, stft, update=update, n_iter=6, evaluate_every=1)
    # Without centring, the first and last samples have nearly no window weight and fade.
    worst = max(float(s.convergence) for s in seen)
    assert worst < (-180 if stft.center else -20)
    if stft.center:
        assert torch.allclose(seen[-1].samples[0], samples, atol=1e-8)
    assert [s.number for s in seen] == list(range(7))


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("update", [*reference.RULES, "hybrid"])
def test_rules_are_the_loops_of_the_papers(update, center):
    """Every rule equals plain loops over frames with absolute positions and numpy's FFT."""
    stft = STFT(24, 7, win_length=20, center=center, pad_mode="constant", dtype=torch.float64)
    magnitude = stft.magnitude(sound(200))
    start = torch.polar(
        magnitude, 6 * torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(1)).double()
    )
    rule = {"raar": RAAR(0.78, ramp=0.2), "raar with momentum": RAAR(0.78, ramp=0.2, momentum=0.3)}.get(
        update, update
    )
    (_, *seen) = told(magnitude, stft, update=rule, n_iter=6, evaluate_every=6, init=start)
    assert np.allclose(
        seen[-1].actual[0].numpy(), np.abs(by_loops(magnitude, start, stft, update, n_iter=6)), atol=1e-9
    )


def by_loops(magnitude: Tensor, start: Tensor, stft: STFT, update: str, n_iter: int) -> np.ndarray:
    """Return the spectrum of the samples of the estimate, `(n_freq, n_frames)`."""
    w, d = stft.window.numpy(), stft.dual_window.numpy()
    n_fft, hop, padding = stft.n_fft, stft.hop_length, stft.padding
    S, n_frames = magnitude.numpy(), magnitude.shape[-1]
    n_samples = (n_frames - 1) * hop + n_fft

    def p_m(c):
        return {t: S[:, t] * np.exp(1j * np.angle(c[t])) for t in c}

    def samples_of(c, floor):
        x, e = np.zeros(n_samples), np.zeros(n_samples)
        for t, frame in c.items():
            x[t * hop : t * hop + n_fft] += d * np.fft.irfft(frame, n_fft)
            e[t * hop : t * hop + n_fft] += w * d
        x = np.where(e > 1e-12, x / np.maximum(e, max(floor, 1e-12)), 0)
        x[:padding] = x[n_samples - padding :] = 0  # as padded by "constant"
        return x

    def analyzed(x):
        return {t: np.fft.rfft(w * x[t * hop : t * hop + n_fft]) for t in range(n_frames)}

    def p_c(c):
        return analyzed(samples_of(c, 0))

    c = {t: start.numpy()[:, t] for t in range(n_frames)}
    legs = (
        [("dm", int(0.35 * n_iter)), ("agla", n_iter - int(0.35 * n_iter))]
        if update == "hybrid"
        else [(update, n_iter)]
    )
    for name, n in legs:
        step, factors, committed = reference.RULES[name]
        carried = [{} if f is None else {t: f * c[t] for t in c} for f in factors]
        for _ in range(n):
            # A batch run has no older frames, so every frame has the middle of the ramp.
            c, carried = step(c, carried, p_m, p_c, lambda t: 0.0)
        c = p_m(p_c(p_m(c))) if committed == "shadow" else p_m(carried[0])
    return np.stack(list(analyzed(samples_of(c, MIN_COVERAGE)).values()), -1)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), hop_length=st.integers(2, 16))
def test_griffin_lim_never_increases_the_inconsistency(seed, hop_length):
    stft = STFT(32, hop_length, pad_mode="constant", dtype=torch.float64)
    # No signal has these magnitudes.
    magnitude = torch.rand(17, 20, generator=torch.Generator().manual_seed(seed)).double()
    seen = told(magnitude, stft, update="gla", n_iter=12, evaluate_every=1, init="random")
    twice = torch.full(
        (17, 1), 2.0, dtype=torch.float64
    )  # half spectra: all but 0 Hz and Nyquist count twice
    twice[0] = twice[-1] = 1
    errors = torch.stack([((s.actual - s.target).square() * twice).sum() for s in seen])
    assert (errors.diff() <= 1e-12 * errors[0]).all()
    assert errors[-1] < 0.9 * errors[0]


@pytest.mark.parametrize("init", ["stream", "peaks", "random", "zeros"])
@pytest.mark.parametrize("update", ["hybrid", "fgla", "raar"])
def test_items_are_independent_and_different(update, init):
    magnitude = SMALL.magnitude(sound(500, 2, 3))
    together = invert(magnitude, SMALL, update=update, init=init, n_iter=9)
    assert together.shape == (2, 3, 496)
    changed = magnitude.clone()
    changed[0, 1] = torch.rand(changed[0, 1].shape)
    others = invert(changed, SMALL, update=update, init=init, n_iter=9)
    same = torch.eq(together, others).all(-1)
    assert same.tolist() == [[True, False, True], [True, True, True]]
    for i, j in [(0, 0), (1, 2)]:
        alone = invert(magnitude[i, j], SMALL, update=update, init=init, n_iter=9)
        # Iterations amplify rounding errors in bins of noise, and these depend on the number of streams.
        assert torch.allclose(together[i, j], alone, atol=0.05 if init == "stream" else 1e-9)
    assert torch.cdist(together.view(6, -1), together.view(6, -1)).add(torch.eye(6)).min() > 0.5


@pytest.mark.parametrize("update", BATCH_RULES)
def test_every_rule_converges(update):
    stft = STFT(256, 64)
    magnitude = stft.magnitude(sound(6000).float())
    n_iter = 30
    for init, least in (("stream", -24), ("peaks", -17), ("random", -13), ("zeros", -10)):
        samples = invert(magnitude, stft, update=update, init=init, n_iter=n_iter, length=6000)
        assert spectral_convergence(stft.magnitude(samples), magnitude) < least


def test_the_start_is_the_stream():
    magnitude = SMALL.magnitude(sound(500))
    inverter = start_stream(SMALL, ())
    stream = torch.cat([inverter.push_many(magnitude), inverter.flush()])[inverter.latency :]
    (only,) = told(magnitude, SMALL, n_iter=0)
    (from_it,) = told(magnitude, SMALL, n_iter=0, init=SMALL.analyze(stream))
    assert torch.allclose(only.samples, from_it.samples, atol=1e-9)
    assert float(only.convergence) < spectral_convergence(SMALL.magnitude(stream), magnitude) + 0.5


def test_the_best_is_returned_when_a_rule_diverges():
    magnitude = SMALL.magnitude(sound(608))
    options: dict[str, Any] = {
        "update": AcceleratedGriffinLim(1.25, 1.1, 0.1),
        "n_iter": 60,
        "evaluate_every": 3,
    }
    seen = told(magnitude, SMALL, **options)
    errors = [float(s.convergence) for s in seen]
    assert max(errors) > min(errors) + 3  # the rule diverges
    for n, now in enumerate(seen, 1):  # the samples are those with the smallest error so far
        actual = spectral_convergence(SMALL.magnitude(now.samples[0]), magnitude)
        assert abs(float(actual) - min(errors[:n])) < 1e-6
    assert torch.equal(invert(magnitude, SMALL, **options), seen[-1].samples[0])


def test_callback_and_tolerance_stop():
    magnitude = SMALL.magnitude(sound(600, 2))
    numbers: list[tuple[int, int]] = []

    def stop(now: Iteration) -> bool:
        numbers.append((now.items.start, now.number))
        return cast(Any, now.number >= 10 * torch.ones(1))  # anything true

    invert(magnitude, SMALL, n_iter=100, evaluate_every=5, callback=stop, update="gla")
    assert numbers in ([(0, 0), (0, 5), (0, 10)], [(i, n) for i in range(2) for n in (0, 5, 10)])
    loose = told(magnitude[0], SMALL, update="gla", n_iter=200, evaluate_every=5, tol=1e-2)[-1].number
    tight = told(magnitude[0], SMALL, update="gla", n_iter=200, evaluate_every=5, tol=1e-6)[-1].number
    assert loose < tight <= 200


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
def test_scale_does_not_matter(scale):
    stft = STFT(64, 16)
    magnitude = stft.magnitude(sound(500).float())
    with pytest.warns(UserWarning, match="largest magnitude of samples") if scale > 1 else nullcontext():
        scaled = invert(magnitude * scale, stft, n_iter=10)
    assert torch.equal(scaled, invert(magnitude, stft, n_iter=10) * scale)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["stream", "peaks", "random", "zeros"])
@pytest.mark.parametrize("n_frames", [1, 2, 3, 9])
@settings(deadline=None, max_examples=8)
@given(stft=transforms())
@pytest.mark.filterwarnings("ignore:the result is")  # the sound is quiet
def test_any_setting_is_finite(init, n_frames, stft):
    magnitude = torch.rand(stft.n_freq, n_frames, generator=torch.Generator().manual_seed(0)).double()
    natural = (n_frames - 1) * stft.hop_length + stft.n_fft - 2 * stft.padding
    with nullcontext() if natural else pytest.warns(UserWarning, match="no samples result from 1 frame"):
        samples = invert(magnitude, stft, init=init, n_iter=4)
    assert samples.isfinite().all()
    assert samples.shape == (natural,)
    longer = invert(magnitude, stft, init=init, n_iter=4, length=natural + 3)
    assert longer.shape == (natural + 3,)
    assert longer.isfinite().all()


@pytest.mark.parametrize("update", BATCH_RULES)
def test_silence_stays_silent_and_does_not_affect_other_items(update):
    magnitude = SMALL.magnitude(sound(500, 2))
    magnitude[0] = 0
    samples = invert(magnitude, SMALL, update=update, init="peaks", n_iter=6)
    assert (samples[0] == 0).all()
    alone = invert(magnitude[1], SMALL, update=update, init="peaks", n_iter=6)
    assert torch.allclose(samples[1], alone, atol=1e-9)
    assert (invert(magnitude, SMALL, update=update, n_iter=6)[0] == 0).all()
    magnitude[1, :, 8:20] = 0
    assert invert(magnitude, SMALL, update=update, n_iter=6).isfinite().all()


def test_a_batch_of_nothing():
    assert invert(torch.zeros(0, 33, 5), STFT(64, 16), n_iter=3).shape == (0, 64)
    assert invert(torch.zeros(2, 0, 33, 5), STFT(64, 16), n_iter=3, length=50).shape == (2, 0, 50)


def test_results_are_deterministic_and_depend_on_the_generator():
    magnitude = SMALL.magnitude(sound(500))
    for init in ("stream", "random"):
        first, second = (invert(magnitude, SMALL, init=init, n_iter=5) for _ in range(2))
        assert torch.equal(first, second)
    other = invert(magnitude, SMALL, init="random", n_iter=5, generator=torch.Generator().manual_seed(5))
    assert not torch.allclose(other, second, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("update", BATCH_RULES)
@pytest.mark.parametrize("center", [True, False])
def test_gradients_are_right(update, center):
    stft = STFT(8, 3, center=center, dtype=torch.float64)
    spectrum = stft.analyze(sound(30)) + 0.3
    for value in (spectrum, spectrum.abs() + 0.1):
        options: dict[str, Any] = {} if value.is_complex() else {"init": spectrum * 1j}
        value = value.clone().requires_grad_()

        def run(v: Tensor, options: dict = options) -> Tensor:
            return invert(v, stft, update=update, n_iter=3, evaluate_every=3, **options)

        assert torch.autograd.gradcheck(run, value)


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(stft=transforms(), update=st.sampled_from(list(BATCH_RULES)))
def test_any_setting_has_finite_gradients(stft, update):
    magnitude = stft.magnitude(sound(stft.hop_length * 6 + 2 * stft.n_fft))
    magnitude[..., 2] = 0
    magnitude = magnitude.requires_grad_()
    samples = invert(magnitude, stft, update=update, n_iter=4)
    samples.square().sum().backward()
    assert samples.isfinite().all()
    assert magnitude.grad.isfinite().all()
    assert magnitude.grad.abs().max() > 0


def test_gradients_do_not_change_the_samples():
    magnitude = SMALL.magnitude(sound(500))
    plain = invert(magnitude, SMALL, n_iter=10)
    assert torch.allclose(invert(magnitude.clone().requires_grad_(), SMALL, n_iter=10), plain, atol=1e-6)
    assert not plain.requires_grad


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_only_the_phase_of_a_start_matters(scale):
    magnitude = SMALL.magnitude(sound(500))
    start = torch.polar(torch.rand_like(magnitude) + 0.1, 6 * torch.rand_like(magnitude))
    first, second = (invert(magnitude, SMALL, init=s, n_iter=6) for s in (start, scale * start))
    assert torch.allclose(first, second, atol=1e-6)


def test_known_samples_stay():
    samples = sound(500, 2)
    magnitude = SMALL.magnitude(samples)
    for stft in (SMALL, STFT(64, 16, center=False, dtype=torch.float64)):
        magnitude = stft.magnitude(samples)
        known = invert(magnitude, stft, known=samples[:, :200], length=500, init="peaks", n_iter=30)
        free = invert(magnitude, stft, length=500, init="peaks", n_iter=30)
        assert torch.allclose(known[:, :200], samples[:, :200])
        # The samples after the known ones continue with their sign and phase.
        assert (known - samples)[:, 200:260].norm() < 0.7 * (free - samples)[:, 200:260].norm()
    with pytest.raises(ValueError, match="known"):
        invert(magnitude, SMALL, known=samples[0])


def test_a_ramp_is_ignored():
    magnitude = SMALL.magnitude(sound(500))
    ramped, flat = (invert(magnitude, SMALL, update=RAAR(0.8, ramp=r), n_iter=5) for r in (0.2, 0.0))
    assert torch.equal(ramped, flat)
    shares = [invert(magnitude, SMALL, update=Hybrid(share=share), n_iter=10) for share in (0.0, 0.5, 1.0)]
    assert torch.equal(shares[0], invert(magnitude, SMALL, update="agla", n_iter=10))
    assert not torch.equal(shares[1], shares[2])


GOOD = torch.rand(33, 9)


@pytest.mark.parametrize(
    ("value", "options", "error", "says"),
    [
        (GOOD.mT, {}, ValueError, "magnitude.mT"),
        (GOOD[0], {}, ValueError, "n_freq"),
        (GOOD[:, :0], {}, ValueError, "n_frames >= 1"),
        (-GOOD, {}, ValueError, "convert dB"),
        (GOOD * torch.nan, {}, ValueError, "nan"),
        (GOOD.double(), {}, TypeError, "float64"),
        (GOOD.tolist(), {}, TypeError, "tensor or an array"),
        (GOOD, {"update": "hybird"}, ValueError, "did you mean 'hybrid'"),
        (GOOD, {"update": GriffinLim}, TypeError, r"GriffinLim\(\)"),
        (GOOD, {"init": "strem"}, ValueError, "did you mean 'stream'"),
        (GOOD, {"init": GOOD}, ValueError, "complex"),
        (GOOD, {"init": GOOD[:, :4] * 1j}, ValueError, "shape"),
        (GOOD * 1j, {"init": GOOD * 1j}, ValueError, "that of the complex magnitude: leave init out"),
        (GOOD, {"init": GOOD * 1j * torch.inf}, ValueError, "init contains NaN or infinite"),
        (GOOD, {"init": (GOOD * 1j).to(torch.complex128)}, TypeError, "init has torch.complex128"),
        (GOOD, {"known": torch.full((9,), torch.nan)}, ValueError, "known contains NaN"),
        (GOOD, {"known": torch.tensor(1.0)}, ValueError, "known has"),
        (GOOD, {"update": "hybrid", "tol": float("nan")}, ValueError, "tol=nan"),
        (GOOD, {"n_iter": -1}, ValueError, "n_iter=-1"),
        (GOOD, {"evaluate_every": 0}, ValueError, "evaluate_every=0"),
        (GOOD, {"length": 0}, ValueError, "length=0"),
        (GOOD, {"tol": -1.0}, ValueError, "tol=-1"),
    ],
)
def test_bad_input_is_refused(value, options, error, says):
    with pytest.raises(error, match=says):
        invert(value, STFT(64, 16), **options)


def test_an_stft_is_needed():
    with pytest.raises(TypeError, match="STFT"):
        invert(GOOD, cast(Any, 64))


def test_numpy_is_taken():
    magnitude = SMALL.magnitude(sound(400))
    assert torch.equal(invert(magnitude.numpy(), SMALL, n_iter=3), invert(magnitude, SMALL, n_iter=3))


def test_progress_is_shown_if_asked_for(capsys):
    pytest.importorskip("tqdm", reason='tqdm is missing: pip install "rtspecinv[progress]"')
    invert(GOOD, STFT(64, 16), n_iter=5)
    assert capsys.readouterr().err == ""
    invert(GOOD, STFT(64, 16), n_iter=5, progress=True)
    assert "5/5" in capsys.readouterr().err
