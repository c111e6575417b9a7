"""Tests of Ctrl-C during long calls, and of the limits of their length."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

import rtspecinv
from rtspecinv import STFT, MelConfig, MelInverter, StreamingInverter, torch_specinv
from rtspecinv.cli import main
from rtspecinv.engines.cpu.interrupts import aside
from rtspecinv.inputs import MOST_ITER

SETTINGS, LONG = STFT(256, 64), 500_000  # number of iterations, which take minutes
FRAMES = torch.rand(129, 12, generator=torch.Generator().manual_seed(0))
MEL = MelConfig(8000, 256, 64, n_mels=20, preemphasis=0.9)


def needs(engine: str) -> None:
    if engine != "eager":
        pytest.importorskip("numba", reason='numba is missing: pip install "rtspecinv[fast]"')


@pytest.fixture
def interrupted() -> Callable[[Callable[[], object]], None]:
    """Call a function that a signal interrupts soon after its start."""

    def during(work: Callable[[], object]) -> None:
        timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                work()
        finally:
            timer.join()

    return during


CALLS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "push": lambda inverter, frames: inverter.push(frames[:, 0]),
    "push_many": lambda inverter, frames: inverter.push_many(frames),
    "flush": lambda inverter, frames: inverter.flush(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("engine", ["eager", "numba"])
@pytest.mark.parametrize("update", ["raar", "agla"])
def test_an_interrupted_stream_is_unchanged(engine, call, update, interrupted):
    needs(engine)
    one, other = (StreamingInverter(SETTINGS, engine=engine, update=update, n_iter=2) for _ in range(2))
    for inverter in (one, other):
        inverter.push_many(FRAMES[:, :5])
    one.n_iter = LONG
    for _ in range(2):
        interrupted(lambda: CALLS[call](one, FRAMES))
    one.n_iter = 2
    assert torch.equal(one.push_many(FRAMES), other.push_many(FRAMES))
    assert torch.equal(one.flush(), other.flush())


@pytest.mark.parametrize("n_threads", [1, 2])
def test_many_streams_on_several_threads(n_threads, interrupted):
    needs("numba")
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        options: dict[str, Any] = {"batch_shape": (6,), "engine": "numba"}
        one, other = (StreamingInverter(SETTINGS, n_iter=100, **options) for _ in range(2))
        frames = FRAMES.expand(6, -1, -1).contiguous() * torch.arange(1, 7).view(-1, 1, 1)
        for inverter in (one, other):
            inverter.push_many(frames)
        one.n_iter = LONG
        interrupted(lambda: one.push(frames[..., 0]))
        one.n_iter = 100
        assert torch.equal(one.push_many(frames), other.push_many(frames))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("call", CALLS)
def test_mel_frames(call, interrupted):
    one, other = (MelInverter(MEL, n_iter=2) for _ in range(2))
    mel = rtspecinv.Mel(MEL).bank(FRAMES)
    for inverter in (one, other):
        inverter.push_many(mel[:, :5])
    one.n_iter = LONG
    interrupted(lambda: CALLS[call](one, mel))
    one.n_iter = 2
    assert torch.equal(one.push_many(mel), other.push_many(mel))
    assert torch.equal(one.flush(), other.flush())


def test_an_interrupted_push_with_gradients(interrupted):
    one, other = (StreamingInverter(SETTINGS, engine="eager", n_iter=2) for _ in range(2))
    frames = [FRAMES.clone().requires_grad_() for _ in range(2)]
    for inverter, frame in zip((one, other), frames, strict=True):
        inverter.push_many(frame[:, :3])
    one.n_iter = LONG
    interrupted(lambda: one.push(FRAMES[:, 4]))
    one.n_iter = 2
    for inverter, frame in zip((one, other), frames, strict=True):
        inverter.push_many(frame[:, 3:]).square().sum().backward()
    gradients: list[Any] = [frame.grad for frame in frames]
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("engine", ["eager", "numba"])
@pytest.mark.parametrize("n_frames", [20, 3000])
def test_a_batch(engine, n_frames, interrupted):
    needs(engine)
    magnitude = torch.rand(SETTINGS.n_freq, n_frames)
    options: dict[str, Any] = {"init": "zeros", "engine": engine, "evaluate_every": LONG}
    rtspecinv.invert(magnitude[:, :20], SETTINGS, n_iter=1, **options)  # compiles the code if necessary
    interrupted(lambda: rtspecinv.invert(magnitude, SETTINGS, n_iter=LONG, **options))


def test_a_long_push_gives_the_same_bits_as_short_ones():
    """The bits do not depend on the thread that does the work."""
    needs("numba")
    found = []
    for main_thread in (True, False):
        inverter = StreamingInverter(SETTINGS, engine="numba", n_iter=20_000)

        def push(inverter: StreamingInverter = inverter) -> None:
            found.append(inverter.push(FRAMES[:, 0]))

        if main_thread:
            push()
        else:
            thread = threading.Thread(target=push)
            thread.start()
            thread.join()
    assert torch.equal(*found)


def test_errors_in_a_second_thread_are_raised_in_the_caller():
    stop = np.zeros(1)

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        aside(fail, stop)
    assert stop[0] == 0


@contextmanager
def error_of(name: str, value: Any) -> Iterator[None]:
    with pytest.raises(ValueError, match=rf"{name}={value!r}.* is (more than 1000000|not an integer)"):
        yield


@pytest.mark.parametrize("value", [MOST_ITER + 1, 10**12, 2**63, 2**70, -1, 2.0, True, "8"])
def test_too_many_iterations_are_rejected(value, tmp_path, capsys):
    inverter = StreamingInverter(SETTINGS, engine="eager", n_iter=1)
    with error_of("n_iter", value):
        inverter.n_iter = value
    assert inverter.n_iter == 1
    with error_of("n_iter", value):
        StreamingInverter(SETTINGS, n_iter=value)
    with error_of("n_iter", value):
        MelInverter(MEL, n_iter=value)
    with error_of("n_iter", value):
        rtspecinv.invert(FRAMES, SETTINGS, n_iter=value)
    with error_of("n_iter", value):
        rtspecinv.lbfgs(FRAMES, SETTINGS.magnitude, n_iter=value)
    for method in (torch_specinv.griffin_lim, torch_specinv.ADMM, torch_specinv.RTISI_LA):
        with error_of("max_iter", value):
            method(FRAMES, max_iter=value, verbose=False)
    with error_of("outer_max_iter", value):
        torch_specinv.L_BFGS(FRAMES, SETTINGS.magnitude, outer_max_iter=value, verbose=False)
    if isinstance(value, int) and not isinstance(value, bool):
        source = tmp_path / "a.npz"
        np.savez(source, magnitude=FRAMES.numpy(), sample_rate=8000, n_fft=256, hop_length=64)
        for rest in ([], ["--method", "stream"], ["--method", "lbfgs"]):
            output = tmp_path / "a.wav"
            assert main(["invert", str(source), "-o", str(output), f"--n-iter={value}", *rest]) == 1
            assert f"n_iter={value} is" in capsys.readouterr().err
            assert not output.exists()


def test_too_many_iterations_in_total_are_rejected():
    with pytest.raises(ValueError, match=r"outer_max_iter=100000, max_iter=20 are more than 1000000"):
        torch_specinv.L_BFGS(FRAMES, SETTINGS.magnitude, outer_max_iter=100_000, verbose=False)


def test_the_most_iterations_are_allowed():
    inverter = StreamingInverter(SETTINGS, engine="eager", n_iter=MOST_ITER)
    inverter.n_iter = cast(Any, np.int64(MOST_ITER))
    assert inverter.n_iter == MOST_ITER
