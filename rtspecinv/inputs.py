"""Checks of magnitudes and spectra: type, device, shape and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtspecinv.common.checks import count, shown
from rtspecinv.common.masks import unmasked
from rtspecinv.common.warning import warn
from rtspecinv.stft import STFT, check_dense, check_stft

Array = np.ndarray[Any, Any]
MOST_ITER = 10**6  # no method improves beyond this number of iterations
# From this size on torch uses its thread pool, whose workers busy-wait for milliseconds and slow down the
# engine's threads.
_WAKES_THREADS = 2**15
_LARGEST = {dtype: torch.finfo(dtype).max for dtype in (torch.float32, torch.float64)}


def as_magnitude(value: Tensor | Array, like: Tensor, name: str = "magnitude") -> Tensor:
    """Return a magnitude or spectrum on the device and in the precision of `like`; converts arrays only.

    Raises:
        ValueError: the tensor is on another device.
        TypeError: the value is not a tensor or array of floating-point numbers, or a tensor of another
            precision.
    """
    dtype = like.dtype
    if isinstance(value, np.ndarray):
        value = unmasked(value, name)
        if value.dtype.kind not in "fc":
            raise TypeError(f"Parameter {name} has {value.dtype}, not floats: use {name}.astype('float32')")
        if value.dtype == np.float32 and dtype == torch.float32 and value.flags.carray:
            return torch.from_numpy(value).to(like.device)
        is_complex = value.dtype.kind == "c"
        native = np.ascontiguousarray(value, np.complex128 if is_complex else np.float64)
        return torch.from_numpy(native).to(like.device, dtype.to_complex() if is_complex else dtype)
    if not isinstance(value, Tensor):
        raise TypeError(f"Parameter {name} is a {type(value).__name__}: pass a tensor or an array")
    if value.dtype != dtype and value.dtype != dtype.to_complex():
        raise TypeError(
            f"Parameter {name} has {value.dtype}, not {dtype}: use {name}.to({dtype}), or convert the STFT "
            "and the inverter with .to()"
        )
    if value.device != like.device:
        raise ValueError(f"Parameter {name} is on {value.device}, not on {like.device}: move it with .to()")
    check_dense(value, name)
    return value.resolve_conj().resolve_neg()


def as_spectrogram(value: Tensor | Array, stft: STFT, name: str = "magnitude") -> Tensor:
    """Return a magnitude or spectrum `(*batch, n_freq, n_frames)`, converted as in `as_magnitude`.

    Raises:
        ValueError: it has another shape or no frames, or is on another device than `stft`.
        TypeError: as in `as_magnitude`.
    """
    check_stft(stft)
    tensor = as_magnitude(value, stft.window, name)
    if tensor.ndim < 2 or tensor.shape[-2] != stft.n_freq or not tensor.shape[-1]:
        transposed = tensor.ndim >= 2 and tensor.shape[-1] == stft.n_freq
        way_out = f"it looks transposed, pass {name}.mT" if transposed else _other_n_fft(tensor, stft, name)
        raise ValueError(
            f"Parameter {name} has shape {tuple(tensor.shape)}, not (*batch, n_freq, n_frames) with "
            f"n_freq={stft.n_freq} and n_frames >= 1: {way_out}"
        )
    return tensor


def _other_n_fft(tensor: Tensor, stft: STFT, name: str) -> str:
    """Return advice on the STFT parameters for a spectrogram whose number of rows does not fit."""
    n_rows = tensor.shape[-2] if tensor.ndim >= 2 and tensor.shape[-1] else 0
    if not n_rows:
        return "pass both axes, and at least one frame"
    if stft.onesided and 2 * n_rows == stft.n_fft:
        row = f"numpy.pad({name}, [(0, 0)] * {tensor.ndim - 2} + [(0, 1), (0, 0)])"
        return f"if the row at the Nyquist frequency is missing, pass {row}, which makes it 0"
    if not stft.onesided or n_rows == stft.n_fft:
        return f"make the STFT with n_fft={n_rows} and onesided=False"
    return f"make the STFT with n_fft={max(1, 2 * (n_rows - 1))} or {2 * n_rows - 1}"


def some_streams(streams: Tensor | Array | Sequence[int], batch_shape: tuple[int, ...]) -> Tensor:
    """Return a selection of streams: a bool mask of shape `batch_shape`, or positions `(n_streams,)`.

    Raises:
        ValueError: the mask has another shape, or a position does not exist or is repeated.
        TypeError: `streams` is neither a bool mask nor integers.
    """
    if type(streams) is list and len(batch_shape) == 1:  # the usual case; this is 10 times as fast
        most, kinds = batch_shape[0], {*map(type, streams)}
        if kinds == {int} and len({*streams}) == len(streams) and min(streams) >= 0 and max(streams) < most:
            return torch.from_numpy(np.array(streams, np.int64))  # torch.tensor takes 20 us
    streams = unmasked(streams, "streams")
    try:
        named = streams if isinstance(streams, Tensor) else torch.as_tensor(streams, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"Parameter streams is a {type(streams).__name__}, not a bool mask or a list of positions"
        ) from error
    check_dense(named, "streams")
    if not named.numel() and named.ndim == 1 and named.dtype != torch.bool:
        return named.to(torch.int64)
    if named.dtype == torch.bool:
        if named.shape != batch_shape:
            raise ValueError(
                f"Parameter streams has shape {tuple(named.shape)}, not batch_shape={batch_shape}"
            )
        return named
    if named.dtype.is_floating_point or named.dtype.is_complex:
        raise TypeError(
            f"Parameter streams has {named.dtype}, not torch.bool: pass a bool mask or a list of positions"
        )
    if len(batch_shape) != 1 or named.ndim != 1:
        raise ValueError(
            f"Parameter streams has shape {tuple(named.shape)} and {named.dtype}: pass one list of positions "
            f"if batch_shape has one axis, or a bool mask of shape batch_shape={batch_shape}"
        )
    listed = named.tolist()
    if len({*listed}) < len(listed):
        raise ValueError(
            f"Parameter streams={shown(streams)} contains a position twice: pass each once, or a bool mask"
        )
    if min(listed) < 0 or max(listed) >= batch_shape[0]:
        raise ValueError(
            f"Parameter streams={shown(streams)} is not within batch_shape={batch_shape}: use positions from "
            f"0 to {batch_shape[0] - 1}"
        )
    return named.to(torch.int64)


def as_positions(streams: Tensor) -> Tensor:
    """Return positions `(n_streams,)` of a selection that `some_streams` returned.

    Positions keep their order; those of a mask are indices into the flattened mask.
    """
    return streams.flatten().nonzero().squeeze(1) if streams.dtype == torch.bool else streams


def check_finite(value: Tensor, name: str) -> None:
    """Raise `ValueError` if a value is NaN or infinite."""
    if not bool(value.detach().isfinite().all()):
        raise ValueError(f"Parameter {name} contains NaN or infinite values: all must be finite")


def largest_magnitude(dtype: torch.dtype, n_fft: int) -> float:
    """Return the largest magnitude whose sums over a frame do not overflow."""
    return _LARGEST[dtype] / (100 * n_fft)


def extremes(values: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest value, NaN if one is NaN; this waits for a GPU once."""
    values = values.detach() if values.requires_grad else values
    if values.device.type != "cpu":
        low, high = torch.stack(torch.aminmax(values)).tolist()
    elif values.numel() < _WAKES_THREADS:
        low, high = map(float, torch.aminmax(values))
    else:
        array = values.numpy()
        low, high = float(array.min()), float(array.max())
    return low, high


def check_values(magnitude: Tensor, n_fft: int) -> float:
    """Return the largest magnitude; 0 if there are no values.

    Raises:
        ValueError: a magnitude is negative, NaN, infinite or so large that sums overflow.
    """
    if not magnitude.numel():
        return 0.0
    low, high = extremes(magnitude)
    check_range(low, high, largest_magnitude(magnitude.dtype, n_fft))
    return high


def check_range(low: float, high: float, limit: float) -> None:
    """Raise `ValueError` unless magnitudes from `low` to `high` are finite, >= 0 and <= `limit`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        odd = high if math.isfinite(low) else low
        raise ValueError(f"Parameter magnitude has the value {odd}: all magnitudes must be finite")
    if low < 0:
        raise ValueError(
            f"Parameter magnitude has the value {low:g} < 0: convert dB with 10 ** (x / 20), natural "
            "logarithms of magnitudes with exp(x), natural logarithms of powers with exp(x / 2)"
        )
    if high > limit:
        raise ValueError(
            f"Parameter magnitude has the value {high:g}, so large that sums overflow: use < {limit:.1g}"
        )


def warn_of_power(largest: float, full_scale: float) -> None:
    """Warn that magnitudes up to `largest` exceed twice full scale, and name likely causes."""
    warn(
        f"magnitudes up to {largest:g} exceed {full_scale:g}, the largest magnitude of samples from -1 to 1, "
        "so the sound will exceed full scale: pass magnitude.sqrt() if they are powers, or magnitude / 32768 "
        "if the samples were 16-bit integers"
    )


def full_scale(stft: STFT) -> float:
    """Return the largest magnitude that samples within -1 to 1 can have."""
    return float(stft.window.abs().sum()) * stft.scale


def iterations(**parameter: Any) -> int:
    """Return one named parameter as an integer from 0 to `MOST_ITER`; anything else raises ValueError."""
    return count(0, MOST_ITER, **parameter)
