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
