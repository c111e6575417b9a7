"""rtspecinv turns magnitude spectrograms into sound while they arrive.

    import rtspecinv

    stft = rtspecinv.STFT(n_fft=1024, hop_length=256)
    inverter = rtspecinv.StreamingInverter(stft, look_ahead=3)
    hop = inverter.push(magnitude)              # (n_freq,) -> (hop_length,)

The map of the package, each module using only those before it:

    checks       what a parameter may be; masks: arrays with a mask
    warning      warnings in the name of the caller's line
    printable    text of files, fit to be shown; settings: parameters that come from a file
    whole_files  files that are whole or absent
    modes        the modes torch may be in, and how they are left
    stft         STFT, its least-squares inverse and their parts
    frames       FrameBuffer: the frames that may still change, the samples that may not
    projections  to_magnitude, to_consistent
    updates      the rules that combine the two projections: RAAR, GriffinLim, ADMM, ...
    phase        starts of the newest frame: overlap, phase gradient, peaks, zeros
    inputs       what counts as a magnitude
    levels       how loud a result is, and what is said if it is too quiet
    engines      how one frame is advanced
    checkpoint   the state of a stream in a state_dict
    streaming    StreamingInverter
    batch        invert, invert_many: whole spectrograms, the stream being the start
    blocks       invert_blocks: spectrograms of any length
    descent      lbfgs: any differentiable transform
    methods      torch_specinv's names: griffin_lim, RTISI_LA, ADMM, L_BFGS, phase_init
    mel_config   MelConfig, Compression: what a mel spectrogram is; mel_bank: of magnitudes and back
    mel_stream   MelInverter: push a mel frame, get a hop
    mel          Mel: mel spectrograms of samples and back
    mel_presets  presets: those of known models
    diagnosis    diagnose: what an array looks like, in words; evidence, mel_fit: what that rests on
    bounds       how much work a file may ask for
    conventions  rows and scalings of other programs
    metadata     what a file says about the spectrogram in it
    scales       PictureScale: grey values for magnitudes; images: pictures in files
    files        open_spectrogram; readers: one for every format
    saving       save_spectrogram
    listening    listen: hear samples, magnitudes or mel frames
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
    from rtspecinv import engines, metrics, phase, torch_specinv, updates
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
    from rtspecinv.batch import Hybrid, invert, invert_many
    from rtspecinv.blocks import invert_blocks
    from rtspecinv.descent import lbfgs
    from rtspecinv.files.opening import open_spectrogram
    from rtspecinv.files.picture_scale import PictureScale
    from rtspecinv.files.saving import save_spectrogram
    from rtspecinv.listening import Sound, listen
    from rtspecinv.live import Mailbox, Pace, Player, play, transforms
    from rtspecinv.live.analysis import StreamingAnalysis, magnitude_frames
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
    "StreamingAnalysis",
    "StreamingInverter",
    "TeeSink",
    "diagnose",
    "engines",
    "invert",
    "invert_blocks",
    "invert_many",
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
    "torch_specinv",
    "transforms",
    "updates",
]

# Names are loaded when they are first used: torch takes a second or two, which not every command needs.
_HOMES = {
    "STFT": "stft",
    "StreamingInverter": "streaming",
    **dict.fromkeys(
        ("Compression", "Diagnosis", "Mel", "MelConfig", "MelInverter", "diagnose", "presets"), "mel"
    ),
    **dict.fromkeys(("PictureScale", "open_spectrogram", "save_spectrogram"), "files"),
    **dict.fromkeys(("Sound", "listen"), "listening"),
    "invert_blocks": "blocks",
    "lbfgs": "descent",
    **dict.fromkeys(
        ("Mailbox", "Pace", "Player", "StreamingAnalysis", "magnitude_frames", "play", "transforms"), "live"
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES.get(name, name)}")
    globals()[name] = getattr(module, name) if name in _HOMES else module
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
