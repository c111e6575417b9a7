"""How loud a result is, by itself and against what was asked for, and what is said if it is far too quiet."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rtspecinv.common.warning import warn
from rtspecinv.stft import STFT

# Share of the energy of its target below which a result is too quiet, 20 dB. Magnitudes that no signal has
# lose less: of a lone frame or bin, the share that is left is about hop_length / n_fft.
QUIET = 0.01

QUIET_PEAK = 0.01  # largest sample that is far below a usual level

ANOTHER_START = "let it iterate longer, or start from other phases (init='random')"
SILENCE_AROUND = "; where all of the sound is in the first or last frame, make them with silence around it"


def least_share(found: Tensor, wanted: Tensor) -> float:
    """Least of the shares `found / wanted` of energies, 1 where nothing is wanted or a share is unknown."""
    found, wanted = found.detach(), wanted.detach()
    known = (wanted > 0) & found.isfinite() & wanted.isfinite()
    shares = torch.where(known, found / wanted, 1.0)
    return float(shares.min()) if shares.numel() else 1.0


def warn_of_quiet(share: float, way_out: str) -> None:
    """Warn if the energy of a result is less than the share `QUIET` of that of its target."""
    if share < QUIET:
        level = f"is {-10 * math.log10(share):.0f} dB under the level of" if share else "is silent, unlike"
        warn(f"the result {level} its target: {way_out}")


def warn_of_peak(peak: float, stft: STFT | None = None, scaling: str | None = None) -> None:
    """Warn if the largest sample is 0 or far below a usual level.

    stft: the transform of the magnitudes that the sound was made of; None of anything else.
    scaling: that of scipy which has been undone.
    """
    if peak < QUIET_PEAK:
        warn(_why_quiet(peak, stft, scaling))


def no_samples(n_frames: int) -> str:
    """Why so many frames have become no samples."""
    if not n_frames:
        return "there was no frame, so there is no sound"
    return (
        f"{n_frames} frame{'' if n_frames == 1 else 's'} became no samples: centred frames stand for "
        "n_frames - 1 hops, so it takes two of them, or length= to say otherwise"
    )


def _why_quiet(peak: float, stft: STFT | None, scaling: str | None) -> str:
    if not peak:
        return "the sound is silent: every sample of it is 0" + (
            ", as of magnitudes that are all 0" if stft is not None else ""
        )
    said = (
        f"the largest sample is {peak:.2g}, {-20 * math.log10(peak):.0f} dB below full scale and far below a "
        "usual level"
    )
    if stft is None:
        return said
    if scaling is None and QUIET_PEAK <= peak * float(stft.window.sum()) * stft.scale <= 2:
        said += "; if the magnitudes are of scipy, say so: scaling='spectrum' (--scaling spectrum)"
    return f"{said}; magnitudes may be too small by a factor, such as that of a window or of a normalization"


class Balance:
    """Energy of samples and that of their magnitudes, stream by stream, without another transform.

    stft: the transform of the magnitudes.

    But for the edges, `sum_t sum_k |X|^2 = n_fft scale^2 / hop_length sum_n g[n]^2 sum_n x[n]^2` (Parseval).
    """

    def __init__(self, stft: STFT) -> None:
        self.n_half = stft.n_fft // 2 + 1
        window = float(stft.window.double().square().sum())
        self._factor = stft.n_fft * stft.scale**2 / stft.hop_length * window
        self._found = self._wanted = torch.zeros((), dtype=torch.float64, device="cpu")

    def add_frame(self, magnitude: Tensor) -> None:
        """Take in a magnitude frame `(*batch, n_freq)`."""
        half = magnitude.detach()[..., : self.n_half].cpu().double()
        self._wanted = self._wanted + 2 * half.square().sum(-1)

    def add_samples(self, samples: Tensor) -> None:
        """Take in samples `(*batch, n)`."""
        self._found = self._found + self._factor * samples.detach().cpu().double().square().sum(-1)

    def share(self) -> float:
        """Least share, over streams, of the energy asked for so far that the samples so far have."""
        return least_share(self._found, self._wanted)

    def warn(self, way_out: str) -> None:
        """Warn if the samples so far are far too quiet for the magnitudes so far."""
        warn_of_quiet(self.share(), way_out)
