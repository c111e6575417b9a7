"""Mel filter banks against slow ones from the definitions; inverses are positive and near."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtspecinv import STFT, Mel
from rtspecinv.metrics import spectral_convergence


def slow_filters(n_fft, rate, n_mels, fmin, fmax, scale, area_norm):
    """One filter and one frequency at a time."""

    def to_mel(f):
        if scale == "htk":
            return 2595 * math.log10(1 + f / 700)
        return 3 * f / 200 if f < 1000 else 15 + math.log(f / 1000) * 27 / math.log(6.4)

    def find(mel):
        low, high = 0.0, rate
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if to_mel(middle) < mel else (low, middle)
        return low

    step = (to_mel(fmax) - to_mel(fmin)) / (n_mels + 1)
    edges = [find(to_mel(fmin) + i * step) for i in range(n_mels + 2)]
    bank = np.zeros((n_mels, n_fft // 2 + 1))
    for m in range(n_mels):
        left, top, right = edges[m : m + 3]
        for k in range(n_fft // 2 + 1):
            f = k * rate / n_fft
            if left < f < right:
                height = (f - left) / (top - left) if f <= top else (right - f) / (right - top)
                bank[m, k] = height * (2 / (right - left) if area_norm else 1)
    return bank


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("area_norm", [True, False])
@pytest.mark.parametrize(
    "setting", [(1024, 22050, 80, 0, 8000), (400, 16000, 40, 80, 7600), (513, 44100, 20, 0, 22050)]
)
def test_filters(scale, area_norm, setting):
    n_fft, rate, n_mels, fmin, fmax = setting
    stft = STFT(n_fft, n_fft // 4, dtype=torch.float64)
    mel = Mel(stft, rate, n_mels=n_mels, fmin=fmin, fmax=fmax, scale=scale, area_norm=area_norm)
    expected = slow_filters(n_fft, rate, n_mels, fmin, fmax, scale, area_norm)
    assert np.abs(mel.filters.numpy() - expected).max() < 1e-9 * expected.max()
    assert expected.max() > 0


def test_known_points_of_the_scales():
    # 1 kHz is 15 mel of Slaney's, 6.4 kHz 27 more; HTK's 1 kHz is 1000 mel, within 0.02.
    slaney = Mel(STFT(2048, 512), 12800, n_mels=41, fmax=6400, area_norm=False)
    assert slaney.filters[14].argmax() == round(1000 / 12800 * 2048)  # the 15th of 42 equal steps of 1 mel
    htk = Mel(
        STFT(2048, 512), 16000, n_mels=1, fmin=0, fmax=700 * (10 ** (2 * 999.9855 / 2595) - 1), scale="htk"
    )
    assert htk.filters[0].argmax() == round(1000 / 16000 * 2048)


@pytest.mark.parametrize("power", [1, 2])
def test_forward(power):
    stft = STFT(256, 64, dtype=torch.float64)
    mel = Mel(stft, 8000, n_mels=20, power=power)
    samples = torch.randn(2, 3, 1000, dtype=torch.float64, requires_grad=True)
    expected = mel.filters @ stft.magnitude(samples) ** power
    assert torch.allclose(mel(samples), expected)
    mel(samples).sum().backward()
    assert samples.grad.isfinite().all()


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 99),
    n_mels=st.integers(1, 30),
    power=st.sampled_from([1, 2]),
    scale=st.sampled_from([1e-20, 1, 1e20]),
)
def test_inverse_has_the_mel_spectrogram(seed, n_mels, power, scale):
    stft = STFT(256, 64, dtype=torch.float64)
    mel = Mel(stft, 8000, n_mels=n_mels, power=power)
    generator = torch.Generator().manual_seed(seed)
    magnitude = torch.rand(2, 129, 6, generator=generator).double() ** 3
    magnitude[..., 3] = 0
    wanted = mel.filters @ magnitude**power * scale
    found = mel.inverse(wanted)
    assert (found >= 0).all()
    assert found.isfinite().all()
    assert (found[..., 3] <= 1e-2 * found.max()).all()
    clamped = (mel.pseudo_inverse @ wanted).clamp_min(0)
    error = spectral_convergence(mel.filters @ found**power, wanted)
    assert (error <= spectral_convergence(mel.filters @ clamped, wanted) + 1e-9).all() or error.max() < -40
    assert error.max() < -15


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale_can_be_inverted(power, scale):
    mel = Mel(STFT(256, 64), 8000, n_mels=20, power=power)
    wanted = mel.filters @ torch.rand(129, 6)
    found = mel.inverse(wanted * scale) / scale ** (1 / power)
    assert torch.allclose(found, mel.inverse(wanted), rtol=1e-3, atol=1e-6)


def test_two_sided_transforms_are_halved():
    one, two = (Mel(STFT(64, 16, onesided=onesided), 8000, n_mels=8) for onesided in (True, False))
    samples = torch.randn(400)
    assert torch.allclose(one(samples), two(samples))
    assert two.inverse(two(samples)).shape == (33, 26)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fmin": 5000}, "fmin=5000"),
        ({"fmax": 5000}, "4000.0, half the rate"),
        ({"fmin": -1}, "fmin=-1"),
        ({"scale": "slany"}, "did you mean 'slaney'"),
        ({"power": 3}, "power=3"),
        ({"n_mels": 0}, "n_mels=0"),
    ],
)
def test_bad_settings_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Mel(STFT(256, 64), 8000, **options)


def test_bad_mels_are_refused():
    mel = Mel(STFT(256, 64), 8000, n_mels=20)
    for bad, says in (
        (torch.rand(9, 20), "20, n_frames"),
        (-torch.rand(20, 9), "logarithm"),
        (torch.rand(20), "20"),
    ):
        with pytest.raises(ValueError, match=says):
            mel.inverse(bad)


def test_empty_filters_are_told():
    with pytest.warns(UserWarning, match="of 100 mel filters meet no frequency"):
        Mel(STFT(128, 32), 8000, n_mels=100)
