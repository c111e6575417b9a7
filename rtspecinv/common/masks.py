"""Arrays of numpy with a mask, which nothing here can hear."""

from __future__ import annotations

from typing import TypeVar, cast

import numpy as np

T = TypeVar("T")


def unmasked(values: T, name: str) -> T:
    """Data of a masked array whose mask hides nothing; anything else as it is.

    Raises:
        ValueError: the mask hides something.
    """
    if not isinstance(values, np.ma.MaskedArray):
        return values
    if n_hidden := int(np.ma.getmaskarray(values).sum()):
        raise ValueError(
            f"Parameter {name} has a mask that hides {n_hidden} of {values.size} values: say what they are, "
            f"{name}.filled(0) for zeros"
        )
    return cast(T, values.data)
