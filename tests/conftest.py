"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import jackd
import pytest
import torch

torch.set_num_threads(
    1
)  # a stream's operations are small: on a busy machine more threads take ten times as long


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is left out."""
    selected = config.getoption("markexpr") != "not soak"
    return None if selected else "soak tests are deselected, because they take minutes: `make soak` runs them"


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
