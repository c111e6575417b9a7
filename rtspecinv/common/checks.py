"""Parameter checks: numbers, integers, flags, names from a list, objects of a class.

Every check takes one parameter by its name, `count(1, n_fft=n_fft)`, and returns its value; numbers of numpy
are converted to Python's. A value that does not pass raises an error that states name, value and rule.
"""

from __future__ import annotations

import difflib
import math
import numbers
import operator
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST_SOUND = 2**31  # largest number of samples of a sound: half a day, 8 GB
MOST_RATE = 1e9  # highest sample rate, Hz

_SHOWN = 60  # largest number of characters of a value in a message


def shown(value: object) -> str:
    """Return the `repr` of a value in one line, cut off after 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def count(least: int = 0, most: int | None = None, **parameter: Any) -> int:
    """Return one named parameter as an integer from `least` to `most`; anything else raises ValueError."""
    ((name, value),) = parameter.items()
    try:
        number = None if _is_no_number(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(f"Parameter {name}={shown(value)} is not an integer >= {least}")
    if most is not None and number > most:
        raise ValueError(f"Parameter {name}={shown(value)} is more than {most}")
    return number


def sizes(rule: str, **parameter: Any) -> tuple[int, ...]:
    """Return one named parameter as a tuple of integers >= 1; anything else raises ValueError.

    rule: text for the error message after "is not", such as "a tuple of integers >= 1, () for one stream".
    """
    ((name, value),) = parameter.items()
    is_bytes = isinstance(value, (str, bytes, bytearray, memoryview))
    if not is_bytes and (isinstance(value, Sequence) or getattr(value, "ndim", None) == 1):
        with suppress(ValueError):
            return tuple(count(1, **{name: size}) for size in value)
    raise ValueError(f"Parameter {name}={shown(value)} is not {rule}")


def finite(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    **parameter: Any,
) -> float:
    """Return one named parameter as a finite number from `low` to `high`; anything else raises ValueError.

    above: whether `low` itself is excluded, default: False.
    below: whether `high` itself is excluded, default: False.
    """
    ((name, value),) = parameter.items()
    found = real(value)
    fits = math.isfinite(found) and low <= found <= high
    if not fits or (above and found == low) or (below and found == high):
        bounds = [f"{'>' if above else '>='} {low:g}"] if low > -math.inf else []
        bounds += [f"{'<' if below else '<='} {high:g}"] if high < math.inf else []
        range_ = " and ".join(bounds) if above or below or len(bounds) < 2 else f"from {low:g} to {high:g}"
        raise ValueError(f"Parameter {name}={shown(value)} is not a finite number {range_}".rstrip())
    return found


def real(value: object) -> float:
    """Return a value as an int if it is an integer, else as a float; NaN if it is not a number."""
    if not hasattr(value, "mask") and getattr(value, "ndim", None) == 0:
        value = value.item()  # type: ignore[attr-defined]  # a scalar of numpy or torch
    if _is_no_number(value) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return int(value) if isinstance(value, numbers.Integral) and abs(int(value)) < 2**53 else float(value)
    except (OverflowError, ValueError):
        return math.inf


def _is_no_number(value: object) -> bool:
    """Return whether a value is a bool, of Python or numpy, or a masked value of numpy."""
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool") or hasattr(value, "mask")


def flag(**parameter: Any) -> bool:
    """Return one named parameter as True or False; anything else raises TypeError."""
    ((name, value),) = parameter.items()
    if not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool"):
        raise TypeError(f"Parameter {name}={shown(value)} is not True or False")
    return bool(value)


def choice(names: Sequence[str], **parameter: Any) -> str:
    """Return one named parameter, which must be one of `names`; anything else raises ValueError."""
    ((name, value),) = parameter.items()
    if not isinstance(value, str) or value not in names:
        raise unknown_name(name, value, names)
    return value


def instance(kind: type[T], way_out: str, **parameter: Any) -> T:
    """Return one named parameter, which must be of class `kind`; anything else raises TypeError.

    way_out: advice for the error message, such as "pass rtspecinv.STFT(n_fft, hop_length)".
    """
    ((name, value),) = parameter.items()
    if not isinstance(value, kind):
        raise TypeError(f"Parameter {name} is a {type(value).__name__}, {shown(value)}: {way_out}")
    return value


def able(methods: Sequence[str], way_out: str, **parameter: Any) -> Any:
    """Return one named parameter, which must have these methods; anything else raises TypeError."""
    ((name, value),) = parameter.items()
    for method in methods:
        if not callable(getattr(value, method, None)):
            raise TypeError(f"Parameter {name} is a {type(value).__name__}, {shown(value)}: {way_out}")
    return value


def file_name(**parameter: Any) -> Path:
    """Return one named parameter, a file name, as a `Path`; anything else raises TypeError."""
    ((name, value),) = parameter.items()
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise TypeError(f"Parameter {name} is a {type(value).__name__}, {shown(value)}: pass a file name")
    return Path(value)


def function(**parameter: Any) -> Any:
    """Return one named parameter, which must be callable; anything else raises TypeError."""
    return able(("__call__",), "pass a function", **parameter)


def iterable(**parameter: Any) -> Any:
    """Return one named parameter, which must be iterable and not text; anything else raises TypeError."""
    ((name, value),) = parameter.items()
    if isinstance(value, (str, bytes)) or getattr(value, "ndim", 1) == 0:
        raise TypeError(f"Parameter {name} is a {type(value).__name__}, {shown(value)}: pass an iterable")
    return able(("__iter__",), "pass an iterable", **parameter)


def keep(record: object, check: Callable[..., object], *names: str) -> None:
    """Replace these attributes of a record by their checked values; the record may be a frozen dataclass."""
    for name in names:
        object.__setattr__(record, name, check(**{name: getattr(record, name)}))


def named(parameter: str, value: str | T, table: dict[str, T], kind: type[T]) -> T:
    """Return the entry of `table` that `value` names, or `value` itself if it is of class `kind`.

    Raises:
        ValueError: `value` is neither a name in `table` nor of class `kind`.
        TypeError: `value` is a class, not an instance of it.
    """
    if isinstance(value, kind):
        return value
    if isinstance(value, str) and value in table:
        return table[value]
    if isinstance(value, type) and issubclass(value, kind):
        raise TypeError(f"Parameter {parameter} is the class {value.__name__}: use {value.__name__}()")
    raise unknown_name(parameter, value, tuple(table))


def unknown_name(parameter: str, value: object, names: Sequence[str]) -> ValueError:
    """Return the error for a name that is not one of `names`; it suggests the most similar one."""
    near = difflib.get_close_matches(str(value)[:_SHOWN], names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(map(repr, names))
    return ValueError(f"Parameter {parameter}={shown(value)} is not one of {known}{hint}")


def having(attributes: Sequence[str], way_out: str, **parameter: Any) -> Any:
    """Return one named parameter, which must have these attributes; anything else raises TypeError."""
    ((name, value),) = parameter.items()
    if not all(hasattr(value, attribute) for attribute in attributes):
        raise TypeError(f"Parameter {name} is a {type(value).__name__}, {shown(value)}: {way_out}")
    return value
