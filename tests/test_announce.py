"""Compilation is logged when it happens, and only then."""

from __future__ import annotations

import logging
import re
import threading

import pytest

numba = pytest.importorskip("numba", reason='numba is missing: pip install "rtspecinv[fast]"')

from rtspecinv.engines.announce import compiling  # noqa: E402

from rtspecinv import STFT, StreamingInverter  # noqa: E402
from rtspecinv.engines import numba_cpu  # noqa: E402


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="rtspecinv")
    return caplog


def test_before_and_after_and_once(log):
    at_compilation = []

    @numba.njit
    def inner(x):
        return x + 1

    @numba.njit
    def outer(x):
        return inner(x)

    with compiling(outer, "outer for integers"):
        at_compilation = list(log.messages)
        outer(1)
        inner(1.0)  # somebody else's
    assert at_compilation == []
    assert log.messages[0] == "compiling outer for integers: some 20 s, once on this machine"
    assert re.fullmatch(r"compiled outer for integers in \d+\.\d s", log.messages[1])
    with compiling(outer, "outer for integers"):
        outer(2)
    assert len(log.messages) == 2


def test_not_of_another_thread(log):
    @numba.njit
    def function(x):
        return x

    with compiling(function, "it"):
        thread = threading.Thread(target=function, args=(1,))
        thread.start()
        thread.join()
    assert log.messages == []


def test_not_if_it_fails(log):
    @numba.njit
    def function(x):
        return x.nothing

    with pytest.raises(numba.TypingError), compiling(function, "it"):
        function(1)
    assert [message.split()[0] for message in log.messages] == ["compiling"]


def test_construction_says_so(log, monkeypatch):
    """A stand-in for the compiled push, because that takes 20 s to compile."""

    @numba.njit
    def push(plan, memory, magnitude, spectrum, hops, number, first, last):
        return 0

    monkeypatch.setattr(numba_cpu, "push", push)
    StreamingInverter(STFT(64, 16), engine="numba")
    assert [message[: message.index(" float32")] for message in log.messages] == [
        "compiling the engine numba for",
        "compiled the engine numba for",
    ]
    StreamingInverter(STFT(64, 16), engine="numba")
    assert len(log.messages) == 2
