"""Phase retrieval in real time: turns magnitude and mel spectrograms into sound while they arrive.

    import rtspecinv

    stft = rtspecinv.STFT(n_fft=1024, hop_length=256)
    inverter = rtspecinv.StreamingInverter(stft, look_ahead=3)
    hop = inverter.push(magnitude)              # (n_freq,) -> (hop_length,)

The public interface consists of the names in `__all__` and of those in the modules among them (docs/api.md
lists both). They change only with a new minor version and a line in CHANGELOG.md; everything else may change
at any time. docs/architecture.md lists all modules, and which of them may import which.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtspecinv import client, cluster, engines, metrics, phase, torch_specinv, updates
    from rtspecinv.audio import (
        ArraySink,
        AudioReader,
        AudioStream,
        DeviceError,
        FileSink,
        Microphone,
        Recording,
        SoundDeviceSink,
        TeeSink,
        read_audio,
    )
    from rtspecinv.bands import FilterBank
    from rtspecinv.batch import Hybrid, invert, invert_many
    from rtspecinv.blocks import invert_blocks
    from rtspecinv.descent import lbfgs
    from rtspecinv.export import export_step
    from rtspecinv.files.opening import open_spectrogram
    from rtspecinv.files.picture_scale import PictureScale
    from rtspecinv.files.saving import save_spectrogram
    from rtspecinv.kernel import kernel_plan
    from rtspecinv.listening import Sound, listen
    from rtspecinv.live import Mailbox, Pace, Player, StreamPool, play, transforms
    from rtspecinv.live.analysis import StreamingAnalysis, magnitude_frames
    from rtspecinv.many.lanes import stream_many
    from rtspecinv.mel.config import Compression, MelConfig
    from rtspecinv.mel.diagnosis import Diagnosis, diagnose
    from rtspecinv.mel.models import presets
    from rtspecinv.mel.spectrogram import Mel
    from rtspecinv.mel.stream import MelInverter
    from rtspecinv.stft import STFT
    from rtspecinv.streaming import StreamingInverter

__version__ = "0.1.0"

__all__ = [
    "STFT",
    "ArraySink",
    "AudioReader",
    "AudioStream",
    "Compression",
    "DeviceError",
    "Diagnosis",
    "FileSink",
    "FilterBank",
    "Hybrid",
    "Mailbox",
    "Mel",
    "MelConfig",
    "MelInverter",
    "Microphone",
    "Pace",
    "PictureScale",
    "Player",
    "Recording",
    "Sound",
    "SoundDeviceSink",
    "StreamPool",
    "StreamingAnalysis",
    "StreamingInverter",
    "TeeSink",
    "client",
    "cluster",
    "diagnose",
    "engines",
    "export_step",
    "invert",
    "invert_blocks",
    "invert_many",
    "kernel_plan",
    "lbfgs",
    "listen",
    "magnitude_frames",
    "metrics",
    "open_spectrogram",
    "phase",
    "play",
    "presets",
    "read_audio",
    "save_spectrogram",
    "stream_many",
    "torch_specinv",
    "transforms",
    "updates",
]

# Names are imported on first use: importing torch takes a second or two, and some commands do not need it.
_HOMES = {
    "STFT": "stft",
    "FilterBank": "bands",
    "StreamingInverter": "streaming",
    **dict.fromkeys(
        ("Compression", "Diagnosis", "Mel", "MelConfig", "MelInverter", "diagnose", "presets"), "mel"
    ),
    **dict.fromkeys(("PictureScale", "open_spectrogram", "save_spectrogram"), "files"),
    **dict.fromkeys(("Sound", "listen"), "listening"),
    "invert_blocks": "blocks",
    "kernel_plan": "kernel",
    "lbfgs": "descent",
    "stream_many": "many",
    "export_step": "export",
    **dict.fromkeys(
        (
            "Mailbox",
            "Pace",
            "Player",
            "StreamPool",
            "StreamingAnalysis",
            "magnitude_frames",
            "play",
            "transforms",
        ),
        "live",
    ),
    **dict.fromkeys(("Hybrid", "invert", "invert_many"), "batch"),
    **dict.fromkeys(
        (
            "ArraySink",
            "AudioReader",
            "AudioStream",
            "DeviceError",
            "FileSink",
            "Microphone",
            "Recording",
            "SoundDeviceSink",
            "TeeSink",
            "read_audio",
        ),
        "audio",
    ),
}


# Modules of names that have moved from here; using such a name warns until the first release.
_MOVED = {
    **dict.fromkeys(("ADMM", "L_BFGS", "RTISI_LA", "griffin_lim", "phase_init"), "torch_specinv"),
    "methods": "torch_specinv",
    "speech": "metrics",
}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        module = importlib.import_module(f"{__name__}.{_MOVED[name]}")
        found = getattr(module, name, module)
        place = module.__name__ if found is module else f"{module.__name__}.{name}"
        warnings.warn(f"rtspecinv.{name} has moved: use {place}", DeprecationWarning, stacklevel=2)
        return found
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES.get(name, name)}")
    globals()[name] = getattr(module, name) if name in _HOMES else module
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
