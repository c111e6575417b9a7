"""Real Fourier transforms for compiled code, one frame at a time.

Powers of two from 128 on use the code of this module; other lengths use rocket-fft. The even and the odd
samples of a frame are taken as the real and the imaginary parts of half as many complex numbers. Their
transform consists of steps of radix 8, 4 and 2 (Stockham's, decimation in frequency), which need no
permutation.

Real and imaginary parts are separate, in one flat array `work`: a complex sequence of length n at position p
has its real parts from p on, and its imaginary parts from p + n on.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from rocket_fft import c2r, r2c

from rtspecinv.engines.cpu.lanes import (
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

SHORTEST = 2 * WIDTH * WIDTH  # shortest frame that uses the transform of this module
GAP = 2 * WIDTH  # avoids distances of powers of two, which processors may treat as the same address
AXES = np.zeros(1, np.int64)


def pad(n: int) -> int:
    """Return n rounded up to a multiple of WIDTH."""
    return -(-n // WIDTH) * WIDTH


def suits(n_fft: int) -> bool:
    """Return whether this module can transform frames of this length without rocket-fft."""
    return n_fft >= SHORTEST and n_fft & (n_fft - 1) == 0


def tables(n_fft: int) -> Array:
    """Return an array of constants: the square root of 1/2, then the twiddle factors.

    The first factors are those between the transforms of half and full length; those of each step follow."""
    if not suits(n_fft):
        return np.zeros(0)
    n = n_fft // 2
    split = np.exp(-2j * np.pi * np.arange(1, n // 2 + 1) / n_fft)
    first = _twiddles(n, 8)  # (7, n / 8) ...
    parts = [np.full(WIDTH, math.sqrt(0.5)), split.real, split.imag, np.stack([first.real, first.imag], 1)]
    n //= 8
    radix = odd_radix(n_fft)
    while n > 8:
        later = _twiddles(n, radix).T  # (n / radix, radix - 1): the factors of one butterfly are adjacent
        parts.append(np.stack([later.real, later.imag], -1))
        n, radix = n // radix, 8
    return np.concatenate([part.ravel() for part in parts])


def _twiddles(n: int, radix: int) -> Array:
    return np.exp(-2j * np.pi * np.outer(np.arange(1, radix), np.arange(n // radix)) / n)


def odd_radix(n_fft: int) -> int:
    """Return the radix of the second step, 2, 4 or 8, with which all other steps have radix 8."""
    return {0: 8, 1: 2, 2: 4}[(n_fft.bit_length() - 2) % 3]


@numba.njit(forceinline=True)
def _dft4(ar, ai, br, bi, cr, ci, dr, di):
    """Return the transform of length 4."""
    er, ei, fr, fi = ar + cr, ai + ci, ar - cr, ai - ci
    gr, gi, hr, hi = br + dr, bi + di, br - dr, bi - di
    return er + gr, ei + gi, fr + hi, fi - hr, er - gr, ei - gi, fr - hi, fi + hr


@numba.njit(forceinline=True)
def _dft8(half, a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H):
    """Return the transform of length 8 of a + iA, b + iB, ...; `half` is the square root of 1/2."""
    a, A, c, C, e, E, g, G = _dft4(a, A, c, C, e, E, g, G)
    b, B, d, D, f, F, h, H = _dft4(b, B, d, D, f, F, h, H)
    d, D = half * (d + D), half * (D - d)  # multiplied by exp(-i pi / 4)
    h, H = half * (H - h), half * (h + H)  # multiplied by exp(-3 i pi / 4), with the sign of H changed
    return (
        a + b, A + B, c + d, C + D, e + F, E - f, g + h, G - H,
        a - b, A - B, c - d, C - D, e - F, E + f, g - h, G + H,
    )  # fmt: skip


@numba.njit(forceinline=True)
def _get(work, at, n):
    """Return the complex lanes at position `at` of a sequence of length n."""
    return load(work, at), load(work, at + n)


@numba.njit(forceinline=True)
def _put(work, at, n, a, A):
    store(work, at, a)
    store(work, at + n, A)


@numba.njit(forceinline=True)
def _turn(a, A, factor):
    """Return (a + iA) (w + iW)."""
    w, W = factor
    return a * w - A * W, a * W + A * w


@numba.njit(forceinline=True)
def _butterfly8(work, x, n, step, half):
    """Return the transform of length 8 of complex lanes that are `step` apart."""
    a, A = _get(work, x, n)
    b, B = _get(work, x + step, n)
    c, C = _get(work, x + 2 * step, n)
    d, D = _get(work, x + 3 * step, n)
    e, E = _get(work, x + 4 * step, n)
    f, F = _get(work, x + 5 * step, n)
    g, G = _get(work, x + 6 * step, n)
    h, H = _get(work, x + 7 * step, n)
    return _dft8(half, a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H)


@numba.njit(forceinline=True)
def _put8(work, y, n, step, a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H):
    _put(work, y, n, a, A)
    _put(work, y + step, n, b, B)
    _put(work, y + 2 * step, n, c, C)
    _put(work, y + 3 * step, n, d, D)
    _put(work, y + 4 * step, n, e, E)
    _put(work, y + 5 * step, n, f, F)
    _put(work, y + 6 * step, n, g, G)
    _put(work, y + 7 * step, n, h, H)


@numba.njit
def _first8(work, source, target, n, tables, at):
    """Do a radix 8 step on a whole sequence: eight butterflies at once, whose results are transposed."""
    m, half = n >> 3, load(tables, 0)
    for p in range(0, m, WIDTH):
        a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H = _butterfly8(work, source + p, n, m, half)
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
        _put8(work, target + 8 * p, n, WIDTH, a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H)


@numba.njit(forceinline=True)
def _twiddle(tables, at):
    return broadcast(tables[at]), broadcast(tables[at + 1])


@numba.njit(forceinline=True)
def _next8(work, source, target, m, stride, tables, at):
    """Do a radix 8 step on `stride` interleaved sequences of length 8 m."""
    n, half = 8 * m * stride, load(tables, 0)
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
            a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H = _butterfly8(
                work, source + stride * p + q, n, stride * m, half
            )
            b, B = _turn(b, B, b_)
            c, C = _turn(c, C, c_)
            d, D = _turn(d, D, d_)
            e, E = _turn(e, E, e_)
            f, F = _turn(f, F, f_)
            g, G = _turn(g, G, g_)
            h, H = _turn(h, H, h_)
            y = target + 8 * stride * p + q
            _put8(work, y, n, stride, a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H)


@numba.njit
def _last8(work, source, target, stride, tables):
    """Do a radix 8 step on `stride` interleaved sequences of length 8, where all twiddle factors are 1."""
    half = load(tables, 0)
    for q in range(0, stride, WIDTH):
        a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H = _butterfly8(
            work, source + q, 8 * stride, stride, half
        )
        y = target + q
        _put8(work, y, 8 * stride, stride, a, A, b, B, c, C, d, D, e, E, f, F, g, G, h, H)


@numba.njit
def _second4(work, source, target, m, tables, at):
    """Do a radix 4 step on 8 interleaved sequences of length 4 m."""
    n, step = 32 * m, 8 * m
    for p in range(m):
        w, x, y = at + 6 * p, source + 8 * p, target + 32 * p
        a, A = _get(work, x, n)
        b, B = _get(work, x + step, n)
        c, C = _get(work, x + 2 * step, n)
        d, D = _get(work, x + 3 * step, n)
        a, A, b, B, c, C, d, D = _dft4(a, A, b, B, c, C, d, D)
        b, B = _turn(b, B, _twiddle(tables, w))
        c, C = _turn(c, C, _twiddle(tables, w + 2))
        d, D = _turn(d, D, _twiddle(tables, w + 4))
        _put(work, y, n, a, A)
        _put(work, y + 8, n, b, B)
        _put(work, y + 16, n, c, C)
        _put(work, y + 24, n, d, D)


@numba.njit
def _second2(work, source, target, m, tables, at):
    """Do a radix 2 step on 8 interleaved sequences of length 2 m."""
    n = 16 * m
    for p in range(m):
        x, y = source + 8 * p, target + 16 * p
        a, A = _get(work, x, n)
        b, B = _get(work, x + 8 * m, n)
        d, D = _turn(a - b, A - B, _twiddle(tables, at + 2 * p))
        _put(work, y, n, a + b, A + B)
        _put(work, y + 8, n, d, D)


@numba.njit
def _transform(work, at, n, second, tables):
    """Transform n complex numbers at `at` and return the position of the result.

    The space of n complex numbers behind them is overwritten. second: radix of the second step.
    """
    source, target, w = at, at + 2 * n + GAP, WIDTH + n
    _first8(work, source, target, n, tables, w)
    source, target, m, stride, w = target, source, n >> 3, 8, w + 14 * (n >> 3)
    if m > 8:  # these steps are much faster because their stride is a constant
        if second == 2:
            m, stride = m >> 1, 16
            _second2(work, source, target, m, tables, w)
            w += 2 * m
        elif second == 4:
            m, stride = m >> 2, 32
            _second4(work, source, target, m, tables, w)
            w += 6 * m
        else:
            m, stride = m >> 3, 64
            _next8(work, source, target, m, 8, tables, w)
            w += 14 * m
        source, target = target, source
    while m > 8:
        m >>= 3
        _next8(work, source, target, m, stride, tables, w)
        source, target, stride, w = target, source, stride << 3, w + 14 * m
    _last8(work, source, target, stride, tables)
    return target


@numba.extending.register_jitable
def _arrays(plan, memory):
    """Return arrays for rocket-fft: the real frame and its half spectrum."""
    half = numba.carray(memory.half, (2 * (plan.n_fft // 2 + 1),))
    return numba.carray(memory.real, (plan.n_fft,)), _complex(half)


def _complex(pairs):
    """Return a view of pairs of reals as complex numbers."""


@numba.extending.overload(_complex)
def _(pairs):
    if pairs.dtype == numba.float32:
        return lambda pairs: pairs.view(np.complex64)
    return lambda pairs: pairs.view(np.complex128)


# With n = n_fft / 2, W = exp(-2 pi i / n_fft) and Z the transform of even + i odd samples, the transforms of
# the even and of the odd samples are E[k] = (Z[k] + conj Z[n - k]) / 2, O[k] = (Z[k] - conj Z[n - k]) / 2i.
# The spectrum is X[k] = E[k] + W^k O[k], X[n - k] = conj(E[k] - W^k O[k]). Windows contain the 1/2.


@numba.njit
def analyze(plan, memory, window, at, samples, spectrum):
    """Compute the spectrum of n_fft samples times the window at `window[at]`.

    The transform of this module gives twice the spectrum, rocket-fft the spectrum itself.
    """
    n, padded, work, tables, z = plan.n_fft >> 1, plan.padded, memory.work, memory.tables, plan.room
    if not plan.own_fft:
        for i in range(0, plan.n_fft, WIDTH):
            store(memory.real, i, load(work, samples + i) * load(window, at + i))
        real, half = _arrays(plan, memory)
        r2c(real, half, AXES, True, 1.0, 1)
        for k in range(n + 1):
            work[spectrum + k], work[spectrum + padded + k] = half[k].real, half[k].imag
        return
    for i in range(0, n, WIDTH):
        low = load(work, samples + 2 * i) * load(window, at + 2 * i)
        high = load(work, samples + 2 * i + WIDTH) * load(window, at + 2 * i + WIDTH)
        even, odd = deinterleave(low, high)
        _put(work, z + i, n, even, odd)
    z = _transform(work, z, n, plan.second_radix, tables)
    zero, zero_odd = work[z], work[z + n]
    work[spectrum], work[spectrum + padded] = 2 * (zero + zero_odd), 0
    work[spectrum + n], work[spectrum + padded + n] = 2 * (zero - zero_odd), 0
    for k in range(1, (n >> 1) + 1, WIDTH):
        mirror = n - k - WIDTH + 1
        a, A = _get(work, z + k, n)
        b, B = _get(work, z + mirror, n)
        b, B = reverse(b), reverse(B)
        e, E = a + b, A - B
        d, D = _turn(A + B, b - a, _get(tables, WIDTH + k - 1, n >> 1))
        _put(work, spectrum + k, padded, e + d, E + D)
        _put(work, spectrum + mirror, padded, reverse(e - d), reverse(D - E))


@numba.njit
def synthesize(plan, memory, spectrum, samples):
    """Add the frame of a spectrum, multiplied by the dual window and n_fft, to samples.

    The imaginary parts at 0 Hz and at the Nyquist frequency are ignored.
    """
    n, padded, work, tables, z = plan.n_fft >> 1, plan.padded, memory.work, memory.tables, plan.room
    window, x = memory.dual_window, spectrum
    if not plan.own_fft:
        real, half = _arrays(plan, memory)
        for k in range(n + 1):
            half[k] = complex(work[x + k], work[x + padded + k])
        c2r(half, real, AXES, False, 1.0, 1)
        for i in range(0, plan.n_fft, WIDTH):
            store(work, samples + i, load(work, samples + i) + load(memory.real, i) * load(window, i))
        return
    # The inverse transform is the transform with real and imaginary parts swapped before and after it.
    work[z], work[z + n] = work[x] - work[x + n], work[x] + work[x + n]
    for k in range(1, (n >> 1) + 1, WIDTH):
        mirror = n - k - WIDTH + 1
        a, A = _get(work, x + k, padded)
        b, B = _get(work, x + mirror, padded)
        b, B = reverse(b), reverse(B)
        w, W = _get(tables, WIDTH + k - 1, n >> 1)
        e, E, d, D = a + b, A - B, a - b, A + B
        d, D = d * w + D * W, D * w - d * W
        _put(work, z + k, n, E + d, e - D)
        _put(work, z + mirror, n, reverse(d - E), reverse(e + D))
    z = _transform(work, z, n, plan.second_radix, tables)
    for i in range(0, n, WIDTH):
        odd, even = _get(work, z + i, n)
        low, high = interleave(even, odd)
        y = samples + 2 * i
        store(work, y, load(work, y) + low * load(window, 2 * i))
        store(work, y + WIDTH, load(work, y + WIDTH) + high * load(window, 2 * i + WIDTH))
