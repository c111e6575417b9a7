"""Measures quality and time of batch inversion, compared with librosa and a simple loop; see bench/README.md.

python bench/batch.py                    prints every table
python bench/batch.py --only batch-methods,batch-time    prints some of them
python bench/batch.py --write            also writes them into bench/README.md
python bench/batch.py --audio DIR        uses other recordings; PESQ and ESTOI are those of files speech_*
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import protocol
import soxr
import torch
from page import named, run, summarise
from protocol import STANDARD, Clips
from tables import Bench, db, number, table
from torch import Tensor

import rtspecinv
from rtspecinv.measure.machine import commit, processor
from rtspecinv.metrics import spectral_convergence

try:
    import librosa
except ImportError:  # only needed for comparison
    librosa = None

STFT = rtspecinv.STFT(STANDARD.n_fft, STANDARD.hop_length)
N_MELS, FMAX = 80, 8000.0
Method = Callable[[Tensor, int], Tensor]  # magnitude (*batch, n_freq, n_frames), iterations -> samples


def ours(update: str, init: str) -> Method:
    def method(magnitude: Tensor, n_iter: int) -> Tensor:
        return rtspecinv.invert(magnitude, STFT, update=update, init=init, n_iter=n_iter)

    return method


def plain(magnitude: Tensor, n_iter: int) -> Tensor:
    """Return samples by fast Griffin-Lim from random phases, a loop of `torch.stft` and `torch.istft`."""
    sizes, window = (STANDARD.n_fft, STANDARD.hop_length), torch.hann_window(STANDARD.n_fft)
    turns = torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(0))
    angles, previous = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns), torch.tensor(0.0)
    for _ in range(n_iter):
        samples = torch.istft(magnitude * angles, *sizes, window=window)
        rebuilt = torch.stft(samples, *sizes, window=window, return_complex=True)
        angles = rebuilt - 0.99 / 1.99 * previous
        angles, previous = angles / angles.abs().clamp_min(1e-16), rebuilt
    return torch.istft(magnitude * angles, *sizes, window=window)


def by_librosa(magnitude: Tensor, n_iter: int) -> Tensor:
    options = {
        "n_iter": n_iter,
        "n_fft": STANDARD.n_fft,
        "hop_length": STANDARD.hop_length,
        "random_state": 0,
    }
    return torch.from_numpy(librosa.griffinlim(magnitude.numpy(), **options))


def by_descent(magnitude: Tensor, n_iter: int) -> Tensor:
    return rtspecinv.lbfgs(magnitude, STFT.magnitude, n_iter=n_iter)


METHODS: dict[str, Method] = {
    **({"librosa.griffinlim, random start": by_librosa} if librosa else {}),
    "plain loop of torch.stft, random start": plain,
    "fgla, random start": ours("fgla", "random"),
    "hybrid, random start": ours("hybrid", "random"),
    "hybrid, peaks": ours("hybrid", "peaks"),
    "gla, stream": ours("gla", "stream"),
    "admm, stream": ours("admm", "stream"),
    "raar, stream": ours("raar", "stream"),
    "dm, stream": ours("dm", "stream"),
    "fgla, stream": ours("fgla", "stream"),
    "hybrid, stream": ours("hybrid", "stream"),
    "**agla, stream (the default)**": ours("agla", "stream"),
    "lbfgs, stream": by_descent,
}
FIRST = next(iter(METHODS))  # the method whose time the others are compared with


def one_by_one(method: Method, magnitude: Tensor, n_iter: int) -> Tensor:
    return torch.stack([method(item, n_iter) for item in magnitude])


def batch_methods(bench: Bench) -> str:
    """Quality and time by method and iterations, at 1024/256.

    Clips are inverted one after another. SC is defined as in table "stream quality"; PESQ and ESTOI are
    those after 100 iterations; "s" is the time in seconds for one clip of 4 s, including the start. Targets
    of the default are -38, -41, -43 dB.
    """
    header = [f"{what}, {n}" for n in (32, 100, 200) for what in ("SC dB", "s")]
    return table(["method, start", *header, "PESQ", "ESTOI"], _method_rows(bench))


@cache
def _method_rows(bench: Bench) -> list[list[str]]:
    clips, rows = bench.clips(STANDARD), []
    magnitude = STANDARD.magnitude(clips.samples)
    for name, method in METHODS.items():
        cells, judged = [], []
        for n_iter in (32, 100, 200):
            begin = time.perf_counter()
            samples = one_by_one(method, magnitude, n_iter)
            seconds = (time.perf_counter() - begin) / len(magnitude)
            cells += [db(protocol.convergence(STANDARD, samples, magnitude)), number(seconds)]
            if n_iter == 100:
                opinion, intelligible = protocol.speech_quality(STANDARD, samples, clips)
                judged = [number(opinion), number(intelligible, 3)]
        rows.append([name, *cells, *judged])
    return rows


def write_summary(name: str, bench: Bench) -> None:
    """Write a few rows of table "batch methods" into docs/whole.md."""
    if name != "batch-methods" or not bench.files:
        return
    chosen = (FIRST, "hybrid, stream", "**agla, stream (the default)**", "lbfgs, stream")
    rows = [[row[0], row[1], row[3], row[5], row[7]] for row in _method_rows(bench) if row[0] in chosen]
    text = table(["method, start", "SC dB, 32 iterations", "100", "200", "PESQ, 100"], rows)
    caption = (
        f"Mean of {len(bench.clips(STANDARD).names)} recordings, 4 s each, 22.05 kHz, n_fft 1024, hop 256. "
        "From [bench/README.md](../bench/README.md#batch-inversion), "
        f"commit {commit()}, {processor()}, torch {torch.__version__}."
    )
    summarise("offline", f"{text}\n\n{caption}")


def batch_time(bench: Bench) -> str:
    """Times relative to the first row of table "batch methods" after 100 iterations, at 1024/256.

    Times are medians of 5 runs, each of which runs all methods in turn. "To pass" is the smallest number of
    iterations, of 0, 5, 10, ..., after which the mean SC is below that of the first row after 100
    iterations, and the time for them. Clips are inverted one after another or "together", in one call. The
    last rows are the stream alone, with its defaults. Targets are a ratio of 0.8 at 100 iterations and, to
    pass, 0.5 without compiled code (eager, or no stream) and 0.12 with `numba`.
    """
    magnitude = STANDARD.magnitude(bench.clips(STANDARD).samples)
    reached = float(
        protocol.convergence(STANDARD, one_by_one(METHODS[FIRST], magnitude, 100), magnitude).mean()
    )
    names = [FIRST, "plain loop of torch.stft, random start", "fgla, random start", "hybrid, random start"]
    names += ["hybrid, stream", "**agla, stream (the default)**"]
    jobs: dict[tuple[str, str], Callable[[], Tensor]] = {}
    needed = {}

    def streams(engine: str, together: bool) -> Callable[[], Tensor]:
        if together:
            return lambda: protocol.invert(STANDARD, magnitude, engine=engine)
        return lambda: torch.stack([protocol.invert(STANDARD, item, engine=engine) for item in magnitude])

    for name in dict.fromkeys(names):
        method = METHODS[name]
        needed[name] = _iterations_to_pass(method, magnitude, reached) if name != FIRST else 100
        for n_iter, what in ((100, "100"), (needed[name], "pass")):
            jobs[name, what] = partial(one_by_one, method, magnitude, n_iter)
            jobs[name, what + " together"] = partial(method, magnitude, n_iter)
    for engine in ("numba", "eager"):
        name = f"StreamingInverter, engine {engine}"
        samples = protocol.invert(STANDARD, magnitude, engine=engine)
        assert float(protocol.convergence(STANDARD, samples, magnitude).mean()) < reached
        needed[name] = 0
        jobs[name, "pass"] = streams(engine, together=False)
        jobs[name, "pass together"] = streams(engine, together=True)
    times = _medians(jobs, 5)
    rows = []
    for name in needed:
        cells = []
        for what in ("100", "100 together", "pass", "pass together"):
            seconds = times.get((name, what), float("nan"))
            ratio = seconds / times[FIRST, "100 together" if "together" in what else "100"]
            cells.append("" if np.isnan(ratio) else f"{1000 * seconds / len(magnitude):.0f} ({ratio:.2f})")
        rows.append([name, *cells[:2], str(needed[name]), *cells[2:]])
    header = ["100 iterations: ms a clip (ratio)", "together", f"iterations to pass {reached:.2f} dB"]
    return table(["method, start", *header, "to pass: ms a clip (ratio)", "together"], rows)


def _iterations_to_pass(method: Method, magnitude: Tensor, reached: float) -> int:
    for n_iter in range(0, 200, 5):
        if n_iter == 0 and method is plain:
            continue
        if float(protocol.convergence(STANDARD, method(magnitude, n_iter), magnitude).mean()) < reached:
            return n_iter
    return 200


def _medians(jobs: dict[Any, Callable[[], Tensor]], n_runs: int) -> dict[Any, float]:
    times: dict[Any, list[float]] = {key: [] for key in jobs}
    for _ in range(n_runs):
        for key, job in jobs.items():
            begin = time.perf_counter()
            job()
            times[key].append(time.perf_counter() - begin)
    return {key: float(np.median(seconds)) for key, seconds in times.items()}


def batch_mel(bench: Bench) -> str:
    """Mel spectrograms with 80 bands up to 8 kHz, at 1024/256, of the speech.

    "SC dB, mel" is spectral convergence in the mel domain; "evaluations" counts those of the transform and
    its gradient; "s" is the time in seconds for one clip. Targets within 200 evaluations are -25 dB in the
    mel domain and PESQ 3.2.
    """
    clips = bench.clips(STANDARD)
    chosen = [i for i, name in enumerate(clips.names) if name.startswith("speech_")] or list(
        range(len(clips.names))
    )
    speech = Clips(tuple(clips.names[i] for i in chosen), clips.samples[chosen])
    config = rtspecinv.MelConfig(
        STANDARD.sample_rate, STANDARD.n_fft, STANDARD.hop_length, n_mels=N_MELS, fmax=FMAX
    )
    mel, rows = rtspecinv.Mel(config), []
    target, length = mel(speech.samples), speech.samples.shape[-1]
    for name, evaluations, method in _mel_methods(mel, length):
        begin = time.perf_counter()
        samples = torch.stack([method(item) for item in target])
        seconds = (time.perf_counter() - begin) / len(target)
        opinion, intelligible = protocol.speech_quality(STANDARD, samples, speech)
        convergence = db(spectral_convergence(mel(samples), target))
        rows.append(
            [name, evaluations, convergence, number(opinion), number(intelligible, 3), number(seconds)]
        )
    return table(["method", "evaluations", "SC dB, mel", "PESQ", "ESTOI", "s"], rows)


def _mel_methods(mel: rtspecinv.Mel, length: int) -> Iterator[tuple[str, str, Callable[[Tensor], Tensor]]]:
    def log_mel(samples: Tensor) -> Tensor:
        return torch.log1p(mel(samples))

    def nnls(target: Tensor) -> Tensor:
        options = {"sr": STANDARD.sample_rate, "n_fft": STANDARD.n_fft, "power": 1.0, "fmax": FMAX}
        magnitude = librosa.feature.inverse.mel_to_stft(target.numpy(), **options)
        return torch.nn.functional.pad(
            by_librosa(torch.from_numpy(magnitude), 32), (0, length % STANDARD.hop_length)
        )

    def unsearched(target: Tensor) -> Tensor:
        """Return samples by L-BFGS with torch_specinv's defaults: no line search, a start of quiet noise."""
        start = 1e-6 * torch.randn(length, generator=torch.Generator().manual_seed(0))
        optimizer = {
            "line_search_fn": None,
            "history_size": 100,
            "tolerance_grad": 1e-7,
            "tolerance_change": 1e-9,
        }
        return rtspecinv.lbfgs(torch.log1p(target), log_mel, initial=start, n_iter=100, optimizer=optimizer)

    def through_inverse(n_iter: int) -> Callable[[Tensor], Tensor]:
        return lambda target: rtspecinv.invert(mel.inverse(target), STFT, n_iter=n_iter, length=length)

    def descent(transform: Any, of: Callable[[Tensor], Tensor], n: int) -> Callable[[Tensor], Tensor]:
        return lambda target: rtspecinv.lbfgs(
            of(target), transform, length=length, n_iter=n, max_evaluations=n
        )

    if librosa:
        yield "librosa: NNLS, griffinlim 32", "", nnls
    yield "Mel.inverse, the stream", "", through_inverse(0)
    yield "Mel.inverse, invert 100", "", through_inverse(100)
    yield "lbfgs of Mel", "50", descent(mel, lambda m: m, 50)
    yield "**lbfgs of Mel**", "200", descent(mel, lambda m: m, 200)
    yield "lbfgs of log1p(Mel), from noise", "200", descent(log_mel, torch.log1p, 200)
    yield "no line search, from noise of 1e-6", "about 125", unsearched


def batch_blocks(bench: Bench) -> str:
    """The loss of quality with constant memory, at 1024/256, 100 iterations.

    The table uses 15 s of each recording, or all of a shorter one, from the same position on. "Change" is
    relative to inverting the whole spectrogram at once.
    """
    rows: list[list[str]] = []
    whole: list[float] = []
    clips = list(_long(bench, 15.0))
    magnitudes = [STANDARD.magnitude(s) for s in clips]
    for block_frames in (None, 1024, 512, 256, 128):
        scores = []
        for magnitude in magnitudes:
            if block_frames is None:
                samples = rtspecinv.invert(magnitude, STFT)
            else:
                samples = torch.cat(
                    list(rtspecinv.invert_blocks(magnitude.mT, STFT, block_frames=block_frames))
                )
            scores.append(float(protocol.convergence(STANDARD, samples[None], magnitude[None])))
        whole = whole or scores
        change = np.subtract(scores, whole)
        name = "whole" if block_frames is None else str(block_frames)
        rows.append([name, number(float(np.mean(scores))), f"{change.mean():+.2f}", f"{change.max():+.2f}"])
    return table(["block_frames", "SC dB", "change", "worst"], rows)


def batch_starts(bench: Bench) -> str:
    """The stream as start of a batch run, at 1024/256, rule `agla`.

    The table uses seven clips of every recording, from 0.5, 1.5, 2.25, 3, 3.75, 4.5 and 6 s on. The constants
    of the start were chosen on these clips. "Core s" is the processor time in seconds for the start of one
    clip. Values are means; after them stands the mean difference to the first row with its standard error.
    """
    begins = (0.5, 1.5, 2.25, 3.0, 3.75, 4.5, 6.0)
    parts = [protocol.read_clips(bench.files, STANDARD.sample_rate, begin) for begin in begins]
    magnitude = STANDARD.magnitude(torch.cat([part.samples for part in parts]))
    rows: list[list[str]] = []
    bold = rtspecinv.updates.RAAR(beta=0.93, ramp=0.07)
    quick = rtspecinv.updates.RAAR(beta=0.93, ramp=0.07, momentum=0.2)
    starts: list[tuple[str, dict[str, Any]]] = [
        ("default, look_ahead 5, 32 iterations", {"look_ahead": 5, "n_iter": 32}),
        ("default, 5, 16", {"look_ahead": 5, "n_iter": 16}),
        ("default, 3, 8", {"n_iter": 8}),
        (f"**{bold}, 5, 16**", {"update": bold, "look_ahead": 5, "n_iter": 16}),
        (f"{bold}, 5, 12", {"update": bold, "look_ahead": 5, "n_iter": 12}),
        (f"{bold}, 4, 16", {"update": bold, "look_ahead": 4, "n_iter": 16}),
        (f"{quick}, 5, 12", {"update": quick, "look_ahead": 5, "n_iter": 12}),
        ("difference map, 5, 16", {"update": "dm", "look_ahead": 5, "n_iter": 16}),
    ]
    first: dict[int, Tensor] = {}
    for name, options in starts:
        begin = time.process_time()
        start = torch.stack([_streamed(item, options) for item in magnitude])
        seconds = (time.process_time() - begin) / len(magnitude)
        cells = []
        for n_iter in (0, 32, 100, 200):
            samples = rtspecinv.invert(magnitude, STFT, init=start, n_iter=n_iter)
            values = protocol.convergence(STANDARD, samples, magnitude)
            change = values - first.setdefault(n_iter, values)
            error = float(change.std() / len(change) ** 0.5)
            cells.append(
                f"{float(values.mean()):.2f}"
                + (f" ({float(change.mean()):+.2f} ± {error:.2f})" if rows else "")
            )
        rows.append([name, number(seconds), *cells])
    return table(["stream", "core s", "SC dB, 0 iterations", "32", "100", "200"], rows)


def batch_engines(bench: Bench) -> str:
    """100 iterations at 1024/256 from random phases, clip after clip.

    Times are ms for one clip, medians of 5 runs, each of which runs both engines in turn; SC is defined as
    in table "batch methods". The last row is a lower bound: two real transforms per frame and iteration, by
    torch. The target for `numba` is a ratio of 2.
    """
    magnitude, rows = STANDARD.magnitude(bench.clips(STANDARD).samples), []
    names, engines = ("gla", "fgla", "agla", "raar", "dm", "admm", "hybrid"), ("eager", "numba")
    results: dict[Any, Tensor] = {}
    jobs: dict[Any, Callable[[], Tensor]] = {}

    def run_all(name: str, engine: str) -> Tensor:
        invert = partial(rtspecinv.invert, stft=STFT, update=name, init="random", engine=engine)
        results[name, engine] = torch.stack([invert(item) for item in magnitude])
        return results[name, engine]

    def transforms() -> Tensor:
        for _ in range(100 * len(magnitude)):
            frames = STFT.inverse_transform(STFT.transform(frames_of_one))
        return frames

    frames_of_one = torch.rand(magnitude.shape[-1], STANDARD.n_fft)
    for name in names:
        for engine in engines:
            jobs[name, engine] = partial(run_all, name, engine)
    jobs["transforms"] = transforms
    times = {key: 1000 * seconds / len(magnitude) for key, seconds in _medians(jobs, 5).items()}
    for name in names:
        eager, compiled = times[name, "eager"], times[name, "numba"]
        quality = [db(protocol.convergence(STANDARD, results[name, engine], magnitude)) for engine in engines]
        rows.append([name, f"{eager:.0f}", f"{compiled:.0f}", number(eager / compiled), *quality])
    rows.append(["two transforms a frame", f"{times['transforms']:.0f}", "", "", "", ""])
    return table(["rule", "eager", "numba", "eager / numba", "SC dB, eager", "SC dB, numba"], rows)


def _streamed(magnitude: Tensor, options: dict[str, Any]) -> Tensor:
    """Return the spectrum of the samples that a stream returns for magnitudes `(n_freq, n_frames)`."""
    inverter = STANDARD.inverter(**options)
    return STFT.analyze(inverter.run(magnitude))


def _long(bench: Bench, seconds: float) -> Iterator[Tensor]:
    for path in bench.files:
        samples, rate = rtspecinv.read_audio(path)
        cut = samples.mean(0)[round(bench.begin * rate) :][: round(seconds * rate)]
        yield torch.from_numpy(soxr.resample(cut, rate, STANDARD.sample_rate)).float()
    if not bench.files:
        yield from bench.clips(STANDARD).samples


SECTIONS = named(batch_methods, batch_time, batch_mel, batch_blocks, batch_starts, batch_engines)

if __name__ == "__main__":
    if librosa is None:
        print('librosa is not installed: rows without it (pip install "rtspecinv[bench]").\n')
    sys.exit(run(__doc__, SECTIONS, ",".join(SECTIONS), "batch", after=write_summary))
