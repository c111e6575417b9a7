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
    inputs       what counts as a magnitude
    engines      how one frame is advanced
    streaming    StreamingInverter
    batch        invert, invert_many: whole spectrograms, the stream being the start
    blocks       invert_blocks: spectrograms of any length
    descent      lbfgs: any differentiable transform
    methods      torch_specinv's names: griffin_lim, RTISI_LA, ADMM, L_BFGS, phase_init
    mel          Mel: mel spectrograms, and back to magnitudes
    analysis     magnitude_frames: of samples that come in blocks
    transforms   what can be done to frames as they pass: stretch, freeze, pitch, formants, smear, gain
    metrics      spectral_convergence, log_spectral_distance, inconsistency, sc, snr, ser
    speech       pesq, estoi
    audio        sinks, sources, play and Player: samples only
    cli          the command line
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtspecinv import engines, methods, metrics, phase, speech, transforms, updates
    from rtspecinv.analysis import StreamingAnalysis, magnitude_frames
    from rtspecinv.audio import (
        ArraySink,
        AudioReader,
        DeviceError,
        FileSink,
        Mailbox,
        Microphone,
        Player,
        SoundDeviceSink,
        TeeSink,
        play,
        read_audio,
    )
    from rtspecinv.batch import Hybrid, invert, invert_many
    from rtspecinv.blocks import invert_blocks
    from rtspecinv.descent import lbfgs
    from rtspecinv.mel import Mel
    from rtspecinv.methods import ADMM, L_BFGS, RTISI_LA, griffin_lim, phase_init
    from rtspecinv.stft import STFT
    from rtspecinv.streaming import StreamingInverter

__version__ = "0.1.0"

__all__ = [
    "ADMM",
    "L_BFGS",
    "RTISI_LA",
    "STFT",
    "ArraySink",
    "AudioReader",
    "DeviceError",
    "FileSink",
    "Hybrid",
    "Mailbox",
    "Mel",
    "Microphone",
    "Player",
    "SoundDeviceSink",
    "StreamingAnalysis",
    "StreamingInverter",
    "TeeSink",
    "engines",
    "griffin_lim",
    "invert",
    "invert_blocks",
    "invert_many",
    "lbfgs",
    "magnitude_frames",
    "methods",
    "metrics",
    "phase",
    "phase_init",
    "play",
    "read_audio",
    "speech",
    "transforms",
    "updates",
]

# Names are loaded when they are first used: torch takes a second or two, which not every command needs.
_HOMES = {
    "STFT": "stft",
    "StreamingInverter": "streaming",
    "Mel": "mel",
    "invert_blocks": "blocks",
    "lbfgs": "descent",
    **dict.fromkeys(("StreamingAnalysis", "magnitude_frames"), "analysis"),
    **dict.fromkeys(("Hybrid", "invert", "invert_many"), "batch"),
    **dict.fromkeys(("ADMM", "L_BFGS", "RTISI_LA", "griffin_lim", "phase_init"), "methods"),
    **dict.fromkeys(
        (
            *("ArraySink", "AudioReader", "DeviceError", "FileSink", "Mailbox", "Microphone", "Player"),
            *("SoundDeviceSink", "TeeSink", "play", "read_audio"),
        ),
        "audio",
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
