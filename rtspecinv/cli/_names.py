"""Names and defaults that `--help` shows, so that it need not load what they name: torch takes two seconds.

A test compares those of the package with the package.
"""

from __future__ import annotations

# Of the package.
ENGINES = ("auto", "eager", "numba", "cuda_graph", "cuda")
LAYOUTS = ("freq-time", "time-freq")
PICTURE_SCALES = ("linear", "log", "mel")
PRESETS = (
    "hifigan-22k",
    "bigvgan-22k-80",
    "bigvgan-v2-22k-80",
    "bigvgan-24k-100",
    "bigvgan-v2-44k-128",
    "tacotron2",
    "tacotron",
    "vits-ljs",
    "vocos-24k",
    "f5-tts",
    "whisper",
    "whisper-large-v3",
    "parallel-wavegan",
    "coqui",
    "speecht5",
    "kaldi-fbank",
    "ast",
    "riffusion",
)
STRETCH_RATES = (0.001, 1000.0)  # least and largest rate of transforms.Stretch, but for 0
SCALINGS = ("spectrum", "magnitude", "psd")
RULES = ("raar", "rtisi", "gla", "fgla", "dm", "admm", "agla")
STARTS = ("overlap", "gradient", "peaks", "zeros")

CONFIG_FILES = (".json", ".toml")

LATENCIES = ("low", "high")
LONGEST_LATENCY = 60.0  # seconds, of a device

# Of the command line.
BATCH_RULES = ("agla", "hybrid", "fgla", "gla", "admm", "raar", "dm")  # what invert_blocks can do
METHODS = (*BATCH_RULES, "lbfgs", "stream")
BATCH_ITERATIONS = 100  # of all methods but the stream
FORMATS = ("wav", "flac", "ogg")  # of files in a folder
CONTESTANTS = (
    "rtisi-la",
    "stream-0",
    "stream-1",
    "stream-3",
    "peaks",
    "fgla-random",
    "fgla",
    "hybrid",
    "agla",
    "admm",
    "raar",
    "dm",
    "lbfgs",
)
SERVE_HOST, SERVE_PORT, SERVE_STREAMS = "127.0.0.1", 8765, 64
DEVICES = ("cpu", "cuda")  # of `bench`
BENCH_SECONDS = 5.0  # of a recording
QUICK = 10  # times fewer pushes
PICTURE_RATE, PICTURE_N_FFT = 44100, 2048  # of a picture that says nothing
RANGE_DB = 80.0
