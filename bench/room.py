"""Simulated microphone and speaker: a JACK client that plays samples to `live` and records its output.

python room.py SERVER IN.npy OUT.npy    prints "ready", and records until its standard input is closed
"""

from __future__ import annotations

import sys

import jack
import numpy as np


def main(server: str, source: str, target: str) -> None:
    samples, at, heard = np.load(source), 0, []
    client = jack.Client("room", servername=server, no_start_server=True)
    mouth, ear = client.outports.register("mouth"), client.inports.register("ear")

    def process(n_samples: int) -> None:
        nonlocal at
        block = mouth.get_array()
        block[:] = samples[np.arange(at, at + n_samples) % len(samples)]
        heard.append(ear.get_array().copy())
        at += n_samples

    client.set_process_callback(process)
    with client:
        print("ready", flush=True)
        sys.stdin.read()
    np.save(target, np.concatenate(heard))


if __name__ == "__main__":
    main(*sys.argv[1:])
