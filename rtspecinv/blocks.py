"""Inversion of long spectrograms block by block, with constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rtspecinv.bands import FilterBank, bands_of
from rtspecinv.batch import BlockOptions, invert, start_stream
from rtspecinv.common.checks import count, iterable, unknown_name
from rtspecinv.common.warning import muted
from rtspecinv.inputs import Array, as_magnitude
from rtspecinv.levels import MORE_ITERATIONS, SILENCE_AROUND, Balance
from rtspecinv.stft import STFT, check_stft

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on

BLOCK_FRAMES = 1024
OVERLAP_FRAMES = 32
_AT_ONCE = 32  # number of frames per call of the stream; the program waits for a GPU once per call
_MOST_SILENCE = 2**16  # largest number of zeros yielded at once
_MOST_FRAMES = 2**20


def invert_blocks(
    frames: Iterable[Tensor | Array],
    stft: STFT,
    *,
    block_frames: int | None = None,
    overlap_frames: int | None = None,
    length: int | None = None,
    **options: Unpack[BlockOptions],
) -> Iterator[Tensor]:
    """Yield the samples of a spectrogram of any length; memory does not grow with the length.

    A streaming inverter inverts all frames. Each block of its result is the start of a batch run, whose first
    samples are the final samples of the previous run. The end of each run is crossfaded into the stream.

    Args:
        frames: magnitudes `(*batch, n_freq)`, or with `bank` band values `(*batch, n_bands)`, the oldest
            first, as in `StreamingInverter.push`.
        stft: transform that the magnitudes come from.
        block_frames: number of frames in a block, at least twice `overlap_frames`; default: 1024, or four
            times `overlap_frames` if that is more.
        overlap_frames: number of frames that neighbouring blocks share, at least `2 * (stft.look_back + 1)`;
            default: 32, or the least number if that is more.
        length: total number of samples to yield; default: what the frames cover.
        options: other parameters of `invert`, except `init`, `known` and `generator`.

    Yields:
        Pieces of samples `(*batch, n)`, in total as many samples as `invert` returns.

    Raises:
        ValueError, TypeError: as in `invert`; or the blocks overlap too little, there are no frames, or a
            frame is complex.
    """
    iterable(frames=frames)
    check_stft(stft)
    least = 2 * (stft.look_back + 1)
    overlap_frames = max(OVERLAP_FRAMES, least) if overlap_frames is None else overlap_frames
    overlap_frames = count(least, _MOST_FRAMES, overlap_frames=overlap_frames)
    if block_frames is None:
        block_frames = max(BLOCK_FRAMES, 4 * overlap_frames)
    block_frames = count(2 * overlap_frames, 2 * _MOST_FRAMES, block_frames=block_frames)
    if length is not None:
        length = count(1, 2**48, length=length)
    if unfit := sorted({"init", "generator", "known"} & set(options)):
        raise TypeError(f"Parameter {unfit[0]} is not supported: blocks start from the stream; leave it out")
    known_options = tuple(BlockOptions.__annotations__)
    if unknown := [name for name in options if name not in known_options]:
        raise TypeError(str(unknown_name("options", unknown[0], known_options)))
    bank = options.get("bank")
    step = 1 if bank is None else bands_of(bank, stft).step
    source = (_frame(frame, stft, bank) for frame in frames)
    first = list(islice(source, block_frames))
    if not first:
        raise ValueError("Parameter frames is empty: pass at least one frame")
    if len(first) < block_frames:
        yield invert(torch.stack(first, -1), stft.with_center(stft.center), length=length, **options)
        return
    balance = Balance(stft)
    watched = _watched(chain(first, source), balance, bank, step)
    parts = _blocks(watched, first[0].shape[:-1], stft, block_frames, overlap_frames, length, options)
    for part in _trimmed(parts, stft.padding) if length is None else _cut(parts, stft.padding, length):
        balance.add_samples(part)
        yield part
    balance.warn(MORE_ITERATIONS + ("" if stft.center else SILENCE_AROUND))


def _watched(
    frames: Iterable[Tensor], balance: Balance, bank: FilterBank | None, step: int
) -> Iterator[Tensor]:
    for frame in frames:
        balance.add_frame(frame if bank is None else bank.unmix(frame)[..., ::step])
        yield frame


def _frame(frame: Tensor | Array, stft: STFT, bank: FilterBank | None) -> Tensor:
    """Return a copy of a magnitude `(*batch, n_half)` or of band values `(*batch, n_bands)`.

    It is a copy, so that the caller may reuse the memory of the frame.
    """
    values = as_magnitude(frame, stft.window, "frames")
    n_values = stft.n_freq if bank is None else bank.n_bands
    if values.is_complex():
        raise TypeError("Parameter frames is complex, but the stream computes the phase: pass frame.abs()")
    if values.shape[-1:] != (n_values,):
        raise ValueError(
            f"Parameter frames has a frame of shape {tuple(values.shape)}, not (*batch, {n_values}): "
            "pass single frames, such as magnitude.unbind(-1)"
        )
    return (values[..., : stft.n_fft // 2 + 1] if bank is None else values).clone()


def _blocks(
    frames: Iterable[Tensor],
    batch_shape: tuple[int, ...],
    stft: STFT,
    block_frames: int,
    overlap_frames: int,
    length: int | None,
    options: BlockOptions,
) -> Iterator[Tensor]:
    """Yield all samples that the frames cover, including those of the padding.

    samples, frames      |<-------------------- block -------------------->|
    of the stream        ................................................... -------- not computed yet
    already final        |------|
    weight of the run    ########################################\\__________
    then final           |-------------------------------------|<- shared with the next block ->|
    """
    padded, stft = stft.with_center(stft.center), stft.with_center(False)
    hop_length, n_fft = stft.hop_length, stft.n_fft
    n_block = (block_frames - 1) * hop_length + n_fft
    n_shared = (overlap_frames - 1) * hop_length + n_fft
    # The run is crossfaded into the stream over one frame, around the middle of the shared frames.
    n_sure = (n_shared - n_fft) // 2
    fall = (torch.arange(n_shared, dtype=torch.float64, device="cpu") - n_sure) / n_fft
    fade = (0.5 + 0.5 * torch.cos(torch.pi * fall.clamp(0, 1))).to(stft.device, stft.dtype)

    def improve(magnitudes: list[Tensor], samples: Tensor, n_final: int, last: bool) -> Tensor:
        # The padding of the transform is right only at the two ends of the sound. At other edges of a block
        # it is wrong, but there the samples are known or are replaced by those of the stream.
        at_edge = padded if not n_final or last else stft
        inside = slice(at_edge.padding, samples.shape[-1] - at_edge.padding + (n_further if last else 0))
        better = samples.clone()
        # The stream has warned of large magnitudes; `balance` compares the levels.
        with muted("magnitudes up to", "the result is"):
            better[..., inside] = invert(
                torch.stack(magnitudes, -1),
                at_edge,
                init=stft.analyze(samples),
                known=samples[..., :n_final][..., inside],
                length=inside.stop - inside.start,
                **options,
            )
        weight = torch.ones_like(samples)
        if not last:
            weight[..., -n_shared:] = fade
        return torch.lerp(samples, better, weight)

    stream = start_stream(stft, batch_shape, options.get("engine", "auto"), options.get("bank"))
    known: list[Tensor] = []
    n_final = n_left = n_further = 0
    samples, n_late = stft.window.new_zeros(*batch_shape, 0), stream.latency
    frames = iter(frames)
    while True:
        # Number of frames that complete the block.
        n_missing = -(-(n_block - samples.shape[-1] + n_late) // hop_length)
        if not (part := list(islice(frames, min(n_missing, _AT_ONCE)))):
            break
        known += part
        hops = stream.push_many(torch.stack(part, -1))
        samples = torch.cat([samples, hops[..., n_late:]], -1)
        n_late = max(0, n_late - hops.shape[-1])
        if samples.shape[-1] >= n_block:
            block = improve(known[:block_frames], samples[..., :n_block], n_final, last=False)
            n_done = n_block - n_shared
            yield block[..., :n_done]
            samples = torch.cat([block[..., n_done:], samples[..., n_block:]], -1)
            known, n_final = known[block_frames - overlap_frames :], n_sure
            n_left += block_frames - overlap_frames
    samples = torch.cat([samples, stream.flush()], -1)[..., : (len(known) - 1) * hop_length + n_fft]
    # Number of samples of `length` beyond the last whole hop; the last frames cover them.
    n_covered = (n_left + len(known) - 1) * hop_length + n_fft - 2 * padded.padding
    n_further = min(max(0, (length or 0) - n_covered), padded.padding)
    yield improve(known, samples, n_final, last=True)


def _trimmed(parts: Iterable[Tensor], padding: int) -> Iterator[Tensor]:
    """Yield the samples without the first and the last `padding` samples."""
    held = None
    for part in parts:
        held = part[..., padding:] if held is None else torch.cat([held, part], -1)
        yield held[..., : max(0, held.shape[-1] - padding)]
        held = held[..., max(0, held.shape[-1] - padding) :]


def _cut(parts: Iterable[Tensor], padding: int, length: int) -> Iterator[Tensor]:
    """Skip `padding` samples, then yield `length` samples, with zeros after the last."""
    n_to_drop, missing = padding, length
    for part in parts:
        n_dropped = min(n_to_drop, part.shape[-1])
        n_to_drop -= n_dropped
        kept = part[..., n_dropped:][..., :missing]
        missing -= kept.shape[-1]
        yield kept
    while missing:
        silence = part.new_zeros(*part.shape[:-1], min(missing, _MOST_SILENCE))
        missing -= silence.shape[-1]
        yield silence
