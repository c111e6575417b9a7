"""P_M and the update rules in compiled code, frame by frame: the operations before and after P_C.

A rule is a table of numbers, see `engines.table`. Each of several loops computes a kind of rules, and skips
the numbers that are zero in it. `frame` is the number of an open frame of a stream, or of a frame among those
of all items of a batch.
"""

from __future__ import annotations

import numba

from rtspecinv.engines.cpu.lanes import WIDTH, broadcast, direction, load, root, store, total
from rtspecinv.engines.cpu.memory import MULTIPLES, ONE_SLOT, TARGET_ONLY, TWICE, spectrum_at
from rtspecinv.engines.table import (
    CONSISTENT,
    INTO_P_C,
    INTO_P_M,
    N_COLUMNS,
    NEW_STATE,
    OF_MAGNITUDE,
    STATE,
)


@numba.njit(forceinline=True)
def _number(memory, at, row, column):
    """Return lanes that all hold one number of a table."""
    return broadcast(memory.numbers[at + N_COLUMNS * row + column])


@numba.njit(forceinline=True)
def _row(memory, at, row):
    """Return the numbers of s, A, x_0, x_1 and x_2 in a row."""
    return (
        _number(memory, at, row, CONSISTENT),
        _number(memory, at, row, OF_MAGNITUDE),
        _number(memory, at, row, STATE),
        _number(memory, at, row, STATE + 1),
        _number(memory, at, row, STATE + 2),
    )


@numba.njit(forceinline=True)
def _p_m(memory, magnitude, re, im, k):
    """Return P_M of lanes of a spectrum."""
    m = load(memory.work, magnitude + k)
    a, A = direction(re, im, load(memory.signs, k))
    return m * a, m * A


@numba.njit
def measure(plan, memory, frame, c):
    """Return the position of the magnitudes that P_M gives to the spectrum at `c`.

    They are the target, or they are computed from values of bands; see `bands.Bands.project`.
    """
    padded, work, magnitude = plan.padded, memory.work, frame * plan.padded
    if not plan.n_values:
        return magnitude
    found, factor, least = plan.found, plan.found + padded, memory.limits[0]
    zeros, pull, rest = (
        broadcast(memory.limits[1]),
        broadcast(memory.limits[2]),
        broadcast(memory.limits[3]),
    )
    for k in range(0, padded, WIDTH):
        a, A = load(work, c + k), load(work, c + padded + k)
        d, D = direction(a, A, load(memory.signs, k))
        size = a * d + A * D
        store(work, found + k, rest * size + pull * load(work, magnitude + k))
        store(work, factor + k, zeros)
    at, is_power = 0, plan.is_power
    for band in range(plan.n_values):
        begin, n = int(memory.ranges[2 * band]), int(memory.ranges[2 * band + 1])
        value = work[plan.values + frame * plan.n_values + band]
        if value > 0:
            added = zeros
            for i in range(0, n, WIDTH):
                size = load(work, found + begin + i)
                size = size * size if is_power else size
                added = added + load(memory.filters, at + i) * size
            known = total(added)
            if known >= least:
                ratio = broadcast(value / known)
                for i in range(0, n, WIDTH):
                    to = factor + begin + i
                    store(work, to, load(work, to) + load(memory.shares, at + i) * ratio)
        at += n
    for k in range(0, padded, WIDTH):
        by = load(work, factor + k)
        by = root(by) if is_power else by
        estimate = load(memory.beyond, k) * load(work, magnitude + k)
        store(work, found + k, load(work, found + k) * by + estimate)
    return found


@numba.njit
def to_magnitude(plan, memory, magnitude, c, to):
    """Write to `to` the magnitude at `magnitude` with the phase of the spectrum at `c`."""
    padded, work = plan.padded, memory.work
    for k in range(0, padded, WIDTH):
        a, A = _p_m(memory, magnitude, load(work, c + k), load(work, c + padded + k), k)
        store(work, to + k, a)
        store(work, to + padded + k, A)


@numba.njit
def mix(plan, memory, frame, at, row, to):
    """Write to `to` the sum of the spectra of a frame's state, weighted by a row of the table at `at`."""
    work = memory.work
    x0, x1, x2 = spectrum_at(plan, 0, frame), spectrum_at(plan, 1, frame), spectrum_at(plan, 2, frame)
    _, _, n0, n1, n2 = _row(memory, at, row)
    for i in range(0, 2 * plan.padded, WIDTH):
        total = n0 * load(work, x0 + i)
        if plan.n_slots > 1:
            total = total + n1 * load(work, x1 + i)
        if plan.n_slots > 2:
            total = total + n2 * load(work, x2 + i)
        store(work, to + i, total)


@numba.njit
def scale(work, to, source, factor, n):
    """Write n numbers, multiplied by a factor."""
    factors = broadcast(factor)
    for i in range(0, n, WIDTH):
        store(work, to + i, factors * load(work, source + i))


@numba.njit
def before(plan, memory, frame, at):
    """Compute the argument y of P_C; the terms of the new state without s replace the state.

    at: position of the numbers of the frame.
    """
    magnitude = frame * plan.padded
    if plan.n_values and plan.kind != TARGET_ONLY:
        mix(plan, memory, frame, at, INTO_P_M, plan.y)
        magnitude = measure(plan, memory, frame, plan.y)
    if plan.kind == TARGET_ONLY:
        c = spectrum_at(plan, 0, frame)
        to_magnitude(plan, memory, measure(plan, memory, frame, c), c, plan.y)
    elif plan.kind == ONE_SLOT:
        _before_one(plan, memory, frame, at, magnitude)
    elif plan.kind == TWICE:
        _before_twice(plan, memory, frame, at, magnitude)
    elif plan.kind == MULTIPLES:
        _before_multiples(plan, memory, frame, at, magnitude)
    else:
        _before_any(plan, memory, frame, at, magnitude)


@numba.njit
def _before_one(plan, memory, frame, at, magnitude):
    padded, work, c, y = plan.padded, memory.work, spectrum_at(plan, 0, frame), plan.y
    m = _number(memory, at, INTO_P_M, STATE)
    y_a, y_c = _number(memory, at, INTO_P_C, OF_MAGNITUDE), _number(memory, at, INTO_P_C, STATE)
    b_a, b_c = _number(memory, at, NEW_STATE, OF_MAGNITUDE), _number(memory, at, NEW_STATE, STATE)
    for k in range(0, padded, WIDTH):
        b, B = load(work, c + k), load(work, c + padded + k)
        a, A = _p_m(memory, magnitude, m * b, m * B, k)
        store(work, y + k, y_a * a + y_c * b)
        store(work, y + padded + k, y_a * A + y_c * B)
        store(work, c + k, b_c * b + b_a * a)
        store(work, c + padded + k, b_c * B + b_a * A)


@numba.njit
def _before_twice(plan, memory, frame, at, magnitude):
    padded, work, c, y = plan.padded, memory.work, spectrum_at(plan, 0, frame), plan.y
    s = spectrum_at(plan, 1, frame)  # P_C(c)
    m_s, m_c = _number(memory, at, INTO_P_M, CONSISTENT), _number(memory, at, INTO_P_M, STATE)
    y_a, y_c = _number(memory, at, INTO_P_C, OF_MAGNITUDE), _number(memory, at, INTO_P_C, STATE)
    b_a, b_c = _number(memory, at, NEW_STATE, OF_MAGNITUDE), _number(memory, at, NEW_STATE, STATE)
    for k in range(0, padded, WIDTH):
        b, B = load(work, c + k), load(work, c + padded + k)
        a, A = _p_m(memory, magnitude, b, B, k)
        store(work, y + k, y_a * a + y_c * b)
        store(work, y + padded + k, y_a * A + y_c * B)
        d, D = load(work, s + k), load(work, s + padded + k)
        a, A = _p_m(memory, magnitude, m_s * d + m_c * b, m_s * D + m_c * B, k)
        store(work, c + k, b_c * b + b_a * a)
        store(work, c + padded + k, b_c * B + b_a * A)


@numba.njit
def _before_multiples(plan, memory, frame, at, magnitude):
    """Do `before` for a rule of kind MULTIPLES with two or three slots."""
    padded, work, y, last = plan.padded, memory.work, plan.y, spectrum_at(plan, plan.n_slots - 1, frame)
    x0, x1, x2 = spectrum_at(plan, 0, frame), spectrum_at(plan, 1, frame), spectrum_at(plan, 2, frame)
    _, _, m0, m1, m2 = _row(memory, at, INTO_P_M)
    _, ya, y0, y1, y2 = _row(memory, at, INTO_P_C)
    for k in range(0, padded, WIDTH):
        b, B = load(work, x0 + k), load(work, x0 + padded + k)
        c, C = load(work, x1 + k), load(work, x1 + padded + k)
        m, M = m0 * b + m1 * c, m0 * B + m1 * C
        d, D = y0 * b + y1 * c, y0 * B + y1 * C
        if plan.n_slots > 2:
            b, B = load(work, x2 + k), load(work, x2 + padded + k)
            m, M, d, D = m + m2 * b, M + m2 * B, d + y2 * b, D + y2 * B
        a, A = _p_m(memory, magnitude, m, M, k)
        d, D = d + ya * a, D + ya * A
        store(work, y + k, d)
        store(work, y + padded + k, D)
        store(work, last + k, d)
        store(work, last + padded + k, D)


@numba.njit
def _before_any(plan, memory, frame, at, magnitude):
    """Do `before` for any other rule with two or three slots."""
    padded, work, y = plan.padded, memory.work, plan.y
    x0, x1, x2 = spectrum_at(plan, 0, frame), spectrum_at(plan, 1, frame), spectrum_at(plan, 2, frame)
    _, _, m0, m1, m2 = _row(memory, at, INTO_P_M)
    _, ya, y0, y1, y2 = _row(memory, at, INTO_P_C)
    _, pa, p0, p1, p2 = _row(memory, at, NEW_STATE)
    _, qa, q0, q1, q2 = _row(memory, at, NEW_STATE + 1)
    _, ra, r0, r1, r2 = _row(memory, at, NEW_STATE + 2)
    for k in range(0, padded, WIDTH):
        b, B = load(work, x0 + k), load(work, x0 + padded + k)
        c, C = load(work, x1 + k), load(work, x1 + padded + k)
        m, M = m0 * b + m1 * c, m0 * B + m1 * C
        d, D = y0 * b + y1 * c, y0 * B + y1 * C
        p, P = p0 * b + p1 * c, p0 * B + p1 * C
        q, Q = q0 * b + q1 * c, q0 * B + q1 * C
        r, R = r0 * b + r1 * c, r0 * B + r1 * C
        if plan.n_slots > 2:
            b, B = load(work, x2 + k), load(work, x2 + padded + k)
            m, M, d, D = m + m2 * b, M + m2 * B, d + y2 * b, D + y2 * B
            p, P, q, Q = p + p2 * b, P + p2 * B, q + q2 * b, Q + q2 * B
            r, R = r + r2 * b, R + r2 * B
        a, A = _p_m(memory, magnitude, m, M, k)
        store(work, y + k, d + ya * a)
        store(work, y + padded + k, D + ya * A)
        store(work, x0 + k, p + pa * a)
        store(work, x0 + padded + k, P + pa * A)
        if plan.n_kept > 1:
            store(work, x1 + k, q + qa * a)
            store(work, x1 + padded + k, Q + qa * A)
        if plan.n_kept > 2:
            store(work, x2 + k, r + ra * a)
            store(work, x2 + padded + k, R + ra * A)


@numba.njit
def after(plan, memory, frame, at, s):
    """Complete the new state with `s = P_C(y)`."""
    if plan.kind == TARGET_ONLY:
        _after_target(plan, memory, frame, at, s)
    elif plan.kind == MULTIPLES:
        _after_multiples(plan, memory, frame, at, s)
    else:
        work = memory.work
        for slot in range(plan.n_slots):
            x, share = spectrum_at(plan, slot, frame), _number(memory, at, NEW_STATE + slot, CONSISTENT)
            for i in range(0, 2 * plan.padded, WIDTH):
                new = share * load(work, s + i)
                store(work, x + i, load(work, x + i) + new if slot < plan.n_kept else new)


@numba.njit
def _after_target(plan, memory, frame, at, s):
    work, n_slots, uses_iterate = memory.work, plan.n_slots, plan.uses_iterate
    x0, x1, x2 = spectrum_at(plan, 0, frame), spectrum_at(plan, 1, frame), spectrum_at(plan, 2, frame)
    ps, _, p0, p1, p2 = _row(memory, at, NEW_STATE)
    qs, _, q0, q1, q2 = _row(memory, at, NEW_STATE + 1)
    rs, _, r0, r1, r2 = _row(memory, at, NEW_STATE + 2)
    for i in range(0, 2 * plan.padded, WIDTH):
        new = load(work, s + i)
        p, q, r = ps * new, qs * new, rs * new
        if uses_iterate:
            c = load(work, x0 + i)
            p, q, r = p + p0 * c, q + q0 * c, r + r0 * c
        if n_slots > 1:
            c = load(work, x1 + i)
            p, q, r = p + p1 * c, q + q1 * c, r + r1 * c
            if n_slots > 2:
                c = load(work, x2 + i)
                p, q, r = p + p2 * c, q + q2 * c, r + r2 * c
                store(work, x2 + i, r)
            store(work, x1 + i, q)
        store(work, x0 + i, p)


@numba.njit
def _after_multiples(plan, memory, frame, at, s):
    work, last = memory.work, spectrum_at(plan, plan.n_slots - 1, frame)
    x0, x1, x2 = spectrum_at(plan, 0, frame), spectrum_at(plan, 1, frame), spectrum_at(plan, 2, frame)
    p = _number(memory, at, NEW_STATE, OF_MAGNITUDE)
    q = _number(memory, at, NEW_STATE + 1, OF_MAGNITUDE)
    r = _number(memory, at, NEW_STATE + 2, OF_MAGNITUDE)
    ps = _number(memory, at, NEW_STATE, CONSISTENT)
    qs = _number(memory, at, NEW_STATE + 1, CONSISTENT)
    rs = _number(memory, at, NEW_STATE + 2, CONSISTENT)
    for i in range(0, 2 * plan.padded, WIDTH):
        y, new = load(work, last + i), load(work, s + i)
        store(work, x0 + i, p * y + ps * new)
        store(work, x1 + i, q * y + qs * new)
        if plan.n_slots > 2:
            store(work, x2 + i, r * y + rs * new)
