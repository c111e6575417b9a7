"""Tests of lists of spectrograms, and of long spectrograms in blocks."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from sounds import SMALL, sound
from torch import Tensor

from rtspecinv import STFT, FilterBank, invert, invert_blocks, invert_many
from rtspecinv.metrics import spectral_convergence


def test_ragged_lists():
    magnitudes = [SMALL.magnitude(sound(n, seed=n)) for n in (500, 333, 500, 80)]
    together = invert_many(magnitudes, SMALL, init="peaks", n_iter=8)
    for magnitude, samples in zip(magnitudes, together, strict=True):
        assert torch.allclose(samples, invert(magnitude, SMALL, init="peaks", n_iter=8), atol=1e-9)
    assert [len(s) for s in invert_many(magnitudes, SMALL, lengths=[500, 333, 499, 80], n_iter=2)] == [
        500,
        333,
        499,
        80,
    ]
    assert invert_many([], SMALL) == []
    with pytest.raises(ValueError, match="3 values for 4"):
        invert_many(magnitudes, SMALL, lengths=[1, 2, 3])


@pytest.mark.slow
@pytest.mark.parametrize("center", [True, False])
def test_blocks(center):
    stft = STFT(64, 16, center=center)
    magnitude = torch.stack([stft.magnitude(sound(4000, seed=seed).float()) for seed in range(4)])
    options: dict[str, Any] = {"block_frames": 80, "overlap_frames": 16, "n_iter": 30}
    whole, stream = (invert(magnitude, stft, n_iter=n) for n in (30, 0))
    samples = torch.cat(list(invert_blocks(magnitude.unbind(-1), stft, **options)), -1)
    assert samples.shape == whole.shape

    def convergence(samples: Tensor) -> Tensor:
        return spectral_convergence(stft.magnitude(samples), magnitude)

    # Medians, because a few frames stay wrong by chance, and one of them can be most of the error.
    assert (convergence(samples) - convergence(whole)).median() < 3
    assert (convergence(samples) - convergence(stream)).median() < -0.3
    short = torch.cat(list(invert_blocks(magnitude[..., :50].unbind(-1), stft, **options)), -1)
    assert torch.equal(short, invert(magnitude[..., :50], stft, n_iter=30))


@pytest.mark.parametrize("power", [1, 2])
def test_blocks_of_band_values(power):
    stft = STFT(64, 16)
    bank = FilterBank(
        (1 - (torch.arange(33) / 2 - torch.arange(17)[:, None]).abs()).clamp_min(0), power=power
    )
    values = bank.values(torch.stack([stft.magnitude(sound(3000, seed=seed).float()) for seed in range(4)]))
    options: dict[str, Any] = {"block_frames": 80, "overlap_frames": 16, "n_iter": 20, "bank": bank}
    whole, stream = (invert(values, stft, n_iter=n, bank=bank) for n in (20, 0))
    samples = torch.cat(list(invert_blocks(values.unbind(-1), stft, **options)), -1)
    assert samples.shape == whole.shape

    def convergence(samples: Tensor) -> Tensor:
        return spectral_convergence(bank.values(stft.magnitude(samples)), values)

    assert (convergence(samples) - convergence(whole)).median() < 3
    assert (convergence(samples) - convergence(stream)).median() < -0.3
    with pytest.raises(ValueError, match=r"not \(\*batch, 17\)"):
        next(invert_blocks(values, stft, bank=bank))
    with pytest.raises(TypeError, match="FilterBank"):
        next(invert_blocks(values.unbind(-1), stft, bank=bank.filters))  # type: ignore[arg-type]


def test_blocks_of_two_sided_spectra_in_reused_memory():
    one, two = (STFT(64, 16, onesided=onesided) for onesided in (True, False))
    samples = sound(2000).float()

    def reused():
        memory = torch.empty(64)
        for frame in two.magnitude(samples).unbind(-1):
            memory.copy_(frame)
            yield memory

    options: dict[str, Any] = {"block_frames": 60, "overlap_frames": 16, "n_iter": 3}
    expected = torch.cat(list(invert_blocks(one.magnitude(samples).mT, one, **options)))
    found = torch.cat(list(invert_blocks(reused(), two, **options)))
    assert torch.allclose(found, expected, atol=1e-4)
    with pytest.raises(TypeError, match=r"frame.abs\(\)"):
        next(invert_blocks(one.analyze(samples).mT, one))
    with pytest.raises(TypeError, match="known"):
        next(invert_blocks(one.magnitude(samples).mT, one, **cast(Any, {"known": samples})))


def test_blocks_are_yielded_before_the_last_frame():
    magnitude, taken = SMALL.magnitude(sound(2000)), 0

    def frames():
        nonlocal taken
        for frame in magnitude.unbind(-1):
            taken += 1
            yield frame

    with pytest.warns(UserWarning, match="magnitudes up to") as told:
        list(invert_blocks(1e4 * magnitude.mT, SMALL, block_frames=32, overlap_frames=8, n_iter=1))
    assert len(told) == 1
    first = next(iter(invert_blocks(frames(), SMALL, block_frames=60, overlap_frames=16, n_iter=2)))
    assert len(first) > 500
    assert taken < 70
    with pytest.raises(TypeError, match="init"):
        next(invert_blocks(frames(), SMALL, **cast(Any, {"init": "zeros"})))
    with pytest.raises(ValueError, match="overlap_frames=3"):
        next(invert_blocks(frames(), SMALL, overlap_frames=3))
    with pytest.raises(ValueError, match="empty"):
        next(invert_blocks([], SMALL))
