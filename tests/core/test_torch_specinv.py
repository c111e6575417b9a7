"""Tests of the functions of torch_specinv: signatures, keywords, settings and results."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batch import sound

import rtspecinv
from rtspecinv import STFT, StreamingInverter, invert, torch_specinv
from rtspecinv.metrics import sc
from rtspecinv.updates import ADMM, RTISI, GriffinLim

SIGNATURES = {
    "griffin_lim": "(spec, max_iter=200, tol=1e-06, alpha=0.99, verbose=True, "
    "eva_iter=10, metric='sc', **stft_kwargs)",
    "RTISI_LA": "(spec, look_ahead=-1, asymmetric_window=False, max_iter=25, alpha=0.99, verbose=1, "
    "**stft_kwargs)",
    "ADMM": "(spec, max_iter=1000, tol=1e-06, rho=0.1, verbose=1, eva_iter=10, metric='sc', **stft_kwargs)",
    "L_BFGS": "(spec, transform_fn, samples=None, init_x0=None, outer_max_iter=1000, tol=1e-06, verbose=1, "
    "eva_iter=10, metric='sc', **kwargs)",
    "phase_init": "(spec, **stft_kwargs)",
}
WINDOW = torch.hann_window(256)
KEYWORDS: dict[str, Any] = {"window": WINDOW, "hop_length": 64}
SPEC = torch.stft(sound(4000, 2).float(), 256, 64, window=WINDOW, return_complex=True)
QUIET: dict[str, Any] = {"verbose": False}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    function = getattr(torch_specinv, name)
    bare = [p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values()]
    assert str(inspect.Signature(bare)) == SIGNATURES[name]


@pytest.mark.parametrize("name", SIGNATURES)
def test_old_names_warn_of_their_new_place(name):
    with pytest.warns(DeprecationWarning, match=rf"has moved: use rtspecinv.torch_specinv.{name}$"):
        assert getattr(rtspecinv, name) is getattr(torch_specinv, name)
    assert name not in rtspecinv.__all__


def test_each_function_equals_the_one_behind_it():
    magnitude, stft = SPEC.abs(), STFT(256, 64, window=WINDOW)
    options: dict[str, Any] = {"init": "peaks", "evaluate_every": 10, "tol": 1e-6}
    fast = torch_specinv.griffin_lim(magnitude, 30, **QUIET, **KEYWORDS)
    assert torch.equal(fast, invert(magnitude, stft, update="fgla", n_iter=30, **options))
    plain = torch_specinv.griffin_lim(magnitude, 30, alpha=0, **QUIET, **KEYWORDS)
    assert torch.equal(plain, invert(magnitude, stft, update="gla", n_iter=30, **options))
    admm = torch_specinv.ADMM(magnitude, 30, rho=0.3, **QUIET, **KEYWORDS)
    assert torch.equal(admm, invert(magnitude, stft, update=ADMM(0.3), n_iter=30, **options))
    start = torch.polar(magnitude, torch.rand(magnitude.shape))
    known = torch_specinv.griffin_lim(start, 4, **QUIET, **KEYWORDS)
    assert torch.allclose(
        known, invert(magnitude, stft, update="fgla", n_iter=4, **(options | {"init": start})), atol=1e-5
    )
    assert not torch.allclose(known, fast, atol=1e-2)


@pytest.mark.parametrize("look_ahead", [-1, 0, 2])
@pytest.mark.parametrize("asymmetric_window", [False, True])
@pytest.mark.parametrize("win_length", [256, 200])
def test_rtisi_la_equals_the_stream(look_ahead, asymmetric_window, win_length):
    window = torch.hann_window(win_length)
    stft = STFT(256, 64, win_length=win_length, window=window)
    rule = (RTISI if asymmetric_window else GriffinLim)(momentum=0.5)
    k = (win_length - 1) // 64 if look_ahead == -1 else look_ahead
    inverter = StreamingInverter(stft, update=rule, look_ahead=k, revise=0, n_iter=4, batch_shape=(2,))
    expected = torch.cat([inverter.push_many(SPEC.abs()), inverter.flush()], -1)[:, inverter.latency :]
    samples = torch_specinv.RTISI_LA(
        SPEC.abs(),
        look_ahead,
        asymmetric_window,
        4,
        0.5,
        0,
        window=window,
        hop_length=64,
        win_length=win_length,
    )
    assert torch.equal(samples, expected)


def test_defaults_are_those_of_torch_stft():
    # A rectangular window, a quarter of n_fft as the hop, centred, one-sided.
    samples = sound(3000).float()
    with pytest.warns(UserWarning, match="window was not provided"):
        magnitude = torch.stft(samples, 128, return_complex=True).abs()
    found = torch_specinv.griffin_lim(magnitude, 100, **QUIET)
    assert found.shape == (2976,)
    assert sc(STFT(128, 32, window="rectangular").magnitude(found), magnitude) < -15


@settings(deadline=None, max_examples=25)
@given(
    n_fft=st.integers(8, 40),
    center=st.booleans(),
    normalized=st.booleans(),
    onesided=st.booleans(),
    shorter=st.integers(0, 3),
    windowed=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    batch=st.sampled_from([(), (2,), (2, 1)]),
    data=st.data(),
)
def test_every_setting_gives_finite_values_and_gradients(
    n_fft, center, normalized, onesided, shorter, windowed, dtype, batch, data
):
    hop_length = data.draw(st.integers(1, n_fft // 3))
    win_length = n_fft - shorter
    keywords = {
        "hop_length": hop_length,
        "win_length": win_length,
        "center": center,
        "normalized": normalized,
        "onesided": onesided,
        "window": torch.hann_window(win_length, dtype=dtype)
        if windowed
        else torch.ones(win_length, dtype=dtype),
    }
    samples = sound(4 * n_fft, *batch).to(dtype)
    spec = torch.stft(samples.view(-1, 4 * n_fft), n_fft, return_complex=True, **keywords)
    spec = spec.reshape(*batch, *spec.shape[-2:])
    if n_fft % 2 and onesided:
        keywords["n_fft"] = n_fft  # n_fft - 1 has the same number of frequencies
    for value in (spec.abs(), spec):
        calls = [
            lambda v: torch_specinv.griffin_lim(v, 3, eva_iter=2, **QUIET, **keywords),
            lambda v: torch_specinv.ADMM(v, 3, eva_iter=2, **QUIET, **keywords),
        ]
        if not value.is_complex():
            calls.append(lambda v: torch_specinv.RTISI_LA(v, max_iter=2, **QUIET, **keywords))
            started = torch_specinv.phase_init(value, **keywords)
            assert started.shape == value.shape
            assert torch.allclose(started.abs(), value, rtol=1e-4, atol=1e-5)
        for call in calls:
            leaf = value.clone().requires_grad_()
            found = call(leaf)
            assert found.dtype == dtype
            assert found.shape[:-1] == batch
            assert abs(found.shape[-1] - 4 * n_fft) < n_fft
            found.square().sum().backward()
            assert found.isfinite().all()
            assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("n_fft", [32, 33])
def test_two_sided_spectra_start_hermitian(n_fft):
    magnitude = STFT(n_fft, 8, onesided=False, dtype=torch.float64).magnitude(sound(600))
    started = torch_specinv.phase_init(magnitude, hop_length=8, onesided=False)
    positive, negative = started[1 : (n_fft + 1) // 2], started[-((n_fft - 1) // 2) :]
    assert torch.allclose(negative, positive.conj().flip(0), atol=1e-9)


@pytest.mark.parametrize("call", [torch_specinv.griffin_lim, torch_specinv.RTISI_LA])
def test_gradients_are_right(call):
    samples = sound(40)
    spec = STFT(8, 2, window="rectangular", dtype=torch.float64).analyze(samples)[:, :8] + 0.2
    value = (spec if call is torch_specinv.griffin_lim else spec.abs()).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: call(v, max_iter=3, verbose=False), value)


def test_unknown_keywords_get_a_suggestion():
    magnitude = SPEC.abs()
    misspelt: list[tuple[Callable[..., Any], str, str]] = [
        (torch_specinv.griffin_lim, "maxiter", "max_iter"),
        (torch_specinv.griffin_lim, "hop_lenght", "hop_length"),
        (torch_specinv.ADMM, "evaiter", "eva_iter"),
        (torch_specinv.RTISI_LA, "lookahead", "look_ahead"),
        (torch_specinv.phase_init, "hoplength", "hop_length"),
    ]
    for call, wrong, right in misspelt:
        with pytest.raises(TypeError, match=f"{wrong}'.*did you mean {right}"):
            call(magnitude, **{wrong: 3})
    with pytest.raises(TypeError, match=r"maxiter'.*did you mean max_iter"):
        torch_specinv.L_BFGS(magnitude, torch.abs, **cast(Any, {"maxiter": 3}))


def test_bad_values_are_refused():
    magnitude = SPEC.abs()
    bad_values: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"metric": "scc"}, ValueError, "did you mean 'sc'"),
        ({"max_iter": -1}, ValueError, "max_iter|n_iter"),
        ({"alpha": -1}, ValueError, "alpha=-1"),
        ({"window": torch.ones(3)}, ValueError, "window"),
    ]
    for options, error, says in bad_values:
        with pytest.raises(error, match=says):
            torch_specinv.griffin_lim(magnitude, **QUIET, **options)
    with pytest.raises(TypeError, match=r"spec.abs\(\)"):
        torch_specinv.RTISI_LA(SPEC)
    with pytest.raises(TypeError, match=r"spec.abs\(\)"):
        torch_specinv.phase_init(SPEC)
    for bad, says in (
        (-magnitude, "convert dB"),
        (magnitude[..., :0], "n_frames >= 1"),
        (magnitude * torch.nan, "nan"),
    ):
        for call in (torch_specinv.phase_init, torch_specinv.RTISI_LA, torch_specinv.griffin_lim):
            with pytest.raises(ValueError, match=says):
                call(bad)
    with pytest.raises(ValueError, match="look_ahead=-2"):
        torch_specinv.RTISI_LA(magnitude, -2)
    with pytest.raises(TypeError, match="as_tensor"):
        torch_specinv.griffin_lim(cast(Any, magnitude.tolist()))


@pytest.mark.parametrize("metric", ["sc", "snr", "ser", "SC"])
def test_the_bar_shows_the_metric(metric, capsys):
    magnitude = SPEC.abs()[0]
    torch_specinv.griffin_lim(magnitude, 20, metric=metric, tol=0, **KEYWORDS)
    shown = capsys.readouterr().err
    assert "20/20" in shown
    assert f"{metric.lower()} " in shown
    torch_specinv.RTISI_LA(magnitude, max_iter=1, **KEYWORDS)
    assert "63/63" in capsys.readouterr().err
    torch_specinv.L_BFGS(magnitude, STFT(256, 64).magnitude, outer_max_iter=2, eva_iter=1, metric=metric)
    assert "2/2" in capsys.readouterr().err
    for call in (torch_specinv.griffin_lim, torch_specinv.ADMM, torch_specinv.RTISI_LA):
        call(magnitude, max_iter=1, verbose=False, **KEYWORDS)
    assert capsys.readouterr().err == ""


def test_without_tqdm_a_warning_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.warns(UserWarning, match=r'pip install "rtspecinv\[progress\]"'):
        torch_specinv.griffin_lim(SPEC.abs()[0], 1, **KEYWORDS)
    torch_specinv.griffin_lim(SPEC.abs()[0], 1, **QUIET, **KEYWORDS)
    with pytest.raises(ImportError, match="progress"):
        invert(SPEC.abs(), STFT(256, 64), n_iter=1, progress=True)


def test_l_bfgs_passes_its_keywords_on():
    target = STFT(256, 64).magnitude(sound(4000).float())

    def transform(samples):
        return STFT(256, 64).magnitude(samples)

    found = torch_specinv.L_BFGS(
        target, transform, 4000, outer_max_iter=5, verbose=0, max_iter=4, history_size=5
    )
    assert sc(transform(found), target) < -3
    assert torch_specinv.L_BFGS(target, transform, (4000,), outer_max_iter=1, verbose=0).shape == (4000,)
    start = torch.randn(4000)
    assert torch.allclose(
        torch_specinv.L_BFGS(target, transform, init_x0=start, outer_max_iter=0, verbose=0), start
    )


def test_silence_and_nothing():
    assert (torch_specinv.griffin_lim(torch.zeros(129, 9), 3, **QUIET) == 0).all()
    assert torch_specinv.RTISI_LA(torch.zeros(0, 129, 9), **QUIET).shape == (0, 512)
