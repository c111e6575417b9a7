"""P_M and the update rules, compiled, frame by frame: what is done to a spectrum before and after P_C.

Frames are counted through: those that are open in a stream, those of all items of a batch.
"""

from __future__ import annotations

import numba

from rtspecinv.engines.cpu.lanes import WIDTH, broadcast, direction, load, store
from rtspecinv.engines.cpu.memory import ACCELERATED, ADMM, DIFFERENCE_MAP, LINEAR, spectrum_at


@numba.njit(forceinline=True)
def _p_m(memory, magnitude, c, k, padded):
    """Lanes of P_M(c), and of c."""
    work = memory.work
    a, A, m = load(work, c + k), load(work, c + padded + k), load(work, magnitude + k)
    b, B = direction(a, A, load(memory.signs, k))
    return m * b, m * B, a, A


@numba.njit
def to_magnitude(plan, memory, frame, c, to):
    """P_M of the spectrum at `c`."""
    padded, work = plan.padded, memory.work
    for k in range(0, padded, WIDTH):
        a, A, _, _ = _p_m(memory, frame * padded, c, k, padded)
        store(work, to + k, a)
        store(work, to + padded + k, A)


@numba.njit
def before(plan, memory, frame):
    """Spectrum y that P_C is applied to; what the rule makes of the rest takes the place of the iterate."""
    padded, work, c, y = plan.padded, memory.work, spectrum_at(plan, 0, frame), plan.y
    magnitude, one, at = frame * padded, spectrum_at(plan, 1, frame), 6 * frame
    if plan.rule == LINEAR:
        y_a, y_c = broadcast(memory.constants[at]), broadcast(memory.constants[at + 1])
        b_c, b_a = broadcast(memory.constants[at + 3]), broadcast(memory.constants[at + 4])
        b_p = broadcast(memory.constants[at + 5])
        for k in range(0, padded, WIDTH):
            a, A, b, B = _p_m(memory, magnitude, c, k, padded)
            store(work, y + k, y_a * a + y_c * b)
            store(work, y + padded + k, y_a * A + y_c * B)
            b, B = b_c * b + b_a * a, b_c * B + b_a * A
            if plan.n_slots > 1:
                b = b + b_p * load(work, one + k)
                B = B + b_p * load(work, one + padded + k)
            store(work, c + k, b)
            store(work, c + padded + k, B)
    elif plan.rule == DIFFERENCE_MAP:  # y = A + (A - c) / beta, rest c - beta P_M(s - (s - c) / beta)
        inverse, beta = broadcast(memory.constants[at]), broadcast(memory.constants[at + 2])
        for k in range(0, padded, WIDTH):
            a, A, b, B = _p_m(memory, magnitude, c, k, padded)
            store(work, y + k, a + inverse * (a - b))
            store(work, y + padded + k, A + inverse * (A - B))
            d, D, m = load(work, one + k), load(work, one + padded + k), load(work, magnitude + k)
            d, D = direction(d - inverse * (d - b), D - inverse * (D - B), load(memory.signs, k))
            store(work, c + k, b - beta * (m * d))
            store(work, c + padded + k, B - beta * (m * D))
    elif plan.rule == ADMM:  # y = P_M(z - u) + u, which takes the place of u
        for k in range(0, padded, WIDTH):
            a, A, m = load(work, c + k), load(work, c + padded + k), load(work, magnitude + k)
            b, B = load(work, one + k), load(work, one + padded + k)
            d, D = direction(a - b, A - B, load(memory.signs, k))
            b, B = m * d + b, m * D + B
            store(work, y + k, b)
            store(work, y + padded + k, B)
            store(work, one + k, b)
            store(work, one + padded + k, B)
    else:
        to_magnitude(plan, memory, frame, c, y)


@numba.njit
def after(plan, memory, frame, s):
    """Find the new iterate, `s = P_C(y)` being known."""
    work, n, c, one = memory.work, 2 * plan.padded, spectrum_at(plan, 0, frame), spectrum_at(plan, 1, frame)
    first, second = broadcast(memory.constants[6 * frame]), broadcast(memory.constants[6 * frame + 1])
    third, fourth = broadcast(memory.constants[6 * frame + 2]), broadcast(memory.constants[6 * frame + 3])
    if plan.rule == ADMM:  # z' = (rho y + s) / (1 + rho), u' = y - z'
        for i in range(0, n, WIDTH):
            y = load(work, one + i)
            z = first * y + second * load(work, s + i)
            store(work, c + i, z)
            store(work, one + i, y - z)
    elif plan.rule == ACCELERATED:  # t' = (1 - gamma) d + gamma s, c' = t' + alpha (t' - t), d' likewise
        d = spectrum_at(plan, 2, frame)
        for i in range(0, n, WIDTH):
            t = fourth * load(work, d + i) + third * load(work, s + i)
            change = t - load(work, one + i)
            store(work, c + i, t + first * change)
            store(work, one + i, t)
            store(work, d + i, t + second * change)
    else:
        for i in range(0, n, WIDTH):
            new = load(work, s + i)
            store(work, c + i, load(work, c + i) + third * new)
            if plan.n_slots > 1:
                store(work, one + i, new)
