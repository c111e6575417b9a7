"""The tables of bench/quality.py: a function makes a table; its docstring is the title and the caption."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import protocol
import torch
from protocol import DENSE, LONG, SHORT, STANDARD, Configuration, Score
from tables import Bench, db, number, table
from torch import Tensor

from rtspecinv import defaults, frames, phase, updates
from rtspecinv.measure.quality import EDGE_FRAMES

TEXTBOOK = {"update": "rtisi"}
RULES: dict[str, dict[str, Any]] = {
    "textbook": TEXTBOOK,
    "textbook, compensated": {"update": "gla", "revise": 0},
    "default": {},
}
SETTINGS = [  # configuration, look_ahead, n_iter, target
    (STANDARD, 3, 8, "-33.0, 4.30, .994"),
    (STANDARD, 3, 32, "-37.0, 4.42"),
    (STANDARD, 1, 8, "-29.5"),
    (STANDARD, 0, 8, "-24.5, 3.90"),
    (LONG, 3, 8, "-31.5"),
    (SHORT, 3, 8, "-32.5"),
    (DENSE, 3, 8, "-36.5"),
]
PAPER = updates.RAAR(beta=0.9, ramp=0, momentum=0)  # Peer, Welker, Kolhoff & Gerkmann 2024
USUAL: dict[str, Any] = {"look_ahead": 3, "n_iter": 8}
STARTS: dict[str, str | phase.Start] = {
    "overlap": "overlap",
    "gradient": "gradient",
    "gradient, delay 1": phase.Gradient(delay=1),
    "peaks": "peaks",
    "zeros": "zeros",
}
JUDGED = ["SC dB", "PESQ", "ESTOI", "SC dB, Gauss 2048/128"]
TIMED = ["µs a push (fastest)", "real-time factor"]


def stream_quality(bench: Bench) -> str:
    """Default and textbook.

    A setting is n_fft/hop_length, look_ahead, n_iter. "Target" lists SC, PESQ and ESTOI, set before
    development. The second textbook variant has the compensated windows of Gnann & Spiertz (2010). "Least
    gain" is SC of the better textbook variant minus SC of the default, for the clip with the smallest gain;
    a value below 0 means that this clip is worse than the textbook.
    """
    rows = []
    for configuration, look_ahead, n_iter, reach in SETTINGS:
        options = {"look_ahead": look_ahead, "n_iter": n_iter}
        scores = {rule: bench.score(configuration, **options, **extra) for rule, extra in RULES.items()}
        *others, default = (score.convergence for score in scores.values())
        last = [reach, bench.least(torch.stack(others).amin(0) - default)]
        for rule, score in scores.items():
            goal, gain = last if rule == "default" else ("", "")
            cost = bench.cost(configuration, **options, **RULES[rule])
            name = f"{configuration.name}, {look_ahead}, {n_iter}"
            rows.append([name, rule, goal, *judged(score), gain, *cost])
    return table(["setting", "rule", "target", *JUDGED, "least gain, dB", *TIMED], rows)


def summary(bench: Bench) -> str:
    """Return a few rows of table "stream quality" for README.md."""
    rows = []
    for look_ahead, n_iter in ((0, 8), (1, 8), (3, 8), (3, 32)):
        options = {"look_ahead": look_ahead, "n_iter": n_iter}
        textbook, default = (
            bench.score(STANDARD, **options, **RULES[rule]) for rule in ("textbook", "default")
        )
        latency = 1000 * STANDARD.inverter(**options).latency / STANDARD.sample_rate
        before = [db(textbook.convergence), number(textbook.pesq), number(textbook.estoi, 3)]
        after = [f"**{db(default.convergence)}**", number(default.pesq), number(default.estoi, 3)]
        factor = bench.cost(STANDARD, **options)[1]
        rows.append([str(look_ahead), str(n_iter), f"{latency:.0f} ms", *before, *after, factor])
    names = [f"{name}, {rule}" for rule in ("textbook", "rtspecinv") for name in ("SC dB", "PESQ", "ESTOI")]
    return table(["look_ahead", "n_iter", "latency", *names, "real-time factor"], rows)


def stream_rules(bench: Bench) -> str:
    """Every rule at 1024/256, look_ahead 3, n_iter 8.

    "Least gain" is SC of "rtisi" (the textbook) minus SC of the rule, for the clip with the smallest gain.
    """
    textbook, rows = bench.score(STANDARD, **USUAL, **TEXTBOOK).convergence, []
    rules: dict[str, str | updates.Update] = {rule: rule for rule in updates.RULES}
    for name, rule in (rules | {"raar as published": PAPER}).items():
        score, cost = bench.score(STANDARD, update=rule, **USUAL), bench.cost(STANDARD, update=rule, **USUAL)
        rows.append([name, *judged(score), bench.least(textbook - score.convergence), *cost])
    return table(["rule", *JUDGED, "least gain, dB", *TIMED], rows)


def stream_starts(bench: Bench) -> str:
    """Starts of the newest frame at 1024/256, default rule.

    With n_iter 0, the result is the start itself.
    """
    rows = []
    for look_ahead, n_iter in ((1, 0), (1, 8), (3, 0), (3, 8)):
        for name, start in STARTS.items():
            options = {"look_ahead": look_ahead, "n_iter": n_iter, "init": start}
            score, cost = bench.score(STANDARD, **options), bench.cost(STANDARD, **options)
            rows.append([str(look_ahead), str(n_iter), name, *judged(score), *cost])
    return table(["look_ahead", "n_iter", "start", *JUDGED, *TIMED], rows)


def stream_noise(bench: Bench) -> str:
    """Noisy magnitudes, at 1024/256, look_ahead 3, n_iter 8.

    The magnitudes are multiplied by log-normal noise, `10 ** (sigma randn / 20)`; values are means over
    three seeds. "SC dB, given" compares with the noisy magnitudes that the inverter received, "SC dB,
    clean" with the clean ones; PESQ and ESTOI compare with the clean recording. "Least gain" is the
    improvement of "SC dB, given" over the textbook, for the clip with the smallest gain.
    """
    others: dict[str, Any] = {
        "default, beta 0.6": updates.RAAR(beta=0.6),
        "default, beta 0.7": updates.RAAR(beta=0.7),
        "default, momentum 0.3": updates.RAAR(momentum=0.3),
        "raar as published": PAPER,
        "raar as published, beta 0.8": replace(PAPER, beta=0.8),
        "raar as published, beta 0.7": replace(PAPER, beta=0.7),
        "fgla": "fgla",
        "admm, rho 0.3": updates.ADMM(rho=0.3),
    }
    rules = RULES | {name: {"update": update} for name, update in others.items()}
    clean, rows = bench.magnitude(STANDARD), []
    for sigma in (1, 3):
        textbook = None
        for name, options in rules.items():
            judged = [_judge_noisy(bench, clean, sigma, seed, **options) for seed in range(3)]
            given, truth, opinion, estoi = (
                torch.stack(values).mean(0) for values in zip(*judged, strict=True)
            )
            textbook = given if textbook is None else textbook
            numbers = [
                db(given),
                bench.least(textbook - given),
                db(truth),
                db(opinion),
                number(float(estoi), 3),
            ]
            rows.append([f"{sigma} dB", name, *numbers])
    header = ["noise", "rule", "SC dB, given", "least gain, dB", "SC dB, clean", "PESQ", "ESTOI"]
    return table(header, rows)


def _judge_noisy(bench: Bench, clean: Tensor, sigma: float, seed: int, **options: Any) -> list[Tensor]:
    """Return SC against the given and the clean magnitudes, `(n_clips,)` each, dB; PESQ and ESTOI."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    noisy = clean * 10 ** (sigma * noise / 20)
    output = protocol.invert(STANDARD, noisy, **USUAL, **options)
    judged = [protocol.convergence(STANDARD, output, magnitude) for magnitude in (noisy, clean)]
    return judged + [
        torch.tensor(x) for x in protocol.speech_quality(STANDARD, output, bench.clips(STANDARD))
    ]


def stream_silence(bench: Bench) -> str:
    """After silence, at 1024/256, look_ahead 3, n_iter 8.

    The table lists SC of the frames after the silence except the first 4, for recordings with and without
    inserted zeros. "Begun" is an inverter whose first frame is the first one after the silence. A gain
    below 0 is a loss; "least gain" is that of the recording with the largest loss. Each recording is read
    from three positions, 0.2 s apart.
    """
    places = [bench.begin + i / 5 for i in range(3)]
    samples = torch.cat([protocol.read_clips(bench.files, STANDARD.sample_rate, b).samples for b in places])
    rows = []
    for name, begin, end in (("2 s of zeros in the middle", 1, 3), ("first second zero", 0, 1)):
        silenced = samples.clone()
        silenced[..., begin * STANDARD.sample_rate : end * STANDARD.sample_rate] = 0
        # The first frame that reaches the end.
        sounds = (end * STANDARD.sample_rate - STANDARD.n_fft // 2) // STANDARD.hop_length + 1
        first = math.ceil(end * STANDARD.sample_rate / STANDARD.hop_length) + EDGE_FRAMES
        for rule, options in {"textbook": TEXTBOOK, "default": {}}.items():
            without, with_, begun = (  # (n_recordings,)
                _tail(STANDARD.magnitude(clips), first, skip, **options).view(len(places), -1).mean(0)
                for clips, skip in ((samples, 0), (silenced, 0), (silenced, sounds))
            )
            gain = f"{float((without - with_).mean()):+.2f}"
            numbers = [db(without), db(with_), gain, bench.least(without - with_), db(begun)]
            rows.append([name, rule, *numbers])
    header = ["silence", "rule", "SC dB without", "SC dB with", "gain, dB", "least gain, dB", "SC dB begun"]
    return table(header, rows)


def _tail(magnitude: Tensor, first: int, skip: int, **options: Any) -> Tensor:
    """Return the convergence from frame `first` on, if the inverter does not get the first `skip` frames."""
    magnitude = magnitude[..., skip:]
    output = protocol.invert(STANDARD, magnitude, **USUAL, **options)
    return protocol.convergence(STANDARD, output, magnitude, begin=first - skip)


def stream_seams(bench: Bench) -> str:
    """Clicks between hops.

    "Ratio" is the RMS second difference of the samples across hop boundaries, divided by that at all other
    samples: the mean over the clips and, in brackets, the maximum. A ratio of 1 means no clicks; the ratio
    of the recording shows how much of the deviation is chance. "Tone" is the level above 4 kHz, in dB
    relative to the whole signal, for an amplitude-modulated tone without energy in that range; it reveals
    clicks that the clips mask.
    """
    rows = []
    for configuration, look_ahead, n_iter, _ in SETTINGS:
        clean, options = bench.clips(configuration).samples, {"look_ahead": look_ahead, "n_iter": n_iter}
        latency = configuration.inverter(**options).latency
        tone = protocol.tone(configuration.sample_rate)
        cells = [f"{configuration.name}, {look_ahead}, {n_iter}"]
        for rule in (RULES["default"], RULES["textbook"], None):
            sounds = [clean, tone]
            if rule is not None:
                given = (configuration.magnitude(sound) for sound in sounds)
                sounds = [protocol.invert(configuration, magnitude, **options, **rule) for magnitude in given]
            ratio = protocol.seam_ratio(sounds[0], configuration.hop_length, latency)
            cells.append(f"{float(ratio.mean()):.2f} ({float(ratio.max()):.2f})")
            cells.append(f"{protocol.energy_above(sounds[1], configuration.sample_rate, 4000):.0f}")
        rows.append(cells)
    header = (
        f"{name}, {sound}" for sound in ("default", "textbook", "recording") for name in ("ratio", "tone")
    )
    return table(["setting", *header], rows)


def stream_choices(bench: Bench) -> str:
    """Constants and choices at 1024/256, look_ahead 3, n_iter 8.

    Each row changes one option. The table uses three clips of every recording: that of the tables above,
    one from 4 s on, and one from 2 s on slowed to 0.8x, because on few clips near-equal choices differ by
    chance. "6 above" are the clips of the tables above. "Change" is relative to the first row, and below 0
    is better; "worst" is the clip with the largest loss. The engine is `eager`, because the constants of
    compiled code cannot be changed.
    """
    above = bench.clips(STANDARD)
    clips = above + protocol.read_clips(bench.files, STANDARD.sample_rate, 4.0)
    clips += protocol.read_clips(bench.files, STANDARD.sample_rate, 2.0, speed=0.8)
    magnitude, rows, first = STANDARD.magnitude(clips.samples), [], None
    for name, options, constants in _variants():
        options = USUAL | {"engine": "eager"} | options
        with changed(**constants):
            result = protocol.convergence(
                STANDARD, protocol.invert(STANDARD, magnitude, **options), magnitude
            )
            cost = bench.cost(STANDARD, **options)[0]
        first = result if first is None else first
        change = [f"{float(x):+.2f}" for x in ((result - first).mean(), (result - first).max())]
        rows.append([name, db(result), *change, db(result[: len(above.names)]), cost])
    header = [
        "changed",
        f"SC dB, all {len(clips.names)}",
        "change",
        "worst",
        f"SC dB, {len(above.names)} above",
    ]
    return table([*header, TIMED[0]], rows)


def _variants() -> Iterator[tuple[str, dict[str, Any], dict[str, float]]]:
    """Return variants: a name, options of the inverter, and constants of `rtspecinv.frames`."""
    inverter = STANDARD.inverter()
    floors = f"MIN_COVERAGE {frames.MIN_COVERAGE:g}, AT_START {frames.MIN_COVERAGE_AT_START:g}"
    yield f"nothing: {inverter.update}, {inverter.init}, revise {inverter.revise}, {floors}", {}, {}
    for beta in (0.7, 0.8, 0.85, 0.9, 0.95, 1.0):
        yield f"raar as published, beta {beta:g}", {"update": replace(PAPER, beta=beta)}, {}
    choices = {
        "beta": (0.7, 0.75, 0.8, 0.85),
        "ramp": (0, 0.1, 0.15, 0.25),
        "momentum": (0.15, 0.3),
    }
    for name, values in choices.items():
        for value in values:
            yield f"{name} {value:g}", {"update": updates.RAAR(**{name: value})}, {}
    for revise in range(4):
        yield f"revise {revise}", {"revise": revise}, {}
    for floor in (0.01, 0.03, 0.05, 0.1):
        yield f"MIN_COVERAGE {floor:g}", {}, {"MIN_COVERAGE": floor}
    for floor in (0.003, 0.03, 0.1):
        yield f"MIN_COVERAGE_AT_START {floor:g}", {}, {"MIN_COVERAGE_AT_START": floor}
    for fade in (0, 0.25, 1):
        yield f"FADE {fade:g}", {}, {"FADE": fade}
    for name, start in STARTS.items():
        yield f"start: {name}", {"init": start}, {}
    for n_iter in (4, 16, 32):
        yield f"n_iter {n_iter}", {"n_iter": n_iter}, {}


@contextmanager
def changed(**constants: float) -> Iterator[None]:
    """Return a context in which constants of `rtspecinv.frames` have other values."""
    before = {name: getattr(frames, name) for name in constants}
    vars(frames).update(constants)
    try:
        yield
    finally:
        vars(frames).update(before)


OLD: dict[str, Any] = {"update": "raar", "init": "overlap", "n_iter": 8}  # with revise look_back // 2


def stream_overlaps(bench: Bench) -> str:
    """Overlaps and windows at 16 kHz, n_fft 512.

    PESQ of the clips of speech is the mean, its standard error and, in brackets, the worst clip. "Before"
    has the constants that suit a Hann window with overlap 4: the rule `RAAR()`, the overlap as start, 8
    iterations, and revise equal to half of `look_back`, rounded down. "After" has the defaults, which
    depend on the transform (`rtspecinv/defaults.py`); if both are the same, the value is listed once. The
    Gaussian window is LTFAT's truncated one; the Kaiser window has beta 12.
    """
    rows = []
    for window in protocol.WINDOWS:
        for overlap in (2, 4, 8, 16):
            configuration = Configuration(16000, 512, 512 // overlap, window)
            stft = configuration.inverter().stft
            shares = f"{defaults.covered(stft):.2f}, {defaults.kept(stft):.2f}"
            for look_ahead in {2: (0, 1, 3), 4: (0, 1, 3), 8: (0, 3), 16: (3,)}[overlap]:
                after = configuration.inverter(look_ahead=look_ahead)
                options = {"look_ahead": look_ahead}
                old = {**OLD, "revise": stft.look_back // 2}
                same = all(
                    getattr(configuration.inverter(**options, **old), name) == getattr(after, name)
                    for name in ("update", "init", "revise", "n_iter")
                )
                start = {"Overlap": "overlap"}.get(type(after.init).__name__, "gradient")
                start += ", delay 1" if after.init.n_waiting else ""
                rule = f"{after.update.beta:g}, {after.update.ramp:g}"  # type: ignore[attr-defined]
                chosen = f"{start}; {rule}; {after.revise}; {after.n_iter}"
                cells = [] if same else _opinion(bench, configuration, **options, **old)
                cells = (cells or ["", ""]) + _opinion(bench, configuration, **options)
                rows.append([window, str(overlap), shares, str(look_ahead), chosen, *cells])
    header = ["window", "overlap", "covered, kept", "look_ahead", "start; beta, ramp; revise; n_iter"]
    return table([*header, "PESQ before", "SC dB", "PESQ after", "SC dB"], rows)


def _opinion(bench: Bench, configuration: Configuration, **options: Any) -> list[str]:
    """Return PESQ of the speech (mean, standard error, smallest value) and SC, as text."""
    clips, magnitude = bench.clips(configuration), bench.magnitude(configuration)
    output = protocol.invert(configuration, magnitude, **options)
    values = torch.tensor(protocol.opinions(configuration, output, clips))
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    opinion = f"{float(values.mean()):.2f} ± {error:.2f} ({float(values.min()):.2f})" if len(values) else ""
    return [opinion, db(protocol.convergence(configuration, output, magnitude))]


def stream_published(bench: Bench) -> str:
    """The conditions of a published result.

    44.1 kHz, 2048/256, truncated Gauss window, 2 frames ahead. On 70 recordings of SQAM, RTPGHI(1) +
    GSRTISI-LA(1) with 24 iterations a frame has -39.15 dB (LTFAT note 048); their mean is that of the
    linear values, as in "SC dB, linear". This table uses other recordings. The published method corresponds
    to the phase gradient with one frame of delay, the rule "gla", revise 0 and 12 iterations per push,
    because two frames are open.
    """
    configuration = Configuration(44100, 2048, 256, "Gauss")
    magnitude, rows = bench.magnitude(configuration), []
    theirs: dict[str, Any] = {"update": "gla", "init": phase.Gradient(delay=1), "revise": 0}
    rules: dict[str, dict[str, Any]] = {
        "theirs, n_iter 12": {**theirs, "n_iter": 12},
        "default, revise 0, n_iter 8": {"revise": 0, "n_iter": 8},
        "default": {},
        "default, n_iter 24": {"n_iter": 24},
    }
    for name, options in rules.items():
        output = protocol.invert(configuration, magnitude, look_ahead=2, **options)
        values = protocol.convergence(configuration, output, magnitude)
        linear = 20 * torch.log10((10 ** (values / 20)).mean())
        cost = bench.cost(configuration, look_ahead=2, **options)
        rows.append([name, number(float(linear)), db(values), number(float(values.max())), *cost])
    return table(["rule", "SC dB, linear", "SC dB", "worst", *TIMED], rows)


SECTIONS = {
    "stream-quality": stream_quality,
    "stream-rules": stream_rules,
    "stream-starts": stream_starts,
    "stream-noise": stream_noise,
    "stream-silence": stream_silence,
    "stream-seams": stream_seams,
    "stream-overlaps": stream_overlaps,
    "stream-published": stream_published,
    "stream-choices": stream_choices,
}


def judged(score: Score) -> list[str]:
    return [db(score.convergence), number(score.pesq), number(score.estoi, 3), db(score.elsewhere)]
