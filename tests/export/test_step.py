"""Tests of a push as a pure function: it agrees with `eager` from the same state, and keeps the contract."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rtspecinv import STFT, FilterBank, MelConfig, MelInverter, StreamingInverter, presets, updates
from rtspecinv.export.split import MOST_NUMBERS, Split, factors
from rtspecinv.export.step import Step
from rtspecinv.inputs import full_scale
from rtspecinv.measure import clip

RULES = ("raar", "gla", "fgla", "rtisi", "admm", "agla", updates.DifferenceMap(), updates.RAAR(momentum=0.2))


def streams_of(inverter: StreamingInverter, frame: Tensor) -> Tensor:
    return frame.reshape(math.prod(inverter.batch_shape), -1)


def differences(inverter: StreamingInverter, frames: Tensor, n_flushed: int = 0) -> list[float]:
    """Return the largest difference of each push from the same state, relative to the peak of the hop.

    frames: `(n_frames, *batch_shape, n_freq)`; afterwards, `n_flushed` hops are pushed without a frame.
    """
    step, found = Step(inverter), []
    with torch.no_grad():
        for frame in [*frames, *[None] * n_flushed]:
            state = step.state_of(inverter)
            given = torch.full_like(frames[0], torch.nan) if frame is None else frame
            hop, *_ = step(streams_of(inverter, given), *state)
            expected = inverter._engine.push(None) if frame is None else inverter.push(frame)
            expected = streams_of(inverter, expected)
            found.append(float((hop - expected).abs().max() / expected.abs().max().clamp_min(1e-30)))
    return found


def stream(step: Step, frames: Tensor, n_flushed: int = 0) -> Tensor:
    """Return all hops `(streams, n_samples)` of a new stream for frames `(n_frames, streams, n_freq)`."""
    state = [frames.new_zeros(frames.shape[1], *shape) for shape in step.shapes.values()]
    hops = []
    with torch.no_grad():
        for frame in [*frames, *[torch.full_like(frames[0], torch.nan)] * n_flushed]:
            hop, *state = step(frame, *state)
            hops.append(hop)
    return torch.cat(hops, 1)


@st.composite
def inverters(draw: Any) -> StreamingInverter:
    n_fft = draw(st.integers(2, 40))
    win_length = draw(st.integers(2, n_fft))
    hop_length = draw(st.integers(1, max(1, win_length // 2)))
    stft = STFT(
        n_fft,
        hop_length,
        win_length=win_length,
        window=draw(st.sampled_from(["hamming", "hann" if win_length > 2 * hop_length else "hamming"])),
        normalized=draw(st.booleans()),
        onesided=draw(st.booleans()),
        dtype=torch.float64,
    )
    update = draw(st.sampled_from(RULES))
    textbook = update == "rtisi"
    return StreamingInverter(
        stft,
        update=update,
        init=draw(st.sampled_from(["overlap", "zeros"])),
        look_ahead=draw(st.integers(0, 3)),
        revise=0 if textbook else draw(st.integers(0, min(2, stft.look_back))),
        n_iter=draw(st.integers(0, 2)),
        batch_shape=draw(st.sampled_from([(), (2,), (1, 2)])),
        engine="eager",
    )


@settings(max_examples=60, deadline=None)
@given(inverters(), st.integers(0, 2**31))
def test_a_push_from_the_same_state_agrees_with_eager(inverter, seed):
    """It is tested in double precision, because iterations amplify rounding errors without bound."""
    generator = torch.Generator().manual_seed(seed)
    shape = (5, *inverter.batch_shape, inverter.stft.n_freq)
    frames = full_scale(inverter.stft) * torch.rand(shape, generator=generator, dtype=torch.float64)
    frames[3] = 0
    assert max(differences(inverter, frames, n_flushed=2)) < 1e-6


@dataclass(frozen=True)
class Clip:
    magnitude: Tensor
    stft: STFT


@pytest.fixture(scope="module")
def sung() -> Clip:
    stft = STFT(1024, 256)
    samples = torch.from_numpy(clip.render()).float()[20000:34000]
    return Clip(stft.magnitude(samples).mT.contiguous(), stft)


@pytest.mark.parametrize("update", ["raar", "gla", "fgla"])
def test_in_single_precision_it_agrees_within_1e_5_of_the_hops_peak(sung, update):
    inverter = StreamingInverter(sung.stft, update=update, look_ahead=3, n_iter=8, engine="eager")
    assert max(differences(inverter, sung.magnitude[:30])) < 1e-5


def test_a_whole_stream_is_that_of_eager(sung):
    stft = sung.stft.to(torch.float64)
    inverter = StreamingInverter(stft, look_ahead=2, n_iter=1, engine="eager")
    magnitude = sung.magnitude.double()
    n_flushed = -(-inverter.flush().shape[-1] // stft.hop_length)
    samples = stream(Step(inverter), magnitude[:, None], n_flushed)[0]
    expected = inverter.run(magnitude.mT)
    found = samples[inverter.latency :][: len(expected)]
    assert torch.allclose(found, expected, rtol=0, atol=1e-7 * float(expected.abs().max()))


def mel_inverter(**options: Any) -> MelInverter:
    config = MelConfig(
        sample_rate=8000, n_fft=96, hop_length=24, n_mels=12, power=2, preemphasis=0.9, fmin=0, fmax=4000
    )
    return MelInverter(config, look_ahead=2, n_iter=2, engine="eager", dtype=torch.float64, **options)


@pytest.mark.parametrize("joint", [True, False])
def test_mel_frames_agree(joint):
    inverter = mel_inverter(joint=joint, batch_shape=(2,))
    frames = torch.rand(6, 2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert max(differences(inverter, frames, n_flushed=0)) < 1e-6


def test_mel_frames_of_a_preset_agree(sung):
    preset = presets["hifigan-22k"]
    inverter = preset.inverter(look_ahead=3, n_iter=4, engine="eager")
    samples = torch.from_numpy(clip.render()).float()[20000:26000]
    assert max(differences(inverter, preset(samples).mT.contiguous())) < 1e-5


def test_a_filter_bank_agrees():
    stft = STFT(60, 15, dtype=torch.float64)
    bank = FilterBank(np.random.default_rng(0).random((7, 31)), dtype=torch.float64)
    inverter = StreamingInverter(stft, bank=bank, n_iter=2, engine="eager")
    frames = torch.rand(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert max(differences(inverter, frames, n_flushed=2)) < 1e-6


def small(**options: Any) -> tuple[Step, Tensor]:
    inverter = StreamingInverter(STFT(64, 16), look_ahead=1, n_iter=3, engine="eager", **options)
    return Step(inverter), torch.rand(8, 2, 33, generator=torch.Generator().manual_seed(1))


def test_silence_gives_silence():
    step, frames = small()
    assert not stream(step, torch.zeros_like(frames)).any()


@pytest.mark.parametrize("exponent", [-90, 90])
def test_sound_that_is_scaled_by_a_power_of_two_gives_the_same_bits_scaled(exponent):
    step, frames = small()
    samples = stream(step, frames)
    assert samples.any()
    assert torch.equal(stream(step, frames * 2.0**exponent), samples * 2.0**exponent)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scales_of_the_contract_are_finite_and_not_lost(scale):
    step, frames = small()
    samples = stream(step, frames * scale)
    assert samples.isfinite().all()
    assert samples.any()


def test_zeros_in_place_of_the_state_of_a_stream_reset_it_alone():
    step, frames = small()
    zeros = [frames.new_zeros(2, *shape) for shape in step.shapes.values()]
    with torch.no_grad():
        fresh = step(frames[4], *zeros)
        state = zeros
        for frame in frames[:4]:
            _, *state = step(frame, *state)
        running = step(frames[4], *state)
        for part in state:
            part[0] = 0
        mixed = step(frames[4], *state)
    for one, new, old in zip(mixed, fresh, running, strict=True):
        assert torch.equal(one[0], new[0])
        assert torch.equal(one[1], old[1])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1.0, torch.finfo(torch.float32).max])
def test_a_frame_that_push_rejects_counts_as_none_in_its_own_stream(value):
    step, frames = small()
    bad, none = frames.clone(), frames.clone()
    bad[3, 0, 5] = value
    none[3, 0] = torch.nan
    samples = stream(step, bad)
    assert samples.isfinite().all()
    assert torch.equal(samples, stream(step, none))
    assert torch.equal(samples[1], stream(step, frames)[1])


@given(st.integers(1, 300))
def test_the_split_of_a_length_is_exact(n_fft):
    n_long, n_short = factors(n_fft)
    assert n_long * n_short == n_fft
    stft = STFT(n_fft, max(1, n_fft // 4), window="hamming", dtype=torch.float64)
    split = Split(stft)
    frames = torch.rand(1, 2, n_fft, dtype=torch.float64)
    spectrum, found = stft.transform(frames), split.transform(frames)
    real, imaginary = (found * split.conjugate).split(n_short, 3)
    for part, expected in ((real, spectrum.real), (imaginary, spectrum.imag)):
        assert torch.allclose(split.natural(part), expected, atol=1e-10)
    assert torch.allclose(split.inverse_transform(found), frames, atol=1e-12)


def test_what_cannot_be_exported_says_what_can():
    stft = STFT(64, 32)
    inverter = StreamingInverter(stft, engine="eager")
    with pytest.raises(ValueError, match=r"init=Gradient.*'overlap'"):
        Step(inverter)
    Step(StreamingInverter(stft, init="overlap", engine="eager"))
    with pytest.raises(ValueError, match=r"DifferenceMap.*two P_C.*'raar'"):
        Step(StreamingInverter(stft, update=updates.DifferenceMap(0.9), engine="eager"))
    prime = 16411
    assert prime**2 > MOST_NUMBERS
    with pytest.raises(ValueError, match=r"16411 and 1.*power of two"):
        Split(STFT(prime, 4096))
    Split(STFT(16384, 4096))
