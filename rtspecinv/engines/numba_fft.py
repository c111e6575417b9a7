"""Real Fourier transforms for compiled code, one frame at a time.

Powers of two from 128 on: the even and the odd samples of a frame are the real and the imaginary part of half
as many complex numbers, whose transform is made of radix 8 and 4 steps (Stockham's, decimation in frequency:
in order without a permutation). Everything else: rocket-fft.

Real and imaginary parts are apart, in one flat array `work` that positions point into: a complex sequence of
length n at position p has its real parts at p ..., its imaginary parts at p + n ....
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from rocket_fft import c2r, r2c

from rtspecinv.engines.numba_lanes import (
    WIDTH,
    broadcast,
    deinterleave,
    interleave,
    load,
    reverse,
    store,
    transpose,
)

Array = np.ndarray[Any, Any]

SHORTEST = 2 * WIDTH * WIDTH  # frame with a transform of our own


class Fft(NamedTuple):
    """What the transforms need to know, and room for those of rocket-fft."""

    n_fft: int
    padded: int  # from the real to the imaginary part of a spectrum
    own: bool
    tables: Array
    real: Array  # (n_fft,), readable and writable up to the next multiple of WIDTH
    half: Array  # (n_fft // 2 + 1,)
    axes: Array  # (1,), zero


def make(n_fft: int, dtype: Any) -> Fft:
    """Transforms of one length and precision."""
    complex_dtype = np.result_type(dtype, np.complex64)
    return Fft(
        n_fft,
        pad(n_fft // 2 + 1),
        suits(n_fft),
        tables(n_fft).astype(dtype),
        np.zeros(pad(n_fft), dtype)[:n_fft],
        np.zeros(n_fft // 2 + 1, complex_dtype),
        np.zeros(1, np.int64),
    )


def pad(n: int) -> int:
    """Next multiple of WIDTH."""
    return -(-n // WIDTH) * WIDTH


def suits(n_fft: int) -> bool:
    """Whether frames of this length have a transform of our own."""
    return n_fft >= SHORTEST and n_fft & (n_fft - 1) == 0


def tables(n_fft: int) -> Array:
    """Twiddle factors in the order in which they are used, first those between half and full length."""
    if not suits(n_fft):
        return np.zeros(WIDTH)
    n = n_fft // 2
    split = np.exp(-2j * np.pi * np.arange(1, n // 2 + 1) / n_fft)
    first = _twiddles(n, 8)  # (7, n / 8) ...
    parts = [split.real, split.imag, np.stack([first.real, first.imag], 1)]
    n //= 8
    while n > 1:
        radix = _radix.py_func(n)
        later = _twiddles(n, radix).T  # (n / radix, radix - 1): those of one butterfly together
        parts.append(np.stack([later.real, later.imag], -1))
        n //= radix
    parts.append(np.array(math.sqrt(0.5)))
    return np.concatenate([part.ravel() for part in parts])


def _twiddles(n: int, radix: int) -> Array:
    return np.exp(-2j * np.pi * np.outer(np.arange(1, radix), np.arange(n // radix)) / n)


@numba.njit
def _radix(n):
    """Radix of the next step: 8 if that leaves a power of 8."""
    while n % 8 == 0:
        n //= 8
    return 8 if n == 1 else 4


@numba.njit(inline="always")
def _dft4(ar, ai, br, bi, cr, ci, dr, di):
    """Transform of length 4."""
    er, ei, fr, fi = ar + cr, ai + ci, ar - cr, ai - ci
    gr, gi, hr, hi = br + dr, bi + di, br - dr, bi - di
    return er + gr, ei + gi, fr + hi, fi - hr, er - gr, ei - gi, fr - hi, fi + hr


@numba.njit(inline="always")
def _dft8(half, a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H):
    """Transform of length 8 of a + iA, b + iB, ...; `half` is the square root of 1/2."""
    a, A, c, C, e, E, g, G = _dft4(a, A, c, C, e, E, g, G)
    b, B, d, D, f, F, h, H = _dft4(b, B, d, D, f, F, h, H)
    d, D = half * (d + D), half * (D - d)  # turned by exp(-i pi / 4)
    h, H = half * (H - h), half * (h + H)  # turned by exp(-3 i pi / 4), sign of H changed
    return (
        a + b, A + B, c + d, C + D, e + F, E - f, g + h, G - H,
        a - b, A - B, c - d, C - D, e - F, E + f, g - h, G + H,
    )  # fmt: skip


@numba.njit(inline="always")
def _get(work, at, n):
    """Complex lanes at position `at` of a sequence of length n."""
    return load(work, at), load(work, at + n)


@numba.njit(inline="always")
def _put(work, at, n, a, A):
    store(work, at, a)
    store(work, at + n, A)


@numba.njit(inline="always")
def _turn(a, A, factor):
    """(a + iA) (w + iW)."""
    w, W = factor
    return a * w - A * W, a * W + A * w


@numba.njit
def _first8(work, source, target, n, tables, at, half):
    """Radix 8 step on a whole sequence: eight butterflies at once, whose results have to be transposed."""
    m = n // 8
    half = broadcast(half)
    for p in range(0, m, WIDTH):
        x = source + p
        a, A = _get(work, x, n)
        b, B = _get(work, x + m, n)
        c, C = _get(work, x + 2 * m, n)
        d, D = _get(work, x + 3 * m, n)
        e, E = _get(work, x + 4 * m, n)
        f, F = _get(work, x + 5 * m, n)
        g, G = _get(work, x + 6 * m, n)
        h, H = _get(work, x + 7 * m, n)
        a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H = _dft8(
            half, a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H
        )
        w = at + p
        b, B = _turn(b, B, _get(tables, w, m))
        c, C = _turn(c, C, _get(tables, w + 2 * m, m))
        d, D = _turn(d, D, _get(tables, w + 4 * m, m))
        e, E = _turn(e, E, _get(tables, w + 6 * m, m))
        f, F = _turn(f, F, _get(tables, w + 8 * m, m))
        g, G = _turn(g, G, _get(tables, w + 10 * m, m))
        h, H = _turn(h, H, _get(tables, w + 12 * m, m))
        a, b, c, d, e, f, g, h = transpose((a, b, c, d, e, f, g, h))
        A, B, C, D, E, F, G, H = transpose((A, B, C, D, E, F, G, H))
        y = target + 8 * p
        _put(work, y, n, a, A)
        _put(work, y + WIDTH, n, b, B)
        _put(work, y + 2 * WIDTH, n, c, C)
        _put(work, y + 3 * WIDTH, n, d, D)
        _put(work, y + 4 * WIDTH, n, e, E)
        _put(work, y + 5 * WIDTH, n, f, F)
        _put(work, y + 6 * WIDTH, n, g, G)
        _put(work, y + 7 * WIDTH, n, h, H)


@numba.njit(inline="always")
def _twiddle(tables, at):
    return broadcast(tables[at]), broadcast(tables[at + 1])


@numba.njit
def _next8(work, source, target, n, stride, tables, at, half):
    """Radix 8 step on `stride` interleaved sequences of length n / stride."""
    m = n // stride // 8
    half = broadcast(half)
    for p in range(m):
        w = at + 14 * p
        b_ = _twiddle(tables, w)
        c_ = _twiddle(tables, w + 2)
        d_ = _twiddle(tables, w + 4)
        e_ = _twiddle(tables, w + 6)
        f_ = _twiddle(tables, w + 8)
        g_ = _twiddle(tables, w + 10)
        h_ = _twiddle(tables, w + 12)
        for q in range(0, stride, WIDTH):
            x, step = source + stride * p + q, stride * m
            a, A = _get(work, x, n)
            b, B = _get(work, x + step, n)
            c, C = _get(work, x + 2 * step, n)
            d, D = _get(work, x + 3 * step, n)
            e, E = _get(work, x + 4 * step, n)
            f, F = _get(work, x + 5 * step, n)
            g, G = _get(work, x + 6 * step, n)
            h, H = _get(work, x + 7 * step, n)
            a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H = _dft8(
                half, a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H
            )
            if m > 1:  # otherwise all twiddle factors are 1
                b, B = _turn(b, B, b_)
                c, C = _turn(c, C, c_)
                d, D = _turn(d, D, d_)
                e, E = _turn(e, E, e_)
                f, F = _turn(f, F, f_)
                g, G = _turn(g, G, g_)
                h, H = _turn(h, H, h_)
            y = target + 8 * stride * p + q
            _put(work, y, n, a, A)
            _put(work, y + stride, n, b, B)
            _put(work, y + 2 * stride, n, c, C)
            _put(work, y + 3 * stride, n, d, D)
            _put(work, y + 4 * stride, n, e, E)
            _put(work, y + 5 * stride, n, f, F)
            _put(work, y + 6 * stride, n, g, G)
            _put(work, y + 7 * stride, n, h, H)


@numba.njit
def _next4(work, source, target, n, stride, tables, at):
    """Radix 4 step on `stride` interleaved sequences of length n / stride."""
    m = n // stride // 4
    for p in range(m):
        w = at + 6 * p
        b_ = _twiddle(tables, w)
        c_ = _twiddle(tables, w + 2)
        d_ = _twiddle(tables, w + 4)
        for q in range(0, stride, WIDTH):
            x, step = source + stride * p + q, stride * m
            a, A = _get(work, x, n)
            b, B = _get(work, x + step, n)
            c, C = _get(work, x + 2 * step, n)
            d, D = _get(work, x + 3 * step, n)
            a, A, b, B, c, C, d, D = _dft4(a, A, b, B, c, C, d, D)
            b, B = _turn(b, B, b_)
            c, C = _turn(c, C, c_)
            d, D = _turn(d, D, d_)
            y = target + 4 * stride * p + q
            _put(work, y, n, a, A)
            _put(work, y + stride, n, b, B)
            _put(work, y + 2 * stride, n, c, C)
            _put(work, y + 3 * stride, n, d, D)


@numba.njit
def _transform(work, at, n, tables):
    """Transform n complex numbers at `at`, with as much room after them; returns where the result is."""
    half = tables[tables.size - 1]
    source, target, stride, w = at, at + 2 * n, 8, n
    _first8(work, source, target, n, tables, w, half)
    w += 14 * (n // 8)
    while stride < n:
        source, target = target, source
        m = n // stride
        if _radix(m) == 8:
            _next8(work, source, target, n, stride, tables, w, half)
            stride, w = stride * 8, w + 14 * (m // 8)
        else:
            _next4(work, source, target, n, stride, tables, w)
            stride, w = stride * 4, w + 6 * (m // 4)
    return target


# With n = n_fft / 2, W = exp(-2 pi i / n_fft) and Z the transform of even + i odd samples, those of the even and
# the odd samples are E[k] = (Z[k] + conj Z[n - k]) / 2 and O[k] = (Z[k] - conj Z[n - k]) / 2i, and the spectrum is
# X[k] = E[k] + W^k O[k], X[n - k] = conj(E[k] - W^k O[k]). All factors 1/2 are left to the windows.


@numba.njit
def analyze(work, samples, window, at, spectrum, room, fft):
    """Spectrum of n_fft samples times the window at `window[at]`; twice that for transforms of our own."""
    n = fft.n_fft // 2
    if not fft.own:
        for i in range(0, fft.n_fft, WIDTH):
            store(fft.real, i, load(work, samples + i) * load(window, at + i))
        r2c(fft.real, fft.half, fft.axes, True, 1.0, 1)
        for k in range(n + 1):
            work[spectrum + k], work[spectrum + fft.padded + k] = fft.half[k].real, fft.half[k].imag
        return
    for i in range(0, n, WIDTH):
        low = load(work, samples + 2 * i) * load(window, at + 2 * i)
        high = load(work, samples + 2 * i + WIDTH) * load(window, at + 2 * i + WIDTH)
        even, odd = deinterleave(low, high)
        _put(work, room + i, n, even, odd)
    z = _transform(work, room, n, fft.tables)
    x, zero, ZERO = spectrum, work[z], work[z + n]
    work[x], work[x + fft.padded] = 2 * (zero + ZERO), 0
    work[x + n], work[x + n + fft.padded] = 2 * (zero - ZERO), 0
    for k in range(1, n // 2 + 1, WIDTH):
        mirror = n - k - WIDTH + 1
        a, A = _get(work, z + k, n)
        b, B = _get(work, z + mirror, n)
        b, B = reverse(b), reverse(B)
        e, E = a + b, A - B
        o, O = _turn(A + B, b - a, _get(fft.tables, k - 1, n // 2))  # noqa: E741
        _put(work, x + k, fft.padded, e + o, E + O)
        _put(work, x + mirror, fft.padded, reverse(e - o), reverse(O - E))


@numba.njit
def synthesize(work, spectrum, samples, window, room, fft):
    """Add the frame of a spectrum to samples, times the window and n_fft.

    The imaginary parts at 0 Hz and at the Nyquist frequency do not count.
    """
    n, x = fft.n_fft // 2, spectrum
    if not fft.own:
        for k in range(n + 1):
            fft.half[k] = complex(work[x + k], work[x + fft.padded + k])
        c2r(fft.half, fft.real, fft.axes, False, 1.0, 1)
        for i in range(0, fft.n_fft, WIDTH):
            store(work, samples + i, load(work, samples + i) + load(fft.real, i) * load(window, i))
        return
    # The inverse transform is the transform with real and imaginary parts swapped, before and after.
    work[room], work[room + n] = work[x] - work[x + n], work[x] + work[x + n]
    for k in range(1, n // 2 + 1, WIDTH):
        mirror = n - k - WIDTH + 1
        a, A = _get(work, x + k, fft.padded)
        b, B = _get(work, x + mirror, fft.padded)
        b, B = reverse(b), reverse(B)
        w, W = _get(fft.tables, k - 1, n // 2)
        e, E, d, D = a + b, A - B, a - b, A + B
        o, O = d * w + D * W, D * w - d * W  # noqa: E741
        _put(work, room + k, n, E + o, e - O)
        _put(work, room + mirror, n, reverse(o - E), reverse(e + O))
    z = _transform(work, room, n, fft.tables)
    for i in range(0, n, WIDTH):
        odd, even = _get(work, z + i, n)
        low, high = interleave(even, odd)
        y = samples + 2 * i
        store(work, y, load(work, y) + low * load(window, 2 * i))
        store(work, y + WIDTH, load(work, y + WIDTH) + high * load(window, 2 * i + WIDTH))
