"""Input and output of samples: sources and sinks.

Samples have the shape `(n_samples,)` or `(channels, n_samples)`, as an inverter returns them; full scale is
-1 to 1. Sound libraries are imported when the first device or file that needs them is opened.
"""

from rtspecinv.audio.device_sink import SoundDeviceSink
from rtspecinv.audio.microphone import Microphone, Recording
from rtspecinv.audio.portaudio import DeviceError, device_table, one_device
from rtspecinv.audio.sinks import ArraySink, FileSink, Sink, TeeSink
from rtspecinv.audio.sources import AudioReader, AudioStream, read_audio

__all__ = [
    "ArraySink",
    "AudioReader",
    "AudioStream",
    "DeviceError",
    "FileSink",
    "Microphone",
    "Recording",
    "Sink",
    "SoundDeviceSink",
    "TeeSink",
    "device_table",
    "one_device",
    "read_audio",
]
