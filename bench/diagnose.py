"""Measures how often `diagnose` is right about common features, and if its advice helps; see docs/mel.md.

python bench/diagnose.py               every kind of tests/support/features.py, of recordings and other sounds
python bench/diagnose.py --write       also writes the table into docs/mel.md
python bench/diagnose.py --audio DIR   uses other recordings
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import protocol
import torch
from page import ROOT, recordings, replace_between, stamp
from tables import number, table

import rtspecinv
from rtspecinv import Compression, MelConfig
from rtspecinv.metrics import spectral_convergence

sys.path.insert(0, str(ROOT / "tests" / "support"))
from features import KINDS, SOUNDS, Kind, instructions, obeyed, untrue

SEEDS = (2, 3)  # the thresholds were chosen with seeds 0 and 1
HIFIGAN = rtspecinv.presets["hifigan-22k"].config
KALDI = MelConfig(
    16000, 512, 160, win_length=400, fmin=20, fmax=8000, scale="htk", area_norm=False, power=2, center=False,
    preemphasis=0.97, compression=Compression("ln", floor=2.0**-23),
)  # fmt: skip
# Nearest configuration of each kind for which `diagnose` may give an instruction.
CONFIGS = {
    "hifigan-22k": HIFIGAN,
    "hifigan, (frames, mels)": HIFIGAN,
    "hifigan, upside down": HIFIGAN,
    "Kaldi, 40 bands": replace(KALDI, n_mels=40),
    "Kaldi, 80 bands": KALDI,
    "Kaldi, 128 bands": replace(KALDI, n_mels=128),
    "Kaldi, no pre-emphasis": replace(KALDI, preemphasis=0),
    "AutoVC": MelConfig(
        16000, 1024, 256, fmin=90, fmax=7600,
        compression=Compression("dB", floor=1e-5, gain=0.01, offset=0.84, clip=(0, 1)),
    ),
    "CosyVoice 2": replace(HIFIGAN, sample_rate=24000, n_fft=1920, hop_length=480),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audio", type=Path, metavar="DIR", help="recordings; default ../shared/audio")
    parser.add_argument("--write", action="store_true", help="put the table into docs/mel.md too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".* mel filters contain no frequency")
    begin = time.perf_counter()
    try:
        files = recordings(args.audio)
        rows = [row(name, files) for name in KINDS]
    except protocol.NoRecordings as error:
        print(error, file=sys.stderr)
        return 1
    header = [
        "features",
        "kind of values: sounds",
        "false claims",
        "instruction: sounds",
        "SC dB before",
        "after",
    ]
    audio = f" --audio {args.audio.resolve().name}" if args.audio else ""
    text = f"{table(header, rows)}\n\n{stamp(f'bench/diagnose.py{audio}', time.perf_counter() - begin)}\n"
    print(text)
    if args.write:
        replace_between(ROOT / "docs" / "mel.md", "diagnose", text)
    return 0


def sounds(rate: int, files: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
    """Return names and samples: recordings, and generated sounds on which no threshold was chosen."""
    clips = protocol.read_clips(files, rate)
    yield from zip(clips.names, clips.samples.double().numpy(), strict=True)
    for seed in SEEDS:
        for name, make in SOUNDS.items():
            yield f"{name} {seed}", make(rate, seed=seed)


def row(name: str, files: list[Path]) -> list[str]:
    kind, said, wrong, passed = KINDS[name], Counter[str](), Counter[str](), Counter[str]()
    off: list[tuple[float, float]] = []
    for _, samples in sounds(kind.rate, files):
        features = np.ascontiguousarray(kind.make(samples))
        found = rtspecinv.diagnose(features)
        said[found.values] += 1
        wrong.update(untrue(kind, found))
        passed.update(set(instructions(found)))
        if instructions(found) and name in CONFIGS:
            after = obeyed(features, found)
            off.append((distance(name, kind, features, samples), distance(name, kind, after, samples)))
    before, after = np.array(off).reshape(-1, 2).T
    heard = [
        number(float(side[~np.isnan(side)].mean())) if off and not np.isnan(side).all() else ""
        for side in (before, after)
    ]
    rejected = "rejected" if off and not heard[0] else heard[0]
    counts = ("; ".join(f"{text}: {n}" for text, n in part.items()) for part in (said, wrong, passed))
    return [name, *counts, rejected, heard[1]]


def distance(name: str, kind: Kind, features: np.ndarray, samples: np.ndarray) -> float:
    """Return spectral convergence of the inverted features against the sound, dB; nan if rejected."""
    mel = rtspecinv.Mel(CONFIGS[name])
    if features.shape[-2] != mel.config.n_mels:
        return float("nan")
    heard = mel.invert(torch.from_numpy(np.ascontiguousarray(features)).float())
    clean = torch.from_numpy(samples).float()
    n = min(len(heard), len(clean))
    stft = rtspecinv.STFT(1024, 256)
    return float(spectral_convergence(stft.magnitude(heard[:n]), stft.magnitude(clean[:n])))


if __name__ == "__main__":
    sys.exit(main())
