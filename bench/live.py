"""Measures the latency of `rtspecinv live` from microphone input to speaker output; see bench/README.md.

python bench/live.py            prints the table; needs jackd
python bench/live.py --write    also writes it into bench/README.md and docs/live.md
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from page import ROOT, named, run, summarise
from protocol import Configuration
from tables import Bench, db, number, table

sys.path.append(str(ROOT / "tests" / "support"))
import jackd

from rtspecinv.measure.machine import commit, processor

RATE = 44100
SECONDS = 8
N_RUNS = 5
DEVICE = "room, JACK"
STEP = 8  # step between the delays that are tried, samples
LONGEST = RATE // 4


@dataclass(frozen=True)
class Setting:
    """Options of `rtspecinv live`, and the number of samples that the sound server requests at once."""

    n_fft: int
    hop_length: int
    look_ahead: int
    n_iter: int
    queue_seconds: float
    period: int

    @property
    def algorithmic_ms(self) -> float:
        """Latency of frame and inverter, ms: the length of a frame and `look_ahead` hops."""
        return 1000 * (self.n_fft + self.look_ahead * self.hop_length) / RATE

    @property
    def period_ms(self) -> float:
        """Latency that `live` assumes for the device in each direction, ms; JACK reports none."""
        return 1000 * self.period / RATE

    @property
    def options(self) -> list[str]:
        names = ("n_fft", "hop_length", "look_ahead", "n_iter")
        given = [f"--{name.replace('_', '-')}={getattr(self, name)}" for name in names]
        return [*given, f"--queue={self.queue_seconds}"]


SETTINGS = (
    Setting(1024, 256, 3, 8, 0.02, 256),  # the defaults of `rtspecinv live`
    Setting(1024, 256, 1, 8, 0.02, 256),
    Setting(1024, 256, 1, 8, 0.005, 64),
    Setting(1024, 256, 1, 8, 0.003, 64),
    Setting(1024, 256, 1, 32, 0.003, 64),
    Setting(1024, 256, 0, 8, 0.003, 64),
    Setting(1024, 128, 0, 8, 0.003, 64),
    Setting(512, 128, 0, 8, 0.003, 64),
)


@dataclass(frozen=True)
class Lateness:
    """Measured latency, ms: from input to output, and the part of it in the queue."""

    whole_ms: float
    queue_ms: float
    silence_ms: float  # duration of gaps, in which silence is heard
    n_made_up: int


def measure(setting: Setting, samples: np.ndarray) -> Lateness:
    """Run `rtspecinv live` between a microphone and a speaker that bench/room.py simulates."""
    with (
        tempfile.TemporaryDirectory() as folder,
        jackd.server(wait_for_clients=True, sample_rate=RATE, period=setting.period) as (name, _),
    ):
        given, heard = Path(folder, "given.npy"), Path(folder, "heard.npy")
        np.save(given, samples.astype(np.float32))
        command = [sys.executable, str(ROOT / "bench" / "room.py"), name, str(given), str(heard)]
        room = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert room.stdout is not None
        room.stdout.readline()
        options = ["-d", DEVICE, "-i", DEVICE, f"--seconds={SECONDS}", f"--sample-rate={RATE}"]
        live = [sys.executable, "-m", "rtspecinv", "live", *options, *setting.options]
        said = subprocess.run(live, cwd=ROOT, capture_output=True, text=True)
        room.communicate()
        if said.returncode:
            raise SystemExit(said.stderr)
        recording = np.load(heard)
    stated, silence, made_up = (
        float(re.search(pattern, said.stdout)[1])  # type: ignore[index]
        for pattern in (r"playback +([\d.]+) ms", r"\((\d+) ms of silence\)", r"(\d+) frames replaced")
    )
    queue_ms = stated - setting.algorithmic_ms - 2 * setting.period_ms
    whole = delay(np.resize(samples, len(recording)), recording)
    return Lateness(1000 * whole / RATE, queue_ms, silence, int(made_up))


def delay(given: np.ndarray, heard: np.ndarray) -> int:
    """Return the delay of the output against the input in samples, by the correlation of their loudness."""
    (sounding,) = np.nonzero(heard)
    part = slice(sounding[0] + RATE, sounding[-1] - RATE // 2)
    a, b = loudness(given)[part], loudness(heard)[part]

    def likeness(lag: int) -> float:
        return float(np.corrcoef(a[: len(a) - lag], b[lag:])[0, 1])

    return max(range(0, LONGEST, STEP), key=likeness)


def loudness(samples: np.ndarray) -> np.ndarray:
    """Return the logarithm of the energy in the last 2 ms, for each sample."""
    n = RATE // 500
    energy = np.cumsum(np.pad(samples.astype(np.float64) ** 2, (n, 0)))
    return np.log10(energy[n:] - energy[:-n] + 1e-6)


def live_latency(bench: Bench) -> str:
    """`rtspecinv live` from microphone input to speaker output, and the quality of its setting.

    Times are in ms at 44.1 kHz; "period" is in samples. "Algorithmic" is `n_fft + look_ahead * hop_length`
    samples: the time until the frame of a sound is complete, and the latency of the inverter. "Queue" is
    the median of the samples that wait for the device when a frame arrives, as `live` reports it at its
    end, without the device's period in each direction; `--queue` sets its target. "Both" is the sum of
    these two. "Whole" is measured as the shift at which the loudness of the output correlates best with
    that of the input; input and output are one client of a JACK server with a dummy driver, which has a
    clock but no hardware. "Device" is the rest, the time of the server's periods. `live` opens one stream
    for both directions. If a period is as long as a hop, "queue" may be a period too high and "device" as
    much too low. A real sound card adds its converters and buffers in each direction. "Gaps" is the
    duration of silence in the output, and "made up" the number of inserted frames, in 8 s, in the best of
    up to 5 runs; threads of the virtual machine are sometimes late, which causes gaps if the queue has only
    3 or 5 ms. SC and PESQ are those of the same setting of the stream on the clips, as in table "stream
    quality". The target for "both" is less than 35 ms with 1024/256 and look_ahead 1.
    """
    return table(HEADER, rows(bench))


HEADER = [
    *("n_fft/hop", "look_ahead", "n_iter", "--queue", "period", "algorithmic", "queue", "both", "device"),
    *("whole, measured", "gaps ms", "made up", "SC dB", "PESQ"),
]


SHOWN = (
    *("n_fft/hop", "look_ahead", "n_iter", "--queue", "period", "algorithmic", "queue", "device"),
    *("whole, measured", "SC dB", "PESQ"),
)
CAPTION = (
    "Milliseconds at 44.1 kHz, but period is in samples. Whole: from the microphone's sample to the "
    "speaker's, measured through a JACK server with a dummy driver, so that device is the time of its "
    "periods; a real card adds its converters and buffers. Where a period is as long as a hop, queue may "
    "be a period too high and device as much too low. Dropouts in each run are listed in bench/README.md;"
    " short queues cannot hide scheduling delays of the machine itself. SC and PESQ of the same setting "
    "on the recordings."
)


@cache
def rows(bench: Bench) -> list[list[str]]:
    if reason := jackd.missing():
        raise SystemExit(reason)
    samples = bench.clips(Configuration(RATE, 1024, 256)).samples.flatten().numpy()
    return [row(bench, setting, calmest(setting, samples)) for setting in SETTINGS]


def calmest(setting: Setting, samples: np.ndarray) -> Lateness:
    """Return the run with the fewest gaps, of at most N_RUNS runs; a run without gaps ends the search."""
    runs: list[Lateness] = []
    while len(runs) < N_RUNS and (not runs or runs[-1].silence_ms or runs[-1].n_made_up):
        runs.append(measure(setting, samples))
    return min(runs, key=lambda late: (late.silence_ms, late.n_made_up))


def row(bench: Bench, setting: Setting, late: Lateness) -> list[str]:
    configuration = Configuration(RATE, setting.n_fft, setting.hop_length)
    score = bench.score(configuration, look_ahead=setting.look_ahead, n_iter=setting.n_iter)
    both = setting.algorithmic_ms + late.queue_ms
    parts = (setting.algorithmic_ms, late.queue_ms, both, late.whole_ms - both, late.whole_ms)
    return [
        f"{setting.n_fft}/{setting.hop_length}",
        *(str(value) for value in (setting.look_ahead, setting.n_iter)),
        f"{1000 * setting.queue_seconds:g}",
        str(setting.period),
        *(f"{part:.1f}" for part in parts),
        f"{late.silence_ms:.0f}",
        str(late.n_made_up),
        db(score.convergence),
        number(score.pesq),
    ]


def write_summary(name: str, bench: Bench) -> None:
    """Write a part of the columns into docs/live.md."""
    kept = [HEADER.index(name) for name in SHOWN]
    shown = table(SHOWN, [[cells[i] for i in kept] for cells in rows(bench)])
    made = f"commit {commit()}, {processor()}, torch {torch.__version__}"
    origin = f"From [bench/README.md](../bench/README.md#live), {made}."
    summarise("live", f"{shown}\n\n{CAPTION}\n\n{origin}")


if __name__ == "__main__":
    sys.exit(run(__doc__, named(live_latency), "live-latency", "live", after=write_summary))
