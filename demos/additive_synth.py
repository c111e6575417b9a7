"""An additive synthesiser without oscillators: a frame is the sum of the spectral lobes of the partials.

It plays a MIDI file, or the keys awsedf... of a terminal, which are those of a piano from C4 on.
"""

import argparse
import os
import select
import sys
from contextlib import suppress

import mido  # pip install "rtspecinv[demos]"
import numpy as np

from rtspecinv import STFT, FileSink, Player, SoundDeviceSink, StreamingInverter

RATE, N_FFT, HOP, PARTIALS = 44100, 2048, 256, np.arange(1, 17)
KEYS = b"awsedftgyhujkolp"


class Synth:
    def __init__(self):
        self.level, self.decay = np.zeros(128), np.ones(128)  # per MIDI note; decay is the factor per hop

    def take(self, message):
        if message.type == "note_on" and message.velocity:
            self.level[message.note], self.decay[message.note] = message.velocity / 127, 0.997
        elif message.type in ("note_on", "note_off"):
            self.decay[message.note] = 0.93

    def frame(self):  # magnitudes (n_freq,) of the next hop
        self.level *= self.decay
        magnitude = np.zeros(N_FFT // 2 + 1)
        for note in np.flatnonzero(self.level > 1e-4):
            frequency = PARTIALS * 440 * 2 ** ((note - 69) / 12)
            amplitude = 0.2 * self.level[note] * (frequency < RATE / 2) / PARTIALS**1.5
            x = np.arange(len(magnitude)) - frequency[:, None] * N_FFT / RATE + 1e-6
            magnitude += N_FFT / 4 * amplitude @ np.abs(np.sinc(x) / (1 - x**2))  # lobe of a Hann window
        return magnitude.astype(np.float32)


def from_file(synth, path):
    seconds = played = 0.0
    for message in [*mido.MidiFile(path), mido.MetaMessage("end_of_track", time=1.0)]:
        seconds += message.time
        while played < seconds:
            yield synth.frame()
            played += HOP / RATE
        synth.take(message)


def from_keys(synth):
    import termios  # missing on Windows
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        while True:  # the player sets the pace: it takes one frame per hop
            for key in set(os.read(0, 64) if select.select([0], [], [], 0)[0] else b"") & set(KEYS):
                synth.take(mido.Message("note_on", note=60 + KEYS.index(key)))
            yield synth.frame()
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("midi", nargs="?", metavar="FILE.mid", help="MIDI file (default: terminal keys)")
parser.add_argument("-o", "--output", dest="file", metavar="FILE", help="file for the sound, not played")
parser.add_argument("-d", "--device", help="part of the name of a sound device")
args = parser.parse_args()
if not args.midi and (args.file or not sys.stdin.isatty()):
    parser.error("the keys need a terminal and a sound device: give a MIDI file")
frames = from_file(Synth(), args.midi) if args.midi else from_keys(Synth())
inverter = StreamingInverter(STFT(N_FFT, HOP), look_ahead=1)
sink = FileSink(args.file, RATE) if args.file else SoundDeviceSink(RATE, device=args.device, latency="low")
with suppress(KeyboardInterrupt), sink, Player(inverter, sink, max_frames=1, queue_seconds=0.03) as player:
    for frame in frames:
        player.push(frame)
