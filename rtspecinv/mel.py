"""Mel spectrograms and the magnitudes they may have come from."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch
from torch import Tensor

from rtspecinv.inputs import Array, as_magnitude, count
from rtspecinv.stft import STFT, unknown_name

SCALES = ("slaney", "htk")
N_REFINEMENTS = 50  # multiplicative steps of an inverse


class Mel(torch.nn.Module):
    """Mel spectrogram `M = W |STFT(x)|^power` of samples, W a bank of triangular filters.

    Args:
        stft: the transform; it is copied.
        sample_rate: Hz.
        n_mels: filters.
        fmin: lower edge of the first filter, Hz.
        fmax: upper edge of the last filter, Hz; None is half the sample rate.
        scale: "slaney" (linear up to 1 kHz, logarithmic above: 15 mel are 1 kHz, 27 more a factor of 6.4) or
            "htk" (`2595 log10(1 + f / 700)`).
        area_norm: give every triangle the area 1 Hz rather than the height 1 (Slaney 1998).
        power: exponent of the magnitudes, 1 or 2.

    Attributes:
        filters: W, `(n_mels, n_fft // 2 + 1)`.

    Raises:
        ValueError: a parameter is out of range.

    Filters too narrow to meet a frequency of the transform are empty; a warning says how many.

    Sources: Slaney 1998, Auditory Toolbox; O'Shaughnessy 1987 for the HTK formula.
    """

    filters: Tensor
    pseudo_inverse: Tensor

    def __init__(
        self,
        stft: STFT,
        sample_rate: float,
        *,
        n_mels: int = 80,
        fmin: float = 0.0,
        fmax: float | None = None,
        scale: str = "slaney",
        area_norm: bool = True,
        power: float = 1.0,
    ) -> None:
        super().__init__()
        fmax = sample_rate / 2 if fmax is None else fmax
        if not 0 <= fmin < fmax <= sample_rate / 2:
            raise ValueError(
                f"Parameters {fmin=}, {fmax=} are not 0 <= fmin < fmax <= {sample_rate / 2}, half the rate!"
            )
        if scale not in SCALES:
            raise unknown_name("scale", scale, SCALES)
        if power not in (1, 2):
            raise ValueError(f"Parameter {power=} is not 1 (magnitude) or 2 (power)!")
        self.stft = copy.deepcopy(stft).with_center(stft.center)
        self.sample_rate, self.power = sample_rate, power
        lowest, highest = _to_mel(np.array([fmin, fmax]), scale).tolist()
        edges = _from_mel(np.linspace(lowest, highest, count(1, n_mels=n_mels) + 2), scale)
        frequencies = np.arange(stft.n_fft // 2 + 1) * (sample_rate / stft.n_fft)
        lower, centre, upper = (edges[i : i + n_mels, None] for i in range(3))
        rising, falling = (frequencies - lower) / (centre - lower), (upper - frequencies) / (upper - centre)
        filters = np.maximum(0, np.minimum(rising, falling))
        if area_norm:
            filters *= 2 / (upper - lower)
        if empty := int((filters.max(1) == 0).sum()):
            warnings.warn(
                f"{empty} of {n_mels} mel filters meet no frequency: use fewer n_mels or a larger n_fft",
                stacklevel=2,
            )
        for name, values in (("filters", filters), ("pseudo_inverse", np.linalg.pinv(filters))):
            self.register_buffer(name, torch.from_numpy(values).to(stft.device, stft.dtype), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """Mel spectrogram `(*batch, n_mels, n_frames)` of samples `(*batch, n_samples)`; differentiable."""
        magnitude = self.stft.magnitude(samples)
        return self.filters @ (magnitude if self.power == 1 else magnitude.square())

    @torch.no_grad()
    def inverse(self, mel: Tensor) -> Tensor:
        """Non-negative magnitudes of which `mel` is nearly the mel spectrogram.

        The pseudo-inverse, clamped, then multiplicative steps `S <- S (W^T M) / (W^T W S)`, which never
        increase `|W S - M|`.

        Args:
            mel: non-negative `(*batch, n_mels, n_frames)`, not a logarithm of it.

        Returns:
            Real `(*batch, n_fft // 2 + 1, n_frames)`, for `invert` or a `StreamingInverter` of `self.stft`,
            whose spectra are one-sided. It has no gradient.

        Raises:
            ValueError: another number of mel bands, negative values, NaN or infinity.

        Source: Lee & Seung 2001, theorem 1.
        """
        n_mels = len(self.filters)
        mel = as_magnitude(mel, self.filters, "mel")
        if mel.ndim < 2 or mel.shape[-2] != n_mels or not mel.shape[-1]:
            raise ValueError(f"Parameter mel has shape {tuple(mel.shape)}, not (*batch, {n_mels}, n_frames)!")
        if not bool(((mel >= 0) & mel.isfinite()).all()):
            raise ValueError("Parameter mel is negative or not finite somewhere: undo its logarithm first!")
        tiny, peak = torch.finfo(mel.dtype).tiny, _peak(mel)
        mel = mel / peak
        # Multiplying cannot leave 0, so everything that a filter sees starts a little above it.
        values = (self.pseudo_inverse @ mel).clamp_min(1e-6 / float(self.filters.max()))
        wanted = self.filters.mT @ mel
        for _ in range(N_REFINEMENTS):
            values = values * wanted / (self.filters.mT @ (self.filters @ values)).clamp_min(tiny)
        return values * peak if self.power == 1 else values.sqrt() * peak.sqrt()


def _peak(mel: Tensor) -> Tensor:
    """Largest value of every item, `(*batch, 1, 1)`, 1 for silence."""
    if not mel.numel():
        return mel.new_ones(*mel.shape[:-2], 1, 1)
    peak = mel.amax((-2, -1), keepdim=True)
    return peak.where(peak > 0, 1)


def _to_mel(frequency: Array, scale: str) -> Array:
    if scale == "htk":
        return 2595 * np.log10(1 + frequency / 700)
    logarithmic = 15 + 27 * np.log(np.maximum(frequency, 1000) / 1000) / np.log(6.4)
    return np.where(frequency < 1000, frequency * 3 / 200, logarithmic)


def _from_mel(mel: Array, scale: str) -> Array:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))
