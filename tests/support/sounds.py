"""Sounds and transforms for tests of batch inversion."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from rtspecinv import STFT

SMALL = STFT(64, 16, dtype=torch.float64)


def sound(n_samples: int, *batch: int, seed: int = 0) -> Tensor:
    """Return a few decaying tones with a little noise, float64."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(n_samples, dtype=torch.float64)
    parts = []
    for _ in range(4):
        frequency, phase = torch.rand(2, *batch, 1, generator=generator, dtype=torch.float64)
        parts.append(torch.sin(frequency * time + 6 * phase) * torch.exp(-2 * phase * time / n_samples))
    return sum(parts) / 8 + 0.01 * torch.randn(*batch, n_samples, generator=generator, dtype=torch.float64)


@st.composite
def transforms(draw) -> STFT:
    n_fft = draw(st.integers(8, 40))
    win_length = draw(st.integers(max(4, n_fft // 2), n_fft))
    center = draw(st.booleans())
    return STFT(
        n_fft,
        draw(st.integers(1, max(1, win_length // 2))),
        win_length=win_length,
        window=draw(st.sampled_from(["hann", "hamming", "rectangular"])),
        center=center,
        pad_mode=draw(st.sampled_from(["reflect", "constant", "replicate", "circular"])),
        normalized=draw(st.booleans()),
        onesided=draw(st.booleans()),
        dtype=torch.float64,
    )
