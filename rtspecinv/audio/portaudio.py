"""Helpers for PortAudio: its modules, checks of parameters, errors, signals and a watchdog.

The modules sounddevice and rtmixer are imported when a device is opened or listed.
"""

from __future__ import annotations

import atexit
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rtspecinv.common.checks import choice, count, finite, real, shown

STALL_SECONDS = 3.0  # a started device that moves no samples for this time counts as vanished
LONGEST_LATENCY = 60.0  # seconds
_LONGEST_QUEUE = 1e7  # seconds
LATENCIES = ("low", "high")
_MOST_DEVICES = 2**31 - 1  # PortAudio numbers devices with 32 bits
HIGHEST_RATE = 2**31 - 1  # Hz
MOST_CHANNELS = 1024
_LONGEST_BLOCK = 2**24  # samples
_Opened = TypeVar("_Opened")


class DeviceError(RuntimeError):
    """Error for a sound device that is missing, refuses its settings or stopped."""


def sounddevice() -> Any:
    """Return the module sounddevice; raises `DeviceError` with the command that installs what is missing."""
    without = "; FileSink, ArraySink and the command line's -o FILE work without it"
    try:
        import sounddevice as module
    except ImportError as error:
        raise DeviceError(f"Playing needs sounddevice: pip install sounddevice{without}") from error
    except OSError as error:
        raise DeviceError(
            f"Playing needs the PortAudio library: apt-get install libportaudio2{without}"
        ) from error
    return module


def rtmixer_for(backend: str) -> Any | None:
    """Return the module rtmixer, or None if a Python callback serves the device.

    backend: name of the backend: `"rtmixer"`, `"callback"`, or `"auto"` for rtmixer if it is installed.

    Raises `ImportError` if `backend` is `"rtmixer"` and rtmixer is not installed.
    """
    choice(("auto", "rtmixer", "callback"), backend=backend)
    if backend == "callback":
        return None
    try:
        import rtmixer
    except ImportError as error:
        if backend == "rtmixer":
            raise ImportError('backend="rtmixer" needs rtmixer: pip install "rtspecinv[live]"') from error
        return None
    return rtmixer


def queue_of(sample_rate: int, queue_seconds: float) -> float:
    """Return `queue_seconds`; raises `ValueError` if it is less than one sample or too long."""
    return finite(1 / sample_rate, _LONGEST_QUEUE, queue_seconds=queue_seconds)


def rate_of(sample_rate: int) -> int:
    """Return a sample rate in Hz as an integer; raises `ValueError` if it is not one."""
    return count(1, HIGHEST_RATE, sample_rate=sample_rate)


def stream_options(
    device: int | str | None, channels: int, latency: float | str, block_length: int
) -> dict[str, Any]:
    """Return the keyword arguments of a stream of sounddevice.

    Raises `ValueError` for a value that no device can have.
    """
    given = latency
    if not (isinstance(latency, str) and latency in LATENCIES):
        latency = real(latency)
        if not 0 <= latency <= LONGEST_LATENCY:  # also rejects NaN
            names = ", ".join(map(repr, LATENCIES))
            raise ValueError(
                f"Parameter latency={shown(given)} is not {names} or seconds from 0 to {LONGEST_LATENCY:g}"
            )
    return {
        "device": _device_of(device),
        "channels": count(1, MOST_CHANNELS, channels=channels),
        "latency": latency,
        "blocksize": count(0, _LONGEST_BLOCK, block_length=block_length),
    }


def _device_of(device: int | str | None) -> int | str | None:
    """Return the number or name of a device; raises `ValueError` for a number that no device has."""
    return device if device is None or isinstance(device, str) else count(0, _MOST_DEVICES, device=device)


def refused(
    to_do: str, device: int | str | None, sample_rate: int | None, channels: int, why: object
) -> DeviceError:
    """Return the error for a device that refuses these settings.

    to_do: what failed, such as "play on".
    why: error of PortAudio.
    """
    name = device if device is not None else "default"
    return DeviceError(
        f"Cannot {to_do} device {name!r} with {sample_rate=}, {channels=}: {' '.join(str(why).split())}; "
        "`rtspecinv devices` lists all devices"
    )


def stream_seconds(stream: Any, is_output: bool) -> float:
    """Return the latency that PortAudio reports for a stream, seconds; 0 for an impossible value.

    For a JACK client without a latency PortAudio reports a negative number as an unsigned one, which is more
    than a day.
    """
    told = stream.latency
    seconds = float(told[is_output] if isinstance(told, tuple) else told)
    return seconds if seconds < LONGEST_LATENCY else 0.0


def device_table() -> str:
    """Return a text with a line for each sound device; raises `DeviceError` if there is none."""
    devices = sounddevice().query_devices()
    if not devices:
        raise DeviceError("PortAudio finds no sound device: connect one, or write to a file with -o FILE")
    return str(devices)


def one_device(to_record: int | str | None, to_play: int | str | None) -> dict[str, Any] | None:
    """Return PortAudio's description of the device if both parameters name the same one, else None.

    to_record: number or name of the device that records, or None for the default of the system.
    to_play: number or name of the device that plays, or None for the default of the system.

    A duplex stream needs `index` and `default_samplerate` of the description. Returns None for a missing
    device, too. Raises `ValueError` for a number that no device has.
    """
    to_record, to_play = _device_of(to_record), _device_of(to_play)
    sd = sounddevice()
    try:
        recording, playing = sd.query_devices(to_record, "input"), sd.query_devices(to_play, "output")
    except (ValueError, sd.PortAudioError):
        return None
    return dict(playing) if recording["index"] == playing["index"] else None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Delay Ctrl-C until the end of the `with` block.

    Ctrl-C during a call of PortAudio breaks JACK's connection to its server. This thread does not receive
    the signal, so that its system calls are not interrupted. If another thread receives it, no exception is
    raised before the end of the block.
    """
    mask = getattr(signal, "pthread_sigmask", None)
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if in_main else None
    came: list[int] = []
    blocked = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask is not None else None
    try:
        if handler is not None:
            signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
        yield
    finally:
        if mask is not None:
            mask(signal.SIG_SETMASK, blocked)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def starting(module: Any) -> Iterator[None]:
    """Delay Ctrl-C while the `with` block starts a stream; raises `DeviceError` if PortAudio fails."""
    try:
        with undisturbed():
            yield
    except module.PortAudioError as error:
        raise DeviceError(f"The sound device does not start: {error}; check its connection") from error


def opened(make: Callable[[], _Opened], close: Callable[[_Opened], object]) -> _Opened:
    """Return what `make` opens, such as a stream.

    If Ctrl-C is pressed meanwhile, `close` closes it, because the caller does not receive it.
    """
    made = None
    try:
        with undisturbed():
            made = make()
        return made
    except BaseException:
        if made is not None:
            close(made)
        raise


class Watchdog:
    """Detects that a running stream has stopped or moves no samples.

    position: function that returns the number of samples that the stream has moved.
    verb: word for the error message, "taken" for an output device or "given" for an input device.
    """

    def __init__(self, module: Any, stream: Any, position: Callable[[], int], verb: str) -> None:
        self._module, self._stream, self._position, self._verb = module, stream, position, verb
        self.gone = False
        self.start()

    def start(self) -> None:
        """Restart the measurement of time; call it when the stream starts."""
        self._moved = self._looked = time.monotonic()
        self._seen = self._position()

    @property
    def active(self) -> bool:
        """Whether PortAudio reports that the stream runs."""
        try:
            return bool(self._stream.active)
        except self._module.PortAudioError:
            return False

    def look(self) -> None:
        """Raise `DeviceError` if the stream has stopped, or has moved no samples for `STALL_SECONDS`."""
        now, position = time.monotonic(), self._position()
        was_asleep, self._looked = now - self._looked > STALL_SECONDS / 2, now  # this process was suspended
        if position != self._seen:
            self._seen, self._moved = position, now
        elif not self.active:
            self._lose("stopped")
        elif was_asleep:
            self._moved = now
        elif now - self._moved > STALL_SECONDS:
            self._lose(f"has {self._verb} no samples for {STALL_SECONDS:.0f} seconds")

    def _lose(self, how: str) -> None:
        self.gone = True
        _leave_at_exit(self._module)
        raise DeviceError(f"The sound device {how}: check its connection and open it again")


def _leave_at_exit(module: Any) -> None:
    """Prevent the end of PortAudio at Python's exit: it aborts the process if the JACK server has ended."""
    if hasattr(module, "_exit_handler"):
        atexit.unregister(module._exit_handler)


def abandon(module: Any, stream: Any) -> None:
    """Close the stream of a vanished device in another thread.

    PortAudio may need minutes for that; the call returns after `STALL_SECONDS` at the latest.
    """
    _leave_at_exit(module)
    closer = threading.Thread(target=stream.close, name="close", daemon=True)
    closer.start()
    closer.join(STALL_SECONDS)
