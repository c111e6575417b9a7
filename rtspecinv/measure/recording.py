"""Reading of recordings for measurements, and transforms that fit their length."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

import rtspecinv
from rtspecinv.audio import AudioReader
from rtspecinv.common.printable import printable
from rtspecinv.measure.quality import EDGE_FRAMES

LONGEST_SECONDS = 300.0  # a longer recording would take hours and gigabytes


def read_mono(audio: Path, seconds: float | None) -> tuple[Tensor, int]:
    """Return the beginning of a recording, mixed to one channel, `(n_samples,)`, and its sample rate.

    audio: path of the recording.
    seconds: length to read in seconds, None for all of it.

    Raises:
        ValueError: more than `LONGEST_SECONDS` would be returned.
    """
    reader = AudioReader(audio)
    rate = reader.sample_rate
    wanted = round(min(LONGEST_SECONDS + 1 if seconds is None else seconds, LONGEST_SECONDS + 1) * rate)
    blocks, n_samples = [], 0
    for block in reader.blocks(65536):
        blocks.append(torch.from_numpy(block).mean(0))
        n_samples += block.shape[-1]
        if n_samples >= wanted:
            break
    mono = torch.cat(blocks)[:wanted]
    if len(mono) > LONGEST_SECONDS * rate:
        raise ValueError(
            f"{printable(audio)} is longer than {LONGEST_SECONDS / 60:g} minutes: use its beginning, such as "
            "with --seconds 20"
        )
    return mono, rate


def samples_needed(stft: rtspecinv.STFT) -> int:
    """Return the least number of samples, in whole hops, that gives enough frames for a comparison."""
    hop_length = stft.hop_length
    needed = max(stft.n_needed, stft.n_fft, 3 * EDGE_FRAMES * hop_length)
    return -(-needed // hop_length) * hop_length


def transform_for(n_samples: int) -> tuple[int, int] | None:
    """Return the largest power of two as n_fft for which `n_samples` are enough, and `n_fft // 4` as hop.

    The result is None if there are too few samples for any n_fft.
    """
    sizes = (2**power for power in range(16, 4, -1))
    fitting = (
        (n_fft, n_fft // 4)
        for n_fft in sizes
        if samples_needed(rtspecinv.STFT(n_fft, n_fft // 4)) <= n_samples
    )
    return next(fitting, None)
