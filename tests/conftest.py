"""Fixtures for all tests."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator

import interpreter  # noqa: F401  first, before anything imports Triton
import jackd
import pytest
import torch

# A stream's operations are small: on a busy machine more threads take ten times as long.
torch.set_num_threads(1)

# All that is compiled for one precision, whose name is the argument.
COMPILE = """
import sys, torch, rtspecinv
stft = rtspecinv.STFT(64, 16, dtype=getattr(torch, sys.argv[1]))
rtspecinv.invert(torch.ones(33, 20, dtype=stft.dtype), stft, n_iter=1)
rtspecinv.Mel(rtspecinv.MelConfig(8000, 64, 16, n_mels=8)).to(stft.dtype).inverter()
"""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile before the workers of xdist begin, which would compile the same things side by side."""
    if not getattr(session.config.option, "numprocesses", None) or importlib.util.find_spec("numba") is None:
        return
    precisions = ("float32", "float64")
    for process in [subprocess.Popen([sys.executable, "-c", COMPILE, name]) for name in precisions]:
        process.wait()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what plays through a sound server; leave out what takes minutes, unless `-m soak` asks for it."""
    for item in items:
        if "card" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.card)
        if "soak" not in config.option.markexpr and item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: make soak"))


@pytest.fixture(scope="module", params=["patient"])
def card(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a private JACK server; only one runs at a time, because libjack cannot change between two.

    `@pytest.mark.parametrize("card", ["impatient"], indirect=True)` asks for another kind of `jackd.CARDS`.
    """
    if reason := jackd.missing():
        pytest.skip(reason)
    with jackd.server(**jackd.CARDS[request.param]) as (name, _):
        if not jackd.known_to_portaudio():
            pytest.skip("this PortAudio does not know JACK")
        yield name


@pytest.fixture
def little_memory(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Fail a test in which the process grows."""
    from anything import little_memory

    with little_memory():
        yield
