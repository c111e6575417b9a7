"""Rough handling of a sound device: `python rough.py ctrl-c|unplug N_ROUNDS BACKEND SEED`.

Every round plays and is ended at a random moment, by Ctrl-C or by the server going away. What must follow is
one error, a closed device and no thread left. Exits with an error otherwise.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import sys
import threading
import time

import jackd
import numpy as np
import sounddevice

from rtspecinv.audio import DeviceError, SoundDeviceSink, device


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def play_on(backend: str) -> None:
    """Open, write, drain, clear and close until something happens."""
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (1, 3000)).astype(np.float32)
    while True:
        with SoundDeviceSink(
            jackd.SAMPLE_RATE, device=jackd.DEVICE, queue_seconds=0.1, prefill_seconds=0.01, backend=backend
        ) as sink:
            for _ in range(5):
                sink.write(samples)
            sink.clear()
            sink.write(samples)
            sink.drain()


def interrupt(n_rounds: int, backend: str, chance: random.Random) -> None:
    # A timer's signal, treated as Ctrl-C.
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    with jackd.server(**jackd.CARDS["patient"]):
        SoundDeviceSink(jackd.SAMPLE_RATE, device=jackd.DEVICE, backend=backend).close()
        n_threads = None
        for _ in range(n_rounds):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.005, 0.5))
                play_on(backend)
            except KeyboardInterrupt:
                pass
            assert threading.active_count() == 1
            time.sleep(0.01)
            n_threads = n_threads or native_threads()
            assert native_threads() <= n_threads, "a thread of PortAudio is left"


def unplug(n_rounds: int, backend: str, chance: random.Random) -> None:
    device._STALL_SECONDS = 0.5
    for _ in range(n_rounds):
        with jackd.server(**jackd.CARDS["patient"]) as (_, process):
            puller = threading.Timer(chance.uniform(0.005, 0.5), process.terminate)
            puller.start()
            try:
                play_on(backend)
            except DeviceError as error:
                print(f"{type(error).__name__}: {error}", flush=True)
            puller.join()
            assert threading.active_count() == 1


if __name__ == "__main__":
    what, n_rounds, backend, seed = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    faulthandler.dump_traceback_later(30 + 10 * n_rounds, exit=True)
    assert sounddevice
    {"ctrl-c": interrupt, "unplug": unplug}[what](n_rounds, backend, random.Random(seed))
    print(f"{n_rounds} rounds")
