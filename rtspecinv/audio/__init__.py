"""Samples in and out: sinks that take them, readers that give them, and the loop that plays a stream.

Samples are `(n_samples,)` or `(channels, n_samples)`, as an inverter returns them; full scale is -1 to 1.
Sound libraries are imported when a device or a file is opened, not before.
"""

from rtspecinv.audio.device import SoundDeviceSink
from rtspecinv.audio.player import Progress, play
from rtspecinv.audio.portaudio import DeviceError, device_table
from rtspecinv.audio.sinks import ArraySink, FileSink, Sink, TeeSink
from rtspecinv.audio.sources import AudioReader, read_audio

__all__ = [
    "ArraySink",
    "AudioReader",
    "DeviceError",
    "FileSink",
    "Progress",
    "Sink",
    "SoundDeviceSink",
    "TeeSink",
    "device_table",
    "play",
    "read_audio",
]
