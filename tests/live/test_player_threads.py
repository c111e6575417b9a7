"""Tests of calls of the player from several threads, its own thread, a fork, and at exit."""

from __future__ import annotations

import asyncio
import collections
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_clock import HOP, PATIENT, Card, Clock, Echo, join_workers, workers
from forked import forked

from rtspecinv.audio import ArraySink
from rtspecinv.live import Mailbox, Player

FULL = ["block", "drop_oldest", "raise"]
OWN, OTHER = np.full(HOP, 1.0, np.float32), np.full(HOP, 0.5, np.float32)


@pytest.fixture(autouse=True)
def no_orphan_thread() -> Iterator[None]:
    yield
    join_workers()


def in_time(call: Callable[[], object]) -> None:
    """Make a call in a separate thread, check that it ends, and raise its error here."""
    errors = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENT)
    assert not thread.is_alive(), "it hangs"
    if errors:
        raise errors[0]


# -- ends are positions in the queue --


class Producers:
    """Threads that push until the player is closed."""

    def __init__(self, player: Player, n: int) -> None:
        self.ends: list[str] = []
        self.begun = threading.Event()
        self._player = player
        self._threads = [threading.Thread(target=self._produce, daemon=True) for _ in range(n)]
        for thread in self._threads:
            thread.start()
        assert self.begun.wait(PATIENT)

    def _produce(self) -> None:
        try:
            while True:
                with suppress(queue.Full):
                    self._player.push(OTHER)
                self.begun.set()
        except ValueError as error:
            self.ends.append(str(error))

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENT)
        assert self.ends == ["The player is closed: make a new Player"] * len(self._threads)


def leave_async(player: Player) -> None:
    async def leave() -> None:
        async with player:
            pass

    asyncio.run(leave())


ENDS = {
    "close": Player.close,
    "with": lambda player: player.__exit__(None, None, None),
    "async with": leave_async,
    "drain": Player.drain,
    "async drain": lambda player: asyncio.run(player.drain_async()),
}


@pytest.mark.parametrize("full", FULL)
@pytest.mark.parametrize("end", ENDS)
def test_a_drain_ends_while_other_threads_push(end, full):
    sink = ArraySink()
    player = Player(Echo(25), sink, full=full, max_frames=10**6 if full == "drop_oldest" else 3)
    producers = Producers(player, 3)
    n_pushed = 0
    while n_pushed < 5:
        with suppress(queue.Full):
            player.push(OWN)
            n_pushed += 1
    in_time(lambda: ENDS[end](player))
    heard = sink.samples.copy()
    assert np.count_nonzero(heard == 1.0) == n_pushed * HOP
    if "drain" in end:
        player.push(OWN, timeout=PATIENT) if full != "raise" else None
        in_time(player.close)
    producers.join()


def test_frames_pushed_during_a_drain_are_played_after_it():
    class Gate(ArraySink):
        drains, go_on = threading.Event(), threading.Event()

        def drain(self) -> None:
            self.drains.set()
            assert self.go_on.wait(PATIENT)

    sink = Gate()
    with Player(Echo(25), sink, max_frames=2) as player:
        player.push(OWN)
        drains = [threading.Thread(target=player.drain) for _ in range(3)]
        for thread in drains:
            thread.start()
        assert sink.drains.wait(PATIENT)
        player.push(OTHER)
        player.push(OTHER)
        with pytest.raises(TimeoutError):
            player.push(OTHER, timeout=0.01)
        # Including the samples of the latency, which the end flushes.
        assert sink.samples.tolist() == OWN.tolist()
        sink.go_on.set()
        for thread in drains:
            thread.join(PATIENT)
            assert not thread.is_alive()
    assert sink.samples.tolist() == [*OWN, *OTHER, *OTHER]


@pytest.mark.parametrize("first", ["close", "abort"])
def test_many_threads_may_end_a_player_at_once(first):
    for n in (1, 5):
        sink = ArraySink()
        player = Player(Echo(), sink, max_frames=2)
        producers = Producers(player, 2)
        calls = [getattr(player, first), *n * [player.close, player.abort, player.drain, player.reset]]
        errors: queue.Queue[str] = queue.Queue()
        threads = [threading.Thread(target=note_error, args=[call, errors], daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENT)
            assert not thread.is_alive()
        while not errors.empty():
            assert errors.get() == "The player is closed: make a new Player"
        producers.join()


def note_error(call: Callable[[], None], errors: queue.Queue[str]) -> None:
    try:
        call()
    except BaseException as error:
        errors.put(str(error))


def test_close_wakes_callers_that_wait_for_room_and_abort_those_that_wait_for_the_end():
    class Gate(ArraySink):
        asked, go_on = threading.Event(), threading.Event()

        def write(self, samples) -> None:
            self.asked.set()
            assert self.go_on.wait(PATIENT)
            super().write(samples)

    sink = Gate()
    player = Player(Echo(), sink, max_frames=1)
    player.push(OWN)
    assert sink.asked.wait(PATIENT)
    player.push(OWN)
    producers = [threading.Thread(target=in_time, args=[lambda: refused(player)]) for _ in range(2)]
    for thread in producers:
        thread.start()
    closer = threading.Thread(target=player.close, daemon=True)
    closer.start()
    for thread in producers:  # before the first sample
        thread.join(PATIENT)
        assert not thread.is_alive()
    aborter = threading.Thread(target=player.abort, daemon=True)
    aborter.start()
    sink.go_on.set()
    for thread in (closer, aborter):
        thread.join(PATIENT)
        assert not thread.is_alive()


def push_on(player: Player) -> None:
    while True:
        player.push(OTHER)


def refused(player: Player) -> None:
    with pytest.raises(ValueError, match="The player is closed"):
        push_on(player)


# -- calls of the sink and of the inverter --


class Calling(Card):
    """A sink one of whose methods makes a call, once."""

    call: Callable[[], object] | None = None

    def __init__(self, where: str) -> None:
        super().__init__(Clock())
        self.where, self.called = where, threading.Event()
        self.error: Exception | None = None

    def run(self, here: str) -> None:
        if here == self.where and self.call is not None:
            call, self.call = self.call, None
            try:
                call()
            except (ValueError, RuntimeError, queue.Full) as error:
                self.error = error
            self.called.set()

    def write(self, samples) -> None:
        self.run("write")
        super().write(samples)
        self.queued = 0

    def drain(self) -> None:
        self.run("drain")
        super().drain()

    def clear(self) -> None:
        self.run("clear")
        super().clear()

    def start(self) -> None:
        self.run("start")
        super().start()


class CallingEcho(Echo):
    """An inverter whose `push` makes a call, once."""

    sink: Calling

    def push(self, frame):
        self.sink.run("push")
        return super().push(frame)

    def flush(self, n_samples: int | None = None):
        self.sink.run("flush")
        return super().flush()


CALLS: dict[str, Callable[[Player], object]] = {
    "reset": Player.reset,
    "abort": Player.abort,
    "close": Player.close,
    "exit": lambda player: player.__exit__(None, None, None),
    "drain": Player.drain,
    "push": lambda player: [player.push(OTHER) for _ in range(9)],
    "stats": lambda player: player.stats,
    "n_iter": lambda player: setattr(player, "n_iter", 2),
}
WAITS = {"drain", "push"}


@pytest.mark.parametrize("where", ["write", "drain", "clear", "start", "push", "flush"])
@pytest.mark.parametrize("name", CALLS)
def test_calls_of_the_sink_and_of_the_inverter_end(where, name):
    sink, inverter = Calling(where), CallingEcho(5)
    inverter.sink = sink
    player = Player(inverter, sink, max_frames=4, queue_seconds=0.01)
    sink.call = lambda: CALLS[name](player)
    ended = name in ("abort", "close", "exit")

    def use() -> None:
        with suppress(ValueError):  # the player may be closed by now
            player.push(OWN)
            player.push(OWN)
            if where == "clear":
                player.reset()
            if where == "start":
                assert sink.called.wait(PATIENT)
            else:
                player.drain()
        assert sink.called.wait(PATIENT)
        if not ended:
            player.push(OWN)
            player.drain()
        player.close()
        with pytest.raises(ValueError, match="closed"):
            player.push(OWN)

    in_time(use)
    if name in WAITS:
        with pytest.raises(RuntimeError, match=rf"^{name}\(\).* would wait for ever, because the player"):
            raise sink.error or AssertionError("nothing was refused")
    else:
        assert sink.error is None or "The player is closed" in str(sink.error)


def test_a_reset_by_the_sink_drops_its_samples():
    sink = Calling("write")
    with Player(Echo(), sink, queue_seconds=0.01) as player:
        sink.call = player.reset
        player.push(OWN)
        assert sink.called.wait(PATIENT)
        player.push(OTHER)
        player.drain()
    assert sink.cleared == 1
    assert sink.samples[-HOP:].tolist() == OTHER.tolist()


def test_a_player_closed_by_its_sink_plays_all_frames():
    sink = Calling("write")
    player = Player(Echo(), sink, queue_seconds=0.01)
    sink.call = lambda: [player.push(OTHER), player.close()]
    player.push(OWN)
    join_workers()
    assert sink.samples.tolist() == [*OWN, *OTHER]


# -- a signal handler calls the player in the middle of another call --


class Interrupted(collections.deque):
    """A deque one of whose methods a signal interrupts, once; the signal handler makes a call."""

    call: Callable[[], object] | None = None

    def __init__(self, where: str, items: Iterable[object] = ()) -> None:
        super().__init__(items)
        self.where, self.thread = where, threading.get_ident()

    def run(self, here: str) -> None:
        if here == self.where and threading.get_ident() == self.thread and self.call is not None:
            call, self.call = self.call, None
            call()

    def append(self, item) -> None:
        self.run("before append")
        super().append(item)
        self.run("after append")

    def popleft(self):
        self.run("before popleft")
        item = super().popleft()
        self.run("after popleft")
        return item

    def clear(self) -> None:
        self.run("before clear")
        super().clear()
        self.run("after clear")

    def copy(self):
        return collections.deque(self)


PLACES = {  # place of the interruption: the deque, its method, and the call of the player that reaches it
    "push": ("_frames", "append", lambda player: player.push(OWN)),
    "drop": ("_frames", "popleft", lambda player: [player.push(OWN) for _ in range(9)]),
    "drain": ("_ends", "append", Player.drain),
    "reset": ("_frames", "clear", Player.reset),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", CALLS)
def test_a_signal_handler_may_call_the_player_where_its_locks_are_held(name, place, when):
    kind, method, interrupted = PLACES[place]
    sink, held = Calling("write"), threading.Event()

    def use() -> None:
        player = Player(Echo(), sink, max_frames=4, full="drop_oldest", queue_seconds=0.01)
        if place == "drop":  # the thread waits, so that there is no room
            sink.call = lambda: held.wait(PATIENT)
        player.push(OWN)
        if place == "drop":
            while player.stats.n_waiting:
                pass
        places = Interrupted(f"{when} {method}", getattr(player._inbox, kind))
        setattr(player._inbox, kind, places)
        places.call = lambda: CALLS[name](player)
        with suppress(ValueError, RuntimeError):  # the player may be closed by now, or the call would wait
            interrupted(player)
        assert places.call is None
        held.set()
        if name not in ("abort", "close", "exit"):
            player.push(OTHER)
            player.drain()
            assert sink.samples[-HOP:].tolist() == OTHER.tolist()
        player.close()
        with pytest.raises(ValueError, match="closed"):
            player.push(OWN)

    in_time(use)
    join_workers()


@pytest.mark.parametrize("name", CALLS)
def test_a_signal_handler_may_call_the_player_where_its_thread_starts(name, monkeypatch):
    sink, start = Calling("write"), threading.Thread.start
    called: list[Any] = []

    def use() -> None:
        player = Player(Echo(), sink, queue_seconds=0.01)

        def interrupted_start(thread) -> None:
            if thread.name == "rtspecinv player" and not called:
                called.append(thread)
                with suppress(RuntimeError):  # the call would wait
                    CALLS[name](player)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", interrupted_start)
        with suppress(ValueError):  # the player may be closed by now
            player.push(OWN)
        player.close()

    in_time(use)
    assert called
    join_workers()


def test_a_player_closed_by_a_signal_handler_plays_all_frames():
    sink = Calling("write")

    def use() -> None:
        with Player(Echo(), sink, queue_seconds=0.01) as player:
            player.push(OWN)
            player._inbox._frames = places = Interrupted("before append", player._inbox._frames)
            places.call = player.close
            refused(player)

    in_time(use)
    assert sink.samples.tolist() == OWN.tolist()


# -- players that are not closed --


@pytest.mark.parametrize("lock", ["_inbox._lock", "_pump._at_sink", "_worker._starting"])
def test_a_player_may_be_collected_wherever_its_locks_are_held(lock):
    player = Player(Echo(), ArraySink())
    player.push(OWN)
    player.drain()
    holder, name = lock.split(".")
    players = [player]

    def collect() -> None:
        with getattr(getattr(players[0], holder), name):
            players.clear()

    del player
    in_time(collect)
    join_workers()


def test_a_player_may_be_collected_in_its_own_thread():
    class Last(ArraySink):
        def __init__(self) -> None:
            super().__init__()
            self.players: list[Player] = []
            self.go_on, self.collected = threading.Event(), threading.Event()

        def write(self, samples) -> None:
            assert self.go_on.wait(PATIENT)
            self.players.clear()
            self.collected.set()

    sink = Last()
    player = Player(Echo(), sink)
    sink.players.append(player)
    player.push(OWN)
    del player
    sink.go_on.set()
    assert sink.collected.wait(PATIENT)
    join_workers()


def run_python(code: str) -> tuple[int, str, str]:
    here = Path(__file__).parents[1] / "support"
    code = (
        "import os, sys, threading, time, numpy as np\n"
        "from rtspecinv import ArraySink, Player\n"
        "from fake_clock import HOP, Echo\n"
        "frame = np.ones(HOP, np.float32)\n" + code
    )
    command = forked([sys.executable, "-c", code])
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(0.001); super().write(samples)",
        "time.sleep(1000)",
        "player.close()",
        "threading.Event().wait()",
    ],
)
def test_a_player_left_open_lets_python_end(body):
    code = (
        "class Sink(ArraySink):\n"
        f"    def write(self, samples): {body}\n"
        "player = Player(Echo(), Sink(), full='drop_oldest')\n"
        "def produce():\n"
        "    while True: player.push(frame)\n"
        "threading.Thread(target=produce, daemon=True).start()\n"
        "time.sleep(0.1)\n"
        "print('end')\n"
    )
    status, out, err = run_python(code)
    assert (status, out) == (0, "end\n")
    assert "Exception ignored" not in err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_gets_an_error_about_the_missing_thread():
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "class Sink(ArraySink):\n"
        "    def write(self, samples): time.sleep(0.01)\n"
        "player, unused = Player(Echo(), Sink(), max_frames=2), Player(Echo(), ArraySink())\n"
        "player.push(frame)\n"
        "if os.fork():\n"
        "    print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "    player.close()\n"
        "    sys.exit()\n"
        "for call in (lambda: player.push(frame), player.drain, player.reset, player.close,\n"
        "             lambda: player.stats, lambda: player.__exit__(None, None, None)):\n"
        "    try: call()\n"
        "    except RuntimeError as error: assert 'make a new Player in this process' in str(error)\n"
        "    else: os._exit(1)\n"
        "player.abort()\n"
        "with unused: unused.push(frame)\n"
        "assert unused.stats.n_frames == 1\n"
    )
    assert run_python(code) == (0, "0\n", "")


def test_every_thread_that_waits_at_a_mailbox_gets_frames():
    mailbox = Mailbox()
    got: queue.Queue[Any] = queue.Queue()
    threads = [threading.Thread(target=lambda: got.put(next(iter(mailbox), None))) for _ in range(3)]
    for thread in threads:
        thread.start()
    mailbox.put(OWN)
    for _ in threads:
        assert got.get(timeout=PATIENT).tolist() == OWN.tolist()
    empty = Mailbox()
    waiting = [threading.Thread(target=lambda: got.put(list(empty))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    empty.close()
    for _ in waiting:
        assert got.get(timeout=PATIENT) == []
    for thread in [*threads, *waiting]:
        thread.join(PATIENT)


def test_workers_are_found():
    """`join_workers` above looks for threads of this name."""
    with Player(Echo(), ArraySink()) as player:
        player.push(OWN)
        assert len(workers()) == 1
