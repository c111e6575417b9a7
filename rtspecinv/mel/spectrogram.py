"""Mel spectrograms of samples, and samples of mel spectrograms."""

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

START_ITER = 32  # iterations per frame where nobody waits


class Mel(Module):
    """Mel spectrogram of samples, `y = compression(W |STFT(x)|^power)`, W a bank of triangular filters.

    Args:
        config: what a mel spectrogram is; `presets` has those of known models.
        device: where it lives; `.to(device)` moves it.
        dtype: of samples and mel values, torch.float32 or torch.float64.

    Attributes:
        config: as given.
        stft: the transform, with half spectra.
        filters: W, `(n_mels, n_fft // 2 + 1)`.

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
        """The same without compression, of which `expand` makes the values."""
        config = replace(self.config, compression=Compression())
        return Mel(config, device=self.stft.device, dtype=self.stft.dtype)

    @modeless
    def forward(self, samples: Tensor) -> Tensor:
        """Mel spectrogram `(*batch, n_mels, n_frames)` of samples `(*batch, n_samples)`; differentiable."""
        magnitude = self._by_frame(samples) if self.config.per_frame else self._as_whole(samples)
        value: Tensor = self.bank(magnitude[..., :-1] if self.config.drop_last else magnitude)
        return value

    def length(self, n_frames: int) -> int:
        """Samples that mel frames stand for: as many as have `n_frames` frames, and as an inverse gives."""
        return self.stft.length(count(n_frames=n_frames) + self.config.drop_last)

    @modeless
    def expand(self, mel: Tensor | Array) -> Tensor:
        """Undo compression: values `(*batch, n_mels, n_frames)` of `self.linear`, 0 where at the floor.

        Raises:
            ValueError: another number of mel bands, values that no mel spectrogram has, NaN or infinity.
        """
        value = self.bank.expand(self._check(mel).mT).mT
        return value.flip(-2) if self.config.flip else value

    @modeless
    def inverse(self, mel: Tensor | Array) -> Tensor:
        """Non-negative magnitudes whose mel spectrogram is nearly `mel`; pre-emphasis stays.

        Args:
            mel: `(*batch, n_mels, n_frames)`, as `forward` gives it.

        Returns:
            Real `(*batch, n_fft // 2 + 1, n_frames)`, for `invert` or a `StreamingInverter` of `self.stft`.

        Raises:
            ValueError, TypeError: as in `expand`.

        How: `MelBank.inverse`.
        """
        return self.bank.inverse(self._check(mel).mT).mT

    def inverter(self, *, extend: bool = False, **options: Unpack[MelOptions]) -> MelInverter:
        """Stream of mel frames to hops of samples; the arguments are those of `MelInverter`."""
        options.setdefault("device", self.stft.device)
        options.setdefault("dtype", self.stft.dtype)
        return MelInverter(self.config, extend=extend, **options)

    @modeless
    @torch.no_grad()
    def invert(self, mel: Tensor | Array, *, length: int | None = None) -> Tensor:
        """Samples of a whole mel spectrogram, by a stream that looks further ahead; a start for `lbfgs`.

        Args:
            mel: as in `inverse`.
            length: samples to return; default: what the frames cover.

        Returns:
            Samples `(*batch, n_samples)`. Warns of frames that stand for none.

        Raises:
            ValueError, TypeError: as in `inverse`; a length that is no integer above 0.
        """
        value = self._check(mel)
        if length is not None:
            length = count(1, LONGEST_SOUND, length=length)
        look_ahead = self.config.stft(critical=True).look_back + 2
        stream = self.inverter(look_ahead=look_ahead, n_iter=START_ITER, batch_shape=tuple(value.shape[:-2]))
        return stream.run(value, length=length)

    def _as_whole(self, samples: Tensor) -> Tensor:
        """Magnitudes of samples, which are pre-emphasised first."""
        if self.config.preemphasis:
            before = F.pad(samples, (1, 0))[..., :-1]
            samples = samples - self.config.preemphasis * before
        return self.stft.magnitude(samples)

    def _by_frame(self, samples: Tensor) -> Tensor:
        """Magnitudes of samples, every frame without its mean and pre-emphasised by itself."""
        stft = self.stft
        left = (stft.n_fft - stft.win_length) // 2
        around = (left, stft.n_fft - stft.win_length - left)
        frames = stft.frame(stft.pad(samples))[..., left : left + stft.win_length]
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
        frames = F.pad(frames - self.config.preemphasis * before, around)
        return stft.transform(frames * stft.window).mT.abs()

    def extra_repr(self) -> str:
        """Parameters."""
        return repr(self.config)

    def _check(self, mel: Tensor | Array) -> Tensor:
        n_mels = self.config.n_mels
        value = as_magnitude(mel, self.filters, "mel")
        if value.is_complex() or value.ndim < 2 or value.shape[-2] != n_mels or not value.shape[-1]:
            transposed = value.ndim >= 2 and value.shape[-1] == n_mels
            way_out = "it looks like (frames, mels), pass mel.mT" if transposed else "ask rtspecinv.diagnose"
            raise ValueError(
                f"Parameter mel has {value.dtype} and shape {tuple(value.shape)}, not real and "
                f"(*batch, {n_mels}, n_frames): {way_out}"
            )
        self.bank.check(value)
        return value
