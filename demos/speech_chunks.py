"""Playback of a simulated speech model, which makes chunks of magnitudes of random sizes at random times.

Each chunk is pushed on arrival, without overlap or crossfade, before the sentence is complete. The sound is
bit-identical to that of the whole spectrogram.
"""

import argparse
import random
import time
from contextlib import suppress

import torch

import rtspecinv
from rtspecinv.measure.clip import SAMPLE_RATE, render


def speak(magnitude, hop_seconds, speed, chance):
    """Yield chunks `(n_freq, n)` of `(n_freq, n_frames)`, on average `speed` times faster than they sound."""
    at = 0
    while at < magnitude.shape[-1]:
        n = chance.choice([1, 2, 3, 5, 8, 13, 21, 34])
        time.sleep(chance.uniform(0, 2) * n * hop_seconds / speed)  # simulated time of the model
        yield magnitude[:, at : at + n]
        at += n


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "audio", nargs="?", help="sound that the model makes: WAV, FLAC, OGG or MP3 (default: a clip)"
)
parser.add_argument(
    "--speed", type=float, default=4.0, help="speed of the model relative to real time (default: 4)"
)
parser.add_argument("--seed", type=int, default=0, help="seed of the sizes and times (default: 0)")
parser.add_argument("-o", "--output", metavar="FILE", help="write the sound to FILE instead of playing it")
parser.add_argument("-d", "--device", help="part of the name of a sound device")
args = parser.parse_args()
samples, rate = rtspecinv.read_audio(args.audio) if args.audio else (render()[None], SAMPLE_RATE)
stft = rtspecinv.STFT(1024, 256)
magnitude = stft.magnitude(torch.from_numpy(samples).mean(0))
chunks = speak(magnitude, stft.hop_length / rate, args.speed, random.Random(args.seed))

inverter = rtspecinv.StreamingInverter(stft)
if args.output:
    sink: rtspecinv.FileSink | rtspecinv.SoundDeviceSink = rtspecinv.FileSink(args.output, rate)
else:  # playback begins when the queue is as long as a slow chunk takes
    sink = rtspecinv.SoundDeviceSink(rate, device=args.device, queue_seconds=2.0, prefill_seconds=0.3)
begin, first_ms = time.monotonic(), None
player = rtspecinv.Player(inverter, sink, queue_seconds=1.0, reserve_seconds=0.05)
with suppress(KeyboardInterrupt), sink, player:
    for chunk in chunks:
        for frame in chunk.unbind(-1):
            player.push(frame)
        if first_ms is None:
            first_ms = 1000 * (time.monotonic() - begin)
stats = player.stats
print(f"{stats.n_frames} frames, first chunk after {first_ms or 0:.0f} ms, late {stats.n_late} times")
