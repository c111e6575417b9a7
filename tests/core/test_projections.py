"""Tests of the two projections."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from rtspecinv import STFT
from rtspecinv.frames import FrameBuffer
from rtspecinv.projections import signs, to_consistent, to_magnitude, to_magnitude_in_range


def test_to_magnitude_has_the_magnitude_and_keeps_the_phase():
    spectrum = torch.randn(5, 33, dtype=torch.complex64)
    magnitude = torch.rand(5, 33)
    result = to_magnitude(spectrum, magnitude)
    assert torch.allclose(result.abs(), magnitude)
    assert torch.allclose((result * spectrum.conj()).imag, torch.zeros(5, 33), atol=1e-6)


def test_to_magnitude_of_zero_and_of_almost_zero():
    tiny = torch.tensor([0, 1e-45, 1e-40j, -1e-37, 1e37j, 1e-30 + 1e-30j], dtype=torch.complex64)
    for magnitude in (0.0, 1e-30, 1.0, 1e30):
        result = to_magnitude(tiny, torch.full((6,), magnitude))
        assert torch.allclose(result.abs(), torch.full((6,), magnitude))
    assert to_magnitude(tiny, torch.ones(6))[0] == 1


def test_to_magnitude_has_finite_gradients_at_zero():
    spectrum = torch.zeros(4, dtype=torch.complex64, requires_grad=True)
    magnitude = torch.ones(4, requires_grad=True)
    torch.view_as_real(to_magnitude(spectrum, magnitude)).sum().backward()
    assert spectrum.grad.isfinite().all()
    assert magnitude.grad is not None
    assert torch.equal(magnitude.grad, signs(4, torch.float32, torch.device("cpu")))


@given(n_half=st.integers(1, 3000))
def test_where_a_spectrum_is_zero_it_becomes_a_burst_in_the_middle(n_half):
    """No sample contains much of the energy, and the middle half of the frame contains most of it."""
    directions = to_magnitude(torch.zeros(n_half, dtype=torch.complex128), torch.ones(n_half).double())
    assert torch.equal(directions.real.abs(), torch.ones(n_half).double())
    assert not directions.imag.any()
    assert directions[0] == directions[-1] == 1
    if n_half >= 65:
        power = torch.fft.irfft(directions).square()
        n_fft = len(power)
        assert power[n_fft // 4 : n_fft - n_fft // 4].sum() > 0.75 * power.sum()
        assert power.max() < 25 / n_fft * power.sum()


def test_both_projections_on_magnitudes_agree_on_zeros():
    spectrum = torch.randn(3, 65, dtype=torch.complex64)
    spectrum[:, ::3] = 0
    spectrum[1] = 0
    magnitude = torch.rand(3, 65)
    expected = to_magnitude(spectrum, magnitude)
    assert torch.allclose(to_magnitude_in_range(spectrum, magnitude), expected, atol=1e-6)


def all_open(stft: STFT, n_frames: int) -> FrameBuffer:
    buffer = FrameBuffer(stft, n_frames)
    for _ in range(n_frames):
        buffer.push(torch.ones(stft.n_fft // 2 + 1, dtype=stft.dtype))
    return buffer


def test_with_every_frame_open_to_consistent_is_stft_of_istft():
    stft = STFT(64, 16, dtype=torch.float64)
    buffer = all_open(stft, 12)
    spectrum = torch.randn(12, 33, dtype=torch.complex128)
    # The edges are left out: torch.istft divides by their window sums, which have a lower limit here.
    expected = stft.analyze(stft.synthesize(spectrum.mT)).mT
    assert torch.allclose(to_consistent(spectrum, buffer)[5:-5], expected[5:-5])


def test_to_consistent_is_a_projection():
    stft = STFT(64, 16, window="hamming", center=False, dtype=torch.float64)
    buffer = all_open(stft, 8)
    spectrum = torch.randn(8, 33, dtype=torch.complex128)
    once = to_consistent(spectrum, buffer)
    assert torch.allclose(to_consistent(once, buffer)[3:-3], once[3:-3], atol=1e-2)
    signal = torch.randn(7 * 16 + 64, dtype=torch.float64)
    consistent = stft.analyze(signal).mT
    away = buffer.stft.frame(signal).shape[-2]
    assert away == 8
    assert torch.allclose(to_consistent(consistent, buffer)[3:-3], consistent[3:-3])
    assert (to_consistent(spectrum, buffer) - consistent).norm() <= (spectrum - consistent).norm()
