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
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from page import README, ROOT, between, heading, named, run, summarise
from protocol import STANDARD
from tables import Bench, table

import rtspecinv
from rtspecinv.measure.machine import commit, processor

BEFORE = "c97c6ad"  # the last commit that inverted the files of a folder one after the other
N_FILES, N_RUNS = 200, 2
RAY_FILES = (100, 1300)
MARK = "RTSPECINV_BENCH"  # variable in the environment of all processes of a command
METHODS = {"stream": ["--method", "stream"], "agla, 100 iterations": ["--method", "agla"], "mel frames": []}


def folder_speed(bench: Bench) -> str:
    """Files per second of a folder, before and now.

    200 files of 4 s, 1024/256 at 22.05 kHz, .npz to .wav, cut from the recordings at 200 places; the last row
    has mel frames (hifigan-22k) of them. "Before" is commit c97c6ad, which inverts one file after the other
    and measures each. Both commands run in turn, twice, and the shorter time counts; it includes the start of
    Python and torch. "Core" is processor time per file, including that start. "Equal" is the number of sound
    files that have the same bytes before and now; since then, agla has got another start (table "batch
    starts"), and streams of mel frames another rule. "Load" is the load of the machine over the last minute
    at the end of the runs: other programs ran while its value exceeds 2, and then only processor time is
    comparable. The target is 3 times as many files per second.
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

    100 and 1300 files of 4 s, 1024/256 at 22.05 kHz, .npz to .wav, method stream, every file measured: by
    `rtspecinv invert FOLDER` in one process, and by two workers of a cluster that the command starts on the
    same two cores. "ms a file" is the difference of both times divided by that of the numbers of files, and
    "core ms a file" the same of the processor time of all processes; "start" is what remains of the time for
    100 files. "Equal" is the number of sound files with the same bytes as those of one process. "Load" is the
    load of the machine over the last minute: other programs ran while its value exceeds 3, and then only
    processor time is comparable. The targets are at most 20 s of start beyond that of one process, and 5 %
    more time for a file.
    """
    found: dict[tuple[str, int], tuple[float, float]] = {}
    ways = {"one process": ["--measure"], "two workers": ["--on", "ray", "--workers", "2"]}
    few, many = RAY_FILES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(bench, folder / str(few), few)
        copies(folder / str(few), folder / str(many), many)
        for n_files in RAY_FILES:
            for way, options in ways.items():
                output = folder / f"{n_files}-{way}"
                command = [str(folder / str(n_files)), "-o", str(output), "--method", "stream", *options]
                found[way, n_files] = timed(ROOT, command, has_daemons=way != "one process")
        sounds = sorted((folder / f"{many}-one process").glob("*.wav"))
        equal = sum(
            path.read_bytes() == (folder / f"{many}-two workers" / path.name).read_bytes() for path in sounds
        )
    rows = []
    for way in ways:
        times = [found[way, n_files] for n_files in RAY_FILES]
        each, core = ((last - first) / (many - few) for first, last in zip(*times, strict=True))
        numbers = [f"{seconds:.1f}" for seconds, _ in times]
        numbers += [f"{1000 * each:.1f}", f"{1000 * core:.1f}", f"{times[0][0] - few * each:.1f}"]
        of_all = str(equal) if way != "one process" else ""
        rows.append([way, *numbers, of_all, f"{os.getloadavg()[0]:.1f}"])
    columns = ["run by", *(f"s for {n_files} files" for n_files in RAY_FILES), "ms a file", "core ms a file"]
    return table([*columns, "start s", "equal", "load"], rows)


def copies(folder: Path, to: Path, n_files: int) -> None:
    """Link the files of a folder under other names until there are `n_files`."""
    to.mkdir()
    paths = sorted(folder.iterdir())
    for i in range(n_files):
        os.link(paths[i % len(paths)], to / f"{i:05}.npz")


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


def timed(home: Path, arguments: list[str], *, has_daemons: bool = False) -> tuple[float, float]:
    """Return duration and processor time of `rtspecinv invert` in seconds; `home` has the package.

    has_daemons: whether to count the processor time of processes that the command does not wait for; that of
        their last 0.5 s may be missing.
    """
    mark = f"{os.getpid()}-{time.perf_counter_ns()}"
    path = os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, MARK: mark}
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "rtspecinv", "invert", *arguments]
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, cwd=home, stdout=nothing, stderr=nothing)
    cores: dict[int, float] = {}
    others = set[int]()
    while has_daemons and process.poll() is None:
        _look(f"{MARK}={mark}".encode(), cores, others)
        time.sleep(0.5)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cores.setdefault(process.pid, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return seconds, sum(cores.values())


def _look(mark: bytes, cores: dict[int, float], others: set[int]) -> None:
    """Note the processor seconds of the processes with a mark in their environment; `others` have none."""
    for folder in Path("/proc").glob("[0-9]*"):
        number = int(folder.name)
        if number in others:
            continue
        with suppress(OSError):  # it has ended, or belongs to another user
            if number not in cores and mark not in (folder / "environ").read_bytes().split(b"\0"):
                others.add(number)
                continue
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            cores[number] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def after(name: str, bench: Bench) -> None:
    """Copy a table into the page of the docs that shows it."""
    found = re.search(rf"### {heading(name)}:[^|]*\n((?:\|[^\n]*\n)+)", between(README, "folder"))
    assert found is not None
    origin = f"From [bench/README.md](../bench/README.md#folders), commit {commit()}, {processor()}, 2 cores."
    if name == "folder-ray":
        said = "Files of 4 s, written as sound files; SC of every file is measured."
        summarise("cluster", f"{found[1]}\n{said} {origin}")
    else:
        said = f"{N_FILES} files of 4 s, before (commit {BEFORE}) and now, beside other programs if load > 2."
        summarise("folders", f"{found[1]}\n{said} {origin}")


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", named(folder_speed, folder_ray), "folder-speed", "folder", after))
