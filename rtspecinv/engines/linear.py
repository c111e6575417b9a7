"""Update rules as numbers: how much of what an iteration adds to what.

Between its projections a rule only adds real multiples. With `x_0, x_1, ...` for the iterate and what is
carried beside it, most rules are, for every frame, numbers in

    A = P_M(sum_j m_j x_j)
    s = P_C(y_A A + sum_j y_j x_j)
    x_i = b_is s + b_iA A + sum_j b_ij x_j

These numbers are read off the rule itself, by running it on the unit vectors of a space whose axes are
`s, A, x_0, x_1, ...`: a rule is written once, in `rtspecinv.updates`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rtspecinv.updates import Projection, Update

CONSISTENT, OF_MAGNITUDE, STATE = 0, 1, 2  # axes: s, A, and the first of x
N_SLOTS = 3  # of x, at most
TOLERANCE = 1e-9  # of the check that the numbers say all that the rule does


@dataclass(frozen=True)
class Numbers:
    """A rule that is linear but for one `P_M` and then one `P_C` an iteration.

    Attributes:
        of_frames: `(n_open, 3 + n_slots, 2 + n_slots)`, float64. The rows are those of the argument of
            `P_M`, of the argument of `P_C`, of `x_0, x_1, ...`, and e, which makes the estimate to commit:
            `P_M(e x)`.
        start: share of the newest frame's start that each of `x_0, x_1, ...` gets.
        looks_again: the estimate is `P_M(P_C(P_M(e x)))`.
    """

    of_frames: Tensor
    start: tuple[float, ...]
    looks_again: bool

    @property
    def n_slots(self) -> int:
        """Spectra of the state."""
        return len(self.start)


class _Observed:
    """A pair of projections that remember what they are given."""

    def __init__(self, of_magnitude: Projection, consistent: Projection) -> None:
        self.calls: list[tuple[str, Tensor]] = []
        self.p_m = self._observe("m", of_magnitude)
        self.p_c = self._observe("c", consistent)

    def _observe(self, name: str, projection: Projection) -> Projection:
        def observed(value: Tensor) -> Tensor:
            self.calls.append((name, value))
            return projection(value)

        return observed

    @property
    def order(self) -> str:
        return "".join(name for name, _ in self.calls)


def numbers(update: Update, n_open: int) -> Numbers | None:
    """Numbers of a rule for `n_open` frames from old to new; None if it is not of this kind."""
    n_slots = 1 + update.n_carried
    if n_slots > N_SLOTS:
        return None
    axes = torch.eye(STATE + n_slots, dtype=torch.float64, device="cpu")
    # A vector of the space for every frame, where a rule expects spectra: (axis, n_open, n_half, pair)
    units = axes[:, :, None, None, None].expand(-1, -1, n_open, 1, 1)
    state = tuple(units[STATE:])
    step = _Observed(lambda value: units[OF_MAGNITUDE], lambda value: units[CONSISTENT])
    new = update.step(state, step.p_m, step.p_c)
    last = _Observed(lambda value: units[OF_MAGNITUDE], lambda value: units[CONSISTENT])
    update.estimate(state, last.p_m, last.p_c)
    if step.order != "mc" or last.order not in ("m", "mcm"):
        return None
    rows = [step.calls[0][1], step.calls[1][1], *new, last.calls[0][1]]
    of_frames = torch.stack([row.expand_as(units[0])[..., 0, 0].T for row in rows], 1)
    one = torch.ones(1, 1, 1, dtype=torch.float64, device="cpu")
    found = Numbers(of_frames, tuple(part.item() for part in update.start(one)), last.order == "mcm")
    return found if _says_all(found, update) else None


def _says_all(found: Numbers, update: Update) -> bool:
    """Whether the rule and its numbers do the same to arbitrary spectra."""
    generator = torch.Generator("cpu").manual_seed(0)
    n_open, _, n_axes = found.of_frames.shape

    def spectra() -> Tensor:
        return torch.randn(n_open, 4, 2, generator=generator, dtype=torch.float64, device="cpu")

    vectors = [spectra() for _ in range(n_axes)]
    s, a = vectors[:STATE]
    state = tuple(vectors[STATE:])

    def combined(row: int, vectors: list[Tensor]) -> Tensor:
        return torch.einsum("ta,atkp->tkp", found.of_frames[:, row], torch.stack(vectors))

    step = _Observed(lambda value: a, lambda value: s)
    new = update.step(state, step.p_m, step.p_c)
    last = _Observed(lambda value: a, lambda value: s)
    estimate = update.estimate(state, last.p_m, last.p_c)
    given = [value for _, value in step.calls] + [*new, last.calls[0][1]]
    pairs = [(value, combined(row, vectors)) for row, value in enumerate(given)]
    pairs += [
        (estimate, a),
        *((value, known) for (_, value), known in zip(last.calls[1:], (a, s), strict=False)),
    ]
    start = spectra()
    pairs += [(part, share * start) for part, share in zip(update.start(start), found.start, strict=True)]
    return all(torch.allclose(value, known, rtol=0, atol=TOLERANCE) for value, known in pairs)
