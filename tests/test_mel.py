"""Mel filter banks against slow ones from the definitions, compression and back, inverses, bad input."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rtspecinv
from rtspecinv import Compression, Mel, MelConfig
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
    config = MelConfig(
        rate, n_fft, n_fft // 4, n_mels=n_mels, fmin=fmin, fmax=fmax, scale=scale, area_norm=area_norm
    )
    expected = slow_filters(n_fft, rate, n_mels, fmin, fmax, scale, area_norm)
    found = Mel(config, dtype=torch.float64).filters.numpy()
    assert np.abs(found - expected).max() < 1e-9 * expected.max()
    assert expected.max() > 0


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("area_norm", [True, False])
def test_filters_are_librosas(scale, area_norm):
    librosa = pytest.importorskip("librosa", reason='a peer that is missing: pip install "rtspecinv[bench]"')
    config = MelConfig(22050, n_mels=80, fmax=8000, scale=scale, area_norm=area_norm)
    expected = librosa.filters.mel(
        sr=22050, n_fft=1024, n_mels=80, fmax=8000, htk=scale == "htk", norm="slaney" if area_norm else None
    )
    assert np.abs(Mel(config).filters.numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("area_norm", [True, False])
def test_filters_are_torchaudios(area_norm):
    """The formula of torchaudio.functional.melscale_fbanks."""
    rate, n_freqs, n_mels = 24000, 513, 100
    all_freqs = torch.linspace(0, rate // 2, n_freqs, dtype=torch.float64)
    highest = 2595.0 * math.log10(1.0 + (rate / 2 / 700.0))
    points = 700.0 * (10.0 ** (torch.linspace(0, highest, n_mels + 2, dtype=torch.float64) / 2595.0) - 1.0)
    slopes = points.unsqueeze(0) - all_freqs.unsqueeze(1)
    widths = points[1:] - points[:-1]
    expected = torch.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]).clamp_min(0)
    if area_norm:
        expected *= (2.0 / (points[2:] - points[:-2])).unsqueeze(0)
    config = MelConfig(rate, n_mels=n_mels, scale="htk", area_norm=area_norm)
    assert (Mel(config).filters.T - expected).abs().max() < 1e-6


def test_known_points_of_the_scales():
    # 1 kHz is 15 mel of Slaney's, 6.4 kHz 27 more; HTK's 1 kHz is 1000 mel, within 0.02.
    slaney = Mel(MelConfig(12800, 2048, 512, n_mels=41, fmax=6400, area_norm=False))
    assert slaney.filters[14].argmax() == round(1000 / 12800 * 2048)  # the 15th of 42 equal steps of 1 mel
    fmax = 700 * (10 ** (2 * 999.9855 / 2595) - 1)
    htk = Mel(MelConfig(16000, 2048, 512, n_mels=1, fmax=fmax, scale="htk"))
    assert htk.filters[0].argmax() == round(1000 / 16000 * 2048)


@pytest.mark.parametrize("power", [1, 2])
def test_forward(power):
    mel = Mel(MelConfig(8000, 256, 64, n_mels=20, power=power), dtype=torch.float64)
    samples = torch.randn(2, 3, 1000, dtype=torch.float64, requires_grad=True)
    expected = mel.filters @ mel.stft.magnitude(samples) ** power
    assert torch.allclose(mel(samples), expected)
    mel(samples).sum().backward()
    assert samples.grad.isfinite().all()


BASE = MelConfig(8000, 256, 64, n_mels=20)
LN = Compression("ln", floor=1e-5)
CHANGES = {  # every field of both, each of which must change what comes out
    "sample_rate": replace(BASE, sample_rate=9000),
    "n_fft": replace(BASE, n_fft=320),
    "hop_length": replace(BASE, hop_length=50),
    "win_length": replace(BASE, win_length=200),
    "n_mels": replace(BASE, n_mels=21),
    "fmin": replace(BASE, fmin=100),
    "fmax": replace(BASE, fmax=3000),
    "scale": replace(BASE, scale="htk"),
    "area_norm": replace(BASE, area_norm=False),
    "power": replace(BASE, power=2),
    "epsilon": replace(BASE, epsilon=0.1),
    "center": replace(BASE, center="same"),
    "pad_mode": replace(BASE, pad_mode="constant"),
    "drop_last": replace(BASE, drop_last=True),
    "flip": replace(BASE, flip=True),
    "preemphasis": replace(BASE, preemphasis=0.9),
    "compression": replace(BASE, compression=LN),
}
COMPRESSIONS = {
    "curve": Compression("log10", floor=1e-5),
    "floor": replace(LN, floor=0.2),
    "exponent": Compression(exponent=0.5),
    "reference": replace(LN, reference=3.0),
    "dynamic_range": replace(LN, dynamic_range=0.5),
    "gain": replace(LN, gain=2.0),
    "offset": replace(LN, offset=2.0),
    "clip": replace(LN, clip=(-1.5, 0.0)),
    "mean": replace(LN, mean=range(20)),
    "std": replace(LN, std=[1.0 + i for i in range(20)]),
}


def test_everything_changes_what_comes_out():
    assert set(CHANGES) == set(MelConfig.__dataclass_fields__)
    assert set(COMPRESSIONS) == set(Compression.__dataclass_fields__)
    samples = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    configs = {**CHANGES, **{k: replace(BASE, compression=c) for k, c in COMPRESSIONS.items()}}
    seen = [Mel(config)(samples) for config in (BASE, *configs.values())]
    for i, one in enumerate(seen):
        for other in seen[:i]:
            assert one.shape != other.shape or not torch.allclose(one, other)


@pytest.mark.parametrize("name", [*COMPRESSIONS, "dB", "all"])
def test_compression_can_be_undone(name):
    compression = {
        **COMPRESSIONS,
        "dB": Compression("dB", floor=1e-5),
        "all": Compression("dB", 1e-4, 1.0, 20.0, None, -0.1, 2.0, (-20.0, 20.0), -3.0, [2.0] * 20),
    }[name]
    for power in (1, 2):
        mel = Mel(replace(BASE, power=power, compression=compression, flip=True), dtype=torch.float64)
        samples = torch.randn(2, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        linear, found = mel.linear(samples), mel.expand(mel(samples))
        kept = found > 0
        if name == "clip":
            kept &= linear < math.exp(0.0)
        if name == "dynamic_range":
            kept &= found > 1.001 * found.amin((-2, -1), keepdim=True)  # others were raised to that
            assert (found >= linear - 1e-9).all()
        assert torch.allclose(found[kept], linear[kept])
        assert kept.any()


def test_gradients_are_finite_in_silence():
    for compression in COMPRESSIONS.values():
        for power in (1, 2):
            mel = Mel(replace(BASE, power=power, compression=compression))
            samples = torch.zeros(500, requires_grad=True)
            mel(samples).sum().backward()
            assert samples.grad.isfinite().all()
            frames = mel(samples).detach().requires_grad_()
            mel.inverse(frames).sum().backward()
            assert frames.grad.isfinite().all()


def test_silence_is_silence_in_every_domain():
    for compression in COMPRESSIONS.values():
        mel = Mel(replace(BASE, compression=compression))
        assert not mel.expand(mel(torch.zeros(500))).any()
        assert not mel.inverse(mel(torch.zeros(500))).any()


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 99),
    n_mels=st.integers(1, 30),
    power=st.sampled_from([1, 2]),
    scale=st.sampled_from([1e-20, 1, 1e20]),
)
def test_inverse_has_the_mel_spectrogram(seed, n_mels, power, scale):
    mel = Mel(MelConfig(8000, 256, 64, n_mels=n_mels, power=power), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    magnitude = torch.rand(2, 129, 6, generator=generator).double() ** 3
    magnitude[..., 3] = 0
    wanted = mel.filters @ magnitude**power * scale
    found = mel.inverse(wanted)
    assert (found >= 0).all()
    assert found.isfinite().all()
    assert not found[..., 3].any()
    error = spectral_convergence(mel.filters @ found**power, wanted)
    clamped = (torch.linalg.pinv(mel.filters) @ wanted).clamp_min(0)
    assert (error <= spectral_convergence(mel.filters @ clamped, wanted) + 1e-9).all() or error.max() < -25
    assert error.max() < -15


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale_can_be_inverted(power, scale):
    mel = Mel(MelConfig(8000, 256, 64, n_mels=20, power=power))
    wanted = mel.filters @ torch.rand(129, 6)
    found = mel.inverse(wanted * scale) / scale ** (1 / power)
    assert torch.allclose(found, mel.inverse(wanted), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("preemphasis", [0.0, 0.9])
def test_lbfgs_inverts_it(preemphasis):
    mel = Mel(replace(BASE, preemphasis=preemphasis, compression=LN, center="same", epsilon=1e-9))
    samples = 0.1 * torch.randn(64 * 40, generator=torch.Generator().manual_seed(0)).cumsum(-1).sin()
    target = mel(samples)
    start = mel.invert(target, length=len(samples))
    assert start.shape == samples.shape
    found = rtspecinv.lbfgs(mel.expand(target), mel.linear, n_iter=60, initial=start)
    before, after = (rtspecinv.metrics.sc(mel.linear(x), mel.linear(samples)) for x in (start, found))
    assert before < -8
    assert after < before - 5
    logs = [(mel(x) - target).square().mean() for x in (start, rtspecinv.lbfgs(target, mel, n_iter=60))]
    assert logs[1] < 0.5 * logs[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fmin": 5000}, "fmin=5000"),
        ({"fmax": 5000}, "4000.0, half the rate"),
        ({"fmin": -1}, "fmin=-1"),
        ({"scale": "slany"}, "did you mean 'slaney'"),
        ({"power": 3}, "power=3"),
        ({"n_mels": 0}, "n_mels=0"),
        ({"sample_rate": 0}, "sample_rate=0"),
        ({"epsilon": -1}, "epsilon=-1"),
        ({"preemphasis": 1}, "preemphasis=1"),
        ({"center": "sam"}, "center='sam'"),
        ({"compression": Compression(mean=[0.0, 1.0])}, "mean has 2 values for n_mels=20"),
    ],
)
def test_bad_settings_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Mel(replace(BASE, **options))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"curve": "log"}, r"not one of.*log10"),
        ({"curve": "ln"}, "floor=0.0 is not above 0, as 'ln' needs"),
        ({"floor": -1.0}, "floor=-1"),
        ({"exponent": 0.0}, "exponent=0"),
        ({"reference": math.inf}, "reference=inf"),
        ({"dynamic_range": 0.0}, "dynamic_range=0"),
        ({"gain": 0.0}, "gain=0"),
        ({"clip": (1, 0)}, r"clip=\(1, 0\)"),
        ({"std": [1.0, 0.0]}, "std is not finite, above 0"),
    ],
)
def test_bad_compressions_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Compression(**options)


def test_bad_mels_are_refused():
    mel = Mel(BASE)
    for bad, says in (
        (torch.rand(9, 20), r"looks like \(frames, mels\), pass mel.mT"),
        (-torch.rand(20, 9), "logarithm"),
        (torch.rand(20), "20"),
        (torch.full((20, 3), torch.nan), "nan"),
    ):
        with pytest.raises(ValueError, match=says):
            mel.inverse(bad)
    with pytest.raises(ValueError, match="length=-3 is not an integer >= 1"):
        mel.invert(torch.rand(20, 9), length=-3)
    with pytest.raises(TypeError, match=r"pass rtspecinv\.MelConfig"):
        Mel(mel.stft)


def test_empty_filters_are_told():
    with pytest.warns(UserWarning, match="of 100 mel filters meet no frequency"):
        mel = Mel(MelConfig(8000, 128, 32, n_mels=100))
    samples = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    again = mel.filters @ mel.inverse(mel(samples))
    assert rtspecinv.metrics.sc(again, mel(samples)) < -30
