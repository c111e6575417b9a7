"""Interruption of a playing sound device: `python abuse_device.py ctrl-c|unplug N_ROUNDS BACKEND SEED`.

BACKEND is rtmixer or callback, followed by "-duplex" for a stream that also records. Every round plays, and
ends at a random time by Ctrl-C or by the end of the server. After each round there must be exactly one error,
a closed device and no remaining thread; otherwise the program exits with an error.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from typing import Any

import jackd
import numpy as np

from rtspecinv.audio import DeviceError, SoundDeviceSink, portaudio


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def play(backend: str, drains: bool) -> None:
    """Write, clear, drain and close, until an exception ends it."""
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (1, 3000)).astype(np.float32)
    backend, _, duplex = backend.partition("-")
    options: dict[str, Any] = {"queue_seconds": 0.1, "prefill_seconds": 0.01, "backend": backend}
    with SoundDeviceSink(
        jackd.SAMPLE_RATE, device=jackd.DEVICE, input_channels=int(bool(duplex)), **options
    ) as sink:
        for _ in range(2 if drains else 1000):
            if duplex:
                for block in islice(sink.microphone, 2):
                    sink.write(block)
            for _ in range(5):
                sink.write(samples)
            sink.clear()
            sink.write(samples)
            if drains:
                sink.drain()


def interrupt(n_rounds: int, backend: str, chance: random.Random) -> None:
    with jackd.server(**jackd.CARDS["patient"]):
        SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE).close()
        n_threads = None
        for _ in range(n_rounds):
            presser = threading.Timer(chance.uniform(0.005, 0.5), os.kill, [os.getpid(), signal.SIGINT])
            try:
                presser.start()
                while True:
                    play(backend, drains=True)
            except KeyboardInterrupt:
                presser.join()
            assert threading.active_count() == 1
            time.sleep(0.01)
            n_threads = n_threads or native_threads()
            assert native_threads() <= n_threads, "a thread of PortAudio still runs"


def unplug(n_rounds: int, backend: str, chance: random.Random) -> None:
    """Run every round in its own process, because PortAudio does not recover from the end of its server.

    The server ends during playback. If it ended while a stream is opened, started or stopped, an assertion in
    PortAudio's JACK code would abort the process.
    """
    name = f"rtspecinv-{os.getpid()}"  # JACK supports eight server names and never frees one by itself
    for _ in range(n_rounds):
        program = [sys.executable, __file__, name, "0", backend, str(chance.random())]
        subprocess.run(program, check=True, timeout=30)
    with jackd.server(**jackd.CARDS["patient"], name=name):
        pass  # the regular end of a server frees its name


def unplug_once(name: str, backend: str, when: float) -> None:
    portaudio.STALL_SECONDS = 0.5
    with jackd.server(**jackd.CARDS["patient"], name=name) as (_, process):
        puller = threading.Timer(0.3 + when, process.kill)
        puller.start()
        try:
            play(backend, drains=False)
        except DeviceError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        else:
            raise AssertionError("no error")
        puller.join()
        # PortAudio may need minutes to close a stream after the end of its server; a daemon thread does that.
        assert all(each.name == "close" and each.daemon for each in threading.enumerate()[1:])
        process.wait(5)


if __name__ == "__main__":
    what, n_rounds, backend = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    faulthandler.dump_traceback_later(20 + 10 * n_rounds, exit=True)
    if what in ("ctrl-c", "unplug"):
        {"ctrl-c": interrupt, "unplug": unplug}[what](n_rounds, backend, random.Random(int(sys.argv[4])))
        print(f"{n_rounds} rounds")
    else:
        unplug_once(what, backend, float(sys.argv[4]))
