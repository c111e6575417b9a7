"""Tests that replace every parameter of every public class and function by wrong values, one at a time.

A call either works, in bounded time and memory, and stores a valid value; or it raises ValueError or
TypeError, and the message contains the parameter's name, and its value, type or shape.
"""

from __future__ import annotations

import inspect
import io
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from fake_device import hand_microphone, hand_sink
from fuzzing import MEL, N_FREQ, STFT, bounded

import rtspecinv
from rtspecinv import ArraySink, metrics, phase, torch_specinv, updates
from rtspecinv.live import Player, transforms
from rtspecinv.mel.models import UnknownPreset

pytestmark = [
    pytest.mark.usefixtures("little_memory"),
    pytest.mark.filterwarnings("ignore:magnitudes up to|the progress bar needs"),
]

MAGNITUDE = torch.rand(N_FREQ, 9, generator=torch.Generator().manual_seed(0))
SAMPLES = torch.rand(400, generator=torch.Generator().manual_seed(0)) - 0.5
FRAME = MAGNITUDE[:, 0].clone()
FRAMES = [FRAME, FRAME]

WRONG = [
    *(None, True, math.nan, math.inf, -math.inf, -1, 0, 1.5, 1e300, -1e300, 2**70, -(2**70), 1e-300),
    *("x", "", b"", [], [1.0, "x"], {}, object(), 1j, np.float32("nan"), np.bool_(True), np.array([2, 3])),
    *(np.ma.masked_array(3, mask=True), np.ma.masked, torch.tensor([1.0, 2.0]), float),
]
BANK = rtspecinv.FilterBank(torch.ones(2, STFT.n_fft // 2 + 1))


def inverter(**options: Any) -> rtspecinv.StreamingInverter:
    return rtspecinv.StreamingInverter(**{"engine": "eager", "n_iter": 1, **options})


BATCH_OF_ONE = inverter(stft=STFT, batch_shape=(1,))


def player(**options: Any) -> Player:
    made = Player(**options)
    made.push(FRAME)
    made.close()
    return made


def pool(**options: Any) -> rtspecinv.StreamPool:
    with rtspecinv.StreamPool(**options) as made, made.join(len) as stream:
        stream.push(FRAME)
        if options["wake"] is None:
            assert stream.wait(10)
        while stream.n_waiting:
            made.work()
    return made


def joined(**options: Any) -> None:
    with rtspecinv.StreamPool(BATCH_OF_ONE) as made:
        made.join(**options)


def stretched(**options: Any) -> transforms.Stretch:
    made = transforms.Stretch(**options)
    for _ in range(5):
        next(made, None)
    return made


def of_frame(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(**options: Any) -> Any:
        made = kind(**options)
        assert bool(made(FRAME).isfinite().all())
        return made

    return make


def drained(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **options: list(call(**options))


def unless_missing(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call that checks its parameters before it reports a missing extra."""

    def made(**options: Any) -> Any:
        with suppress(ImportError):
            return call(**options)

    return made


def put(frame: Any) -> rtspecinv.Mailbox:
    mailbox = rtspecinv.Mailbox()
    mailbox.put(frame)
    return mailbox


def pushed(**options: Any) -> None:
    with Player(inverter(stft=STFT), ArraySink()) as made:
        made.push(**options)


class Blocks:
    """Fake microphone."""

    sample_rate, block_length = 8000, 64

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        return iter([SAMPLES.numpy()[None]])


MICROPHONE = Blocks()
LBFGS = {"n_iter": 1, "evaluate_every": 1, "tol": 0.0, "max_evaluations": 4, "length": 128}
STFT_OF_TORCH = {
    "n_fft": 64,
    "hop_length": 16,
    "win_length": 64,
    "window": torch.ones(64),
    "center": True,
    "pad_mode": "reflect",
    "normalized": False,
    "onesided": True,
    "return_complex": True,
}
LBFGS_OF_TORCH = {
    "lr": 1.0,
    "max_iter": 1,
    "max_eval": 2,
    "tolerance_grad": 0.0,
    "tolerance_change": 0.0,
    "history_size": 3,
    "line_search_fn": "strong_wolfe",
}
TWO = {"input": MAGNITUDE, "target": MAGNITUDE.flip(-1)}
SPEECH = {"input": SAMPLES.numpy(), "target": SAMPLES.numpy(), "sample_rate": 8000}
DEVICE = {"device": "card", "latency": 0.1, "queue_seconds": 0.2, "block_length": 16, "backend": "callback"}

# Name: callable and its arguments. Each argument is replaced in turn.
BASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "STFT": (
        rtspecinv.STFT,
        {
            "n_fft": 64,
            "hop_length": 16,
            "win_length": 64,
            "window": "hann",
            "center": True,
            "pad_mode": "reflect",
            "normalized": False,
            "onesided": True,
            "device": "cpu",
            "dtype": torch.float32,
        },
    ),
    "StreamingInverter": (
        inverter,
        {
            "stft": STFT,
            "update": "raar",
            "init": "overlap",
            "look_ahead": 3,
            "revise": 1,
            "batch_shape": (2,),
            "bank": BANK,
            "joint": True,
            "engine": "eager",
            "check": "now",
        },
    ),
    "FilterBank": (
        rtspecinv.FilterBank,
        {"filters": torch.ones(2, 5), "power": 1, "device": "cpu", "dtype": torch.float32},
    ),
    "invert": (
        rtspecinv.invert,
        {
            "magnitude": MAGNITUDE,
            "stft": STFT,
            "update": "agla",
            "init": "zeros",
            "length": 128,
            "n_iter": 1,
            "known": torch.zeros(10),
            "tol": 0.1,
            "evaluate_every": 1,
            "generator": torch.Generator(),
            "callback": lambda now: False,
            "progress": False,
            "engine": "eager",
            "bank": None,
        },
    ),
    "invert_many": (
        rtspecinv.invert_many,
        {"magnitudes": [MAGNITUDE], "stft": STFT, "lengths": [128]},
    ),
    "invert_blocks": (
        drained(rtspecinv.invert_blocks),
        {"frames": FRAMES, "stft": STFT, "length": 20, "block_frames": 64, "overlap_frames": 16},
    ),
    "lbfgs": (
        rtspecinv.lbfgs,
        {
            "target": MAGNITUDE,
            "transform": STFT.magnitude,
            "initial": SAMPLES[:128],
            **LBFGS,
            "optimizer": {},
            "generator": torch.Generator(),
            "callback": lambda now: False,
            "progress": False,
        },
    ),
    "Hybrid": (rtspecinv.Hybrid, {"search": updates.RAAR(), "settle": updates.ADMM(), "share": 0.5}),
    "diagnose": (
        rtspecinv.diagnose,
        {"array": MEL(SAMPLES), "preset": "hifigan-22k", "samples": SAMPLES, "sample_rate": 22050.0},
    ),
    "metrics.sc": (metrics.sc, TWO),
    "metrics.snr": (metrics.snr, TWO),
    "metrics.ser": (metrics.ser, TWO),
    "metrics.spectral_convergence": (metrics.spectral_convergence, TWO),
    "metrics.log_spectral_distance": (metrics.log_spectral_distance, {**TWO, "dynamic_range": 60.0}),
    "metrics.inconsistency": (metrics.inconsistency, {"spectrum": STFT.analyze(SAMPLES), "stft": STFT}),
    "metrics.pesq": (unless_missing(metrics.pesq), SPEECH),
    "metrics.estoi": (unless_missing(metrics.estoi), SPEECH),
    "Mel": (rtspecinv.Mel, {"config": MEL.config, "device": "cpu", "dtype": torch.float32}),
    "MelInverter": (
        lambda **options: rtspecinv.MelInverter(engine="eager", **options),
        {
            "config": MEL.config,
            "extend": False,
            "update": updates.ADMM(),
            "device": "cpu",
            "dtype": torch.float32,
        },
    ),
    "PictureScale": (
        rtspecinv.PictureScale,
        {
            "sample_rate": 8000,
            "n_fft": 64,
            "scale": "linear",
            "fmin": 0.0,
            "fmax": 4000.0,
            "white": 1.0,
            "range_db": 80.0,
        },
    ),
    "ArraySink": (ArraySink, {}),
    "TeeSink": (lambda **options: rtspecinv.TeeSink(*options.values()), {"sinks": ArraySink()}),
    "SoundDeviceSink": (
        lambda **options: hand_sink(**options)[0],
        {"sample_rate": 8000, "channels": 1, **DEVICE, "prefill_seconds": 0.1, "input_channels": 1},
    ),
    "Microphone": (
        lambda **options: hand_microphone(**options)[0],
        {"sample_rate": 8000, "channels": 1, **DEVICE},
    ),
    "Player": (
        player,
        {
            "inverter": inverter(stft=STFT, n_iter=2),
            "sink": ArraySink(),
            "full": "block",
            "late": "hold",
            "max_frames": 4,
            "queue_seconds": 0.1,
            "reserve_seconds": 0.05,
            "least_iter": 1,
            "sample_rate": 8000,
            "length": 40,
        },
    ),
    "Player.push": (pushed, {"magnitude": FRAME, "timeout": 1.0}),
    "Mailbox": (rtspecinv.Mailbox, {}),
    "StreamPool": (
        pool,
        {"inverter": BATCH_OF_ONE, "max_frames": 2, "observe": print, "at_once": 1, "wake": None},
    ),
    "StreamPool.join": (joined, {"receive": len, "refuse": print}),
    "Pace": (
        rtspecinv.Pace,
        {
            "microphone": MICROPHONE,
            "sink": SimpleNamespace(queued=0),
            "wanted_seconds": 0.02,
            "hop_length": 16,
        },
    ),
    "Mailbox.put": (put, {"frame": FRAME}),
    "play": (
        rtspecinv.play,
        {
            "frames": FRAMES,
            "inverter": inverter(stft=STFT),
            "sink": ArraySink(),
            "progress": lambda now: None,
            "length": 40,
        },
    ),
    "StreamingAnalysis": (rtspecinv.StreamingAnalysis, {"stft": STFT}),
    "magnitude_frames": (drained(rtspecinv.magnitude_frames), {"blocks": [SAMPLES], "stft": STFT}),
    "torch_specinv.griffin_lim": (
        torch_specinv.griffin_lim,
        {
            "spec": MAGNITUDE,
            "max_iter": 1,
            "tol": 0.1,
            "alpha": 0.9,
            "verbose": False,
            "eva_iter": 1,
            "metric": "sc",
            **STFT_OF_TORCH,
        },
    ),
    "torch_specinv.ADMM": (
        torch_specinv.ADMM,
        {
            "spec": MAGNITUDE,
            "max_iter": 1,
            "tol": 0.1,
            "rho": 0.1,
            "verbose": 0,
            "eva_iter": 1,
            "metric": "sc",
            **STFT_OF_TORCH,
        },
    ),
    "torch_specinv.RTISI_LA": (
        torch_specinv.RTISI_LA,
        {
            "spec": MAGNITUDE,
            "look_ahead": 1,
            "asymmetric_window": False,
            "alpha": 0.5,
            "max_iter": 1,
            "verbose": 0,
            **STFT_OF_TORCH,
        },
    ),
    "torch_specinv.L_BFGS": (
        torch_specinv.L_BFGS,
        {
            "spec": MAGNITUDE,
            "transform_fn": STFT.magnitude,
            "samples": 128,
            "init_x0": SAMPLES[:128],
            "outer_max_iter": 1,
            "tol": 0.1,
            "verbose": 0,
            "eva_iter": 1,
            "metric": "sc",
            **LBFGS_OF_TORCH,
        },
    ),
    "torch_specinv.phase_init": (torch_specinv.phase_init, {"spec": MAGNITUDE, **STFT_OF_TORCH}),
    "transforms.Stretch": (stretched, {"frames": FRAMES, "rate": 0.5, "memory": 8}),
    "transforms.Freeze": (of_frame(transforms.Freeze), {"on": True}),
    "transforms.Smear": (of_frame(transforms.Smear), {"amount": 0.5}),
    "transforms.Gain": (of_frame(transforms.Gain), {"decibels": 3.0}),
    "transforms.Pitch": (of_frame(transforms.Pitch), {"ratio": 1.5, "onesided": True}),
    "transforms.Formants": (
        of_frame(transforms.Formants),
        {"ratio": 1.5, "width": 4.0, "onesided": True},
    ),
    "updates.GriffinLim": (updates.GriffinLim, {"momentum": 0.5}),
    "updates.RTISI": (updates.RTISI, {"momentum": 0.5}),
    "updates.RAAR": (updates.RAAR, {"beta": 0.5, "ramp": 0.1, "momentum": 0.5}),
    "updates.DifferenceMap": (updates.DifferenceMap, {"beta": 0.5}),
    "updates.ADMM": (updates.ADMM, {"rho": 0.5}),
    "updates.AcceleratedGriffinLim": (
        updates.AcceleratedGriffinLim,
        {"alpha": 0.5, "beta": 0.5, "gamma": 1.0},
    ),
    "updates.find": (updates.find, {"update": "raar"}),
    "phase.Gradient": (phase.Gradient, {"delay": 1, "tolerance": 0.5}),
    "phase.find": (phase.find, {"init": "peaks"}),
    "MelConfig": (
        rtspecinv.MelConfig,
        {
            "sample_rate": 8000,
            "n_fft": 64,
            "hop_length": 16,
            "win_length": 64,
            "n_mels": 16,
            "fmin": 0.0,
            "fmax": 4000.0,
            "scale": "htk",
            "area_norm": True,
            "power": 1.0,
            "epsilon": 0.0,
            "center": True,
            "pad_mode": "reflect",
            "window": "hann",
            "periodic": True,
            "slopes": "hz",
            "per_frame": False,
            "drop_last": False,
            "flip": False,
            "preemphasis": 0.5,
            "compression": rtspecinv.Compression(),
        },
    ),
    "Compression": (
        rtspecinv.Compression,
        {
            "curve": "ln",
            "floor": 1e-5,
            "guard": 0.0,
            "exponent": 1.0,
            "reference": 1.0,
            "dynamic_range": 8.0,
            "gain": 1.0,
            "offset": 0.0,
            "clip": (0.0, 1.0),
            "mean": 0.0,
            "std": 1.0,
        },
    ),
}
WAV = rtspecinv.Sound(SAMPLES.numpy(), 8000).wav
# Methods with parameters of their own, and options of a function in a dictionary.
METHODS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "STFT.synthesize": (
        STFT.synthesize,
        {"spectrum": STFT.analyze(SAMPLES), "length": 128, "min_coverage": 0.5},
    ),
    "STFT.length": (STFT.length, {"n_frames": 3}),
    "STFT.count_frames": (STFT.count_frames, {"n_samples": 300}),
    "Mel.invert": (MEL.invert, {"mel": MEL(SAMPLES), "length": 128}),
    "Mel.length": (MEL.length, {"n_frames": 3}),
    "StreamingInverter.length": (inverter(stft=STFT).length, {"n_frames": 3}),
    "StreamingInverter.flush": (BATCH_OF_ONE.flush, {"n_samples": 30, "streams": [0]}),
    "StreamingInverter.push": (BATCH_OF_ONE.push, {"magnitude": FRAME[None], "streams": [0]}),
    "StreamingInverter.reset": (BATCH_OF_ONE.reset, {"streams": [0]}),
    "AudioStream": (
        lambda **options: rtspecinv.AudioStream(io.BytesIO(WAV), **options),
        {"raw": (8000, 1)},
    ),
    "AudioStream.file": (
        lambda **options: rtspecinv.AudioStream(**options, raw=(8000, 1)),
        {"file": io.BytesIO()},
    ),
    "AudioStream.blocks": (
        drained(rtspecinv.AudioStream(io.BytesIO(bytes(99)), raw=(8000, 1)).blocks),
        {"n_samples": 20},
    ),
    "FileSink": (
        lambda **options: rtspecinv.FileSink(io.BytesIO(), **options),
        {"sample_rate": 8000, "channels": 1, "length": 40},
    ),
    "listen": (
        lambda **options: len(rtspecinv.listen(SAMPLES, output=ArraySink(), **options).wav),
        {"sample_rate": 8000, "length": 40},
    ),
    "lbfgs.optimizer": (
        lambda **options: rtspecinv.lbfgs(MAGNITUDE, STFT.magnitude, **cast(Any, LBFGS), optimizer=options),
        LBFGS_OF_TORCH,
    ),
}
CALLS = BASES | METHODS
# Names without parameters, names that users do not call, and names with their own tests of files and arrays.
ELSEWHERE = {
    *(
        "AudioReader",
        "AudioStream",
        "FileSink",
        "open_spectrogram",
        "read_audio",
        "save_spectrogram",
        "export_step",
        "kernel_plan",
        "stream_many",
        "listen",
    ),
    *(
        "DeviceError",
        "Diagnosis",
        "Recording",
        "Sound",
        "presets",
        "engines",
        "torch_specinv",
    ),
    *("transforms.Transform", "updates.Update"),
    *("updates.of_pairs", "phase.Context", "phase.Start", "phase.Overlap", "phase.Zeros", "phase.Peaks"),
    *("phase.single_pass", "phase.gaussian_width"),
}


def public() -> Iterator[str]:
    """Return the names of all public classes and functions, prefixed by their module if it is public."""
    for name in rtspecinv.__all__:
        value = getattr(rtspecinv, name)
        if not isinstance(value, ModuleType):
            yield name
        elif name in ("metrics", "transforms", "updates", "phase", "torch_specinv"):
            for inner, each in vars(value).items():
                if getattr(each, "__module__", "") == value.__name__ and callable(each) and inner[0] != "_":
                    yield f"{name}.{inner}"


def test_nothing_public_is_left_out():
    assert {name for name in public() if name not in BASES} <= ELSEWHERE
    for name, (_, base) in BASES.items():
        owner, _, inner = name.partition(".")
        target = getattr(rtspecinv, owner)
        target = getattr(target, inner) if inner else target
        kinds = inspect.Parameter
        known = {
            parameter.name
            for parameter in inspect.signature(target).parameters.values()
            if parameter.kind is not kinds.VAR_KEYWORD and parameter.name != "self"
        }
        # The iterations of the stream have other limits, and compilation takes long.
        assert known - set(base) <= {"n_iter"}, name


CASES = [
    pytest.param(name, parameter, id=f"{name}-{parameter}")
    for name, (_, base) in CALLS.items()
    for parameter in base
]


def says(message: str, parameter: str, value: Any) -> bool:
    """Return whether a message contains the parameter's name, and the value, its type or its shape."""
    names = {"frames": "frames|magnitude", "blocks": "blocks|block|samples"}  # the error may name one item
    names["spec"] = "spec|target"  # the error may name the result of the transform
    if not re.search(rf"\b({names.get(parameter, parameter)})\b", message):
        return False
    text = " ".join(repr(value).split())[:40]
    shape = str(tuple(getattr(value, "shape", ("none",))))
    dtype = str(getattr(value, "dtype", "no dtype"))
    words = [
        text,
        *(["is missing"] if value is None else []),
        str(value)[:40],
        type(value).__name__,
        shape,
        dtype,
    ]
    if isinstance(value, int | float):
        words += [repr(float(value)), f"{float(value):g}"]
    if hasattr(value, "__len__") and getattr(value, "ndim", 1):  # type: ignore[arg-type]
        words += [f"{len(value)} values", f"for {len(value)} magnitudes", "is empty", f"{len(value)} samples"]
        for each in value:
            words += [f"={each!r}", f"is a {type(each).__name__}", str(tuple(getattr(each, "shape", "?")))]
    return any(word in message for word in words)


def is_sane(kept: Any, right: Any) -> bool:
    """Return whether a stored value has the kind of the valid value, and is finite."""
    if callable(kept) or kept is None or isinstance(kept, torch.device):
        return True
    if isinstance(right, bool | str):
        return isinstance(kept, type(right))
    if isinstance(right, int):
        return isinstance(kept, int) and not isinstance(kept, bool)
    if isinstance(right, float):
        number = isinstance(kept, int | float | tuple) and not isinstance(kept, bool)
        return number and bool(np.isfinite(kept).all() or kept == -math.inf)
    return True


def is_wrong(value: Any, parameter: str, right: Any) -> bool:
    """Return whether a value is invalid for a parameter, and is tested here."""
    if callable(right) or parameter == "length":  # a function may return the length
        return not callable(value)
    if value is None and parameter == "update" and isinstance(right, str) and right in ("raar", "admm"):
        return False  # streams accept rules
    if isinstance(value, np.ma.MaskedArray):  # other tests cover masked arrays
        return isinstance(right, int | float) and parameter not in ("decibels", "mean", "std")
    if parameter == "streams" and isinstance(value, list) and not value:
        return False  # there is no stream
    endless = isinstance(value, int) and value > 10**6  # the number of iterations has another limit
    return not (parameter.endswith("max_iter") and endless)


def problem(name: str, parameter: str, value: Any) -> str:
    """Call with a value; return the fault of the result or the message, empty if there is none."""
    call, base = CALLS[name]
    with bounded():
        try:
            made = call(**{**base, parameter: value})
        except (ValueError, TypeError, UnknownPreset) as error:
            return "" if says(str(error), parameter, value) else f"says {str(error)!r}"
        except Exception as error:
            return f"raises {error!r}"
    kept = getattr(made, parameter, base[parameter])
    return "" if is_sane(kept, base[parameter]) else f"keeps {kept!r}"


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_a_wrong_value_is_rejected_by_name_or_gives_a_valid_result(name, parameter):
    right = CALLS[name][1][parameter]
    wrong = [value for value in WRONG if is_wrong(value, parameter, right)]
    problems = [(value, found) for value in wrong if (found := problem(name, parameter, value))]
    assert not problems, "\n".join(f"{parameter}={value!r} {found}" for value, found in problems)


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_numbers_of_numpy_are_accepted(name, parameter):
    call, base = CALLS[name]
    right = base[parameter]
    kinds: list[type] = []
    if isinstance(right, int) and not isinstance(right, bool):
        kinds = [np.int64, np.int16, np.uint8] if abs(right) < 256 else [np.int64, np.int16]
    elif isinstance(right, float):
        kinds = [np.float64, np.float32]
    for kind in kinds:
        made = call(**{**base, parameter: kind(right)})
        assert is_sane(getattr(made, parameter, right), right)


@pytest.mark.parametrize("subtype", [3, b"FLOAT", ["FLOAT"]])
def test_a_subtype_is_a_name(subtype):
    with pytest.raises(TypeError, match=r"Parameter subtype is a .*: pass a name such as 'FLOAT'"):
        rtspecinv.FileSink(io.BytesIO(), 8000, subtype=subtype)
    assert rtspecinv.FileSink(io.BytesIO(), 8000, subtype="float").sample_rate == 8000


@pytest.mark.parametrize("path", [3, None, ["a.wav"], np.zeros(3)])
def test_a_sound_goes_to_a_name_or_to_an_open_file(path):
    with pytest.raises(TypeError, match=r"Parameter path is .*: pass a file name, or a file that is op"):
        rtspecinv.FileSink(path, 8000)


@pytest.mark.parametrize("path", [3, 1.5, None, b"a.npz", [], np.zeros(3)])
@pytest.mark.parametrize(
    "call",
    [
        rtspecinv.AudioReader,
        rtspecinv.read_audio,
        rtspecinv.open_spectrogram,
        lambda path: rtspecinv.save_spectrogram(path, MAGNITUDE, STFT, sample_rate=8000),
        rtspecinv.MelConfig.load,
        MEL.config.save,
    ],
)
def test_the_name_of_a_file_is_a_name(call, path):
    with pytest.raises(TypeError, match=r"Parameter path is a \w+, .*: pass a file name"):
        call(path)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("name", ["griffin_lim", "ADMM", "RTISI_LA", "phase_init"])
def test_another_precision_is_one_of_spec(name, dtype):
    spec = torch.ones(33, 9).to(dtype)
    with pytest.raises(TypeError, match=rf"Parameter spec has {dtype}.*: use spec\.") as error:
        getattr(torch_specinv, name)(spec)
    way_out = re.search(r"use (spec\..*)", str(error.value)).group(1)
    again = eval(way_out, {"spec": spec, "torch": torch})
    options: dict[str, Any] = {} if name == "phase_init" else {"max_iter": 1, "verbose": False}
    real = again if name in ("griffin_lim", "ADMM") else again.abs()
    assert getattr(torch_specinv, name)(real, **options).isfinite().all()


def test_a_stream_of_text_is_no_sound(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(WAV)
    with open(path, encoding="latin-1") as file, pytest.raises(TypeError, match="open it with mode 'rb'"):
        rtspecinv.AudioStream(cast(Any, file))
    with open(path, "rb") as file:
        assert rtspecinv.AudioStream(file).sample_rate == 8000
