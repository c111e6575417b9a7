"""Tests of the metrics against their definitions in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rtspecinv import STFT, metrics

PAIR = torch.rand(2, 3, 5, 7, dtype=torch.float64)


@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3))
def test_single_numbers_are_those_of_torch_specinv(seed, scale):
    random = np.random.default_rng(seed)
    a, b = scale * random.random((2, 4, 6)), random.random((2, 4, 6))
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    assert np.isclose(metrics.sc(x, y), 20 * np.log10(np.sqrt(((a - b) ** 2).sum() / (b**2).sum())))
    assert np.isclose(metrics.ser(x, y), 10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))
    unit = [v / np.sqrt((v**2).sum()) for v in (a, b)]
    assert np.isclose(metrics.snr(x, y), -10 * np.log10(((unit[0] - unit[1]) ** 2).sum()))
    assert np.isclose(metrics.snr(3 * x, y), metrics.snr(x, y))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_any_scale(scale):
    a, b = PAIR.float()
    for name in ("sc", "snr", "ser", "spectral_convergence", "log_spectral_distance"):
        metric = getattr(metrics, name)
        assert torch.allclose(metric(a * scale, b * scale), metric(a, b), atol=1e-3)


def test_items_are_measured_separately():
    a, b = PAIR
    each = metrics.spectral_convergence(a, b)
    assert each.shape == (3,)
    for i in range(3):
        assert torch.isclose(each[i], metrics.sc(a[i], b[i]))
    assert metrics.log_spectral_distance(a, b).shape == (3,)


def test_log_spectral_distance():
    target = 1 + PAIR[0]
    assert torch.allclose(metrics.log_spectral_distance(target / 2, target), torch.tensor(20 * np.log10(2)))
    assert metrics.log_spectral_distance(target, target).abs().max() == 0
    # A value 40 dB below the peak is wrong by 20 dB; smaller values do not matter.
    target = torch.tensor([[1.0], [0.01], [1e-9]])
    wrong = torch.tensor([[1.0], [0.1], [0.0]])
    expected = np.sqrt((0 + 20**2 + 0) / 3)
    assert torch.isclose(
        metrics.log_spectral_distance(wrong, target, dynamic_range=60), torch.tensor(expected).float()
    )


def test_inconsistency():
    stft = STFT(32, 8, dtype=torch.float64)
    spectrum = stft.analyze(torch.randn(2, 400, dtype=torch.float64))
    assert metrics.inconsistency(spectrum, stft).max() < -250
    turned = torch.polar(spectrum.abs(), 6 * torch.rand(spectrum.shape, dtype=torch.float64))
    assert metrics.inconsistency(turned, stft).min() > -10
    assert torch.allclose(
        metrics.inconsistency(turned * 1j, stft), metrics.inconsistency(turned, stft), atol=1
    )


@pytest.mark.parametrize("name", ["sc", "snr", "ser", "spectral_convergence", "log_spectral_distance"])
def test_shapes_must_agree(name):
    with pytest.raises(ValueError, match=r"\(4, 5\), \(5, 4\)"):
        getattr(metrics, name)(torch.rand(4, 5), torch.rand(5, 4))


SCALARS = [metrics.sc, metrics.snr, metrics.ser]


@pytest.mark.parametrize("metric", [*SCALARS, metrics.spectral_convergence, metrics.log_spectral_distance])
def test_second_derivatives(metric):
    generator = torch.Generator().manual_seed(0)
    pair = (0.5 + torch.rand(2, 2, 5, 4, generator=generator, dtype=torch.float64)).unbind(0)
    assert torch.autograd.gradgradcheck(metric, tuple(values.clone().requires_grad_() for values in pair))


@pytest.mark.parametrize("metric", [*SCALARS, metrics.spectral_convergence, metrics.log_spectral_distance])
def test_derivatives_where_some_frames_are_silent_or_right(metric):
    target = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0)) + 0.1
    target[..., 1:3] = 0
    values = target.clone()
    values[..., 3] += 0.3
    values.requires_grad_()
    (first,) = torch.autograd.grad(metric(values, target).sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), values)
    assert first.isfinite().all()
    assert first.any()
    assert second.isfinite().all()


@pytest.mark.parametrize("measure", [metrics.sc, metrics.ser, metrics.snr, metrics.spectral_convergence])
def test_gradients_are_finite_where_all_is_equal(measure):
    target = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    equal = target.clone().requires_grad_()
    (first,) = torch.autograd.grad(measure(equal, target), equal, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), equal, allow_unused=True)
    assert first.isfinite().all()
    assert second is None or second.isfinite().all()
