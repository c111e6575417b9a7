"""Inversion of any differentiable transform: L-BFGS optimizes the samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rtspecinv.batch import Best, Callback, Iteration, invert
from rtspecinv.common.checks import (
    LONGEST_SOUND,
    able,
    choice,
    count,
    finite,
    flag,
    function,
    instance,
    shown,
    sizes,
    unknown_name,
)
from rtspecinv.common.modes import modeless
from rtspecinv.common.progress import bar
from rtspecinv.common.warning import muted
from rtspecinv.inputs import MOST_ITER, iterations
from rtspecinv.levels import least_share, warn_of_quiet
from rtspecinv.stft import STFT, check_dense

Transform = Callable[[Tensor], Tensor]

STALLED = 1e-15  # default tolerance; no line search finds smaller improvements

AMPLITUDES = tuple(10.0**e for e in range(-5, 2))  # levels of noise that are tried as initial samples

DEFAULTS: dict[str, Any] = {
    "history_size": 20,
    "line_search_fn": "strong_wolfe",
    "tolerance_grad": 0.0,
    "tolerance_change": 0.0,
}


# Options of torch.optim.LBFGS, and the check of each value.
OPTIONS: dict[str, Callable[..., object]] = {
    "lr": partial(finite, 0, above=True),
    "max_iter": partial(count, 1, MOST_ITER),
    "max_eval": partial(count, 1),
    "tolerance_grad": partial(finite, 0),
    "tolerance_change": partial(finite, 0),
    "history_size": partial(count, 1, MOST_ITER),
    "line_search_fn": partial(choice, ("strong_wolfe",)),
}
_MAY_BE_NONE = ("max_eval", "line_search_fn")


@runtime_checkable
class Invertible(Protocol):
    """A transform that has its own approximate inverse."""

    def invert(self, target: Tensor, *, length: int | None = None) -> Tensor:
        """Return samples whose transform is near the target."""


@modeless
def lbfgs(
    target: Tensor,
    transform: Transform,
    *,
    length: int | Sequence[int] | None = None,
    initial: Tensor | None = None,
    n_iter: int = 100,
    max_evaluations: int | None = None,
    tol: float = 0.0,
    evaluate_every: int = 10,
    optimizer: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor:
    """Return samples x that minimise `|transform(x) - target|^2`.

    Args:
        target: desired values of the transform, real, of any shape.
        transform: differentiable function of samples that returns values of the shape of `target`.
        length: number of samples, or the shape of x; default: the shape of `initial` or of the result of the
            transform's inverse.
        initial: initial samples; silence is replaced by noise, because magnitudes have no gradient there.
            Default: for `stft.magnitude` of an `STFT` the samples of a streaming inverter; for a transform
            with a method `invert`, such as `Mel`, its result; otherwise noise at the level that fits the
            target best.
        n_iter: number of iterations, at most a million.
        max_evaluations: most evaluations of the transform and its gradient, default: no limit. An iteration
            takes one or two.
        tol: the iteration stops when the squared error falls by less than this share of its first value per
            iteration.
        evaluate_every: number of iterations between evaluations; the best evaluated samples are returned.
        optimizer: options of `torch.optim.LBFGS`, default: strong-Wolfe line search, `lr` 1, `history_size`
            20, no tolerances. The optimizer sees samples scaled to a level of 1 and an error relative to
            `target`.
        generator: random generator of noise; default: a generator with seed 0.
        callback: function called with an `Iteration` at every evaluation, whose `items` are all items and
            whose `convergence` is a scalar; if it returns a true value, the iteration stops.
        progress: whether to show a progress bar, which needs tqdm.

    Returns:
        Samples of the shape of the initial samples, on the device and in the dtype of `target`. A warning is
        issued if the transform of the result differs from that of silence by 20 dB less than the target does.

    Raises:
        ValueError: noise is needed and neither `length` nor `initial` is given; the transform returns another
            shape than that of `target`, or values that are not finite at the start; or a value is out of
            range.
        TypeError: `torch.optim.LBFGS` has no such option.

    Source: Decorsiere, Sondergaard, MacDonald & Dau 2015.

    Examples:
        >>> import torch
        >>> from rtspecinv import lbfgs, presets
        >>> mel = presets["hifigan-22k"].linear  # without logarithms
        >>> target = mel(torch.randn(5120))
        >>> samples = lbfgs(target, mel, n_iter=20)
        >>> bool((mel(samples) - target).norm() < 0.1 * target.norm())
        True
    """
    n_iter, every = iterations(n_iter=n_iter), count(1, evaluate_every=evaluate_every)
    progress, tol = flag(progress=progress), finite(0, tol=tol)
    function(transform=transform)
    if callback is not None:
        function(callback=callback)
    if initial is not None:
        instance(Tensor, "pass samples as a tensor", initial=initial)
    if generator is not None:
        instance(torch.Generator, "pass torch.Generator()", generator=generator)
    if optimizer is not None:
        able(("keys", "__getitem__"), "pass a dictionary", optimizer=optimizer)
    options = check_options(optimizer or {})
    check_target(target, "target")
    if max_evaluations is not None:
        max_evaluations = count(1, max_evaluations=max_evaluations)
    best = Best(tol or STALLED)
    wanted = target.detach().clone()  # only gradients of the samples are computed
    with torch.enable_grad(), bar(n_iter, "inverting", progress) as show:
        start = _start(wanted, transform, shape_of(length=length), initial, generator)
        search = _Search(start, wanted, transform, {"max_iter": every} | options)
        while True:
            value, error = search.evaluate()
            if not search.n_iter and not math.isfinite(error):
                raise ValueError(
                    "Parameter transform returns NaN or infinite values at the start: pass another initial, "
                    "or limit the arguments of logarithms, such as with clamp_min(1e-5)"
                )
            n_new = search.n_iter - best.number
            best.offer(search.n_iter, search.samples[None], error[None], search.change(value)[None])
            convergence = 10 * torch.log10(error)
            show(n_new, f"{float(convergence):.1f} dB")
            now = Iteration(slice(None), search.n_iter, n_iter, convergence, best.samples[0], value, wanted)
            stopped = (callback is not None and bool(callback(now))) or best.settled
            left = math.inf if max_evaluations is None else max_evaluations - search.n_evaluations
            if stopped or search.n_iter >= n_iter or left <= 0 or not math.isfinite(error):
                share = least_share(best.energy, search.change(wanted))
                warn_of_quiet(share, "pass another initial, or a larger n_iter")
                return best.samples[0]
            search.advance(min(every, n_iter - search.n_iter), left)


def check_options(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the optimizer as plain values.

    Raises:
        TypeError: `torch.optim.LBFGS` has no such option.
        ValueError: a value is out of range.
    """
    options = dict(optimizer)
    for name in options:
        if name not in OPTIONS:
            raise TypeError(str(unknown_name("optimizer", name, tuple(OPTIONS))))
    return {
        name: value if value is None and name in _MAY_BE_NONE else OPTIONS[name](**{name: value})
        for name, value in options.items()
    }


def check_target(target: Tensor, name: str) -> None:
    """Raise `TypeError` unless the target is a real tensor of at least single precision."""
    if not isinstance(target, Tensor):
        raise TypeError(f"Parameter {name} is a {type(target).__name__}: use torch.as_tensor({name})")
    check_dense(target, name)
    if not target.is_floating_point():
        raise TypeError(f"Parameter {name} has {target.dtype}: use real floating-point numbers")
    if target.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            f"Parameter {name} has {target.dtype}, which is too coarse: compute it without "
            f"autocast, or use {name}.float()"
        )


def shape_of(**parameter: Any) -> int | tuple[int, ...] | None:
    """Return the value of a parameter as a number of samples or as a shape; None stays None."""
    ((name, value),) = parameter.items()
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return count(1, LONGEST_SOUND, **parameter)
    rule = "an integer >= 1, or a list of these"
    shape = sizes(rule, **parameter)
    if not shape:
        raise ValueError(f"Parameter {name}={shown(value)} is not {rule}")
    if math.prod(shape) > LONGEST_SOUND:
        raise ValueError(f"Parameter {name}={shown(value)} has more than {LONGEST_SOUND} samples")
    return shape


class _Search:
    """L-BFGS on samples scaled to a level of 1, with an error relative to the target."""

    def __init__(self, start: Tensor, target: Tensor, transform: Transform, options: dict[str, Any]) -> None:
        self.target, self.transform = target, transform
        self.level = float(start.double().square().mean().sqrt()) or 1.0
        self.size = float(torch.linalg.vector_norm(target.double())) or 1.0
        self.scaled = torch.nn.Parameter(start / self.level)
        with torch.no_grad():
            self.silence = transform(torch.zeros_like(start))
        self.n_iter = self.n_evaluations = 0
        self.optimizer = torch.optim.LBFGS([self.scaled], **(DEFAULTS | options))
        self.step_iter, self.step_evaluations = options["max_iter"], options.get("max_eval") or math.inf

    @property
    def samples(self) -> Tensor:
        """Return the current samples."""
        return self.scaled.detach() * self.level

    @torch.no_grad()
    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Return the transform of samples, and the squared error over the squared target."""
        value = self.transform(self.samples)
        return value, _squared_error(value, self.target, self.samples) / self.size**2

    def change(self, value: Tensor) -> Tensor:
        """Return the squared distance of values of the transform from those of silence."""
        return (value - self.silence).double().square().sum()

    def advance(self, n_iter: int, max_evaluations: float) -> None:
        """Do iterations; one whose line search finds no improvement counts too."""
        (group,) = self.optimizer.param_groups
        end, last = self.n_iter + n_iter, self.n_evaluations + max_evaluations
        while self.n_iter < end and self.n_evaluations < last:
            group["max_iter"] = min(self.step_iter, end - self.n_iter)
            group["max_eval"] = min(2 * group["max_iter"], self.step_evaluations, last - self.n_evaluations)
            self.optimizer.step(self._closure)  # type: ignore[no-untyped-call]
            self.n_iter += group["max_iter"]

    def _closure(self) -> Tensor:
        self.n_evaluations += 1
        try:
            value = self.transform(self.scaled * self.level)
        except RuntimeError as error:
            if "Inference tensors" not in str(error):
                raise
            raise ValueError(
                "Parameter transform uses tensors that were made in inference mode and support no "
                "gradients: make them, or clone() them, outside of inference mode"
            ) from error
        difference = (value - self.target) / self.size
        # Scaled by the number of samples, so that the gradient of each is about 1, far above rounding.
        loss = difference.square().sum() * self.scaled.numel()
        (self.scaled.grad,) = torch.autograd.grad(loss, self.scaled)  # of the samples alone
        return loss.detach()


def _squared_error(value: Tensor, target: Tensor, samples: Tensor) -> Tensor:
    if value.shape != target.shape:
        raise ValueError(
            f"Parameter transform returns shape {tuple(value.shape)} for samples of shape "
            f"{tuple(samples.shape)}, but target has shape {tuple(target.shape)}: pass length"
        )
    return (value - target).double().square().sum()


@torch.no_grad()
def _start(
    target: Tensor,
    transform: Transform,
    length: int | tuple[int, ...] | None,
    initial: Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Return the initial samples."""
    if initial is not None:
        if length is not None and initial.shape[-1:] != (length,) and initial.shape != length:
            raise ValueError(
                f"Parameter initial has shape {tuple(initial.shape)}, but {length=}: leave out one"
            )
        if initial.any() or not target.any():
            return initial.detach().to(target)
        return _noise(target, transform, tuple(initial.shape), generator)
    n_samples = length[-1] if isinstance(length, tuple) else length
    owner = getattr(transform, "__self__", None)
    if isinstance(owner, STFT) and transform == owner.magnitude:
        with muted("the result is"):  # the level of a start does not matter
            return invert(target, owner, n_iter=0, length=n_samples)
    way_back: object = transform
    if isinstance(way_back, Invertible):
        return way_back.invert(target, length=n_samples)
    if length is None:
        raise ValueError("Parameters length and initial are both None: pass length, the number of samples")
    return _noise(target, transform, (length,) if isinstance(length, int) else length, generator)


def _noise(
    target: Tensor, transform: Transform, shape: tuple[int, ...], generator: torch.Generator | None
) -> Tensor:
    """Return noise whose transform differs from that of silence by as much as the target does.

    If the transform of silence is not finite, the noise is at the level whose transform is nearest to the
    target. For other transforms that could be the lowest level, from which L-BFGS finds no louder sound.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    noise = torch.randn(shape, generator=generator, dtype=target.dtype, device=generator.device).to(target)
    silence = transform(torch.zeros_like(noise))
    wanted = float(_squared_error(silence, target, noise))

    def misfit(amplitude: float) -> float:
        value = transform(amplitude * noise)
        if math.isfinite(wanted) and wanted:
            error = float((_squared_error(value, silence, noise) / wanted).log().abs())
        else:
            error = float(_squared_error(value, target, noise))
        return error if math.isfinite(error) else math.inf

    return min(AMPLITUDES, key=misfit) * noise
