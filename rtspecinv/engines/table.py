"""Update rules as tables of numbers: the coefficients of the linear combinations in an iteration.

Between its projections a rule only adds real multiples of spectra. Let `x_0` be the iterate, and `x_1, ...`
the spectra carried beside it. For most rules, one iteration of a frame is, with real numbers m, y and b:

    A   = P_M(sum_j m_j x_j)
    s   = P_C(y_A A + sum_j y_j x_j)
    x_i = b_is s + b_iA A + sum_j b_ij x_j

The spectrum to commit is `P_M(sum_j e_j x_j)` or `P_M(P_C(P_M(sum_j e_j x_j)))`. To find these numbers,
`table_of` runs the rule on the unit vectors of a space whose axes are `s, A, x_0, x_1, ...`. It then compares
table and rule on random spectra. So a rule is written only once, in `rtspecinv.updates` or by a user.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from rtspecinv.updates import DifferenceMap, Projection, State, Update

N_SLOTS = 3  # largest number of slots of x
# Columns: s, A, and the first slot of x.
CONSISTENT, OF_MAGNITUDE, STATE = range(3)
N_COLUMNS = STATE + N_SLOTS
# Rows: the argument of P_M, that of P_C, and the first slot of the new x; e follows the last slot.
INTO_P_M, INTO_P_C, NEW_STATE = range(3)
N_ROWS = NEW_STATE + N_SLOTS + 1

TOLERANCE = 1e-9  # relative tolerance of the check
# Scales of the spectra of the check: limits and thresholds of a rule take effect at one of them.
SCALES = (1e-6, 1.0, 1e6)
MOST_KEPT = 64  # largest number of tables kept


@dataclass(frozen=True, eq=False)
class Table:
    """Coefficients of a rule that is linear apart from one `P_M` and then one `P_C` per iteration.

    Attributes:
        step: `(n_open, 3 + n_slots, 2 + n_slots)`, float64: rows m, y, b_0, ..., e; columns s, A, x_0, ...
        first_step: the same for an iteration that is the first one of the newest `n_new` frames.
        start: factors by which a frame's start is multiplied to give the first `x_0, x_1, ...`.
        looks_again: True if the estimate is `P_M(P_C(P_M(e x)))` rather than `P_M(e x)`.
        projects_twice: True if each iteration begins with one more `P_C`: in the row of the argument of
            `P_M`, s is `P_C(x_0)`, and in that of `P_C`, A is `P_M(x_0)`. Only the difference map needs it.
    """

    step: Tensor
    first_step: Tensor
    start: tuple[float, ...]
    looks_again: bool
    projects_twice: bool = False

    @property
    def n_slots(self) -> int:
        """Number of spectra in the state."""
        return len(self.start)


class NoTable(Exception):
    """Error: a rule has no table; the message says why."""


def table_of(update: Update, n_open: int, n_new: int = 1) -> Table | None:
    """Return the table of a rule; None if it has none.

    n_open: number of frames that the rule is applied to, from old to new.
    n_new: number of newest frames that do their first step together: 1 in a stream, all in a batch run;
        default: 1.
    """
    if type(update).__module__ == Update.__module__:  # the step of any other rule may change at any time
        return _kept(update, n_open, n_new)
    return _read_or_none(update, n_open, n_new)


def why_none(update: Update, n_open: int, n_new: int = 1) -> str:
    """Return the reason why a rule has no table, in words; empty if it has one."""
    try:
        _read(update, n_open, n_new)
    except NoTable as error:
        return str(error)
    return ""


@lru_cache(MOST_KEPT)
def _kept(update: Update, n_open: int, n_new: int) -> Table | None:
    return _read_or_none(update, n_open, n_new)


def _read_or_none(update: Update, n_open: int, n_new: int) -> Table | None:
    try:
        return _read(update, n_open, n_new)
    except NoTable:
        return None


def _read(update: Update, n_open: int, n_new: int) -> Table:
    if type(update) is DifferenceMap and update.beta != 1:
        return _of_difference_map(update.beta, n_open)
    n_slots = 1 + update.n_carried
    if n_slots > N_SLOTS:
        raise NoTable(f"it carries {update.n_carried} spectra, more than {N_SLOTS - 1}")
    steps, before = _steps(update, n_open, n_new), dict(vars(update))
    axes = torch.eye(STATE + n_slots, dtype=torch.float64, device="cpu")
    # A unit vector for every frame in place of spectra: (axis, n_open, n_half, pair).
    units = axes[:, :, None, None, None].expand(-1, -1, n_open, 1, 1)
    one = torch.ones(1, 1, 1, dtype=torch.float64, device="cpu")
    try:
        seen = [_run(update, step, list(units)) for step in steps]
        later, first = (_stacked(run.rows, units[0]) for run in seen)
        start = tuple(part.item() for part in update.start(one))
    except NoTable:
        raise
    except Exception as error:  # a user's rule may raise any exception
        raise NoTable(f"it raises {type(error).__name__} on spectra of one frequency: {error}") from error
    now = vars(update)
    if now.keys() != before.keys() or any(now[name] is not value for name, value in before.items()):
        raise NoTable("a step changes an attribute of the rule")
    found = Table(later, first, start, seen[0].estimate == "mcm")
    _check(found, update, steps)
    return found


Step = Callable[[State, Projection, Projection], State]


def _steps(update: Update, n_open: int, n_new: int) -> tuple[Step, Step]:
    """Return two functions: any step of a rule, and the first step of the newest frames."""
    is_new = (torch.arange(n_open, device="cpu") >= n_open - n_new).view(-1, 1, 1)
    return update.step, lambda state, p_m, p_c: update.first_step(state, p_m, p_c, is_new)


class _Observed:
    """A pair of fake projections that record their arguments."""

    def __init__(self, of_magnitude: Tensor, consistent: Tensor) -> None:
        self.order, self.given = "", list[Tensor]()
        self.p_m, self.p_c = self._observe("m", of_magnitude), self._observe("c", consistent)

    def _observe(self, name: str, result: Tensor) -> Projection:
        def observed(value: Tensor) -> Tensor:
            self.order += name
            self.given.append(value)
            return result

        return observed


@dataclass(frozen=True)
class _Run:
    """Record of one step and one estimate: all rows, the order of projections in the estimate, its result."""

    rows: list[Tensor]
    estimate: str
    later: list[Tensor]


def _run(update: Update, step: Step, vectors: list[Tensor]) -> _Run:
    """Run a rule on vectors: `P_C` returns the first, `P_M` the second, and the others are its state."""
    s, a, state = vectors[CONSISTENT], vectors[OF_MAGNITUDE], tuple(vectors[STATE:])
    one, last = _Observed(a, s), _Observed(a, s)
    new = step(state, one.p_m, one.p_c)
    result = update.estimate(state, last.p_m, last.p_c)
    if one.order != "mc":
        raise NoTable(f"a step calls {_spelled(one.order)}, not P_M and then P_C")
    if last.order not in ("m", "mcm"):
        raise NoTable(f"the estimate calls {_spelled(last.order)}, not P_M, or P_M, P_C and P_M")
    if len(new) != len(state):
        raise NoTable(f"a step returns {len(new)} spectra, not 1 + n_carried = {len(state)}")
    rows = [*one.given, *new, last.given[0]]
    if any(row.requires_grad for row in rows):
        raise NoTable("its numbers require gradients")
    return _Run(rows, last.order, [*last.given[1:], result])


def _spelled(order: str) -> str:
    return ", ".join(f"P_{name.upper()}" for name in order) or "no projection"


def _stacked(rows: list[Tensor], unit: Tensor) -> Tensor:
    """Return the table `(n_open, row, axis)` of rows `(axis, n_open, 1, 1)`; equal frames are stored once."""
    table = torch.stack([row.expand_as(unit)[..., 0, 0].mT for row in rows], 1)
    return table[:1].clone().expand_as(table) if (table == table[:1]).all() else table


def _check(found: Table, update: Update, steps: tuple[Step, Step]) -> None:
    """Raise if the rule and its table give different results on random spectra."""
    generator = torch.Generator("cpu").manual_seed(0)
    n_open, _, n_axes = found.step.shape
    scales = torch.tensor(SCALES, dtype=torch.float64, device="cpu").view(-1, 1)
    start, *vectors = scales * torch.randn(
        n_axes + 1, n_open, len(scales), 2, generator=generator, dtype=torch.float64, device="cpu"
    )
    a_and_s = [vectors[OF_MAGNITUDE], vectors[CONSISTENT], vectors[OF_MAGNITUDE]]
    try:
        pairs = [(part, share * start) for part, share in zip(update.start(start), found.start, strict=True)]
        for step, table in zip(steps, (found.step, found.first_step), strict=True):
            seen = _run(update, step, vectors)
            for row, value in zip(table.unbind(1), seen.rows, strict=True):
                pairs.append((value, torch.einsum("ta,atkp->tkp", row, torch.stack(vectors))))
            pairs += zip(seen.later, a_and_s, strict=False)
        same = all(((one - other).abs_().div_(scales) <= TOLERANCE).all() for one, other in pairs)
    except NoTable:
        raise
    except Exception as error:  # a user's rule may raise any exception
        raise NoTable(f"it raises {type(error).__name__} on random spectra: {error}") from error
    if not same:
        raise NoTable("between its projections it does more than to add real multiples of spectra of a frame")


def _of_difference_map(beta: float, n_open: int) -> Table:
    """Return the table of the difference map with two `P_C`: `c' = c + beta (P_C(f_M) - P_M(f_C))`."""
    rows = [
        [1 - 1 / beta, 0.0, 1 / beta],  # f_C, from P_C(c) and c
        [0.0, 1 + 1 / beta, -1 / beta],  # f_M, from P_M(c) and c
        [beta, -beta, 1.0],
        [0.0, 0.0, 1.0],
    ]
    step = torch.tensor(rows, dtype=torch.float64, device="cpu").expand(n_open, -1, -1)
    return Table(step, step, (1.0,), looks_again=True, projects_twice=True)
