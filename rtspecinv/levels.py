"""Level of a result, absolute and relative to its target magnitudes, and warnings if it is far too quiet."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rtspecinv.common.warning import warn
from rtspecinv.stft import STFT

# A result with less than this share of the energy of its target, -20 dB, is too quiet. Magnitudes that no
# signal has lose less energy: a single frame or bin keeps a share of about hop_length / n_fft.
QUIET = 0.01

QUIET_PEAK = 0.01  # a sound with a smaller peak is far below a usual level

MORE_ITERATIONS = "use a larger n_iter"
ANOTHER_START = f"{MORE_ITERATIONS}, or other initial phases (init='random')"
SILENCE_AROUND = (
    "; if the first or last frame contains the whole sound, compute the frames with silence around it"
)


def least_share(found: Tensor, wanted: Tensor) -> float:
    """Return the smallest of the energy ratios `found / wanted`.

    A ratio counts as 1 where `wanted` is 0, or where either energy is NaN or infinite.
    """
    found, wanted = found.detach(), wanted.detach()
    known = (wanted > 0) & found.isfinite() & wanted.isfinite()
    shares = torch.where(known, found / wanted, 1.0)
    return float(shares.min()) if shares.numel() else 1.0


def warn_of_quiet(share: float, way_out: str) -> None:
    """Warn if `share`, the energy of a result relative to that of its target, is less than `QUIET`."""
    if share < QUIET:
        level = f"is {-10 * math.log10(share):.0f} dB below the level of" if share else "is silent, unlike"
        warn(f"the result {level} its target: {way_out}")


def warn_of_peak(peak: float, stft: STFT | None = None, scaling: str | None = None) -> None:
    """Warn if `peak`, the largest absolute sample, is 0 or far below a usual level.

    stft: transform of the magnitudes that were inverted, default: none, such as for mel frames.
    scaling: scaling of scipy that was undone before inversion, default: none.
    """
    if peak < QUIET_PEAK:
        warn(_why_quiet(peak, stft, scaling))


def no_samples(n_frames: int) -> str:
    """Return the text of the warning that `n_frames` frames cover no samples."""
    if not n_frames:
        return "there was no frame, so there is no sound"
    return (
        f"no samples result from {n_frames} frame{'' if n_frames == 1 else 's'}: centred frames cover "
        "n_frames - 1 hops; pass at least two frames, or pass length="
    )


def _why_quiet(peak: float, stft: STFT | None, scaling: str | None) -> str:
    if not peak:
        return "the sound is silent: every sample is 0" + (
            ", which is the result of magnitudes that are all 0" if stft is not None else ""
        )
    said = (
        f"the largest sample is {peak:.2g}, {-20 * math.log10(peak):.0f} dB below full scale and far below a "
        "usual level"
    )
    if stft is None:
        return said
    if scaling is None and QUIET_PEAK <= peak * float(stft.window.sum()) * stft.scale <= 2:
        said += "; for magnitudes of scipy pass scaling='spectrum' (--scaling spectrum)"
    return f"{said}; the magnitudes may lack a factor, such as that of a window or of a normalization"


class Balance:
    """Compares the energy of samples with that of their target magnitudes, per stream, without a transform.

    stft: transform of the magnitudes.

    By Parseval, except at the edges:
    `sum_t sum_k |X|^2 = n_fft scale^2 / hop_length sum_n g[n]^2 sum_n x[n]^2`.
    """

    def __init__(self, stft: STFT) -> None:
        self.n_half = stft.n_fft // 2 + 1
        window = float(stft.window.double().square().sum())
        self._factor = stft.n_fft * stft.scale**2 / stft.hop_length * window
        self._found = self._wanted = torch.zeros((), dtype=torch.float64, device="cpu")

    def add_frame(self, magnitude: Tensor) -> None:
        """Add the energy of a magnitude frame `(*batch, n_freq)` to that of the target."""
        half = magnitude.detach()[..., : self.n_half].cpu().double()
        self._wanted = self._wanted + 2 * half.square().sum(-1)

    def add_samples(self, samples: Tensor) -> None:
        """Add the energy of samples `(*batch, n)` to that of the result."""
        self._found = self._found + self._factor * samples.detach().cpu().double().square().sum(-1)

    def share(self) -> float:
        """Return the energy of the result so far relative to its target, the smallest of all streams."""
        return least_share(self._found, self._wanted)

    def warn(self, way_out: str) -> None:
        """Warn if the samples so far have far less energy than the magnitudes so far."""
        warn_of_quiet(self.share(), way_out)
