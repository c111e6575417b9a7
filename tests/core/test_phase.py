"""Tests of the starts: sinusoids continue, impulses keep their position, windows have known widths."""

from __future__ import annotations

import heapq
import math

import pytest
import torch

from rtspecinv import STFT, StreamingInverter, invert
from rtspecinv.phase import Context, Gradient, Peaks, Zeros, _integrate, gaussian_width


def context(stft: STFT, samples: torch.Tensor, frame: int, n_next: int = 0) -> tuple[Context, torch.Tensor]:
    spectrum = stft.analyze(samples).mT
    known = spectrum[frame - 2 : frame + 1 + n_next]
    return at(stft, known, spectrum[frame - 1]), spectrum[frame]


def at(stft: STFT, known: torch.Tensor, previous: torch.Tensor) -> Context:
    return Context(stft, known.abs, lambda: previous, lambda: previous)


def error(estimate: torch.Tensor, true: torch.Tensor) -> float:
    return float((estimate - true).norm() / true.norm())


@pytest.mark.parametrize("setting", [(256, 64, 256), (255, 50, 255), (256, 32, 200)])
@pytest.mark.parametrize("start", [Peaks(), Gradient(), Gradient(delay=1)], ids=str)
def test_a_sinusoid_continues(start, setting):
    n_fft, hop_length, win_length = setting
    stft = STFT(n_fft, hop_length, win_length=win_length, dtype=torch.float64)
    samples = torch.sin(2 * math.pi * 0.1234 * torch.arange(4000, dtype=torch.float64))
    what, true = context(stft, samples, 10, start.n_waiting)
    assert error(start(what), true) < 0.1
    assert torch.allclose(start(what).abs(), true.abs())
    assert error(Zeros()(what), true) > 0.5


@pytest.mark.parametrize("start", [Gradient(), Gradient(delay=1)], ids=str)
def test_an_impulse_stays_in_place(start):
    stft = STFT(256, 32, window="blackman", dtype=torch.float64)
    samples = torch.zeros(4000, dtype=torch.float64)
    samples[1000] = 1
    what, true = context(stft, samples, 32, start.n_waiting)
    estimate = start(what)
    peak = stft.inverse_transform(estimate).abs().argmax()
    assert abs(int(peak) - int(stft.inverse_transform(true).abs().argmax())) <= 8


def integrate_by_heap(before, now, by_frame, to_next_bin, floor):
    """Return phases by algorithm 1 of Prusa & Sondergaard 2016; NaN at the floor and below."""
    phase, todo = torch.full_like(now, math.nan), (now > floor).tolist()
    heap = [(-float(before[k]), -1, k) for k in range(len(now)) if todo[k]]
    heapq.heapify(heap)
    while any(todo):
        _, frame, k = heapq.heappop(heap)
        if frame < 0:
            reached = [(k, by_frame[k])]
        else:
            reached = [(k + 1, phase[k] + to_next_bin[k])] if k + 1 < len(now) else []
            reached += [(k - 1, phase[k] - to_next_bin[k - 1])] if k else []
        for neighbour, value in reached:
            if todo[neighbour]:
                phase[neighbour], todo[neighbour] = value, False
                heapq.heappush(heap, (-float(now[neighbour]), 0, neighbour))
    return phase


@pytest.mark.parametrize("n_half", [1, 2, 3, 16, 33])
def test_phases_are_integrated_as_by_a_heap(n_half):
    generator = torch.Generator().manual_seed(n_half)
    rows = torch.randn(4, 40, n_half, generator=generator, dtype=torch.float64)
    before, now, by_frame, to_next_bin = rows * torch.tensor([5.0, 5.0, 3.0, 1.0])[:, None, None]
    before[0] = -80  # after silence
    floor = torch.maximum(before.amax(-1, True), now.amax(-1, True)) - torch.rand(40, 1) * 30
    found = _integrate(before, now, by_frame, to_next_bin[..., 1:], floor)
    for row, *of_frame in zip(found, before, now, by_frame, to_next_bin[..., 1:], floor, strict=True):
        true = integrate_by_heap(*of_frame)
        assert torch.allclose(row[~true.isnan()], true[~true.isnan()])


def test_starts_treat_streams_alike():
    stft = STFT(64, 16, dtype=torch.float64)
    samples = torch.randn(3, 400, dtype=torch.float64)
    spectrum = stft.analyze(samples).mT
    for start in (Peaks(), Gradient(), Zeros()):
        together = start(at(stft, spectrum[:, 5:8], spectrum[:, 6]))
        for i in range(3):
            one = start(at(stft, spectrum[i, 5:8], spectrum[i, 6]))
            assert torch.allclose(together[i], one)


@pytest.mark.parametrize(
    ("window", "constant"),  # Prusa & Sondergaard 2016, table 1
    [
        ("hann", 0.25645),
        ("cosine", 0.41532),
        ("hamming", 0.29794),
        ("blackman", 0.17954),
        ("nuttall", 0.12807),
    ],
)
def test_gaussian_width_has_the_published_constants(window, constant):
    width = gaussian_width(STFT(512, 64, window=window, dtype=torch.float64).window.numpy())
    assert width / 512**2 == pytest.approx(constant, rel=0.04)


def test_gaussian_width_of_a_gaussian_is_exact():
    t = torch.arange(512, dtype=torch.float64) - 256
    assert gaussian_width(torch.exp(-math.pi * t**2 / 9000).numpy()) == pytest.approx(9000, rel=1e-3)


@pytest.mark.parametrize("n_overlap", [2, 4, 8, 16])
@pytest.mark.parametrize("how", ["single_pass", "stream", "iterated"])
def test_a_click_after_silence_keeps_its_energy_at_every_position(how, n_overlap):
    stft = STFT(128, 128 // n_overlap, dtype=torch.float64)
    clicks = torch.zeros(stft.hop_length, 1024, dtype=torch.float64)
    clicks[range(len(clicks)), range(500, 500 + len(clicks))] = 1
    magnitude = stft.magnitude(clicks)
    if how == "single_pass":
        samples = invert(magnitude, stft, init="peaks", n_iter=0)
    else:
        n_iter = 0 if how == "stream" else 4
        stream = StreamingInverter(stft, init="peaks", n_iter=n_iter, batch_shape=(len(clicks),))
        samples = torch.cat([stream.push_many(magnitude), stream.flush()], -1)[:, stream.latency :]
    kept = samples.square().sum(-1)
    assert kept.min() > 0.8
    assert kept.mean() > 0.9
    assert kept.max() < 1 + 1e-9
