"""Fused operations: everything between the Fourier transforms of a push, in three kernels.

    rule      the linear combinations of the update rule, and P_M
    overlap   overlap-add on the committed samples, cut into windowed frames
    commit    the hop that is now final, and the samples that remain

They are registered as torch operations, `torch.ops.rtspecinv.*`, so that torch's profiler shows each as one.
On a GPU they run as Triton kernels (`engines.gpu.kernels`). Elsewhere, and if Triton does not work, they run
in plain torch. The plain torch code is the reference for the kernels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from rtspecinv.common.warning import warn

# Rows of `windows`.
WINDOW, DUAL, ENVELOPE, START, NEWEST = range(5)

_LIBRARY = torch.library.Library("rtspecinv", "FRAGMENT")  # type: ignore[no-untyped-call]
_SCHEMAS = (
    "rule(Tensor(a!) x, Tensor(b!) a, Tensor(c!) y, Tensor? s, Tensor goal, Tensor signs, Tensor numbers)"
    " -> ()",
    "overlap(Tensor frames, Tensor committed, Tensor coverage, Tensor present, Tensor windows, Tensor floors,"
    " int hop_length, int n_heard, bool compensated, bool newest_only) -> Tensor",
    "commit(Tensor frames, Tensor committed, Tensor coverage, Tensor present, Tensor expected,"
    " Tensor windows, Tensor floors, Tensor fade, Tensor good, int n_heard, Tensor(a!) new_committed,"
    " Tensor(b!) new_coverage, Tensor(c!) new_expected, Tensor(d!) hop) -> ()",
)


def rule(
    x: Tensor, a: Tensor, y: Tensor, s: Tensor | None, goal: Tensor, signs: Tensor, numbers: Tensor
) -> None:
    """Set `x <- b (s, a, x)` if s is given, then `a <- P_M(m x)` and `y <- n (a, x)`, in place.

    Args:
        x: state of the rule, `(*batch, n_slots, n_open, n_half, 2)`.
        a, y, s: `(*batch, n_open, n_half, 2)`.
        goal: magnitudes, `(*batch, n_open, n_half)`.
        signs: signs that bins of value 0 get, `(n_half,)`.
        numbers: `(n_open, n_rows, 2 + n_slots)`, columns as in `engines.table`; rows are those of b, if s is
            given, then m and n.
    """
    kernels = _kernels(x)
    if kernels is not None:
        kernels.launch_rule(x, a, y, s, goal, signs, numbers)
        return
    n_slots = x.shape[-4]

    def added(row: int, *vectors: Tensor | None) -> Tensor:
        parts = [
            numbers[:, row, i, None, None] * vector for i, vector in enumerate(vectors) if vector is not None
        ]
        return torch.stack(parts).sum(0)

    if s is not None:
        x.copy_(torch.stack([added(i, s, a, *x.unbind(-4)) for i in range(n_slots)], -4))
    into_p_m, into_p_c = numbers.shape[1] - 2, numbers.shape[1] - 1
    state = x.unbind(-4)
    c = added(into_p_m, None, None, *state)
    size = c.abs().amax(-1, keepdim=True)
    unit = c / size.where(size > 0, 1)
    length = unit.square().sum(-1, keepdim=True).sqrt()
    zero = size * length < torch.finfo(x.dtype).tiny
    direction = torch.stack([signs, torch.zeros_like(signs)], -1)
    a.copy_(goal.unsqueeze(-1) * torch.where(zero, direction, unit / length.where(length > 0, 1)))
    y.copy_(added(into_p_c, None, a, *state))


def overlap(
    frames: Tensor,
    committed: Tensor,
    coverage: Tensor,
    present: Tensor,
    windows: Tensor,
    floors: Tensor,
    hop_length: int,
    n_heard: int,
    compensated: bool,
    newest_only: bool,
) -> Tensor:
    """Return the overlap-added samples of the frames, cut into windowed frames to be transformed.

    Args:
        frames: result of the inverse transform, not windowed, `(*batch, n_open, n_fft)`.
        committed, coverage: samples and their window sums, `(*batch, n_samples)`.
        present: 1 for a frame, 0 for none, `(*batch, n_open)`.
        windows: `(5, n_fft)`: the window, its dual, both with the scale of their transforms, the envelope,
            and the windows of the newest frame without and with its own samples in the sum.
        floors: least window sums, of all frames and of the newest without its own samples, `(2,)`.
        hop_length: samples from frame to frame.
        n_heard: number of samples that are final, so that no frame changes them.
        compensated: whether to divide by the window sum.
        newest_only: whether to return the newest frame only, from the samples of the others.

    Returns:
        Frames `(*batch, n_open, n_fft)`, or with `newest_only` `(*batch, n_fft)`.
    """
    kernels = _kernels(frames)
    if kernels is not None:
        found: Tensor = kernels.launch_overlap(
            frames,
            committed,
            coverage,
            present,
            windows,
            floors,
            hop_length,
            n_heard,
            compensated,
            newest_only,
        )
        return found
    n_fft = frames.shape[-1]
    counted = present.clone()
    if newest_only:
        counted[..., -1] = 0
        frames = torch.cat([frames[..., :-1, :], torch.zeros_like(frames[..., :1, :])], -2)
    samples, total = _sums(frames, committed, coverage, counted, windows, hop_length, n_heard)
    if newest_only:
        window = windows[START]
        if compensated:
            window = windows[WINDOW] / total[..., -n_fft:].clamp_min(floors[1])
        return samples[..., -n_fft:] * window
    window = windows[WINDOW].repeat(frames.shape[-2], 1)
    if compensated:
        window = window / total.unfold(-1, n_fft, hop_length).clamp_min(floors[0])
    else:
        window[-1] = windows[NEWEST]
    return samples.unfold(-1, n_fft, hop_length) * (present.unsqueeze(-1) * window)


def commit(
    frames: Tensor,
    committed: Tensor,
    coverage: Tensor,
    present: Tensor,
    expected: Tensor,
    windows: Tensor,
    floors: Tensor,
    fade: Tensor,
    good: Tensor,
    n_heard: int,
    new_committed: Tensor,
    new_coverage: Tensor,
    new_expected: Tensor,
    hop: Tensor,
) -> None:
    """Write the final hop, silence where `good` is False, and the remaining samples; see `FrameBuffer`.

    Args:
        expected: beginning of the hop as the previous push predicted it, `(*batch, n_fade)`.
        fade: weights of the fade from the expected to the actual samples, `(n_fade,)`.
        good: False for streams whose hop is to be silent, bool `(*batch,)`.
        new_committed, new_coverage, new_expected: outputs, of the shapes of those without "new".
        hop: output, `(*batch, hop_length)`.

    The other arguments are those of `overlap`.
    """
    kernels = _kernels(frames)
    if kernels is not None:
        kernels.launch_commit(
            frames,
            committed,
            coverage,
            present,
            expected,
            windows,
            floors,
            fade,
            good,
            n_heard,
            new_committed,
            new_coverage,
            new_expected,
            hop,
        )
        return
    hop_length, n_fft, n_fade = hop.shape[-1], frames.shape[-1], fade.shape[-1]
    samples, total = _sums(frames, committed, coverage, present, windows, hop_length, n_heard)
    end = n_heard + hop_length
    known = (samples / total.clamp_min(floors[0]))[..., n_heard : end + n_fade]
    heard, ahead = known.tensor_split([hop_length], -1)
    began = torch.lerp(expected, heard[..., :n_fade], fade)
    heard = torch.cat([began, heard[..., n_fade:]], -1)
    rest = (0, committed.shape[-1] - n_fft)
    leaving = torch.nn.functional.pad(windows[DUAL] * frames[..., 0, :], rest)
    envelope = torch.nn.functional.pad(windows[ENVELOPE] * present[..., :1], rest)
    for old, final, added, new in (
        (committed, heard, leaving, new_committed),
        (coverage, torch.ones_like(heard), envelope, new_coverage),
    ):
        later = (old + added)[..., end:]
        moved = torch.cat([old[..., hop_length:n_heard], final, later, torch.zeros_like(heard)], -1)
        new.copy_(moved[..., -old.shape[-1] :])
    new_expected.copy_(ahead)
    hop.copy_(torch.where(good.unsqueeze(-1), heard, 0))


def _sums(
    frames: Tensor,
    committed: Tensor,
    coverage: Tensor,
    present: Tensor,
    windows: Tensor,
    hop_length: int,
    n_heard: int,
) -> tuple[Tensor, Tensor]:
    """Return samples and window sums `(*batch, n_samples)`, frames added to the committed ones."""
    found = []
    for base, parts in (
        (committed, windows[DUAL] * frames),
        (coverage, windows[ENVELOPE] * present.unsqueeze(-1)),
    ):
        total = base.clone()
        for t, part in enumerate(parts.unbind(-2)):
            total[..., t * hop_length : t * hop_length + parts.shape[-1]] += part
        total[..., :n_heard] = base[..., :n_heard]
        found.append(total)
    return found[0], found[1]


def _kernels(like: Tensor) -> Any:
    """Return the module of Triton kernels for a tensor's device; None if plain torch is used there."""
    return _on_a_gpu() if like.device.type == "cuda" else None


@lru_cache(1)
def _on_a_gpu() -> Any:
    try:
        from rtspecinv.engines.gpu import kernels

        kernels.try_out()
    except Exception as error:  # Triton is missing, or has no C compiler, or does not support this GPU
        warn(
            f"The engine 'cuda_graph' is slower without Triton, which does not work here: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        return None
    return kernels


for _schema, _function in zip(_SCHEMAS, (rule, overlap, commit), strict=True):
    _LIBRARY.define(_schema)  # type: ignore[no-untyped-call]
    _LIBRARY.impl(_function.__name__, _function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]

OPERATIONS = torch.ops.rtspecinv
