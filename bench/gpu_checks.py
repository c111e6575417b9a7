"""Checks of an engine for a GPU: errors against float64, and bits that must be equal."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gpu_common as common
import torch
from gpu_common import Emit

import rtspecinv
from rtspecinv.measure.timing import Setting

LIMIT = 1e-5  # largest error of a push in float32 against float64, relative to its loudest sample


def checks(emit: Emit, engine: str) -> None:
    """Check at the usual setting all that must hold for an engine."""
    for what, limit, check in _checks(engine):
        common.attempt(emit, partial(_verdict, check, limit), engine=engine, what=what)


def _verdict(check: Callable[[], float], limit: float) -> dict[str, Any]:
    value = float(check())
    return {"value": value, "ok": value <= limit}


def _checks(engine: str) -> Iterator[tuple[str, float, Callable[[], float]]]:
    """Return names of checks, the largest value that passes each, and functions that return the value."""
    for name in ("raar", "rtisi", "fgla", "admm", "agla", "dm"):
        yield f"error of a push, {name}", LIMIT, partial(error_of, engine, common.USUAL, update=name)
    yield "error of a push, from zeros", LIMIT, partial(error_of, engine, common.USUAL, init="zeros")
    yield "error of a push, from peaks", math.inf, partial(error_of, engine, common.USUAL, init="peaks")
    yield "samples that differ: frames cut otherwise", 0, partial(_of_chunks, engine)
    yield "samples that differ: among other streams", 0, partial(_of_company, engine)
    yield f"samples that differ: {common.N_RUNS} equal runs", 0, partial(_of_repetition, engine)
    yield "samples that differ: after a reset of other streams", 0, partial(_of_masked_reset, engine)
    yield "samples that differ: after a bad frame", 0, partial(_of_bad_frame, engine)
    if engine != "eager":  # it always raises the error at once
        yield "bad frames that are not named later", 0, partial(_of_late_errors, engine)
    yield "moved to the CPU and back, relative error", 1e-3, partial(_of_moving, engine)
    yield "gradients that are not finite", 0, partial(_of_gradients, engine)


def error_of(engine: str, setting: Setting, update: str = "raar", init: str = "overlap") -> float:
    """Return the largest relative error of a push; each push begins with the state of the one in float64."""
    options: dict[str, Any] = {
        "look_ahead": setting.look_ahead,
        "n_iter": setting.n_iter,
        "batch_shape": (2,),
    }
    options |= {"update": update, "init": init}
    stft = setting.stft(common.DEVICE)
    ours = rtspecinv.StreamingInverter(stft, engine=engine, **options)
    if ours.engine != engine:
        raise ValueError(f"The engine {engine!r} is not available: this runs in {ours.engine!r}")
    exact = rtspecinv.StreamingInverter(copy.deepcopy(stft).double(), engine="eager", **options)
    worst = 0.0
    for frame in common.noise(setting, 2).unbind(-1):
        for state, known in zip(ours._state().values(), exact._state().values(), strict=True):
            state.copy_(known)
            known.copy_(state)  # rounding of the state to float32 is not counted as an error
        ours._state_changed()
        hop, expected = ours.push(frame), exact.push(frame.double())
        worst = max(worst, float((hop - expected).abs().max() / expected.abs().max().clamp_min(1e-3)))
    return worst


def _of_chunks(engine: str) -> float:
    magnitude, inverter = common.noise(common.USUAL), common.inverter_of(engine)
    expected = common.samples_of(inverter, magnitude)
    parts = [inverter.push_many(magnitude[..., :3]), inverter.push_many(magnitude[..., 3:]), inverter.flush()]
    return float((torch.cat(parts) != expected).sum())


def _of_company(engine: str) -> float:
    n_streams = min(1024, max(common.STREAMS))
    magnitude = common.noise(common.USUAL, n_streams, n_frames=8)
    together = common.samples_of(common.inverter_of(engine, n_streams), magnitude)
    magnitude[1:] = magnitude[1:].flip(-1) + 1
    again = common.samples_of(common.inverter_of(engine, n_streams), magnitude)
    return float((together[0] != again[0]).sum())


def _of_repetition(engine: str) -> float:
    magnitude, inverter = common.noise(common.USUAL, 3, n_frames=6), common.inverter_of(engine, 3)
    expected = common.samples_of(inverter, magnitude)
    return sum(
        float((common.samples_of(inverter, magnitude) != expected).sum()) for _ in range(common.N_RUNS)
    )


def _of_masked_reset(engine: str) -> float:
    magnitude = common.noise(common.USUAL, 2)
    inverter = common.inverter_of(engine, 2)
    fresh = common.samples_of(inverter, magnitude)
    long = common.samples_of(inverter, torch.cat([magnitude, magnitude], -1))
    inverter.push_many(magnitude)
    inverter.reset(torch.tensor([True, False], device=common.DEVICE))
    again = common.samples_of(inverter, magnitude)
    return float((again[0] != fresh[0]).sum() + (again[1] != long[1, -again.shape[-1] :]).sum())


def _of_bad_frame(engine: str) -> float:
    magnitude, inverter = common.noise(common.USUAL, 2), common.inverter_of(engine, 2)
    expected, hops = common.samples_of(inverter, magnitude), []
    for i, frame in enumerate(magnitude.unbind(-1)):
        bad = frame.clone()
        bad[i % 2, i] = (torch.nan, torch.inf, -1.0)[i % 3]
        try:
            inverter.push(bad)
        except ValueError:
            hops.append(inverter.push(frame))
        else:
            raise AssertionError(f"a frame with the value {float(bad[i % 2, i])} was accepted")
    return float((torch.cat([*hops, inverter.flush()], -1) != expected).sum())


def _of_late_errors(engine: str) -> float:
    return sum(f"frame {number} " not in _late_error(engine, number) for number in range(3))


def _late_error(engine: str, number: int) -> str:
    """Return the error that a stream raises after a bad frame, whichever call raises it."""
    inverter, frame = common.inverter_of(engine, 2, check="later"), common.noise(common.USUAL, 2)[..., 0]
    try:
        for i in range(4):
            inverter.push(torch.full_like(frame, torch.nan) if i == number else frame)
        inverter.check()
    except ValueError as error:
        return str(error)
    return ""


def _of_moving(engine: str) -> float:
    magnitude = common.noise(common.USUAL)
    expected, inverter = common.samples_of(common.inverter_of("eager"), magnitude), common.inverter_of(engine)
    hops = [inverter.push_many(magnitude[..., :4])]
    hops.append(inverter.to("cpu").push_many(magnitude[..., 4:8].cpu()).to(common.DEVICE))
    hops += [inverter.to(common.DEVICE).push_many(magnitude[..., 8:]), inverter.flush()]
    return float((torch.cat(hops) - expected).abs().max() / expected.abs().max())


def _of_gradients(engine: str) -> float:
    inverter = common.inverter_of(engine)
    wanted = common.noise(common.USUAL, n_frames=4).requires_grad_()
    inverter.push_many(wanted).square().sum().backward()  # type: ignore[no-untyped-call]
    assert wanted.grad is not None
    return float((~wanted.grad.isfinite()).sum())
