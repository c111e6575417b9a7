"""Tests of saved states: they are complete, and a state that does not fit changes nothing."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rtspecinv import STFT, MelConfig, MelInverter, StreamingInverter, updates
from rtspecinv.mel.spectrogram import Mel

SETTINGS = STFT(64, 16)
FRAMES = torch.rand(33, 60, generator=torch.Generator().manual_seed(0))
MEL = MelConfig(8000, 128, 32, n_mels=12, preemphasis=0.9)
MELS = Mel(MEL).bank(torch.rand(65, 60, generator=torch.Generator().manual_seed(1)))
ENGINES = ("eager", "numba")


def inverter_of(engine: str = "eager", stft: STFT = SETTINGS, **options: Any) -> StreamingInverter:
    if engine == "numba":
        pytest.importorskip("numba", reason='numba is missing: pip install "rtspecinv[fast]"')
    return StreamingInverter(stft, **{"n_iter": 3, "engine": engine, **options})


def through_a_file(state: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def rest(inverter: StreamingInverter, frames: Tensor) -> Tensor:
    return torch.cat([inverter.push_many(frames), inverter.flush()], -1)


@pytest.mark.parametrize("n_before", [0, 1, 3, 40])
@pytest.mark.parametrize("after", [0, 2, 40])  # number of frames that the loading inverter received before
@pytest.mark.parametrize("engine", ENGINES)
def test_a_loaded_stream_continues_the_saved_one(engine, n_before, after):
    first, second = inverter_of(engine), inverter_of(engine)
    first.push_many(FRAMES[:, :n_before]) if n_before else None
    second.push_many(FRAMES.flip(-1)[:, :after]) if after else None
    second.load_state_dict(through_a_file(first.state_dict()))
    assert torch.equal(rest(second, FRAMES[:, n_before:]), rest(first, FRAMES[:, n_before:]))


@pytest.mark.parametrize(
    "options",
    [
        {"update": "agla"},
        {"update": "rtisi"},
        {"update": updates.RAAR(momentum=0.2)},
        {"init": "gradient"},
        {"init": "peaks", "look_ahead": 5},
        {"batch_shape": (2,), "revise": 0},
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_for_all_kinds(engine, options):
    first, second = inverter_of(engine, **options), inverter_of(engine, **options)
    frames = FRAMES.expand(*first.batch_shape, -1, -1) * 1.0
    first.push_many(frames[..., :20])
    second.load_state_dict(first.state_dict())
    assert torch.equal(rest(second, frames[..., 20:]), rest(first, frames[..., 20:]))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_saved_state_does_not_change_with_the_stream(engine):
    inverter = inverter_of(engine)
    inverter.push_many(FRAMES[:, :20])
    state = inverter.state_dict()
    expected = rest(inverter, FRAMES[:, 20:])
    inverter.push_many(FRAMES[:, :7])
    inverter.load_state_dict(state)
    assert torch.equal(rest(inverter, FRAMES[:, 20:]), expected)


@pytest.mark.parametrize(("one", "other"), [ENGINES, ENGINES[::-1]])
def test_from_engine_to_engine(one, other):
    first, second, frames = inverter_of(one).double(), inverter_of(other).double(), FRAMES.double()
    first.push_many(frames[:, :20])
    second.push_many(frames[:, 7:20])
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(
        rest(second, frames[:, 20:30]), rest(first, frames[:, 20:30]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_from_precision_to_precision(engine):
    first, second = inverter_of(engine), inverter_of(engine).double()
    first.push_many(FRAMES[:, :20])
    second.load_state_dict(first.state_dict())
    assert torch.equal(rest(second, FRAMES[:, 20:].double()), rest(first.double(), FRAMES[:, 20:].double()))


@pytest.mark.parametrize("engine", ENGINES)
def test_mel_streams_with_preemphasis(engine):
    first, second = (MelInverter(MEL, n_iter=2, engine=engine) for _ in range(2))
    first.push_many(MELS[:, :20])
    second.load_state_dict(first.state_dict())
    assert torch.equal(rest(second, MELS[:, 20:]), rest(first, MELS[:, 20:]))


def test_within_a_larger_model():
    def model() -> Any:
        return torch.nn.ModuleDict({"net": torch.nn.Linear(3, 33), "voice": inverter_of()})

    first, second = model(), model()
    first["voice"].push_many(FRAMES[:, :20])
    second.load_state_dict(through_a_file(first.state_dict()))
    assert torch.equal(second["net"].weight, first["net"].weight)
    assert torch.equal(rest(second["voice"], FRAMES[:, 20:]), rest(first["voice"], FRAMES[:, 20:]))


def test_a_state_consists_of_tensors():
    assert all(isinstance(value, Tensor) for value in inverter_of().state_dict().values())


def test_number_of_iterations_and_gradients_stay_with_the_inverter():
    first, second = inverter_of(n_iter=5), inverter_of()
    first.push_many(FRAMES.clone().requires_grad_()[:, :20])
    second.load_state_dict(first.state_dict())
    assert second.n_iter == 3
    assert not second.push(FRAMES[:, 20]).requires_grad


STATE = inverter_of().state_dict()
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, 'Missing key.* "state.about", .*"state.spectra"'),
    "n_fft": (inverter_of(stft=STFT(128, 16)).state_dict(), "n_fft=128, this one n_fft=64: make the"),
    "n_fft alone": (inverter_of(stft=STFT(128, 32)).state_dict(), "n_fft=128, this one n_fft=64"),
    "window": (inverter_of(stft=STFT(64, 16, window="hamming")).state_dict(), "window='hamming', this one"),
    "window values": (inverter_of(stft=STFT(64, 16, window=np.hanning(64) + 0.1)).state_dict(), "window="),
    "centre": (inverter_of(stft=STFT(64, 16, center=False)).state_dict(), "center=False"),
    "look_ahead": (inverter_of(look_ahead=2).state_dict(), "look_ahead=2"),
    "revise": (inverter_of(revise=0).state_dict(), "revise=0"),
    "rule": (inverter_of(update="gla").state_dict(), r"update='GriffinLim\(momentum=0.0\)'"),
    "constants": (inverter_of(update=updates.RAAR(beta=0.5)).state_dict(), "beta=0.5"),
    "start": (inverter_of(init="zeros").state_dict(), r"init='Zeros\(\)'"),
    "streams": (inverter_of(batch_shape=(2,)).state_dict(), r"batch_shape=\[2\]"),
    "mel": (
        MelInverter(MEL, engine="eager").state_dict(),
        "kind='MelInverter', this one kind='Str",
    ),
    "a part": ({k: v for k, v in STATE.items() if k != "state.past"}, "'past' is missing"),
    "no label": ({k: v for k, v in STATE.items() if k != "state.about"}, "has version .*, not 1"),
    "bad label": ({**STATE, "state.about": torch.rand(3)}, "has version .*, not 1"),
    "shape": ({**STATE, "state.past": torch.rand(3)}, r"'past' is of shape \(3,\)"),
    "kind": ({**STATE, "state.past": STATE["state.past"].int()}, "'past' is .* not real"),
    "unknown": ({**STATE, "other": torch.rand(3)}, "Unexpected key"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("what", WRONG)
def test_a_state_that_does_not_fit_is_an_error_and_changes_nothing(engine, what):
    state, message = WRONG[what]
    inverter, expected = inverter_of(engine), inverter_of(engine)
    for each in (inverter, expected):
        each.push_many(FRAMES[:, :20])
    with pytest.raises(RuntimeError, match=message):
        inverter.load_state_dict(state)
    if what not in ("nothing", "unknown"):
        with pytest.raises(RuntimeError, match=message):
            inverter.load_state_dict(state, strict=False)
    assert torch.equal(rest(inverter, FRAMES[:, 20:]), rest(expected, FRAMES[:, 20:]))


def test_loading_an_empty_state_returns_the_missing_names():
    inverter, expected = inverter_of(), inverter_of()
    for each in (inverter, expected):
        each.push_many(FRAMES[:, :20])
    found = inverter.load_state_dict({}, strict=False)
    assert set(found.missing_keys) == set(STATE)
    assert torch.equal(rest(inverter, FRAMES[:, 20:]), rest(expected, FRAMES[:, 20:]))


def test_an_stft_and_a_mel_have_no_state():
    assert not STFT(64, 16).state_dict()
    assert not Mel(MEL).state_dict()


def test_a_state_that_is_not_finite_is_refused():
    inverter = StreamingInverter(STFT(64, 16))
    inverter.push(torch.rand(33, generator=torch.Generator().manual_seed(0)))
    state = inverter.state_dict()
    state["state.past"].fill_(math.nan)
    expected = copy.deepcopy(inverter).flush()
    with pytest.raises(RuntimeError, match="'past' contains NaN or infinite values"):
        inverter.load_state_dict(state)
    assert torch.equal(inverter.flush(), expected)
