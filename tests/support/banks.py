"""Filter banks other than mel, as functions of n_fft, `(n_bands, n_fft // 2 + 1)`."""

from __future__ import annotations

import numpy as np


def bark_bank(n_fft: int, sample_rate: float, per_bark: int = 3) -> np.ndarray:
    """Return triangles, 2 Bark wide and 1/3 Bark apart, so that many bands overlap (Traunmueller 1990)."""
    f = np.maximum(np.arange(n_fft // 2 + 1) * sample_rate / n_fft, 1.0)
    bark = 26.81 * f / (1960 + f) - 0.53
    centres = np.arange(bark[1], bark[-1], 1 / per_bark)
    return np.maximum(0, 1 - np.abs(bark - centres[:, None]))


def constant_q_bank(n_fft: int, per_octave: int = 4) -> np.ndarray:
    """Return Gaussian bands with equal distances in octaves, whose tails are never 0."""
    octaves = np.log2(np.maximum(np.arange(n_fft // 2 + 1), 0.5))
    centres = np.arange(0, octaves[-1], 1 / per_octave)
    return np.exp(-2 * (per_octave * (octaves - centres[:, None])) ** 2) + 1e-6


def gaps_bank(n_fft: int) -> np.ndarray:
    """Return bands that are out of order, have gaps, include an empty one, and miss some frequencies."""
    generator = np.random.default_rng(0)
    filters = generator.random((9, n_fft // 2 + 1)) * (generator.random((9, n_fft // 2 + 1)) < 0.3)
    filters[4] = 0
    filters[:, 7] = 0
    return filters


BANKS = {"Bark": lambda n_fft: bark_bank(n_fft, 8000), "with holes": gaps_bank}
