"""Recordings to measure on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

import rtspecinv
from rtspecinv.audio import AudioReader
from rtspecinv.common.printable import printable
from rtspecinv.measure.quality import EDGE_FRAMES

LONGEST_SECONDS = 300.0  # what is longer takes hours and gigabytes


def read_mono(audio: Path, seconds: float | None) -> tuple[Tensor, int]:
    """Return the beginning of a recording, its channels mixed into one, `(n_samples,)`, and its rate."""
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
            f"{LONGEST_SECONDS / 60:g} minutes are the most that can be compared: "
            f"take the beginning of {printable(audio)} with --seconds 20"
        )
    return mono, rate


def samples_needed(stft: rtspecinv.STFT) -> int:
    """Samples, whole hops, of which a transform has enough frames to compare."""
    hop_length = stft.hop_length
    needed = max(stft.n_needed, stft.n_fft, 3 * EDGE_FRAMES * hop_length)
    return -(-needed // hop_length) * hop_length


def transform_for(n_samples: int) -> tuple[int, int] | None:
    """Largest n_fft, a power of two, and a quarter of it as hop_length, of which so many samples are enough.

    The result is None if the samples are too few for any n_fft.
    """
    sizes = (2**power for power in range(16, 4, -1))
    fitting = (
        (n_fft, n_fft // 4)
        for n_fft in sizes
        if samples_needed(rtspecinv.STFT(n_fft, n_fft // 4)) <= n_samples
    )
    return next(fitting, None)
