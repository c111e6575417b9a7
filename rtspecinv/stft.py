"""Short-time Fourier transform and its least-squares inverse, in the pieces that inversion needs.

Public tensors have torch's layout, spectra `(*batch, n_freq, n_frames)`. Inside, frames are contiguous
`(*batch, n_frames, n_fft)` and spectra are half spectra `(*batch, n_frames, n_fft // 2 + 1)`:

    samples --pad, frame--> frames --* window, transform--> spectrum
    samples <--/ window sum, trim-- overlap_add <--* window, inverse_transform-- spectrum

The module is long because the checks of parameters and inputs are beside the transform that defines them.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv.common.checks import LONGEST_SOUND, choice, count, finite, flag, instance, real, shown
from rtspecinv.common.masks import unmasked
from rtspecinv.common.modes import Module, home

PAD_MODES = ("reflect", "constant", "replicate", "circular")
CENTERS = (True, False, "same", "snip")
# general_cosine has a mandatory argument, so its name alone does not define a window.
WINDOWS = ("rectangular", "boxcar", *sorted(set(torch.signal.windows.__all__) - {"general_cosine"}))
_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}

LONGEST = 2**22  # largest n_fft; its windows take 200 MB

# Below this coverage (window sum at a sample / steady-state window sum there) a sample cannot be recovered.
# Rounding errors of a frame are about eps times its amplitude. Division by the window, which has
# sqrt(coverage) of its usual size, increases them to eps / sqrt(coverage): at coverage = eps**2 they are as
# large as the sample. Both precisions use eps of float32, so that casting never changes which samples are
# silent. torch.istft rejects window sums below 1e-11, far above this limit: where it is defined, both divide
# by the same sum.
COVERAGE_FLOOR = torch.finfo(torch.float32).eps ** 2


class STFT(Module):
    """Short-time Fourier transform, equal to `torch.stft` and `torch.istft` wherever those are defined.

    Args:
        n_fft: length of a frame in samples, odd or even.
        hop_length: distance from one frame to the next in samples, at most `win_length`; default:
            `n_fft // 4`.
        win_length: length of the window in samples; a shorter window is centred in the frame between zeros;
            default: `n_fft`.
        window: name of a periodic window (one of `WINDOWS`), or its values, real `(win_length,)`.
        center: how the samples are padded. True centres frame `t` on sample `t * hop_length`; "same" pads
            `(n_fft - hop_length) // 2` samples on each side, so that n hops have n frames, as in HiFi-GAN;
            "snip" pads `(n_fft - win_length) // 2`, so that the first window begins at the first sample, as
            in Kaldi; False does not pad, and inverted sound fades in and out at its ends (see
            `StreamingInverter`).
        pad_mode: kind of padding: "reflect", "constant" (zeros), "replicate" or "circular".
        normalized: whether the spectrum is scaled by `1 / sqrt(n_fft)`.
        onesided: whether public spectra have `n_fft // 2 + 1` frequencies rather than `n_fft`.
        device: device of the windows; `.to(device)` moves them.
        dtype: type of samples and magnitudes, torch.float32 or torch.float64. `.to(dtype)` casts the windows
            from their float64 values, so repeated casts lose no precision.

    Attributes:
        n_freq: number of frequencies in a public spectrum.
        look_back: number of earlier frames that overlap a frame, `ceil(n_fft / hop_length) - 1`.
        padding: number of samples padded on each side: `n_fft // 2` if `center` is True, 0 if it is False.
        scale: factor of the spectrum, `1 / sqrt(n_fft)` if `normalized`, else 1.
        window: window `g`, `(n_fft,)`.
        dual_window: canonical dual window `g[n] / sum_q g[n + qH]**2`, `(n_fft,)` (Griffin & Lim 1984,
            eq. 6).
        envelope: `window * dual_window`, `(n_fft,)`; its hop-shifted sum is 1 where the overlap is complete.

    Raises:
        ValueError: a parameter is out of range, or the window sum has a zero, so that no inverse exists.
        TypeError: the window is not real, or the dtype is neither float32 nor float64.

    Examples:
        >>> import torch
        >>> from rtspecinv import STFT
        >>> stft = STFT(n_fft=1024, hop_length=256)
        >>> stft.magnitude(torch.randn(25600)).shape  # (n_freq, n_frames)
        torch.Size([513, 101])
        >>> stft.length(101)
        25600
    """

    window: Tensor
    dual_window: Tensor
    envelope: Tensor

    def __init__(
        self,
        n_fft: int = 1024,
        hop_length: int | None = 256,
        *,
        win_length: int | None = None,
        window: str | Tensor | np.ndarray[Any, Any] = "hann",
        center: bool | str = True,
        pad_mode: str = "reflect",
        normalized: bool = False,
        onesided: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.n_fft = n_fft = count(1, LONGEST, n_fft=n_fft)
        win_length = n_fft if win_length is None else count(1, win_length=win_length)
        hop_length = max(1, n_fft // 4) if hop_length is None else count(1, hop_length=hop_length)
        self.win_length, self.hop_length = win_length, hop_length
        if win_length > n_fft:
            raise ValueError(
                f"Parameter {win_length=} is larger than {n_fft=}: the window must fit in a frame"
            )
        if hop_length > win_length:
            larger = f"{n_fft=}" if win_length == n_fft else f"{win_length=}"  # which one was passed
            raise ValueError(
                f"Parameter {hop_length=} is larger than {larger}: samples would be skipped, use a smaller "
                f"one, such as hop_length={max(1, win_length // 4)}"
            )
        pad_mode = choice(PAD_MODES, pad_mode=pad_mode)
        normalized, onesided = flag(normalized=normalized), flag(onesided=onesided)
        device = checked_device(device)
        check_real(dtype)
        self.n_freq = n_fft // 2 + 1 if onesided else n_fft
        self.look_back = -(-n_fft // hop_length) - 1
        check_center(center)
        self.center, self.pad_mode, self.normalized, self.onesided = center, pad_mode, normalized, onesided
        self.padding = self._padding(center)
        self.scale = n_fft**-0.5 if normalized else 1.0
        device = home(device)
        self._window_label = window if isinstance(window, str) else "<values>"

        left = (n_fft - win_length) // 2
        g = F.pad(_window_values(window, win_length, n_fft), (left, n_fft - win_length - left))
        window_sum = self._steady_sum(g.square())
        _check_invertible(window_sum, self._window_label, hop_length, win_length)
        dual = g / window_sum.repeat(self.look_back + 1)[:n_fft]
        # Values in float64 that .to() does not change; the buffers are cast from them.
        self._masters = {"window": g, "dual_window": dual, "envelope": g * dual}
        for name, master in self._masters.items():
            self.register_buffer(name, master.to(device, dtype, copy=True), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Type of samples and magnitudes."""
        return self.window.dtype

    @property
    def device(self) -> torch.device:
        """Device of the windows."""
        return self.window.device

    @property
    def window_name(self) -> str | None:
        """Name of the window, or None if it was given as values."""
        return None if self._window_label == "<values>" else self._window_label

    @property
    def window_values(self) -> str:
        """Hash of the values of the window, in hexadecimal digits."""
        return hashlib.sha256(self._masters["window"].numpy().tobytes()).hexdigest()

    @property
    def n_needed(self) -> int:
        """Smallest number of samples that `analyze` accepts."""
        if not self.center:
            return self.n_fft
        to_pad = {"reflect": self.padding + 1, "circular": self.padding}.get(self.pad_mode, 1)
        return max(to_pad, self.n_fft - 2 * self.padding)

    def analyze(self, samples: Tensor) -> Tensor:
        """Return the spectrum of samples, `X[k, t] = scale * sum_n g[n] x[n + tH] exp(-2 pi i k n / n_fft)`.

        Args:
            samples: real `(*batch, n_samples)`.

        Returns:
            Complex spectrum `(*batch, n_freq, n_frames)`.

        Raises:
            ValueError: `samples` is empty, on another device, or too short to pad or to fill a frame.
            TypeError: `samples` is not a tensor of the dtype of this STFT.
        """
        return self.spectrum(self.frame(self.pad(samples)) * self.window)

    def pad(self, samples: Tensor) -> Tensor:
        """Pad samples `(*batch, n_samples)` by `padding` on each side; raises the errors of `analyze`."""
        self._check("samples", samples, self.dtype, "(*batch, n_samples)", 1)
        n_samples, padding = samples.shape[-1], self.padding
        if self.center and n_samples < self.n_needed:
            raise ValueError(
                f"Parameter samples has {n_samples=}, but pad_mode={self.pad_mode!r} with n_fft={self.n_fft} "
                f"needs at least {self.n_needed}: pass more samples, or use pad_mode='constant'"
            )
        if not padding:
            return samples
        flat = samples.reshape(-1, 1, n_samples)  # F.pad needs (batch, channel, n_samples)
        return F.pad(flat, (padding, padding), mode=self.pad_mode).reshape(*samples.shape[:-1], -1)

    def length(self, n_frames: int) -> int:
        """Return how many samples frames cover, `(n_frames - 1) * hop_length + n_fft - 2 * padding`.

        An inverse returns this many samples, and the analysis of this many samples returns `n_frames` frames.
        """
        return (count(n_frames=n_frames) - 1) * self.hop_length + self.n_fft - 2 * self.padding

    def magnitude(self, samples: Tensor) -> Tensor:
        """Return the magnitude `|X|` of the spectrum, real `(*batch, n_freq, n_frames)`; see `analyze`."""
        return self.analyze(samples).abs()

    def synthesize(
        self, spectrum: Tensor, length: int | None = None, *, min_coverage: float = COVERAGE_FLOOR
    ) -> Tensor:
        """Return the samples with the nearest spectrum in the least-squares sense.

        They are `x[n] = sum_t g[n - tH] y_t[n - tH] / sum_t g[n - tH]**2`, where `y_t` is the inverse
        transform of frame `t` and H the hop length (Griffin & Lim 1984, eq. 6). At the edges the denominator
        sums fewer frames; samples that no frame covers are 0. With `center=False` and a tapered window the
        denominator is almost 0 at the outermost samples, which are then exact for a consistent spectrum and
        loud for any other. A two-sided spectrum is read from 0 Hz to the Nyquist frequency only, as in
        `torch.istft`.

        Args:
            spectrum: complex spectrum `(*batch, n_freq, n_frames)`.
            length: number of samples to return, trimmed or padded with zeros; default: all that the frames
                cover.
            min_coverage: lower bound of the denominator as a share of its steady-state value, 0 to 1; the
                edges fade where the denominator is below the bound.

        Returns:
            Real samples `(*batch, n_samples)`.

        Raises:
            ValueError: n_freq is wrong, there are no frames, the spectrum is on another device, or the length
                is not positive.
            TypeError: `spectrum` is not a complex tensor of the precision of this STFT.
        """
        self._check("spectrum", spectrum, _COMPLEX[self.dtype], "(*batch, n_freq, n_frames)", 2)
        min_coverage = finite(0, 1, min_coverage=min_coverage)
        n_freq, n_frames = spectrum.shape[-2:]
        if n_freq != self.n_freq:
            transposed = "; its frames look transposed: pass spectrum.mT" if n_frames == self.n_freq else ""
            raise ValueError(
                f"Parameter spectrum has {n_freq=} (shape {tuple(spectrum.shape)}), but n_fft={self.n_fft} "
                f"with onesided={self.onesided} has {self.n_freq}{transposed}"
            )
        half = spectrum[..., : self.n_fft // 2 + 1, :].mT
        frames = self.inverse_transform(half) * self.dual_window
        samples = self.overlap_add(frames) * self.edge_gain(n_frames, min_coverage)
        if length is None:
            samples = samples[..., self.padding : samples.shape[-1] - self.padding]
            if samples.shape[-1] == 0:
                raise ValueError(f"Parameter spectrum has {n_frames=}, all cut by center=True: pass length")
            return samples
        length = count(1, LONGEST_SOUND, length=length)
        samples = samples[..., self.padding : self.padding + length]
        return F.pad(samples, (0, length - samples.shape[-1]))

    def with_center(self, center: bool | str) -> STFT:
        """Return this transform with half spectra and another `center`; both share the windows."""
        other = copy.copy(self)
        other.center, other.padding = center, self._padding(center)
        other.onesided, other.n_freq = True, self.n_fft // 2 + 1
        return other

    def frame(self, samples: Tensor) -> Tensor:
        """Return the overlapping frames of `(*batch, n_samples)` without a window.

        The frames are a view `(*batch, n_frames, n_fft)`. Samples are not padded: those that do not fill a
        last frame are left out. Raises `ValueError` if no frame is filled.
        """
        self._check("samples", samples, self.dtype, "(*batch, n_samples)", 1)
        if samples.shape[-1] < self.n_fft:
            raise ValueError(
                f"Parameter samples has n_samples={samples.shape[-1]}, but a frame needs n_fft={self.n_fft}: "
                "pass more samples, or use center=True"
            )
        return samples.unfold(-1, self.n_fft, self.hop_length)

    def spectrum(self, frames: Tensor) -> Tensor:
        """Return the public spectrum `(*batch, n_freq, n_frames)` of frames `(*batch, n_frames, n_fft)`."""
        if self.onesided:
            return self.transform(frames).mT
        spectrum: Tensor = torch.fft.fft(frames, norm=self._norm).mT
        return spectrum

    def count_frames(self, n_samples: int) -> int:
        """Return the number of frames, `1 + (n_samples + 2 padding - n_fft) // hop_length`, at least 0."""
        n_samples = count(n_samples=n_samples) + 2 * self.padding
        return max(0, 1 + (n_samples - self.n_fft) // self.hop_length)

    def overlap_add(self, frames: Tensor) -> Tensor:
        """Add frames `(*batch, n_frames, n_fft)`, each a hop after the one before.

        Returns `(*batch, (n_frames - 1) * hop_length + n_fft)`. This is the adjoint of `frame`. The frames of
        a sample are added from oldest to newest, with and without gradients, so a stream that adds one frame
        at a time gets the same bits.
        """
        self._check("frames", frames, self.dtype, "(*batch, n_frames, n_fft)", 2)
        if frames.shape[-1] != self.n_fft:
            raise ValueError(f"Parameter frames of shape {tuple(frames.shape)} is not (..., {self.n_fft})")
        return _overlap_add(frames, self.hop_length)

    def transform(self, frames: Tensor) -> Tensor:
        """Return half spectra `(..., n_frames, n_fft // 2 + 1)` of frames `(..., n_frames, n_fft)`."""
        spectrum: Tensor = torch.fft.rfft(frames, norm=self._norm)
        return spectrum

    def inverse_transform(self, spectrum: Tensor) -> Tensor:
        """Return frames `(..., n_frames, n_fft)` of half spectra `(..., n_frames, n_fft // 2 + 1)`.

        No window is applied. The imaginary parts at 0 Hz and at the Nyquist frequency are ignored.
        """
        frames: Tensor = torch.fft.irfft(spectrum, n=self.n_fft, norm=self._norm)
        return frames

    def extra_repr(self) -> str:
        """Return the parameters for `repr`, as `STFT` takes them."""
        names = "n_fft hop_length win_length center pad_mode normalized onesided dtype"
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names.split())
        return f"{shown}, device={str(self.device)!r}, window={self._window_label!r}"

    def _padding(self, center: bool | str) -> int:
        if isinstance(center, str):
            return (self.n_fft - {"same": self.hop_length, "snip": self.win_length}[center]) // 2
        return self.n_fft // 2 if center else 0

    @property
    def _norm(self) -> str:
        return "ortho" if self.normalized else "backward"  # for both directions: `scale` and its inverse

    def _steady_sum(self, values: Tensor) -> Tensor:
        """Return the sum of `(n_fft,)` over all hop shifts, one period `(hop_length,)`."""
        n_shifts = self.look_back + 1
        padded = F.pad(values, (0, n_shifts * self.hop_length - self.n_fft))
        return padded.view(n_shifts, self.hop_length).sum(0)

    def edge_gain(self, n_frames: int, min_coverage: float) -> Tensor:
        """Return steady-state over actual window sum, `(n_samples,)`, 0 where no frame covers a sample.

        It differs from 1 only in the n_fft - hop_length samples at either edge. 2 * look_back + 1 frames
        contain both edges completely; more frames only move them apart.
        """
        n_edge = min(n_frames, 2 * self.look_back + 1)
        coverage = _overlap_add(self.envelope.double().expand(n_edge, -1), self.hop_length)
        gain = (
            coverage.clamp_min(min_coverage).reciprocal().where(coverage > COVERAGE_FLOOR, 0).to(self.dtype)
        )
        if n_edge == n_frames:
            return gain
        left, right = gain.tensor_split([self.n_fft - self.hop_length])
        return torch.cat([left, gain.new_ones((n_frames - n_edge) * self.hop_length), right])

    def _check(self, name: str, value: Tensor, dtype: torch.dtype, layout: str, n_axes: int) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"Parameter {name} is a {type(value).__name__}: use torch.as_tensor({name})")
        if value.dtype != dtype:
            raise TypeError(f"Parameter {name} has {value.dtype}, not {dtype}: {_cast(value, dtype)}")
        if value.device != self.device:
            raise ValueError(f"Parameter {name} is on {value.device}, the STFT on {self.device}: use .to()")
        check_dense(value, name)
        if value.ndim < n_axes or value.numel() == 0:
            state = "is empty" if value.numel() == 0 else "has too few axes"
            raise ValueError(f"Parameter {name} of shape {tuple(value.shape)} {state}, it must be {layout}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> STFT:
        check_real(fn(self.window).dtype)
        before = self.window
        super()._apply(fn, recurse)
        if self.window is not before:
            for name, master in self._masters.items():
                self.get_buffer(name).copy_(master)
        return self


def check_stft(stft: object) -> STFT:
    """Return the value if it is an `STFT`; raises `TypeError` for anything else."""
    return instance(STFT, "pass rtspecinv.STFT(n_fft, hop_length)", stft=stft)


def check_center(center: object) -> None:
    """Raise `ValueError` unless the value is one of `CENTERS`."""
    if not isinstance(center, bool | str) or center not in CENTERS:
        raise ValueError(f"Parameter center={shown(center)} is not True, False, 'same' or 'snip'")


def check_dense(value: Tensor, name: str) -> None:
    """Raise `TypeError` for a sparse tensor, `ValueError` for one on the meta device, which has no values."""
    if value.layout != torch.strided:
        raise TypeError(f"Parameter {name} is {value.layout}, not a plain tensor: use {name}.to_dense()")
    if value.is_meta:
        raise ValueError(f"Parameter {name} is on the meta device and has no values: use a real device")


def _overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    *batch, n_frames, n_fft = frames.shape
    n_samples, n_shifts = (n_frames - 1) * hop_length + n_fft, -(-n_fft // hop_length)
    # The adjoint of unfold is one kernel with a cheap gradient; it takes 7 ns per sample on a CPU. Adding
    # shifted hops takes 8 us per shift and little time per sample: on a CPU it is faster from 1200 samples
    # per shift on, up to ten times.
    if frames.device.type != "cpu" or frames.requires_grad or frames.numel() < 1200 * n_shifts**2:
        shape = [*batch, n_samples]
        samples: Tensor = torch.ops.aten.unfold_backward(frames, shape, len(batch), n_fft, hop_length)
        return samples
    # hop:         0       1       2       3       4
    # frame 0  [ 0 : 1 : 2 : 3 ]                        slice `shift` of frame t is added to hop t + shift;
    # frame 1          [ 0 : 1 : 2 : 3 ]                decreasing shifts add the oldest frame first.
    hops = frames.new_zeros(*batch, n_frames + n_shifts - 1, hop_length)
    for shift in reversed(range(n_shifts)):
        part = frames[..., shift * hop_length : (shift + 1) * hop_length]
        hops[..., shift : shift + n_frames, : part.shape[-1]] += part
    return hops.flatten(-2)[..., :n_samples]


def _window_values(window: str | Tensor | np.ndarray[Any, Any], win_length: int, n_fft: int) -> Tensor:
    if isinstance(window, str):
        if choice(WINDOWS, window=window) in ("rectangular", "boxcar"):
            return torch.ones(win_length, dtype=torch.float64, device="cpu")
        make: Callable[..., Tensor] = getattr(torch.signal.windows, window)
        return make(win_length, sym=False, dtype=torch.float64, device="cpu")
    if not isinstance(window, (Tensor, np.ndarray)):
        raise TypeError(
            f"Parameter window={shown(window)} is not a name, tensor or array: pass 'rectangular' for none"
        )
    values = window if isinstance(window, Tensor) else torch.from_numpy(unmasked(window, "window").copy())
    if values.is_complex():
        raise TypeError(f"Parameter window is complex ({values.dtype}): use a real window")
    if values.shape != (win_length,):
        way_out = "pass values (win_length,)"
        if values.ndim == 1 and len(values) > n_fft:
            way_out = f"it is longer than {n_fft=}, in which it must fit, so it is of another transform"
        elif values.ndim == 1:
            way_out = f"pass win_length={len(values)}"
        shape = tuple(values.shape)
        raise ValueError(f"Parameter window has {shape=}, but {win_length=}: {way_out}")
    if not values.isfinite().all():
        raise ValueError("Parameter window has values that are NaN or infinite: use a finite window")
    return values.detach().to("cpu", torch.float64, copy=True)


def _check_invertible(window_sum: Tensor, window: str, hop_length: int, win_length: int) -> None:
    lowest, offset = window_sum.min(0)
    if lowest <= COVERAGE_FLOOR * window_sum.max():
        raise ValueError(
            f"Parameters {window=}, {win_length=}, {hop_length=} cannot be inverted: the sum of squared "
            f"windows is 0 at sample offset {int(offset)} of every hop. Use a smaller hop_length, at most "
            f"{max(1, min(win_length // 2, hop_length - 1))}, or a window without zeros, such as 'hamming'"
        )


def check_real(dtype: object) -> None:
    """Raise `TypeError` for anything but float32 and float64."""
    if not isinstance(dtype, torch.dtype) or dtype not in _COMPLEX:
        raise TypeError(f"Parameter dtype={shown(dtype)} is not torch.float32 or torch.float64")


def checked_device(device: torch.device | str | int | None) -> torch.device | None:
    """Return the device as a `torch.device`; raises `ValueError` if torch has no such device."""
    if device is None or isinstance(device, torch.device):
        return device
    with suppress(RuntimeError, OverflowError, ValueError, TypeError):
        if isinstance(device, str) or not math.isnan(real(device)):
            return torch.device(device)
    raise ValueError(
        f"Parameter device={shown(device)} is not a device of this machine: use 'cpu', or 'cuda' with a GPU"
    )


def _cast(value: Tensor, dtype: torch.dtype) -> str:
    if dtype.is_complex and not value.is_complex():
        return "a magnitude has no phase yet, invert it instead"
    if value.is_complex() and not dtype.is_complex:
        return "only a spectrum is complex"
    if not value.is_complex() and not value.is_floating_point():
        return f"scale integers to [-1, 1] and cast them with .to({dtype})"
    return f"cast it with .to({dtype}), or the STFT with .to()"
