"""Functions with the names and signatures of `torch_specinv`; a program only changes its import.

Settings of the transform are those of `torch.stft`, with its defaults: a rectangular window and a hop of
`n_fft // 4`. The default of `n_fft` is derived from the number of frequencies. It is even, unless the window
has the odd length that fits this number. The module is long because every function lists and documents all
keywords of its original.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from rtspecinv import metrics
from rtspecinv.batch import Iteration, invert
from rtspecinv.common.checks import count, finite, flag, function, instance, real, unknown_name
from rtspecinv.common.modes import modeless
from rtspecinv.common.progress import Show, bar
from rtspecinv.common.warning import warn
from rtspecinv.descent import OPTIONS, Transform, check_options, check_target, lbfgs, shape_of
from rtspecinv.inputs import MOST_ITER, as_spectrogram, check_values, iterations
from rtspecinv.levels import no_samples
from rtspecinv.phase import single_pass
from rtspecinv.stft import STFT
from rtspecinv.streaming import StreamingInverter
from rtspecinv.updates import ADMM as ADMMRule
from rtspecinv.updates import RTISI, GriffinLim, Update

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on

METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sc": metrics.sc,
    "snr": metrics.snr,
    "ser": metrics.ser,
}


class _STFTKeywords(TypedDict, total=False):
    """Keywords of `torch.stft`; `return_complex` changes no number and is ignored."""

    n_fft: int | None
    hop_length: int | None
    win_length: int | None
    window: Tensor | None
    center: bool
    pad_mode: str
    normalized: bool
    onesided: bool | None
    return_complex: bool | None


class _LBFGSKeywords(TypedDict, total=False):
    """Keywords of `torch.optim.LBFGS`."""

    lr: float
    max_iter: int
    max_eval: int | None
    tolerance_grad: float
    tolerance_change: float
    history_size: int
    line_search_fn: str | None


_AT_ONCE = 32  # number of frames of a stream per step of the progress bar
NEVER_NONE = ("center", "pad_mode", "normalized")  # for the other keywords, None means the default


@modeless
def griffin_lim(
    spec: Tensor,
    max_iter: int = 200,
    tol: float = 1e-6,
    alpha: float = 0.99,
    verbose: bool = True,
    eva_iter: int = 10,
    metric: str = "sc",
    **stft_kwargs: Unpack[_STFTKeywords],
) -> Tensor:
    """Return samples by Griffin-Lim or, for alpha above 0, fast Griffin-Lim.

    Args:
        spec: magnitude `(*batch, n_freq, n_frames)`, whose initial phase is that of `phase_init`, or a
            complex spectrum, whose own phase is the initial phase.
        max_iter: largest number of iterations.
        tol: the iteration stops when the squared error falls by less than this share of its first value per
            iteration.
        alpha: momentum, 0 to 2; above 1 it may not converge.
        verbose: whether to show a progress bar.
        eva_iter: number of iterations between evaluations; the best evaluated estimate is returned.
        metric: measure that the bar shows: "sc", "snr" or "ser".
        stft_kwargs: keywords of `torch.stft`.

    Returns:
        Samples `(*batch, n_samples)`. They have a gradient if `spec` requires one.

    Raises:
        TypeError: `torch.stft` does not have a given keyword.
        ValueError: a parameter is out of range.

    Sources: Griffin & Lim 1984; Perraudin, Balazs & Sondergaard 2013, algorithm 2.
    """
    names = ("spec", "max_iter", "tol", "alpha", "verbose", "eva_iter", "metric")
    stft = _stft(spec, stft_kwargs, names)
    rule = GriffinLim(momentum=finite(0, 2, alpha=alpha))
    return _invert(spec, stft, rule, max_iter, tol, verbose, eva_iter, metric)


@modeless
def RTISI_LA(
    spec: Tensor,
    look_ahead: int = -1,
    asymmetric_window: bool = False,
    max_iter: int = 25,
    alpha: float = 0.99,
    verbose: int = 1,
    **stft_kwargs: Unpack[_STFTKeywords],
) -> Tensor:
    """Return samples by real-time iterative spectrogram inversion with look-ahead, for all frames at once.

    Args:
        spec: magnitude `(*batch, n_freq, n_frames)`.
        look_ahead: number of future frames used; -1 means `(win_length - 1) // hop_length`, 0 is RTISI.
        asymmetric_window: whether the newest frame is analysed with the asymmetric window of the paper rather
            than with the compensated one (Gnann & Spiertz 2010), which is better.
        max_iter: number of iterations per frame.
        alpha: momentum, 0 to 2; the paper has 0.
        verbose: whether to show a progress bar.
        stft_kwargs: keywords of `torch.stft`.

    Returns:
        Samples `(*batch, n_samples)`. They have a gradient if `spec` requires one.

    Raises:
        TypeError: `spec` is complex, or `torch.stft` does not have a given keyword.
        ValueError: a parameter is out of range.

    Source: Zhu, Beauregard & Wyse 2007, section II.
    """
    names = ("spec", "look_ahead", "asymmetric_window", "max_iter", "alpha", "verbose")
    stft = _stft(spec, stft_kwargs, names)
    if spec.is_complex():
        raise TypeError("Parameter spec is complex, but RTISI_LA computes the phase: pass spec.abs()")
    alpha, max_iter = finite(0, 2, alpha=alpha), iterations(max_iter=max_iter)
    textbook = flag(asymmetric_window=asymmetric_window)
    rule = RTISI(momentum=alpha) if textbook else GriffinLim(momentum=alpha)
    if count(-1, look_ahead=look_ahead) == -1:
        look_ahead = (stft.win_length - 1) // stft.hop_length
    spec = as_spectrogram(spec, stft, "spec")
    batch_shape = spec.shape[:-2]
    flat = spec.reshape(batch_shape.numel(), *spec.shape[-2:])
    if not len(flat):
        return invert(spec, stft, n_iter=0)
    inverter = StreamingInverter(
        stft,
        update=rule,
        init="overlap",
        look_ahead=look_ahead,
        revise=0,
        n_iter=max_iter,
        batch_shape=(len(flat),),
    )
    hops = []
    with _bar(spec.shape[-1], "RTISI_LA", verbose) as show:
        for part in torch.split(flat, _AT_ONCE, -1):
            hops.append(inverter.push_many(part))
            show(part.shape[-1], "")
    samples = torch.cat([*hops, inverter.flush()], -1)[..., inverter.latency :]
    if not samples.shape[-1]:
        warn(no_samples(spec.shape[-1]))
    return samples.reshape(*batch_shape, -1)


@modeless
def ADMM(
    spec: Tensor,
    max_iter: int = 1000,
    tol: float = 1e-6,
    rho: float = 0.1,
    verbose: int = 1,
    eva_iter: int = 10,
    metric: str = "sc",
    **stft_kwargs: Unpack[_STFTKeywords],
) -> Tensor:
    """Return samples by the alternating direction method of multipliers.

    Args:
        spec: magnitude `(*batch, n_freq, n_frames)`, whose initial phase is that of `phase_init`, or a
            complex spectrum, whose own phase is the initial phase.
        max_iter: largest number of iterations.
        tol: the iteration stops when the squared error falls by less than this share of its first value per
            iteration.
        rho: penalty, 0 to 10; small values suit inconsistent magnitudes, 1 is Griffin-Lim.
        verbose: whether to show a progress bar.
        eva_iter: number of iterations between evaluations; the best evaluated estimate is returned.
        metric: measure that the bar shows: "sc", "snr" or "ser".
        stft_kwargs: keywords of `torch.stft`.

    Returns:
        Samples `(*batch, n_samples)`. They have a gradient if `spec` requires one.

    Raises:
        TypeError: `torch.stft` does not have a given keyword.
        ValueError: a parameter is out of range.

    Source: Masuyama, Yatabe & Oikawa 2019, algorithm 2.
    """
    names = ("spec", "max_iter", "tol", "rho", "verbose", "eva_iter", "metric")
    stft = _stft(spec, stft_kwargs, names)
    return _invert(spec, stft, ADMMRule(rho=rho), max_iter, tol, verbose, eva_iter, metric)


@modeless
def L_BFGS(
    spec: Tensor,
    transform_fn: Transform,
    samples: int | tuple[int, ...] | None = None,
    init_x0: Tensor | None = None,
    outer_max_iter: int = 1000,
    tol: float = 1e-6,
    verbose: int = 1,
    eva_iter: int = 10,
    metric: str = "sc",
    **kwargs: Unpack[_LBFGSKeywords],
) -> Tensor:
    """Return samples whose transform approximates `spec`, for any differentiable transform.

    Args:
        spec: desired values of the transform, of any shape.
        transform_fn: function of samples that returns values of the shape of `spec`.
        samples: number of samples, or their shape.
        init_x0: initial samples; default: as in `rtspecinv.lbfgs`.
        outer_max_iter: largest number of calls of the optimizer, each of `max_iter` iterations (default: 20).
        tol: the iteration stops when the squared error falls by less than this share of its first value per
            call.
        verbose: whether to show a progress bar.
        eva_iter: number of calls between evaluations; the best evaluated samples are returned.
        metric: measure that the bar shows: "sc", "snr" or "ser".
        kwargs: keywords of `torch.optim.LBFGS`; default: a strong-Wolfe line search.

    Returns:
        Samples of the shape of the initial samples.

    Raises:
        TypeError: `torch.optim.LBFGS` does not have a given keyword.
        ValueError: as in `rtspecinv.lbfgs`.

    Source: Decorsiere, Sondergaard, MacDonald & Dau 2015.
    """
    own = ("samples", "init_x0", "outer_max_iter", "tol", "verbose", "eva_iter", "metric")
    _refuse_unknown(kwargs, tuple(OPTIONS), own)
    options = check_options(kwargs)
    inner = options.get("max_iter", 20)
    if iterations(outer_max_iter=outer_max_iter) * inner > MOST_ITER:
        raise ValueError(
            f"Parameters {outer_max_iter=}, max_iter={inner} are more than {MOST_ITER} iterations: use fewer"
        )
    eva_iter = count(1, eva_iter=eva_iter)
    tol = finite(0, tol=tol)
    check_target(spec, "spec")
    function(transform_fn=transform_fn)
    samples = shape_of(samples=samples)
    if init_x0 is not None:
        instance(Tensor, "pass samples as a tensor", init_x0=init_x0)
        if samples is not None and init_x0.shape[-1:] != (samples,) and init_x0.shape != samples:
            raise ValueError(
                f"Parameter init_x0 has shape {tuple(init_x0.shape)}, but {samples=}: leave out one"
            )
    _check_metric(metric)
    with _bar(outer_max_iter, "L_BFGS", verbose) as show:
        return lbfgs(
            spec,
            transform_fn,
            length=samples,
            initial=init_x0,
            n_iter=outer_max_iter * inner,
            tol=tol / inner,
            evaluate_every=eva_iter * inner,
            optimizer={**options, "max_iter": inner},
            callback=_Shown(show, metric, inner) if verbose else None,
        )


@modeless
def phase_init(spec: Tensor, **stft_kwargs: Unpack[_STFTKeywords]) -> Tensor:
    """Return a spectrum with phases from single-pass spectrogram inversion, without iterations.

    Args:
        spec: magnitude `(*batch, n_freq, n_frames)`.
        stft_kwargs: keywords of `torch.stft`.

    Returns:
        Complex spectrum of the same shape. No gradient flows through the phases.

    Raises:
        TypeError: `spec` is complex, or `torch.stft` does not have a given keyword.
        ValueError: a setting is out of range; a magnitude is negative or not finite.

    Source: Beauregard, Harish & Wyse 2015, eq. 4 to 7.
    """
    stft = _stft(spec, stft_kwargs, ("spec",))
    if spec.is_complex():
        raise TypeError("Parameter spec is complex, but phase_init computes the phase: pass spec.abs()")
    spec = as_spectrogram(spec, stft, "spec")
    check_values(spec, stft.n_fft)
    half = single_pass(stft, spec[..., : stft.n_fft // 2 + 1, :].mT).mT
    if stft.onesided:
        return half
    return torch.cat([half, half[..., 1 : stft.n_fft - half.shape[-2] + 1, :].conj().flip(-2)], -2)


def _invert(
    spec: Tensor,
    stft: STFT,
    rule: Update,
    max_iter: int,
    tol: float,
    verbose: bool | int,
    eva_iter: int,
    metric: str,
) -> Tensor:
    max_iter, eva_iter = iterations(max_iter=max_iter), count(1, eva_iter=eva_iter)
    _check_metric(metric)
    with _bar(max_iter * spec.shape[:-2].numel(), type(rule).__name__, verbose) as show:
        return invert(
            spec,
            stft,
            update=rule,
            n_iter=max_iter,
            init="peaks",
            tol=tol,
            evaluate_every=eva_iter,
            callback=_Shown(show, metric) if verbose else None,
        )


def _check_metric(metric: str) -> None:
    if str(metric).lower() not in METRICS:
        raise unknown_name("metric", metric, tuple(METRICS))


class _Shown:
    """Callback that moves a bar and shows a metric."""

    def __init__(self, show: Show, metric: str, per_step: int = 1) -> None:
        self.show, self.name, self.per_step, self.shown = show, metric.lower(), per_step, 0

    def __call__(self, now: Iteration) -> None:
        if now.number == 0:
            self.shown = 0
        n_items = 1 if now.items.stop is None else now.items.stop - now.items.start
        value = float(METRICS[self.name](now.actual, now.target))
        self.show((now.number - self.shown) * n_items // self.per_step, f"{self.name} {value:.2f} dB")
        self.shown = now.number


def _bar(total: int, label: str, verbose: bool | int) -> AbstractContextManager[Show]:
    """Return a progress bar, unless `verbose` is False or 0; without tqdm, warn instead."""
    verbose = flag(verbose=verbose) if math.isnan(real(verbose)) else bool(verbose)
    missing = verbose and find_spec("tqdm") is None
    if missing:
        warn('the progress bar needs tqdm: pip install "rtspecinv[progress]", or pass verbose=False')
    return bar(total, label, verbose and not missing)


def _stft(spec: Tensor, settings: Mapping[str, Any], names: tuple[str, ...]) -> STFT:
    """Return the transform that `torch.stft` computes with these settings."""
    _refuse_unknown(settings, tuple(_STFTKeywords.__annotations__), names)
    if not isinstance(spec, Tensor):
        raise TypeError(f"Parameter spec is a {type(spec).__name__}: use torch.as_tensor(spec)")
    if spec.dtype not in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        way_out = "spec.to(torch.complex64)" if spec.is_complex() else "spec.float()"
        raise TypeError(f"Parameter spec has {spec.dtype}, not float32 or float64: use {way_out}")
    if spec.ndim < 2:
        raise ValueError(f"Parameter spec has shape {tuple(spec.shape)}, not (*batch, n_freq, n_frames)")
    given = {name: value for name, value in settings.items() if value is not None or name in NEVER_NONE}
    flag(return_complex=given.get("return_complex", True))
    onesided = flag(onesided=given.get("onesided", True))
    n_freq = spec.shape[-2]
    n_fft = given.get("n_fft", _guess_n_fft(n_freq, given) if onesided else n_freq)
    return STFT(
        n_fft,
        given.get("hop_length"),
        win_length=given.get("win_length"),
        window=given.get("window", "rectangular"),
        center=flag(center=given.get("center", True)),
        pad_mode=given.get("pad_mode", "reflect"),
        normalized=given.get("normalized", False),
        onesided=onesided,
        device=spec.device,
        dtype=spec.dtype.to_real() if spec.is_complex() else spec.dtype,
    )


def _guess_n_fft(n_freq: int, given: dict[str, Any]) -> int:
    """Return the even n_fft with `n_freq` frequencies, or the odd one if the window has that length."""
    even, odd = max(1, 2 * (n_freq - 1)), 2 * n_freq - 1
    window = given.get("window")
    win_length = given.get("win_length")
    win_length = None if win_length is None else count(1, win_length=win_length)
    lengths = (win_length, len(window) if isinstance(window, Tensor) and window.ndim else None)
    return odd if odd in lengths else even


def _refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...], own: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known + own, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"the keywords are {', '.join(known)}"
            raise TypeError(f"unexpected keyword argument {name!r}: {hint}")
