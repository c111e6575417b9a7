"""Tests of momentum: the first step of a frame has none, in every engine; later steps have."""

from __future__ import annotations

import importlib.util
from functools import partial

import pytest
import torch
from contract import run
from sounds import SMALL, sound

from rtspecinv import StreamingInverter, invert
from rtspecinv.batch import Iteration
from rtspecinv.updates import RAAR, AcceleratedGriffinLim, GriffinLim

HAS_NUMBA = all(importlib.util.find_spec(name) for name in ("numba", "rocket_fft"))
ENGINES = [
    "eager",
    pytest.param("numba", marks=pytest.mark.skipif(not HAS_NUMBA, reason='pip install "rtspecinv[fast]"')),
]
MOVING = [
    (GriffinLim(0.99), GriffinLim()),
    (RAAR(0.8, ramp=0.0, momentum=0.3), RAAR(0.8, ramp=0.0)),
    (AcceleratedGriffinLim(), AcceleratedGriffinLim(0.0, 0.0, 1.0)),
]


def record(seen: list[torch.Tensor], now: Iteration) -> None:
    seen.append(now.actual)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("moving", "plain"), MOVING, ids=str)
def test_a_whole_spectrogram_begins_with_a_plain_step(moving, plain, engine):
    spectrum = SMALL.analyze(sound(500)) * torch.polar(torch.ones(33, 32), torch.rand(33, 32)).to(
        torch.complex128
    )
    for n_iter, is_same in ((1, True), (3, False)):
        pair = []
        for update in (moving, plain):
            seen: list[torch.Tensor] = []
            invert(
                spectrum,
                SMALL,
                update=update,
                n_iter=n_iter,
                engine=engine,
                evaluate_every=n_iter,
                callback=partial(record, seen),
            )
            pair.append(seen[-1])
        assert torch.allclose(pair[0], pair[1], atol=1e-9) == is_same


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("moving", "plain"), MOVING, ids=str)
def test_every_frame_of_a_stream_begins_with_a_plain_step(moving, plain, engine):
    """Without look-ahead and revision, a frame is iterated in one push only, so its first step is tested."""
    magnitude = SMALL.magnitude(sound(500))
    for n_iter, is_same in ((1, True), (3, False)):
        pair = [
            run(
                StreamingInverter(SMALL, update=update, look_ahead=0, revise=0, n_iter=n_iter, engine=engine),
                magnitude,
            )
            for update in (moving, plain)
        ]
        assert torch.allclose(pair[0], pair[1], atol=1e-9) == is_same
