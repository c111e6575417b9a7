"""Measures the loss of magnitude spectrograms that are saved as pictures; see bench/README.md.

python bench/pictures.py            prints the table
python bench/pictures.py --write    also writes it into bench/README.md, and a few rows into docs/files.md
"""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path

import torch
from page import named, run, summarise
from protocol import STANDARD
from tables import Bench, number, table
from torch import Tensor

import rtspecinv
from rtspecinv.measure.machine import commit
from rtspecinv.metrics import spectral_convergence

STFT = rtspecinv.STFT(STANDARD.n_fft, STANDARD.hop_length)
PICTURES: list[tuple[str, str, int | None, int]] = [  # name, scale, rows, bits
    ("**linear, 513 rows**", "linear", None, 16),
    ("**linear, 513 rows**", "linear", None, 8),
    ("log from 30 Hz, 1024 rows", "log", 1024, 16),
    ("log from 30 Hz, 512 rows", "log", 512, 16),
    ("log from 30 Hz, 512 rows", "log", 512, 8),
    ("mel, 512 rows", "mel", 512, 16),
    ("mel, 512 rows", "mel", 512, 8),
]

HEADER = ["picture", "bits", "KB per second", "SC dB, picture", "SC dB, sound"]


def picture_loss(bench: Bench) -> str:
    """Spectrograms saved as pictures with a range of 80 dB, at 1024/256.

    Magnitudes are saved as PNG and opened again. "SC dB, picture" is the spectral convergence of the
    magnitudes in the picture. "SC dB, sound" is that of the samples that a stream returns for them
    (look_ahead 3, 8 iterations), compared with the magnitudes of the recording.
    """
    return table(HEADER, _picture_rows(bench))


@cache
def _picture_rows(bench: Bench) -> list[list[str]]:
    clips = bench.clips(STANDARD)
    rows = [["no picture", "", *_row([_measured(samples, None) for samples in clips.samples])]]
    for name, scale, height, bits in PICTURES:
        found = [_measured(samples, (scale, height, bits)) for samples in clips.samples]
        rows.append([name, str(bits), *_row(found)])
    return rows


def _row(found: list[tuple[float, float, float]]) -> list[str]:
    size, picture, sound = (sum(column) / len(column) for column in zip(*found, strict=True))
    return [f"{size / 1000:.0f}" if size else "", number(picture) if size else "", number(sound)]


def _measured(samples: Tensor, picture: tuple[str, int | None, int] | None) -> tuple[float, float, float]:
    """Return bytes per second, and the spectral convergences of the picture and of the sound."""
    magnitude = STFT.magnitude(samples)
    found, size = magnitude, 0
    if picture is not None:
        name, height, bits = picture
        lowest = 30.0 if name == "log" else None
        scale = rtspecinv.PictureScale(
            STANDARD.sample_rate, STANDARD.n_fft, name, lowest, white=float(magnitude.max())
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.png"
            rtspecinv.save_spectrogram(
                path, magnitude, STFT, sample_rate=STANDARD.sample_rate, scale=scale, height=height, bits=bits
            )
            size = path.stat().st_size
            found = torch.stack(
                [torch.from_numpy(frame[0]) for frame in rtspecinv.open_spectrogram(path).frames()], -1
            )
    inverter = rtspecinv.StreamingInverter(STFT, look_ahead=3)
    sound = inverter.run(found)
    inner = slice(4, magnitude.shape[-1] - 4)  # the same setting as in all other tables
    actual = STFT.magnitude(sound)
    return (
        size * STANDARD.sample_rate / samples.shape[-1],
        float(spectral_convergence(found[:, inner], magnitude[:, inner])),
        float(spectral_convergence(actual[:, inner], magnitude[:, inner])),
    )


def write_summary(name: str, bench: Bench) -> None:
    """Write a few rows into docs/files.md."""
    if not bench.files:
        return
    rows = [row for row in _picture_rows(bench) if not row[0].startswith("log")]
    text = table(HEADER, rows)
    origin = f"From [bench/README.md](../bench/README.md#pictures), commit {commit()}."
    caption = f"Mean of {len(bench.clips(STANDARD).names)} recordings, 4 s each. {origin}"
    summarise("pictures", f"{text}\n\n{caption}")


if __name__ == "__main__":
    sys.exit(run(__doc__, named(picture_loss), "picture-loss", "pictures", after=write_summary))
