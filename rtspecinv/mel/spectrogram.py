"""`Mel`: the mel spectrogram of samples and its inversion."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv.common.checks import LONGEST_SOUND, count, instance
from rtspecinv.common.modes import Module, modeless
from rtspecinv.inputs import Array, as_magnitude
from rtspecinv.mel.bank import MelBank
from rtspecinv.mel.config import Compression, MelConfig
from rtspecinv.mel.stream import MelInverter, MelOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on

START_ITER = 64  # iterations per frame; time matters less than in a live stream


class Mel(Module):
    """Mel spectrogram of samples, `y = compression(W |STFT(x)|^power)` with triangular filters W.

    Args:
        config: parameters of the mel spectrogram; `presets` has those of known models.
        device: device of the constants; `.to(device)` moves them.
        dtype: type of samples and mel values, torch.float32 or torch.float64.

    Attributes:
        config: configuration as given.
        stft: transform, with half spectra.
        filters: filters W, `(n_mels, n_fft // 2 + 1)`.

    Raises:
        ValueError: the transform that `config` describes does not exist.

    Examples:
        >>> import torch
        >>> from rtspecinv import Mel, MelConfig
        >>> mel = Mel(MelConfig(sample_rate=22050, n_fft=1024, hop_length=256, n_mels=80))
        >>> frames = mel(torch.randn(25600))
        >>> frames.shape, mel.invert(frames).shape
        (torch.Size([80, 101]), torch.Size([25600]))
    """

    def __init__(
        self,
        config: MelConfig,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.config = instance(MelConfig, "pass rtspecinv.MelConfig(...)", config=config)
        self.stft = config.stft(device=device, dtype=dtype)
        self.bank = MelBank(config, device=device, dtype=dtype)

    @property
    def filters(self) -> Tensor:
        """Triangular filters `(n_mels, n_fft // 2 + 1)`."""
        return self.bank.filters

    @property
    @modeless
    def linear(self) -> Mel:
        """Same mel spectrogram without compression; `expand` returns its values."""
        config = replace(self.config, compression=Compression())
        return Mel(config, device=self.stft.device, dtype=self.stft.dtype)

    @modeless
    def forward(self, samples: Tensor) -> Tensor:
        """Return the mel spectrogram `(*batch, n_mels, n_frames)` of samples; it is differentiable."""
        magnitude = self._by_frame(samples) if self.config.per_frame else self._as_whole(samples)
        value: Tensor = self.bank(magnitude[..., :-1] if self.config.drop_last else magnitude)
        return value

    def length(self, n_frames: int) -> int:
        """Return how many samples `n_frames` mel frames cover, which an inverse returns."""
        return self.stft.length(count(n_frames=n_frames) + self.config.drop_last)

    @modeless
    def expand(self, mel: Tensor | Array) -> Tensor:
        """Undo the compression: return values of `self.linear`, 0 for those at the floor.

        Raises:
            ValueError: the number of mel bands is wrong, or a value is NaN, infinite or outside of the range
                of this mel spectrogram.
        """
        value = self.bank.expand(self._check(mel).mT).mT
        return value.flip(-2) if self.config.flip else value

    @modeless
    def inverse(self, mel: Tensor | Array) -> Tensor:
        """Return non-negative magnitudes whose mel spectrogram is nearly `mel`; pre-emphasis is not undone.

        Args:
            mel: mel spectrogram `(*batch, n_mels, n_frames)`, as `forward` returns it.

        Returns:
            Real magnitudes `(*batch, n_fft // 2 + 1, n_frames)`, for `invert` or a `StreamingInverter` with
            `self.stft`.

        Raises:
            ValueError, TypeError: as in `expand`.

        The method is that of `MelBank.inverse`.
        """
        return self.bank.inverse(self._check(mel).mT).mT

    def inverter(self, *, extend: bool = False, **options: Unpack[MelOptions]) -> MelInverter:
        """Return a `MelInverter` of this mel spectrogram; the arguments are those of `MelInverter`."""
        options.setdefault("device", self.stft.device)
        options.setdefault("dtype", self.stft.dtype)
        return MelInverter(self.config, extend=extend, **options)

    @modeless
    @torch.no_grad()
    def invert(self, mel: Tensor | Array, *, length: int | None = None) -> Tensor:
        """Return the samples of a whole mel spectrogram; they can be the initial samples of `lbfgs`.

        A streaming inverter with a longer look-ahead than that of a live stream makes them.

        Args:
            mel: mel spectrogram, as in `inverse`.
            length: number of samples to return; default: what the frames cover.

        Returns:
            Samples `(*batch, n_samples)`. A warning is issued if the frames cover no samples.

        Raises:
            ValueError, TypeError: as in `inverse`, or the length is not an integer above 0.
        """
        value = self._check(mel)
        if length is not None:
            length = count(1, LONGEST_SOUND, length=length)
        look_ahead = self.config.stft(critical=True).look_back + 2
        stream = self.inverter(look_ahead=look_ahead, n_iter=START_ITER, batch_shape=tuple(value.shape[:-2]))
        return stream.run(value, length=length)

    def _as_whole(self, samples: Tensor) -> Tensor:
        """Return magnitudes of samples after pre-emphasis of the whole signal."""
        if self.config.preemphasis:
            before = F.pad(samples, (1, 0))[..., :-1]
            samples = samples - self.config.preemphasis * before
        return self.stft.magnitude(samples)

    def _by_frame(self, samples: Tensor) -> Tensor:
        """Return magnitudes of samples; each frame loses its mean and is pre-emphasised separately."""
        stft = self.stft
        left = (stft.n_fft - stft.win_length) // 2
        around = (left, stft.n_fft - stft.win_length - left)
        frames = stft.frame(stft.pad(samples))[..., left : left + stft.win_length]
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
        frames = F.pad(frames - self.config.preemphasis * before, around)
        return stft.transform(frames * stft.window).mT.abs()

    def extra_repr(self) -> str:
        """Return the parameters for `repr`."""
        return repr(self.config)

    def _check(self, mel: Tensor | Array) -> Tensor:
        n_mels = self.config.n_mels
        value = as_magnitude(mel, self.filters, "mel")
        if value.is_complex() or value.ndim < 2 or value.shape[-2] != n_mels or not value.shape[-1]:
            transposed = value.ndim >= 2 and value.shape[-1] == n_mels
            way_out = (
                "the layout seems to be (frames, mels); pass mel.mT"
                if transposed
                else "rtspecinv.diagnose(mel) describes the array"
            )
            raise ValueError(
                f"Parameter mel has dtype {value.dtype} and shape {tuple(value.shape)}, but must be real and "
                f"(*batch, {n_mels}, n_frames): {way_out}"
            )
        self.bank.check(value)
        return value
