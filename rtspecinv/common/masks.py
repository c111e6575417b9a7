"""Check of numpy's masked arrays, whose masked values cannot be inverted."""

from __future__ import annotations

from typing import TypeVar, cast

import numpy as np

T = TypeVar("T")


def unmasked(values: T, name: str) -> T:
    """Return the data of a masked array; any other value is returned unchanged.

    Raises:
        ValueError: the mask hides at least one value.
    """
    if not isinstance(values, np.ma.MaskedArray):
        return values
    if n_hidden := int(np.ma.getmaskarray(values).sum()):
        raise ValueError(
            f"Parameter {name} has a mask that hides {n_hidden} of {values.size} values: replace them "
            f"by numbers, such as zeros: {name}.filled(0)"
        )
    return cast(T, values.data)
