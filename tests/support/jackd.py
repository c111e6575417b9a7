"""A sound card without a sound card: a private JACK server with a dummy driver, and a recorder process.

Run as a script this is the recorder: `python jackd.py SERVER N_CHANNELS FILE` connects to what PortAudio
plays, says "connected", records until its standard input is closed, and saves `(n_channels, n_samples)`.
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
DEVICE = "system, JACK"  # PortAudio's name for it
CHANNELS = 2
# Kinds of server. A patient one waits for late clients, so that it loses nothing on a busy machine; an
# impatient one loses sound like a real card. Period: samples that it asks for at once.
CARDS: dict[str, Any] = {
    "patient": {"wait_for_clients": True, "sample_rate": SAMPLE_RATE, "period": 1024},
    "impatient": {"wait_for_clients": False, "sample_rate": SAMPLE_RATE, "period": 1024},
    "22050 Hz": {"wait_for_clients": True, "sample_rate": 22050, "period": 512},
}


def missing() -> str:
    """What this machine lacks for such a server; empty if nothing."""
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
    """Whether PortAudio lists the server's outputs."""
    import sounddevice

    return any("JACK" in api["name"] for api in sounddevice.query_hostapis())


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1  # SIGTERM, because a server that is killed keeps one of JACK's eight names
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
        sounddevice._terminate()  # PortAudio lists host APIs once
        sounddevice._initialize()
        yield name, process
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)
        if process.poll() is None:
            sounddevice._terminate()  # before the server goes, or PortAudio aborts the process
            process.terminate()
            process.wait(10)
            sounddevice._initialize()
        _log(name).unlink()


def _log(name: str) -> Path:
    return Path(tempfile.gettempdir(), f"{name}.log")


def late_clients(name: str) -> Counter[tuple[str, str]]:
    """How often an impatient server lost a period, by the client that was late and its state in JACK's words.

    "Running": it was held up in its callback. "Triggered": its thread had not even come to run, because the
    machine was busy or because it was still at the period before.
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
    raise TimeoutError("jackd does not answer")


class Recorder:
    """Records what PortAudio plays on a server, from `connect` until `stop`."""

    def __init__(self, name: str, n_channels: int, path: Path) -> None:
        self._path = path
        self._process = subprocess.Popen(
            [sys.executable, __file__, name, str(n_channels), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=_die_with_parent,
        )

    def connect(self) -> None:
        """Wait until the recorder is connected to PortAudio's ports, which exist once a stream is open."""
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
    """A JACK client of ours that PortAudio takes for a device, called "NAME, JACK".

    sing: gives so many samples to whoever records from it.
    hear: gets what is played on it, a period at a time.
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
        sounddevice._terminate()  # PortAudio lists devices once
        sounddevice._initialize()
        yield
    sounddevice._terminate()
    sounddevice._initialize()


def place_of(samples: np.ndarray, recording: np.ndarray) -> int:
    """Where `samples` `(n_channels, n)` begin in a recording; -1 if it does not hold their first one."""
    (places,) = np.nonzero(
        (recording[:, : recording.shape[1] - samples.shape[1] + 1] == samples[:, :1]).all(0)
    )
    return int(places[0]) if len(places) else -1


def sound_in(recording: np.ndarray, n_samples: int) -> np.ndarray:
    """The `n_samples` of a recording `(n_channels, n)` from the first one that is not zero on."""
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
