"""Tests of filter banks: the projection on values of bands, and streams of such values."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from banks import bark_bank, constant_q_bank, gaps_bank
from contract import LINEAR, run, verify_contract
from test_streaming import ENGINES

import rtspecinv
from rtspecinv import STFT, FilterBank, MelConfig, MelInverter, StreamingInverter, metrics
from rtspecinv.bands import PULL
from rtspecinv.measure.clip import render
from rtspecinv.mel.bank import MelBank
from rtspecinv.phase import Gradient

CLIP = torch.from_numpy(render())
STFT_64, EXACT_64 = STFT(64, 16), STFT(64, 16, dtype=torch.float64)

BANKS = {
    "Bark": bark_bank(64, 8000),
    "constant Q": constant_q_bank(64),
    "with holes": gaps_bank(64),
    "one band": np.ones((1, 33)),
    "magnitudes": np.eye(33),
}


def values_of(bank: FilterBank, *batch: int, n_frames: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    samples = 0.3 * torch.randn(*batch, n_frames * 16, generator=generator, dtype=torch.float64)
    magnitude = STFT(64, 16, dtype=torch.float64).magnitude(samples)[..., :n_frames]
    return bank.values(magnitude.to(bank.filters.dtype))


def slow_projection(c, estimate, values, filters, beyond, power):
    """Return the projection, computed by loops over frequencies and bands."""
    a = [(1 - PULL) * abs(z) + PULL * s for z, s in zip(c, estimate, strict=True)]
    found = []
    for k in range(len(c)):
        heard = sum(filters[m][k] for m in range(len(filters)))
        factor = 0.0
        for m in range(len(filters)):
            band = sum(filters[m][j] * a[j] ** power for j in range(len(c)))
            if heard and band:
                factor += filters[m][k] / heard * values[m] / band
        size = a[k] * factor ** (1 / power) + beyond[k] * estimate[k]
        found.append(size * (c[k] / abs(c[k]) if c[k] else 1.0))
    return found


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", ["Bark", "with holes"])
def test_the_projection_is_the_slow_one(name, power):
    bank = FilterBank(BANKS[name], power=power, dtype=torch.float64)
    values = bank.heard(values_of(bank)[:, 4])
    estimate = bank.unmix(values)
    c = torch.randn(33, generator=torch.Generator().manual_seed(2), dtype=torch.complex128)
    found = bank.measured(EXACT_64).project(c, estimate, values)
    tensors = (c, estimate, values, bank.filters, bank.beyond)
    args: list[Any] = [*(tensor.tolist() for tensor in tensors), power]
    wanted = slow_projection(*args)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.complex128))


def test_above_the_last_band_the_estimate_counts():
    config = MelConfig(8000, 64, 16, n_mels=8, fmax=2000)
    bank = MelBank(config, extend=True, dtype=torch.float64)
    values = bank.expand(bank(torch.rand(33, 1, dtype=torch.float64)).mT)[0]
    c = torch.randn(33, generator=torch.Generator().manual_seed(2), dtype=torch.complex128)
    estimate = bank.inverse(values)
    found = bank.measured(EXACT_64).project(c, estimate, values).abs()
    above = bank.beyond > 0
    assert above.any()
    torch.testing.assert_close(found[above], estimate[above])
    assert not torch.allclose(found[~above], estimate[~above])


@pytest.mark.parametrize("power", [1, 2])
def test_bands_that_do_not_overlap_get_their_values_exactly(power):
    filters = np.zeros((4, 33))
    for band in range(4):
        filters[band, 8 * band : 8 * band + 8] = band + 1
    bank = FilterBank(filters, power=power, dtype=torch.float64)
    values = torch.tensor([1.0, 0.0, 3.0, 0.5], dtype=torch.float64)
    c = torch.randn(33, generator=torch.Generator().manual_seed(2), dtype=torch.complex128)
    found = bank.measured(EXACT_64).project(c, bank.unmix(values), values)
    torch.testing.assert_close(bank.values(found.abs().unsqueeze(-1))[:, 0], values)


@pytest.mark.parametrize("name", BANKS)
@pytest.mark.parametrize("power", [1, 2])
def test_a_projection_brings_values_nearer_and_scales(name, power):
    """The Kullback-Leibler divergence of the values decreases for any spectrum at any level."""
    bank = FilterBank(BANKS[name], power=power, dtype=torch.float64)
    bands, values = bank.measured(EXACT_64), values_of(bank)[:, 4]
    estimate = bank.unmix(values)
    c = torch.randn(20, 33, generator=torch.Generator().manual_seed(2), dtype=torch.complex128)

    def divergence(magnitude):
        found = bank.values(magnitude.mT).mT
        known = values > 0
        return (values * (values / found).log() - values + found)[:, known].sum(-1)

    found = bands.project(c, estimate, values)
    begun = (1 - PULL) * c.abs() + PULL * estimate
    assert (divergence(found.abs()) <= divergence(begun * (bank.filters.sum(0) > 0)) + 1e-12).all()
    for scale in (1e-12, 1e12):
        scaled = bands.project(scale * c, scale * estimate, scale**power * values)
        torch.testing.assert_close(scaled, scale * found)
    assert not bands.project(c, 0 * estimate, 0 * values).any()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", BANKS)
@pytest.mark.filterwarnings("ignore:magnitudes up to")
def test_contract(name, engine):
    for power in (1, 2):
        bank = FilterBank(BANKS[name], power=power)
        unused = StreamingInverter(
            STFT_64, bank=bank, look_ahead=1, n_iter=1, batch_shape=(2,), engine=engine
        )
        verify_contract(partial(copy.deepcopy, unused), values_of(bank, 2), domain=LINEAR)


@pytest.mark.parametrize("name", ["Bark", "with holes"])
@pytest.mark.parametrize("update", ["raar", "admm", "agla", "gla", "dm"])
@pytest.mark.parametrize("init", ["overlap", "zeros", "peaks", "gradient", Gradient(delay=1)])
def test_compiled_code_agrees_with_torch(name, update, init):
    pytest.importorskip("rocket_fft", reason='the extra is missing: pip install "rtspecinv[fast]"')
    stft = STFT(64, 16, dtype=torch.float64)
    for power in (1, 2):
        bank = FilterBank(BANKS[name], power=power, dtype=torch.float64)
        options = {"bank": bank, "update": update, "init": init, "n_iter": 2, "batch_shape": (2,)}
        found, wanted = (
            run(StreamingInverter(stft, engine=engine, **options), values_of(bank, 2, n_frames=6))
            for engine in ("numba", "eager")
        )
        assert (found - wanted).abs().max() < 1e-9 * wanted.abs().max()


@pytest.mark.parametrize("engine", ENGINES)
def test_magnitudes_found_jointly_have_the_values(engine):
    """The band values of the sound are nearer to the pushed ones than with fixed magnitudes."""
    stft, samples = STFT(1024, 256), CLIP[20000:40000]
    for filters in (bark_bank(1024, 22050), constant_q_bank(1024, 12)):
        bank = FilterBank(filters)
        values = bank.values(stft.magnitude(samples))
        distance = []
        for joint in (True, False):
            inverter = StreamingInverter(stft, bank=bank, joint=joint, look_ahead=2, engine=engine)
            sound = inverter.run(values, length=len(samples))
            again = bank.values(stft.magnitude(sound))
            distance.append(float(metrics.sc(again[:, 4:-4], values[:, 4:-4])))
        assert distance[0] < distance[1] - 3, distance


def test_the_default_rule_of_bands_converges_faster_than_that_of_magnitudes():
    """With as many iterations, the sound is nearer to its values; that of noise is, too."""
    mel = rtspecinv.presets["hifigan-22k"]
    noise = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    for samples, gain in ((CLIP[60000:80000], 1.0), (0.1 * noise, 0.3)):
        for look_ahead in (0, 3):
            sounds = (
                mel.inverter(look_ahead=look_ahead, update=update).run(mel(samples))
                for update in (None, "raar")
            )
            target = mel.linear(samples)[:, 4:-4]
            found, plain = (float(metrics.sc(mel.linear(sound)[:, 4:-4], target)) for sound in sounds)
            assert found < plain - gain, (look_ahead, found, plain)


def test_a_bank_of_single_frequencies_is_as_good_as_magnitudes():
    """The values are then the magnitudes, and both streams return the same sound."""
    magnitude = values_of(FilterBank(np.eye(33), dtype=torch.float64))
    stft = STFT(64, 16, dtype=torch.float64)
    bank = FilterBank(np.eye(33), dtype=torch.float64)
    found = run(StreamingInverter(stft, bank=bank, update="raar", engine="eager"), magnitude)
    wanted = run(StreamingInverter(stft, update="raar", engine="eager"), magnitude)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("power", [1, 2])
def test_a_batch_run_is_griffin_lim_with_the_projection_on_values(engine, power):
    """`invert` equals a loop of the projection and the transform."""
    bank = FilterBank(BANKS["Bark"], power=power, dtype=torch.float64)
    values = values_of(bank, 2)
    magnitude, measured = bank.unmix(values.mT).mT, bank.measured(EXACT_64)
    turns = torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    start = torch.polar(magnitude + 0.1, 6 * turns)
    c = torch.polar(magnitude, start.angle())
    for _ in range(4):  # the estimate of a rule is one more iteration
        aimed = measured.project(c.mT, magnitude.mT, values.mT).mT
        c = EXACT_64.analyze(EXACT_64.synthesize(aimed))
    aimed = measured.project(c.mT, magnitude.mT, values.mT).mT
    wanted = EXACT_64.synthesize(aimed)
    found = rtspecinv.invert(
        values, EXACT_64, bank=bank, update="gla", n_iter=3, init=start, engine=engine, evaluate_every=3
    )
    inner = slice(64, -64)  # edges fade in the result
    torch.testing.assert_close(found[:, inner], wanted[:, inner], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", BANKS)
@pytest.mark.parametrize("update", ["raar", "admm", "agla", "fgla", "dm", "hybrid"])
def test_compiled_batch_runs_agree_with_torch(name, update):
    pytest.importorskip("rocket_fft", reason='the extra is missing: pip install "rtspecinv[fast]"')
    for power, known in ((1, None), (2, 0.1 * torch.ones(2, 20, dtype=torch.float64))):
        bank = FilterBank(BANKS[name], power=power, dtype=torch.float64)
        seen: dict[str, list[Any]] = {"eager": [], "numba": []}
        for engine, iterations in seen.items():
            options: Any = {"bank": bank, "update": update, "n_iter": 4, "init": "random", "known": known}
            rtspecinv.invert(
                values_of(bank, 2), EXACT_64, engine=engine, callback=iterations.append, **options
            )
        for one, other in zip(*seen.values(), strict=True):
            assert one.actual.shape == other.actual.shape == (2, bank.n_bands, 9)
            assert (one.actual - other.actual).abs().max() < 1e-8 * one.target.abs().max()
            assert (one.samples - other.samples).abs().max() < 1e-8


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_run_of_mel_values(engine):
    """Its result is nearer to the values than its start, at any level."""
    preset, samples = rtspecinv.presets["hifigan-22k"], CLIP[20000:36384]
    values = preset.bank.undo(preset(samples).mT).mT
    options: dict[str, Any] = {"length": 16384, "engine": engine}
    found = [
        rtspecinv.invert(values, preset.stft, n_iter=n, init=init, bank=preset.bank, **options)
        for n, init in ((0, "random"), (30, "random"), (0, "stream"))
    ]
    distance = [float(metrics.sc(preset.linear(x)[:, 4:-4], values[:, 4:-4])) for x in found]
    assert distance[1] < distance[0] - 10, distance
    assert distance[2] < distance[1] - 1, distance  # better than a batch run from zero phases
    soft = rtspecinv.invert(
        2.0**-20 * values, preset.stft, n_iter=30, init="random", **options, bank=FilterBank(preset.filters)
    )
    again = preset.linear(2.0**20 * soft)[:, 4:-4]
    assert abs(float(metrics.sc(again, values[:, 4:-4])) - distance[1]) < 1
    assert not rtspecinv.invert(0 * values, preset.stft, n_iter=2, bank=preset.bank, **options).any()


def test_gradients_of_a_batch_run_reach_the_values():
    bank = FilterBank(BANKS["Bark"], power=2, dtype=torch.float64)
    values = values_of(bank).requires_grad_()
    found = rtspecinv.invert(values, EXACT_64, bank=bank, update="gla", n_iter=2)
    found.square().sum().backward()
    assert values.grad.isfinite().all()
    assert values.grad.any()


def test_what_a_batch_run_cannot_invert_is_refused():
    bank, rule = FilterBank(BANKS["Bark"]), rtspecinv.updates.DifferenceMap(beta=0.8)
    values = values_of(bank)
    assert rtspecinv.invert(values, STFT_64, bank=bank, update=rule, n_iter=2).isfinite().all()
    with pytest.raises((ValueError, ImportError), match=r"values of bands.*'auto'|pip install"):
        rtspecinv.invert(values, STFT_64, bank=bank, update=rule, engine="numba")
    for bad, says in (
        (values.mT, r"pass magnitude\.mT"),
        (values[1:], rf"\(\*batch, {bank.n_bands}, n_frames\)"),
        (values.to(torch.complex64), "must be real"),
        (-values, "has the value -"),
        (values * math.nan, "nan"),
    ):
        with pytest.raises(ValueError, match=says):
            rtspecinv.invert(bad, STFT_64, bank=bank)
    with pytest.raises(ValueError, match="make filters for this n_fft"):
        rtspecinv.invert(values, STFT(128, 32), bank=bank)
    with pytest.raises(ValueError, match=r"have the shape \(33, 9\)"):
        rtspecinv.invert(values, STFT_64, bank=bank, init=values.to(torch.complex64))
    with pytest.raises(TypeError, match=r"rtspecinv.FilterBank\(filters\)"):
        rtspecinv.invert(values, STFT_64, bank=cast(Any, bank.filters))


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_reach_the_values(engine):
    bank = FilterBank(BANKS["Bark"], power=2)
    inverter = StreamingInverter(STFT_64, bank=bank, look_ahead=1, n_iter=2, engine=engine)
    values = values_of(bank)
    values[:10, 2] = 0
    values.requires_grad_()
    inverter.push_many(values).square().sum().backward()
    assert values.grad.isfinite().all()
    assert values.grad.any()


def test_unsupported_settings_are_reported_and_run_in_torch():
    bank, rule = FilterBank(BANKS["Bark"]), rtspecinv.updates.DifferenceMap(beta=0.8)
    assert StreamingInverter(STFT_64, bank=bank, update=rule).engine == "eager"
    with pytest.raises((ValueError, ImportError), match=r"values of bands.*'auto'|pip install"):
        StreamingInverter(STFT_64, bank=bank, update=rule, engine="numba")


@pytest.mark.parametrize(
    ("filters", "options", "says"),
    [
        (np.ones(5), {}, r"must be \(n_bands, n_freq\)"),
        (-np.ones((2, 33)), {}, "negative"),
        (np.full((2, 33), math.nan), {}, "NaN"),
        (np.ones((2, 33)), {"power": 1.5}, r"power=1.5 must be 1 \(magnitudes\) or 2"),
    ],
)
def test_bad_filters_are_refused(filters, options, says):
    with pytest.raises(ValueError, match=says):
        FilterBank(filters, **options)


def test_invert_many_takes_values_of_bands():
    bank = FilterBank(BANKS["Bark"], dtype=torch.float64)
    values = [values_of(bank, n_frames=n_frames) for n_frames in (9, 5, 9)]
    many = rtspecinv.invert_many(values, EXACT_64, bank=bank, n_iter=2, init="zeros")
    for samples, each in zip(many, values, strict=True):
        alone = rtspecinv.invert(each, EXACT_64, bank=bank, n_iter=2, init="zeros")
        torch.testing.assert_close(samples, alone, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match=f"with this bank it must be real and .*{bank.n_bands}, n_frames"):
        rtspecinv.invert_many([values[0].mT], EXACT_64, bank=bank)


def test_banks_of_other_transforms_and_values_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"40 frequencies.*= 33: make filters for this n_fft"):
        StreamingInverter(STFT_64, bank=FilterBank(np.ones((2, 40))))
    with pytest.raises(ValueError, match=r"float64.*float32.*use bank.to"):
        StreamingInverter(STFT_64, bank=FilterBank(np.ones((2, 33)), dtype=torch.float64))
    with pytest.raises(TypeError, match=r"rtspecinv.FilterBank\(filters\)"):
        StreamingInverter(STFT_64, bank=cast(Any, np.ones((2, 33))))
    inverter = StreamingInverter(STFT_64, bank=FilterBank(np.ones((2, 33))), n_iter=1)
    with pytest.raises(ValueError, match=r"shape \(33,\), not batch_shape"):
        inverter.push(torch.zeros(33))
    with pytest.raises(ValueError, match="complex: values of bands have no phase"):
        inverter.push(torch.zeros(2, dtype=torch.complex64))


def test_a_state_belongs_to_its_bank():
    one, other = (
        StreamingInverter(STFT_64, bank=FilterBank(BANKS[name][:9])) for name in ("Bark", "with holes")
    )
    with pytest.raises(RuntimeError, match="bank="):
        one.load_state_dict(other.state_dict())
    plain = MelInverter(MelConfig(8000, 64, 16, n_mels=8), joint=False)
    with pytest.raises(RuntimeError, match="joint="):
        MelInverter(plain.bank.config, update="admm").load_state_dict(plain.state_dict())
