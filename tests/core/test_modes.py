"""Tests of the modes of torch: the values are equal in all modes, or there is one clear error."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rtspecinv
from rtspecinv import STFT, MelConfig, MelInverter, StreamingInverter, metrics, phase, torch_specinv
from rtspecinv.live import transforms

SETTINGS = STFT(64, 16)
HANN = torch.hann_window(64)
SAMPLES = 0.1 * torch.randn(600, generator=torch.Generator().manual_seed(0))
OTHERS = 0.1 * torch.randn(600, generator=torch.Generator().manual_seed(1))
MAGNITUDE, OTHER = SETTINGS.magnitude(SAMPLES), SETTINGS.magnitude(OTHERS)
CONFIG = MelConfig(
    8000, 128, 32, n_mels=12, preemphasis=0.9, compression=rtspecinv.Compression("ln", floor=1e-5)
)
LINEAR = MelConfig(8000, 128, 32, n_mels=12, power=2)
MEL = rtspecinv.Mel(CONFIG)(SAMPLES)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES: dict[str, Callable[[], Any]] = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "gradients off": lambda: torch.set_grad_enabled(False),
    "default device meta": lambda: default_device("meta"),
    "device meta": lambda: torch.device("meta"),
    "float64 by default": lambda: default_dtype(torch.float64),
    "float16 by default": lambda: default_dtype(torch.float16),
    "deterministic": deterministic,
}


def stream(engine: str = "eager", **options: Any) -> Tensor:
    inverter = StreamingInverter(STFT(64, 16, device="cpu"), engine=engine, **options)
    first = inverter.push_many(MAGNITUDE[:, :9])
    return torch.cat([first, inverter.push(MAGNITUDE[:, 9]), inverter.flush()], -1)


def mel_stream(engine: str) -> Tensor:
    inverter = MelInverter(CONFIG, device="cpu", engine=engine)
    first = inverter.push_many(MEL[:, :5])
    inverter.reset()
    return torch.cat([first, inverter.push(MEL[:, 0]), inverter.flush()], -1)


def gradient(
    function: Callable[[Tensor], Tensor], at: Tensor, enter: Callable[[], Any] = nullcontext
) -> Tensor:
    """Return the gradient of a function called in a mode; torch requires `backward` outside of autocast."""
    leaf = at.detach().clone().requires_grad_()
    with enter():
        value = function(leaf)
    value.square().sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def analysis() -> Tensor:
    return torch.stack([*rtspecinv.magnitude_frames(SAMPLES.split(50), SETTINGS)], -1)


def transformed() -> Tensor:
    frame, changes = MAGNITUDE[:, 3], (transforms.Pitch(1.3), transforms.Formants(0.8), transforms.Gain(-6.0))
    return torch.stack([*(change(frame) for change in changes), transforms.Gain(np.full(33, 3.0))(frame)])


def transform_in_float64() -> Tensor:
    return transforms.Pitch(1.3)(MAGNITUDE[:, 3].double())


SURFACE: dict[str, Callable[[], Tensor]] = {
    "STFT": lambda: STFT(64, 16, device="cpu").analyze(SAMPLES),
    "STFT of a window": lambda: STFT(64, 16, window=np.hanning(64) + 0.1, device="cpu").magnitude(SAMPLES),
    "synthesize": lambda: SETTINGS.synthesize(SETTINGS.analyze(SAMPLES)),
    "stream": stream,
    "numba": lambda: stream("numba"),
    "gradient start": lambda: stream(init="gradient"),
    "peaks": lambda: stream(init="peaks", update="fgla"),
    "textbook": lambda: stream(update="rtisi"),
    "invert": lambda: rtspecinv.invert(MAGNITUDE, SETTINGS, n_iter=3, engine="eager"),
    "invert, numba": lambda: rtspecinv.invert(MAGNITUDE, SETTINGS, n_iter=3, engine="numba"),
    "invert, random": lambda: rtspecinv.invert(MAGNITUDE, SETTINGS, n_iter=3, init="random", update="hybrid"),
    "invert_many": lambda: rtspecinv.invert_many([MAGNITUDE], SETTINGS, n_iter=1)[0],
    "invert_blocks": lambda: torch.cat(
        [
            *rtspecinv.invert_blocks(
                MAGNITUDE.unbind(-1), SETTINGS, block_frames=20, overlap_frames=8, n_iter=1
            )
        ]
    ),
    "Mel": lambda: rtspecinv.Mel(CONFIG, device="cpu")(SAMPLES),
    "Mel.linear": lambda: rtspecinv.Mel(CONFIG, device="cpu").linear(SAMPLES),
    "Mel.expand": lambda: rtspecinv.Mel(CONFIG, device="cpu").expand(MEL),
    "Mel.inverse": lambda: rtspecinv.Mel(CONFIG, device="cpu").inverse(MEL),
    "Mel.invert": lambda: rtspecinv.Mel(CONFIG, device="cpu").invert(MEL),
    "MelInverter": lambda: mel_stream("eager"),
    "MelInverter, numba": lambda: mel_stream("numba"),
    "a preset and back": lambda: rtspecinv.presets["speecht5"].invert(rtspecinv.presets["speecht5"](SAMPLES)),
    "lbfgs": lambda: rtspecinv.lbfgs(MAGNITUDE, SETTINGS.magnitude, n_iter=3),
    "lbfgs of mel": lambda: rtspecinv.lbfgs(MEL, rtspecinv.Mel(CONFIG, device="cpu"), length=600, n_iter=3),
    "lbfgs from noise": lambda: rtspecinv.lbfgs(
        MAGNITUDE, lambda x: SETTINGS.magnitude(x), length=600, n_iter=2
    ),
    "L_BFGS": lambda: torch_specinv.L_BFGS(
        MAGNITUDE, SETTINGS.magnitude, 600, outer_max_iter=2, max_iter=2, verbose=0
    ),
    "griffin_lim": lambda: torch_specinv.griffin_lim(MAGNITUDE, 3, verbose=False, window=HANN),
    "RTISI_LA": lambda: torch_specinv.RTISI_LA(MAGNITUDE, max_iter=2, verbose=0, window=HANN),
    "ADMM": lambda: torch_specinv.ADMM(MAGNITUDE, 3, verbose=0, window=HANN),
    "phase_init": lambda: torch_specinv.phase_init(MAGNITUDE, window=HANN),
    "single_pass": lambda: phase.single_pass(SETTINGS, MAGNITUDE.mT),
    "metrics": lambda: torch.stack(
        [
            *(metric(OTHER, MAGNITUDE) for metric in (metrics.sc, metrics.snr, metrics.ser)),
            metrics.spectral_convergence(OTHER, MAGNITUDE),
            metrics.log_spectral_distance(OTHER, MAGNITUDE),
            metrics.inconsistency(torch.complex(OTHER, MAGNITUDE), SETTINGS),
        ]
    ),
    "analysis": analysis,
    "transforms": transformed,
    "a transform in float64": transform_in_float64,
    "listen": lambda: torch.from_numpy(
        rtspecinv.listen(MEL, preset=CONFIG, output=rtspecinv.ArraySink()).samples
    ),
    "a copy": lambda: copy.deepcopy(StreamingInverter(SETTINGS, engine="eager")).push(MAGNITUDE[:, 0]),
    "in float64": lambda: StreamingInverter(SETTINGS).double().push(MAGNITUDE[:, 0].double()),
}
NUMBA = ("numba", "invert, numba", "MelInverter, numba")


@pytest.fixture(scope="module")
def outside() -> dict[str, Tensor]:
    """Return the results without any mode."""
    return {name: call() for name, call in SURFACE.items() if name not in NUMBA}


@pytest.mark.parametrize("name", SURFACE)
def test_the_same_bits_in_every_mode(name, outside):
    if name in NUMBA:
        pytest.importorskip("numba", reason='numba is missing: pip install "rtspecinv[fast]"')
        outside[name] = SURFACE[name]()
    for mode, enter in MODES.items():
        with enter():
            inside = SURFACE[name]()
        assert inside.dtype == outside[name].dtype, mode
        assert torch.equal(inside, outside[name]), mode


@pytest.mark.parametrize("mode", ["autocast to bfloat16", "default device meta", "float64 by default"])
def test_the_same_gradients_in_every_mode(mode):
    front, inverter = rtspecinv.Mel(LINEAR), rtspecinv.Mel(CONFIG)

    def inversion(magnitude: Tensor) -> Tensor:
        return rtspecinv.invert(magnitude, SETTINGS, n_iter=2)

    for function, at in ((front, SAMPLES), (inverter.inverse, MEL), (inversion, MAGNITUDE)):
        assert torch.equal(gradient(function, at, MODES[mode]), gradient(function, at))


def reloaded(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        reloaded,
        lambda m: m.double().float(),
        lambda m: m,
    ],
    ids=["deepcopy", "pickle", "torch.save", "moved", "made"],
)
@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_objects_made_in_inference_mode_work_outside_of_it(duplicate, engine):
    options: dict[str, Any] = {"engine": engine, "n_iter": 2}
    expected = MelInverter(CONFIG, **options)
    with torch.inference_mode():
        inverter = MelInverter(CONFIG, **options)
        inverter.push(MEL[:, 0])
        inverter = duplicate(inverter)
        front = duplicate(rtspecinv.Mel(LINEAR))
    expected.push(MEL[:, 0])
    assert torch.equal(inverter.push(MEL[:, 1]), expected.push(MEL[:, 1]))
    assert torch.equal(inverter.flush(), expected.flush())
    inverter.reset()
    assert torch.equal(gradient(front, SAMPLES), gradient(rtspecinv.Mel(LINEAR), SAMPLES))
    frame = MEL[:, :1].mT[0]
    assert gradient(inverter.push, frame).isfinite().all()


def test_inputs_that_were_made_in_inference_mode():
    with torch.inference_mode():
        magnitude, mel, start = MAGNITUDE.clone(), MEL.clone(), SAMPLES.clone()
    inverter = StreamingInverter(SETTINGS, engine="eager")
    assert torch.equal(inverter.push_many(magnitude)[:50], stream()[:50])
    assert torch.equal(rtspecinv.Mel(CONFIG).invert(mel), rtspecinv.Mel(CONFIG).invert(MEL))
    options: dict[str, Any] = {"n_iter": 2}
    with torch.inference_mode():
        found = rtspecinv.lbfgs(magnitude, SETTINGS.magnitude, initial=start, **options)
    assert torch.equal(found, rtspecinv.lbfgs(MAGNITUDE, SETTINGS.magnitude, initial=SAMPLES, **options))


def test_a_transform_with_tensors_of_inference_mode_is_named():
    with torch.inference_mode():
        weights = torch.rand(8, 600)
        with pytest.raises(ValueError, match=r"Parameter transform uses tensors .* inference mode"):
            rtspecinv.lbfgs(torch.rand(8), lambda x: weights @ x, length=600, n_iter=2)
    weights = weights.clone()  # the advice of the error
    assert rtspecinv.lbfgs(torch.rand(8), lambda x: weights @ x, length=600, n_iter=2).shape == (600,)


def test_a_target_that_autocast_has_made_coarse_is_named():
    with torch.autocast("cpu", torch.bfloat16):
        target = torch.rand(8, 600) @ SAMPLES
        for call in (
            lambda: rtspecinv.lbfgs(target, lambda x: x, length=8),
            lambda: torch_specinv.L_BFGS(target, lambda x: x, 8, verbose=0),
        ):
            with pytest.raises(TypeError, match=r"(target|spec) has torch.bfloat16.*\.float\(\)"):
                call()
        assert rtspecinv.lbfgs(target.float(), lambda x: 2 * x, length=8, n_iter=10).dtype == torch.float32


def test_tensors_are_made_on_the_default_device_of_torch():
    with torch.device("meta"):
        assert STFT(64, 16).device.type == "meta"
        with pytest.raises(ValueError, match="is 'meta', where tensors have no values: pass device='cpu'"):
            rtspecinv.Mel(CONFIG)
        assert rtspecinv.Mel(CONFIG, device="cpu").filters.device.type == "cpu"
        assert rtspecinv.presets["whisper"].stft.device.type == "cpu"  # as in its docstring


def test_warnings_name_the_line_of_the_caller_in_every_mode():
    for enter in MODES.values():
        with enter(), warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            rtspecinv.invert(1000 * MAGNITUDE, SETTINGS, n_iter=0, init="zeros")
            rtspecinv.Mel(MelConfig(8000, 64, 16, n_mels=60), device="cpu")
        assert [remark.filename for remark in remarks] == [__file__] * 2


def test_a_push_cannot_be_traced():
    inverter = StreamingInverter(SETTINGS, engine="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that it is deprecated
        with pytest.raises(RuntimeError, match=r"torch\.jit\.trace does not record: trace the model"):
            torch.jit.trace(lambda frame: inverter.push(frame), MAGNITUDE[:, 0])
        traced = torch.jit.trace(rtspecinv.Mel(LINEAR), SAMPLES)  # a Mel has no state
    assert torch.equal(traced(OTHERS), rtspecinv.Mel(LINEAR)(OTHERS))
    assert torch.equal(inverter.push(MAGNITUDE[:, 0]), stream()[:16])
