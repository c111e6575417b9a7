"""Implementation of `rtspecinv compare`: all methods on one recording, with a table, a page and sounds."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import rtspecinv
from rtspecinv.audio import FileSink
from rtspecinv.audio._soundfile import soundfile
from rtspecinv.cli._files import refuse_same_file, sound_file
from rtspecinv.cli._report import Tally, note
from rtspecinv.common.printable import printable
from rtspecinv.common.threads import one_thread
from rtspecinv.common.whole_files import write_json, write_whole
from rtspecinv.inputs import iterations
from rtspecinv.measure.contest import CONTESTANTS, Contest, Contestant, Result
from rtspecinv.measure.machine import processor
from rtspecinv.measure.recording import read_mono, samples_needed, transform_for

if TYPE_CHECKING:
    from rtspecinv.cli._page import Column

LONG_SECONDS = 60.0  # a longer recording makes the command print a note
PAGE, NUMBERS = "index.html", "results.json"
_LABEL_WIDTH = 1 + max(len(contestant.label) for contestant in CONTESTANTS)


def compare(args: argparse.Namespace) -> None:
    """Invert a recording's magnitudes by every chosen method and write a report."""
    from rtspecinv.cli import _page as page  # needs the extra report

    soundfile("Reports need")  # for the sounds in the page
    contestants = _chosen(args.methods)
    contest = _contest(args)
    folder: Path = args.output
    folder.mkdir(parents=True, exist_ok=True)
    _write_sound(folder / "original.wav", contest.samples, contest, args.audio)
    results = []
    with one_thread(), Tally(len(contestants), "method") as tally:
        tally.line(" ".join(["method".ljust(_LABEL_WIDTH), *(column.title for column in page.COLUMNS)]))
        for contestant in contestants:
            tally.begin(contestant.label)
            result = contest.run(contestant)
            results.append(result)
            _write_sound(folder / f"{contestant.name}.wav", result.samples, contest, args.audio)
            tally.line(_row(result, page.COLUMNS))
            tally.end()
    for reason in contest.missing.values():
        note(f"{reason}; its column stays empty")
    facts = _facts(contest)
    numbers = _numbers(contest, results, args.audio.name, facts)
    write_json(folder / NUMBERS, numbers)
    content = page.render(contest, results, args.audio.name, facts).encode()
    write_whole(folder / PAGE, lambda file: file.write(content))
    print(f"written       {printable(folder / PAGE)}")


def _chosen(names: str | None) -> list[Contestant]:
    known = {contestant.name: contestant for contestant in CONTESTANTS}
    wanted = list(known) if names is None else [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise ValueError(f"Parameter methods has {name!r}, which is not one of {', '.join(known)}")
    if not wanted:
        raise ValueError(f"Parameter methods is empty: choose from {', '.join(known)}")
    return [contestant for contestant in CONTESTANTS if contestant.name in wanted]


def _contest(args: argparse.Namespace) -> Contest:
    iterations(n_iter=args.n_iter)
    if args.seconds is not None and not (math.isfinite(args.seconds) and args.seconds > 0):
        raise ValueError(f"Parameter seconds={args.seconds} is not a finite number > 0")
    stft = rtspecinv.STFT(args.n_fft, args.hop_length)
    if args.output.exists() and not args.output.is_dir():
        raise NotADirectoryError(f"{printable(args.output)} is a file: name a folder for the report")
    reader = sound_file(args.audio)  # raises an error that names the right command for other files
    mono, rate = read_mono(args.audio, args.seconds)
    n_samples = len(mono) // stft.hop_length * stft.hop_length  # every method returns whole hops
    needed = samples_needed(stft)
    if n_samples < needed:
        said = f"{len(mono)} samples are too few for n_fft={stft.n_fft} with hop_length={stft.hop_length}"
        fitting = transform_for(len(mono))
        way_out = "use a longer recording"
        if reader.n_samples >= needed and args.seconds is not None:
            way_out = f"give --seconds {needed / rate:.9g} or more"
        elif fitting is not None:
            way_out = "give --n-fft {} --hop-length {} or less".format(*fitting)
        raise ValueError(f"{said}: {way_out}")
    if n_samples / rate > LONG_SECONDS:
        note(f"{n_samples / rate:.0f} seconds of sound take many minutes; --seconds 20 is enough")
    if not mono[:n_samples].any():
        raise ValueError(f"{printable(args.audio)} is silent: choose another recording")
    return Contest(mono[:n_samples], rate, stft, args.n_iter)


def _row(result: Result, columns: tuple[Column, ...]) -> str:
    label = result.contestant.label.ljust(_LABEL_WIDTH)
    return " ".join([label, *(column.text(result).rjust(len(column.title)) for column in columns)])


def _facts(contest: Contest) -> dict[str, str]:
    return {
        "length": f"{contest.n_seconds:.1f} s, all channels mixed into one",
        "sample rate": f"{contest.sample_rate} Hz",
        "n_fft": f"{contest.stft.n_fft}",
        "hop": f"{contest.stft.hop_length}",
        "rtspecinv": rtspecinv.__version__,
        "torch": str(torch.__version__),
        "processor": f"{processor()}, one thread",
    }


def _numbers(contest: Contest, results: list[Result], name: str, facts: dict[str, str]) -> dict[str, Any]:
    """Return all measurements, with None in place of numbers that are not finite."""
    return {
        "recording": name,
        "seconds": contest.n_seconds,
        "sample_rate": contest.sample_rate,
        "n_fft": contest.stft.n_fft,
        "hop_length": contest.stft.hop_length,
        "n_iter": contest.n_iter,
        "facts": facts,
        "missing": contest.missing,
        "methods": [
            {
                "name": result.contestant.name,
                "label": result.contestant.label,
                "file": f"{result.contestant.name}.wav",
                "spectral_convergence_db": _finite(result.convergence),
                "log_spectral_distance_db": _finite(result.log_spectral_distance),
                "pesq": _finite(result.pesq),
                "estoi": _finite(result.estoi),
                "seconds": result.seconds,
                "real_time_factor": result.real_time_factor,
                "curve": [[seconds, _finite(db)] for seconds, db in result.curve],
            }
            for result in results
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_sound(path: Path, samples: Tensor, contest: Contest, audio: Path) -> None:
    refuse_same_file(audio, path)
    with FileSink(path, contest.sample_rate) as sink:
        sink.write(samples)
