"""Inversion of whole spectrograms: the stream's update rules with every frame open.

Without a committed tail the consistent spectra are those of the transform itself, `P_C(c) = STFT(iSTFT(c))`,
with its padding. The streaming inverter's result is the start: what it gets wrong is rare and local, and
it is ahead of what hundreds of iterations make of random phases (bench/README.md, "batch starts").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from rtspecinv import engines
from rtspecinv.common.checks import (
    LONGEST_SOUND,
    count,
    finite,
    flag,
    function,
    instance,
    iterable,
    keep,
    named,
    unknown_name,
)
from rtspecinv.common.modes import modeless
from rtspecinv.common.progress import bar
from rtspecinv.common.warning import warn
from rtspecinv.inputs import (
    Array,
    as_magnitude,
    as_spectrogram,
    check_finite,
    check_values,
    full_scale,
    iterations,
    warn_of_power,
)
from rtspecinv.levels import ANOTHER_START, SILENCE_AROUND, least_share, no_samples, warn_of_quiet
from rtspecinv.phase import single_pass
from rtspecinv.projections import to_magnitude
from rtspecinv.stft import STFT
from rtspecinv.streaming import StreamingInverter
from rtspecinv.updates import RAAR, RULES, Update, find

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on

STREAM_ITER = 32  # per frame, of the stream that a batch run starts with

INITS = ("stream", "peaks", "random", "zeros")

# Items of a batch are iterated together up to this many values of a spectrum: more leave the cache of a CPU.
CACHE_VALUES = 2**18


@dataclass(frozen=True)
class Hybrid:
    """A rule that searches, then one that settles.

    Args:
        search: rule of the first iterations.
        settle: rule of the others, which begin anew from the estimate of the first.
        share: of the iterations that go to `search`, rounded down.

    Source: Peer, Welker & Gerkmann 2022, who combine difference map and Griffin-Lim.
    """

    search: Update = RULES["dm"]
    settle: Update = RULES["agla"]
    share: float = 0.35

    def __post_init__(self) -> None:
        keep(self, partial(finite, 0, 1), "share")
        way_out = "use a rule, such as rtspecinv.updates.GriffinLim()"
        keep(self, partial(instance, Update, way_out), "search", "settle")

    def legs(self, n_iter: int) -> list[tuple[Update, int]]:
        """Rules and their iterations."""
        n_search = int(self.share * n_iter)
        return [(self.search, n_search), (self.settle, n_iter - n_search)]


BATCH_RULES: dict[str, Update | Hybrid] = {"hybrid": Hybrid(), **RULES, "raar": RAAR(beta=0.9, ramp=0.0)}


@dataclass(frozen=True)
class Iteration:
    """What a callback sees of an inversion.

    items: which items of the flattened batch this is about: on a CPU a few at a time, elsewhere all of them.
    number: iterations done, 0 before the first.
    n_iter: iterations to do.
    convergence: spectral convergence of the iterate, `(n_items,)` dB.
    samples: the best so far, `(n_items, n_samples)`.
    actual: magnitude of the iterate's samples, `(n_items, n_freq, n_frames)`, one-sided.
    target: the given magnitude, of the same shape.
    """

    items: slice
    number: int
    n_iter: int
    convergence: Tensor
    samples: Tensor
    actual: Tensor
    target: Tensor


Callback = Callable[[Iteration], object]


class BlockOptions(TypedDict, total=False):
    """Keywords of `invert` that `invert_blocks` hands on to it, for type checkers."""

    update: str | Update | Hybrid
    n_iter: int
    tol: float
    evaluate_every: int
    callback: Callback | None
    progress: bool
    engine: str


class ManyOptions(BlockOptions, total=False):
    """Keywords of `invert` that `invert_many` hands on to it, for type checkers."""

    init: str | Tensor | Array
    known: Tensor | Array | None
    generator: torch.Generator | None


@modeless
def invert(
    magnitude: Tensor | Array,
    stft: STFT,
    *,
    update: str | Update | Hybrid = "agla",
    n_iter: int = 100,
    init: str | Tensor | Array = "stream",
    length: int | None = None,
    known: Tensor | Array | None = None,
    tol: float = 0.0,
    evaluate_every: int = 25,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    engine: str = "auto",
) -> Tensor:
    """Samples whose magnitudes are nearest to the given ones, as far as iterating finds them.

    Args:
        magnitude: real and non-negative, `(*batch, n_freq, n_frames)`; of complex values, the phase is the
            start.
        stft: the transform that the magnitudes come from.
        update: a rule or its name: "agla" (accelerated Griffin-Lim), "fgla", "gla", "raar", "dm", "admm", or
            "hybrid" (difference map, then agla), which is better from poor starts. Rules take their
            frames as equally old: `RAAR` has no ramp here.
        n_iter: iterations, at most a million; with 0 the start is the answer.
        init: start of real magnitudes: "stream" (the result of a `StreamingInverter`), "peaks"
            (`phase.single_pass`), "random", "zeros", or a complex spectrum `(n_freq, n_frames)`, with or
            without the batch axes, whose phase is taken.
        length: samples to return; default: what the frames cover, `(n_frames - 1) * hop_length` if centred.
        known: samples `(*batch, n_known)` that the result begins with and that stay as they are.
        tol: stop when the squared error of an item's magnitudes falls by less than this share of its first
            value per iteration; 0 never stops.
        evaluate_every: iterations between evaluations. The best evaluated iterate is returned, so a result
            is never worse than its start, as long as `length` cuts nothing off and adds nothing.
        generator: of random phases, every item getting the same; default: one with seed 0.
        callback: called with an `Iteration` at every evaluation; a true answer stops these items.
        progress: show a progress bar; needs tqdm.
        engine: what does the work, as in `StreamingInverter`: "eager", plain torch; "numba", compiled; "auto"
            takes the fastest that there is. Where a gradient is wanted it is plain torch. Compilation takes
            half a minute, once for each precision: it is kept on disk.

    Returns:
        Real `(*batch, n_samples)`, on the device and in the dtype of `stft`.

    Raises:
        ValueError: a parameter is out of range; magnitudes of a wrong shape, negative, NaN, infinite or too
            large.
        TypeError: not a tensor or array, or not of the dtype of `stft`.
        ImportError: `progress` without tqdm, or an engine whose packages are not installed.

    Warns of a result that is 20 dB and more under the level of its magnitudes, and of frames that stand for
    no samples.

    If the magnitude requires a gradient, the samples have one; ask for few iterations then, as gradients grow
    with every one, most with rules that search ("hybrid", "dm", "raar"). Where the start is made here it
    counts as constant; the phase of a complex magnitude does not.

    Sources: Griffin & Lim 1984; the rules name theirs.

    Examples:
        >>> import torch
        >>> from rtspecinv import STFT, invert, metrics
        >>> stft = STFT(n_fft=1024, hop_length=256)
        >>> magnitude = stft.magnitude(torch.sin(0.05 * torch.arange(25600)))
        >>> samples = invert(magnitude, stft)
        >>> bool(metrics.spectral_convergence(stft.magnitude(samples), magnitude) < -20)  # dB
        True
    """
    n_iter, every = iterations(n_iter=n_iter), count(1, evaluate_every=evaluate_every)
    progress, tol = flag(progress=progress), finite(0, tol=tol)
    if callback is not None:
        function(callback=callback)
    if generator is not None:
        instance(torch.Generator, "pass torch.Generator()", generator=generator)
    legs = _legs(update, n_iter)
    rules = tuple(rule for rule, _ in legs)
    target, start, batch_shape = _check(magnitude, init, stft)
    length = None if length is None else count(1, LONGEST_SOUND, length=length)
    transform = engines.BatchTransform(stft, target.shape[-2], length)
    needs_grad = torch.is_grad_enabled() and any(
        isinstance(t, Tensor) and t.requires_grad for t in (target, start)
    )
    make = engines.find_batch(engine, stft, rules, transform.n_frames, needs_grad)
    with torch.set_grad_enabled(needs_grad), bar(len(target) * n_iter, "inverting", progress) as show:
        scale = _scale(target.detach(), stft)
        target = target / scale
        fixed = target.new_zeros(len(target), 0) if known is None else _known(known, batch_shape, transform)
        fixed = fixed / scale[:, 0]
        if isinstance(start, str):
            start = _start(start, target, transform, generator, engine)
        else:
            start = to_magnitude(start / scale, target)
        results, share = [target.new_zeros(0, transform.n_out)], 1.0
        for items in _groups(target):
            wanted = target[items]
            whole = make(transform, rules, wanted, start[items], fixed[items])
            best, energy = Best(tol), wanted.square().sum((-2, -1))
            for number, sound, actual in _iterates(whole, legs, every):
                n_new = number - best.number
                error = (actual - wanted).square().sum((-2, -1))
                best.offer(number, sound, error, actual.square().sum((-2, -1)))
                convergence = 10 * torch.log10(error / energy)
                samples = transform.finish(best.samples) * scale[items, 0]
                show(n_new * len(wanted), f"{float(convergence.detach().mean()):.1f} dB")
                if callback is not None:
                    shown = (convergence, samples, actual.mT * scale[items], wanted.mT * scale[items])
                    now = Iteration(items, number, n_iter, *(tensor.detach() for tensor in shown))
                    if callback(now):
                        break
                if best.settled:
                    break
            results.append(samples)
            share = min(share, least_share(best.energy, energy))
    if not transform.n_out:
        warn(no_samples(target.shape[-2]))
    warn_of_quiet(share, ANOTHER_START + ("" if stft.center else SILENCE_AROUND))
    return torch.cat(results).reshape(*batch_shape, transform.n_out)


@modeless
def invert_many(
    magnitudes: Iterable[Tensor | Array],
    stft: STFT,
    *,
    lengths: Sequence[int] | None = None,
    **options: Unpack[ManyOptions],
) -> list[Tensor]:
    """Samples of spectrograms of any lengths; those of one length are inverted together.

    Args:
        magnitudes: each as in `invert`.
        stft: the transform that they come from.
        lengths: samples to return of each; None as in `invert`.
        options: of `invert`, for all alike.

    Returns:
        The samples of each, in their order; what `invert` gives of each alone, but for rounding, which many
        iterations amplify.

    Raises:
        ValueError, TypeError: as in `invert`, or another number of lengths than of magnitudes.
    """
    tensors = [as_spectrogram(m, stft, "magnitudes") for m in iterable(magnitudes=magnitudes)]
    wanted: list[int | None] = [None] * len(tensors)
    if lengths is not None:
        wanted = [None if each is None else count(1, lengths=each) for each in iterable(lengths=lengths)]
    if len(wanted) != len(tensors):
        raise ValueError(f"Parameter lengths has {len(wanted)} values for {len(tensors)} magnitudes")
    alike: dict[Any, list[int]] = {}
    for i, (tensor, length) in enumerate(zip(tensors, wanted, strict=True)):
        alike.setdefault((tensor.shape, tensor.dtype, length), []).append(i)
    samples: dict[int, Tensor] = {}
    for (_, _, length), members in alike.items():
        together = invert(torch.stack([tensors[i] for i in members]), stft, length=length, **options)
        samples |= zip(members, together, strict=True)
    return [samples[i] for i in range(len(tensors))]


class Best:
    """The best samples so far of every item, and whether they have settled.

    tol: an item settles when its error falls by less than this share of its first one per iteration.
    """

    samples: Tensor
    error: Tensor
    energy: Tensor
    _last: Tensor

    def __init__(self, tol: float) -> None:
        self.tol = tol
        self.number = 0

    def offer(self, number: int, samples: Tensor, error: Tensor, energy: Tensor) -> None:
        """Take in samples `(n_items, n_samples)`, their squared errors and their energies `(n_items,)`."""
        if number == 0:
            self.samples, self.error, self.energy, self._first = samples, error, energy, error
            self._done = torch.zeros_like(error, dtype=torch.bool)
        else:
            better = (error < self.error) & ~self._done
            self.samples = torch.where(better[:, None], samples, self.samples)
            self.error = torch.where(better, error, self.error)
            self.energy = torch.where(better, energy, self.energy)
            fall = self._last - error
            self._done |= (fall >= 0) & (fall < self.tol * self._first * (number - self.number))
        self._last, self.number = error, number

    @property
    def settled(self) -> bool:
        """Whether every item has."""
        return bool(self._done.all())


def _iterates(
    whole: engines.BatchEngine, legs: list[tuple[Update, int]], every: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the number of iterations, samples and their magnitude: first, after every few, after each leg."""
    number = 0
    yield number, *whole.evaluate()
    for rule, n_iter in legs:
        end = number + n_iter
        if n_iter:
            whole.begin(rule)
        while number < end:
            n_next = min(every - number % every, end - number)
            whole.iterate(n_next)
            number += n_next
            yield number, *whole.evaluate()


def _legs(update: str | Update | Hybrid, n_iter: int) -> list[tuple[Update, int]]:
    """Rules and their iterations; no frame is older than another here, so there are no ramps."""
    rule = update if isinstance(update, Hybrid) else named("update", update, BATCH_RULES, Update)
    legs = rule.legs(n_iter) if isinstance(rule, Hybrid) else [(rule, n_iter)]
    return [(replace(leg, ramp=0.0) if isinstance(leg, RAAR) else find(leg), n) for leg, n in legs]


def _check(
    magnitude: Tensor | Array, init: str | Tensor | Array, stft: STFT
) -> tuple[Tensor, Tensor | str, tuple[int, ...]]:
    """Magnitude and start, `(n_items, n_frames, n_half)` or the name of one, and the batch shape."""
    value = as_spectrogram(magnitude, stft)
    start: Tensor | str = value
    if not isinstance(init, str):
        start = as_magnitude(init, stft.window, "init")
        if value.is_complex():
            raise ValueError("Parameter init is a spectrum, and so is magnitude: its phase is the start")
        if not start.is_complex() or start.shape not in (value.shape, value.shape[-2:]):
            raise ValueError(
                f"Parameter init has {start.dtype} and shape {tuple(start.shape)}: it must be complex and of "
                f"the shape {tuple(value.shape)} of magnitude"
            )
        check_finite(start, "init")
        start = start.expand(value.shape)
    elif init not in INITS:
        raise unknown_name("init", init, INITS)
    elif not value.is_complex():
        start = init
    target = value.abs() if value.is_complex() else value
    if (largest := check_values(target, stft.n_fft)) > 2 * full_scale(stft):
        warn_of_power(largest, full_scale(stft))
    n_half, batch_shape = stft.n_fft // 2 + 1, value.shape[:-2]
    n_items = math.prod(batch_shape)

    def items(tensor: Tensor) -> Tensor:
        return tensor[..., :n_half, :].mT.reshape(n_items, value.shape[-1], n_half)

    return items(target), start if isinstance(start, str) else items(start), batch_shape


def _known(known: Tensor | Array, batch_shape: tuple[int, ...], transform: engines.BatchTransform) -> Tensor:
    """Known samples `(n_items, n_known)`."""
    samples, n_most = (
        as_magnitude(known, transform.stft.window, "known"),
        transform.n_samples - 2 * transform.offset,
    )
    fits = samples.ndim and samples.shape[:-1] == batch_shape and samples.shape[-1] <= n_most
    if samples.is_complex() or not fits:
        raise ValueError(
            f"Parameter known has {samples.dtype} and shape {tuple(samples.shape)}: it must be real and of "
            f"shape {batch_shape} + (n_known,), n_known <= {n_most}"
        )
    check_finite(samples, "known")
    return samples.reshape(math.prod(batch_shape), samples.shape[-1])


def _scale(target: Tensor, stft: STFT) -> Tensor:
    """Power of two `(n_items, 1, 1)` that brings samples to about -1 to 1; 1 for silence."""
    peak = target.amax((-2, -1), keepdim=True) if target.numel() else target.new_zeros(len(target), 1, 1)
    exponent = torch.frexp(peak / full_scale(stft)).exponent
    return torch.ldexp(torch.ones_like(peak), exponent.where(peak > 0, 0))


@torch.no_grad()
def _start(
    init: str,
    target: Tensor,
    transform: engines.BatchTransform,
    generator: torch.Generator | None,
    engine: str,
) -> Tensor:
    """Spectrum to start from, `(n_items, n_frames, n_half)`."""
    if init == "stream" and len(target):
        stream = start_stream(transform.stft, (len(target),), engine)
        samples = stream.run(target.mT, length=stream.length(target.shape[-2]))
        return transform.analyze(samples[:, : transform.n_samples])
    if init == "peaks":
        return single_pass(transform.stft, target)
    if init == "random":
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        turns = torch.rand(target.shape[1:], generator=generator, dtype=target.dtype, device=generator.device)
        return torch.polar(target, 2 * torch.pi * turns.to(target.device).expand_as(target))
    return to_magnitude(torch.zeros_like(target, dtype=target.dtype.to_complex()), target)


def start_stream(stft: STFT, batch_shape: tuple[int, ...], engine: str = "auto") -> StreamingInverter:
    """Stream whose result a batch run starts with: nobody waits for it, so it may look further ahead.

    Table "batch starts" of bench/README.md has what others give.
    """
    return StreamingInverter(
        stft,
        look_ahead=stft.look_back + 2,
        n_iter=STREAM_ITER,
        batch_shape=batch_shape,
        engine=engine,
    )


def _groups(target: Tensor) -> list[slice]:
    """Items to iterate together."""
    size = max(1, len(target))
    if target.device.type == "cpu":
        size = max(1, min(size, CACHE_VALUES // math.prod(target.shape[1:])))
    return [slice(i, min(i + size, len(target))) for i in range(0, len(target), size)]
