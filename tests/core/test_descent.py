"""Tests of L-BFGS: any differentiable transform, its start, its limits."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from test_batch import sound
from torch import Tensor

from rtspecinv import STFT, Mel, MelConfig, lbfgs
from rtspecinv.batch import Iteration
from rtspecinv.metrics import sc

STFT_ = STFT(256, 64)
SOUND = sound(4000).float()
MEL = Mel(MelConfig(8000, 256, 64, n_mels=30))


def told(target: Tensor, transform, **options) -> list[Iteration]:
    seen: list[Iteration] = []
    lbfgs(target, transform, callback=seen.append, **options)
    return seen


def log_mel(samples: Tensor) -> Tensor:
    return torch.log1p(MEL(samples))


def test_a_linear_spectrogram_starts_with_the_stream():
    target = STFT_.magnitude(SOUND)
    seen = told(target, STFT_.magnitude, n_iter=60, length=4000)
    assert seen[0].convergence < -20
    # Rounding errors of the start decide which minimum is found: 2.0 dB with numba, 1.8 dB with eager.
    assert seen[-1].convergence < seen[0].convergence - 1.5
    assert [s.number for s in seen] == list(range(0, 61, 10))
    errors = [float(s.convergence) for s in seen]
    assert abs(float(sc(STFT_.magnitude(seen[-1].samples), target)) - min(errors)) < 0.01


def test_a_mel_spectrogram_starts_with_its_inverse():
    target = MEL(SOUND)
    seen = told(target, MEL, n_iter=60, length=4000)
    assert seen[0].convergence < -10
    assert seen[-1].convergence < -25


def test_noise_has_the_level_that_fits_an_unknown_transform():
    for gain in (1.0, 1e-3):
        target = log_mel(gain * SOUND)
        seen = told(target, log_mel, n_iter=100, length=4000)
        assert seen[0].convergence < 0
        assert seen[-1].convergence < -20
        level = seen[0].samples.square().mean().sqrt() / (gain * SOUND).square().mean().sqrt()
        assert 0.01 < level < 10


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**60])
@pytest.mark.filterwarnings("ignore:magnitudes up to")
def test_scale_does_not_matter(scale):
    target = STFT_.magnitude(SOUND)
    plain, scaled = (lbfgs(t, STFT_.magnitude, n_iter=8) for t in (target, target * scale))
    assert torch.allclose(scaled / scale, plain, atol=1e-3)


def test_batches_and_shapes():
    both = torch.stack([SOUND, SOUND.flip(-1)])
    assert lbfgs(STFT_.magnitude(both), STFT_.magnitude, n_iter=3).shape == (2, 3968)
    assert lbfgs(log_mel(both), log_mel, length=(2, 4000), n_iter=3).shape == (2, 4000)
    start = 0.1 * torch.randn(2, 4000)
    assert torch.allclose(lbfgs(log_mel(both), log_mel, initial=start, n_iter=0), start)


def test_any_transform_is_supported():
    matrix = torch.randn(40, 20, dtype=torch.float64)
    x = torch.randn(20, dtype=torch.float64)
    found = lbfgs(matrix @ x, lambda v: matrix @ v, length=20, n_iter=100)
    assert torch.allclose(found, x, atol=1e-6)
    assert found.dtype == torch.float64


@pytest.mark.parametrize("limit", [1, 7, 25])
def test_evaluations_are_limited(limit):
    n_calls = 0

    def counted(samples: Tensor) -> Tensor:
        nonlocal n_calls
        n_calls += samples.requires_grad
        return log_mel(samples)

    lbfgs(log_mel(SOUND), counted, length=4000, n_iter=1000, max_evaluations=limit)
    assert limit <= n_calls <= limit + 1 + 25 * (limit > 1)  # a line search is never interrupted


def test_it_stops_by_the_callback_and_without_progress():
    target = log_mel(SOUND)
    numbers = []

    def stop(now: Iteration) -> bool:
        numbers.append(now.number)
        return now.number == 6

    lbfgs(target, log_mel, length=4000, evaluate_every=3, callback=stop)
    assert numbers == [0, 3, 6]
    assert told(target, log_mel, length=4000, n_iter=500, tol=1e-3)[-1].number < 300
    assert told(target, log_mel, initial=SOUND, n_iter=500)[-1].number < 100  # it starts at the solution


def test_later_errors_keep_the_best_samples():
    n_calls = 0

    def breaking(samples: Tensor) -> Tensor:
        nonlocal n_calls
        n_calls += 1
        return log_mel(samples) * (torch.nan if n_calls > 20 else 1)

    assert lbfgs(log_mel(SOUND), breaking, length=4000).isfinite().all()


def test_gradients_of_the_transform_do_not_change():
    layer = torch.nn.Linear(20, 30)
    lbfgs(torch.randn(30), layer, length=20, n_iter=30)
    assert layer.weight.grad is None


def test_under_no_grad_and_inference_mode():
    with torch.no_grad():
        first = lbfgs(STFT_.magnitude(SOUND), STFT_.magnitude, n_iter=5)
    with torch.inference_mode():
        second = lbfgs(STFT_.magnitude(SOUND), STFT_.magnitude, n_iter=5)
    assert torch.equal(first, second)
    assert not first.requires_grad


def test_silence():
    assert lbfgs(torch.zeros(129, 20), STFT_.magnitude, n_iter=5).abs().max() < 1e-6
    assert lbfgs(torch.zeros(30, 20), log_mel, length=1216, n_iter=5).isfinite().all()


def test_bad_input_is_refused():
    target = log_mel(SOUND)
    with pytest.raises(ValueError, match="length and initial"):
        lbfgs(target, log_mel)
    with pytest.raises(ValueError, match=r"returns shape \(30, 47\).*target has shape \(30, 63\)"):
        lbfgs(target, log_mel, length=3000)
    with pytest.raises(ValueError, match="initial has shape"):
        lbfgs(target, log_mel, length=3000, initial=SOUND)
    with pytest.raises(ValueError, match="NaN or infinite values at the start"):
        lbfgs(target, lambda x: (MEL(x) * 0).log(), length=4000)
    for options, says in (
        ({"tol": -1}, "tol=-1"),
        ({"optimizer": {"max_iter": 0}}, "max_iter=0"),
        ({"max_evaluations": 0}, "max_evaluations=0"),
        ({"length": 0}, "length=0"),
    ):
        with pytest.raises(ValueError, match=says):
            lbfgs(target, log_mel, **({"length": 4000} | options))
    with pytest.raises(TypeError, match="as_tensor"):
        lbfgs(cast(Any, target.numpy()), log_mel, length=4000)
    with pytest.raises(TypeError, match="history"):
        lbfgs(target, log_mel, length=4000, optimizer={"history": 3})
