"""Update rules: one iteration on the spectrum, written in terms of the two projections.

A rule receives its state, a tuple of the estimate `c` and the spectra carried from earlier iterations, and
the projections `P_M` (`to_magnitude`) and `P_C` (`to_consistent`) as functions of one spectrum. Complex
numbers are pairs of reals, `(*batch, n_open, n_half, 2)`, for speed; rules only add them and multiply them
by reals. With its default constants, every rule returns finite spectra.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from rtspecinv.common.checks import count, finite, keep, named

Projection = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]


def of_pairs(projection: Projection) -> Projection:
    """Return a projection that takes and returns complex numbers as pairs of reals."""
    return lambda pairs: torch.view_as_real(projection(torch.view_as_complex(pairs)))


@dataclass(frozen=True)
class Update:
    """Base class of the update rules.

    A subclass with a `step` is a rule. It runs in compiled code if all that it adds between its projections
    is real multiples of spectra; see `docs/rules.md`.

    Attributes:
        n_carried: number of spectra carried from iteration to iteration beside the iterate, default: 0.
        textbook: True for the stream as its authors published it, default: False. A committed frame is
            never revised then, and the newest frame is analysed with the asymmetric window rather than the
            compensated one.

    Examples:
        >>> from dataclasses import dataclass
        >>> from rtspecinv import STFT, StreamingInverter, updates
        >>> @dataclass(frozen=True)
        ... class Relaxed(updates.Update):  # c' = (1 - beta) c + beta P_C(P_M(c))
        ...     beta: float = 1.2
        ...     def step(self, state, p_m, p_c):
        ...         return ((1 - self.beta) * state[0] + self.beta * p_c(p_m(state[0])),)
        >>> StreamingInverter(STFT(), update=Relaxed()).update
        Relaxed(beta=1.2)
    """

    textbook: ClassVar[bool] = False

    @property
    def n_carried(self) -> int:
        """Number of spectra carried from iteration to iteration beside the iterate."""
        return 0

    def start(self, spectrum: Tensor) -> State:
        """Return the initial state of a frame whose initial phase is that of `spectrum`."""
        return (spectrum,)

    def step(self, state: State, p_m: Projection, p_c: Projection) -> State:
        """Return the state after one more iteration."""
        raise NotImplementedError

    def first_step(self, state: State, p_m: Projection, p_c: Projection, is_new: Tensor) -> State:
        """Return the state after an iteration that is the first one of some frames, which have no history.

        is_new: True for these frames, `(n_open, 1, 1)`.
        """
        return self.step(state, p_m, p_c)

    def estimate(self, state: State, p_m: Projection, p_c: Projection) -> Tensor:
        """Return the spectrum to commit, `P_M(P_C(P_M(c)))`.

        c itself is far from consistent. The extra iteration of Griffin-Lim does not change the state, and
        its result is 1 to 2 dB better than `P_M(c)`.
        """
        return p_m(p_c(p_m(state[0])))


Past = Callable[[Tensor, Tensor], Tensor]  # returns, from s and a carried spectrum, the reference of momentum


class _Moving(Update):
    """Base class of rules with momentum, which use the consistent spectra of earlier iterations.

    A new frame has no earlier iterations, so its first step uses s in place of the carried spectra, and the
    new iterate is s. The algorithms of the papers do the same: they begin with `t_0 = P_C(P_M(c_0))`.
    """

    def step(self, state: State, p_m: Projection, p_c: Projection) -> State:
        """Return the state after one more iteration."""
        return self._advance(state, p_m, p_c, lambda s, carried: carried)

    def first_step(self, state: State, p_m: Projection, p_c: Projection, is_new: Tensor) -> State:
        """Return the state after an iteration that is the first one of some frames, which get no momentum."""
        return self._advance(state, p_m, p_c, lambda s, carried: torch.where(is_new, s, carried))

    def _advance(self, state: State, p_m: Projection, p_c: Projection, past: Past) -> State:
        raise NotImplementedError


class _WithMomentum(_Moving):
    """Base class of rules that carry the last consistent spectrum if their momentum is not 0."""

    momentum: float

    @property
    def n_carried(self) -> int:
        """Number of carried spectra: 1 with momentum (the last consistent spectrum), otherwise 0."""
        return 1 if self.momentum else 0

    def start(self, spectrum: Tensor) -> State:
        """Return the state of a frame with the phase of `spectrum`; the first step sets the carried part."""
        return (spectrum,) * (1 + self.n_carried)


@dataclass(frozen=True)
class GriffinLim(_WithMomentum):
    """Griffin-Lim and, with momentum, fast Griffin-Lim.

    `s = P_C(P_M(c))`, `c' = s + momentum (s - s_previous)`; after the first step of a frame, `c' = s`.

    Sources: Griffin & Lim 1984, eq. 6; Perraudin, Balazs & Sondergaard 2013, algorithm 2. Without momentum, a
    stream with this rule is RTISI-LA (Zhu, Beauregard & Wyse 2007) with the windows of Gnann & Spiertz 2010.
    """

    momentum: float = 0.0

    def __post_init__(self) -> None:
        keep(self, partial(finite, 0.0, 2.0), "momentum")

    def _advance(self, state: State, p_m: Projection, p_c: Projection, past: Past) -> State:
        """Return `c' = s + momentum (s - s_previous)` with `s = P_C(P_M(c))`."""
        s = p_c(p_m(state[0]))
        if not self.momentum:
            return (s,)
        return s + self.momentum * (s - past(s, state[1])), s

    def estimate(self, state: State, p_m: Projection, p_c: Projection) -> Tensor:
        """Return `P_M(s)`, because s is consistent."""
        return p_m(state[-1])


@dataclass(frozen=True)
class RTISI(GriffinLim):
    """Textbook RTISI-LA: Griffin-Lim without momentum, and an asymmetric window for the newest frame.

    Source: Zhu, Beauregard & Wyse 2007, section II. With `look_ahead=0` it is RTISI (Beauregard, Zhu & Wyse
    2005).
    """

    textbook: ClassVar[bool] = True


@dataclass(frozen=True)
class RAAR(_WithMomentum):
    """Relaxed averaged alternating reflections, with larger steps on newer frames.

    `A = P_M(c)`, `s = P_C(2A - c)`, `c' = beta_k (c + s - A) + (1 - beta_k) A + momentum (s - s_previous)`.

    The newest frame is far from its solution and needs large steps; an old one is about to be heard and needs
    to converge. So `beta_k` increases linearly from `beta - ramp` for the oldest frame to `beta + ramp` for
    the newest, limited to 0 to 1. `RAAR(beta, ramp=0)` is the rule of the paper. A whole spectrogram has no
    old and new frames: use `ramp=0` there. Momentum up to 0.3 can improve the result if the magnitudes are
    those of a real signal. If they are far from those of any signal, momentum makes the result worse, and a
    smaller beta makes it better. If the magnitudes are found from values of bands, momentum is the default.

    Sources: Luke 2005, eq. 16; for spectrograms Peer, Welker & Gerkmann 2022, for streams Peer, Welker,
    Kolhoff & Gerkmann 2024. Ramp and momentum are additions of this package, measured in `bench/README.md`.
    """

    beta: float = 0.78
    ramp: float = 0.2
    momentum: float = 0.0

    def __post_init__(self) -> None:
        keep(self, partial(finite, 0.0, 1.0), "beta", "ramp", "momentum")

    def _advance(self, state: State, p_m: Projection, p_c: Projection, past: Past) -> State:
        """Return `c' = beta_k (c + s - A) + (1 - beta_k) A + momentum (s - s_previous)`."""
        c = state[0]
        a = p_m(c)
        s = p_c(2 * a - c)
        beta = self.betas(c) if self.ramp else self.beta
        new = beta * (c + s) + (1 - 2 * beta) * a
        return (new + self.momentum * (s - past(s, state[1])), s) if self.momentum else (new,)

    def betas(self, c: Tensor) -> Tensor:
        """Return the relaxation `(n_open, 1, 1)` of frames from old to new; a single frame has `beta`."""
        n_open = c.shape[-3]
        ramp = self.ramp if n_open > 1 else 0.0
        low, high = self.beta - ramp, self.beta + ramp
        return torch.linspace(low, high, n_open, dtype=c.dtype, device=c.device).clamp(0, 1).view(-1, 1, 1)


@dataclass(frozen=True)
class DifferenceMap(Update):
    """Difference map.

    `f_M = P_M(c) + (P_M(c) - c) / beta`, `f_C = P_C(c) - (P_C(c) - c) / beta`,
    `c' = c + beta (P_C(f_M) - P_M(f_C))`. An iteration needs one `P_C` if `beta = 1`, otherwise two.

    Sources: Elser 2003, eq. 8 and 9; for spectrograms Peer, Welker & Gerkmann 2022.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        keep(self, partial(finite, 0.1, 2.0), "beta")

    def step(self, state: State, p_m: Projection, p_c: Projection) -> State:
        """Return `c' = c + beta (P_C(f_M) - P_M(f_C))`."""
        (c,) = state
        a = p_m(c)
        if self.beta == 1:
            return (c + p_c(2 * a - c) - a,)
        s = p_c(c)
        return (c + self.beta * (p_c(a + (a - c) / self.beta) - p_m(s - (s - c) / self.beta)),)


@dataclass(frozen=True)
class ADMM(Update):
    """Alternating direction method of multipliers.

    `x = P_M(z - u)`, `y = x + u`, `z' = (rho y + P_C(y)) / (1 + rho)`, `u' = y - z'`.

    Source: Masuyama, Yatabe & Oikawa 2019, algorithm 2; `rho = 0` is their algorithm 1.
    """

    rho: float = 0.1

    def __post_init__(self) -> None:
        keep(self, partial(finite, 0.0, 10.0), "rho")

    @property
    def n_carried(self) -> int:
        """Number of carried spectra: 1, the dual variable u."""
        return 1

    def start(self, spectrum: Tensor) -> State:
        """Return the initial state: `z` is the spectrum of the start, `u` is zero."""
        return spectrum, torch.zeros_like(spectrum)

    def step(self, state: State, p_m: Projection, p_c: Projection) -> State:
        """Return `z' = (rho y + P_C(y)) / (1 + rho)` with `y = P_M(z - u) + u`, and `u' = y - z'`."""
        z, u = state
        y = p_m(z - u) + u
        z = (self.rho * y + p_c(y)) / (1 + self.rho)
        return z, y - z


@dataclass(frozen=True)
class AcceleratedGriffinLim(_Moving):
    """Accelerated Griffin-Lim.

    `s = P_C(P_M(c))`, `t' = (1 - gamma) d + gamma s`, `c' = t' + alpha (t' - t)`, `d' = t' + beta (t' - t)`;
    in the first step of a frame, t and d are set to s, so that `c' = s`.

    Source: Nenov, Nguyen, Balazs & Bot 2023, algorithm 1; `gamma = 1` is fast Griffin-Lim.
    """

    alpha: float = 0.99
    beta: float = 0.99
    gamma: float = 1.25

    def __post_init__(self) -> None:
        keep(self, partial(finite, 0.0, 2.0), "alpha", "beta", "gamma")

    @property
    def n_carried(self) -> int:
        """Number of carried spectra: 2, t and d."""
        return 2

    def start(self, spectrum: Tensor) -> State:
        """Return the state of a frame with the phase of `spectrum`; the first step sets the carried part."""
        return spectrum, spectrum, spectrum

    def _advance(self, state: State, p_m: Projection, p_c: Projection, past: Past) -> State:
        """Return `c' = t' + alpha (t' - t)` with `t' = (1 - gamma) d + gamma s`, then t' and d'."""
        s = p_c(p_m(state[0]))
        t, d = past(s, state[1]), past(s, state[2])
        new = (1 - self.gamma) * d + self.gamma * s
        return new + self.alpha * (new - t), new, new + self.beta * (new - t)


RULES: dict[str, Update] = {
    "raar": RAAR(),
    "rtisi": RTISI(),
    "gla": GriffinLim(),
    "fgla": GriffinLim(momentum=0.99),
    "dm": DifferenceMap(),
    "admm": ADMM(),
    "agla": AcceleratedGriffinLim(),
}


def find(update: str | Update) -> Update:
    """Return the rule with this name; a rule is returned unchanged."""
    return _checked(named("update", update, RULES, Update))


def _checked(update: Update) -> Update:
    """Return a rule whose `step`, `start` and `n_carried` fit together.

    Raises:
        ValueError: the number of spectra is not `1 + n_carried`, or `n_carried` is not an integer >= 0.
        TypeError: `step` is not implemented, or `start` or `step` does not return a tuple of tensors.
    """
    if type(update).__module__ == __name__:
        return update
    name = type(update).__name__
    if type(update).step is Update.step:
        raise TypeError(f"Parameter update={name}() has no step: define step(self, state, p_m, p_c)")
    try:
        n_spectra = 1 + count(n_carried=update.n_carried)
    except ValueError as error:
        raise ValueError(
            f"Parameter update={name}(): {error}; it is the number of spectra beside the iterate"
        ) from None
    rule = copy.copy(update)  # a step may change attributes of its rule
    spectrum = torch.ones(1, 4, 2, dtype=torch.float64, device="cpu")
    start = _checked_state(f"{name}.start", rule.start(spectrum), n_spectra)
    try:
        state = rule.step(start, torch.clone, torch.clone)
    except Exception:  # a rule may need more frames or frequencies
        return update
    _checked_state(f"{name}.step", state, n_spectra)
    return update


def _checked_state(what: str, state: object, n_spectra: int) -> State:
    """Raise unless `state` is a tuple of `n_spectra` tensors."""
    if not isinstance(state, tuple) or not all(isinstance(part, Tensor) for part in state):
        raise TypeError(
            f"Parameter update: {what} returns {type(state).__name__}, not a tuple of tensors: "
            "return (spectrum,) if nothing is carried"
        )
    if len(state) != n_spectra:
        raise ValueError(
            f"Parameter update: {what} returns {len(state)} spectra, not 1 + n_carried = {n_spectra}: "
            f"return {n_spectra}, or set n_carried = {len(state) - 1}"
        )
    return state
