"""Tests of MelInverter: contract in every domain, agreement of engines, results and errors."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from contract import LINEAR, Domain, run, verify_contract
from test_streaming import ENGINES

import rtspecinv
from rtspecinv import Compression, Mel, MelConfig, MelInverter, engines
from rtspecinv.measure.clip import render
from rtspecinv.mel.bank import MelBank
from rtspecinv.mel.stream import DeEmphasis

CLIP = torch.from_numpy(render())

SMALL = MelConfig(8000, 64, 16, n_mels=8, area_norm=False, center="same")
LN = Compression("ln", floor=1e-5)
# Frames are logarithms: they may be negative, values below the floor are silence, a factor adds a number, and
# a factor that brings values below the floor makes them silent.
LN_DOMAIN = Domain(-20.0, (1e-2, 1e30), lambda frames, factor: frames + math.log(factor), True)
CASES = {
    "linear": (SMALL, LINEAR),
    "powers, no frames lost": (replace(SMALL, power=2.0, center=True), LINEAR),
    "ln": (replace(SMALL, compression=LN, epsilon=1e-9), LN_DOMAIN),
    "pre-emphasis": (replace(SMALL, preemphasis=0.9), LINEAR),
    "oversampled": (replace(SMALL, n_fft=128, win_length=32, compression=LN), LN_DOMAIN),
    "flipped, no padding": (replace(SMALL, flip=True, center=False), LINEAR),
    "guard": (replace(SMALL, compression=Compression("ln", guard=1e-5)), LN_DOMAIN),
    "log1p": (
        replace(SMALL, compression=Compression("log1p", reference=1e-3)),
        Domain(0.0, (1e-2, 1e20), lambda frames, factor: (frames.expm1() * factor).log1p()),
    ),
    "as Kaldi": (
        replace(
            SMALL,
            win_length=50,
            window="povey",
            periodic=False,
            slopes="mel",
            per_frame=True,
            preemphasis=0.97,
            center="snip",
            compression=LN,
        ),
        LN_DOMAIN,
    ),
    "a window of values": (replace(SMALL, window=[1.0 + n % 3 for n in range(64)]), LINEAR),
    "the last frame dropped": (replace(SMALL, center=True, drop_last=True), LINEAR),
}


def mels(config: MelConfig, *batch: int, n_frames: int = 10, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(1)
    samples = 0.2 * torch.randn(*batch, n_frames * 16 + 64, generator=generator, dtype=torch.float64)
    return Mel(config, dtype=dtype)(samples.to(dtype))[..., :n_frames]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_contract(case, engine):
    config, domain = CASES[case]
    options: dict[str, Any] = {"look_ahead": 2, "n_iter": 2, "batch_shape": (2,), "engine": engine}
    verify_contract(lambda: MelInverter(config, **options), mels(config, 2), domain=domain)


def domain_of(preset: Mel) -> Domain:
    """Return the properties of the frames of a preset that the contract depends on."""
    compression = preset.config.compression
    bank, silence = preset.bank, torch.zeros(1, preset.filters.shape[1], 1)

    def scaled(frames: torch.Tensor, factor: float) -> torch.Tensor:
        values = bank.undo(frames.mT) * factor
        scaled = bank._affine(bank._curve(values)).mT
        return scaled.flip(-2) if preset.config.flip else scaled

    bounded = compression.clip is not None
    floor = float(bank(silence).amax() if compression.gain < 0 else bank(silence).amin())
    louder = 0.3 if compression.gain > 0 else -20.0
    return Domain(floor, (1e-2, 1e10), scaled, bounded or compression.curve != "power", bounded, louder)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", rtspecinv.presets)
def test_contract_of_every_preset(name, engine):
    preset = rtspecinv.presets[name]
    n_frames = 6
    n_samples = max(preset.length(n_frames), preset.stft.n_needed)
    samples = CLIP[30000 : 30000 + n_samples]
    unused = preset.inverter(look_ahead=1, n_iter=1, engine=engine)
    verify_contract(
        lambda: copy.deepcopy(unused),  # a copy is fast, while the tables of the preset take long
        preset(samples)[:, -n_frames:],
        domain=domain_of(preset),
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("hop_length", [125, 150, 220, 250, 275, 441, 525])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_pre_emphasis_is_undone_alike_however_frames_are_cut(hop_length, batch, engine):
    """This holds for hops that are not a multiple of a SIMD vector, and for memory that is not aligned."""
    config = MelConfig(22050, 4 * hop_length, hop_length, n_mels=40, preemphasis=0.97)
    generator = torch.Generator().manual_seed(0)
    mel = Mel(config)(0.1 * torch.randn(*batch, 20 * hop_length, generator=generator))
    inverter = MelInverter(config, look_ahead=1, n_iter=1, engine=engine, batch_shape=batch)
    wanted = run(inverter, mel)
    for chunks in ([mel.shape[-1] - 1], [3] * 7, [1, 2, 5, 8]):
        assert torch.equal(run(inverter, mel, chunks), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extend", [False, True])
@pytest.mark.parametrize("n_mels", [1, 2, 8, 40])
@pytest.mark.filterwarnings("ignore:.* mel filters contain no frequency")
def test_compiled_code_agrees_with_torch(dtype, extend, n_mels):
    pytest.importorskip("rocket_fft", reason='the extra is missing: pip install "rtspecinv[fast]"')
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    for power in (1.0, 2.0):
        config = replace(SMALL, n_mels=n_mels, power=power, fmin=300.0, fmax=3000.0)
        inverter = MelInverter(config, extend=extend, batch_shape=(3,), dtype=dtype, engine="numba")
        for frame in mels(config, 3, dtype=dtype).unbind(-1):
            frame[0] = 0
            expected = inverter.bank.inverse(frame)
            found = engines.unmixer(inverter._engine, inverter.bank)(inverter.bank.undo(frame.contiguous()))
            assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance * float(expected.max()))
            assert not found[0].any()
            assert found[1:].any()


def test_moving_to_another_precision_in_mid_stream():
    config = CASES["ln"][0]
    inverter, frames = MelInverter(config, look_ahead=1), mels(config)
    inverter.push_many(frames)
    inverter.to(torch.float64)
    assert inverter.push(frames[..., 0].double()).dtype == torch.float64


def test_samples_come_back_where_they_were():
    samples = CLIP[20000:60000]
    for name in ("hifigan-22k", "tacotron2", "whisper", "tacotron"):
        preset = rtspecinv.presets[name]
        mel = preset(samples)
        found = run(inverter := preset.inverter(look_ahead=3), mel)[inverter.latency :]
        again = preset(torch.nn.functional.pad(found, (0, preset.stft.hop_length)))
        a, b = (preset.expand(m[..., 5 : mel.shape[-1] - 5]) for m in (again, mel))
        assert rtspecinv.metrics.sc(a, b) < -14, name
        assert torch.allclose(found.square().mean(), samples.square().mean(), rtol=0.2), name


def test_a_frame_has_nearly_the_mel_frame_that_was_pushed():
    preset = rtspecinv.presets["hifigan-22k"]
    mel = preset(CLIP[20000:60000])
    again = preset.bank.filters @ preset.inverse(mel)
    assert rtspecinv.metrics.sc(again, preset.expand(mel)) < -38


def test_extending_fills_only_bins_outside_all_bands():
    config = rtspecinv.presets["hifigan-22k"].config
    mel = Mel(config)(0.1 * torch.randn(20000, generator=torch.Generator().manual_seed(0)))
    plain, extended = (MelBank(config, extend=e).inverse(mel.mT) for e in (False, True))
    above = torch.arange(513) * config.sample_rate / config.n_fft >= 8000
    assert not plain[:, above].any()
    assert torch.equal(plain[:, ~above], extended[:, ~above])
    level = extended[:, above].mean() / extended[:, ~above][:, -40:].mean()
    assert 0.5 < level < 2  # white noise continues


def test_deemphasis_undoes_preemphasis():
    for hop_length in (1, 16, 256, 700):
        samples = torch.randn(2, 5 * hop_length, dtype=torch.float64)
        emphasised = samples - 0.97 * torch.nn.functional.pad(samples, (1, 0))[..., :-1]
        undo = DeEmphasis(0.97, hop_length, (2,), torch.zeros((), dtype=torch.float64))
        found = torch.cat([undo(emphasised[:, :hop_length]), undo(emphasised[:, hop_length:])], -1)
        assert torch.allclose(found, samples)


def test_deemphasis_of_a_long_hop_takes_little_memory():
    undo = DeEmphasis(0.97, 2**20, (), torch.zeros(()))
    assert sum(buffer.numel() for buffer in undo.buffers()) < 2**17
    assert undo(torch.ones(2**20))[-1] == pytest.approx(1 / 0.03, rel=1e-4)


LENGTHS = {
    **{name: config for name, (config, _) in CASES.items()},
    "same, odd": replace(SMALL, hop_length=15),
    "oversampled, odd": replace(SMALL, n_fft=126, win_length=63),
    "odd, last dropped": replace(SMALL, n_fft=63, center=True, drop_last=True),
    "no padding, last dropped": replace(SMALL, center=False, drop_last=True),
}


@pytest.mark.filterwarnings("ignore:.*(beyond|below) full scale", "ignore:the sound is silent")
@pytest.mark.parametrize("case", LENGTHS)
@pytest.mark.parametrize("n_frames", [1, 2, 9])
def test_frames_stand_for_one_length(case, n_frames):
    """All functions return the same length for a number of frames, and the sound has it."""
    mel = Mel(LENGTHS[case])
    length = mel.length(n_frames)
    assert LENGTHS[case].stft(critical=True).length(n_frames) == mel.stft.length(n_frames)
    for extra in (0, 15):
        if length + extra >= mel.stft.n_needed:
            assert mel(torch.zeros(length + extra)).shape[-1] == n_frames + (extra >= mel.stft.hop_length)
    frames = mel.bank(
        torch.rand(33 if mel.stft.n_fft < 126 else mel.stft.n_freq, n_frames)[: mel.stft.n_freq]
    )
    inverter = mel.inverter(look_ahead=1)
    assert inverter.length(n_frames) == length
    assert run(inverter, frames).shape[-1] - inverter.latency == length
    if not length:
        with pytest.warns(UserWarning, match="no samples result from 1 frame"):
            assert mel.invert(frames).shape == (0,)
        with pytest.raises(ValueError, match="no samples result from 1 frame"):
            rtspecinv.listen(frames, preset=mel, output=rtspecinv.ArraySink())
        return
    assert mel.invert(frames).shape == (length,)
    sound = rtspecinv.listen(frames, preset=mel, output=rtspecinv.ArraySink())
    assert sound.samples.shape[-1] == length


@pytest.mark.parametrize("n_frames", [1, 300])
def test_whispers_frames_stand_for_a_hop_each(n_frames):
    preset = rtspecinv.presets["whisper"]
    samples = 0.1 * torch.randn(160 * n_frames + 300, generator=torch.Generator().manual_seed(0))
    mel = preset(samples)[:, :n_frames]
    assert preset.invert(mel).shape == (160 * n_frames,)
    heard = rtspecinv.listen(mel, preset="whisper", output=rtspecinv.ArraySink()).samples
    assert heard.shape == (160 * n_frames,)
    assert np.abs(heard[-160:]).max() > 1e-3  # the samples after the last frame are not silent either


def test_windows_of_an_odd_length_stay_where_they_are():
    """Zeros around them are left out only if this does not move frames."""
    config = replace(SMALL, n_fft=126, win_length=63)
    samples = torch.zeros(800)
    samples[400] = 1
    y = Mel(config).invert(Mel(config)(samples))
    assert abs(int(y.abs().argmax()) - 400) <= 1


@pytest.mark.parametrize("name", ["hifigan-22k", "whisper"])
@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_reach_the_mel_frames(name, engine):
    preset = rtspecinv.presets[name]
    inverter = preset.inverter(look_ahead=0, n_iter=1, engine=engine)
    mel = preset(CLIP[30000:32000])
    mel[:40, 0] = -20  # silence also has a gradient
    mel.requires_grad_()
    inverter.push_many(mel).square().sum().backward()
    assert mel.grad.isfinite().all()
    assert mel.grad.any()


@pytest.mark.parametrize("engine", ENGINES)
def test_copies_and_modes(engine):
    """A copy has its own state, and works in any mode of torch, whatever mode it was made in."""
    config, frames = CASES["pre-emphasis"][0], mels(CASES["pre-emphasis"][0])
    with torch.inference_mode():
        inverter = MelInverter(config, look_ahead=1, n_iter=1, engine=engine)
        inverter.push(frames[..., 0])
    other = copy.deepcopy(inverter)
    assert torch.equal(inverter.push_many(frames), other.push_many(frames))
    frames = frames.clone().requires_grad_()
    inverter.push_many(frames).square().sum().backward()
    assert frames.grad.isfinite().all()
    assert frames.grad.any()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (torch.zeros(7), r"shape \(7,\), but must .*n_mels=8"),
        (torch.zeros(8, 3), "must be real and batch_shape"),
        (torch.zeros(8, dtype=torch.complex64), "complex64"),
        (torch.full((8,), 400.0), "400, but .*values above 79.9 overflow"),
    ],
)
def test_bad_frames_are_refused(bad, says):
    with pytest.raises(ValueError, match=says):
        MelInverter(CASES["ln"][0], n_iter=0, engine="eager").push(bad)


def test_transposed_frames_are_reported():
    inverter = MelInverter(SMALL, n_iter=0, engine="eager")
    with pytest.raises(ValueError, match=r"\(frames, mels\); use push_many\(mel.mT\)"):
        inverter.push_many(torch.zeros(5, 8))
    with pytest.raises(TypeError, match="is a list"):
        inverter.push(cast(Any, [0.0] * 8))


@pytest.mark.parametrize(
    "bad", [torch.zeros(513), torch.full((80,), math.nan), torch.zeros(80, 3), [0.0] * 80]
)
def test_check_raises_what_push_does(bad):
    """A `Player` calls `check` for each frame before it queues the frame."""
    inverter = rtspecinv.presets["hifigan-22k"].inverter()
    inverter.check(torch.zeros(80))
    with pytest.raises((ValueError, TypeError)) as of_push:
        inverter.push(bad)
    with pytest.raises(of_push.type) as of_check:
        inverter.check(bad)
    assert str(of_check.value) == str(of_push.value)


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_short_sound_with_pre_emphasis_is_as_long_as_it_should_be(length):
    inverter = MelInverter(rtspecinv.presets["kaldi-fbank"].config, n_iter=1, engine="eager")
    mel = torch.zeros(80, 4)
    whole = inverter.run(mel)
    assert torch.equal(inverter.run(mel, length=length), whole[:length])
    inverter.push(mel[:, 0])
    assert inverter.flush(0).shape == (0,)
