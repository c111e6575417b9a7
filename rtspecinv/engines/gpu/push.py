"""A whole push of one stream in one program: see `fft` for the transform.

Shapes, all but the last known when a kernel is compiled: T frames, at least those of the buffer; N1, N2 and
K1 = N1 / 2 of the transform; R hops of H samples in a frame. Three views of the same numbers take turns:

    slots     (T, K1, N2)   spectra, a tensor for each part
    samples   (T, N1, N2)   frames, before and after a transform
    hops      (T * R, H)    frames, where they overlap: row (t, r) is hop t + r of the buffer

Overlap-add followed by cutting into frames again is one matrix product in the last: hop j of the buffer goes
to all rows with t + r = j, and is the sum of these rows. Nothing leaves the chip between iterations.

The kernels are `FrameBuffer` and `Eager` over again, with the same names where they have the same meaning.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rtspecinv import frames

MIN_COVERAGE = tl.constexpr(frames.MIN_COVERAGE)
MIN_COVERAGE_AT_START = tl.constexpr(frames.MIN_COVERAGE_AT_START)
N_PAST = tl.constexpr(frames.N_PAST)  # 2, or `push` would have to move more than one
assert frames.N_PAST == 2
TINY = tl.constexpr(1.1754943508222875e-38)  # smallest normal number


@triton.jit
def _dot(a, b):
    """Matrix product that keeps float32: three products of halves, on tensor cores."""
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def _swap(values):
    """Last two axes of three exchanged."""
    return tl.permute(values, (0, 2, 1))


@triton.jit
def _matrix(pointer, N: tl.constexpr, M: tl.constexpr):
    return tl.load(pointer + tl.arange(0, N)[:, None] * M + tl.arange(0, M)[None, :])


@triton.jit
def _transposed(pointer, N: tl.constexpr, M: tl.constexpr):
    return tl.load(pointer + tl.arange(0, N)[None, :] * M + tl.arange(0, M)[:, None])


@triton.jit
def _slots(K1: tl.constexpr, N2: tl.constexpr):
    """Of every slot its bin, places of its parts in pairs of reals, sign of the second, whether (0, 0)."""
    n1: tl.constexpr = 2 * K1
    n_fft: tl.constexpr = n1 * N2
    k1, k2 = tl.arange(0, K1)[None, :, None], tl.arange(0, N2)[None, None, :]
    in_first = tl.where(k2 < N2 // 2, n1 * k2, K1 + n1 * (k2 - N2 // 2))
    k = tl.where(k1 == 0, in_first, k1 + n1 * k2)
    beyond = k > n_fft // 2
    k = tl.where(beyond, n_fft - k, k)
    is_pair = (k1 == 0) & (k2 == 0)
    return k, 2 * k, tl.where(is_pair, n_fft, 2 * k + 1), tl.where(beyond, -1.0, 1.0), is_pair


@triton.jit
def _twiddles(tables, N1: tl.constexpr, N2: tl.constexpr):
    """Cosines and minus sines, `(1, K1, N2)` each."""
    K1: tl.constexpr = N1 // 2
    at = tables + N1 * N1 + tl.arange(0, K1)[None, :, None] * N2 + tl.arange(0, N2)[None, None, :]
    return tl.load(at), tl.load(at + K1 * N2)


@triton.jit
def _first_row(values):
    """Row 0 of slots, `(T, N2)`."""
    is_first = tl.arange(0, values.shape[1])[None, :, None] == 0
    return tl.sum(tl.where(is_first, values, 0.0), 1)


@triton.jit
def _with_first_row(values, row):
    is_first = tl.arange(0, values.shape[1])[None, :, None] == 0
    return tl.where(is_first, row[:, None, :], values)


@triton.jit
def _transform(frames, tables, T: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr):
    """Slots of samples `(T, N1, N2)`."""
    K1: tl.constexpr = N1 // 2
    size: tl.constexpr = N2 * N2
    outer = tables + N1 * N1 + N1 * N2
    first = outer + 2 * size
    rows = _dot(tl.reshape(_swap(frames), (T * N2, N1)), _transposed(tables, N1, N1))
    re, im = tl.split(tl.reshape(rows, (T, N2, K1, 2)))
    re, im = _swap(re), _swap(im)
    first_re, first_im = _first_row(re), _first_row(im)

    cos, sin = _twiddles(tables, N1, N2)
    re, im = re * cos - im * sin, re * sin + im * cos
    re, im = tl.reshape(re, (T * K1, N2)), tl.reshape(im, (T * K1, N2))
    cos, sin = _matrix(outer, N2, N2), _matrix(outer + size, N2, N2)
    re, im = _dot(re, cos) + _dot(im, sin), _dot(im, cos) - _dot(re, sin)

    row_re = _dot(first_re, _matrix(first, N2, N2)) + _dot(first_im, _matrix(first + 2 * size, N2, N2))
    row_im = _dot(first_re, _matrix(first + size, N2, N2)) + _dot(first_im, _matrix(first + 3 * size, N2, N2))
    re, im = tl.reshape(re, (T, K1, N2)), tl.reshape(im, (T, K1, N2))
    return _with_first_row(re, row_re), _with_first_row(im, row_im)


@triton.jit
def _inverse_transform(re, im, tables, T: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr):
    """Samples `(T, N1, N2)` of slots: the transpose of `_transform`, weighted."""
    K1: tl.constexpr = N1 // 2
    size: tl.constexpr = N2 * N2
    outer = tables + N1 * N1 + N1 * N2
    first = outer + 2 * size
    is_pair = (tl.arange(0, K1)[None, :, None] == 0) & (tl.arange(0, N2)[None, None, :] == 0)
    weight = tl.where(is_pair, 1.0 / (N1 * N2), 2.0 / (N1 * N2))
    re, im = re * weight, im * weight
    first_re, first_im = _first_row(re), _first_row(im)

    re, im = tl.reshape(re, (T * K1, N2)), tl.reshape(im, (T * K1, N2))
    cos, sin = _matrix(outer, N2, N2), _matrix(outer + size, N2, N2)  # symmetric
    re, im = _dot(re, cos) - _dot(im, sin), _dot(im, cos) + _dot(re, sin)
    re, im = tl.reshape(re, (T, K1, N2)), tl.reshape(im, (T, K1, N2))
    cos, sin = _twiddles(tables, N1, N2)
    re, im = re * cos + im * sin, im * cos - re * sin

    row_re = _dot(first_re, _transposed(first, N2, N2)) + _dot(first_im, _transposed(first + size, N2, N2))
    row_im = _dot(first_re, _transposed(first + 2 * size, N2, N2)) + _dot(
        first_im, _transposed(first + 3 * size, N2, N2)
    )
    rows = tl.join(_swap(_with_first_row(re, row_re)), _swap(_with_first_row(im, row_im)))
    frames = _dot(tl.reshape(rows, (T * N2, N1)), _matrix(tables, N1, N1))
    return _swap(tl.reshape(frames, (T, N2, N1)))


@triton.jit
def _to_magnitude(re, im, magnitude, at_nyquist, signs):
    """`S c / |c|`, and S times the signs where c is 0; slot (0, 0) holds two real numbers."""
    K1: tl.constexpr = re.shape[1]
    N2: tl.constexpr = re.shape[2]
    k, _, _, _, is_pair = _slots(K1, N2)
    largest = tl.maximum(tl.abs(re), tl.abs(im))
    zero = largest < TINY
    scale = 1.0 / tl.where(zero, 1.0, largest)  # squares could overflow
    re = tl.where(zero, tl.load(signs + k), re * scale)
    im = tl.where(zero, 0.0, im * scale)
    gain = magnitude * tl.rsqrt(re * re + im * im)
    return (
        tl.where(is_pair, tl.where(re < 0, -magnitude, magnitude), gain * re),
        tl.where(is_pair, tl.where(im < 0, -at_nyquist, at_nyquist), gain * im),
    )


@triton.jit
def _term(total, numbers, at: tl.constexpr, x, T: tl.constexpr, N_ROWS: tl.constexpr, USED: tl.constexpr):
    """`total + number * x`, left out where the number is 0 in all frames."""
    if (USED >> at) & 1:
        total += tl.load(numbers + tl.arange(0, T) * (N_ROWS * 5) + at)[:, None, None] * x
    return total


@triton.jit
def _sum(
    row: tl.constexpr, numbers, s, a, x0, x1, x2, T: tl.constexpr, N_ROWS: tl.constexpr, USED: tl.constexpr
):
    """What a row of the rule's numbers makes of the spectra, one of their parts."""
    total = tl.zeros_like(x0)
    total = _term(total, numbers, 5 * row, s, T, N_ROWS, USED)
    total = _term(total, numbers, 5 * row + 1, a, T, N_ROWS, USED)
    total = _term(total, numbers, 5 * row + 2, x0, T, N_ROWS, USED)
    total = _term(total, numbers, 5 * row + 3, x1, T, N_ROWS, USED)
    return _term(total, numbers, 5 * row + 4, x2, T, N_ROWS, USED)


@triton.jit
def _of_frames(pointer, T: tl.constexpr, R: tl.constexpr, H: tl.constexpr):
    """A window for every frame, as hops."""
    return tl.load(pointer + (tl.arange(0, T * R) % R)[:, None] * H + tl.arange(0, H)[None, :])


@triton.jit
def _of_buffer(pointer, n_open, T: tl.constexpr, R: tl.constexpr, H: tl.constexpr):
    """Samples of the buffer, as hops."""
    row = tl.arange(0, T * R)
    at = (row // R + row % R)[:, None] * H + tl.arange(0, H)[None, :]
    return tl.load(pointer + at, (row // R < n_open)[:, None], 0.0)


@triton.jit
def _there(present, n_open, T: tl.constexpr, R: tl.constexpr, HAS_FRAME: tl.constexpr):
    """1 for the rows of frames that are there, `(T * R, 1)`."""
    row_t = tl.arange(0, T * R) // R
    older = tl.load(present + row_t + 1, row_t < n_open - 1, 0.0)
    newest: tl.constexpr = 1.0 if HAS_FRAME else 0.0
    return tl.where(row_t == n_open - 1, newest, older)[:, None]


@triton.jit
def _overlapped(
    re, im, same_hop, committed, windows, tables, n_open, T: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr
):
    """Windowed frames of a spectrum, and their overlap-add on top of the committed samples; hops."""
    R: tl.constexpr = same_hop.shape[0] // T
    N: tl.constexpr = N1 * N2
    frames = tl.reshape(_inverse_transform(re, im, tables, T, N1, N2), (T * R, N // R))
    frames *= _of_frames(windows + N, T, R, N // R)
    return frames, _dot(same_hop, frames) + _of_buffer(committed, n_open, T, R, N // R)


@triton.jit
def _to_consistent(
    re,
    im,
    same_hop,
    analysis,
    committed,
    windows,
    tables,
    n_open,
    T: tl.constexpr,
    N1: tl.constexpr,
    N2: tl.constexpr,
):
    _, samples = _overlapped(re, im, same_hop, committed, windows, tables, n_open, T, N1, N2)
    return _transform(tl.reshape(samples * analysis, (T, N1, N2)), tables, T, N1, N2)


# One kernel for all values of these. By default 1, multiples of 16, and frames at addresses divisible by 16
# would have their own, compiled in mid-stream.
@triton.jit(
    do_not_specialize=["n_iter", "n_open", "n_revised", "n_fade", "nothing"],
    do_not_specialize_on_alignment=["frame", "start"],
)
def push(
    frame,  # (n_streams, n_half), if HAS_FRAME
    start,  # (n_streams, n_half, 2), if HAS_START
    hops,  # (n_streams, H), the result
    magnitude,
    present,
    spectra,
    past,
    committed,
    coverage,
    expected,
    windows,  # (5, n_fft): window, dual window, envelope, and the asymmetric ones before and after the start
    tables,
    signs,  # (n_half,), the direction of 0
    numbers,  # (2, T, N_ROWS, 5), of the first iteration and others; the last row has the shares of the start
    n_iter,
    n_open,
    n_revised,
    n_fade,
    nothing,  # 0, but the compiler must not know
    T: tl.constexpr,
    N1: tl.constexpr,
    N2: tl.constexpr,
    R: tl.constexpr,
    N_SLOTS: tl.constexpr,
    USED: tl.constexpr,
    ITERATES: tl.constexpr,
    LOOKS_AGAIN: tl.constexpr,
    COMPENSATED: tl.constexpr,
    HAS_FRAME: tl.constexpr,
    HAS_START: tl.constexpr,
):
    """Advance stream `program_id(0)` by a frame: `Eager.push`, state in the buffers of a `FrameBuffer`."""
    K1: tl.constexpr = N1 // 2
    N: tl.constexpr = N1 * N2
    H: tl.constexpr = N // R
    N_HALF: tl.constexpr = N // 2 + 1
    N_ROWS: tl.constexpr = 4 + N_SLOTS
    stream = tl.program_id(0).to(tl.int64)
    n_hops = n_open - 1 + R

    # -- the frames, each a place further to the left than before -------------------------------------------
    t = tl.arange(0, T)[:, None, None]
    is_open, is_older, is_newest = t < n_open, t < n_open - 1, t == n_open - 1
    bins, at_re, at_im, sign, _ = _slots(K1, N2)
    magnitude += stream * n_open * N_HALF
    goal = tl.load(magnitude + (t + 1) * N_HALF + bins, is_older, 0.0)
    at_nyquist = tl.load(magnitude + (t + 1) * N_HALF + N // 2, is_older, 0.0)
    if HAS_FRAME:
        frame += stream * N_HALF
        goal = tl.where(is_newest, tl.load(frame + bins), goal)
        at_nyquist = tl.where(is_newest, tl.load(frame + N // 2), at_nyquist)
    size = n_open * N_HALF * 2
    spectra += stream * size * N_SLOTS
    x0_re = tl.load(spectra + (t + 1) * N_HALF * 2 + at_re, is_older, 0.0)
    x0_im = tl.load(spectra + (t + 1) * N_HALF * 2 + at_im, is_older, 0.0) * sign
    x1_re, x1_im, x2_re, x2_im = x0_re, x0_im, x0_re, x0_im
    if N_SLOTS > 1:
        x1_re = tl.load(spectra + size + (t + 1) * N_HALF * 2 + at_re, is_older, 0.0)
        x1_im = tl.load(spectra + size + (t + 1) * N_HALF * 2 + at_im, is_older, 0.0) * sign
    if N_SLOTS > 2:
        x2_re = tl.load(spectra + 2 * size + (t + 1) * N_HALF * 2 + at_re, is_older, 0.0)
        x2_im = tl.load(spectra + 2 * size + (t + 1) * N_HALF * 2 + at_im, is_older, 0.0) * sign

    # -- overlap and windows --------------------------------------------------------------------------------
    present += stream * n_open
    committed += stream * n_hops * H
    coverage += stream * n_hops * H
    row = tl.arange(0, T * R)
    row_t, row_hop = row // R, row // R + row % R
    unheard = (row_hop >= n_revised) & (row_t < n_open)
    same_hop = (row_hop[:, None] == row_hop[None, :]) & unheard[:, None] & unheard[None, :]
    same_hop = same_hop.to(tl.float32)
    newest_row = (row_t == n_open - 1)[:, None]
    there = _there(present, n_open, T, R, HAS_FRAME)
    envelope = _of_frames(windows + 2 * N, T, R, H) * there
    covered = _of_buffer(coverage, n_open, T, R, H)
    window = _of_frames(windows, T, R, H)
    if COMPENSATED:
        analysis = there * window / tl.maximum(_dot(same_hop, envelope) + covered, MIN_COVERAGE)
    else:
        analysis = there * tl.where(newest_row, _of_frames(windows + 4 * N, T, R, H), window)

    # -- the start of the newest frame ----------------------------------------------------------------------
    if HAS_FRAME:
        if HAS_START:
            start += stream * N_HALF * 2
            start_re, start_im = tl.load(start + at_re), tl.load(start + at_im) * sign
        else:
            if COMPENSATED:
                others = _dot(same_hop, tl.where(newest_row, 0.0, envelope)) + covered
                first = window / tl.maximum(others, MIN_COVERAGE_AT_START)
            else:
                first = _of_frames(windows + 3 * N, T, R, H)
            first = tl.where(newest_row, first, 0.0)
            re, im = _to_magnitude(x0_re, x0_im, goal, at_nyquist, signs)
            re, im = tl.where(is_newest, 0.0, re), tl.where(is_newest, 0.0, im)
            start_re, start_im = _to_consistent(
                re, im, same_hop, first, committed, windows, tables, n_open, T, N1, N2
            )
        shares = numbers + (3 + N_SLOTS) * 5 + 2
        share = tl.load(shares)
        x0_re, x0_im = (
            tl.where(is_newest, share * start_re, x0_re),
            tl.where(is_newest, share * start_im, x0_im),
        )
        if N_SLOTS > 1:
            share = tl.load(shares + 1)
            x1_re = tl.where(is_newest, share * start_re, x1_re)
            x1_im = tl.where(is_newest, share * start_im, x1_im)
        if N_SLOTS > 2:
            share = tl.load(shares + 2)
            x2_re = tl.where(is_newest, share * start_re, x2_re)
            x2_im = tl.where(is_newest, share * start_im, x2_im)

    # -- iterations -----------------------------------------------------------------------------------------
    for i in range(n_iter):
        # Without these, the compiler lifts loads of constants out of the loop, into registers that it lacks.
        tables += i * nothing
        windows += i * nothing
        signs += i * nothing
        now = numbers + tl.minimum(i, 1) * (T * N_ROWS * 5)
        committed += i * nothing
        re = _sum(0, now, x0_re, x0_re, x0_re, x1_re, x2_re, T, N_ROWS, USED)
        im = _sum(0, now, x0_im, x0_im, x0_im, x1_im, x2_im, T, N_ROWS, USED)
        a_re, a_im = _to_magnitude(re, im, goal, at_nyquist, signs)
        re = _sum(1, now, a_re, a_re, x0_re, x1_re, x2_re, T, N_ROWS, USED)
        im = _sum(1, now, a_im, a_im, x0_im, x1_im, x2_im, T, N_ROWS, USED)
        s_re, s_im = _to_consistent(re, im, same_hop, analysis, committed, windows, tables, n_open, T, N1, N2)
        new_re = _sum(2, now, s_re, a_re, x0_re, x1_re, x2_re, T, N_ROWS, USED)
        new_im = _sum(2, now, s_im, a_im, x0_im, x1_im, x2_im, T, N_ROWS, USED)
        if N_SLOTS > 1:
            other_re = _sum(3, now, s_re, a_re, x0_re, x1_re, x2_re, T, N_ROWS, USED)
            other_im = _sum(3, now, s_im, a_im, x0_im, x1_im, x2_im, T, N_ROWS, USED)
            if N_SLOTS > 2:
                third_re = _sum(4, now, s_re, a_re, x0_re, x1_re, x2_re, T, N_ROWS, USED)
                third_im = _sum(4, now, s_im, a_im, x0_im, x1_im, x2_im, T, N_ROWS, USED)
                x2_re, x2_im = third_re, third_im
            x1_re, x1_im = other_re, other_im
        x0_re, x0_im = new_re, new_im

    # -- what is committed ----------------------------------------------------------------------------------
    re, im = x0_re, x0_im
    if ITERATES:
        re = _sum(2 + N_SLOTS, numbers, x0_re, x0_re, x0_re, x1_re, x2_re, T, N_ROWS, USED)
        im = _sum(2 + N_SLOTS, numbers, x0_im, x0_im, x0_im, x1_im, x2_im, T, N_ROWS, USED)
    re, im = _to_magnitude(re, im, goal, at_nyquist, signs)
    if ITERATES and LOOKS_AGAIN:
        re, im = _to_consistent(re, im, same_hop, analysis, committed, windows, tables, n_open, T, N1, N2)
        re, im = _to_magnitude(re, im, goal, at_nyquist, signs)
    frames, samples = _overlapped(re, im, same_hop, committed, windows, tables, n_open, T, N1, N2)
    there = _there(present, n_open, T, R, HAS_FRAME)
    envelope = _of_frames(windows + 2 * N, T, R, H) * there
    covered, known = _of_buffer(coverage, n_open, T, R, H), _of_buffer(committed, n_open, T, R, H)
    samples /= tl.maximum(_dot(same_hop, envelope) + covered, MIN_COVERAGE)
    h = tl.arange(0, H)[None, :]
    expected += stream * n_fade
    was = tl.load(expected + h, h < n_fade, 0.0)
    weight = 0.5 - 0.5 * tl.cos(3.141592653589793 * h / tl.maximum(n_fade, 1))
    heard = tl.where(h < n_fade, was + weight * (samples - was), samples)
    past += stream * N_PAST * N_HALF * 2
    one = tl.zeros_like(t)  # (T, 1, 1), to address the past once for every frame
    older_re, older_im = tl.load(past + one + 2 * N_HALF + at_re), tl.load(past + one + 2 * N_HALF + at_im)

    # -- the state, shifted by a hop: nobody reads from here on ---------------------------------------------
    tl.debug_barrier()
    tl.store(hops + stream * H + h + 0 * row[:, None], heard, (row == n_revised)[:, None])
    in_buffer = row_hop[:, None] * H + h
    leaving = (row_t == 0)[:, None]
    is_heard, is_next = (row_hop < n_revised)[:, None], (row_hop == n_revised)[:, None]
    once = (row_t < n_open)[:, None] & (
        leaving | (row % R == R - 1)[:, None]
    )  # every hop of the buffer, once
    remains = tl.where(is_next, heard, known + tl.where(leaving & ~is_heard, frames, 0.0))
    tl.store(committed + in_buffer - H, remains, once & (row_hop > 0)[:, None])
    tl.store(committed + (n_hops - 1) * H + h, tl.zeros_like(h).to(tl.float32))
    remains = tl.where(is_next, 1.0, covered + tl.where(leaving & ~is_heard, envelope, 0.0))
    tl.store(coverage + in_buffer - H, remains, once & (row_hop > 0)[:, None])
    tl.store(coverage + (n_hops - 1) * H + h, tl.zeros_like(h).to(tl.float32))
    tl.store(
        expected + h + 0 * row[:, None], samples, once & (row_hop == n_revised + 1)[:, None] & (h < n_fade)
    )
    tl.store(present + row_t, tl.reshape(there, (T * R,)), (row_t < n_open) & (row % R == 0))

    is_first = t == 0
    tl.store(past + one + at_re, older_re, is_first)
    tl.store(past + one + at_im, older_im, is_first)
    tl.store(past + one + 2 * N_HALF + at_re, re, is_first)
    tl.store(past + one + 2 * N_HALF + at_im, im * sign, is_first)
    tl.store(magnitude + t * N_HALF + bins, goal, is_open)
    tl.store(magnitude + t * N_HALF + N // 2, at_nyquist, is_open)
    tl.store(spectra + t * N_HALF * 2 + at_re, x0_re, is_open)
    tl.store(spectra + t * N_HALF * 2 + at_im, x0_im * sign, is_open)
    if N_SLOTS > 1:
        tl.store(spectra + size + t * N_HALF * 2 + at_re, x1_re, is_open)
        tl.store(spectra + size + t * N_HALF * 2 + at_im, x1_im * sign, is_open)
    if N_SLOTS > 2:
        tl.store(spectra + 2 * size + t * N_HALF * 2 + at_re, x2_re, is_open)
        tl.store(spectra + 2 * size + t * N_HALF * 2 + at_im, x2_im * sign, is_open)
