"""Fixtures for all tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import interpreted  # noqa: F401  first, before anything imports Triton
import jackd
import pytest
import torch

# A stream's operations are small: on a busy machine more threads take ten times as long.
torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what plays through a sound server; leave out what takes minutes, unless `-m soak` asks for it."""
    for item in items:
        if "card" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.card)
        if "soak" not in config.option.markexpr and item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: make soak"))


def pytest_collection_finish() -> None:
    """Keep what is imported by now out of garbage collections: tests ask for many, and torch is large."""
    gc.freeze()


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
    from fuzzing import little_memory

    with little_memory():
        yield
