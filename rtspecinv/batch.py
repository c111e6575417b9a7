"""Batch inversion: the update rules of the stream, applied to all frames of a spectrogram at once.

No frame is committed, so the projection on consistent spectra is that of the transform itself,
`P_C(c) = STFT(iSTFT(c))`, with its padding. By default a batch run starts from the result of a streaming
inverter, whose errors are rare and local; hundreds of iterations from random phases do not reach that result
(bench/README.md, "batch starts").

The module is long because `invert` documents all parameters that the other functions of batch runs share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from rtspecinv import defaults, engines
from rtspecinv.bands import Bands, FilterBank, Magnitudes, bands_of, root
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
from rtspecinv.stft import STFT, check_stft
from rtspecinv.streaming import StreamingInverter
from rtspecinv.updates import RAAR, RULES, Update, find

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on

# Iterations per push, at least, and rule of the stream that a batch run starts with; both are adapted to the
# transform. The rule takes larger steps than in a live stream, because batch iterations follow.
STREAM_ITER, STREAM_RULE = 16, RAAR(beta=0.93, ramp=0.07)

INITS = ("stream", "peaks", "random", "zeros")

# Largest number of values of a spectrum that is iterated at once; more exceed the cache of a CPU.
CACHE_VALUES = 2**18


@dataclass(frozen=True)
class Hybrid:
    """Two rules in sequence: one that explores, then one that converges.

    Args:
        search: rule of the first iterations.
        settle: rule of the remaining iterations, which start from the last estimate of `search`.
        share: share of the iterations that use `search`, 0 to 1; their number is rounded down.

    Source: Peer, Welker & Gerkmann 2022, who combine the difference map with Griffin-Lim.
    """

    search: Update = RULES["dm"]
    settle: Update = RULES["agla"]
    share: float = 0.35

    def __post_init__(self) -> None:
        keep(self, partial(finite, 0, 1), "share")
        way_out = "use a rule, such as rtspecinv.updates.GriffinLim()"
        keep(self, partial(instance, Update, way_out), "search", "settle")

    def legs(self, n_iter: int) -> list[tuple[Update, int]]:
        """Return each rule with its number of iterations."""
        n_search = int(self.share * n_iter)
        return [(self.search, n_search), (self.settle, n_iter - n_search)]


BATCH_RULES: dict[str, Update | Hybrid] = {"hybrid": Hybrid(), **RULES, "raar": RAAR(beta=0.9, ramp=0.0)}


@dataclass(frozen=True)
class Iteration:
    """State of an inversion, passed to a callback.

    items: indices of these items in the flattened batch; a CPU inverts a few at a time, other devices all.
    number: number of iterations done, 0 before the first.
    n_iter: number of iterations to do.
    convergence: spectral convergence of the current estimate, `(n_items,)`, dB.
    samples: best samples so far, `(n_items, n_samples)`.
    actual: one-sided magnitude of the current samples, `(n_items, n_freq, n_frames)`.
    target: given magnitude, of the same shape as `actual`.
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
    """Keywords that `invert_blocks` passes to `invert`, for type checkers."""

    update: str | Update | Hybrid
    n_iter: int
    tol: float
    evaluate_every: int
    callback: Callback | None
    progress: bool
    engine: str
    bank: FilterBank | None


class ManyOptions(BlockOptions, total=False):
    """Keywords that `invert_many` passes to `invert`, for type checkers."""

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
    bank: FilterBank | None = None,
) -> Tensor:
    """Return samples whose magnitudes approximate the given ones, found by iteration.

    Args:
        magnitude: magnitudes, real and non-negative, `(*batch, n_freq, n_frames)`; or complex values, whose
            phase is then the initial phase; with `bank`, band values `(*batch, n_bands, n_frames)`.
        stft: transform that the magnitudes come from.
        update: rule or its name, default: "agla" (accelerated Griffin-Lim). The others are "fgla", "gla",
            "raar", "dm", "admm", and "hybrid" (difference map, then agla), which is better from a poor
            initial phase. A batch run treats all frames alike, so `RAAR` has no ramp here.
        n_iter: number of iterations, at most a million; 0 returns the initial estimate.
        init: initial phase for real magnitudes: "stream" (the result of a `StreamingInverter`), "peaks"
            (`phase.single_pass`), "random", "zeros", or a complex spectrum `(n_freq, n_frames)`, with or
            without the batch axes, whose phase is used.
        length: number of samples to return; default: what the frames cover, `(n_frames - 1) * hop_length` if
            centred.
        known: samples `(*batch, n_known)` with which the result begins; they are not changed.
        tol: the iteration of an item stops when the squared error of its magnitudes falls by less than this
            share of its first value per iteration; with 0 it never stops early.
        evaluate_every: number of iterations between evaluations. The best evaluated estimate is returned, so
            the result is never worse than the initial estimate, provided that `length` neither cuts off nor
            adds samples.
        generator: random generator of the phases, which are the same for every item; default: a generator
            with seed 0.
        callback: function called with an `Iteration` at every evaluation; if it returns a true value, the
            iteration of these items stops.
        progress: whether to show a progress bar, which needs tqdm.
        engine: implementation, as in `StreamingInverter`: "eager" (plain torch), "numba" (compiled), or
            "auto" (the fastest available). Gradients are always computed in plain torch. Compilation takes
            half a minute for each precision; the compiled code is cached on disk.
        bank: filter bank of the values; default: none, for magnitudes. Every iteration then estimates the
            magnitudes together with the phase, as in a `StreamingInverter` with a bank, and errors are those
            of the band values, or of their square roots for a bank of powers.

    Returns:
        Real samples `(*batch, n_samples)`, on the device and in the dtype of `stft`.

    Raises:
        ValueError: a parameter is out of range, or the magnitudes have a wrong shape or are negative, NaN,
            infinite or too large.
        TypeError: `magnitude` is not a tensor or array, or does not have the dtype of `stft`.
        ImportError: `progress` is set and tqdm is missing, or the packages of the engine are missing.

    A warning is issued if the result is 20 dB or more below the level of its magnitudes, or if the frames
    cover no samples.

    If the magnitude requires a gradient, the samples have one. Use few iterations then, because gradients
    grow with every iteration, most of all with the rules "hybrid", "dm" and "raar". An initial phase made
    by `init` counts as constant; the phase of a complex magnitude does not.

    Sources: Griffin & Lim 1984; each rule names its own source.

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
    target, start, batch_shape = _check(magnitude, init, stft, bank)
    length = None if length is None else count(1, LONGEST_SOUND, length=length)
    transform = engines.BatchTransform(stft, target.n_frames, length)
    needs_grad = torch.is_grad_enabled() and any(
        isinstance(t, Tensor) and t.requires_grad for t in (target.magnitude, start)
    )
    make = engines.find_batch(engine, stft, rules, transform.n_frames, needs_grad, bank is not None)
    n_items = len(target.magnitude)
    with torch.set_grad_enabled(needs_grad), bar(n_items * n_iter, "inverting", progress) as show:
        scale = _scale(target.magnitude.detach(), stft)
        target = target.scaled(scale)
        fixed = scale.new_zeros(n_items, 0) if known is None else _known(known, batch_shape, transform)
        fixed = fixed / scale[:, 0]
        if isinstance(start, str):
            start = _start(start, target, transform, generator, engine, bank, scale)
        else:
            start = to_magnitude(start / scale, target.magnitude)
        results, share = [scale.new_zeros(0, transform.n_out)], 1.0
        for items in _groups(target.magnitude):
            part = target.of(items)
            wanted = part.compared()
            whole = make(
                transform, rules, part.magnitude, start[items], fixed[items], part.measurement, part.values
            )
            best, energy = Best(tol), wanted.square().sum((-2, -1))
            for number, sound, magnitudes in _iterates(whole, legs, every):
                n_new, actual = number - best.number, part.measurement.seen(magnitudes)
                error = (actual - wanted).square().sum((-2, -1))
                best.offer(number, sound, error, actual.square().sum((-2, -1)))
                convergence = 10 * torch.log10(error / energy)
                samples = transform.finish(best.samples) * scale[items, 0]
                show(n_new * len(wanted), partial(_decibels, convergence))
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
        warn(no_samples(target.n_frames))
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
    """Return the samples of several spectrograms; those of equal length are inverted in one batch.

    Args:
        magnitudes: magnitudes of each spectrogram, as in `invert`.
        stft: transform that the magnitudes come from.
        lengths: number of samples to return for each spectrogram; default: that of `invert`.
        options: other parameters of `invert`, the same for all spectrograms.

    Returns:
        A list with the samples of each spectrogram, in the given order. They equal the result of `invert` on
        each one alone up to rounding errors, which grow with the number of iterations.

    Raises:
        ValueError, TypeError: as in `invert`, or the numbers of lengths and of magnitudes differ.
    """
    as_tensor = as_spectrogram if options.get("bank") is None else _as_values
    tensors = [as_tensor(m, stft, "magnitudes") for m in iterable(magnitudes=magnitudes)]
    wanted: list[int | None] = [None] * len(tensors)
    if lengths is not None:
        wanted = [None if each is None else count(1, lengths=each) for each in iterable(lengths=lengths)]
    if len(wanted) != len(tensors):
        raise ValueError(
            f"Parameter lengths has {len(wanted)} values for {len(tensors)} magnitudes: pass one for each"
        )
    alike: dict[Any, list[int]] = {}
    for i, (tensor, length) in enumerate(zip(tensors, wanted, strict=True)):
        alike.setdefault((tensor.shape, tensor.dtype, length), []).append(i)
    samples: dict[int, Tensor] = {}
    for (_, _, length), members in alike.items():
        together = invert(torch.stack([tensors[i] for i in members]), stft, length=length, **options)
        samples |= zip(members, together, strict=True)
    return [samples[i] for i in range(len(tensors))]


def _as_values(value: Tensor | Array, stft: STFT, name: str) -> Tensor:
    """Return band values as a tensor; `invert` checks their shape."""
    return as_magnitude(value, check_stft(stft).window, name)


class Best:
    """The best samples so far of every item, and whether each item has converged.

    tol: an item has converged when its error falls by less than this share of its first value per iteration.
    """

    samples: Tensor
    error: Tensor
    energy: Tensor
    _last: Tensor

    def __init__(self, tol: float) -> None:
        self.tol = tol
        self.number = 0

    def offer(self, number: int, samples: Tensor, error: Tensor, energy: Tensor) -> None:
        """Keep samples `(n_items, n_samples)` of less error; errors and energies are `(n_items,)`."""
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
        """Return whether every item has converged."""
        return self.tol > 0 and bool(self._done.all())


def _decibels(convergence: Tensor) -> str:
    return f"{float(convergence.detach().mean()):.1f} dB"


def _iterates(
    whole: engines.BatchEngine, legs: list[tuple[Update, int]], every: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield iterations done, samples and magnitudes: at first, at every evaluation, after each rule."""
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
    """Return rules and their numbers of iterations; a ramp over the age of frames is removed."""
    rule = update if isinstance(update, Hybrid) else named("update", update, BATCH_RULES, Update)
    legs = rule.legs(n_iter) if isinstance(rule, Hybrid) else [(rule, n_iter)]
    return [(replace(leg, ramp=0.0) if isinstance(leg, RAAR) else find(leg), n) for leg, n in legs]


@dataclass(frozen=True)
class _Target:
    """What a batch run approximates.

    magnitude: given magnitudes, or those estimated from values of bands, `(n_items, n_frames, n_half)`.
    measurement: projection on magnitudes, or on values of bands.
    values: values of bands, `(n_items, n_frames, n_bands)`; no bands for magnitudes.
    """

    magnitude: Tensor
    measurement: Magnitudes | Bands
    values: Tensor

    @property
    def n_frames(self) -> int:
        return self.magnitude.shape[-2]

    def compared(self) -> Tensor:
        """Return what the magnitudes of a result are compared with, see `Bands.seen`."""
        power = self.measurement.power if isinstance(self.measurement, Bands) else 1
        return root(self.values, 1 / power) if self.values.shape[-1] else self.magnitude

    def scaled(self, scale: Tensor) -> _Target:
        """Return the target of samples that are divided by `scale`, `(n_items, 1, 1)`."""
        power = self.measurement.power if isinstance(self.measurement, Bands) else 1
        return replace(self, magnitude=self.magnitude / scale, values=self.values / scale**power)

    def of(self, items: slice) -> _Target:
        """Return the target of some items."""
        return replace(self, magnitude=self.magnitude[items], values=self.values[items])


def _check(
    magnitude: Tensor | Array, init: str | Tensor | Array, stft: STFT, bank: FilterBank | None
) -> tuple[_Target, Tensor | str, tuple[int, ...]]:
    """Return the target, the start, `(n_items, n_frames, n_half)` or its name, and the batch shape."""
    measurement: Magnitudes | Bands = Magnitudes()
    if bank is None:
        value = as_spectrogram(magnitude, stft)
        n_freq, values = stft.n_freq, None
    else:
        measurement, value = bands_of(bank, stft), as_magnitude(magnitude, stft.window)
        if value.is_complex() or value.ndim < 2 or value.shape[-2] != bank.n_bands or not value.shape[-1]:
            is_transposed = value.ndim >= 2 and value.shape[-1] == bank.n_bands != value.shape[-2]
            raise ValueError(
                f"Parameter magnitude has {value.dtype} and shape {tuple(value.shape)}: with this bank it "
                f"must be real and (*batch, {bank.n_bands}, n_frames)"
                f"{'; it looks transposed, pass magnitude.mT' if is_transposed else ''}"
            )
        check_values(value, stft.n_fft)
        n_freq, values = stft.n_fft // 2 + 1, bank.heard(value.mT)
        value = bank.unmix(value.mT)[..., :: measurement.step].mT
    shape = (*value.shape[:-2], n_freq, value.shape[-1])
    start: Tensor | str = value
    if not isinstance(init, str):
        start = as_magnitude(init, stft.window, "init")
        if value.is_complex():
            raise ValueError(
                "Parameter init is a spectrum, but the initial phase is that of the complex magnitude: leave "
                "init out, or pass magnitude.abs()"
            )
        if not start.is_complex() or start.shape not in (shape, shape[-2:]):
            raise ValueError(
                f"Parameter init has {start.dtype} and shape {tuple(start.shape)}: it must be complex "
                f"and have the shape {tuple(shape)} of magnitude"
            )
        check_finite(start, "init")
        start = start.expand(shape)
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
        return tensor[..., :n_half, :].mT.reshape(n_items, value.shape[-1], n_half).contiguous()

    half = items(target)
    of_bands = half[..., :0] if values is None else values.reshape(n_items, value.shape[-1], -1)
    return (
        _Target(half, measurement, of_bands),
        start if isinstance(start, str) else items(start),
        batch_shape,
    )


def _known(known: Tensor | Array, batch_shape: tuple[int, ...], transform: engines.BatchTransform) -> Tensor:
    """Return the known samples `(n_items, n_known)`."""
    samples, n_most = (
        as_magnitude(known, transform.stft.window, "known"),
        transform.n_samples - 2 * transform.offset,
    )
    fits = samples.ndim and samples.shape[:-1] == batch_shape and samples.shape[-1] <= n_most
    if samples.is_complex() or not fits:
        raise ValueError(
            f"Parameter known has {samples.dtype} and shape {tuple(samples.shape)}: it must be real "
            f"and have the shape {tuple(batch_shape)} + (n_known,) with n_known <= {n_most}"
        )
    check_finite(samples, "known")
    return samples.reshape(math.prod(batch_shape), samples.shape[-1])


def _scale(target: Tensor, stft: STFT) -> Tensor:
    """Return a power of two `(n_items, 1, 1)` that scales samples to about -1 to 1; 1 for silence."""
    peak = target.amax((-2, -1), keepdim=True) if target.numel() else target.new_zeros(len(target), 1, 1)
    exponent = torch.frexp(peak / full_scale(stft)).exponent
    return torch.ldexp(torch.ones_like(peak), exponent.where(peak > 0, 0))


@torch.no_grad()
def _start(
    init: str,
    given: _Target,
    transform: engines.BatchTransform,
    generator: torch.Generator | None,
    engine: str,
    bank: FilterBank | None,
    scale: Tensor,
) -> Tensor:
    """Return the initial spectrum, `(n_items, n_frames, n_half)`."""
    target = given.magnitude
    if init == "stream" and len(target):
        stream = start_stream(transform.stft, (len(target),), engine, bank)
        # The floor of a bank is not scaled, so its stream gets values that are not scaled, either.
        frames = target if bank is None else given.scaled(1 / scale).values
        samples = stream.run(frames.mT, length=stream.length(target.shape[-2]))
        samples = samples if bank is None else samples / scale[:, 0]
        return transform.analyze(samples[:, : transform.n_samples])
    if init == "peaks":
        return single_pass(transform.stft, target)
    if init == "random":
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        turns = torch.rand(target.shape[1:], generator=generator, dtype=target.dtype, device=generator.device)
        return torch.polar(target, 2 * torch.pi * turns.to(target.device).expand_as(target))
    return to_magnitude(torch.zeros_like(target, dtype=target.dtype.to_complex()), target)


def start_stream(
    stft: STFT, batch_shape: tuple[int, ...], engine: str = "auto", bank: FilterBank | None = None
) -> StreamingInverter:
    """Return the stream whose result a batch run starts from.

    Its latency does not matter, so its look-ahead is longer than that of a live stream. The table "batch
    starts" of bench/README.md compares other starts.
    """
    update, n_iter = defaults.rule(stft, defaults.JOINT), 2 * STREAM_ITER
    if bank is None:
        update = defaults.rule(stft, STREAM_RULE)
        n_iter = round(STREAM_ITER * defaults.KEPT / defaults.kept(stft))
    return StreamingInverter(
        stft,
        look_ahead=stft.look_back + 2,
        update=update,
        n_iter=min(max(n_iter, STREAM_ITER), 2 * STREAM_ITER),
        batch_shape=batch_shape,
        engine=engine,
        bank=bank,
    )


def _groups(target: Tensor) -> list[slice]:
    """Return the items to iterate together."""
    size = max(1, len(target))
    if target.device.type == "cpu":
        size = max(1, min(size, CACHE_VALUES // math.prod(target.shape[1:])))
    return [slice(i, min(i + size, len(target))) for i in range(0, len(target), size)]
