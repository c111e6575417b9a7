"""Microphones, with a stream that the test calls by hand and on a JACK server."""

from __future__ import annotations

import threading
import types
from collections.abc import Iterator

import jackd
import numpy as np
import pytest

from rtspecinv.audio import DeviceError, Mailbox, Microphone, sources


class HandStream:
    latency = 0.01

    def __init__(self, callback, channels, **options):
        self.callback, self.channels, self.options = callback, channels, options
        self.active = self.closed = False

    def start(self):
        assert not self.active
        self.active = True

    def close(self, ignore_errors=True):
        self.active, self.closed = False, True

    def give(self, block: np.ndarray, overflow: bool = False) -> None:
        """Give `(channels, n_samples)`, in memory that is used again."""
        memory = block.T.copy()
        self.callback(memory, len(memory), None, types.SimpleNamespace(input_overflow=overflow))
        memory[:] = np.nan


@pytest.fixture
def by_hand(monkeypatch):
    fake = types.SimpleNamespace(InputStream=HandStream, PortAudioError=OSError)
    monkeypatch.setattr(sources, "sounddevice", lambda: fake)


def blocks(n: int, channels: int = 2, length: int = 10) -> list[np.ndarray]:
    return list(np.random.default_rng(0).uniform(-1, 1, (n, channels, length)).astype(np.float32))


def test_microphone_gives_what_comes_and_ends_when_it_is_closed(by_hand):
    given = blocks(5)
    with Microphone(100, 2, queue_seconds=1) as microphone:
        taken: Iterator[np.ndarray] = iter(microphone)
        for block in given:
            microphone._stream.give(block)
        for block in given:
            np.testing.assert_array_equal(next(taken), block)
        assert microphone._stream.active
        closing = threading.Timer(0.02, microphone.close)
        closing.start()
        assert list(taken) == []
        closing.join()
    assert microphone.overflows == 0
    assert microphone._stream.closed
    with pytest.raises(ValueError, match="closed"):
        next(iter(microphone))


def test_blocks_that_nobody_takes_make_room_for_newer_ones_and_are_counted(by_hand):
    given = blocks(20)
    with Microphone(100, 2, queue_seconds=0.5) as microphone:
        assert microphone.latency_seconds == 0.01
        for block in given:
            microphone._stream.give(block)
        assert microphone.latency_seconds == given[0].shape[1] / 100
        assert microphone.overflows == 15
        microphone._stream.give(given[0], overflow=True)
        assert microphone.overflows == 16
        taken = iter(microphone)
        for block in [*given[-4:], given[0]]:
            np.testing.assert_array_equal(next(taken), block)


def test_a_microphone_that_gives_nothing_is_noticed(by_hand, monkeypatch):
    monkeypatch.setattr(sources, "_STALL_SECONDS", 0.02)
    with Microphone(100) as microphone, pytest.raises(DeviceError, match="given nothing"):
        next(iter(microphone))


def test_options_reach_the_device(by_hand):
    microphone = Microphone(100, 2, device="x", latency=0.2, block_length=64)
    options = {"samplerate": 100, "device": "x", "latency": 0.2, "blocksize": 64, "dtype": "float32"}
    assert microphone._stream.options == options
    assert microphone.latency_seconds == 0.01


def test_microphone_records_what_is_played_to_it(card):
    """Another JACK client, which PortAudio takes for a microphone, gives the numbers from 1 on."""
    import jack
    import sounddevice

    client = jack.Client("singer", servername=card, no_start_server=True)
    port, n_given = client.outports.register("out"), 0

    def sing(n_samples: int) -> None:
        nonlocal n_given
        port.get_array()[:] = np.arange(n_given + 1, n_given + n_samples + 1) / 2**20
        n_given += n_samples

    client.set_process_callback(sing)
    with client:
        sounddevice._terminate()  # PortAudio lists devices once
        sounddevice._initialize()
        with pytest.raises(
            DeviceError, match="Cannot record from device 'singer, JACK' with sample_rate=8000"
        ):
            Microphone(8000, device="singer, JACK")
        recorded: list[np.ndarray] = []
        with Microphone(jackd.SAMPLE_RATE, device="singer, JACK", queue_seconds=2) as microphone:
            for block in microphone:
                recorded.append(block)
                if len(recorded) == 20:
                    break
        assert microphone.overflows == 0
    sounddevice._terminate()
    sounddevice._initialize()
    numbers = np.concatenate(recorded, -1)[0] * 2**20
    heard = numbers[np.argmax(numbers > 0) :]
    assert len(heard) > 10 * jackd.CARDS["patient"]["period"]
    np.testing.assert_array_equal(np.diff(heard), 1)  # nothing lost, nothing twice


# -- the mailbox --


def test_mailbox_gives_the_latest_until_it_is_closed():
    mailbox, frame, seen = Mailbox(), np.zeros(3), []
    threading.Timer(0.02, mailbox.put, [np.full(3, 7.0)]).start()
    frames = iter(mailbox)
    seen.append(next(frames)[0])  # waits for the first
    for value in (1.0, 2.0, 3.0):
        frame[:] = value
        mailbox.put(frame)
    frame[:] = 9
    seen += [next(frames)[0], next(frames)[0]]
    mailbox.close()
    assert seen == [7, 3, 3]
    assert list(frames) == []
    assert list(Mailbox.__iter__(mailbox)) == []
