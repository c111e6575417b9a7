"""The live player: ended at any moment, on a JACK server, and for an hour."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from stage import HOP, Echo, join_workers, workers

from rtspecinv.audio import ArraySink, Player


@pytest.fixture(autouse=True)
def no_orphan_thread() -> Iterator[None]:
    yield
    assert not workers()


# -- ends of all kinds --


def in_use(player: Player, generator: np.random.Generator) -> None:
    """A few calls of a user's, chosen by chance."""
    for _ in range(generator.integers(1, 20)):
        player.push(np.ones(HOP, np.float32))
    if generator.random() < 0.5:
        player.drain()
    if generator.random() < 0.5:
        player.reset()


def interrupt_at_random(seed: int) -> None:
    """Ctrl-C at a random moment of making, using and closing players."""
    generator, main = np.random.default_rng(seed), threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(generator.uniform(0, 0.02), signal.pthread_kill, [main, signal.SIGINT])

    def use() -> None:
        timer.start()
        while True:
            with Player(Echo(25), ArraySink(), max_frames=3) as player:
                in_use(player, generator)

    with pytest.raises(KeyboardInterrupt):
        use()
    timer.join()
    join_workers()


def kill_at_random(seed: int) -> None:
    """An exception in the thread, at a random moment of its work."""
    generator = np.random.default_rng(seed)

    def use() -> None:
        with Player(Echo(25), ArraySink(), max_frames=3) as player:
            player.push(np.ones(HOP, np.float32))
            worker = ctypes.c_ulong(player._thread.ident)
            moment = generator.uniform(0, 0.01)
            kill = ctypes.pythonapi.PyThreadState_SetAsyncExc
            timer = threading.Timer(moment, kill, [worker, ctypes.py_object(MemoryError)])
            timer.start()
            while True:
                in_use(player, generator)

    with pytest.raises(MemoryError):
        use()
    join_workers()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("end", [interrupt_at_random, kill_at_random])
def test_every_end_leaves_no_thread(end, seed):
    end(seed)


@pytest.mark.soak
@pytest.mark.parametrize("end", [interrupt_at_random, kill_at_random])
def test_200_ends_leave_no_thread(end):
    for seed in range(200):
        end(1000 + seed)


def test_a_player_that_nobody_closed_lets_the_program_end():
    code = (
        "import numpy as np\n"
        "from rtspecinv.audio import ArraySink, Player\n"
        "from stage import HOP, Echo\n"
        "player = Player(Echo(), ArraySink())\n"
        "player.push(np.ones(HOP))\n"
        "print('end')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
