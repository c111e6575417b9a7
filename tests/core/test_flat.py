"""Tests of clicks and flat frames, whose magnitudes do not determine the position of the sound."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from rtspecinv import STFT, StreamingInverter, invert, invert_blocks, invert_many, lbfgs, torch_specinv
from rtspecinv.cli import main
from rtspecinv.levels import Balance
from rtspecinv.measure.clip import SAMPLE_RATE, render
from rtspecinv.updates import RULES

HAS_NUMBA = all(importlib.util.find_spec(name) for name in ("numba", "rocket_fft"))
ENGINES = [
    "eager",
    pytest.param("numba", marks=pytest.mark.skipif(not HAS_NUMBA, reason='pip install "rtspecinv[fast]"')),
]
CLICK = 0.9
HALF = 0.5  # least share of the energy of a click in the result


def clicks(stft: STFT, n_positions: int = 8) -> tuple[Tensor, Tensor]:
    """Return samples `(n_positions, n)` with a click each, at positions over a hop; and the positions."""
    at = 5 * stft.n_fft + torch.arange(n_positions) * stft.hop_length // n_positions
    samples = torch.zeros(n_positions, 10 * stft.n_fft, dtype=stft.dtype)
    samples[torch.arange(n_positions), at] = CLICK
    return samples, at


def least_kept(stft: STFT, samples: Tensor, at: Tensor) -> float:
    """Return the smallest share of the energy of a click that is within one frame of its position."""
    near = 7 * stft.n_fft // 10
    parts = [row[p - near : p + near] for row, p in zip(samples, at.tolist(), strict=True)]
    return min(float(part.double().square().sum()) / CLICK**2 for part in parts)


def streamed(stft: STFT, magnitude: Tensor, **options: Any) -> Tensor:
    inverter = StreamingInverter(stft, batch_shape=magnitude.shape[:-2], **options)
    return inverter.run(magnitude)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("overlap", [2, 4, 8])
@pytest.mark.parametrize("update", RULES)
def test_a_stream_keeps_the_energy_of_a_click(update, overlap, engine):
    """This holds for every rule, with and without look-ahead, at every position of the click in a hop."""
    stft = STFT(128, 128 // overlap)
    samples, at = clicks(stft)
    for look_ahead in (0, 3):
        found = streamed(stft, stft.magnitude(samples), update=update, look_ahead=look_ahead, engine=engine)
        assert least_kept(stft, found, at) > HALF


@settings(max_examples=15, deadline=None)
@given(
    n_fft=st.sampled_from([96, 128, 200, 256]),
    overlap=st.sampled_from([4, 5, 8]),
    window=st.sampled_from(["hann", "hamming", "blackman", "cosine", "rectangular"]),
    center=st.sampled_from([True, False, "same"]),
    init=st.sampled_from(["overlap", "peaks", "zeros"]),
    look_ahead=st.integers(0, 4),
    n_iter=st.integers(2, 8),
    double=st.booleans(),
    gain=st.sampled_from([1.0, 1e-4, 1e-12]),
)
def test_a_stream_keeps_the_energy_of_a_click_in_every_setting(
    n_fft, overlap, window, center, init, look_ahead, n_iter, double, gain
):
    dtype = torch.float64 if double else torch.float32
    stft = STFT(n_fft, n_fft // overlap, window=window, center=center, dtype=dtype)
    samples, at = clicks(stft, 16)
    magnitude = gain * stft.magnitude(samples)
    found = streamed(stft, magnitude, init=init, look_ahead=look_ahead, n_iter=n_iter)
    assert least_kept(stft, found / gain, at) > HALF


@pytest.mark.parametrize("overlap", [2, 4, 8])
def test_every_inversion_keeps_the_energy_of_a_click(overlap):
    stft = STFT(128, 128 // overlap)
    samples, at = clicks(stft)
    magnitude = stft.magnitude(samples)
    n_samples = samples.shape[-1]
    settings: dict[str, Any] = {"hop_length": stft.hop_length, "window": stft.window}
    quiet = {"verbose": False, **settings}
    found = {
        **{
            f"init {init}": invert(magnitude, stft, n_iter=10, init=init)
            for init in ("stream", "peaks", "zeros")
        },
        **{update: invert(magnitude, stft, n_iter=10, update=update) for update in ("hybrid", "raar", "gla")},
        "not compiled": invert(magnitude, stft, n_iter=10, engine="eager"),
        "many": torch.stack(invert_many(magnitude.unbind(0), stft, n_iter=10)),
        "griffin_lim": torch_specinv.griffin_lim(magnitude, max_iter=10, **quiet),
        "RTISI_LA": torch_specinv.RTISI_LA(magnitude, max_iter=10, **quiet),
        "asymmetric": torch_specinv.RTISI_LA(magnitude, max_iter=10, asymmetric_window=True, **quiet),
        "ADMM": torch_specinv.ADMM(magnitude, max_iter=10, **quiet),
        "lbfgs": lbfgs(magnitude, stft.magnitude, length=n_samples, n_iter=10),
        "L_BFGS": torch_specinv.L_BFGS(magnitude, stft.magnitude, n_samples, outer_max_iter=2, verbose=0),
        "phase_init": stft.synthesize(torch_specinv.phase_init(magnitude, **settings)),
    }
    kept = {name: least_kept(stft, samples, at) for name, samples in found.items()}
    # Without iterations, single-pass phases differ from frame to frame.
    assert kept.pop("phase_init") > 0.2
    assert {name: share for name, share in kept.items() if share <= HALF} == {}


def test_blocks_keep_the_energy_of_clicks_at_their_borders():
    stft = STFT(128, 32)
    samples = torch.zeros(9000)
    at = torch.arange(300, 8800, 611)
    samples[at] = CLICK
    blocks = invert_blocks(stft.magnitude(samples).mT, stft, block_frames=40, overlap_frames=10, n_iter=5)
    found = torch.cat(list(blocks))
    assert least_kept(stft, found.expand(len(at), -1), at) > HALF


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000])
def test_clicks_at_whole_seconds(rate):
    stft = STFT(1024, 256)
    samples = torch.zeros(3 * rate)
    at = torch.tensor([rate, 2 * rate])
    samples[at] = CLICK
    magnitude = stft.magnitude(samples)
    for found in (streamed(stft, magnitude), invert(magnitude, stft, n_iter=10)):
        assert least_kept(stft, found.expand(2, -1), at) > HALF


def test_flat_frames_give_the_level_of_their_magnitudes():
    stft = STFT(1024, 256)
    ones = torch.ones(513, 60)
    for found in (streamed(stft, ones), invert(ones, stft, n_iter=10), invert(ones, stft, init="zeros")):
        power = stft.magnitude(found).square().mean()
        assert abs(10 * torch.log10(power)) < 1


@pytest.mark.parametrize("columns", [slice(None), slice(3, None, 20)], ids=["white", "lines"])
def test_white_pictures_are_heard(tmp_path, columns):
    levels = np.zeros((64, 100), np.uint8)
    levels[:, columns] = 255
    Image.fromarray(levels).save(tmp_path / "a.png")
    assert main(["image", str(tmp_path / "a.png"), "--seconds", "1", "-o", str(tmp_path / "a.wav")]) == 0
    samples, _ = soundfile.read(tmp_path / "a.wav")
    assert np.abs(samples).max() > 0.05


# --- Warnings of results that are too quiet ----------------------------------------------------------------


def test_a_silent_result_is_warned_of_and_the_advice_works():
    """The start is a pulse at sample 0 of every frame, where the window is 0, and there are no iterations."""
    stft = STFT(128, 32)
    magnitude = stft.magnitude(clicks(stft)[0])
    pulses = torch.complex(magnitude, torch.zeros_like(magnitude))
    with pytest.warns(UserWarning, match=r"the result is .* its target: .*init='random'"):
        invert(magnitude, stft, init=pulses, callback=lambda now: True)
    with pytest.warns(UserWarning, match="the result is"):
        invert_many([magnitude[0]], stft, init=pulses[0], n_iter=0)
    invert(magnitude, stft, init=pulses, n_iter=5)
    invert(magnitude, stft, init="random", n_iter=0)


def test_one_silent_item_of_several_is_warned_of():
    stft = STFT(128, 32)
    magnitude = stft.magnitude(clicks(stft)[0])
    start = stft.analyze(clicks(stft)[0])
    start[3] = start[3].abs() + 0j
    with pytest.warns(UserWarning, match="the result is"):
        invert(magnitude, stft, init=start, n_iter=0)


def test_sound_at_small_window_values_is_warned_of_and_the_advice_works():
    stft = STFT(128, 32, center=False)
    samples = torch.zeros(4000)
    samples[1] = 1
    with pytest.warns(UserWarning, match=r"the result is \d+ dB below .* silence around"):
        invert(stft.analyze(samples), stft, n_iter=0)
    around = torch.nn.functional.pad(samples, (128, 128))
    assert invert(stft.analyze(around), stft, n_iter=0)[129] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("normalized", [False, True])
def test_energies_are_weighed_without_a_transform(normalized):
    stft = STFT(256, 64, normalized=normalized)
    samples = torch.from_numpy(render())[:20000].expand(2, -1)
    balance = Balance(stft)
    for frame in stft.magnitude(samples).unbind(-1):
        balance.add_frame(frame)
    balance.add_samples(0.6 * samples)
    assert balance.share() == pytest.approx(0.36, rel=0.05)
    balance.add_samples(0.8 * samples)
    assert balance.share() == pytest.approx(1.0, rel=0.05)
    balance.warn("try")
    for _ in range(200):
        balance.add_frame(100 * stft.magnitude(samples)[..., 50])
    with pytest.warns(UserWarning, match=r"the result is \d+ dB below the level of its target: try"):
        balance.warn("try")


def test_descent_leaves_silence_or_warns():
    stft = STFT(128, 32)
    target = stft.magnitude(torch.from_numpy(render())[:4000])
    zeros = torch.zeros(4000)
    found = lbfgs(target, stft.magnitude, initial=zeros, n_iter=20)
    assert stft.magnitude(found).norm() > 0.5 * target.norm()
    with pytest.warns(UserWarning, match=r"the result is \d+ dB below .* another initial"):
        lbfgs(target, stft.magnitude, initial=zeros + 1e-6, n_iter=0)

    def in_db(samples: Tensor) -> Tensor:
        return stft.magnitude(samples).clamp_min(1e-5).log()

    with pytest.warns(UserWarning, match="the result is"):
        lbfgs(target.clamp_min(1e-5).log(), in_db, initial=zeros + 1e-9, n_iter=0)
    lbfgs(target.clamp_min(1e-5).log(), in_db, length=4000, n_iter=5)


def test_descent_from_noise_converges_for_any_transform():
    """The quietest noise may be nearest to the target, but its gradient is 0."""
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(30, 20, generator=generator)
    target = torch.randn(30, generator=generator)
    found = lbfgs(target, lambda x: matrix @ x, length=20, n_iter=30)
    best = torch.linalg.lstsq(matrix, target).solution
    assert torch.allclose(found, best, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(["silence", "clip", "noise magnitudes", "one bin", "one frame", "one item silent"]),
    gain=st.sampled_from([1.0, 1e-6, 1e-20]),
    overlap=st.sampled_from([2, 4, 8]),
    init=st.sampled_from(["stream", "peaks", "random", "zeros"]),
    seed=st.integers(0, 9),
)
def test_the_loudest_possible_result_does_not_warn(kind, gain, overlap, init, seed):
    stft = STFT(256, 256 // overlap)
    magnitude = torch.zeros(2, 129, 40)
    generator = torch.Generator().manual_seed(seed)
    if kind in ("clip", "one item silent"):
        samples = torch.from_numpy(render())[seed * SAMPLE_RATE // 4 :][: 39 * stft.hop_length]
        magnitude[0] = stft.magnitude(samples)
        magnitude[1] = 0 if kind == "one item silent" else magnitude[0]
    elif kind == "noise magnitudes":
        magnitude = torch.rand(2, 129, 40, generator=generator)
    elif kind == "one bin":
        magnitude[:, 20 + seed, 17] = 1
    elif kind == "one frame":
        magnitude[:, :, 17] = torch.rand(129, generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        invert(gain * magnitude, stft, init=init, n_iter=3)
        list(invert_blocks((gain * magnitude).unbind(-1), stft, n_iter=1, block_frames=40, overlap_frames=20))
