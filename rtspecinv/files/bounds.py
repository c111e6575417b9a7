"""Limits on the work and memory that the parameters in a file may cause.

Real settings are far below these limits. Without limits a file of a kilobyte could cause any amount of work.
Every sample is computed from all frames that cover it, so its work is proportional to n_fft / hop_length;
the open frames take memory. The limits apply to combinations of parameters, before the work begins, and only
to parameters read from a file or a message: those that the user passes are not limited.
"""

from __future__ import annotations

from rtspecinv.mel.config import MelConfig

MOST_OVERLAP = 128  # largest number of frames that contain a sample
MOST_OPEN = 2**21  # largest number of samples in all open frames: about 200 MB of state and tables
MOST_BANK_WORK = 2**33  # largest n_mels**2 * n_fft; the inverse of a filter bank then takes seconds
LONGEST_HOP = 10.0  # seconds
MOST_FRAMES = 4000  # largest number of frames in a second of sound; each takes about 0.1 ms


def check_frames(n_fft: int, hop_length: int, channels: int, sample_rate: float) -> None:
    """Raise `ValueError` if frames need far more work or memory than their sound justifies."""
    overlap = -(-n_fft // hop_length)
    said = f"n_fft={n_fft} with hop_length={hop_length}"
    if overlap > MOST_OVERLAP:
        raise ValueError(f"{said} has {overlap} frames over each sample, more than {MOST_OVERLAP}")
    if channels * overlap * n_fft > MOST_OPEN:
        raise ValueError(
            f"{said} and {channels} channels has {channels * overlap * n_fft} samples in open frames, more "
            f"than {MOST_OPEN}"
        )
    if sample_rate > MOST_FRAMES * hop_length:
        raise ValueError(
            f"hop_length={hop_length} at sample_rate={sample_rate:g} has {sample_rate / hop_length:.0f} "
            f"frames in a second, more than {MOST_FRAMES}"
        )
    if hop_length > LONGEST_HOP * sample_rate:
        raise ValueError(
            f"hop_length={hop_length} at sample_rate={sample_rate:g} lasts more than {LONGEST_HOP:g} seconds"
        )


def check_mel(config: MelConfig, channels: int) -> None:
    """Raise `ValueError` if mel frames need far more work or memory than their sound justifies."""
    check_frames(config.n_fft, config.hop_length, channels, config.sample_rate)
    work = config.n_mels**2 * config.n_fft
    if work > MOST_BANK_WORK:
        raise ValueError(
            f"n_mels={config.n_mels} with n_fft={config.n_fft} takes long to invert: n_mels**2 * n_fft is "
            f"{work}, more than {MOST_BANK_WORK}"
        )
