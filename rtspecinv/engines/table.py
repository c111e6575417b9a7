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

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rtspecinv.updates import Projection, State, Update

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
        at_first: the same for a push whose newest frame takes its first step.
        start: share of the newest frame's start that each of `x_0, x_1, ...` gets.
        looks_again: the estimate is `P_M(P_C(P_M(e x)))`.
    """

    of_frames: Tensor
    at_first: Tensor
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
    tables = []
    for step in _steps(update, n_open):
        seen = _run(update, step, list(units))
        if (seen.step, seen.estimate) not in (("mc", "m"), ("mc", "mcm")):
            return None
        tables.append(torch.stack([row.expand_as(units[0])[..., 0, 0].T for row in seen.rows], 1))
    one = torch.ones(1, 1, 1, dtype=torch.float64, device="cpu")
    start = tuple(part.item() for part in update.start(one))
    found = Numbers(tables[0], tables[1], start, seen.estimate == "mcm")
    return found if _says_all(found, update) else None


Step = Callable[[State, Projection, Projection], State]


def _steps(update: Update, n_open: int) -> tuple[Step, Step]:
    """What a rule does in any step, and in the first one of the newest frame."""
    newest = (torch.arange(n_open, device="cpu") == n_open - 1).view(-1, 1, 1)
    return update.step, lambda state, p_m, p_c: update.first_step(state, p_m, p_c, newest)


@dataclass(frozen=True)
class _Run:
    """What a step and an estimate do: orders of their projections, all rows, and the estimate."""

    step: str
    estimate: str
    rows: list[Tensor]
    result: Tensor
    later: list[Tensor]


def _run(update: Update, step: Step, vectors: list[Tensor]) -> _Run:
    """Run a rule where `P_C` and `P_M` give the first two of some vectors, the others being its state."""
    s, a, state = vectors[CONSISTENT], vectors[OF_MAGNITUDE], tuple(vectors[STATE:])
    one = _Observed(lambda value: a, lambda value: s)
    new = step(state, one.p_m, one.p_c)
    last = _Observed(lambda value: a, lambda value: s)
    result = update.estimate(state, last.p_m, last.p_c)
    given, later = [value for _, value in one.calls], [value for _, value in last.calls]
    return _Run(one.order, last.order, [*given, *new, *later[:1]], result, later[1:])


def _says_all(found: Numbers, update: Update) -> bool:
    """Whether the rule and its numbers do the same to arbitrary spectra."""
    generator = torch.Generator("cpu").manual_seed(0)
    n_open, _, n_axes = found.of_frames.shape

    def spectra() -> Tensor:
        return torch.randn(n_open, 4, 2, generator=generator, dtype=torch.float64, device="cpu")

    start, vectors = spectra(), [spectra() for _ in range(n_axes)]
    pairs = [(part, share * start) for part, share in zip(update.start(start), found.start, strict=True)]
    for step, table in zip(_steps(update, n_open), (found.of_frames, found.at_first), strict=True):
        seen = _run(update, step, vectors)
        for row, value in enumerate(seen.rows):
            pairs.append((value, torch.einsum("ta,atkp->tkp", table[:, row], torch.stack(vectors))))
        pairs += zip(
            [seen.result, *seen.later], [vectors[OF_MAGNITUDE], *reversed(vectors[:STATE])], strict=False
        )
    return all(torch.allclose(value, known, rtol=0, atol=TOLERANCE) for value, known in pairs)
