"""Implementation of `rtspecinv doctor`: it reports what is installed, what is missing, and the speed.

Every package is imported within its own check, so a broken one is reported and does not stop the command.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

EXTRAS = {
    "files": ("soundfile", "soxr", "safetensors"),
    "fast": ("numba", "rocket_fft"),
    "live": ("rtmixer", "soxr", "rich"),
    "serve": ("aiohttp", "msgpack", "prometheus_client"),
    "plot": ("matplotlib",),
    "progress": ("tqdm",),
    "report": ("jinja2",),
    "demos": ("mido", "pythonosc"),
}
NEED_PORTAUDIO = ("rtmixer",)  # cannot be imported without the PortAudio library
RATES = (44100, 48000, 22050, 16000)
TEST_SECONDS = 1.0
N_PUSHES = 300
N_ITER = (8, 32)  # measured numbers of iterations; the times of other numbers are interpolated linearly
TRANSFORMS = ((512, 128), (1024, 256), (2048, 512))
ROOM = 0.7  # share of a hop's duration that 99 of 100 pushes may take
_SOUND_FIX = 'pip install "rtspecinv[live]"'


@dataclass(frozen=True)
class Finding:
    """One line of the report: the name of what was checked, its state, and a remedy if something is wrong.

    fatal: whether playing is impossible unless this is fixed, default: False.
    """

    name: str
    text: str
    fix: str = ""
    fatal: bool = False


Findings = Iterator[Finding]


def doctor(args: argparse.Namespace | Sequence[str] | None = None) -> int:
    """Print all findings and remedies, and return the exit status: 1 if playing is impossible, else 0."""
    status = 0

    def mel() -> Findings:
        yield from _mel(getattr(args, "preset", None))

    for check in (*CHECKS, mel):
        for finding in _findings(check):
            print(f"{finding.name:<14}{finding.text}", flush=True)
            if finding.fix:
                print(f"{'':<14}{'needed' if finding.fatal else 'better'}: {finding.fix}", flush=True)
            status = max(status, finding.fatal)
    print("playing       does not work here: see above" if status else "playing       works")
    return status


def _findings(check: Callable[[], Findings]) -> Findings:
    """Yield the findings of a check; an error in the check becomes a finding, too."""
    try:
        yield from check()
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        yield Finding(
            check.__name__.strip("_").replace("_", " "),
            f"could not be checked: {text}",
            fatal=check in NEEDED,
        )


def _python() -> Findings:
    version = platform.python_version()
    old = sys.version_info < (3, 10)
    yield Finding("python", f"{version} on {platform.platform()}", "Python 3.10 or newer" if old else "", old)


def _torch() -> Findings:
    try:
        torch: Any = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        yield Finding("torch", f"cannot be imported: {error}", "pip install torch", fatal=True)
        return
    threads, cores = torch.get_num_threads(), os.cpu_count()
    yield Finding("torch", f"{torch.__version__}, {threads} threads on {cores} cores")
    if torch.cuda.is_available():
        yield Finding("CUDA", f"{torch.version.cuda}, {torch.cuda.get_device_name()}")
    else:
        why = "this torch is built without it" if torch.version.cuda is None else "no GPU or no driver"
        yield Finding("CUDA", f"none ({why}); one stream does not need it")


def _extras() -> Findings:
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if _broken(name)]
        if missing:
            text = f"{extra}: {', '.join(missing)} missing or broken"
            yield Finding("extra", text, f'pip install "rtspecinv[{extra}]"')
        else:
            yield Finding("extra", f"{extra}: {', '.join(map(_with_version, modules))}")


def _broken(module: str) -> bool:
    try:
        importlib.import_module(module)
    except OSError:
        return module not in NEED_PORTAUDIO  # the check of PortAudio reports a missing library
    except Exception:  # a broken package may raise anything
        return True
    return False


def _with_version(module: str) -> str:
    packages = metadata.packages_distributions()
    return f"{module} {metadata.version(packages.get(module, [module])[0])}"


def _portaudio() -> Findings:
    sd = _sounddevice()
    yield Finding("library", f"{sd.get_portaudio_version()[1].split(',')[0]}, sounddevice {sd.__version__}")
    apis = ", ".join(api["name"] for api in sd.query_hostapis())
    yield Finding("host APIs", apis or "none", "" if apis else "a PortAudio built with one", not apis)


def _sounddevice() -> Any:
    return importlib.import_module("rtspecinv.audio.portaudio").sounddevice()


def _devices() -> Findings:
    sd = _sounddevice()
    devices = list(sd.query_devices())
    if not any(device["max_output_channels"] for device in devices):
        fix = "a sound card; in a container, give it one; of JACK or PulseAudio, start the server first"
        yield Finding("devices", f"{len(devices)}, none to play on", fix, fatal=True)
        return
    yield Finding("devices", f"{len(devices)}: `rtspecinv devices` lists them")
    yield from _default(sd, "output", "-d", sd.check_output_settings)
    yield from _default(sd, "input", "-i", sd.check_input_settings)
    if any(device["max_input_channels"] for device in devices):
        audio: Any = importlib.import_module("rtspecinv.audio")
        two = "two, for microphone and for speakers; -d and -i may name one device that is both"
        both = audio.one_device(None, None)
        yield Finding("streams", f"of `live`: {two if both is None else 'one for microphone and speakers'}")


def _default(sd: Any, kind: str, option: str, check: Callable[..., None]) -> Findings:
    try:
        device = sd.query_devices(kind=kind)
    except (ValueError, sd.PortAudioError):
        fix = f"choose one with {option}, or make one the system's default"
        yield Finding(kind, "no default device", fix if kind == "output" else "only `live` needs one", False)
        return
    own = round(device["default_samplerate"])
    yield Finding(kind, f"{device['name']!r}, {device[f'max_{kind}_channels']} channels, at {own} Hz")
    refused = [rate for rate in RATES if not _takes(sd, check, rate)]
    taken = ", ".join(str(rate) for rate in RATES if rate not in refused) or "none of those asked for"
    resampled = f"; {', '.join(map(str, refused))} Hz are resampled" if refused and kind == "output" else ""
    fix = _SOUND_FIX if resampled and _broken("soxr") else ""
    yield Finding("rates", f"{taken}{resampled}", fix)


def _takes(sd: Any, check: Callable[..., None], rate: int) -> bool:
    try:
        check(samplerate=rate, channels=1, dtype="float32")
    except (ValueError, sd.PortAudioError):
        return False
    return True


def _test_stream() -> Findings:
    np: Any = importlib.import_module("numpy")
    audio: Any = importlib.import_module("rtspecinv.audio")
    rate = _rate()
    with audio.SoundDeviceSink(rate) as sink:
        sink.write(np.zeros(round(TEST_SECONDS * rate), np.float32))
        sink.drain()
        device_ms, late = 1000 * sink.latency_seconds, sink.underflows
    text = f"{TEST_SECONDS:g} s of silence at {rate} Hz, {late} underflows, device latency {device_ms:.1f} ms"
    fix = "--latency high, or a longer period of the sound server"
    yield Finding("test stream", text, (_SOUND_FIX if _broken("rtmixer") else fix) if late else "")


def _rate() -> int:
    """Return the sample rate of the default device, Hz; 44100 if there is none."""
    try:
        return int(_sounddevice().query_devices(kind="output")["default_samplerate"])
    except Exception:
        return RATES[0]


def _push() -> Findings:
    timing: Any = importlib.import_module("rtspecinv.measure.timing")
    threads: Any = importlib.import_module("rtspecinv.common.threads")
    clip: Any = importlib.import_module("rtspecinv.measure.clip")
    torch: Any = importlib.import_module("torch")
    rate = _rate()
    samples = torch.from_numpy(clip.render())
    yield Finding(
        "push", f"one stream at {rate} Hz, look-ahead 3 frames; 99 of 100 take under so much of a hop:"
    )
    too_slow = True
    with threads.one_thread():
        for n_fft, hop_length in TRANSFORMS:
            settings = [timing.Setting(rate, n_fft, hop_length, 3, n_iter) for n_iter in N_ITER]
            magnitude = settings[0].stft().magnitude(samples)
            few, many = (
                timing.measure([timing.Runner("auto")], setting, magnitude, n_pushes=N_PUSHES)[0]
                for setting in settings
            )
            hop_us = 1e6 * settings[0].hop_seconds
            share = ", ".join(f"{r.n_iter} iterations {r.p99_us / hop_us:.0%}" for r in (few, many))
            jitter_us = min(r.p99_us - r.p50_us for r in (few, many))
            most = most_iterations(few.p50_us, many.p50_us, ROOM * hop_us - jitter_us)
            too_slow = too_slow and most < 1
            held = f"holds about {most}" if most else "does not hold one"
            yield Finding("", f"{n_fft}/{hop_length}: {few.p50_us:.0f} µs; {share}; {held} ({few.engine})")
    yield Finding("", "a hop of n_fft // 4 gives 0.2 to 0.3 PESQ more than one of n_fft // 2")
    if too_slow:
        yield Finding("", "this machine is too slow", 'pip install "rtspecinv[fast]"', fatal=True)
    elif _broken("numba"):
        yield Finding("", "compiled code would be several times faster", 'pip install "rtspecinv[fast]"')


def _mel(preset: str | None) -> Findings:
    mel: Any = importlib.import_module("rtspecinv.mel")
    config: Any = importlib.import_module("rtspecinv.mel.config")
    models: Any = importlib.import_module("rtspecinv.mel.models")
    yield Finding("mel", config.BINS_MEAN)
    found: dict[str, list[str]] = {}
    for name in [preset] if preset else mel.presets:
        given = models.config_of(name)
        found.setdefault(config.lost(given), []).append(f"{name} {given.bins_per_band:.1f}")
    for meaning, which in found.items():
        yield Finding("", f"{meaning}: {', '.join(which)}")


def most_iterations(few_us: float, many_us: float, room_us: float) -> int:
    """Return the number of iterations that fit into `room_us`, by the line through both measured times.

    few_us: time of a push with the smaller number of iterations in `N_ITER`, µs.
    many_us: time of a push with the larger number, µs.
    room_us: time that a push may take, µs.
    """
    each = max((many_us - few_us) / (N_ITER[1] - N_ITER[0]), 0.01)
    return max(0, min(1000, int(N_ITER[0] + (room_us - few_us) / each)))


CHECKS: tuple[Callable[[], Findings], ...] = (
    _python,
    _torch,
    _extras,
    _portaudio,
    _devices,
    _test_stream,
    _push,
)
NEEDED = (_portaudio, _devices, _test_stream)
