"""Names and defaults that `--help` shows, repeated here because importing torch takes two seconds.

A test compares the names of the package with the package itself.
"""

from __future__ import annotations

# Names of the package.
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
    "cosyvoice2",
    "matcha",
    "wav2lip",
    "nemo-asr",
    "nemo-hifigan",
    "kaldi-fbank",
    "ast",
    "riffusion",
)
STRETCH_RATES = (0.001, 1000.0)  # smallest and largest rate of transforms.Stretch, apart from 0
SCALINGS = ("spectrum", "magnitude", "psd")
RULES = ("raar", "rtisi", "gla", "fgla", "dm", "admm", "agla")
STARTS = ("overlap", "gradient", "peaks", "zeros")

CONFIG_FILES = (".json", ".toml")

LATENCIES = ("low", "high")
LONGEST_LATENCY = 60.0  # largest latency of a device, seconds

# Names of the command line.
BATCH_RULES = ("agla", "hybrid", "fgla", "gla", "admm", "raar", "dm")  # update rules of invert_blocks
METHODS = (*BATCH_RULES, "lbfgs", "stream")
BATCH_ITERATIONS = 100  # default of all methods except "stream"
FORMATS = ("wav", "flac", "ogg")  # formats of the sound files of a folder
PARQUET = "parquet"  # format of tables of samples
CLUSTERS = ("ray",)
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
DEVICES = ("cpu", "cuda")  # devices of `bench`
BENCH_SECONDS = 5.0  # length of the recording that `bench` uses
QUICK = 10  # `bench --quick` divides the number of pushes by this
PICTURE_RATE, PICTURE_N_FFT = 44100, 2048  # defaults for a picture without metadata
RANGE_DB = 80.0
