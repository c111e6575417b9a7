"""Streaming inversion of mel spectrograms: each pushed mel frame returns a hop of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv import engines
from rtspecinv.checkpoint import Settings
from rtspecinv.common.checks import flag, instance
from rtspecinv.common.modes import Module, modeless
from rtspecinv.inputs import Array, as_magnitude
from rtspecinv.intake import BandIntake
from rtspecinv.mel.bank import MelBank
from rtspecinv.mel.config import MelConfig
from rtspecinv.streaming import StreamingInverter, StreamOptions, Streams
from rtspecinv.updates import Update

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on

LONGEST_PIECE = 256  # number of samples, and rows of the matrix, with which pre-emphasis is undone at once


class MelOptions(StreamOptions, total=False):
    """Keywords that `Mel.inverter` passes to `MelInverter`, for type checkers."""

    update: str | Update | None
    device: torch.device | str | int | None
    dtype: torch.dtype


class MelInverter(StreamingInverter):
    """Turns mel frames into samples while they arrive: a `StreamingInverter` that takes mel frames.

    A mel frame has fewer values than there are frequencies, so many magnitudes have the same mel frame. The
    inverter estimates the magnitudes together with the phase; see `bank` of `StreamingInverter`. With
    `joint=False`, each frame is first converted to magnitudes on its own (`MelBank.inverse`). These are not
    close to the magnitudes of any signal, so that the choice of the rule and more iterations improve little.

    Args:
        config: parameters of the mel frames.
        extend: whether magnitudes above the last band continue at its level; otherwise they are 0.
        joint: as in `StreamingInverter`.
        update: update rule, as in `StreamingInverter`; default: that of `StreamingInverter`, or "admm" with
            `joint=False`.
        device, dtype: device and dtype of the state.
        options: other arguments of `StreamingInverter`: `init`, `look_ahead`, `revise`, `n_iter`,
            `batch_shape`, `engine`.

    Attributes:
        stft: transform of the samples: that of `config`, without zeros around the window where possible.
        latency: number of samples to drop from the beginning, so that the rest is aligned with the frames.
        bank: filters, a `MelBank`.

    Raises:
        ValueError, TypeError, ImportError: as in `StreamingInverter`.

    The filter `x[n] = y[n] + a x[n-1]` undoes pre-emphasis; gradients pass through it only within a hop.
    """

    bank: MelBank
    _intake: MelIntake

    def __init__(
        self,
        config: MelConfig,
        *,
        extend: bool = False,
        update: str | Update | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype = torch.float32,
        **options: Unpack[StreamOptions],
    ) -> None:
        instance(MelConfig, "pass rtspecinv.MelConfig(...)", config=config)
        extend = flag(extend=extend)
        if update is None and not options.get("joint", True):
            update = "admm"
        stft = config.stft(critical=True, device=device, dtype=dtype)
        bank = MelBank(config, extend=extend, device=device, dtype=dtype)
        super().__init__(stft, update=update, bank=bank, **options)
        self.deemphasis: DeEmphasis | None = None
        if config.preemphasis:
            a, hop_length = config.preemphasis, self.stft.hop_length
            self.deemphasis = DeEmphasis(a, hop_length, self.batch_shape, self.stft)
            self._finish(self.bank.mean.new_zeros(*self.batch_shape, hop_length))

    @modeless
    def push(self, mel: Tensor | Array, *, streams: Streams | None = None) -> Tensor:
        """Take in one mel frame and return the next hop of samples.

        Args:
            mel: mel frame `(*batch_shape, n_mels)`, as `Mel` returns it, on the device and in the dtype of
                the inverter; arrays are moved there.
            streams: streams that have a frame, as in `StreamingInverter.push`; default: all.

        Returns:
            Samples `(*batch_shape, hop_length)`.

        Raises:
            ValueError: the shape or the device is wrong, or a value is NaN, infinite or so large that it
                overflows.
            TypeError: `mel` is not a tensor or array, or does not have the dtype of the inverter.

        A frame that raises an error leaves the stream unchanged; the next valid frame can be pushed.
        """
        if streams is not None:
            return self._finish(super().push(mel, streams=streams), streams)
        self._intake.look_back(wait=False)
        samples, extremes = self._intake.push(mel)
        if extremes is None or self.deemphasis is None:
            return self._finish(samples)
        good = (extremes[0] >= 0) & (extremes[1] <= self._intake.limit)
        before = self.deemphasis.last.clone()
        samples = self._finish(samples)
        self.deemphasis.last.copy_(torch.where(good, self.deemphasis.last, before))
        return samples.where(good.unsqueeze(-1), 0)

    @modeless
    def is_silence(self, mel: Tensor | Array) -> bool:
        """Return whether a frame is silence: all of its values are at the floor."""
        return not bool(self.bank.expand(self._intake.checked_bands(mel, 1, self.batch_shape)).any())

    @modeless
    def push_many(self, mel: Tensor | Array, *, streams: Streams | None = None) -> Tensor:
        """Push several frames, or none, and return as many hops, with the same bits as single pushes.

        Args:
            mel: mel frames `(*batch_shape, n_mels, n_frames)`, otherwise as in `push`.
            streams: selection of streams that receive frames, as in `push`; default: all.

        Returns:
            Samples `(*batch_shape, n_frames * hop_length)`.

        Raises:
            ValueError, TypeError: as in `push`, before any frame is taken in.
        """
        return self._finish(super().push_many(mel, streams=streams), streams)

    @modeless
    def flush(self, n_samples: int | None = None, *, streams: Streams | None = None) -> Tensor:
        """Return the remaining samples, then reset; see `StreamingInverter`."""
        keep = None if self.deemphasis is None else self.deemphasis.last.clone()
        owed = super().flush(n_samples, streams=streams)
        if self.deemphasis is None or keep is None:
            return owed
        self.deemphasis.last.copy_(keep)
        owed = self._finish(owed, streams)
        self.deemphasis.reset(None if streams is None else self._selected(streams))
        return owed

    def length(self, n_frames: int) -> int:
        """Return how many samples mel frames cover; see `Mel.length`."""
        return super().length(n_frames + self.bank.config.drop_last)

    def reset(self, streams: Streams | None = None) -> None:
        """Return streams to their initial state; see `StreamingInverter`."""
        super().reset(streams)
        if self.deemphasis is not None:
            self.deemphasis.reset(None if streams is None else self._selected(streams))

    def _make_intake(self, is_late: bool) -> MelIntake:
        return MelIntake(self._engine, self.stft, self.init, self.batch_shape, is_late, self.bank, self.joint)

    def _state(self) -> dict[str, Tensor]:
        state = super()._state()
        return state if self.deemphasis is None else {**state, "deemphasis": self.deemphasis.last}

    def _settings(self) -> Settings:
        return {**super()._settings(), "config": repr(self.bank.config), "extend": self.bank.extend}

    def _finish(self, samples: Tensor, streams: Streams | None = None) -> Tensor:
        if self.deemphasis is None or not samples.shape[-1]:
            return samples
        chosen, _ = self._chosen(streams)
        if undo := engines.preemphasis_undoer(self._engine, samples):
            return undo(samples, self.deemphasis.last, chosen, self.deemphasis.a)
        found: Tensor = self.deemphasis(samples, chosen)
        return found


class MelIntake(BandIntake):
    """Checks mel frames and converts them to magnitudes, followed by their values if joint."""

    _bank: MelBank

    def _of_bands(self, frame: Tensor) -> Tensor:
        return self._bank.undo(frame)

    def _check_bands(self, low: float, high: float) -> None:
        self._bank.check_range(low, high)

    def _fits(self, low: Tensor, high: Tensor) -> Tensor:
        return self._bank.fits(low, high)

    def _shaped_bands(self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]) -> Tensor:
        """Return contiguous mel frames after a shape check: `(*batch_shape, n_mels)` or `(n_frames, ...)`."""
        mel = as_magnitude(value, self._bank.filters, "mel")
        one = (*batch_shape, self._bank.config.n_mels)
        many = n_axes == 2
        fits = mel.shape[:-1] == one if many else mel.shape == one
        if mel.is_complex() or not fits:
            layout = "batch_shape + (n_mels, n_frames)" if many else "batch_shape + (n_mels,)"
            transposed = mel.ndim == len(one) + 1 and mel.shape[-1] == one[-1]
            way_out = (
                "the layout seems to be (frames, mels); use push_many(mel.mT)"
                if transposed
                else f"the inverter has batch_shape={batch_shape} and n_mels={one[-1]}"
            )
            raise ValueError(
                f"Parameter mel has dtype {mel.dtype} and shape {tuple(mel.shape)}, but must be real and "
                f"{layout}: {way_out}"
            )
        return mel.movedim(-1, 0).contiguous() if many else mel.contiguous()


class DeEmphasis(Module):
    """Undoes pre-emphasis hop by hop, `x[n] = y[n] + a x[n-1]`.

    A hop is processed in pieces of up to `LONGEST_PIECE` samples. Within a piece the filter is a sum, which
    one matrix computes: `x[n] = sum_k a^(n - k) y[k] + a^(n + 1) x[-1]`.
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
        """Set the last sample of all streams, or of those selected: positions or a flat mask, to 0."""
        if streams is None:
            self.last.zero_()
        else:
            self.last.view(-1)[streams] = 0

    def forward(self, samples: Tensor, streams: Tensor | None = None) -> Tensor:
        """Return samples `(*batch, n_samples)` without pre-emphasis; the first sample begins a hop.

        streams: positions of the streams of these samples, where `*batch` is their number; default: all.
        """
        hops = torch.split(samples, self.hop_length, -1)
        pieces = [piece for hop in hops for piece in torch.split(hop, len(self.decay), -1)]
        last = self.last if streams is None else self.last.view(-1)[streams]
        found = torch.cat([self._undo(piece, last) for piece in pieces], -1)
        if streams is not None:
            self.last.view(-1).index_copy_(0, streams, last)
        return found

    def _undo(self, piece: Tensor, last: Tensor) -> Tensor:
        # The rounding of a matrix product depends on the alignment of its operands, which copies share.
        n = piece.shape[-1]
        if not n:
            return piece
        aligned = piece.clone(memory_format=torch.contiguous_format)
        found = F.linear(aligned, self.impulse[:n, :n]) + last.unsqueeze(-1) * self.decay[:n]
        last.copy_(found[..., -1].detach())
        return found
