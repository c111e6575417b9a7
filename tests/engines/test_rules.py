"""Tests of the tables of rules, and of compiled rules of users."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from contract import verify_contract
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import SMALL, sound

from rtspecinv import STFT, StreamingInverter, invert
from rtspecinv.batch import Iteration
from rtspecinv.engines.table import Table, table_of, why_none
from rtspecinv.updates import RAAR, RULES, AcceleratedGriffinLim, DifferenceMap, GriffinLim, Update

fast = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("numba", "rocket_fft")),
    reason='numba or rocket-fft is missing: pip install "rtspecinv[fast]"',
)
# Relative to the largest magnitude, as in test_engines and test_engines_batch.
TOLERANCE, TOLERANCE_OF_BATCH = 1e-6, 1e-9

KNOWN = [*RULES.values(), RAAR(momentum=0.3), GriffinLim(0.5), AcceleratedGriffinLim(0.5, 0.3, 1.1)]


@dataclass(frozen=True)
class Relaxed(Update):
    """Relaxed Griffin-Lim."""

    r: float = 0.8

    def step(self, state, p_m, p_c):
        (c,) = state
        return ((1 - self.r) * c + self.r * p_c(p_m(c)),)


@dataclass(frozen=True)
class HeavyBall(Update):
    """Rule that carries the previous iterate, at first the start itself, and has its own estimate."""

    n_carried = 1

    def start(self, spectrum):
        return spectrum, spectrum

    def step(self, state, p_m, p_c):
        c, before = state
        a = p_m(c)
        return 0.7 * p_c(2 * a - c) + 0.3 * a + 0.2 * (c - before), c

    def estimate(self, state, p_m, p_c):
        c, before = state
        return p_m(0.75 * c + 0.25 * before)


class Plain(Update):
    """Rule that is no dataclass: two instances are equal, but their steps differ."""

    def __init__(self, share):
        self.share = share

    def step(self, state, p_m, p_c):
        return (self.share * p_c(p_m(state[0])),)


@dataclass(frozen=True, slots=True)
class Slotted(Update):
    share: float

    def step(self, state, p_m, p_c):
        return (self.share * p_c(p_m(state[0])),)


class Clipped(Update):
    limit = 1.0

    def step(self, state, p_m, p_c):
        return (p_c(p_m(state[0])).clamp(-self.limit, self.limit),)


class ClippedHigh(Clipped):
    limit = 1e4


class Twice(Update):
    def step(self, state, p_m, p_c):
        return (p_c(p_m(p_c(p_m(state[0])))),)


class Blurred(Update):
    """Rule that adds each frequency to the next, so that it has no table."""

    def step(self, state, p_m, p_c):
        return (p_c(p_m(state[0])).roll(1, -2),)


class Averaged(Update):
    """Rule that adds frames to each other, so that it has no table."""

    def step(self, state, p_m, p_c):
        s = p_c(p_m(state[0]))
        return (s - s.mean(-3, keepdim=True),)


class Many(Update):
    n_carried = 3

    def start(self, spectrum):
        return (spectrum,) * 4

    def step(self, state, p_m, p_c):
        return p_c(p_m(state[0])), *state[:3]


class Wrong(Update):
    def step(self, state, p_m, p_c):
        return (p_c(p_m(state[0])) * torch.ones(33, 1, dtype=torch.float64)[:, :, None, None, None].sum(3),)


class Bounded(DifferenceMap):
    """Subclass of a rule of the package, with another step."""

    def step(self, state, p_m, p_c):
        return (super().step(state, p_m, p_c)[0].clamp(-10, 10),)


class Learned(Update):
    def __init__(self):
        self.r = torch.ones((), dtype=torch.float64, requires_grad=True)

    def step(self, state, p_m, p_c):
        return (self.r * p_c(p_m(state[0])),)


class Counted(Update):
    """Rule that takes larger steps from its seventh step on."""

    n = 0

    def step(self, state, p_m, p_c):
        self.n += 1
        return ((1.5 if self.n > 6 else 1.0) * p_c(p_m(state[0])),)


OTHER = {
    Clipped(): "real multiples",
    ClippedHigh(): "real multiples",
    Twice(): "calls P_M, P_C, P_M, P_C, not P_M and then P_C",
    Blurred(): "real multiples",
    Averaged(): "real multiples",
    Many(): "carries 3 spectra, more than 2",
    Wrong(): "raises",
    Bounded(0.8): "P_M, P_C, P_C, P_M",
    Learned(): "require gradients",
    Counted(): "changes an attribute",
}


# -- tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", [*KNOWN, Relaxed(), HeavyBall()], ids=str)
def test_every_linear_rule_has_a_table(update):
    found = table_of(update, 5)
    assert found is not None
    assert found.step.shape == found.first_step.shape == (5, 3 + found.n_slots, 2 + found.n_slots)
    assert found.n_slots == 1 + update.n_carried
    assert not found.projects_twice


def test_numbers_are_those_of_the_papers():
    fast = table_of(GriffinLim(momentum=0.5), 2)
    assert fast.step[1].tolist() == [  # s, A, c, s before
        [0, 0, 1, 0],
        [0, 1, 0, 0],
        [1.5, 0, 0, -0.5],
        [1, 0, 0, 0],
        [0, 0, 0, 1],
    ]
    assert fast.first_step[:, 2].tolist() == [[1.5, 0, 0, -0.5], [1, 0, 0, 0]]
    assert not fast.looks_again
    raar = table_of(RAAR(0.5, ramp=0.25), 3)
    assert raar.step[:, 1].tolist() == [[0, 2, -1]] * 3
    assert raar.step[:, 2].tolist() == [[beta, 1 - 2 * beta, beta] for beta in (0.25, 0.5, 0.75)]
    assert raar.looks_again


def test_a_whole_spectrogram_starts_with_the_first_step():
    table = table_of(GriffinLim(momentum=0.5), 3, n_new=3)
    assert table.first_step[:, 2].tolist() == [[1, 0, 0, 0]] * 3


def steps(table: Table, update: Update) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a step of the rule and the same step by its table, with arbitrary functions as P_M and P_C."""
    c = torch.randn(4, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, s = torch.tanh(c), torch.sin(c)
    if table.projects_twice:
        m, y, new = table.step[0, :3]
        other = torch.tanh(m[0] * s + m[2] * c)
        return update.step((c,), torch.tanh, torch.sin)[0], new[0] * torch.sin(y[1] * a + y[2] * c) + new[
            1
        ] * other + new[2] * c
    y, new = table.step[0, 1:3]
    return update.step((c,), torch.tanh, torch.sin)[0], new[0] * torch.sin(y[1] * a + y[2] * c) + new[
        1
    ] * a + new[2] * c


@pytest.mark.parametrize(
    "update", [DifferenceMap(), DifferenceMap(0.8), DifferenceMap(1.7), Relaxed()], ids=str
)
def test_a_table_describes_a_step(update):
    table = table_of(update, 4)
    assert table is not None
    assert table.projects_twice == (isinstance(update, DifferenceMap) and update.beta != 1)
    assert torch.allclose(*steps(table, update))


def test_equal_rules_have_separate_tables():
    """A rule that is no dataclass equals all rules of its class; a rule may change between two streams."""
    rule, other = Plain(0.5), Plain(0.25)
    assert rule == other
    for one, two in ((rule, other), (Slotted(0.5), Slotted(0.25)), (Relaxed(0.5), Relaxed(0.25))):
        assert [table_of(r, 2).step[0, 2, 0].item() for r in (one, two)] == [0.5, 0.25]
    rule.share = 0.75
    assert table_of(rule, 2).step[0, 2, 0] == 0.75
    rule.share = torch.tensor(0.5, dtype=torch.float64)  # its value may change in place
    assert table_of(rule, 2).step[0, 2, 0] == 0.5
    rule.share.fill_(0.25)
    assert table_of(rule, 2).step[0, 2, 0] == 0.25
    assert table_of(RAAR(0.3), 2) is table_of(RAAR(0.3), 2)  # tables of the package's rules are cached


@pytest.mark.parametrize(("update", "why"), OTHER.items(), ids=lambda x: type(x).__name__)
def test_other_rules_have_no_table(update, why):
    assert table_of(update, 3) is None
    assert why in why_none(update, 3)


# -- engines -----------------------------------------------------------------------------------------------


@fast
@pytest.mark.parametrize(("update", "why"), OTHER.items(), ids=lambda x: type(x).__name__)
def test_a_rule_without_a_table_runs_in_plain_torch(update, why):
    assert StreamingInverter(SMALL, update=update).engine == "eager"
    with pytest.raises(ValueError, match=rf"engine='numba' has no compiled code for.*{why}.*use 'auto'"):
        StreamingInverter(SMALL, update=update, engine="numba")
    magnitude = SMALL.magnitude(sound(200))
    with pytest.raises(ValueError, match=rf"engine='numba' has no compiled code for.*{why}.*use 'auto'"):
        invert(magnitude, SMALL, update=update, engine="numba")
    if not isinstance(update, (Wrong, Counted)):  # these rules differ in every step
        plain, chosen = (
            invert(magnitude, SMALL, update=update, n_iter=2, init="zeros", engine=engine).detach()
            for engine in ("eager", "auto")
        )
        assert torch.equal(plain, chosen)


def assert_streams_agree(stft: STFT, update: Update, seed: int, **options: Any) -> None:
    """Compare every push from the state of the reference, because rules amplify rounding errors."""
    magnitude = stft.magnitude(sound(7 * stft.hop_length, 2, seed=seed))
    eager, compiled = (
        StreamingInverter(stft, update=update, engine=engine, batch_shape=(2,), **options)._engine
        for engine in ("eager", "numba")
    )
    assert compiled.name == "numba"
    for frame in [*magnitude.unbind(-1), None, None, None]:
        for name, state in compiled.state().items():
            state.copy_(eager.state()[name])
        compiled.changed()
        expected = eager.push(frame)
        assert (compiled.push(frame) - expected).abs().max() <= TOLERANCE * magnitude.max()


def record(seen: list[torch.Tensor], now: Iteration) -> None:
    seen.append(now.actual)


def assert_batches_agree(stft: STFT, update: Update, seed: int, n_iter: int) -> None:
    magnitude = stft.magnitude(sound(20 * stft.hop_length, 2, seed=seed))
    turns = torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    seen: dict[str, list[torch.Tensor]] = {"eager": [], "numba": []}
    for engine, actual in seen.items():
        invert(
            magnitude,
            stft,
            update=update,
            init=torch.polar(magnitude + 0.1, 6 * turns),
            n_iter=n_iter,
            evaluate_every=1,
            engine=engine,
            callback=partial(record, actual),
        )
    for one, other in zip(*seen.values(), strict=True):
        assert (one - other).abs().max() <= TOLERANCE_OF_BATCH * max(magnitude.abs().max(), one.abs().max())


@fast
@pytest.mark.parametrize("update", [Relaxed(), HeavyBall(), Plain(1.5)], ids=lambda rule: type(rule).__name__)
def test_a_rule_of_a_user_runs_compiled(update):
    stft = STFT(128, 32, dtype=torch.float64)
    assert_streams_agree(stft, update, 0, n_iter=3)
    assert_streams_agree(stft, update, 1, n_iter=0)
    assert_batches_agree(stft, update, 0, n_iter=4)


@fast
@pytest.mark.parametrize("update", [Relaxed(), HeavyBall()], ids=lambda rule: type(rule).__name__)
def test_a_rule_of_a_user_keeps_the_contract(update):
    magnitude = SMALL.magnitude(sound(100, 2))
    verify_contract(lambda: StreamingInverter(SMALL, update=update, n_iter=2, batch_shape=(2,)), magnitude)


@dataclass(frozen=True)
class Linear(Update):
    """Rule with a given table; its rows are the arguments of P_M and of P_C, the new state, and e."""

    rows: tuple[tuple[float, ...], ...]
    shares: tuple[float, ...]
    again: bool
    forgets: bool  # whether the first step of a frame ignores its carried spectra

    @property
    def n_carried(self):
        return len(self.shares) - 1

    def start(self, spectrum):
        return tuple(share * spectrum for share in self.shares)

    def step(self, state, p_m, p_c):
        a = p_m(self._sum(0, state[0], state[0], *state))
        s = p_c(self._sum(1, a, a, *state))
        return tuple(self._sum(2 + slot, s, a, *state) for slot in range(len(state)))

    def first_step(self, state, p_m, p_c, is_new):
        if self.forgets:
            state = (state[0], *(torch.where(is_new, state[0], carried) for carried in state[1:]))
        return self.step(state, p_m, p_c)

    def estimate(self, state, p_m, p_c):
        estimate = p_m(self._sum(-1, state[0], state[0], *state))
        return p_m(p_c(estimate)) if self.again else estimate

    def _sum(self, row, *vectors):
        return sum(number * vector for number, vector in zip(self.rows[row], vectors, strict=True))


@st.composite
def linear(draw) -> Linear:
    """Draw a rule with random numbers, which do not cancel, in all patterns of zeros that matter."""
    n_slots, pattern = draw(st.integers(1, 3)), draw(st.sampled_from(["target", "multiples", "fresh", "any"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    rows = torch.rand(3 + n_slots, 2 + n_slots, generator=generator, dtype=torch.float64) * 2 - 1
    rows[[0, 1, -1], 0] = 0  # s is not available there, nor is A in two of them
    rows[[0, -1], 1] = 0
    rows[[0, 1, -1], [2, 1, 2]] += (
        2  # avoids small differences of large numbers, whose phases are rounding errors
    )
    rows[2] = rows[2].abs()
    if draw(st.booleans()) or pattern == "target":
        rows[0] = torch.eye(2 + n_slots)[2]
    if pattern == "target":
        rows[1], rows[2:-1, 1] = torch.eye(2 + n_slots)[1], 0
        rows[2:-1, 2] *= draw(st.booleans())
    if pattern == "multiples":
        rows[2:-1, 1:] = rows[2:-1, 1:2] * rows[1, 1:]
    if pattern == "fresh":
        rows[3:-1, 1:] = 0
    if draw(st.booleans()):
        rows[-1] = torch.eye(2 + n_slots)[2]
    rows /= rows.abs().sum(1, keepdim=True)  # so that values do not grow
    shares = (1.0, *(draw(st.sampled_from([0.0, 0.5, 1.0])) for _ in range(n_slots - 1)))
    return Linear(tuple(map(tuple, rows.tolist())), shares, draw(st.booleans()), draw(st.booleans()))


@fast
@settings(max_examples=100, deadline=None)
@given(
    update=linear(),
    look_ahead=st.integers(0, 3),
    revise=st.integers(0, 3),
    n_iter=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_any_linear_rule_runs_compiled_in_streams(update, look_ahead, revise, n_iter, seed):
    assert table_of(update, 5) is not None
    assert_streams_agree(SMALL, update, seed, look_ahead=look_ahead, revise=revise, n_iter=n_iter)


@fast
@settings(max_examples=100, deadline=None)
@given(update=linear(), n_iter=st.integers(1, 3), seed=st.integers(0, 99))
def test_any_linear_rule_runs_compiled_in_batches(update, n_iter, seed):
    assert_batches_agree(SMALL, update, seed, n_iter)


def test_a_changed_rule_gets_a_new_table():
    @dataclass(frozen=True)
    class Scaled(Update):
        factor: ClassVar[float] = 1.2

        def step(self, state, p_m, p_c):
            return (self.factor * p_c(p_m(state[0])),)

    before = table_of(Scaled(), 3)
    Scaled.factor = 0.6
    after = table_of(Scaled(), 3)
    assert not torch.equal(before.step, after.step)


def returning(start=1, step=1, **attributes):
    """Return a rule whose `start` and `step` return the given numbers of spectra, or None."""

    def spectra(number, c):
        return None if number is None else (c,) * number

    methods = {
        "start": lambda self, spectrum: spectra(start, spectrum),
        "step": lambda self, state, p_m, p_c: spectra(step, p_c(p_m(state[0]))),
    }
    return type("Mine", (Update,), {**methods, **attributes})()


@pytest.mark.parametrize(
    ("update", "kind", "message"),
    [
        (type("Mine", (Update,), {})(), TypeError, "Mine.. has no step: define step"),
        (returning(start=None), TypeError, "Mine.start returns NoneType, not a tuple of tensors: return"),
        (returning(step=None), TypeError, "Mine.step returns NoneType, not a tuple of tensors: return"),
        (returning(n_carried=1), ValueError, "Mine.start returns 1 spectra, not 1 . n_carried = 2: return 2"),
        (returning(start=2, n_carried=1), ValueError, "Mine.step returns 1 spectra, not 1 . n_carried = 2"),
        (returning(start=2), ValueError, "Mine.start returns 2 spectra, .* or set n_carried = 1"),
        (returning(n_carried=-1), ValueError, "Mine.*n_carried=-1 is not an integer >= 0"),
    ],
)
def test_a_rule_that_does_not_fit_together_is_rejected_at_construction(update, kind, message):
    with pytest.raises(kind, match=message):
        StreamingInverter(SMALL, update=update, engine="eager")
    with pytest.raises(kind, match=message):
        invert(SMALL.magnitude(sound(200)), SMALL, update=update, engine="eager")


def test_the_check_of_a_rule_does_not_change_its_attributes():
    class Counting(Relaxed):
        def step(self, state, p_m, p_c):
            object.__setattr__(self, "n_steps", getattr(self, "n_steps", 0) + 1)
            return super().step(state, p_m, p_c)

    rule = Counting()
    StreamingInverter(SMALL, update=rule, engine="eager")
    assert not hasattr(rule, "n_steps")
