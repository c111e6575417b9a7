"""Implementation of `rtspecinv invert`: it converts a file of magnitudes, or a folder of them, to sound."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

import rtspecinv
from rtspecinv.audio import FileSink, Sink
from rtspecinv.cli import _names as names
from rtspecinv.cli._files import is_standard_output, named, refuse_same_file, sound_output, spectrogram_file
from rtspecinv.cli._report import Report, Tally, kind_of, on_terminal, one_line
from rtspecinv.cli._transfer import (
    STREAM_OPTIONS,
    Run,
    Source,
    print_convergence,
    print_source,
    stream,
    stream_options,
    transfer,
)
from rtspecinv.cluster.folder import Done, Work, invert_folder
from rtspecinv.cluster.journal import ERRORS, RESULTS
from rtspecinv.common.printable import printable
from rtspecinv.common.threads import one_thread
from rtspecinv.common.whole_files import make_folder
from rtspecinv.files.opening import ARRAYS, open_spectrogram
from rtspecinv.inputs import iterations
from rtspecinv.levels import warn_of_peak
from rtspecinv.live import Progress
from rtspecinv.many.runner import carry_out
from rtspecinv.many.tasks import (
    Inversion,
    Settings,
    check_mel_options,
    check_mel_rate,
    descent,
    one_frame,
    prepare,
    too_short,
)
from rtspecinv.mel.models import config_of


def invert(args: argparse.Namespace) -> int:
    """Invert a file of magnitudes or a folder of them; returns 1 if a file of a folder failed, else 0."""
    _check_options(args)
    if args.preset is not None and Path(args.preset).suffix.lower() in names.CONFIG_FILES:
        args.preset = rtspecinv.MelConfig.load(args.preset)
    if args.spectrogram.is_dir():
        if is_standard_output(args.output):
            raise ValueError("A folder becomes a folder of sound files: give a name with -o OUTPUT")
        return _invert_folder(args) if args.on is None else _invert_on_ray(args)
    if args.on is not None:
        raise ValueError(f"--on is for folders, but {printable(args.spectrogram)} is not one: leave it out")
    with spectrogram_file(args.spectrogram) as args.spectrogram:
        return _invert_file(args)


def _invert_file(args: argparse.Namespace) -> int:
    for option in ("format", "overwrite", "measure", "address", "workers", "worker_gpus"):
        if getattr(args, option):
            raise ValueError(
                f"--{option.replace('_', '-')} is for folders, and {printable(args.spectrogram)} is a file: "
                "leave it out. The suffix of the output determines the format; an existing output is replaced"
            )
    if args.spectrogram.exists():
        refuse_same_file(args.spectrogram, args.output)
    source = _open(args.spectrogram, args)
    if source is None:
        with one_thread():
            print(f"inverted      {_invert_mel(args.spectrogram, args.output, args)}")
        print(f"written       {named(args.output)}")
        return 0
    if args.method == "stream":
        warn_of_peak(stream(args, source, args.output).peak, source.stft, args.scaling)
        return 0
    report = Report(source.seconds, source.sample_rate)
    outcome = transfer(source, _batch(source, args, report), report, output=args.output)
    n_iter = names.BATCH_ITERATIONS if args.n_iter is None else args.n_iter
    print_source(source, outcome.progress.n_samples, f"{args.method}, {n_iter} iterations")
    print_convergence(outcome)
    report.print_summary(outcome.progress)
    print(f"written       {named(args.output)}")
    warn_of_peak(outcome.peak, source.stft, args.scaling)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    if args.n_iter is not None:
        iterations(n_iter=args.n_iter)
    if args.method == "stream":
        return
    for name in STREAM_OPTIONS:
        if name != "n_iter" and getattr(args, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is an option of --method stream, not of {args.method}: "
                "add --method stream, or leave it out"
            )


def _invert_mel(path: Path, output: Path, args: argparse.Namespace) -> str:
    """Invert mel frames by the method of the command line, and return lines for the report."""
    check_mel_options(printable(path), args.method, vars(args))
    if args.method == "lbfgs":
        return _descend(path, output, args)
    sound = rtspecinv.listen(
        path,
        preset=args.preset,
        layout=args.layout,
        array=args.array,
        sample_rate=args.sample_rate,
        output=sound_output(output),
        update=args.update,
        look_ahead=args.look_ahead,
        n_iter=args.n_iter,
    )
    return f"{sound.samples.shape[-1] / sound.sample_rate:.2f} s of mel frames, as a stream"


def _descend(path: Path, output: Path, args: argparse.Namespace) -> str:
    """Write the sound of mel frames by lbfgs, and return lines for the report."""
    found = open_spectrogram(path, layout=args.layout, mel=args.preset, array=args.array)
    assert found.mel is not None  # `_open` has checked it
    rate = round(found.mel.sample_rate)
    check_mel_rate(printable(path), rate, args.sample_rate)
    n_iter = names.BATCH_ITERATIONS if args.n_iter is None else args.n_iter
    values = torch.stack([torch.from_numpy(frame) for frame in found.frames()], -1)
    samples = descent(found, found.mel, values, n_iter, progress=_alone(args))
    mel = rtspecinv.Mel(found.mel)
    near = float(rtspecinv.metrics.sc(mel.linear(samples), mel.expand(values)))
    with FileSink(sound_output(output), rate, len(samples)) as sink:
        sink.write(samples)
    warn_of_peak(sink.level.peak)
    return (
        f"{samples.shape[-1] / rate:.2f} s of mel frames, lbfgs, {n_iter} iterations\n"
        f"convergence   {near:.1f} dB spectral convergence of the mel values"
    )


def _alone(args: argparse.Namespace) -> bool:
    """Return whether the file gets a progress bar: one file, on a terminal, with tqdm installed."""
    return on_terminal() and not args.spectrogram.is_dir() and find_spec("tqdm") is not None


def _open(path: Path, args: argparse.Namespace) -> Source | None:
    """Return the magnitudes of a file; None if it contains mel frames."""
    if args.preset is not None:
        return None
    spectrogram = open_spectrogram(path, layout=args.layout, array=args.array)
    if spectrogram.mel is not None:
        return None
    stft, sample_rate = spectrogram.stft(
        n_fft=args.n_fft, hop_length=args.hop_length, sample_rate=args.sample_rate
    )
    stft, length = stft.with_center(stft.center), spectrogram.length(stft)
    n_samples = stft.length(spectrogram.n_frames) if length is None else length
    if n_samples < 1:
        raise ValueError(one_frame(path))
    if args.method == "lbfgs" and n_samples < stft.n_needed:
        raise ValueError(too_short(spectrogram, stft, names.METHODS[0]))
    frames = spectrogram.magnitudes(stft, args.scaling, sample_rate)
    return Source(frames, stft, sample_rate, spectrogram.channels, n_samples, length)


def _batch(source: Source, args: argparse.Namespace, report: Report) -> Run:
    """Return a function that inverts frames by the method of the command line and writes to a sink."""

    hop_length = source.stft.hop_length

    def run(frames: Iterable[Tensor], sink: Sink) -> Progress:
        n_samples, work_seconds = 0, 0.0
        prepare(source.stft, args.method)
        begin = time.perf_counter()
        for samples in _pieces(frames, source, args):
            work_seconds += time.perf_counter() - begin
            if samples.shape[-1]:
                sink.write(samples)
            n_samples += samples.shape[-1]
            report(Progress(n_samples // hop_length, n_samples, work_seconds))
            begin = time.perf_counter()
        sink.drain()
        return Progress(n_samples // hop_length, n_samples, work_seconds)

    return run


def _pieces(frames: Iterable[Tensor], source: Source, args: argparse.Namespace) -> Iterator[Tensor]:
    stft, length = source.stft, source.length
    assert not callable(length)
    n_iter = names.BATCH_ITERATIONS if args.n_iter is None else args.n_iter
    if args.method == "lbfgs":
        target = torch.stack(list(frames), -1)
        yield rtspecinv.lbfgs(target, stft.magnitude, length=length, n_iter=n_iter, progress=_alone(args))
        return
    yield from rtspecinv.invert_blocks(frames, stft, length=length, update=args.method, n_iter=n_iter)


def _invert_folder(args: argparse.Namespace) -> int:
    for option in ("address", "workers", "worker_gpus"):
        if getattr(args, option) is not None:
            raise ValueError(
                f"--{option.replace('_', '-')} is an option of --on ray: add that, or leave it out"
            )
    if args.format == names.PARQUET:
        raise ValueError("--format parquet needs --on ray: add that, or choose wav, flac or ogg")
    outputs = _outputs(args.spectrogram, args.output, args.format or names.FORMATS[0])
    missing = {path: output for path, output in outputs.items() if args.overwrite or not output.exists()}
    n_skipped, n_failed = len(outputs) - len(missing), 0
    make_folder(args.output)
    begin, settings = time.perf_counter(), _settings(args)
    opened = partial(open_spectrogram, layout=args.layout, mel=args.preset, array=args.array)
    tasks = (
        Inversion(printable(path), partial(opened, path), output, settings, measure=args.measure)
        for path, output in missing.items()
    )
    with Tally(len(missing), "file") as tally, closing(carry_out(tasks)) as ended:
        for task in ended:
            _tell(task, tally)
            n_failed += task.error is not None
            tally.end()
    n_written, seconds = len(missing) - n_failed, time.perf_counter() - begin
    if n_written:
        print(f"speed         {n_written / seconds:.1f} files per second")
    there = " (already there: --overwrite writes them anew)" if n_skipped else ""
    print(f"{n_written} written, {n_skipped} skipped{there}, {n_failed} failed")
    return 1 if n_failed else 0


def _invert_on_ray(args: argparse.Namespace) -> int:
    if args.output.exists():
        if not args.output.is_dir():
            raise NotADirectoryError(f"{printable(args.output)} is a file, but the output must be a folder")
        refuse_same_file(args.spectrogram, args.output)
    if args.worker_gpus and args.method != "stream":
        raise ValueError("--worker-gpus is for streams: add --method stream")
    work = Work(
        source=args.spectrogram.resolve(),
        output=args.output.resolve(),
        format=args.format or names.FORMATS[0],
        layout=args.layout,
        mel=args.preset if args.preset is None else config_of(args.preset),
        array=args.array,
        settings=replace(_settings(args), device="cuda" if args.worker_gpus else "cpu"),
        overwrite=args.overwrite,
        n_threads=1,
    )
    with ExitStack() as stack:
        tallies: list[Tally] = []

        def report(done: Done) -> None:
            for error in done.errors:
                tallies[0].note(f"error: {error}")
            if done.n_failed > len(done.errors):
                tallies[0].note(f"error: {done.n_failed - len(done.errors)} more, see errors.csv")
            tallies[0].end(done.n_sources)

        def begin(n_sources: int) -> None:
            tallies.append(stack.enter_context(Tally(n_sources, "file")))

        gpus, start = args.worker_gpus or 0.0, time.perf_counter()
        options = {"address": args.address, "workers": args.workers, "num_gpus": gpus}
        total, errors = invert_folder(work, report=report, begin=begin, **options)
    if total.n_written:
        print(f"speed         {total.n_written / (time.perf_counter() - start):.1f} spectrograms per second")
    print(f"{total.n_written} written, {total.n_skipped} skipped, {len(errors)} failed")
    print(f"tables        {printable(args.output / RESULTS)}, {printable(args.output / ERRORS)}")
    return 1 if errors else 0


def _tell(task: Inversion, tally: Tally) -> None:
    """Print the result of a file and its warnings; of warnings that differ only in numbers, the first."""
    if task.error is not None:
        tally.note(f"error: {_about(task, one_line(task.error))}")
        return
    first: dict[object, str] = {}
    for remark in task.remarks:
        first.setdefault(kind_of(remark, "", 0), remark)
    for remark in first.values():
        tally.note(f"warning: {_about(task, remark)}")
    known = "" if math.isnan(task.convergence) else f"   {task.convergence:.1f} dB"
    factor = task.work_seconds * task.sample_rate / max(1, task.n_samples)
    tally.line(f"written       {printable(task.output)}{known}   real-time factor {factor:.3f}")


def _about(task: Inversion, text: str) -> str:
    """Return the text, with the file's name in front unless it contains that already."""
    return text if task.name in text else f"{task.name}: {text}"


def _settings(args: argparse.Namespace) -> Settings:
    stream, n_iter = stream_options(args), args.n_iter
    return Settings(
        method=args.method,
        n_iter=names.BATCH_ITERATIONS if n_iter is None else n_iter,
        n_fft=args.n_fft,
        hop_length=args.hop_length,
        sample_rate=args.sample_rate,
        scaling=args.scaling,
        stream=stream,
    )


def _outputs(folder: Path, output: Path, format: str) -> dict[Path, Path]:
    """Return the spectrograms in a folder, sorted, each with the path of its sound file.

    Raises:
        NotADirectoryError: the output is a file.
        ValueError: there are no spectrograms, two have the same output, or the output has a file's suffix.
    """
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(
            f"{printable(output)} is a file, but {printable(folder)} is a folder: the output must be one too"
        )
    if output.suffix.lower().removeprefix(".") in names.FORMATS and not output.exists():
        raise ValueError(
            f"{printable(folder)} is a folder, so {printable(output)} must be one: give a name "
            f"without .{format}"
        )
    if output.exists():
        refuse_same_file(folder, output)
    found = sorted(path for path in folder.rglob("*") if _is_spectrogram(path, folder))
    if not found:
        raise ValueError(f"{printable(folder)} contains no spectrograms ({', '.join(ARRAYS)})")
    origins: dict[Path, Path] = {}
    for path in found:
        target = output / path.relative_to(folder).with_suffix(f".{format}")
        if target in origins:
            both = f"{printable(origins[target])} and {printable(path)}"
            raise ValueError(f"{both} would both become {printable(target)}: rename one of them")
        origins[target] = path
    return {path: target for target, path in origins.items()}


def _is_spectrogram(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and path.suffix.lower() in ARRAYS and path.is_file()
