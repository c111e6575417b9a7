"""Freeze, stretch and pitch-shift a recording during playback, from any OSC controller on this machine.

/freeze 1 freezes the sound, and /freeze 0 ends this; /stretch RATE sets the speed (0.5: half, -1: backwards);
/pitch SEMITONES shifts the pitch.
"""

import argparse
import itertools
import threading
import time
from contextlib import contextmanager, suppress

import torch
from pythonosc.dispatcher import Dispatcher  # pip install "rtspecinv[demos]"
from pythonosc.osc_server import BlockingOSCUDPServer

import rtspecinv
from rtspecinv import transforms as tf
from rtspecinv.measure.clip import SAMPLE_RATE, render


@contextmanager
def listening(port, stretch, freeze, pitch):
    """Return a context in which a server, for this machine only, sets the transforms."""

    def set_to(address, value):
        try:
            if address == "/freeze":
                freeze.on = bool(value)
            elif address == "/stretch":
                stretch.rate = value
            elif address == "/pitch":
                pitch.ratio = 2 ** (value / 12)
            print(f"{address} {value}", flush=True)
        except (ValueError, TypeError, OverflowError) as error:
            print(f"{address}: {error}", flush=True)

    dispatcher = Dispatcher()
    for address in ("/freeze", "/stretch", "/pitch"):
        dispatcher.map(address, lambda address, *values: set_to(address, *values[:1] or [None]))
    with BlockingOSCUDPServer(("127.0.0.1", port), dispatcher) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("listening on {}:{}; stop with Ctrl-C".format(*server.server_address), flush=True)
        try:
            yield
        finally:
            server.shutdown()


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("audio", nargs="?", help="WAV, FLAC, OGG or MP3, repeated without end (default: a clip)")
parser.add_argument("-p", "--port", type=int, default=9000, help="UDP port (default: 9000; 0 is any)")
parser.add_argument("-s", "--seconds", type=float, default=float("inf"), help="length (default: no end)")
parser.add_argument("-o", "--output", metavar="FILE", help="file for the sound, which is not played")
parser.add_argument("-d", "--device", help="part of the name of a sound device")
args = parser.parse_args()
samples, rate = rtspecinv.read_audio(args.audio) if args.audio else (render()[None], SAMPLE_RATE)
stft = rtspecinv.STFT(1024, 256)
magnitude = stft.magnitude(torch.from_numpy(samples).mean(0))
stretch, freeze, pitch = tf.Stretch(itertools.cycle(magnitude.unbind(-1))), tf.Freeze(), tf.Pitch()
hop_seconds = stft.hop_length / rate
inverter = rtspecinv.StreamingInverter(stft, look_ahead=1)
if args.output:
    sink: rtspecinv.FileSink | rtspecinv.SoundDeviceSink = rtspecinv.FileSink(args.output, rate)
else:
    sink = rtspecinv.SoundDeviceSink(rate, device=args.device)
with (
    sink,
    listening(args.port, stretch, freeze, pitch),
    rtspecinv.Player(inverter, sink, max_frames=1, queue_seconds=0.05) as player,
    suppress(KeyboardInterrupt),
):
    begin = time.monotonic()
    for n, frame in enumerate(map(pitch, map(freeze, stretch))):
        if n * hop_seconds > args.seconds:
            break
        player.push(frame)
        if args.output:  # a file does not wait, unlike a device
            time.sleep(max(0.0, begin + n * hop_seconds - time.monotonic()))
