"""Measures `rtspecinv invert FOLDER`, compared with an older commit that inverts one file after the other.

python bench/folder.py                       prints files per second of both
python bench/folder.py --only folder-ray     prints start and overhead of `--on ray`; needs the extra cluster
python bench/folder.py --write               also writes the tables into bench/README.md and docs/
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from page import README, ROOT, between, heading, named, run, summarise
from protocol import STANDARD
from tables import Bench, table

import rtspecinv
from rtspecinv.measure.machine import commit, processor

BEFORE = "c97c6ad"  # the last commit that inverted the files of a folder one after the other
N_FILES, N_RUNS = 200, 2
RAY_FILES, N_RAY_RUNS = (60, 600), 1
METHODS = {"stream": ["--method", "stream"], "agla, 100 iterations": ["--method", "agla"], "mel frames": []}


def folder_speed(bench: Bench) -> str:
    """Files per second of a folder, before and now.

    200 files of 4 s, 1024/256 at 22.05 kHz, .npz to .wav, cut from the recordings at 200 places; the last
    row has mel frames (hifigan-22k) of them. "Before" is commit c97c6ad, which inverts one file after the
    other and measures each. Both commands run in turn, twice, and the shorter time counts; it includes the
    start of Python and torch. "Core" is processor time per file, including that start. "Equal" is the number
    of sound files that have the same bytes before and now. "Load" is the load of the machine over the last
    minute at the end of the runs: other programs ran while its value exceeds 2. The target is 3 times as
    many files per second with the method stream.
    """
    rows = []
    with earlier() as package, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for method, options in METHODS.items():
            kind = "mel" if method == "mel frames" else "magnitude"
            if not (folder / kind).exists():
                make(bench, folder / kind, N_FILES, is_mel=kind == "mel")
            best: dict[str, tuple[float, float]] = {}
            for number in range(N_RUNS):
                for who, home in (("before", package), ("now", ROOT)):
                    output = folder / f"{method}-{who}-{number}"
                    found = timed(home, [str(folder / kind), "-o", str(output), *options])
                    best[who] = min(best.get(who, found), found)
            equal = sum(
                (folder / f"{method}-before-0" / path.name).read_bytes() == path.read_bytes()
                for path in (folder / f"{method}-now-0").iterdir()
            )
            (before, core_before), (now, core_now) = best["before"], best["now"]
            speeds = [f"{N_FILES / before:.1f}", f"{N_FILES / now:.1f}", f"{before / now:.1f}"]
            cores = [f"{1000 * core / N_FILES:.0f}" for core in (core_before, core_now)]
            rows.append([method, *speeds, *cores, str(equal), f"{os.getloadavg()[0]:.1f}"])
    columns = ["method", "files/s before", "files/s now", "ratio", "core ms before", "core ms now"]
    return table([*columns, "equal", "load"], rows)


def folder_ray(bench: Bench) -> str:
    """The cost of `--on ray` on one machine.

    60 and 600 files of 4 s, 1024/256 at 22.05 kHz, .npz to .wav, method stream, every file measured: by
    `rtspecinv invert FOLDER` in one process, and by two workers of a cluster that the command starts on the
    same two cores. "ms a file" is the difference of
    both times divided by that of the numbers of files; "start" is what remains of the time for 60 files.
    "Equal" is the number of sound files with the same bytes as those of one process. "Load" is the load of
    the machine over the last minute: other programs ran while its value exceeds 3. The targets are at most
    20 s of start beyond that of one process, and 5 % more time for a file.
    """
    seconds: dict[tuple[str, int], float] = {}
    ways = {"one process": ["--measure"], "two workers": ["--on", "ray", "--workers", "2"]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n_files in RAY_FILES:
            make(bench, folder / str(n_files), n_files)
            for number in range(N_RAY_RUNS):
                for way, options in ways.items():
                    output = folder / f"{n_files}-{way}-{number}"
                    command = [str(folder / str(n_files)), "-o", str(output), "--method", "stream", *options]
                    found, _ = timed(ROOT, command)
                    seconds[way, n_files] = min(seconds.get((way, n_files), found), found)
        few, many = RAY_FILES
        sounds = sorted((folder / f"{many}-one process-0").glob("*.wav"))
        equal = sum(
            path.read_bytes() == (folder / f"{many}-two workers-0" / path.name).read_bytes()
            for path in sounds
        )
    rows = []
    for way in ways:
        each = (seconds[way, many] - seconds[way, few]) / (many - few)
        start = seconds[way, few] - few * each
        times = [f"{seconds[way, n_files]:.1f}" for n_files in RAY_FILES]
        of_all = str(equal) if way != "one process" else ""
        rows.append([way, *times, f"{1000 * each:.1f}", f"{start:.1f}", of_all, f"{os.getloadavg()[0]:.1f}"])
    columns = ["run by", *(f"s for {n_files} files" for n_files in RAY_FILES), "ms a file", "start s"]
    return table([*columns, "equal", "load"], rows)


@contextmanager
def earlier() -> Iterator[Path]:
    """Return a context whose value is a folder with the package at commit `BEFORE`."""
    with tempfile.TemporaryDirectory() as name:
        packed = subprocess.run(
            ["git", "archive", BEFORE, "rtspecinv"], cwd=ROOT, check=True, stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "-x", "-C", name], input=packed.stdout, check=True)
        tiny = Path(name) / "tiny"
        tiny.mkdir()
        stft = rtspecinv.STFT(STANDARD.n_fft, STANDARD.hop_length)
        magnitude = stft.magnitude(torch.rand(10 * STANDARD.n_fft))
        rtspecinv.save_spectrogram(tiny / "a.npz", magnitude, stft, sample_rate=STANDARD.sample_rate)
        mel = rtspecinv.presets["hifigan-22k"]
        rtspecinv.save_spectrogram(tiny / "b.npz", mel(torch.rand(10 * STANDARD.n_fft)), mel)
        for home in (Path(name), ROOT):  # the first call on a machine compiles
            for method in ("stream", "agla"):
                timed(home, [str(tiny), "-o", f"{name}/out-{method}-{home.name}", "--method", method])
        yield Path(name)


def make(bench: Bench, folder: Path, n_files: int, *, is_mel: bool = False) -> None:
    """Write spectrograms of 4 s; each has another starting point in the concatenated recordings."""
    folder.mkdir()
    everything = bench.clips(STANDARD).samples.flatten()
    stft, mel = rtspecinv.STFT(STANDARD.n_fft, STANDARD.hop_length), rtspecinv.presets["hifigan-22k"]
    for i in range(n_files):
        samples = everything.roll(-i * len(everything) // n_files)[: 4 * STANDARD.sample_rate].clone()
        path = folder / f"{i:05}.npz"
        if is_mel:
            rtspecinv.save_spectrogram(path, mel(samples), mel)
        else:
            magnitude = stft.magnitude(samples)
            rtspecinv.save_spectrogram(
                path, magnitude, stft, sample_rate=STANDARD.sample_rate, length=len(samples)
            )


def timed(home: Path, arguments: list[str]) -> tuple[float, float]:
    """Return duration and processor time of `rtspecinv invert` in seconds; `home` has the package."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")])}
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "rtspecinv", "invert", *arguments]
    subprocess.run(
        command, check=True, env=environment, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    core = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begin, core


def after(name: str, bench: Bench) -> None:
    """Copy a table into the page of the docs that shows it."""
    found = re.search(rf"### {heading(name)}:[^|]*\n((?:\|[^\n]*\n)+)", between(README, "folder"))
    assert found is not None
    origin = f"From [bench/README.md](../bench/README.md#folders), commit {commit()}, {processor()}, 2 cores."
    if name == "folder-ray":
        summarise("cluster", f"{found[1]}\nFiles of 4 s, written as sound, measured. {origin}")
    else:
        said = f"{N_FILES} files of 4 s, before (commit {BEFORE}) and now, beside other programs if load > 2."
        summarise("folders", f"{found[1]}\n{said} {origin}")


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", named(folder_speed, folder_ray), "folder-speed", "folder", after))
