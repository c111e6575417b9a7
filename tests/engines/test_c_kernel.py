"""Tests of the C kernel: it agrees with the reference, keeps the contract, and rejects other settings."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, cast

import c_kernel
import numpy as np
import pytest
import torch

import rtspecinv
from rtspecinv import STFT, FilterBank, StreamingInverter, metrics
from rtspecinv.kernel import kernel_plan
from rtspecinv.measure.clip import SAMPLE_RATE, render
from rtspecinv.updates import RAAR, DifferenceMap, Update

compiled = pytest.mark.skipif(bool(c_kernel.MISSING), reason=c_kernel.MISSING)
CLIP = torch.from_numpy(render())
EXCERPTS = torch.stack(
    [CLIP[begin : begin + SAMPLE_RATE] for begin in range(0, 6 * SAMPLE_RATE, SAMPLE_RATE)]
)
ONE_PUSH = 1e-5  # of the hop's peak
SCALAR = ("-DRTSPECINV_SCALAR",)
Options = dict[str, Any]


def reference(stft: STFT, dtype: torch.dtype = torch.float32, **options: Any) -> StreamingInverter:
    same = STFT(
        stft.n_fft, stft.hop_length, win_length=stft.win_length, normalized=stft.normalized, dtype=dtype
    )
    return StreamingInverter(same, engine="eager", **options)


def differences(stft: STFT, n_pushes: int, flags: tuple[str, ...] = (), **options: Any) -> np.ndarray:
    """Return the largest differences of single pushes, of the C kernel and of float64, over the peak."""
    eager, double = reference(stft, **options), reference(stft, torch.float64, **options)
    stream, found = c_kernel.Stream(eager, flags), []
    frames = stft.magnitude(CLIP[3000:]).mT
    for frame in frames[:n_pushes]:
        stream.take_state(eager._engine)
        for name, part in eager._engine.state().items():
            double._engine.state()[name].copy_(part)
        hop, wide = stream.push(frame), double.push(frame.double())
        wanted = eager.push(frame)
        peak = max(float(wanted.abs().max()), 1e-6)
        found.append([np.abs(hop - wanted.numpy()).max() / peak, float((wide - wanted).abs().max()) / peak])
    return np.array(found).T


@compiled
@pytest.mark.parametrize(("hop_length", "look_ahead"), [(256, 0), (256, 1), (256, 3), (512, 1), (512, 3)])
def test_one_push_from_the_same_state_is_that_of_the_reference(hop_length, look_ahead):
    """If rounding decides, such as between paths of the phase gradient, float64 differs by as much."""
    found, double = differences(STFT(1024, hop_length), 40, look_ahead=look_ahead)
    assert (found <= ONE_PUSH + 20 * double).all()
    assert (found <= ONE_PUSH).mean() > 0.9
    assert np.median(found) <= ONE_PUSH / 4


@compiled
@pytest.mark.parametrize(
    "options",
    [
        {"update": "gla", "init": "zeros"},
        {"update": "fgla", "look_ahead": 2},
        {"update": "agla", "revise": 0},
        {"update": "admm", "revise": 3},
        {"update": "dm", "look_ahead": 0},
        {"update": RAAR(momentum=0.2), "init": "gradient"},
        {"init": rtspecinv.phase.Gradient(delay=1), "look_ahead": 1},
        {"init": "gradient", "look_ahead": 0, "revise": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("n_iter", [0, 1])
def test_one_push_of_other_rules_and_starts_is_that_of_the_reference(options, n_iter):
    found, double = differences(STFT(256, 64), 40, n_iter=n_iter, **options)
    assert np.median(found) <= ONE_PUSH
    assert (found <= ONE_PUSH + 100 * double).mean() > 0.9


@compiled
@pytest.mark.parametrize("flags", [(), SCALAR], ids=["lanes", "scalar"])
@pytest.mark.parametrize(
    ("n_fft", "hop_length", "win_length"),
    [(32, 8, 32), (64, 16, 50), (128, 31, 128), (512, 128, 400), (2048, 512, 2048), (4096, 1024, 4096)],
)
def test_every_length_has_its_transform(n_fft, hop_length, win_length, flags):
    stft = STFT(n_fft, hop_length, win_length=win_length, normalized=n_fft == 64)
    found, _ = differences(stft, 12, flags, n_iter=1, look_ahead=1)
    assert found.max() <= ONE_PUSH


@compiled
@pytest.mark.parametrize("hop_length", [256, 512])
def test_the_first_pushes_of_a_stream_are_those_of_the_reference(hop_length):
    stft = STFT(1024, hop_length)
    eager = reference(stft, n_iter=1)
    stream = c_kernel.Stream(eager)
    for frame in stft.magnitude(CLIP).mT[:6]:
        wanted = eager.push(frame).numpy()
        assert np.abs(stream.push(frame) - wanted).max() <= 3e-5 * max(1.0, np.abs(wanted).max())


@compiled
@pytest.mark.parametrize("hop_length", [256, 512])
def test_the_quality_is_that_of_the_reference(hop_length):
    """Iterations amplify rounding, which alone changes the mean: it is compared with both precisions."""
    stft = STFT(1024, hop_length)
    magnitude, one = stft.magnitude(EXCERPTS), reference(stft)

    def quality(samples: Any) -> float:
        pairs = zip(stft.magnitude(samples.float()), magnitude, strict=True)
        return float(np.mean([float(metrics.sc(*pair)) for pair in pairs]))

    wanted = [
        quality(reference(stft, dtype, batch_shape=(6,)).run(magnitude.to(dtype)))
        for dtype in (torch.float32, torch.float64)
    ]
    samples = [c_kernel.Stream(one).run(frames)[one.latency :] for frames in magnitude]
    assert abs(quality(torch.from_numpy(np.stack(samples))) - np.mean(wanted)) <= 0.5


@compiled
def test_lanes_and_single_numbers_make_the_same_bits():
    inverter, S = reference(STFT(256, 64)), STFT(256, 64).magnitude(CLIP[3000:6000])
    lanes, single = (c_kernel.Stream(inverter, flags).run(S) for flags in ((), SCALAR))
    assert np.array_equal(lanes, single)


# The contract.


@compiled
@pytest.mark.parametrize("hop_length", [64, 128])
def test_silence_is_silent_and_sound_comes_back(hop_length):
    stft = STFT(256, hop_length)
    eager = reference(stft)
    stream, S = c_kernel.Stream(eager), stft.magnitude(CLIP[3000:12000]).numpy()
    silence = np.zeros_like(S[:, :12])
    assert not stream.run(silence).any()
    loud = stream.run(S)
    hops = stream.run(np.concatenate([S, silence, S], 1))
    assert np.isfinite(hops).all()
    sounds = loud.size + stft.padding
    assert not hops[sounds : sounds + 2 * hop_length].any()
    after = hops[-S.shape[1] * hop_length :]
    assert np.square(after).mean() > 0.1 * np.square(loud[-after.size :]).mean()


@compiled
def test_reset_is_complete_and_streams_are_independent():
    stft = STFT(256, 64)
    inverter = reference(stft)
    S = stft.magnitude(CLIP[3000:9000]).numpy()
    one, other = c_kernel.Stream(inverter), c_kernel.Stream(inverter)
    wanted = one.run(S)  # resets at its end
    assert np.array_equal(one.run(S), wanted)
    one.push(S[:, 7])
    one.reset()
    assert not one.state.any()
    other._plan, other.work = one._plan, one.work
    hops = []
    for frame in S.T:
        hops.append(one.push(frame))
        other.push(frame[::-1])
    assert np.array_equal(np.concatenate(hops), wanted[: S.shape[1] * 64])


@compiled
@pytest.mark.parametrize("scale", [2.0**-90, 2.0**90])
def test_the_scale_of_magnitudes_is_that_of_samples(scale):
    stft = STFT(256, 64)
    stream, S = c_kernel.Stream(reference(stft)), stft.magnitude(CLIP[3000:9000]).numpy()
    wanted = stream.run(S)
    found = stream.run((S * scale).astype(np.float32)) / np.float32(scale)
    n = 20 * 64  # until tiny values, which count as 0, make a difference
    np.testing.assert_allclose(found[:n], wanted[:n], atol=1e-4 * np.abs(wanted).max())
    assert np.isfinite(found).all()
    assert np.square(found).mean() == pytest.approx(np.square(wanted).mean(), rel=0.2)


@compiled
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, np.finfo(np.float32).max])
def test_a_bad_frame_changes_nothing(value):
    stft = STFT(256, 64)
    stream = c_kernel.Stream(reference(stft))
    S = stft.magnitude(CLIP[3000:5000]).numpy()
    for frame in S.T:
        stream.push(frame)
    before, bad = stream.state.copy(), S[:, 0].copy()
    bad[-1] = value
    result, hop = stream.try_push(bad)
    assert result == c_kernel.BAD_MAGNITUDE
    assert np.isnan(hop).all(), "it wrote samples"
    assert np.array_equal(stream.state, before)
    stream.n_iter = -1
    assert stream.try_push(S[:, 0])[0] == c_kernel.BAD_N_ITER
    assert np.array_equal(stream.state, before)


# What is not supported.


@compiled
def test_a_plan_that_cannot_be_used_is_refused():
    plan = kernel_plan(StreamingInverter(STFT(256, 64)))
    assert c_kernel.check(plan) == c_kernel.OK

    def changed(**fields: int) -> int:
        words = np.frombuffer(plan, np.int32).copy()
        for name, value in fields.items():
            words[c_kernel.HEADER.index(name)] = value
        return c_kernel.check(words.tobytes())

    assert c_kernel.check(b"") == c_kernel.NO_PLAN
    assert c_kernel.check(plan[:-4]) == c_kernel.NO_PLAN
    assert c_kernel.check(plan[:50]) == c_kernel.NO_PLAN
    assert changed(magic=0) == c_kernel.NO_PLAN
    assert changed(n_words=100) == c_kernel.NO_PLAN
    assert changed(format=99) == c_kernel.OTHER_FORMAT
    for n_fft in (-1, 0, 16, 255, 65536):
        assert changed(n_fft=n_fft) == c_kernel.LENGTH
    for name, value in [
        ("hop_length", 0),
        ("hop_length", 257),
        ("n_open", 0),
        ("n_open", 1000),
        ("n_past", 3),
    ]:
        assert changed(**{name: value}) == c_kernel.SIZES
    for name, value in [
        ("n_revised", 5),
        ("n_fade", 65),
        ("n_waiting", -1),
        ("n_iter", -1),
        ("n_flush", 9999),
    ]:
        assert changed(**{name: value}) == c_kernel.SIZES
    assert changed(n_slots=4) == c_kernel.RULE
    assert changed(start=3) == c_kernel.START
    assert changed(start=2) == c_kernel.SIZES  # the gradient remembers frames


class Nonlinear(Update):
    def step(self, state, p_m, p_c):
        return (p_c(p_m(state[0])).clamp(-1, 1),)


def test_inverters_that_the_kernel_does_not_support_are_refused_with_a_way_out():
    def refused(stft: STFT, words: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=words):
            kernel_plan(StreamingInverter(stft, engine="eager", **options))

    refused(STFT(400, 100), "n_fft=400 is not a power of two from 32 to 32768.*use n_fft=1024")
    refused(STFT(16, 4), "n_fft=16")
    refused(STFT(256, 64), r"textbook.*use GriffinLim\(\)", update="rtisi")
    refused(STFT(256, 64), "Peaks.*use 'overlap', 'zeros' or 'gradient'", init="peaks")
    refused(STFT(256, 64), r"update=Nonlinear\(\) has no C code .*RAAR\(\)", update=Nonlinear())
    refused(STFT(256, 64), r"DifferenceMap.*projects", update=DifferenceMap(beta=0.8))
    refused(STFT(256, 64), "has a filter bank", bank=FilterBank(torch.eye(129)))
    refused(STFT(256, 64), "open frames, more than 256: use a smaller one", look_ahead=300)
    with pytest.raises(TypeError, match="StreamingInverter"):
        kernel_plan(cast(Any, "stream"))
    ways_out: list[Options] = [{"update": "gla"}, {"init": "zeros"}, {"init": "gradient"}]
    for options in ways_out:
        assert kernel_plan(StreamingInverter(STFT(256, 64), engine="eager", **options))


# The example.


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with the sanitizers of the compiler, if it has them; its memory has the exact size."""
    sources = [c_kernel.FOLDER.parents[1] / "demos" / "push_frames.c", c_kernel.SOURCE]
    to = tmp_path_factory.mktemp("example") / "push_frames"
    try:
        return c_kernel.compile_c(to, "-O1", "-g", "-fsanitize=address,undefined", *sources)
    except AssertionError as error:
        if "san" not in str(error):
            raise
        return c_kernel.compile_c(to, *sources)


@compiled
@pytest.mark.parametrize(("n_fft", "hop_length"), [(1024, 256), (1024, 512), (32, 7)])
def test_the_example_in_c_makes_the_same_samples(example, n_fft, hop_length, tmp_path):
    stft = STFT(n_fft, hop_length)
    inverter, S = reference(stft), stft.magnitude(CLIP[3000 : 3000 + 30 * hop_length])
    (tmp_path / "stream.plan").write_bytes(kernel_plan(inverter))
    frames = S.mT.contiguous().numpy().tobytes()
    done = subprocess.run([example, tmp_path / "stream.plan"], input=frames, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    samples = np.frombuffer(done.stdout, np.float32)
    assert np.array_equal(samples, c_kernel.Stream(inverter).run(S)[inverter.latency :])
    assert samples.size == inverter.length(S.shape[-1])
    assert np.abs(samples).max() > 0.1


@compiled
def test_the_example_in_c_makes_the_samples_of_the_package(example, tmp_path):
    """With one iteration, rounding errors are still small."""
    stft = STFT(1024, 256)
    inverter, S = reference(stft, n_iter=1, look_ahead=1), stft.magnitude(CLIP[3000:6000])
    (tmp_path / "stream.plan").write_bytes(kernel_plan(inverter))
    frames = S.mT.contiguous().numpy().tobytes()
    done = subprocess.run([example, tmp_path / "stream.plan"], input=frames, capture_output=True, check=True)
    samples, wanted = np.frombuffer(done.stdout, np.float32), inverter.run(S).numpy()
    assert samples.shape == wanted.shape
    n = 6 * 256 - inverter.latency
    assert np.abs(samples[:n] - wanted[:n]).max() <= 3e-5 * np.abs(wanted).max()
    assert metrics.sc(stft.magnitude(torch.from_numpy(samples.copy())), S) < -8


@compiled
def test_the_example_in_c_says_what_is_wrong(example, tmp_path):
    plan = kernel_plan(StreamingInverter(STFT(64, 16), engine="eager"))
    (tmp_path / "whole.plan").write_bytes(plan)
    (tmp_path / "cut.plan").write_bytes(plan[:-4])
    for name, words in [
        ("cut.plan", b"error 1"),
        ("none.plan", b"cannot be read"),
        ("whole.plan", b"error 7"),
    ]:
        command, frame = [example, tmp_path / name], np.full(33, -1, np.float32).tobytes()
        done = subprocess.run(command, input=frame, capture_output=True, check=False)
        assert done.returncode
        assert words in done.stderr
