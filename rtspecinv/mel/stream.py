"""Streaming inversion of mel spectrograms: push a mel frame, get a hop of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv import engines
from rtspecinv.checkpoint import Settings
from rtspecinv.common.checks import flag, instance
from rtspecinv.common.modes import Module, modeless
from rtspecinv.inputs import Array, as_magnitude
from rtspecinv.mel.bank import MelBank
from rtspecinv.mel.config import MelConfig
from rtspecinv.streaming import StreamingInverter, StreamOptions, Streams
from rtspecinv.updates import Update

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on

LONGEST_PIECE = 256  # samples at once that pre-emphasis is undone for, by a matrix of that size


class MelOptions(StreamOptions, total=False):
    """Keywords of a `MelInverter` that `Mel.inverter` hands on to it, for type checkers."""

    update: str | Update
    device: torch.device | str | int | None
    dtype: torch.dtype


class MelInverter(StreamingInverter):
    """Turns mel frames into samples while they arrive: a `StreamingInverter` that takes mel frames.

    Every frame is converted to magnitudes by itself; see `MelBank.inverse`. These magnitudes are far from
    those of any signal, so rules differ little here, ADMM is the best of them by a small margin, and more
    iterations gain little (bench/README.md, table "mel choices").

    Args:
        config: parameters of the mel frames.
        extend: True to continue the level of the last band above it, False for zeros there.
        update: as in `StreamingInverter`.
        device, dtype: where the state lives, and its precision.
        options: the other arguments of `StreamingInverter`: `init`, `look_ahead`, `revise`, `n_iter`,
            `batch_shape`, `engine`.

    Attributes:
        stft: the transform of the samples: that of `config`, without zeros around the window where possible.
        latency: samples to drop from the beginning, so that `config` makes these mel frames of the rest.

    Raises:
        ValueError, TypeError, ImportError: as in `StreamingInverter`.

    Pre-emphasis is undone, `x[n] = y[n] + a x[n-1]`; a gradient goes through it within a hop.
    """

    def __init__(
        self,
        config: MelConfig,
        *,
        extend: bool = False,
        update: str | Update = "admm",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype = torch.float32,
        **options: Unpack[StreamOptions],
    ) -> None:
        instance(MelConfig, "pass rtspecinv.MelConfig(...)", config=config)
        extend = flag(extend=extend)
        super().__init__(config.stft(critical=True, device=device, dtype=dtype), update=update, **options)
        self.bank = MelBank(config, extend=extend, device=device, dtype=dtype)
        self._unmixer: tuple[Tensor, Callable[[Tensor], Tensor]] | None = None
        self.deemphasis: DeEmphasis | None = None
        if config.preemphasis:
            a, hop_length = config.preemphasis, self.stft.hop_length
            self.deemphasis = DeEmphasis(a, hop_length, self.batch_shape, self.stft)
            self._finish(self.bank.mean.new_zeros(*self.batch_shape, hop_length))
        self._magnitude(self.bank.mean.new_zeros(*self.batch_shape, config.n_mels))  # compiles, if need be

    @modeless
    def push(self, mel: Tensor | Array, *, streams: Streams | None = None) -> Tensor:
        """Take in one mel frame and return the next hop of samples.

        Args:
            mel: `(*batch_shape, n_mels)`, as its `Mel` gives it, on the device and in the dtype of the
                inverter; arrays are moved there.
            streams: streams that have a frame, as in `StreamingInverter.push`, default: all.

        Returns:
            Samples `(*batch_shape, hop_length)`.

        Raises:
            ValueError: wrong shape or device, NaN, infinite, or so large that it overflows.
            TypeError: not a tensor or array, or not of the dtype of the inverter.

        After an error the stream goes on with the next good frame as if nothing had happened.
        """
        chosen, batch_shape = self._chosen(streams)
        magnitude = self._magnitude(self._check_mel(mel, 1, batch_shape))
        return self._finish(super().push(magnitude, streams=chosen), chosen)

    def check(self, mel: Tensor | Array, *, streams: Streams | None = None) -> None:
        """Raise what `push` would raise for this frame, and change nothing."""
        self._check_mel(mel, 1, self._chosen(streams)[1])

    @modeless
    def is_silence(self, mel: Tensor | Array) -> bool:
        """Return whether a frame is silence: all of its values are at the floor."""
        return not bool(self.bank.expand(self._check_mel(mel, 1, self.batch_shape)).any())

    @modeless
    def push_many(self, mel: Tensor | Array) -> Tensor:
        """Take in several frames, or none, and return as many hops; the same bits as pushing them one by one.

        Args:
            mel: `(*batch_shape, n_mels, n_frames)`, otherwise as in `push`.

        Returns:
            Samples `(*batch_shape, n_frames * hop_length)`.

        Raises:
            ValueError, TypeError: as in `push`, before any frame is taken in.
        """
        frames = self._check_mel(mel, 2, self.batch_shape)
        if not len(frames):
            return self.stft.window.new_zeros(*self.batch_shape, 0)
        return self._finish(super().push_many(torch.stack([self._magnitude(f) for f in frames], -1)))

    def _check_many(self, magnitude: Tensor | Array) -> None:
        self._check_mel(magnitude, 2, self.batch_shape)

    @modeless
    def flush(self, n_samples: int | None = None, *, streams: Streams | None = None) -> Tensor:
        """Return the samples that are still owed, then reset; see `StreamingInverter`."""
        keep = None if self.deemphasis is None else self.deemphasis.last.clone()
        chosen, _ = self._chosen(streams)
        owed = super().flush(n_samples, streams=chosen)
        if self.deemphasis is None or keep is None:
            return owed
        self.deemphasis.last.copy_(keep)
        owed = self._finish(owed, chosen)
        self.deemphasis.reset(chosen)
        return owed

    def length(self, n_frames: int) -> int:
        """Samples that mel frames stand for; see `Mel.length`."""
        return super().length(n_frames + self.bank.config.drop_last)

    def reset(self, streams: Streams | None = None) -> None:
        """Make streams as new; see `StreamingInverter`."""
        super().reset(streams)
        if self.deemphasis is not None:
            self.deemphasis.reset(self._chosen(streams)[0])

    def _state(self) -> dict[str, Tensor]:
        state = super()._state()
        return state if self.deemphasis is None else {**state, "deemphasis": self.deemphasis.last}

    def _settings(self) -> Settings:
        return {**super()._settings(), "config": repr(self.bank.config), "extend": self.bank.extend}

    def _magnitude(self, frame: Tensor) -> Tensor:
        """Magnitudes `(*batch_shape, n_freq)` of a frame, in compiled code where the stream is."""
        filters = self.bank.filters
        if self._unmixer is None or self._unmixer[0] is not filters:  # they were moved
            self._unmixer = filters, engines.unmixer(self._engine, self.bank)
        magnitude = self._unmixer[1](self.bank.undo(frame))
        step = self.bank.config.oversampling
        return magnitude if step == 1 else magnitude[..., ::step]

    def _finish(self, samples: Tensor, streams: Tensor | None = None) -> Tensor:
        if self.deemphasis is None or not samples.shape[-1]:
            return samples
        if undo := engines.preemphasis_undoer(self._engine, samples):
            return undo(samples, self.deemphasis.last, streams, self.deemphasis.a)
        found: Tensor = self.deemphasis(samples, streams)
        return found

    def _check_mel(self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]) -> Tensor:
        """Mel frames of checked shape and values, contiguous: `(*batch_shape, n_mels)`, or many of them."""
        mel = as_magnitude(value, self.bank.filters, "mel")
        one = (*batch_shape, self.bank.config.n_mels)
        many = n_axes == 2
        fits = mel.shape[:-1] == one if many else mel.shape == one
        if mel.is_complex() or not fits:
            layout = "batch_shape + (n_mels, n_frames)" if many else "batch_shape + (n_mels,)"
            transposed = mel.ndim == len(one) + 1 and mel.shape[-1] == one[-1]
            way_out = (
                "it looks like (frames, mels), use push_many(mel.mT)"
                if transposed
                else f"batch_shape={batch_shape} and n_mels={one[-1]} belong to the inverter"
            )
            raise ValueError(
                f"Parameter mel has {mel.dtype} and shape {tuple(mel.shape)}, not real and {layout}: "
                f"{way_out}"
            )
        self.bank.check(mel)
        return mel.movedim(-1, 0).contiguous() if many else mel.contiguous()


class DeEmphasis(Module):
    """Undoes pre-emphasis hop by hop, `x[n] = y[n] + a x[n-1]`.

    Within a piece of a hop, of up to `LONGEST_PIECE` samples, that is a sum and so one matrix:
    `x[n] = sum_k a^(n - k) y[k] + a^(n + 1) x[-1]`.
    """

    impulse: Tensor
    decay: Tensor
    last: Tensor

    def __init__(self, a: float, hop_length: int, batch_shape: tuple[int, ...], like: Any) -> None:
        super().__init__()
        self.a, self.hop_length = a, hop_length
        n = torch.arange(min(hop_length, LONGEST_PIECE), dtype=torch.float64, device="cpu")
        impulse = torch.where(n[:, None] >= n, a ** (n[:, None] - n).clamp_min(0), 0)
        for name, values in (
            ("impulse", impulse),
            ("decay", a ** (n + 1)),
            ("last", torch.zeros(batch_shape, dtype=torch.float64, device="cpu")),
        ):
            self.register_buffer(name, values.to(like.device, like.dtype), persistent=False)

    def reset(self, streams: Tensor | None = None) -> None:
        """Forget the last sample of all streams, or of those at some positions."""
        if streams is None:
            self.last.zero_()
        else:
            self.last.view(-1).index_fill_(0, streams, 0)

    def forward(self, samples: Tensor, streams: Tensor | None = None) -> Tensor:
        """Samples `(*batch, n_samples)` without pre-emphasis, the first being the first of a hop.

        streams: positions of the streams that these are the samples of, `*batch` being their number; default:
            all.
        """
        hops = torch.split(samples, self.hop_length, -1)
        pieces = [piece for hop in hops for piece in torch.split(hop, len(self.decay), -1)]
        last = self.last if streams is None else self.last.view(-1)[streams]
        found = torch.cat([self._undo(piece, last) for piece in pieces], -1)
        if streams is not None:
            self.last.view(-1).index_copy_(0, streams, last)
        return found

    def _undo(self, piece: Tensor, last: Tensor) -> Tensor:
        # How a product of matrices rounds depends on where operands begin in memory: all copies begin alike.
        n = piece.shape[-1]
        if not n:
            return piece
        aligned = piece.clone(memory_format=torch.contiguous_format)
        found = F.linear(aligned, self.impulse[:n, :n]) + last.unsqueeze(-1) * self.decay[:n]
        last.copy_(found[..., -1].detach())
        return found
