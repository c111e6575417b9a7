"""Filter banks: estimates of magnitudes from band values, and the projection on spectra with these values.

A stream receives either magnitudes S or band values `M = W S^power` with non-negative filters W. From band
values it estimates the magnitudes together with the phase.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv.common.checks import finite, instance, shown
from rtspecinv.common.masks import unmasked
from rtspecinv.common.modes import Module, home
from rtspecinv.projections import to_magnitude
from rtspecinv.stft import STFT, check_dense, check_real, checked_device

Array = np.ndarray[Any, Any]

# Number of steps of an estimate and their relaxation: a relaxed step replaces 1.5 plain ones; relaxation
# above 2 is unstable. Twice as many steps gain 0.07 PESQ and take a tenth of a push. Starting from the last
# frame gains no more, and needs memory for it. Measured in bench/README.md, table "mel choices".
N_STEPS = 5
RELAXATION = 1.5
QUIETEST = 1e-10  # least start relative to the loudest band, because no multiplication changes 0

# Share of the estimate in the magnitudes that a projection begins with. Without it, bins that happen to be 0
# would remain 0, because a projection multiplies. Values from 0.02 to 0.2 give equal quality.
PULL = 0.1


class Magnitudes(Module):
    """Projection for given magnitudes: P_M sets the magnitudes of a spectrum to them."""

    n_values = 0

    def project(self, spectrum: Tensor, magnitude: Tensor, values: Tensor) -> Tensor:
        """Return `P_M(c) = S c / |c|`, see `to_magnitude`; `values` is not used."""
        return to_magnitude(spectrum, magnitude)

    def seen(self, magnitude: Tensor) -> Tensor:
        """Return what is compared with the target: the magnitudes."""
        return magnitude


class Bands(Module):
    """Projection for given band values: P_M changes the magnitudes of a spectrum towards these values.

    Args:
        filters: filters W, `(n_bands, n_fft // 2 + 1)`.
        beyond: 1 at frequencies that no band covers, where the estimate is used, else 0,
            `(n_fft // 2 + 1,)`.
        power: exponent of the magnitudes before filtering.
        step: the transform has every `step`-th of these frequencies; levels in between are interpolated.
    """

    filters: Tensor
    shares: Tensor
    beyond: Tensor

    def __init__(self, filters: Tensor, beyond: Tensor, power: float, step: int = 1) -> None:
        super().__init__()
        self.power, self.step, self.n_values = power, step, len(filters)
        wanted = filters.double().cpu().numpy()
        if step > 1:
            at, kept = np.arange(wanted.shape[1]), np.arange(0, wanted.shape[1], step)
            wanted = wanted @ np.stack([np.interp(at, kept, row) for row in np.eye(len(kept))], 1)
        kept = beyond[::step].double().cpu().numpy()
        for name, values in (("filters", wanted), ("shares", _shares(wanted)), ("beyond", kept)):
            buffer = torch.from_numpy(values).to(filters.device, filters.dtype, copy=True)
            self.register_buffer(name, buffer, persistent=False)

    def project(self, spectrum: Tensor, magnitude: Tensor, values: Tensor) -> Tensor:
        """Return a spectrum near the given one whose band values are nearly `values`.

        It has the phases of c and the magnitudes that `corrected` returns for those of c.

        Args:
            spectrum: complex spectrum c, `(..., n_fft // 2 + 1)`.
            magnitude, values: as in `corrected`.
        """
        return to_magnitude(spectrum, self.corrected(spectrum.abs(), magnitude, values))

    def corrected(self, found: Tensor, magnitude: Tensor, values: Tensor) -> Tensor:
        """Return magnitudes near those of a spectrum whose band values are nearly `values`.

        They are `a f^(1 / power)` with `a = (1 - PULL) |c| + PULL S` and the factor
        `f = sum_m w_m M_m / (W a^power)_m` of one multiplicative step of `FilterBank.unmix`. Above the last
        band the magnitude is that of the estimate, if the bank extends there.

        Args:
            found: magnitudes |c| of the spectrum, `(..., n_fft // 2 + 1)`.
            magnitude: estimate S of `FilterBank.unmix`, of the same shape.
            values: band values M, `(..., n_bands)`, with 0 for those at the floor.
        """
        found = (1 - PULL) * found + PULL * magnitude
        bands = F.linear(found if self.power == 1 else found.square(), self.filters)
        known = bands >= torch.finfo(bands.dtype).tiny
        ratio = values / bands.where(known, 1) * known
        factor = root(F.linear(ratio, self.shares), 1 / self.power)
        return found * factor + self.beyond * magnitude

    def seen(self, magnitude: Tensor) -> Tensor:
        """Return what is compared with the target: `(W S^power)^(1 / power)`, `(..., n_bands)`."""
        values = F.linear(magnitude if self.power == 1 else magnitude.square(), self.filters)
        return root(values, 1 / self.power)


class FilterBank(Module):
    """Filter bank for the parameter `bank` of a `StreamingInverter`: band values `M = W S^power` and back.

    Args:
        filters: filters W, `(n_bands, n_fft // 2 + 1)`, finite and non-negative: mel, Bark, constant-Q, or
            any other.
        power: exponent of the magnitudes S before filtering, 1 or 2.
        device, dtype: device and type of the band values.

    Attributes:
        filters: filters as given.

    Raises:
        ValueError: `filters` is not a matrix or has negative, NaN or infinite values, or `power` is neither 1
            nor 2.

    Examples:
        >>> import torch
        >>> from rtspecinv import STFT, FilterBank, StreamingInverter
        >>> stft, octaves = STFT(n_fft=1024, hop_length=256), torch.arange(513).clamp_min(1).log2()
        >>> bank = FilterBank((1 - 6 * (octaves - torch.arange(54)[:, None] / 6).abs()).clamp_min(0))
        >>> values = bank.values(stft.magnitude(torch.randn(25600)))
        >>> inverter = StreamingInverter(stft, bank=bank)
        >>> values.shape, inverter.run(values).shape
        (torch.Size([54, 101]), torch.Size([25600]))
    """

    filters: Tensor
    shares: Tensor
    interpolation: Tensor
    density: Tensor
    at_least: Tensor
    beyond: Tensor
    floor: Tensor

    def __init__(
        self,
        filters: Tensor | Array,
        *,
        power: float = 1,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        power = finite(1, 2, power=power)
        if power not in (1, 2):
            raise ValueError(f"Parameter {power=} must be 1 (magnitudes) or 2 (powers)")
        check_real(dtype)
        device = home(checked_device(device))
        values = _real(filters)
        if values.ndim != 2 or not values.size:
            raise ValueError(
                f"Parameter filters has shape {values.shape}: it must be (n_bands, n_freq), one row per band"
            )
        if not np.isfinite(values).all() or values.min() < 0:
            raise ValueError(
                "Parameter filters has values that are negative, NaN or infinite: all must be 0 or above"
            )
        share = values / np.maximum(values.sum(1, keepdims=True), np.finfo(float).tiny)
        centres = share @ np.arange(values.shape[1])
        self._set_bank(values, np.arange(values.shape[1]), centres, 0.0, False, power, device, dtype)

    def _set_bank(
        self,
        filters: Array,
        frequencies: Array,
        centres: Array,
        floor: Array | float,
        extend: bool,
        power: float,
        device: torch.device | str | int,
        dtype: torch.dtype,
    ) -> None:
        """Register the constants of the filters, see `FilterBank`.

        frequencies, centres: frequencies of bins and centres of bands, in any common unit.
        floor: value of each band up to which it counts as silent.
        extend: whether magnitudes above the last band continue at its level; otherwise they are 0.
        """
        self.power = power
        area, heard = filters.sum(1), filters.sum(0)  # of bands, of frequencies
        live = area > 0
        weights = _interpolation(frequencies, centres, live)
        above = (heard == 0) & (frequencies > centres[live].max(initial=-np.inf))
        constants = {
            "filters": filters,
            "shares": _shares(filters),
            # Of logarithms of the bands, to those of every frequency.
            "interpolation": weights,
            "density": -weights @ np.log(np.where(live, area, 1.0)),
            "at_least": np.where(live, 1e-20, 1.0),  # keeps divisions finite
            "beyond": (above if extend else np.zeros_like(heard)).astype(float),
            "floor": np.broadcast_to(np.asarray(floor, float), area.shape),
        }
        for name, values in constants.items():
            buffer = torch.from_numpy(np.array(values)).to(device, dtype)
            self.register_buffer(name, buffer, persistent=False)

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return len(self.filters)

    def values(self, magnitude: Tensor) -> Tensor:
        """Return band values `(*batch, n_bands, n_frames)` of `(*batch, n_fft // 2 + 1, n_frames)`."""
        return self.filters @ (magnitude if self.power == 1 else magnitude.square())

    def heard(self, values: Tensor) -> Tensor:
        """Return values `(..., n_bands)` with 0 for those at the floor."""
        return values.where(values > self.floor, 0)

    def unmix(self, values: Tensor) -> Tensor:
        """Return non-negative magnitudes `(..., n_fft // 2 + 1)` with nearly the values `(..., n_bands)`.

        The levels of the bands are interpolated on a logarithmic scale. Relaxed multiplicative steps
        `S <- S (sum_m w_m M_m / (W S)_m)**1.5`, where w is `W^T` over its row sums, then decrease the
        Kullback-Leibler divergence of `W S` from M.

        Source: Lee & Seung 2001, theorem 2; relaxed as in Lucy 1974 and its successors.
        """
        values, power = self.heard(values), self.power
        peak = values.amax(-1, keepdim=True)
        values = values / peak.where(peak > 0, 1)
        levels = F.linear(values.clamp_min(QUIETEST).log(), self.interpolation, self.density)
        # Magnitudes all along, no root at the end: near 0 its second derivative overflows.
        found = (levels / power).exp()
        for _ in range(N_STEPS):
            powers = found if power == 1 else found.square()
            ratio = values / F.linear(powers, self.filters, self.at_least)
            found = found * root(F.linear(ratio, self.shares, self.beyond), RELAXATION / power)
        return found * (peak if power == 1 else root(peak, 0.5))

    def unmixing(self) -> tuple[dict[str, Tensor], int, float, bool]:
        """Return the constants of `unmix`, for compiled code."""
        names = ("filters", "shares", "interpolation", "density", "beyond", "at_least", "floor")
        constants = {name: self.get_buffer(name) for name in names}
        return constants, N_STEPS, QUIETEST, self.power == 2

    def settings(self) -> str:
        """Return text that identifies this bank in a saved state of a stream."""
        digest = hashlib.sha256(self.filters.double().cpu().numpy().tobytes()).hexdigest()
        return f"{tuple(self.filters.shape)}, power {self.power}, {digest[:16]}"

    def measured(self, stft: STFT) -> Bands:
        """Return the projection for this bank and a transform, which may have only every n-th frequency.

        Raises:
            ValueError: the bank has other frequencies, another dtype or another device than the transform.
        """
        n_freq, n_half = self.filters.shape[1], stft.n_fft // 2 + 1
        step = (n_freq - 1) // (n_half - 1) if n_half > 1 else 1
        if n_freq != step * (n_half - 1) + 1 or not step:
            raise ValueError(
                f"Parameter bank has {n_freq} frequencies, and the transform n_fft // 2 + 1 = {n_half}: make "
                "filters for this n_fft"
            )
        if self.filters.dtype != stft.dtype or self.filters.device != stft.device:
            raise ValueError(
                f"Parameter bank is {self.filters.dtype} on {str(self.filters.device)!r}, and the transform "
                f"{stft.dtype} on {str(stft.device)!r}: use bank.to(...)"
            )
        return Bands(self.filters, self.beyond, self.power, step)


def bands_of(bank: FilterBank, stft: STFT) -> Bands:
    """Return the projection for the parameter `bank` after a check of its type, see `FilterBank.measured`."""
    return instance(FilterBank, "pass rtspecinv.FilterBank(filters)", bank=bank).measured(stft)


def _real(filters: object) -> Array:
    """Return the filters in double precision."""
    values = unmasked(filters, "filters")
    if isinstance(values, Tensor):
        check_dense(values, "filters")
        values = values.detach().cpu().numpy()
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise TypeError(
            f"Parameter filters is a {type(values).__name__}, {shown(values)}: pass a tensor or an array of "
            "real numbers"
        )
    return values.astype(np.float64)


def root(values: Tensor, exponent: float) -> Tensor:
    """Return a power of non-negative values with gradient 0 at 0 for any exponent."""
    if exponent == 1:
        return values
    positive = values > 0
    return values.where(positive, 1).pow(exponent) * positive


def _shares(filters: Array) -> Array:
    """Return `W^T` over its row sums: the weight of each band at each frequency."""
    heard = filters.sum(0)
    shares: Array = np.divide(filters, heard, out=np.zeros_like(filters), where=heard > 0).T
    return np.ascontiguousarray(shares)


def _interpolation(frequencies: Array, centres: Array, live: Array) -> Array:
    """Return interpolation weights `(n_freq, n_mels)` between the centres of bands that are not empty."""
    weights = np.zeros((len(frequencies), len(centres)))
    for column, band in enumerate(np.flatnonzero(live)):
        weights[:, band] = np.interp(frequencies, centres[live], np.eye(live.sum())[column])
    return weights
