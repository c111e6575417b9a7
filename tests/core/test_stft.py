"""Tests of the STFT: equality with torch and with the DFT sum, adjoints, edges, gradients, errors."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rtspecinv.batch import invert
from rtspecinv.stft import STFT, WINDOWS

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}  # relative to the largest value
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)
QUICK = settings(max_examples=60, deadline=None, derandomize=True)
SHAPES = [  # n_fft, hop_length, win_length, window
    (64, 16, 64, "hann"),
    (63, 10, 63, "hamming"),
    (64, 23, 50, "blackman"),
    (61, 20, 40, "hann"),
    (32, 32, 32, "rectangular"),
]


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    precision = actual.real.dtype
    assert (actual - expected).abs().max() <= TOLERANCE[precision] * expected.abs().max().clamp_min(1)


def torch_options(stft: STFT) -> dict[str, Any]:
    left = (stft.n_fft - stft.win_length) // 2
    return {
        "n_fft": stft.n_fft,
        "hop_length": stft.hop_length,
        "win_length": stft.win_length,
        "window": stft.window[left : left + stft.win_length],
        "center": stft.center,
        "normalized": stft.normalized,
        "onesided": stft.onesided,
    }


@st.composite  # type: ignore[arg-type]
def stfts(draw: st.DrawFn, **fixed: Any) -> STFT:
    n_fft = draw(st.integers(1, 40))
    win_length = draw(st.integers(max(1, n_fft // 2), n_fft))
    options: dict[str, Any] = {
        "win_length": win_length,
        "window": draw(st.sampled_from(["hann", "hamming", "rectangular", "cosine"])),
        "center": draw(st.sampled_from([True, False, "same", "snip"])),
        "normalized": draw(st.booleans()),
        "onesided": draw(st.booleans()),
        "dtype": torch.float64,
    }
    return STFT(n_fft, draw(st.integers(1, max(1, win_length // 2))), **{**options, **fixed})


@DTYPES
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pad_mode", [None, "reflect", "constant", "replicate", "circular"])
@pytest.mark.parametrize(("normalized", "onesided"), [(False, True), (True, False)])
def test_analyze_equals_torch(shape, pad_mode, normalized, onesided, dtype):
    n_fft, hop_length, win_length, window = shape
    center = {"center": False} if pad_mode is None else {"pad_mode": pad_mode}
    options: dict[str, Any] = {
        "win_length": win_length,
        "window": window,
        "normalized": normalized,
        "onesided": onesided,
    }
    stft = STFT(n_fft, hop_length, dtype=dtype, **options, **center)
    samples = noise(2, 333, dtype=dtype)
    pad = {} if pad_mode is None else {"pad_mode": pad_mode}
    expected = torch.stft(samples, return_complex=True, **torch_options(stft), **pad)
    assert_close(stft.analyze(samples), expected)
    assert_close(stft.magnitude(samples), expected.abs())


@pytest.mark.parametrize("n_samples", [64, 65, 79, 640])
def test_same_pads_so_that_hops_have_frames(n_samples):
    stft = STFT(64, 16, center="same", dtype=torch.float64)
    samples = noise(2, n_samples, dtype=torch.float64)
    padded = torch.nn.functional.pad(samples, (24, 24), mode="reflect")
    options: dict[str, Any] = {"n_fft": 64, "hop_length": 16, "window": stft.window, "center": False}
    expected = torch.stft(padded, return_complex=True, **options)
    assert_close(stft.analyze(samples), expected)
    assert expected.shape[-1] == n_samples // 16
    back = stft.synthesize(expected)
    assert_close(back, samples[..., : n_samples - n_samples % 16])


@DTYPES
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("normalized", "onesided"), [(False, True), (True, False)])
@pytest.mark.parametrize("extra", [None, -50, 5])
def test_synthesize_equals_torch_on_inconsistent_spectra(shape, normalized, onesided, extra, dtype):
    n_fft, hop_length, win_length, window = shape
    options: dict[str, Any] = {
        "win_length": win_length,
        "window": window,
        "normalized": normalized,
        "onesided": onesided,
    }
    stft = STFT(n_fft, hop_length, dtype=dtype, **options)
    spectrum = torch.complex(
        noise(2, 3, stft.n_freq, 13, dtype=dtype), noise(2, 3, stft.n_freq, 13, dtype=dtype)
    )
    length = None if extra is None else 12 * hop_length + extra
    expected = torch.istft(spectrum.flatten(0, 1), length=length, **torch_options(stft)).unflatten(0, (2, 3))
    assert_close(stft.synthesize(spectrum, length), expected)
    longer = stft.synthesize(spectrum, 500)
    assert_close(longer[..., : expected.shape[-1] - 5], expected[..., :-5])
    assert not longer[..., 12 * hop_length + n_fft :].any()


@DTYPES
def test_uncentred_synthesis_equals_torch_where_no_window_sum_is_zero(dtype):
    stft = STFT(30, 12, window="hamming", center=False, dtype=dtype)
    spectrum = torch.complex(noise(16, 5, dtype=dtype), noise(16, 5, dtype=dtype))
    assert_close(stft.synthesize(spectrum), torch.istft(spectrum, **torch_options(stft)))


def test_analyze_equals_its_formula():
    stft = STFT(15, 4, win_length=12, center=False, onesided=False, normalized=True, dtype=torch.float64)
    samples = noise(40)
    n = torch.arange(15, dtype=torch.float64)
    for k, t in [(0, 0), (3, 2), (7, 6), (14, 5)]:
        wave = torch.polar(torch.ones_like(n), -2 * math.pi * k * n / 15)
        expected = stft.scale * (stft.window * samples[4 * t : 4 * t + 15] * wave).sum()
        assert_close(stft.analyze(samples)[k, t], expected)
    assert stft.analyze(samples).shape == (15, 7)


@pytest.mark.parametrize("window", ["bartlett", "boxcar", "general_hamming", "hann", "kaiser", "nuttall"])
def test_named_windows_are_periodic_and_their_dual_completes_them(window):
    stft = STFT(64, 16, window=window, dtype=torch.float64)
    assert window in WINDOWS
    assert_close(stft.window[1:], stft.window[1:].flip(0))
    assert_close(stft.envelope.view(4, 16).sum(0), torch.ones(16, dtype=torch.float64))
    assert_close(stft.envelope, stft.window * stft.dual_window)


def test_window_values_equal_their_name():
    values = torch.hann_window(48, dtype=torch.float64)
    for window in (values, values.numpy(), values.numpy()[::-1][::-1]):
        assert torch.equal(
            STFT(64, 16, win_length=48, window=window).window, STFT(64, 16, win_length=48).window
        )


@QUICK
@given(stfts(), st.integers(1, 9), st.lists(st.integers(1, 3), max_size=2))
def test_overlap_add_is_the_adjoint_of_frame(stft, n_frames, batch):
    frames = noise(*batch, n_frames, stft.n_fft)
    samples = noise(*batch, (n_frames - 1) * stft.hop_length + stft.n_fft)
    assert stft.overlap_add(frames).shape == samples.shape
    assert_close((stft.overlap_add(frames) * samples).sum(), (frames * stft.frame(samples)).sum())


@pytest.mark.parametrize(("n_fft", "hop_length"), [(64, 16), (61, 20), (32, 32), (10, 1)])
def test_overlap_add_has_the_same_bits_for_many_frames_and_frame_by_frame(n_fft, hop_length):
    stft = STFT(n_fft, hop_length, window="rectangular")
    frames = noise(3, 2000, n_fft, dtype=torch.float32)
    expected = torch.zeros(3, 1999 * hop_length + n_fft)
    for t in range(2000):
        expected[:, t * hop_length :][:, :n_fft] += frames[:, t]
    assert torch.equal(stft.overlap_add(frames), expected)
    assert torch.equal(stft.overlap_add(frames[:, :3]), stft.overlap_add(frames[:, :3].requires_grad_()))
    assert torch.equal(stft.overlap_add(frames.requires_grad_()), expected)


@QUICK
@given(stfts(), st.integers(0, 90), st.lists(st.integers(1, 3), max_size=2))
def test_synthesis_undoes_analysis(stft, extra, batch):
    samples = noise(*batch, stft.n_fft + extra)
    again = stft.synthesize(stft.analyze(samples), samples.shape[-1])
    assert again.shape == samples.shape
    # Without centring, the last samples may be in no frame, and the window nearly 0 at the first and last.
    centred = stft.center is True
    seen = stft.analyze(samples).shape[-1] * stft.hop_length if centred else stft.hop_length
    first = 0 if centred else stft.n_fft - stft.hop_length
    assert torch.allclose(again[..., first:seen], samples[..., first:seen], rtol=0, atol=1e-9)
    assert again.isfinite().all()


@DTYPES
def test_uncentred_edges_are_finite_and_lost_samples_silent(dtype):
    stft = STFT(64, 16, win_length=60, center=False, dtype=dtype)
    samples = noise(4, 64 + 16 * 5, dtype=dtype)
    spectrum = stft.analyze(samples).requires_grad_()
    again = stft.synthesize(spectrum)
    # A Hann window is 0 at sample 0.
    assert torch.equal(again[:, [0, 1, 2, -1, -2]], torch.zeros(4, 5, dtype=dtype))
    assert torch.allclose(again[:, 3:-2], samples[:, 3:-2], atol=30 * TOLERANCE[dtype])
    again.square().sum().backward()
    assert spectrum.grad.isfinite().all()


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("onesided", [True, False])
def test_gradients(center, onesided):
    stft = STFT(8, 3, center=center, onesided=onesided, dtype=torch.float64)
    samples = noise(2, 17).requires_grad_()
    assert torch.autograd.gradcheck(stft.analyze, samples)
    spectrum = stft.analyze(samples).detach().requires_grad_()
    assert torch.autograd.gradcheck(stft.synthesize, spectrum)
    silence = torch.zeros(20, dtype=torch.float64, requires_grad=True)
    stft.magnitude(silence).sum().backward()
    assert silence.grad.isfinite().all()


def test_a_cast_between_calls_loses_nothing():
    stft = STFT(64, 16)
    assert (stft.dtype, stft.device) == (torch.float32, torch.device("cpu"))
    assert not stft.state_dict()
    again = copy.deepcopy(stft).to(torch.float64)
    exact = STFT(64, 16, dtype=torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(again.buffers(), exact.buffers(), strict=True))
    assert torch.equal(again.float().window, stft.window)
    before = [*stft.buffers()]
    assert all(a is b for a, b in zip(stft.to("cpu").buffers(), before, strict=True))
    with pytest.raises(TypeError, match=r"float16.*not torch\.float32"):
        stft.half()
    assert stft.dtype == torch.float32
    assert stft.to_empty(device="cpu").window.equal(again.window)


def test_attributes_and_repr():
    stft = STFT(30, None, normalized=True, onesided=False)
    assert (stft.hop_length, stft.win_length, stft.n_freq, stft.look_back, stft.padding) == (7, 30, 30, 4, 15)
    assert stft.scale == pytest.approx(30**-0.5)
    assert (STFT(31, 31, window="hamming", center=False).look_back, STFT(31, 8).n_freq) == (0, 16)
    assert "n_fft=30, hop_length=7, win_length=30, center=True" in repr(stft)
    assert "window='hann'" in repr(stft)


NAN_WINDOW = torch.full((64,), math.nan)
BAD_PARAMETERS = [
    ({"n_fft": 0}, "n_fft=0 is not an integer >= 1"),
    ({"n_fft": 64.0}, "n_fft=64.0 is not an integer"),
    ({"hop_length": True}, "hop_length=True is not an integer"),
    ({"hop_length": 65}, "hop_length=65 is larger than n_fft=64: .* such as hop_length=16"),
    ({"hop_length": 33, "win_length": 32}, "hop_length=33 is larger than win_length=32: .* hop_length=8"),
    ({"win_length": 65}, "win_length=65 is larger than n_fft=64"),
    ({"hop_length": 64}, "hop_length=64 cannot be inverted.* 0 at sample offset 0 .*at most 32.*'hamming'"),
    ({"window": torch.zeros(64)}, "<values>.*cannot be inverted"),
    ({"window": "hanning"}, "window='hanning' is not one of .*; did you mean 'hann'"),
    ({"window": torch.ones(32)}, r"window has shape=\(32,\), but win_length=64: pass"),
    ({"window": NAN_WINDOW}, "NaN or infinite"),
    ({"window": torch.ones(64, dtype=torch.complex64)}, "window is complex"),
    ({"window": None}, "window=None is not a name"),
    ({"pad_mode": "reflection"}, "pad_mode='reflection' is not one of .*did you mean 'reflect'"),
    ({"dtype": torch.float16}, r"dtype=torch.float16 is not torch.float32 or torch.float64"),
]


@pytest.mark.parametrize(("parameters", "message"), BAD_PARAMETERS)
def test_bad_parameters_are_refused(parameters, message):
    with pytest.raises((ValueError, TypeError), match=message):
        STFT(**{"n_fft": 64, "hop_length": 16, **parameters})


@pytest.mark.parametrize(("n_fft", "win_length"), [(1, None), (3, None), (64, None), (64, 7), (1000, 64)])
def test_a_hop_that_would_skip_samples_is_rejected_with_a_valid_one(n_fft, win_length):
    with pytest.raises(ValueError, match="samples would be skipped") as error:
        STFT(n_fft, 256, win_length=win_length)
    way = re.search(r"such as hop_length=(\d+)", str(error.value)).group(1)
    assert STFT(n_fft, int(way), win_length=win_length).hop_length <= (win_length or n_fft)


HALF = torch.zeros(33, 4, dtype=torch.complex64)
BAD_INPUT = [
    ("analyze", np.zeros(99), "samples is a ndarray: use torch.as_tensor"),
    ("analyze", torch.zeros(99, dtype=torch.int16), r"int16.*scale integers to \[-1, 1\]"),
    ("analyze", torch.zeros(99, dtype=torch.complex64), "complex64.*only a spectrum is complex"),
    ("analyze", torch.zeros(99, dtype=torch.float64), r"float64.*cast it with .to\(torch.float32\)"),
    ("analyze", torch.zeros(99, device="meta"), "samples is on meta, the STFT on cpu"),
    ("analyze", torch.zeros(0), r"shape \(0,\) is empty"),
    ("analyze", torch.tensor(1.0), "too few axes"),
    ("analyze", torch.zeros(32), "n_samples=32, but pad_mode='reflect' with n_fft=64 needs at least 33"),
    ("frame", torch.zeros(63), "n_samples=63, but a frame needs n_fft=64.*center=True"),
    ("overlap_add", torch.zeros(4, 63), r"shape \(4, 63\) is not \(..., 64\)"),
    ("synthesize", HALF.real, "spectrum has torch.float32, not torch.complex64: a magnitude has no phase"),
    ("synthesize", HALF.to(torch.complex128), r"complex128.*cast it with .to\(torch.complex64\)"),
    ("synthesize", HALF[:32], "n_freq=32 .*with onesided=True has 33"),
    ("synthesize", HALF.mT, "n_freq=4 .*has 33; its frames look transposed: pass spectrum.mT"),
    ("synthesize", HALF[:, :0], r"\(33, 0\) is empty"),
    ("synthesize", HALF[:, :1], "n_frames=1, all cut by center=True: pass length"),
]


@pytest.mark.parametrize(("method", "value", "message"), BAD_INPUT)
def test_bad_input_is_refused(method, value, message):
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(STFT(64, 16), method)(value)


@pytest.mark.parametrize("length", [0, -1, 2.5])
def test_bad_length_is_refused(length):
    with pytest.raises(ValueError, match=f"length={length} is not an integer >= 1"):
        STFT(64, 16).synthesize(HALF, length)


def test_one_frame_with_length_and_shortest_input():
    stft = STFT(64, 16, pad_mode="constant")
    samples = noise(1, dtype=torch.float32)
    assert_close(stft.synthesize(stft.analyze(samples), 1), samples)
    with pytest.raises(ValueError, match="needs n_fft=64"):
        STFT(64, 16, center=False).analyze(samples)


@pytest.mark.parametrize("center", [True, False, "same", "snip"])
@pytest.mark.parametrize(("n_fft", "win_length", "hop_length"), [(64, 64, 16), (63, 40, 15), (128, 50, 20)])
def test_frames_cover_a_length(center, n_fft, win_length, hop_length):
    stft = STFT(
        n_fft, hop_length, win_length=win_length, window="hamming", center=center, pad_mode="constant"
    )
    for n_frames in (3, 12):
        length = stft.length(n_frames)
        assert stft.magnitude(torch.zeros(length)).shape[-1] == n_frames
        assert stft.magnitude(torch.zeros(length + hop_length)).shape[-1] == n_frames + 1
        assert stft.synthesize(stft.analyze(torch.zeros(length))).shape == (length,)
        assert invert(torch.zeros(stft.n_freq, n_frames), stft, n_iter=0).shape == (length,)


def test_snipped_frames_begin_with_the_window():
    samples = torch.randn(500, dtype=torch.float64)
    stft = STFT(64, 16, win_length=50, center="snip", dtype=torch.float64)
    window = torch.hann_window(50, dtype=torch.float64)
    frames = samples.unfold(0, 50, 16) * window
    assert torch.allclose(stft.magnitude(samples), torch.fft.rfft(frames, n=64).abs().mT)
