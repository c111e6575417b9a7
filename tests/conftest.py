"""Fixtures for all tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import interpreted  # noqa: F401  first, before anything imports Triton
import jackd
import pytest
import torch

# The operations of a stream are small: on a busy machine, several threads take ten times as long as one.
torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests that play through a sound server; skip tests that take minutes, except with `-m soak`."""
    for item in items:
        if "card" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.card)
        if "soak" not in config.option.markexpr and item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: make soak"))


def pytest_collection_finish() -> None:
    """Exclude all imported objects from garbage collections, which tests call often; torch is large."""
    gc.freeze()


@pytest.fixture(scope="module", params=["patient"])
def card(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the name of a private JACK server; only one runs at a time, because libjack supports only one.

    `@pytest.mark.parametrize("card", ["impatient"], indirect=True)` selects another kind of `jackd.CARDS`.
    """
    if reason := jackd.missing():
        pytest.skip(reason)
    with jackd.server(**jackd.CARDS[request.param]) as (name, _):
        if not jackd.known_to_portaudio():
            pytest.skip("this PortAudio does not support JACK")
        yield name


@pytest.fixture
def little_memory(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Fail a test in which the memory of the process grows."""
    from fuzzing import little_memory

    with little_memory():
        yield
