"""Virtual sound card: a private JACK server with a dummy driver, and a recorder process.

As a program, this file is the recorder: `python jackd.py SERVER N_CHANNELS FILE` connects to the outputs of
PortAudio, prints "connected", records until its standard input closes, and saves `(n_channels, n_samples)`.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE_RATE = 48000
DEVICE = "system, JACK"  # name of the card in PortAudio
CHANNELS = 2
# Kinds of servers. A patient server waits for late clients, so that it loses no sound on a busy machine; an
# impatient server loses sound like a real card. period: number of samples that it requests at once.
CARDS: dict[str, Any] = {
    "patient": {"wait_for_clients": True, "sample_rate": SAMPLE_RATE, "period": 1024},
    "impatient": {"wait_for_clients": False, "sample_rate": SAMPLE_RATE, "period": 1024},
    "22050 Hz": {"wait_for_clients": True, "sample_rate": 22050, "period": 512},
}


def missing() -> str:
    """Return what this machine lacks for such a server; empty if nothing is missing."""
    if shutil.which("jackd") is None:
        return "jackd is not installed (apt-get install jackd2)"
    try:
        import jack  # noqa: F401
    except (ImportError, OSError) as error:
        return f"JACK-Client does not work here: {error}"
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError) as error:
        return f"sounddevice does not work here: {error}"
    return ""


def known_to_portaudio() -> bool:
    """Return whether PortAudio lists the outputs of the server."""
    import sounddevice

    return any("JACK" in api["name"] for api in sounddevice.query_hostapis())


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1  # with SIGTERM, because a killed server keeps one of JACK's eight names
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


@contextmanager
def server(
    *, wait_for_clients: bool, sample_rate: int = SAMPLE_RATE, period: int = 1024, name: str = ""
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a server and make PortAudio use it; yields its name and its process."""
    import sounddevice

    name = name or f"rtspecinv-{os.getpid()}-{sample_rate}-{int(wait_for_clients)}"
    command = ["jackd", "-n", name, "-p", "64", "-r", *(["-S"] * wait_for_clients), "-d", "dummy"]
    command += ["-r", str(sample_rate), "-p", str(period), "-C", str(CHANNELS), "-P", str(CHANNELS)]
    with open(_log(name), "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_die_with_parent)
    before = {key: os.environ.get(key) for key in ("JACK_DEFAULT_SERVER", "JACK_NO_START_SERVER")}
    os.environ.update(JACK_DEFAULT_SERVER=name, JACK_NO_START_SERVER="1")
    try:
        _wait_until_up(name, process)
        sounddevice._terminate()  # PortAudio lists host APIs only once
        sounddevice._initialize()
        yield name, process
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)
        if process.poll() is None:
            sounddevice._terminate()  # before the end of the server, or PortAudio aborts the process
            process.terminate()
            process.wait(10)
            sounddevice._initialize()
        _log(name).unlink()


def _log(name: str) -> Path:
    return Path(tempfile.gettempdir(), f"{name}.log")


def late_clients(name: str) -> Counter[tuple[str, str]]:
    """Return the number of periods that an impatient server lost, by the late client and its state.

    State "Running": the callback of the client did not finish. "Triggered": its thread had not started,
    because the machine was busy or the previous period had not ended.
    """
    log = _log(name).read_text(errors="replace")
    return Counter(re.findall(r"XRun: client = (\S+) was not finished, state = (\S+)", log))


def _wait_until_up(name: str, process: subprocess.Popen[bytes]) -> None:
    import jack

    for _ in range(100):
        assert process.poll() is None, f"jackd ended with status {process.returncode}"
        try:
            jack.Client("probe", servername=name, no_start_server=True).close()
            return
        except jack.JackOpenError:
            time.sleep(0.05)
    raise TimeoutError("jackd does not accept connections")


class Recorder:
    """Records the output of PortAudio on a server, from `connect` until `stop`."""

    def __init__(self, name: str, n_channels: int, path: Path) -> None:
        self._path = path
        self._process = subprocess.Popen(
            [sys.executable, __file__, name, str(n_channels), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=_die_with_parent,
        )

    def connect(self) -> None:
        """Wait until the recorder is connected to PortAudio's ports, which exist while a stream is open."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"connected\n"

    def stop(self) -> np.ndarray:
        """End recording; returns `(n_channels, n_samples)`."""
        self._process.communicate(timeout=10)
        return np.load(self._path)


@contextmanager
def device(
    server: str, name: str, sing: Callable[[int], np.ndarray], hear: Callable[[np.ndarray], object]
) -> Iterator[None]:
    """Return a context with a JACK client that PortAudio lists as the device "NAME, JACK".

    sing: function that returns this number of samples to record.
    hear: function that receives the played samples of each period.
    """
    import jack
    import sounddevice

    client = jack.Client(name, servername=server, no_start_server=True)
    mouth, ear = client.outports.register("mouth"), client.inports.register("ear")

    def process(n_samples: int) -> None:
        mouth.get_array()[:] = sing(n_samples)
        hear(ear.get_array().copy())

    client.set_process_callback(process)
    with client:
        sounddevice._terminate()  # PortAudio lists devices only once
        sounddevice._initialize()
        yield
    sounddevice._terminate()
    sounddevice._initialize()


def place_of(samples: np.ndarray, recording: np.ndarray) -> int:
    """Return the position of the first of `samples` `(n_channels, n)` in a recording; -1 if missing."""
    (places,) = np.nonzero(
        (recording[:, : recording.shape[1] - samples.shape[1] + 1] == samples[:, :1]).all(0)
    )
    return int(places[0]) if len(places) else -1


def sound_in(recording: np.ndarray, n_samples: int) -> np.ndarray:
    """Return `n_samples` of a recording `(n_channels, n)`, from the first sample that is not 0 on."""
    (sounding,) = np.nonzero(recording.any(0))
    return recording[:, sounding[0] : sounding[0] + n_samples] if len(sounding) else recording[:, :0]


def record(name: str, n_channels: int, path: str) -> None:
    import jack

    client = jack.Client("recorder", servername=name, no_start_server=True)
    inputs = [client.inports.register(f"in_{i}") for i in range(n_channels)]
    blocks = []
    client.set_process_callback(lambda n: blocks.append([port.get_array().copy() for port in inputs]))
    with client:
        while (
            len(outputs := client.get_ports("PortAudio.*:out_", is_audio=True, is_output=True)) < n_channels
        ):
            time.sleep(0.01)
        for output, port in zip(outputs, inputs, strict=False):
            client.connect(output, port)
        print("connected", flush=True)
        sys.stdin.read()
    np.save(path, np.concatenate(blocks, -1))


if __name__ == "__main__":
    record(sys.argv[1], int(sys.argv[2]), sys.argv[3])
