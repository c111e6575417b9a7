"""rtspecinv turns magnitude spectrograms into sound while they arrive.

    import rtspecinv

    stft = rtspecinv.STFT(n_fft=1024, hop_length=256)
    inverter = rtspecinv.StreamingInverter(stft, look_ahead=3)
    hop = inverter.push(magnitude)              # (n_freq,) -> (hop_length,)

The map of the package, each module using only those before it:

    stft         STFT, its least-squares inverse and their parts
    frames       FrameBuffer: the frames that may still change, the samples that may not
    projections  to_magnitude, to_consistent
    updates      the rules that combine the two projections: RAAR, GriffinLim, ADMM, ...
    phase        starts of the newest frame: overlap, phase gradient, peaks, zeros
    engines      how one frame is advanced
    streaming    StreamingInverter
    metrics      spectral_convergence
    audio        sinks, sources and play: samples only
    cli          the command line
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtspecinv import metrics, phase, updates
    from rtspecinv.audio import ArraySink, DeviceError, FileSink, SoundDeviceSink, TeeSink, play, read_audio
    from rtspecinv.stft import STFT
    from rtspecinv.streaming import StreamingInverter

__version__ = "0.1.0"

__all__ = [
    "STFT",
    "ArraySink",
    "DeviceError",
    "FileSink",
    "SoundDeviceSink",
    "StreamingInverter",
    "TeeSink",
    "metrics",
    "phase",
    "play",
    "read_audio",
    "updates",
]

# Names are loaded when they are first used: torch takes a second or two, which not every command needs.
_HOMES = {
    "STFT": "stft",
    "StreamingInverter": "streaming",
    **dict.fromkeys(
        ("ArraySink", "DeviceError", "FileSink", "SoundDeviceSink", "TeeSink", "play", "read_audio"), "audio"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES.get(name, name)}")
    globals()[name] = getattr(module, name) if name in _HOMES else module
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
