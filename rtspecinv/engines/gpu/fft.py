"""The real Fourier transform as two small matrix products, for `push`.

With `N = N1 N2`, `n = N2 n1 + n2` and `k = k1 + N1 k2`, w_N = exp(-2 pi i / N),

    X[k1 + N1 k2] = sum_n2 ( w_N^(n2 k1) sum_n1 x[N2 n1 + n2] w_N1^(n1 k1) ) w_N2^(n2 k2)

Samples are real, so rows k1 and N1 - k1 of the inner sum are conjugates, and rows 0 and N1 / 2 are real: the
second takes the place of the first one's imaginary part. That leaves K1 = N1 / 2 rows of N2 numbers, N / 2
*slots*, one for each bin:

    slot (0, 0)                   X[0] and, as its imaginary part, X[N / 2], both real
    slot (0, k2), k2 < N2 / 2     X[N1 k2]
    slot (0, N2 / 2 + j)          X[N1 / 2 + N1 j]
    slot (k1, k2)                 X[k1 + N1 k2], or the conjugate of bin N - k beyond N / 2

The outer sum of row 0 has a matrix of its own. What maps N real numbers to N real numbers here has
orthogonal columns, so that the inverse is the transpose: the same tables.
"""

from __future__ import annotations

import torch
from torch import Tensor

FACTORS = {256: (16, 16), 512: (32, 16), 1024: (32, 32), 2048: (64, 32)}  # N to (N1, N2)


def tables(n_fft: int) -> Tensor:
    """All tables one after another, float32, computed in float64.

    inner: `(N1, N1)`, real and imaginary part of row k1 at 2 k1 and 2 k1 + 1.
    twiddles: `(2, K1, N2)`, real and imaginary part.
    outer: `(2, N2, N2)`, cosines and sines of `2 pi n2 k2 / N2`.
    first: `(2, 2, N2, N2)`, the matrix of row 0: part in, part out, n2, k2.
    """
    n1, n2 = FACTORS[n_fft]
    rows, columns, inputs = (torch.arange(n, dtype=torch.float64, device="cpu") for n in (n1 // 2, n2, n1))
    inner = torch.view_as_real(_unit(torch.outer(rows, inputs), n1)).movedim(-1, 1).clone()
    inner[0, 1] = (-1.0) ** inputs
    twiddles = torch.view_as_real(_unit(torch.outer(rows, columns), n_fft)).movedim(-1, 0)
    outer = _unit(torch.outer(columns, columns), n2)
    spectrum = outer[:, : n2 // 2]
    from_even = torch.view_as_real(spectrum).movedim(-1, 0).clone()  # part out, n2, k2
    from_even[1, :, 0] = (-1.0) ** columns
    from_odd = torch.view_as_real(spectrum * _unit(columns * (n1 // 2), n_fft)[:, None]).movedim(-1, 0)
    none = torch.zeros_like(from_even)
    first = torch.stack([torch.cat([from_even, none], -1), torch.cat([none, from_odd], -1)])
    parts = (inner, twiddles, torch.stack([outer.real, -outer.imag]), first)
    return torch.cat([part.reshape(-1) for part in parts]).to(torch.float32)


def _unit(turns: Tensor, n: int) -> Tensor:
    """`exp(-2 pi i turns / n)`, exact for large numbers of turns too."""
    angle = -2 * torch.pi * (turns % n) / n
    return torch.polar(torch.ones_like(angle), angle)
