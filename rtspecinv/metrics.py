"""Measures of the distance between a result and its target.

`sc`, `snr` and `ser` return one number over all values, with torch_specinv's names, order of arguments and
signs. `spectral_convergence`, `log_spectral_distance` and `inconsistency` return one number per item of a
batch. `pesq` and `estoi` rate speech, samples `(n_samples,)` at any sample rate; they compare frequencies
below 8 kHz and need the extras pesq and bench.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rtspecinv.common.checks import MOST_RATE, finite, shown
from rtspecinv.common.masks import unmasked
from rtspecinv.common.modes import modeless
from rtspecinv.stft import STFT, check_dense, check_stft

MOST_DECIBELS = 600.0  # largest dynamic range; beyond it, the floor would be 0 in float32
SPEECH_RATE = 16000  # Hz, as wideband PESQ requires
LONGEST_PESQ = 30 * SPEECH_RATE  # samples; PESQ is for sentences, and its C code limits their number


@modeless
def sc(input: Tensor, target: Tensor) -> Tensor:
    """Return spectral convergence `20 log10(|input - target| / |target|)` over all values, a scalar in dB.

    Args:
        input: real values, for instance magnitudes `(*batch, n_freq, n_frames)`.
        target: reference values of the same shape.

    Raises:
        ValueError: the shapes differ.

    Source: Sturmel & Daudet 2011, section 3.
    """
    _check(input, target)
    return _db(_norm(input - target) / _norm(target))


@modeless
def snr(input: Tensor, target: Tensor) -> Tensor:
    """Return the signal-to-noise ratio `-10 log10 sum (input / |input| - target / |target|)^2` in dB.

    The result is a scalar; higher is better. It does not depend on the level of either argument. Arguments
    and errors are those of `sc`.
    """
    _check(input, target)
    distance = input / _norm(input) - target / _norm(target)
    return -_db(_norm(distance))


@modeless
def ser(input: Tensor, target: Tensor) -> Tensor:
    """Return the signal-to-error ratio `10 log10(sum input^2 / sum (input - target)^2)` in dB.

    The result is a scalar; higher is better. Arguments and errors are those of `sc`.

    Source: Zhu, Beauregard & Wyse 2007, whose numerator is the target's power.
    """
    _check(input, target)
    return _db(_norm(input)) - _db(_norm(input - target))


@modeless
def spectral_convergence(input: Tensor, target: Tensor) -> Tensor:
    """Return spectral convergence `20 log10(|input - target| / |target|)` of every item in dB.

    Lower is better.

    Args:
        input: magnitudes `(*batch, n_freq, n_frames)`.
        target: magnitudes of the same shape.

    Returns:
        Values `(*batch)`, dB; -inf if the magnitudes are equal, nan if both are silent.

    Raises:
        ValueError: the shapes differ.

    Source: Sturmel & Daudet 2011, section 3. Zhu's SER is its negative.
    """
    _check(input, target, 2)
    distance = _norm(input - target, (-2, -1))
    return _db(distance / _norm(target, (-2, -1)))


@modeless
def log_spectral_distance(input: Tensor, target: Tensor, *, dynamic_range: float = 100.0) -> Tensor:
    """Return the log-spectral distance of every item in dB; lower is better.

    It is `mean_t sqrt(mean_k (20 log10(input / target))^2)` over frequencies k and frames t.

    Args:
        input: magnitudes `(*batch, n_freq, n_frames)`.
        target: magnitudes of the same shape.
        dynamic_range: dynamic range, dB, above 0, at most 600; values further below the target's peak are
            raised to this distance.

    Returns:
        Values `(*batch)`, dB; nan if the target is silent.

    Raises:
        ValueError: the shapes differ, or dynamic_range is out of range.

    Source: Gray & Markel 1976.
    """
    _check(input, target, 2)
    dynamic_range = finite(0, MOST_DECIBELS, above=True, dynamic_range=dynamic_range)
    floor = target.amax((-2, -1), keepdim=True) * 10 ** (-dynamic_range / 20)
    ratio = _db(input.maximum(floor) / target.maximum(floor))
    return _root(ratio.square().mean(-2)).mean(-1)


@modeless
def inconsistency(spectrum: Tensor, stft: STFT) -> Tensor:
    """Return the inconsistency of spectra, `20 log10(|STFT(iSTFT(c)) - c| / |c|)`, in dB.

    It measures how far a spectrum is from the spectra that signals have.

    Args:
        spectrum: complex spectrum `(*batch, n_freq, n_frames)` with enough frames for the padding of `stft`.
        stft: transform of the spectrum.

    Returns:
        Values `(*batch)`, dB; about -140 in float32 for the spectrum of a signal, nan for silence.

    Raises:
        ValueError, TypeError: as in `stft.synthesize`.

    Source: Le Roux, Ono & Sagayama 2008.
    """
    check_stft(stft)
    consistent = stft.analyze(stft.synthesize(spectrum))
    distance = _norm(consistent - spectrum, (-2, -1))
    return _db(distance / _norm(spectrum, (-2, -1)))


def pesq(input: npt.ArrayLike, target: npt.ArrayLike, sample_rate: int) -> float:
    """Return wideband PESQ, a predicted listener rating from 1 to 4.64; higher is better.

    Args:
        input: samples `(n_samples,)`.
        target: reference samples; the longer of the two is cut to the length of the other.
        sample_rate: sample rate, Hz.

    Returns:
        The rating of the first 30 seconds; nan if PESQ detects no speech in the target.

    Raises:
        ImportError: pesq or soxr is missing.

    Source: ITU-T P.862.2.
    """
    samples, clean = (part[:LONGEST_PESQ] for part in _resampled_speech(input, target, sample_rate))
    try:
        package = importlib.import_module("pesq")
    except ImportError as error:
        raise ImportError('PESQ needs pesq, which compiles C: pip install "rtspecinv[pesq]"') from error
    if not clean.any():
        return float("nan")
    try:
        return float(package.pesq(SPEECH_RATE, clean, samples, "wb"))
    except package.PesqError:
        return float("nan")


def estoi(input: npt.ArrayLike, target: npt.ArrayLike, sample_rate: int) -> float:
    """Return ESTOI, the extended short-time objective intelligibility, up to 1; higher is better.

    Arguments are those of `pesq`.

    Returns:
        The intelligibility; nan if the samples contain less than half a second of sound that is not silent.

    Raises:
        ImportError: pystoi or soxr is missing.

    Source: Jensen & Taal 2016.
    """
    samples, clean = _resampled_speech(input, target, sample_rate)
    try:
        import pystoi
    except ImportError as error:
        raise ImportError('ESTOI needs pystoi: pip install "rtspecinv[bench]"') from error
    if not clean.any() or len(clean) < SPEECH_RATE // 2:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a warning if too few frames are not silent
        try:
            return float(pystoi.stoi(clean, samples, SPEECH_RATE, extended=True))
        except RuntimeWarning:
            return float("nan")


def _check(input: Tensor, target: Tensor, n_axes: int = 0) -> None:
    values: dict[str, object] = {"input": input, "target": target}
    for name, value in values.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"Parameter {name} is {kind}, not a real floating-point tensor")
        check_dense(value, name)
    if input.device != target.device:
        raise ValueError(
            f"Parameters input and target are on {input.device} and {target.device}: move one with .to()"
        )
    if input.shape != target.shape:
        raise ValueError(
            f"Parameters input and target differ in shape: {tuple(input.shape)}, {tuple(target.shape)}"
        )
    if n_axes and (input.ndim < n_axes or not input.numel()):
        raise ValueError(
            f"Parameter input has shape {tuple(input.shape)}, not (*batch, n_freq, n_frames) with values"
        )


def _norm(values: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """Return the Euclidean norm, also of values whose squares overflow or underflow."""
    axes = tuple(range(values.ndim)) if dim is None else dim
    peak = values.detach().abs().amax(axes, keepdim=True) if values.numel() else values.new_ones(())
    peak = peak.where(peak > 0, 1)
    scaled = torch.view_as_real(values / peak) if values.is_complex() else (values / peak).unsqueeze(-1)
    return (_root(scaled.square().sum(-1).sum(axes, keepdim=True)) * peak).squeeze(axes)


def _root(values: Tensor) -> Tensor:
    """Return the square root, with gradient 0 at 0, as for equal or silent frames."""
    positive = values > 0
    return values.where(positive, 1).sqrt() * positive


def _db(ratio: Tensor) -> Tensor:
    """Return `20 log10(ratio)`; at 0 it is -inf and has no gradient."""
    is_zero = ratio == 0
    return torch.where(is_zero, -torch.inf, 20 * torch.log10(torch.where(is_zero, 1.0, ratio)))


def _resampled_speech(
    input: npt.ArrayLike, target: npt.ArrayLike, sample_rate: int
) -> list[npt.NDArray[np.float32]]:
    rate = finite(1, MOST_RATE, sample_rate=sample_rate)
    arrays = [_samples(part, name) for part, name in ((input, "input"), (target, "target"))]
    n_samples = min(map(len, arrays))
    try:
        import soxr
    except ImportError as error:
        raise ImportError('Resampling needs soxr: pip install "rtspecinv[files]"') from error
    resample: Any = soxr.resample
    return [resample(part[:n_samples], rate, SPEECH_RATE) for part in arrays]


def _samples(value: npt.ArrayLike, name: str) -> npt.NDArray[np.float32]:
    """Return samples `(n_samples,)` in float32; raises for values that are not finite."""
    given = np.asarray(unmasked(value, name))
    if given.dtype.kind != "f":
        raise TypeError(f"Parameter {name} has {given.dtype}, {shown(value)}: pass floating-point samples")
    if given.ndim != 1 or not given.size:
        raise ValueError(
            f"Parameter {name} has shape {given.shape}, {shown(value)}, not (n_samples,): pass one channel"
        )
    samples: npt.NDArray[np.float32] = given.astype(np.float32)
    if not np.isfinite(samples).all():
        raise ValueError(f"Parameter {name} contains NaN or infinite values: all must be finite")
    return samples
