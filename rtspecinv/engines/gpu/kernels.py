"""The operations of `engines.gpu.fused` as Triton kernels, in single and double precision."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtspecinv.engines.table import STATE

BLOCK = 256  # values per program
tl_state = tl.constexpr(STATE)


@triton.jit
def _added(numbers, s, a, x0, x1, x2, N_SLOTS: tl.constexpr):
    """Return the sum of vectors, each multiplied by its number in a row of the table."""
    found = tl.load(numbers) * s + tl.load(numbers + 1) * a + tl.load(numbers + tl_state) * x0
    if N_SLOTS > 1:
        found += tl.load(numbers + tl_state + 1) * x1
    if N_SLOTS > 2:
        found += tl.load(numbers + tl_state + 2) * x2
    return found


@triton.jit
def _rule(
    x, a, y, s, goal, signs, numbers, n_open, n_half,
    N_SLOTS: tl.constexpr, HAS_S: tl.constexpr, TINY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    stream, frame = row // n_open, row % n_open
    bins = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = bins < n_half
    at = (row * n_half + bins) * 2
    slot = n_open * n_half * 2
    in_x = ((stream * N_SLOTS * n_open + frame) * n_half + bins) * 2
    x0_re, x0_im = tl.load(x + in_x, inside, 0.0), tl.load(x + in_x + 1, inside, 0.0)
    x1_re, x1_im, x2_re, x2_im = x0_re, x0_im, x0_re, x0_im
    if N_SLOTS > 1:
        x1_re, x1_im = tl.load(x + in_x + slot, inside, 0.0), tl.load(x + in_x + slot + 1, inside, 0.0)
    if N_SLOTS > 2:
        x2_re = tl.load(x + in_x + 2 * slot, inside, 0.0)
        x2_im = tl.load(x + in_x + 2 * slot + 1, inside, 0.0)
    nothing = tl.zeros_like(x0_re)
    n_rows = 2
    if HAS_S:
        n_rows = 2 + N_SLOTS
    now = numbers + frame * n_rows * (tl_state + N_SLOTS)
    width = tl_state + N_SLOTS
    if HAS_S:
        s_re, s_im = tl.load(s + at, inside, 0.0), tl.load(s + at + 1, inside, 0.0)
        a_re, a_im = tl.load(a + at, inside, 0.0), tl.load(a + at + 1, inside, 0.0)
        n0_re = _added(now, s_re, a_re, x0_re, x1_re, x2_re, N_SLOTS)
        n0_im = _added(now, s_im, a_im, x0_im, x1_im, x2_im, N_SLOTS)
        tl.store(x + in_x, n0_re, inside)
        tl.store(x + in_x + 1, n0_im, inside)
        n1_re, n1_im, n2_re, n2_im = n0_re, n0_im, n0_re, n0_im
        if N_SLOTS > 1:
            n1_re = _added(now + width, s_re, a_re, x0_re, x1_re, x2_re, N_SLOTS)
            n1_im = _added(now + width, s_im, a_im, x0_im, x1_im, x2_im, N_SLOTS)
            tl.store(x + in_x + slot, n1_re, inside)
            tl.store(x + in_x + slot + 1, n1_im, inside)
        if N_SLOTS > 2:
            n2_re = _added(now + 2 * width, s_re, a_re, x0_re, x1_re, x2_re, N_SLOTS)
            n2_im = _added(now + 2 * width, s_im, a_im, x0_im, x1_im, x2_im, N_SLOTS)
            tl.store(x + in_x + 2 * slot, n2_re, inside)
            tl.store(x + in_x + 2 * slot + 1, n2_im, inside)
        x0_re, x0_im, x1_re, x1_im, x2_re, x2_im = n0_re, n0_im, n1_re, n1_im, n2_re, n2_im
        now += N_SLOTS * width
    re = _added(now, nothing, nothing, x0_re, x1_re, x2_re, N_SLOTS)
    im = _added(now, nothing, nothing, x0_im, x1_im, x2_im, N_SLOTS)
    # Scaled by the larger part, so that no square overflows or underflows.
    size = tl.maximum(tl.abs(re), tl.abs(im))
    divisor = tl.where(size > 0, size, 1.0)
    re, im = re / divisor, im / divisor
    length = tl.sqrt(re * re + im * im)
    is_zero = size * length < TINY
    length = tl.where(is_zero, 1.0, length)
    wanted = tl.load(goal + row * n_half + bins, inside, 0.0)
    re = wanted * tl.where(is_zero, tl.load(signs + bins, inside, 0.0), re / length)
    im = wanted * tl.where(is_zero, 0.0, im / length)
    tl.store(a + at, re, inside)
    tl.store(a + at + 1, im, inside)
    now += width
    tl.store(y + at, _added(now, nothing, re, x0_re, x1_re, x2_re, N_SLOTS), inside)
    tl.store(y + at + 1, _added(now, nothing, im, x0_im, x1_im, x2_im, N_SLOTS), inside)


@triton.jit
def _sums(
    frames, present, windows, at, sample, total, inside, n_counted, hop_length, n_fft, n_heard,
    N_OVERLAPS: tl.constexpr,
):  # fmt: skip
    """Return `sample` and `total`, committed samples and window sums at `at`, with the frames added."""
    open_ = inside & (at >= n_heard)
    for q in range(N_OVERLAPS):  # from the oldest frame to the newest
        frame = at // hop_length - (N_OVERLAPS - 1) + q
        k = at - frame * hop_length
        there = open_ & (frame >= 0) & (frame < n_counted) & (k < n_fft)
        sample += tl.load(windows + n_fft + k, there, 0.0) * tl.load(frames + frame * n_fft + k, there, 0.0)
        total += tl.load(windows + 2 * n_fft + k, there, 0.0) * tl.load(present + frame, there, 0.0)
    return sample, total


@triton.jit
def _overlap(
    frames, committed, coverage, present, windows, floors, out,
    n_open, n_fft, hop_length, n_heard,
    N_OVERLAPS: tl.constexpr, COMPENSATED: tl.constexpr, NEWEST_ONLY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if NEWEST_ONLY:
        stream, frame, n_counted = row, n_open - 1, n_open - 1
    else:
        stream, frame, n_counted = row // n_open, (row % n_open).to(tl.int32), n_open
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < n_fft
    at = frame * hop_length + n
    n_samples = (n_open - 1) * hop_length + n_fft
    frames += stream * n_open * n_fft
    present += stream * n_open
    sample = tl.load(committed + stream * n_samples + at, inside, 0.0)
    total = tl.load(coverage + stream * n_samples + at, inside, 0.0)
    sample, total = _sums(
        frames, present, windows, at, sample, total, inside, n_counted, hop_length, n_fft, n_heard, N_OVERLAPS
    )
    if COMPENSATED:
        window = tl.load(windows + n, inside, 0.0)
        if NEWEST_ONLY:
            floors += 1
        window /= tl.maximum(total, tl.load(floors))
    elif NEWEST_ONLY:
        window = tl.load(windows + 3 * n_fft + n, inside, 0.0)
    else:
        window = tl.load(windows + tl.where(frame == n_open - 1, 4 * n_fft, 0) + n, inside, 0.0)
    if not NEWEST_ONLY:
        window *= tl.load(present + frame)
    tl.store(out + row * n_fft + n, sample * window, inside)


@triton.jit
def _commit(
    frames, committed, coverage, present, expected, windows, floors, fade, good,
    new_committed, new_coverage, new_expected, hop,
    n_open, n_fft, hop_length, n_heard, n_fade,
    N_OVERLAPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    stream = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    n_samples = (n_open - 1) * hop_length + n_fft
    inside = at < n_samples
    frames += stream * n_open * n_fft
    present += stream * n_open
    old = tl.load(committed + stream * n_samples + at, inside, 0.0)
    covered = tl.load(coverage + stream * n_samples + at, inside, 0.0)
    sample, total = _sums(
        frames, present, windows, at, old, covered, inside, n_open, hop_length, n_fft, n_heard, N_OVERLAPS
    )
    known = sample / tl.maximum(total, tl.load(floors))
    i = at - n_heard
    fades = (i >= 0) & (i < n_fade)
    was = tl.load(expected + stream * n_fade + i, fades, 0.0)
    heard = tl.where(fades, was + tl.load(fade + i, fades, 0.0) * (known - was), known)
    in_hop = (i >= 0) & (i < hop_length)
    is_good = tl.load(good + stream) != 0
    tl.store(hop + stream * hop_length + i, tl.where(is_good, heard, 0.0), in_hop)
    ahead = (i >= hop_length) & (i < hop_length + n_fade)
    tl.store(new_expected + stream * n_fade + i - hop_length, known, ahead)
    # New committed samples: those that were returned, the hop, then the rest with the frame that leaves.
    leaves = (i >= hop_length) & (at < n_fft)
    old += tl.load(windows + n_fft + at, leaves, 0.0) * tl.load(frames + at, leaves, 0.0)
    covered += tl.load(windows + 2 * n_fft + at, leaves, 0.0) * tl.load(present)
    moves = (at >= hop_length) & (at < n_samples + hop_length)
    to = stream * n_samples + at - hop_length
    tl.store(new_committed + to, tl.where(in_hop, heard, old), moves)
    tl.store(new_coverage + to, tl.where(in_hop, 1.0, covered), moves)


def launch_rule(
    x: Tensor, a: Tensor, y: Tensor, s: Tensor | None, goal: Tensor, signs: Tensor, numbers: Tensor
) -> None:
    """See `fused.rule`."""
    n_slots, n_open, n_half, _ = x.shape[-4:]
    assert all(tensor.is_contiguous() for tensor in (x, a, y, goal, x if s is None else s))
    n_streams = x.numel() // (n_slots * n_open * n_half * 2)
    _rule[(n_streams * n_open, triton.cdiv(n_half, BLOCK))](
        x, a, y, a if s is None else s, goal, signs, numbers, n_open, n_half,
        N_SLOTS=n_slots, HAS_S=s is not None, TINY=torch.finfo(x.dtype).tiny, BLOCK=BLOCK,
    )  # fmt: skip


def launch_overlap(
    frames: Tensor, committed: Tensor, coverage: Tensor, present: Tensor, windows: Tensor, floors: Tensor,
    hop_length: int, n_heard: int, compensated: bool, newest_only: bool,
) -> Tensor:  # fmt: skip
    """See `fused.overlap`."""
    n_open, n_fft = frames.shape[-2:]
    frames = frames.contiguous()
    n_streams = frames.numel() // (n_open * n_fft)
    out = torch.empty_like(
        frames[..., 0, :] if newest_only else frames, memory_format=torch.contiguous_format
    )
    _overlap[(n_streams if newest_only else n_streams * n_open, triton.cdiv(n_fft, BLOCK))](
        frames, committed, coverage, present, windows, floors, out,
        n_open, n_fft, hop_length, n_heard,
        N_OVERLAPS=-(-n_fft // hop_length), COMPENSATED=compensated, NEWEST_ONLY=newest_only, BLOCK=BLOCK,
    )  # fmt: skip
    return out


def launch_commit(
    frames: Tensor, committed: Tensor, coverage: Tensor, present: Tensor, expected: Tensor, windows: Tensor,
    floors: Tensor, fade: Tensor, good: Tensor, n_heard: int,
    new_committed: Tensor, new_coverage: Tensor, new_expected: Tensor, hop: Tensor,
) -> None:  # fmt: skip
    """See `fused.commit`."""
    n_open, n_fft = frames.shape[-2:]
    frames = frames.contiguous()
    n_streams, hop_length = frames.numel() // (n_open * n_fft), hop.shape[-1]
    n_places = committed.shape[-1] + hop_length
    _commit[(n_streams, triton.cdiv(n_places, BLOCK))](
        frames, committed, coverage, present, expected, windows, floors, fade, good.view(torch.uint8),
        new_committed, new_coverage, new_expected, hop,
        n_open, n_fft, hop_length, n_heard, fade.shape[-1],
        N_OVERLAPS=-(-n_fft // hop_length), BLOCK=BLOCK,
    )  # fmt: skip


def try_out() -> None:
    """Compile and run a kernel on the current device; raises Triton's error if that fails."""
    zeros = torch.zeros(1, 1, 1, 2, device="cuda", dtype=torch.float32)
    numbers = torch.zeros(1, 2, STATE + 1, device="cuda", dtype=torch.float32)
    launch_rule(zeros, zeros[0].clone(), zeros[0].clone(), None, zeros[0, ..., 0], zeros[0, 0, :, 0], numbers)
