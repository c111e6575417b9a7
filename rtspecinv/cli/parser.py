"""The parser of the command line: every subcommand and its options."""

from __future__ import annotations

import argparse
from pathlib import Path

import rtspecinv
from rtspecinv.cli import bench_options, names
from rtspecinv.cli.arguments import device, file_name, latency, preset, raw_format
from rtspecinv.cli.names import STRETCH_RATES as RATES


def parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands."""
    top = argparse.ArgumentParser(
        prog="rtspecinv", description="Turn magnitude spectrograms into sound while they arrive."
    )
    top.add_argument("--version", action="version", version=f"rtspecinv {rtspecinv.__version__}")
    subparsers = top.add_subparsers(metavar="COMMAND", required=True)

    def add(command: str, module: str, help: str, description: str, example: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            command,
            help=help,
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=command, module=module)
        return sub

    play = add(
        "play",
        "commands",
        "throw an audio file's phase away and play what the inverter makes of the rest",
        "Analyse AUDIO (WAV, FLAC, OGG, MP3), throw the phase away, and invert the magnitudes frame by\n"
        "frame while playing.",
        "rtspecinv play song.flac --look-ahead 1 -o song-inverted.wav",
    )
    play.add_argument(
        "audio", metavar="AUDIO", type=file_name, help="sound file, or - for WAV on standard input"
    )
    play.add_argument(
        "--raw",
        metavar="RATE[:CHANNELS]",
        type=raw_format,
        help="AUDIO has no header: integers of 16 bits, the low byte first, at RATE Hz",
    )
    play.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=file_name,
        help="write the sound to FILE (.wav, .flac, .ogg) as well; - is WAV to standard output",
    )
    play.add_argument("--mono", action="store_true", help="mix all channels into one")
    play.add_argument(
        "--rate",
        metavar="R",
        type=float,
        default=1.0,
        help=f"speed at the same pitch, from {RATES[0]:g} to {RATES[1]:g}: 0.5 is half (default: 1)",
    )
    _add_stft_options(play, n_fft=1024, hop_length=256)
    _add_inverter_options(play)
    _add_no_device(_add_device_options(play))

    live = add(
        "live",
        "live",
        "play what is made of a microphone's magnitudes, at once",
        "Record, throw the phase away, invert the magnitudes frame by frame, and play that, until Ctrl-C.\n"
        "It says first how late the sound will be. Wear headphones.",
        "rtspecinv live --look-ahead 1 --queue 0.01 --pitch -5 -o voice.wav",
    )
    _add_live_options(live)
    _add_stft_options(live, n_fft=1024, hop_length=256)
    _add_inverter_options(live)

    invert = add(
        "invert",
        "offline",
        "invert a file of magnitudes, or a folder of them",
        "Invert the magnitudes in SPECTROGRAM (.npy, .npz, .pt, .safetensors), shaped (n_freq, n_frames)\n"
        "or (channels, n_freq, n_frames). Fields or metadata called sample_rate, n_fft, hop_length and\n"
        "n_samples, the length of the sound, are used. Two-sided magnitudes have n_fft rows; with n_fft / 2\n"
        "the row at the Nyquist frequency is missing, and is 0: --n-fft says which.\n"
        "\n"
        "If SPECTROGRAM is a folder, every such file in it and below (but hidden ones) becomes a sound\n"
        "file of the same name in the folder OUTPUT. What is there already is finished and skipped; a\n"
        "file that cannot be inverted does not stop the others.\n"
        "\n"
        "Memory does not grow with the number of frames, except for lbfgs.",
        "rtspecinv invert magnitude.npy --sample-rate 22050 --hop-length 256 -o sound.wav",
    )
    invert.add_argument(
        "spectrogram", metavar="SPECTROGRAM", type=file_name, help="file, folder, or - for .npy or .npz"
    )
    invert.add_argument(
        "-o",
        "--output",
        metavar="OUTPUT",
        type=file_name,
        required=True,
        help="sound file: .wav, .flac or .ogg; - for WAV to standard output; or folder",
    )
    invert.add_argument("--sample-rate", metavar="HZ", type=int, help="if the file does not say it")
    invert.add_argument(
        "--layout",
        choices=names.LAYOUTS,
        help="order of the last two axes (default: what the file says, else freq-time)",
    )
    invert.add_argument(
        "--preset",
        metavar="MODEL",
        type=preset,
        help="what mel frames are, if the file does not say it: a .json or .toml file of a MelConfig, or one "
        f"of {', '.join(names.PRESETS)}",
    )
    invert.add_argument(
        "--array", metavar="NAME", help="of the files' arrays (default: the only one, or else magnitude)"
    )
    invert.add_argument(
        "--scaling",
        choices=names.SCALINGS,
        help="of magnitudes of scipy, which is undone: scipy.signal.stft has spectrum and psd, ShortTimeFFT "
        "magnitude and psd",
    )
    invert.add_argument("--format", choices=names.FORMATS, help="of the files in a folder (default: wav)")
    invert.add_argument("--overwrite", action="store_true", help="invert a folder's finished files anew")
    _add_stft_options(invert, n_fft=None, hop_length=None)
    group = invert.add_argument_group("inversion")
    group.add_argument(
        "--method",
        choices=names.METHODS,
        default=names.METHODS[0],
        help="stream: frame by frame, as `play` does. lbfgs: descent on the samples, the whole file in "
        "memory. The others: rules that iterate over blocks of frames, starting from the stream: agla "
        "is accelerated Griffin-Lim, hybrid the difference map and then agla (default: %(default)s). Mel "
        "frames are inverted as a stream, or by lbfgs if that is given",
    )
    group.add_argument(
        "--n-iter",
        metavar="N",
        type=int,
        help="stream: sweeps over the open frames at each frame (default: 8). The others: iterations over "
        f"all frames (default: {names.BATCH_ITERATIONS}). More is slower",
    )
    _add_stream_options(invert.add_argument_group("inversion with --method stream"))

    image = add(
        "image",
        "pictures",
        "turn any picture into sound",
        "Read PICTURE (PNG, TIFF, JPEG, ...) as a magnitude spectrogram: rows are frequencies, columns are\n"
        "time, bright is loud, black is silence. What a picture of `rtspecinv picture` says is used.",
        "rtspecinv image photo.jpg --seconds 5 --scale log -o photo.wav",
    )
    image.add_argument("picture", metavar="PICTURE", type=file_name)
    image.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=file_name,
        help="write .wav, .flac or .ogg, or WAV to standard output (-), instead of playing",
    )
    image.add_argument("--seconds", metavar="S", type=float, help="length of the sound")
    image.add_argument(
        "--sample-rate",
        metavar="HZ",
        type=int,
        help="default: what the picture says, which sounds faster or slower, and higher or lower, at another "
        f"rate; else {names.PICTURE_RATE}",
    )
    image.add_argument("--dark-is-loud", action="store_true", help="as ink on paper")
    _add_scale_options(image, default=None)
    _add_stft_options(image, n_fft=None, hop_length=None)
    group = image.add_argument_group("inversion")
    group.add_argument("--update", metavar="NAME", help=f"update rule: {', '.join(names.RULES)}")
    group.add_argument("--look-ahead", metavar="K", type=int, help="future frames used")
    group.add_argument("--n-iter", metavar="N", type=int, help="iterations per frame; more is slower")
    image.add_argument("-d", "--device", metavar="DEVICE", type=device, help="see `rtspecinv devices`")

    picture = add(
        "picture",
        "pictures",
        "draw an audio file as a picture that `image` can play",
        "Draw the magnitudes of AUDIO, its channels mixed into one, as grey values in dB, and say in the\n"
        "picture what they are.",
        "rtspecinv picture song.flac -o song.png",
    )
    picture.add_argument("audio", metavar="AUDIO", type=file_name)
    picture.add_argument(
        "-o", "--output", metavar="FILE", type=file_name, required=True, help="picture: .png or .tiff"
    )
    picture.add_argument("--height", metavar="ROWS", type=int, help="default: one for every frequency")
    picture.add_argument(
        "--bits", type=int, choices=(8, 16), default=16, help="of a grey value (default: %(default)s)"
    )
    _add_scale_options(picture, default="linear")
    _add_stft_options(picture, n_fft=1024, hop_length=256)

    versus = add(
        "compare",
        "compare",
        "invert a recording by every method, and compare",
        "Analyse AUDIO (WAV, FLAC, OGG, MP3; its channels mixed into one), throw the phase away, and invert\n"
        "the magnitudes by every method. Prints a table and writes a folder: index.html, one page with\n"
        "table, plot, spectrograms and sounds; results.json; a WAV file of each method.",
        "rtspecinv compare song.flac --seconds 10 -o report",
    )
    versus.add_argument("audio", metavar="AUDIO", type=file_name)
    versus.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        type=file_name,
        default=Path("rtspecinv-report"),
        help="default: %(default)s",
    )
    versus.add_argument("--seconds", metavar="S", type=float, help="take the first S seconds only")
    versus.add_argument(
        "--methods",
        metavar="A,B,...",
        help=f"some only of {', '.join(names.CONTESTANTS)} (default: all)",
    )
    versus.add_argument(
        "--n-iter",
        metavar="N",
        type=int,
        default=names.BATCH_ITERATIONS,
        help="iterations of the methods that have the whole recording at hand; streams have 8 per frame "
        "(default: %(default)s)",
    )
    _add_stft_options(versus, n_fft=1024, hop_length=256)

    demo = add(
        "demo",
        "commands",
        "do the same as play on a clip rendered by code",
        "Render a few seconds of plucked strings and a voice, play them as `play` does, and write the\n"
        "original, the inverted sound and a picture of both spectrograms.",
        "rtspecinv demo -o demo-folder",
    )
    demo.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        type=file_name,
        default=Path("rtspecinv-demo"),
        help="default: %(default)s",
    )
    _add_stft_options(demo, n_fft=1024, hop_length=256)
    _add_inverter_options(demo)
    _add_no_device(_add_device_options(demo))

    measured = add(
        "bench",
        "bench",
        "measure what a push costs on this machine",
        "Push frames, and print how long that takes (µs: least, 50th, 95th and 99th percentile, largest),\n"
        "how many streams keep up, 99 of 100 pushes taking less than one hop, and how good the sound is.\n"
        "Engines take turns, after a warm-up that does not count.",
        "rtspecinv bench --engines all --n-iter 8,32 --json bench.json --plot bench.png",
    )
    bench_options.add_options(measured)

    add("devices", "commands", "list the sound devices", "List the sound devices.", "rtspecinv devices")
    add(
        "doctor",
        "doctor",
        "say what this machine has, lacks and can hold",
        "Look at Python, torch, the extras, PortAudio and the devices, play a second of silence, and\n"
        "measure what a push costs. Says what helps where something is missing; the status is 1 if\n"
        "nothing can be played.",
        "rtspecinv doctor",
    )
    return top


def _add_scale_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Options of what pixels mean; without a default, what the picture says comes first."""
    group = parser.add_argument_group("pixels")
    group.add_argument(
        "--scale",
        choices=names.PICTURE_SCALES,
        default=default,
        help="of frequency over the rows (default: linear)",
    )
    group.add_argument("--fmin", metavar="HZ", type=float, help="of the lowest row (default: 0; log: 20)")
    group.add_argument("--fmax", metavar="HZ", type=float, help="of the highest row (default: half the rate)")
    group.add_argument(
        "--range",
        metavar="DB",
        type=float,
        default=default and names.RANGE_DB,
        help=f"from white down to black (default: {names.RANGE_DB:g})",
    )


def _add_stft_options(parser: argparse.ArgumentParser, n_fft: int | None, hop_length: int | None) -> None:
    group = parser.add_argument_group("spectrogram")
    known = "default: %(default)s" if n_fft else "default: what the file says or its shape suggests"
    group.add_argument("--n-fft", metavar="N", type=int, default=n_fft, help=f"samples in a frame ({known})")
    known = "default: %(default)s" if hop_length else "default: what the file says, else n_fft / 4"
    group.add_argument(
        "--hop-length",
        metavar="N",
        type=int,
        default=hop_length,
        help=f"samples from one frame to the next ({known})",
    )


def _add_inverter_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("inversion")
    _add_stream_options(group)
    group.add_argument("--n-iter", metavar="N", type=int, help="iterations per frame; more is slower")


def _add_stream_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--update", metavar="NAME", help=f"update rule: {', '.join(names.RULES)}")
    group.add_argument("--init", metavar="NAME", help=f"start of the newest frame: {', '.join(names.STARTS)}")
    group.add_argument(
        "--look-ahead",
        metavar="K",
        type=int,
        help="future frames used before a frame is final; more is later",
    )
    group.add_argument(
        "--revise",
        metavar="R",
        type=int,
        help="final frames still revised until they are heard; more is slower",
    )


def _add_live_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what happens to the sound")
    group.add_argument(
        "--freeze",
        metavar="S",
        type=float,
        nargs="?",
        const=1.0,
        help="hold what is heard after S seconds (1 if none are given); Enter lets it go, and holds again",
    )
    group.add_argument(
        "--stretch",
        metavar="R",
        type=float,
        default=1.0,
        help=f"slow down at the same pitch, from {RATES[0]:g} to 1: 0.5 is half the speed; it "
        "leaps to now when it is 10 s behind",
    )
    group.add_argument(
        "--pitch",
        metavar="SEMITONES",
        type=float,
        default=0.0,
        help="12 is an octave up, -12 one down; from -36 to 36",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=file_name,
        help="write what is heard as well; - is standard output",
    )
    parser.add_argument("--seconds", metavar="S", type=float, help="end after S seconds")
    group = _add_device_options(parser, default_latency="low")
    group.add_argument("-i", "--input", metavar="DEVICE", type=device, help="the same, to record from")
    group.add_argument(
        "--two-streams",
        action="store_true",
        help="for microphone and speakers, although they are one device: some drivers do not do both well",
    )
    group.add_argument(
        "--sample-rate", metavar="HZ", type=int, help="of the microphone (default: the device's own)"
    )
    group.add_argument(
        "--queue",
        metavar="SECONDS",
        type=float,
        default=0.02,
        help="sound that waits, so that a busy machine is not heard (default: %(default)s)",
    )


def _add_device_options(
    parser: argparse.ArgumentParser, default_latency: str = "high"
) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("sound device")
    group.add_argument(
        "-d",
        "--device",
        metavar="DEVICE",
        type=device,
        help="number or part of a name, see `rtspecinv devices`",
    )
    group.add_argument(
        "--latency",
        type=latency,
        default=default_latency,
        help="the device's buffering: low, high or seconds (default: %(default)s)",
    )
    return group


def _add_no_device(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--no-device", action="store_true", help="do not play, only write the file")
