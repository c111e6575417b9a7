"""Measures quality and time of the inversion of mel spectrograms, compared with librosa; see bench/README.md.

python bench/mel.py                    prints every table
python bench/mel.py --only mel-methods prints one of them
python bench/mel.py --write            also writes them into bench/README.md
python bench/mel.py --audio DIR        uses other recordings; PESQ and ESTOI are those of files speech_*
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any
from unittest import mock

import numpy as np
import protocol
import soxr
import torch
from page import named, run, summarise
from protocol import STANDARD, Clips
from tables import Bench, number, table
from torch import Tensor
from torch.nn import functional as F

import rtspecinv
from rtspecinv import bands
from rtspecinv.measure.machine import commit, processor
from rtspecinv.mel.bank import MelBank
from rtspecinv.metrics import spectral_convergence
from rtspecinv.updates import ADMM, RAAR

try:
    import speechmos.dnsmos
    import speechmos.plcmos
except ImportError:  # DNSMOS and PLCMOS, which need no reference; the package contains their networks
    speechmos = None
try:
    import librosa
except ImportError:  # only needed for comparison
    librosa = None

PRESET = rtspecinv.presets["hifigan-22k"]
CENTRED = rtspecinv.presets["tacotron2"]  # the same bands, with the frames that librosa's Griffin-Lim needs
TUNED = [  # start in seconds, and speed, of excerpts that do not overlap the clips of the tables
    *((begin, 1.0) for begin in (4.6, 5.1, 5.6, 6.0)),
    *((begin, 1.08) for begin in (4.6, 5.1, 5.6)),
    *((begin, 0.93) for begin in (4.6, 5.2, 5.8, 6.2)),
    (5.1, 1.2),
]
LIVE = "**live, look_ahead 3**"
BANDS = {512: (93, 80, 64, 46, 31), 1024: (160, 120, 93, 80, 64, 46), 2048: (240, 160, 120, 80)}  # by n_fft
DNSMOS_SAMPLES = int(9.01 * 16000)  # DNSMOS judges clips of this length; shorter ones are repeated
Method = Callable[[Tensor], Tensor]


def speech(clips: Clips) -> Clips:
    """Return the clips of speech, or all clips if there are none."""
    chosen = [i for i, name in enumerate(clips.names) if name.startswith("speech_")]
    chosen = chosen or list(range(len(clips.names)))
    return Clips(tuple(clips.names[i] for i in chosen), clips.samples[chosen])


def live(samples: Tensor, **options: Any) -> Tensor:
    inverter = PRESET.inverter(**options)
    return inverter.run(PRESET(samples))


def by_librosa(samples: Tensor, n_iter: int) -> Tensor:
    mel = CENTRED.expand(CENTRED(samples)).numpy()
    magnitude = librosa.feature.inverse.mel_to_stft(mel, sr=22050, n_fft=1024, power=1.0, fmax=8000)
    found = librosa.griffinlim(magnitude, n_iter=n_iter, n_fft=1024, hop_length=256, random_state=0)
    return torch.from_numpy(found)


def descent(samples: Tensor, n: int, linear: bool) -> Tensor:
    mel, length = PRESET(samples), samples.shape[-1]
    target, transform = (PRESET.expand(mel), PRESET.linear) if linear else (mel, PRESET)
    start = PRESET.invert(mel, length=length)
    return rtspecinv.lbfgs(target, transform, initial=start, n_iter=n, max_evaluations=n)


def methods() -> Iterator[tuple[str, str, Method]]:
    """Return the methods: name, latency, and a function that returns the samples of a clip."""
    if librosa:
        yield "librosa: NNLS, griffinlim 32", "", lambda x: by_librosa(x, 32)
        yield "librosa: NNLS, griffinlim 200", "", lambda x: by_librosa(x, 200)
    for look_ahead in (0, 1, 3):
        name = LIVE if look_ahead == 3 else f"live, look_ahead {look_ahead}"
        latency = PRESET.inverter(look_ahead=look_ahead, engine="eager").latency
        yield (
            name,
            f"{1000 * latency / STANDARD.sample_rate:.0f} ms",
            partial(live, look_ahead=look_ahead),
        )
    yield "the same, 16 iterations", "", partial(live, look_ahead=3, n_iter=16)
    yield "the same, joint=False", "", partial(live, look_ahead=3, joint=False)
    yield "the same, extend=True", "", partial(live, look_ahead=3, extend=True)
    yield "offline: invert", "", lambda x: PRESET.invert(PRESET(x))
    yield "offline: lbfgs of the logarithms, 200", "", partial(descent, n=200, linear=False)
    for n in (50, 200):
        name = f"offline: lbfgs without logarithms, {n}"
        yield (
            f"**{name}**" if n == 200 else name,
            "",
            partial(descent, n=n, linear=True),
        )


def mel_methods(bench: Bench) -> str:
    """Preset "hifigan-22k", 80 bands up to 8 kHz, the recordings of speech.

    "SC dB, mel" is the spectral convergence of mel spectrograms without logarithms. "Real-time factor" is
    seconds of work per second of sound, including analysis and set-up, but not compiling. Targets are PESQ
    3.1 and ESTOI .95 for live with look_ahead 3, and PESQ 3.3 offline.
    """
    header = ["method", "latency", "PESQ", "ESTOI", "SC dB, mel", "real-time factor"]
    return table(header, _method_rows(bench))


@cache
def _method_rows(bench: Bench) -> list[list[str]]:
    clips = speech(bench.clips(STANDARD))
    return [_judged(*method, clips) for method in methods()]


def _judged(name: str, latency: str, method: Method, clips: Clips) -> list[str]:
    method(clips.samples[0, : STANDARD.sample_rate])  # compiles before times are measured
    begin = time.perf_counter()
    found = torch.stack([_to_length(method(x), clips.samples.shape[-1]) for x in clips.samples])
    factor = (time.perf_counter() - begin) / clips.samples.numel() * STANDARD.sample_rate
    opinion, intelligible = protocol.speech_quality(STANDARD, found, clips)
    ours, wanted = (PRESET.linear(x)[..., 4:-4] for x in (found, clips.samples))
    distance = spectral_convergence(ours, wanted).mean()
    judged = [number(opinion), number(intelligible, 3), number(float(distance)), number(factor, 3)]
    return [name, latency, *judged]


def _to_length(samples: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(samples[:length], (0, max(0, length - len(samples))))


def write_summary(name: str, bench: Bench) -> None:
    """Write a few rows of table "mel methods" into docs/mel.md."""
    if name != "mel-methods" or not bench.files:
        return
    chosen = (
        "librosa: NNLS, griffinlim 32",
        LIVE,
        "offline: invert",
        "**offline: lbfgs without logarithms, 200**",
    )
    rows = [row for row in _method_rows(bench) if row[0] in chosen]
    text = table(["method", "latency", "PESQ", "ESTOI", "SC dB, mel", "real-time factor"], rows)
    caption = (
        "Mean of two voices, 4 s each, `hifigan-22k`. From "
        f"[bench/README.md](../bench/README.md#mel-spectrograms), commit {commit()}, {processor()}, "
        f"torch {torch.__version__}."
    )
    summarise("mel", f"{text}\n\n{caption}")


def mel_choices(bench: Bench) -> str:
    """Quality by choice, live, look_ahead 3, on the excerpts used for choosing.

    The table uses 24 excerpts of the two voices, some at another speed; they overlap each other, but not
    the clips of table "mel methods". "Start" is the start of the multiplicative steps: levels interpolated
    between bands, the clamped pseudo-inverse, or the geometric mean of the interpolated levels and the last
    frame. Steps are relaxed by 1.5 unless the row says otherwise. "Change" is relative to the chosen
    variant (first row), with its standard error over the excerpts; chance alone changes PESQ of single
    excerpts by much more than that.
    """
    parts = [speech(protocol.read_clips(bench.files, STANDARD.sample_rate, *where)) for where in TUNED]
    clips = Clips(sum((p.names for p in parts), ()), torch.cat([p.samples for p in parts]))
    mel = PRESET(clips.samples)
    magnitude = PRESET.stft.magnitude(clips.samples)
    interpolated = PRESET.inverse(mel)
    rows: list[list[str]] = []
    known: dict[str, Tensor] = {}

    def add(name: str, given: Tensor, **options: Any) -> None:
        inverter = rtspecinv.StreamingInverter(
            PRESET.stft, look_ahead=3, batch_shape=given.shape[:1], **({"update": "admm"} | options)
        )
        found = inverter.run(given)
        scores = torch.tensor(
            [
                protocol._speech_scores(x, y, STANDARD.sample_rate)
                for x, y in zip(found, clips.samples, strict=True)
            ]
        )
        change = scores - known.setdefault("choice", scores)
        mean, by, error = scores.mean(0), change.mean(0), change.std(0) / len(scores) ** 0.5
        shown = [[f"{mean[i]:.{d}f}", f"{by[i]:+.{d}f} ± {error[i]:.{d}f}"] for i, d in ((0, 2), (1, 3))]
        rows.append(
            [name, number(float(spectral_convergence(given, magnitude).mean())), *shown[0], *shown[1]]
        )

    add("**interpolated, 5 steps, ADMM(rho=0.1)**", interpolated)
    add("the true magnitudes", magnitude)
    for n_steps in (0, 1, 3, 10, 30):
        with mock.patch.object(bands, "N_STEPS", n_steps):
            add(f"{n_steps} steps", PRESET.inverse(mel))
    for relaxation in (1.0, 1.9):
        with mock.patch.object(bands, "RELAXATION", relaxation):
            add(f"relaxed by {relaxation}", PRESET.inverse(mel))
    for name, kind in (("pseudo-inverse", "pinv"), ("last frame", "last")):
        for n_steps in (0, 5):
            add(f"start: {name}, {n_steps} steps", other_start(mel, kind, n_steps))
    add("extend=True", MelBank(PRESET.config, extend=True).inverse(mel.mT).mT)
    for update in ("raar", RAAR(beta=0.7), "fgla", "agla", "dm", "rtisi", ADMM(rho=0.03), ADMM(rho=0.3)):
        add(str(update), interpolated, update=update)
    for n_iter in (4, 16, 32):
        add(f"{n_iter} iterations", interpolated, n_iter=n_iter)
    for init in ("gradient", "peaks"):
        add(f"init {init}", interpolated, init=init)
    return table(["variant", "SC dB of the magnitudes", "PESQ", "change", "ESTOI", "change"], rows)


RULES: dict[str, dict[str, Any]] = {  # options of table "mel rules"
    "**default: RAAR(0.9, 0.1, 0.4)**": {},
    "RAAR(0.78, 0.2, 0), that of magnitudes": {"update": RAAR()},
    "RAAR(0.9, 0.1, 0)": {"update": RAAR(0.9, 0.1)},
    "RAAR(0.9, 0.1, 0.2)": {"update": RAAR(0.9, 0.1, 0.2)},
    "RAAR(0.9, 0.1, 0.5)": {"update": RAAR(0.9, 0.1, 0.5)},
    "RAAR(0.9, 0.1, 0.6)": {"update": RAAR(0.9, 0.1, 0.6)},
    "RAAR(0.78, 0.2, 0.4)": {"update": RAAR(0.78, 0.2, 0.4)},
    "admm": {"update": "admm"},
    "agla": {"update": "agla"},
    "init gradient": {"init": "gradient"},
    "16 iterations": {"n_iter": 16},
    "64 iterations": {"n_iter": 64},
    "RAAR(0.78, 0.2, 0), 16 iterations": {"update": RAAR(), "n_iter": 16},
}


def mel_rules(bench: Bench) -> str:
    """Rules and iterations of streams that find magnitudes and phase together, 8 iterations unless stated.

    `RAAR(beta, ramp, momentum)`. Changes are relative to the first row of each look_ahead, with standard
    errors over the clips; chance alone changes PESQ by up to 0.04 on 20 clips.
    """
    clips = speech(bench.clips(STANDARD))
    mel, target = PRESET(clips.samples), PRESET.linear(clips.samples)[..., 4:-4]
    rows: list[list[str]] = []
    for look_ahead in (3, 0):
        first: Tensor | None = None
        for name, options in RULES.items():
            inverter = PRESET.inverter(look_ahead=look_ahead, batch_shape=mel.shape[:1], **options)
            found = inverter.run(mel, length=clips.samples.shape[-1])
            distance = spectral_convergence(PRESET.linear(found)[..., 4:-4], target)
            pairs = zip(found, clips.samples, distance.tolist(), strict=True)
            scores = torch.tensor(
                [(*protocol._speech_scores(x, y, STANDARD.sample_rate), sc) for x, y, sc in pairs]
            )
            first = scores if first is None else first
            change = scores - first
            mean, by, error = scores.mean(0), change.mean(0), change.std(0) / len(scores) ** 0.5
            cells: list[str] = []
            for i, d in ((0, 2), (1, 4), (2, 2)):
                cells += [f"{mean[i]:.{d}f}", f"{by[i]:+.{d}f} ± {error[i]:.{d}f}"]
            rows.append([str(look_ahead), name, *cells])
    header = ["look_ahead", "rule", "PESQ", "change", "ESTOI", "change", "SC dB, mel", "change"]
    return table(header, rows)


def other_start(mel: Tensor, kind: str, n_steps: int) -> Tensor:
    """Return magnitudes estimated by the same steps from another start."""
    bank, frames = PRESET.bank, PRESET.expand(mel).mT
    pseudo_inverse = torch.linalg.pinv(bank.filters.double()).float()
    found, last = [], None
    for frame in frames.unbind(-2):
        peak = frame.amax(-1, keepdim=True).clamp_min(1e-20)
        if kind == "pinv":
            values = (frame @ pseudo_inverse.mT).clamp_min(1e-4 * peak)
        else:
            with mock.patch.object(bands, "N_STEPS", 0):
                values = bank.unmix(frame)
            if last is not None:
                louder = values.sum(-1, keepdim=True) / last.sum(-1, keepdim=True).clamp_min(1e-20)
                values = (values * last * louder).sqrt()
        for _ in range(n_steps):
            ratio = frame / (values @ bank.filters.mT).clamp_min(1e-20 * peak)
            values = values * (ratio @ bank.shares.mT).pow(bands.RELAXATION)
        last = values.clamp_min(1e-7 * peak)
        found.append(values)
    return torch.stack(found, -1)


def mel_cost(bench: Bench) -> str:
    """Time of a push of a mel frame and of magnitudes, look_ahead 3, 8 iterations, one stream.

    Times are medians of 600 pushes in µs, measured in turn; the ratio is relative to a push of magnitudes
    ("linear") with its default rule. The target is 2.5.
    """
    samples, rows = speech(bench.clips(STANDARD)).samples[0], []
    mel, magnitude = (frames.mT.contiguous() for frames in (PRESET(samples), PRESET.stft.magnitude(samples)))
    for engine in ("numba", "eager"):
        options: dict[str, Any] = {"look_ahead": 3, "engine": engine}
        pushes = {
            "linear, raar": (rtspecinv.StreamingInverter(PRESET.stft, **options).push, magnitude),
            "linear, admm": (
                rtspecinv.StreamingInverter(PRESET.stft, update="admm", **options).push,
                magnitude,
            ),
            "mel": (PRESET.inverter(**options).push, mel),
            "mel, joint=False": (PRESET.inverter(joint=False, **options).push, mel),
        }
        times: dict[str, list[float]] = {name: [] for name in pushes}
        for i in range(650):
            for name, (push, frames) in pushes.items():
                begin = time.perf_counter()
                push(frames[i % len(frames)])
                times[name].append(time.perf_counter() - begin)
        median = {name: statistics.median(t[50:]) for name, t in times.items()}
        for name, seconds in median.items():
            ratio = seconds / median["linear, raar"]
            factor = seconds * STANDARD.sample_rate / STANDARD.hop_length
            rows.append([engine, name, f"{1e6 * seconds:.0f}", number(ratio), number(factor, 3)])
    return table(["engine", "push", "µs", "ratio", "real-time factor"], rows)


def blurred(mel: Tensor, n_bands: int, n_frames: int) -> Tensor:
    """Return frames averaged over neighbouring bands and frames, on the logarithmic scale of the frames."""
    around = (n_frames // 2, n_frames // 2, n_bands // 2, n_bands // 2)
    padded = F.pad(mel[:, None], around, mode="replicate")
    return F.avg_pool2d(padded, (n_bands, n_frames), stride=1)[:, 0]


def noisy(mel: Tensor, nepers: float) -> Tensor:
    """Return frames with independent noise in every value."""
    return mel + nepers * torch.randn(mel.shape, generator=torch.Generator().manual_seed(1))


def quantised(mel: Tensor) -> Tensor:
    """Return frames quantised to 8 bits, from the lowest to the highest value of the clip."""
    low, high = mel.amin((-2, -1), keepdim=True), mel.amax((-2, -1), keepdim=True)
    return low + (high - low) * ((mel - low) / (high - low) * 255).round() / 255


DEGRADED: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda mel: mel,
    "noise of 0.1 nepers": partial(noisy, nepers=0.1),
    "noise of 0.3 nepers": partial(noisy, nepers=0.3),
    "blurred over 3 frames": partial(blurred, n_bands=1, n_frames=3),
    "blurred over 3 bands": partial(blurred, n_bands=3, n_frames=1),
    "smoothed over 3 bands, 5 frames": partial(blurred, n_bands=3, n_frames=5),
    "at half the level": lambda mel: mel - 0.693,
    "in 8 bits": quantised,
}


def mel_bins(bench: Bench) -> str:
    """Quality by bins per band, live, look_ahead 3.

    Bands are on Slaney's scale, up to 8 kHz at a sample rate of 22.05 kHz. "Bins per band" is the mean number
    of frequencies per band. Values are means over the clips. "Change" is
    relative to a stream of the true magnitudes up to 8 kHz, the first row of each transform.
    """
    clips = speech(bench.clips(STANDARD))
    n_clips, rows = len(clips.samples), []
    for n_fft, numbers in BANDS.items():
        config = rtspecinv.MelConfig(STANDARD.sample_rate, n_fft, n_fft // 4, fmax=8000, center="same")
        stft = config.stft()
        magnitude = stft.magnitude(clips.samples)
        magnitude[:, round(8000 * n_fft / STANDARD.sample_rate) + 1 :] = 0
        true = rtspecinv.StreamingInverter(stft, look_ahead=3, batch_shape=(n_clips,)).run(magnitude)
        best = _means(true, clips)
        rows.append([f"{n_fft}/{n_fft // 4}", "magnitudes", "", number(best[0]), "", number(best[1], 3), ""])
        for n_mels in numbers:
            mel = rtspecinv.Mel(replace(config, n_mels=n_mels))
            found = mel.inverter(look_ahead=3, batch_shape=(n_clips,)).run(mel(clips.samples))
            means = _means(found, clips)
            change = [f"{means[i] - best[i]:+.{d}f}" for i, d in ((0, 2), (1, 3))]
            values = [number(means[0]), change[0], number(means[1], 3), change[1]]
            rows.append(["", str(n_mels), f"{mel.config.bins_per_band:.1f}", *values])
    return table(["n_fft/hop", "bands", "bins per band", "PESQ", "change", "ESTOI", "change"], rows)


def _means(found: Tensor, clips: Clips) -> tuple[float, float]:
    """Return mean PESQ and ESTOI of the clips."""
    pairs = zip(found, clips.samples, strict=True)
    scores = [protocol._speech_scores(_to_length(x, len(y)), y, STANDARD.sample_rate) for x, y in pairs]
    return statistics.mean(s[0] for s in scores), statistics.mean(s[1] for s in scores)


def mel_degraded(bench: Bench) -> str:
    """Mel frames with errors, as models make them, live, 8 iterations.

    "Each frame" estimates the magnitudes of every frame separately (`joint=False`); "jointly" is the
    default. PESQ and ESTOI compare with the clean recording; DNSMOS (overall) and PLCMOS need no reference
    (package speechmos; 1 to 5, higher is better). Values are means over the clips with their standard
    errors, and the worst clip.
    """
    clips = speech(bench.clips(STANDARD))
    rows = [["", "the recording itself", "", *_mean_scores(clips.samples, clips)]]
    for look_ahead, names in ((3, list(DEGRADED)), (0, list(DEGRADED)[:3])):
        for name in names:
            mel = DEGRADED[name](PRESET(clips.samples))
            for way, joint in (("each frame", False), ("jointly", True)):
                inverter = PRESET.inverter(look_ahead=look_ahead, joint=joint, batch_shape=mel.shape[:1])
                rows.append([str(look_ahead), name, way, *_mean_scores(inverter.run(mel), clips)])
    header = [
        "look_ahead",
        "mel frames",
        "magnitudes",
        "PESQ",
        "ESTOI",
        "DNSMOS",
        "PLCMOS",
        "worst PESQ, ESTOI",
    ]
    return table(header, rows)


def _mean_scores(found: Tensor, clips: Clips) -> list[str]:
    """Return mean PESQ, ESTOI, DNSMOS and PLCMOS with their standard errors, and the worst PESQ and ESTOI."""
    scores = torch.tensor([_scores(*pair) for pair in zip(found, clips.samples, strict=True)])
    mean, error = scores.mean(0), scores.std(0) / len(scores) ** 0.5
    shown = [
        f"{mean[i]:.{d}f} ± {error[i]:.{d}f}" if mean[i].isfinite() else ""
        for i, d in enumerate((2, 3, 2, 2))
    ]
    return [*shown, f"{float(scores[:, 0].min()):.2f}, {float(scores[:, 1].min()):.3f}"]


def _scores(samples: Tensor, clean: Tensor) -> tuple[float, float, float, float]:
    """Return PESQ, ESTOI, DNSMOS and PLCMOS; NaN for those whose package is not installed."""
    heard = _to_length(samples, len(clean))
    opinion, intelligible = protocol._speech_scores(heard, clean, STANDARD.sample_rate)
    if speechmos is None:
        return opinion, intelligible, math.nan, math.nan
    loud = heard / heard.abs().max().clamp_min(1e-9) * 0.9
    wide = soxr.resample(loud.double().numpy(), STANDARD.sample_rate, 16000).clip(-1, 1)
    overall = speechmos.dnsmos.run(np.resize(wide, DNSMOS_SAMPLES), sr=16000)["ovrl_mos"]
    np.random.seed(0)  # noqa: NPY002  (PLCMOS takes random numbers from this generator)
    return opinion, intelligible, float(overall), float(speechmos.plcmos.run(wide, sr=16000)["plcmos"])


SECTIONS = named(mel_methods, mel_choices, mel_rules, mel_cost, mel_bins, mel_degraded)

if __name__ == "__main__":
    if librosa is None:
        print('librosa is not installed: rows without it (pip install "rtspecinv[bench]").\n')
    sys.exit(run(__doc__, SECTIONS, ",".join(SECTIONS), "mel", after=write_summary))
