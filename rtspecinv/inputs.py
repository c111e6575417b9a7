"""What counts as a magnitude, and what is wrong with a value that does not."""

from __future__ import annotations

import math
import operator
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtspecinv.stft import STFT

Array = np.ndarray[Any, Any]


def as_magnitude(value: Tensor | Array, stft: STFT) -> Tensor:
    """Magnitude or spectrum on the device and in the precision of the STFT; only arrays are converted.

    Raises:
        ValueError: a tensor on another device.
        TypeError: not a tensor or array of floating-point numbers, or a tensor of another precision.
    """
    dtypes = stft.dtype, stft.dtype.to_complex()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fc":
            raise TypeError(f"Parameter magnitude has {value.dtype}: use magnitude.astype('float32')!")
        is_complex = value.dtype.kind == "c"
        native = np.ascontiguousarray(value, np.complex128 if is_complex else np.float64)
        return torch.from_numpy(native).to(stft.device, dtypes[is_complex])
    if not isinstance(value, Tensor):
        raise TypeError(f"Parameter magnitude is a {type(value).__name__}: pass a tensor or an array!")
    if value.dtype not in dtypes:
        raise TypeError(
            f"Parameter magnitude has {value.dtype}, not {stft.dtype}: use magnitude.to({stft.dtype}), or "
            "inverter.to() for the other precision!"
        )
    if value.device != stft.device:
        raise ValueError(
            f"Parameter magnitude is on {value.device}, the inverter on {stft.device}: move one with .to()!"
        )
    return value


def check_values(magnitude: Tensor, stft: STFT) -> bool:
    """Whether magnitudes are beyond what samples within -1 to 1 can have.

    Raises:
        ValueError: a magnitude is negative, NaN, infinite or too large to add up.
    """
    if magnitude.numel() == 0:
        return False
    low, high = (float(extreme) for extreme in torch.aminmax(magnitude.detach()))
    limit = torch.finfo(stft.dtype).max / (100 * stft.n_fft)
    if not (math.isfinite(low) and math.isfinite(high)):
        odd = high if math.isfinite(low) else low
        raise ValueError(f"Parameter magnitude has the value {odd}: only finite ones can be inverted!")
    if low < 0:
        raise ValueError(
            f"Parameter magnitude has the value {low:g} < 0. Convert dB with 10 ** (x / 20), natural "
            "logarithms with exp(x)!"
        )
    if high > limit:
        raise ValueError(
            f"Parameter magnitude has the value {high:g}, sums would overflow: use < {limit:.1g}!"
        )
    return high > 2 * full_scale(stft)


def warn_of_power(magnitude: Tensor, stft: STFT, stacklevel: int) -> None:
    """Say that magnitudes are beyond twice full scale, and why that may be."""
    warnings.warn(
        f"magnitudes up to {float(magnitude.max()):g} are more than samples within -1 to 1 can have "
        f"({full_scale(stft):g}): the sound will exceed that; if they are powers, pass magnitude.sqrt()",
        stacklevel=stacklevel + 1,
    )


def full_scale(stft: STFT) -> float:
    """Largest magnitude that samples within -1 to 1 can have."""
    return float(stft.window.abs().sum()) * stft.scale


def count(least: int = 0, **parameter: Any) -> int:
    """Value of one named parameter as an integer, not under `least`; anything else is a ValueError."""
    ((name, value),) = parameter.items()
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"Parameter {name}={value!r} is not an integer >= {least}!")
    return number
