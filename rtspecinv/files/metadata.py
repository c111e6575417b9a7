"""Metadata of a spectrogram in a file, with the same fields in every format.

The fields of a magnitude spectrogram are the parameters of its `STFT` and its sample rate. Those of a mel
spectrogram include its `MelConfig`, as JSON in the field `mel_config`. Every value from a file is checked
before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rtspecinv.common.printable import printable
from rtspecinv.mel.config import MelConfig
from rtspecinv.stft import CENTERS, PAD_MODES, STFT, WINDOWS

LAYOUTS = ("freq-time", "time-freq")
WHOLE_NUMBERS = ("sample_rate", "n_fft", "hop_length", "win_length")
LENGTH = "n_samples"  # number of samples of the recording
MEL = "mel_config"
FIELDS = (*WHOLE_NUMBERS, LENGTH, "window", "center", "pad_mode", "normalized", "layout", MEL)

LARGEST = 2**20  # largest value of the other integers in a file; larger ones would only take memory
LONGEST = 2**40  # largest number of samples; it is compared with the number of frames before use
LONGEST_TEXT = 2**18  # characters

_CHOICES: dict[str, dict[str, Any]] = {
    "window": {name: name for name in WINDOWS},
    "center": {str(center): center for center in CENTERS},
    "pad_mode": {name: name for name in PAD_MODES},
    "normalized": {"True": True, "False": False},
    "layout": {name: name for name in LAYOUTS},
}


def describe(transform: STFT | MelConfig, sample_rate: int | None = None) -> dict[str, str | int]:
    """Return the fields that describe a spectrogram of `transform`.

    transform: transform of the spectrogram.
    sample_rate: sample rate, Hz; required for an `STFT`, default for a `MelConfig`: its own.

    A two-sided spectrogram is saved, and described, as its half from 0 Hz up to the Nyquist frequency.

    Raises:
        ValueError: the sample rate is missing, wrong or not an integer, the window has no name, or the JSON
            text is too long.
    """
    if isinstance(transform, MelConfig):
        if sample_rate is not None and sample_rate != transform.sample_rate:
            raise ValueError(f"Parameter {sample_rate=} is not {transform.sample_rate}, that of the config")
        return {
            "sample_rate": _whole_number("sample_rate", round(transform.sample_rate)),
            "n_fft": transform.n_fft,
            "hop_length": transform.hop_length,
            MEL: _bounded(json.dumps(transform.to_dict())),
        }
    if sample_rate is None:
        raise ValueError("Parameter sample_rate is missing: an STFT does not contain it")
    if transform.window_name is None:
        raise ValueError("The window has no name, and files cannot store its values: use one of WINDOWS")
    return {
        "sample_rate": _whole_number("sample_rate", sample_rate),
        "n_fft": transform.n_fft,
        "hop_length": transform.hop_length,
        "win_length": transform.win_length,
        "window": transform.window_name,
        "center": str(transform.center),
        "pad_mode": transform.pad_mode,
        "normalized": str(transform.normalized),
    }


def frames_of(transform: STFT | MelConfig, n_samples: int) -> int:
    """Return the number of frames that `transform` makes of `n_samples` samples."""
    if isinstance(transform, STFT):
        return transform.count_frames(n_samples)
    return transform.stft(device="cpu").count_frames(n_samples) - transform.drop_last


def understand(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked values of the known fields in `given`; other keys are ignored.

    given: values by name: numbers, texts, or arrays with one number or text.

    Raises:
        ValueError: the value of a field is invalid.
    """
    found: dict[str, Any] = {}
    for name in FIELDS:
        if name not in given:
            continue
        value = given[name]
        if name in WHOLE_NUMBERS:
            found[name] = _whole_number(name, value)
        elif name == LENGTH:
            found[name] = _whole_number(name, value, LONGEST)
        elif name == MEL:
            found[name] = _mel_config(_text(name, value))
        else:
            text, choices = _text(name, value), _CHOICES[name]
            if text not in choices:
                raise ValueError(f"{name}={printable(text, 40)!r} is not one of {', '.join(choices)}")
            found[name] = choices[text]
    return found


def _whole_number(name: str, value: Any, largest: int = LARGEST) -> int:
    try:
        number = float(value)  # an int, a float, a text, or an array or tensor with one value
        whole = int(number)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number, whole = 0.0, 0
    if whole < 1 or whole != number:
        raise ValueError(f"{name}={_shown(value)} is not a whole number above 0")
    if whole > largest:
        raise ValueError(f"{name}={_shown(whole)} is more than {largest}")
    return whole


def _shown(value: Any) -> str:
    """Return a short text for a value from a file, for a message; for an array, its size."""
    size = getattr(value, "size", 1)
    n_values = size if isinstance(size, int) else 1
    return printable(value, 40) if n_values == 1 else f"an array of {n_values} values"


def _text(name: str, value: Any) -> str:
    item = value.item() if hasattr(value, "item") and getattr(value, "size", 2) == 1 else value
    if not isinstance(item, str | bool):
        raise ValueError(f"{name} is a {type(item).__name__}, expected a text")
    return str(item)


def _bounded(text: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"{MEL} has {len(text)} characters, more than {LONGEST_TEXT}")
    return text


def _mel_config(text: str) -> MelConfig:
    try:
        given = json.loads(_bounded(text))
        config = MelConfig.from_dict(given)
        for name in WHOLE_NUMBERS:
            value = getattr(config, name)
            if value is not None and not 1 <= value <= LARGEST:
                raise ValueError(f"{name}={_shown(value)} is not from 1 to {LARGEST}")
        return config
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{MEL} is not a mel configuration: {printable(error)}") from error
