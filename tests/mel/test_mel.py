"""Tests of mel filter banks against their definitions, of compression, inverses and bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rtspecinv
from rtspecinv import Compression, Mel, MelConfig
from rtspecinv.mel.bank import mel_filters
from rtspecinv.mel.config import MAIN_LOBE, lost
from rtspecinv.metrics import spectral_convergence


def slow_filters(n_fft, rate, n_mels, fmin, fmax, scale, area_norm):
    """Return filters, computed for one filter and one frequency at a time."""

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
    """Filters equal the formula of torchaudio.functional.melscale_fbanks."""
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
CHANGES = {  # every field of both; each must change the result
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
    "window": replace(BASE, window="hamming"),
    "periodic": replace(BASE, periodic=False),
    "slopes": replace(BASE, slopes="mel"),
    "per_frame": replace(BASE, per_frame=True),
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
    "guard": Compression("ln", guard=0.1),
}


def test_every_parameter_changes_the_result():
    assert set(CHANGES) == set(MelConfig.__dataclass_fields__)
    assert set(COMPRESSIONS) == set(Compression.__dataclass_fields__)
    samples = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    configs = {**CHANGES, **{k: replace(BASE, compression=c) for k, c in COMPRESSIONS.items()}}
    seen = [Mel(config)(samples) for config in (BASE, *configs.values())]
    for i, one in enumerate(seen):
        for other in seen[:i]:
            assert one.shape != other.shape or not torch.allclose(one, other)


@pytest.mark.parametrize("name", [*COMPRESSIONS, "dB", "log1p", "guarded root", "all"])
def test_compression_can_be_undone(name):
    compression = {
        **COMPRESSIONS,
        "dB": Compression("dB", floor=1e-5),
        "log1p": Compression("log1p", reference=1e-2),
        "guarded root": Compression(exponent=0.5, guard=1e-3, floor=1e-4),
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
            kept &= found > 1.001 * found.amin((-2, -1), keepdim=True)  # smaller values were raised to this
            assert (found >= linear - 1e-9).all()
        assert torch.allclose(found[kept], linear[kept])
        assert kept.any()


ALL_COMPRESSIONS = {
    **COMPRESSIONS,
    "none": Compression(),
    "log1p": Compression("log1p", reference=1e-3),
    "dB": Compression("dB", floor=1e-5, reference=20.0),
}


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", ALL_COMPRESSIONS)
def test_gradients_are_finite_in_silence(name, power):
    """Second gradients are finite, too; bands may be silent, all or some, or far below the others."""
    config = replace(BASE, power=power, compression=ALL_COMPRESSIONS[name], fmin=100)
    several: list[dict[str, Any]] = [{}, {"epsilon": 1e-6}, {"per_frame": True, "preemphasis": 0.9}]
    for changes in several:
        mel = Mel(replace(config, **changes))
        for loud in (0.0, 1.0):
            noise = loud * torch.randn(500, generator=torch.Generator().manual_seed(0))
            samples = noise.requires_grad_()
            value = mel(samples)
            (first,) = torch.autograd.grad(value.square().sum(), samples, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), samples)
            assert first.isfinite().all()
            assert second.isfinite().all()
            frames = value.detach()
            frames[4:12] = mel(torch.zeros(500))[4:12]
            frames.requires_grad_()
            (first,) = torch.autograd.grad(mel.inverse(frames).square().sum(), frames, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), frames)
            assert first.isfinite().all()
            assert second.isfinite().all()
            assert not loud or second.any()


SMOOTH = MelConfig(8000, 32, 8, n_mels=4, fmin=300, pad_mode="constant")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"power": 2, "epsilon": 1e-3, "compression": Compression("ln", floor=1e-9)},
        {"compression": Compression(exponent=0.25, reference=3.0, gain=-2.0, offset=1.0)},
        {"compression": Compression("log1p", reference=0.1, std=[1.0, 2.0, 3.0, 4.0])},
        {"compression": Compression("log10", guard=1e-3)},
        {"compression": Compression("dB", floor=1e-9), "power": 2},
        {"preemphasis": 0.9, "per_frame": True, "window": "povey", "periodic": False, "slopes": "mel"},
    ],
)
def test_second_derivatives(changes):
    mel = Mel(replace(SMOOTH, **changes), dtype=torch.float64)
    samples = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradgradcheck(mel, samples.requires_grad_())
    frames = mel(samples).detach()[:, 1:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(mel.inverse, frames)
    assert torch.autograd.gradgradcheck(mel.inverse, frames)


def slow_frames(samples, config):
    """Return power spectra `(n_frames, n_freq)`, computed for one frame and one sample at a time."""
    n, found = config.win_length, []
    for start in range(0, len(samples) - n + 1, config.hop_length):
        x = [float(v) for v in samples[start : start + n]]
        mean = sum(x) / n
        x = [v - mean for v in x]
        y = [x[0] - config.preemphasis * x[0]]
        y += [x[i] - config.preemphasis * x[i - 1] for i in range(1, n)]
        period = n if config.periodic else n - 1
        y = [v * (0.5 - 0.5 * math.cos(2 * math.pi * i / period)) ** 0.85 for i, v in enumerate(y)]
        found.append(np.abs(np.fft.rfft(y, config.n_fft)) ** 2)
    return np.array(found)


def slow_kaldi_filters(config):
    """Return triangles over mel by The HTK Book, section 5.4, with Kaldi's constants, one value at a time."""

    def to_mel(f):
        return 1127 * math.log(1 + f / 700)

    low, high = to_mel(config.fmin), to_mel(config.highest)
    step = (high - low) / (config.n_mels + 1)
    bank = np.zeros((config.n_mels, config.n_fft // 2 + 1))
    for m in range(config.n_mels):
        for k in range(config.n_fft // 2):  # Kaldi's banks have no value at half the rate
            at = (to_mel(k * config.sample_rate / config.n_fft) - low) / step - m
            bank[m, k] = max(0.0, 1 - abs(at - 1))
    return bank


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("fmax", [None, 3500.0])
@pytest.mark.parametrize("preemphasis", [0.0, 0.97])
def test_kaldis_features(periodic, fmax, preemphasis):
    config = MelConfig(
        8000,
        256,
        80,
        win_length=200,
        n_mels=23,
        fmin=20,
        fmax=fmax,
        scale="htk",
        area_norm=False,
        power=2,
        center="snip",
        preemphasis=preemphasis,
        compression=Compression("ln", floor=2.0**-23),
        window="povey",
        periodic=periodic,
        slopes="mel",
        per_frame=True,
    )
    samples = 0.3 + 0.1 * np.random.default_rng(0).standard_normal(1000)
    mel = Mel(config, dtype=torch.float64)
    bank = slow_kaldi_filters(config)
    assert np.abs(mel.filters.numpy() - bank).max() < 1e-9
    assert not mel.filters[:, -1].any()
    expected = np.log(np.maximum(2.0**-23, bank @ slow_frames(samples, config).T))
    found = mel(torch.from_numpy(samples)).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-9


def slow_window(name, n, periodic):
    x = 2 * np.pi * np.arange(n) / (n if periodic else n - 1)
    hann = 0.5 - 0.5 * np.cos(x)
    return {
        "hann": hann,
        "povey": hann**0.85,
        "hamming": 0.54 - 0.46 * np.cos(x),
        "blackman": 0.42 - 0.5 * np.cos(x) + 0.08 * np.cos(2 * x),
        "rectangular": np.ones(n),
    }[name]


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("name", ["hann", "povey", "hamming", "blackman", "rectangular"])
@pytest.mark.parametrize("win_length", [None, 49])
def test_windows(name, periodic, win_length):
    """Windows are given by name and as values, including those of Kaldi and NeMo."""
    values = slow_window(name, win_length or 64, periodic)
    config = replace(BASE, n_fft=64, hop_length=16, win_length=win_length, n_mels=6)
    samples = torch.randn(300, dtype=torch.float64)
    named, given = (
        Mel(replace(config, **changes), dtype=torch.float64)
        for changes in ({"window": name, "periodic": periodic}, {"window": values})
    )
    assert given.config.window == tuple(values.tolist())
    left = (64 - len(values)) // 2
    for mel in (named, given):
        assert np.abs(mel.stft.window.numpy()[left : left + len(values)] - values).max() < 1e-12
    assert torch.allclose(named(samples), given(samples))


@pytest.mark.parametrize("window", [torch.hann_window(64), np.ones(64, np.float32), [1] * 64])
def test_windows_of_any_kind_make_one_configuration(window):
    config = replace(BASE, n_fft=64, hop_length=16, win_length=64, window=window)
    assert config == replace(config, window=tuple(float(v) for v in window))
    assert hash(config) == hash(replace(config, window=tuple(map(float, window))))


@pytest.mark.parametrize(
    ("compression", "formula"),
    [
        (Compression("log1p"), lambda x: np.log(1 + x)),
        (Compression("log1p", reference=1e-4), lambda x: np.log(1 + 10000 * x)),
        (Compression("ln", guard=2.0**-24), lambda x: np.log(x + 2.0**-24)),
        (Compression("log10", floor=1e-2, guard=1.0), lambda x: np.log10(np.maximum(x, 1e-2) + 1)),
        (Compression("dB", guard=1e-3, reference=2.0), lambda x: 20 * np.log10((x + 1e-3) / 2)),
        (Compression(exponent=0.5, guard=0.1), lambda x: np.sqrt(x + 0.1)),
    ],
)
def test_curves(compression, formula):
    config = replace(BASE, compression=compression)
    samples = torch.randn(2, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    samples[1] = 0
    mel = Mel(config, dtype=torch.float64)
    linear = (mel.filters @ mel.stft.magnitude(samples)).numpy()
    assert np.abs(mel(samples).numpy() - formula(linear)).max() < 1e-12
    assert torch.allclose(mel.expand(mel(samples))[0], torch.from_numpy(linear)[0], rtol=1e-6)
    assert not mel.expand(mel(samples))[1].any()
    assert not mel.inverse(mel(samples))[1].any()
    error = spectral_convergence(mel.filters @ mel.inverse(mel(samples)), torch.from_numpy(linear))
    assert error[0] < -25


def test_silence_is_silence_in_every_domain():
    for compression in ALL_COMPRESSIONS.values():
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
        ({"fmax": 5000}, "4000, half of sample_rate=8000"),
        ({"fmin": -1}, "fmin=-1"),
        ({"scale": "slany"}, "did you mean 'slaney'"),
        ({"power": 3}, "power=3"),
        ({"n_mels": 0}, "n_mels=0"),
        ({"sample_rate": 0}, "sample_rate=0"),
        ({"epsilon": -1}, "epsilon=-1"),
        ({"preemphasis": 1}, "preemphasis=1"),
        ({"center": "sam"}, "center='sam'"),
        ({"center": 1.5}, "center=1.5"),
        ({"pad_mode": "mirror"}, "pad_mode='mirror'"),
        ({"slopes": "Hz"}, "slopes='Hz' is not one of 'hz', 'mel'"),
        ({"window": "hannn"}, "did you mean 'hann'"),
        ({"window": [1.0] * 9}, "has 9 values, but must have 256 finite values"),
        ({"window": [math.nan] * 256}, "must have 256 finite values"),
        ({"window": ["a"] * 256}, "window=.*is not a number or a list of numbers"),
        ({"win_length": 0}, "win_length=0"),
        ({"hop_length": 2.5}, "hop_length=2.5"),
        ({"sample_rate": "22050"}, "sample_rate='22050' is not a finite number"),
        ({"fmax": math.nan}, "fmax=nan is not a finite number"),
        ({"per_frame": "no"}, "per_frame='no' is not True or False"),
        ({"drop_last": 1}, "drop_last=1 is not True or False"),
        ({"compression": Compression(mean=[0.0, 1.0])}, "mean has 2 values, but n_mels=20"),
    ],
)
def test_bad_settings_are_refused(options, says):
    with pytest.raises((ValueError, TypeError), match=says):
        Mel(replace(BASE, **options))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"curve": "log"}, r"not one of.*log10"),
        ({"curve": "ln"}, "floor=0.0, guard=0.0 are both 0, but curve='ln'"),
        ({"floor": -1.0}, "floor=-1"),
        ({"guard": -1.0}, "guard=-1"),
        ({"guard": "1"}, "guard='1' is not a finite number"),
        ({"curve": "dB", "guard": 0.0}, "or the added number as guard"),
        ({"clip": (0, 1, 2)}, r"clip=\(0, 1, 2\)"),
        ({"clip": "01"}, "clip='01' is not a number or a list of numbers"),
        ({"dynamic_range": "8"}, "dynamic_range='8' is not a finite number"),
        ({"exponent": 0.0}, "exponent=0"),
        ({"reference": math.inf}, "reference=inf"),
        ({"dynamic_range": 0.0}, "dynamic_range=0"),
        ({"gain": 0.0}, "gain=0"),
        ({"clip": (1, 0)}, r"clip=\(1, 0\)"),
        ({"std": [1.0, 0.0]}, "std=.* is not finite and above 0"),
    ],
)
def test_bad_compressions_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Compression(**options)


def test_bad_mels_are_refused():
    mel = Mel(BASE)
    for bad, says in (
        (torch.rand(9, 20), r"seems to be \(frames, mels\); pass mel.mT"),
        (-torch.rand(20, 9), r"logarithm.*mel\.clamp_min\(0\)"),
        (torch.rand(20), "20"),
        (torch.full((20, 3), torch.nan), "nan"),
    ):
        with pytest.raises(ValueError, match=says):
            mel.inverse(bad)
    with pytest.raises(ValueError, match="length=-3 is not an integer >= 1"):
        mel.invert(torch.rand(20, 9), length=-3)
    with pytest.raises(TypeError, match=r"pass rtspecinv\.MelConfig"):
        Mel(cast(Any, mel.stft))


def test_empty_filters_are_reported():
    with pytest.warns(UserWarning, match="of 100 mel filters contain no frequency"):
        mel = Mel(MelConfig(8000, 128, 32, n_mels=100))
    samples = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    again = mel.filters @ mel.inverse(mel(samples))
    assert rtspecinv.metrics.sc(again, mel(samples)) < -30


@pytest.mark.parametrize("guard", [0.0, 1e-6])
@pytest.mark.parametrize("exponent", [0.3, 1 / 3, 2.0])
def test_silence_is_never_below_the_least_value(exponent, guard):
    mel = Mel(replace(BASE, compression=Compression("power", floor=1e-6, exponent=exponent, guard=guard)))
    silence = mel(torch.zeros(2000))
    assert mel.inverse(silence).isfinite().all()
    assert mel.expand(silence).isfinite().all()


SECOND = {
    "plain": {},
    "guarded": {"epsilon": 1e-9},
    "power": {"power": 2.0},
    "exponent": {"power": 2.0, "compression": Compression(curve="power", exponent=2.5)},
    "both": {"power": 2.0, "epsilon": 1e-9, "compression": Compression(curve="power", exponent=2.5)},
    "ln": {"compression": Compression(curve="ln", floor=1e-5)},
}


@pytest.mark.parametrize("config", SECOND.values(), ids=SECOND)
def test_second_derivatives_of_the_inverse_are_those_of_double_precision_and_0_in_silence(config):
    magnitude = torch.rand(33, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    magnitude[:, 1] = magnitude[16:, 2] = magnitude[:16, 3] = 0
    found = []
    for dtype in (torch.float32, torch.float64):
        mel = Mel(MelConfig(sample_rate=8000, n_fft=64, hop_length=16, n_mels=8, **config), dtype=dtype)
        value = mel.bank(magnitude.to(dtype)).requires_grad_()
        (first,) = torch.autograd.grad(mel.inverse(value).sum(), value, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), value)
        assert not first[:, 1].any()
        assert not second[:, 1].any()
        assert second[:, 0].any()
        found.append((first.detach().double(), second.double()))
    for single, double in zip(*found, strict=True):
        assert float((single - double).abs().max()) < 1e-4 * float(double.abs().max())


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("exponent", [0.3, 1.0, 2.5])
def test_second_derivatives_are_finite_however_silent_bands_lie(exponent, power):
    """Between silent bands, magnitudes come near 0 but are not 0."""
    config = MelConfig(
        8000, 64, 16, n_mels=12, fmin=100, power=power, compression=Compression(exponent=exponent)
    )
    generator = torch.Generator().manual_seed(0)
    heard = torch.rand(33, 400, generator=generator) > torch.linspace(0.3, 1.0, 400)
    magnitude = torch.rand(33, 400, generator=generator) * heard
    found = []
    for dtype in (torch.float32, torch.float64):
        mel = Mel(config, dtype=dtype)
        frames = mel.bank(magnitude.to(dtype)).requires_grad_()
        (first,) = torch.autograd.grad(mel.inverse(frames).square().sum(), frames, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), frames)
        found.append(second)
    single, double = found
    assert double.isfinite().all()
    # Only frames in this range, because intermediate values have a wider range.
    within = double.abs().amax(0) < 1e20
    assert within.sum() > 200
    assert single[:, within].isfinite().all()


@pytest.mark.parametrize("name", ["hifigan-22k", "whisper", "kaldi-fbank", "riffusion"])
def test_bins_per_band_are_frequencies_of_the_window_without_zeros(name):
    config = rtspecinv.presets[name].config
    win_length = config.win_length or config.n_fft
    filters, _ = mel_filters(replace(config, n_fft=win_length, win_length=None))
    counted = (filters.sum(0) > 0).sum() / config.n_mels
    assert config.bins_per_band == pytest.approx(counted, abs=2 / config.n_mels)


def test_what_80_bands_lose_depends_on_the_bins():
    """80 bands over 257 bins lose little, over 513 bins much; the limit is the main lobe of a Hann window."""
    spectrum = torch.fft.rfft(torch.hann_window(64, dtype=torch.float64), 640).abs()  # ten values per bin
    assert 2 * int((spectrum < 1e-9).nonzero()[0]) == 10 * MAIN_LOBE
    half = [MelConfig(22050, n_fft, n_fft // 4) for n_fft in (512, 1024, 2048)]
    assert [config.bins_per_band for config in half] == [3.2, 6.4, 12.8]
    assert [lost(config).split()[0] for config in half] == ["little", "much", "much"]
    assert lost(MelConfig(22050, 1024, 256, fmax=8000)) == "some detail is lost"
