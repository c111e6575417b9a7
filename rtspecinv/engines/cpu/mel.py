"""Magnitudes of mel values in compiled code: the steps of `FilterBank.unmix`, which is the reference.

At most two bands, which are neighbours, have a weight at any frequency. So a step costs a few operations per
frequency, rather than one per band and frequency. The loops visit frequencies in the order of the lower band.

This module also undoes pre-emphasis. `mel.stream.DeEmphasis` uses a matrix product, whose rounding depends on
the number of streams; the compiled code gives each stream the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rtspecinv.engines.cpu.memory import jit_cached

Array = np.ndarray[Any, Any]


class Tables(NamedTuple):
    """Constants of a bank for `unmix`; at each frequency, one band is the lower and one the upper."""

    begin: Array  # (n_mels + 1,): from begin[m] to begin[m + 1], m is the lower band
    filters: Array  # (2, n_freq)
    shares: Array  # (2, n_freq)
    near: Array  # (2, n_freq): weights of the two bands that a start is interpolated from
    level: Array  # (2, n_freq)
    density: Array  # (n_freq,)
    beyond: Array  # (n_freq,)
    at_least: Array  # (n_mels + 1,)
    floor: Array  # (n_mels,)


def tables(
    filters: Array,
    shares: Array,
    interpolation: Array,
    density: Array,
    beyond: Array,
    at_least: Array,
    floor: Array,
) -> Tables:
    """Return the tables of a bank's constants; filters are `(n_mels, n_freq)`, shares `(n_freq, n_mels)`."""
    n_mels, n_freq = filters.shape
    band = np.maximum.accumulate(np.where((filters > 0).any(0), (filters > 0).argmax(0), 0))
    pairs = np.stack([band, band + 1]), np.arange(n_freq)
    none = np.zeros_like(filters[:1])
    near = np.argsort(-interpolation, axis=1, kind="stable")[:, :2].T[[0, -1]]
    level = interpolation[np.arange(n_freq), near] * np.array([[1], [n_mels > 1]])
    return Tables(
        np.searchsorted(band, np.arange(n_mels + 1)),
        np.concatenate([filters, none])[pairs],
        np.concatenate([shares.T, none])[pairs],
        np.ascontiguousarray(near),
        level.astype(filters.dtype),
        density,
        beyond,
        np.append(at_least, at_least.dtype.type(1)),
        floor,
    )


def is_narrow(filters: Array) -> bool:
    """Return whether at most two neighbouring bands have a weight at each frequency, in ascending order."""
    heard = filters > 0
    first, last = heard.argmax(0), len(heard) - 1 - heard[::-1].argmax(0)
    first, last = (band[heard.any(0)] for band in (first, last))
    return bool((last - first <= 1).all() and (np.diff(first) >= 0).all())


class Unmixer:
    """Function like `bank.unmix` in compiled code, with the bank's present constants.

    See `FilterBank.unmixing`."""

    def __init__(self, bank: Any) -> None:
        constants, *self._options = bank.unmixing()
        self._bank, self._n_freq = bank, constants["filters"].shape[1]
        self._tables = tables(**{name: tensor.numpy() for name, tensor in constants.items()})

    def __call__(self, mel: Tensor) -> Tensor:
        """Return magnitudes `(*batch, n_freq)` of mel values `(*batch, n_mels)`."""
        if mel.requires_grad:
            found: Tensor = self._bank.unmix(mel)
            return found
        magnitude = mel.new_empty(*mel.shape[:-1], self._n_freq)
        rows, columns = (values.view(-1, values.shape[-1]).numpy() for values in (mel, magnitude))
        unmix(rows, self._tables, *self._options, columns)
        return magnitude


@jit_cached(error_model="numpy", fastmath={"reassoc", "contract"})
def unmix(
    mel: Array, constants: Tables, n_steps: int, quietest: float, is_power: bool, magnitude: Array
) -> None:
    """Write magnitudes `(n_streams, n_freq)` of non-negative mel values `(n_streams, n_mels)`."""
    begin, filters, shares, near, level, density, beyond, at_least, floor = constants
    (n_streams, n_mels), n_freq = mel.shape, len(density)
    number = mel.dtype.type
    value, log = np.zeros(n_mels + 1, mel.dtype), np.empty(n_mels, mel.dtype)
    ratio = np.empty(n_mels + 1, mel.dtype)
    for stream in range(n_streams):
        found = magnitude[stream]
        peak = number(0)
        for m in range(n_mels):
            value[m] = mel[stream, m] if mel[stream, m] > floor[m] else 0
            peak = max(peak, value[m])
        if peak == 0:
            found[:] = 0
            continue
        for m in range(n_mels):
            value[m] /= peak
            log[m] = np.log(max(value[m], number(quietest)))
        for k in range(n_freq):
            found[k] = np.exp(density[k] + level[0, k] * log[near[0, k]] + level[1, k] * log[near[1, k]])
        for _ in range(n_steps):
            upper = number(0)
            for m in range(n_mels):
                lower, total = upper, at_least[m]
                upper = number(0)
                for k in range(begin[m], begin[m + 1]):
                    total += filters[0, k] * found[k]
                    upper += filters[1, k] * found[k]
                ratio[m] = value[m] / (total + lower)
            ratio[n_mels] = 0
            for m in range(n_mels):
                for k in range(begin[m], begin[m + 1]):
                    factor = shares[0, k] * ratio[m] + shares[1, k] * ratio[m + 1] + beyond[k]
                    found[k] *= factor * np.sqrt(factor)
        for k in range(n_freq):
            found[k] = np.sqrt(found[k] * peak) if is_power else found[k] * peak


def undo_preemphasis(samples: Tensor, last: Tensor, streams: Tensor | None, a: float) -> Tensor:
    """Return samples `x[n] = y[n] + a x[n-1]` of y `(*batch, n_samples)`.

    last: sample of every stream before y, of any shape; it becomes the last sample of x.
    streams: positions of the streams that y belongs to; None means all.
    """
    found = samples.clone(memory_format=torch.contiguous_format)
    positions = np.arange(last.numel()) if streams is None else streams.numpy()
    _undo_preemphasis(
        found.view(len(positions), samples.shape[-1]).numpy(), last.view(-1).numpy(), positions, a
    )
    return found


@jit_cached()
def _undo_preemphasis(samples: Array, last: Array, positions: Array, a: float) -> None:
    number = samples.dtype.type
    factor, least = number(a), np.finfo(samples.dtype).tiny
    for row in range(len(positions)):
        x = last[positions[row]]
        for i in range(samples.shape[1]):
            x = samples[row, i] + factor * x
            if abs(x) < least:  # denormal numbers would be slow to compute
                x = number(0)
            samples[row, i] = x
        last[positions[row]] = x
