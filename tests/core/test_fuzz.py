"""Random input for the public functions that take arrays; fuzzing.py has the limits."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import (
    ANYTHING,
    EFFORT,
    LENGTHS,
    MEL,
    N_FREQ,
    NUMBERS,
    STFT,
    arrays,
    attempt,
    check_finite,
    quick,
    shown,
    sound,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import rtspecinv
from rtspecinv import ArraySink, Compression, MelConfig, PictureScale, torch_specinv, updates

pytestmark = pytest.mark.usefixtures("little_memory")

STREAMS = {  # made once, because they must survive all examples
    name: rtspecinv.StreamingInverter(STFT, engine="eager", n_iter=1, batch_shape=shape)
    for name, shape in (("one", ()), ("two", (2,)))
}


@quick
@given(
    n_fft=NUMBERS,
    hop_length=NUMBERS,
    win_length=st.one_of(st.none(), NUMBERS),
    window=st.one_of(st.sampled_from(["hann", "kaiser", "nuttall", "", "exec", 3, None]), arrays()),
    center=st.sampled_from([True, False, "same", "maybe", None, 1]),
    pad_mode=st.sampled_from(["reflect", "constant", "wrap", None]),
    samples=ANYTHING,
)
def test_stft(n_fft, hop_length, win_length, window, center, pad_mode, samples):
    stft = attempt(
        lambda: rtspecinv.STFT(
            n_fft, hop_length, win_length=win_length, window=window, center=center, pad_mode=pad_mode
        )
    )
    if stft is not None and stft.n_fft < 10**4 and sound(samples):  # the transform of NaN is NaN
        attempt(lambda: stft.synthesize(stft.analyze(samples)))


@quick
@given(samples=ANYTHING, spectrum=ANYTHING, length=LENGTHS)
def test_transforms(samples, spectrum, length):
    if sound(samples):  # the transform of NaN is NaN, and that of 3e38 is infinite
        attempt(lambda: STFT.magnitude(samples))
        attempt(lambda: MEL(samples))
    attempt(lambda: MEL.inverse(samples))
    attempt(lambda: MEL.expand(samples))
    if sound(spectrum):
        attempt(lambda: STFT.synthesize(spectrum, length))


@quick
@given(name=st.sampled_from(list(STREAMS)), frames=st.lists(ANYTHING, max_size=4), mask=ANYTHING)
def test_streams_survive(name, frames, mask):
    inverter = STREAMS[name]
    for frame in frames:
        attempt(partial(inverter.push, frame))
        attempt(partial(inverter.push_many, frame))
    attempt(lambda: inverter.reset(mask))
    attempt(inverter.flush)
    good = torch.rand(*inverter.batch_shape, N_FREQ, 9, generator=torch.Generator().manual_seed(0))
    heard = inverter.push_many(good)
    assert heard.abs().max() > 0.01
    inverter.reset()
    assert torch.equal(heard, inverter.push_many(good))
    inverter.reset()


MEL_STREAM = MEL.inverter(engine="eager", n_iter=1)
TRANSFORMS = rtspecinv.transforms


@quick
@given(pieces=st.lists(ANYTHING, max_size=4))
def test_streams_of_mel_frames_and_of_samples_survive(pieces):
    analysis = rtspecinv.StreamingAnalysis(STFT)
    for piece in pieces:
        attempt(partial(MEL_STREAM.push, piece))
        attempt(partial(MEL_STREAM.push_many, piece))
        if sound(piece):  # the samples of NaN are NaN, and those of 3e38 are infinite
            attempt(partial(analysis.push, piece))
    attempt(MEL_STREAM.flush)
    attempt(analysis.finish)
    good = MEL(torch.rand(400, generator=torch.Generator().manual_seed(0)) - 0.5)
    heard = MEL_STREAM.push_many(good)
    assert heard.abs().max() > 0.01
    MEL_STREAM.reset()
    assert torch.equal(heard, MEL_STREAM.push_many(good))
    MEL_STREAM.reset()


@quick
@given(
    frames=st.lists(ANYTHING, max_size=3),
    make=st.sampled_from([TRANSFORMS.Pitch, TRANSFORMS.Formants, TRANSFORMS.Smear, TRANSFORMS.Gain]),
    number=NUMBERS,
)
def test_transforms_of_frames_and_playing_them(frames, make, number):
    transform = attempt(lambda: make(number)) or TRANSFORMS.Pitch(1.5)
    for frame in frames:  # the inverter rejects results of NaN and of negative values
        attempt(partial(shown, transform, frame))
    sink = ArraySink()
    attempt(lambda: rtspecinv.play(frames, STREAMS["one"], sink))
    STREAMS["one"].reset()
    check_finite(sink.samples)


@quick
@given(
    options=st.fixed_dictionaries(
        {},
        optional={
            "update": st.sampled_from(["raar", "rtisi", "agla", "", 3, None]),
            "init": st.sampled_from(["overlap", "gradient", "peaks", "zeros", "x", 3]),
            "look_ahead": st.one_of(st.none(), st.integers(-1, 9), st.sampled_from([1.5, 10**9, "3", True])),
            "revise": st.one_of(st.none(), st.integers(-1, 9), st.sampled_from([10**9, "3"])),
            "n_iter": st.one_of(st.integers(-1, 3), st.sampled_from([1.5, None, "3"])),
            "batch_shape": st.sampled_from([(), (2,), (0,), (-1,), 2, (2, 3), (10**9,), (1.5,), None]),
            "engine": st.sampled_from(["eager", "numpy", None]),
        },
    )
)
def test_inverters(options):
    inverter = attempt(lambda: rtspecinv.StreamingInverter(STFT, **{"engine": "eager", **options}))
    if inverter is not None:
        attempt(lambda: inverter.push(torch.rand(*inverter.batch_shape, N_FREQ)))


@quick
@given(
    magnitude=ANYTHING,
    update=st.sampled_from(["agla", "gla", "raar", "hybrid", "x", None]),
    init=st.one_of(st.sampled_from(["stream", "peaks", "random", "zeros", "x"]), arrays()),
    length=st.one_of(
        st.none(), st.integers(-1, 500), NUMBERS.filter(lambda n: not (isinstance(n, int) and n > 10**5))
    ),
    n_iter=st.one_of(st.integers(-1, 3), st.just(1.5)),
    known=st.one_of(st.none(), arrays()),
)
def test_whole_spectrograms(magnitude, update, init, length, n_iter, known):
    attempt(
        lambda: rtspecinv.invert(
            magnitude, STFT, update=update, init=init, length=length, n_iter=n_iter, known=known
        )
    )
    attempt(lambda: rtspecinv.invert_many([magnitude, magnitude], STFT, n_iter=1))
    attempt(lambda: list(rtspecinv.invert_blocks([magnitude, magnitude], STFT, n_iter=1)))


@settings(quick, max_examples=30 * EFFORT)
@given(target=ANYTHING, length=st.one_of(st.none(), st.integers(-1, 500)))
def test_descent(target, length):
    attempt(lambda: rtspecinv.lbfgs(target, STFT.magnitude, n_iter=2, length=length))
    attempt(lambda: rtspecinv.lbfgs(target, MEL, n_iter=2))
    attempt(lambda: rtspecinv.lbfgs(target, lambda x: x.square(), n_iter=2, length=length))


@settings(quick, max_examples=40 * EFFORT)
@given(spec=ANYTHING, number=NUMBERS)
def test_faces_of_torch_specinv(spec, number):
    options: dict[str, Any] = {"verbose": False, "n_fft": 64, "hop_length": 16}
    for method in ("griffin_lim", "ADMM"):
        attempt(partial(getattr(rtspecinv.torch_specinv, method), spec, max_iter=2, **options))
    attempt(lambda: rtspecinv.torch_specinv.RTISI_LA(spec, max_iter=1, **options))
    attempt(lambda: rtspecinv.torch_specinv.phase_init(spec, n_fft=64, hop_length=16))
    attempt(lambda: rtspecinv.torch_specinv.griffin_lim(spec, max_iter=1, verbose=False, hop_length=number))


@settings(quick, max_examples=30 * EFFORT)
@given(spec=ANYTHING, samples=st.one_of(st.none(), st.integers(-1, 500), st.just((2, 300)), st.just("8")))
def test_the_face_of_l_bfgs(spec, samples):
    options: dict[str, Any] = {"outer_max_iter": 1, "max_iter": 1, "verbose": 0}
    attempt(lambda: torch_specinv.L_BFGS(spec, STFT.magnitude, samples, **options))


RULES = [updates.GriffinLim, updates.RAAR, updates.DifferenceMap, updates.ADMM, updates.AcceleratedGriffinLim]


@quick
@given(rule=st.sampled_from([*RULES, updates.RTISI, rtspecinv.Hybrid]), numbers=st.lists(NUMBERS, max_size=3))
def test_update_rules(rule, numbers):
    made = attempt(lambda: rule(*numbers))
    if made is not None:
        attempt(lambda: rtspecinv.invert(torch.rand(N_FREQ, 9), STFT, update=made, n_iter=2))


@quick
@given(one=ANYTHING, other=ANYTHING, same=st.booleans())
def test_metrics_and_diagnose(one, other, same):
    second = one if same else other
    for name in ("sc", "snr", "ser", "spectral_convergence", "log_spectral_distance"):
        measure = getattr(rtspecinv.metrics, name)  # ratios of silence and of NaN are not finite
        attempt(partial(shown, measure, one, second))
    assert attempt(lambda: str(rtspecinv.diagnose(one))) != ""
    attempt(lambda: str(rtspecinv.diagnose(one, preset="whisper")))


FIELDS = {
    "sample_rate": NUMBERS,
    "n_fft": st.one_of(st.integers(-1, 300), NUMBERS),
    "hop_length": st.one_of(st.integers(-1, 100), NUMBERS),
    "win_length": NUMBERS,
    "n_mels": st.one_of(st.integers(-1, 100), NUMBERS),
    "fmin": NUMBERS,
    "fmax": NUMBERS,
    "scale": st.sampled_from(["htk", "slaney", "bark", None]),
    "power": st.sampled_from([1, 2, 1.5, None, "2"]),
    "epsilon": NUMBERS,
    "center": st.sampled_from([True, "same", "x", None]),
    "preemphasis": NUMBERS,
    "compression": st.sampled_from(
        [Compression("ln", floor=1e-5), Compression("dB", floor=1e-8, clip=(-4, 4)), None]
    ),
}


@quick
@given(st.fixed_dictionaries({}, optional=FIELDS), arrays())
def test_mel_configurations(fields, samples):
    config = attempt(
        lambda: MelConfig(**{"sample_rate": 8000, "n_fft": 64, "hop_length": 16, "n_mels": 10, **fields})
    )
    mel = attempt(lambda: rtspecinv.Mel(config)) if config is not None else None
    if mel is not None:
        attempt(lambda: mel.inverse(torch.zeros(config.n_mels, 3)))


@quick
@given(
    curve=st.sampled_from(["power", "ln", "log10", "dB", "x", None]),
    numbers=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("floor", "exponent", "reference", "dynamic_range", "gain", "offset", "mean", "std"), NUMBERS
        ),
    ),
    clip=st.sampled_from([None, (0, 1), (1, 0), 3, ("a", "b"), (float("nan"), 1)]),
)
def test_compressions(curve, numbers, clip):
    attempt(lambda: Compression(curve, clip=clip, **numbers))


@pytest.mark.filterwarnings("ignore:.*(beyond|below) full scale", "ignore:the sound is silent")
@quick
@given(
    sound=st.one_of(ANYTHING, st.lists(arrays(), max_size=3)),
    kind=st.sampled_from(["samples", "magnitude", "mel"]),
    layout=st.sampled_from([None, "freq-time", "time-freq"]),
)
def test_listen(sound, kind, layout):
    if kind == "mel":  # compilation for the CPU would take long
        sound = None if isinstance(sound, str) else sound
    how: dict[str, Any] = {
        "samples": {"sample_rate": 8000},
        "magnitude": {"stft": STFT, "sample_rate": 8000},
        "mel": {"preset": MEL},
    }
    attempt(lambda: rtspecinv.listen(sound, layout=layout, output=ArraySink(), n_iter=1, **how[kind]).samples)


@quick
@given(
    values=ANYTHING, suffix=st.sampled_from([".npz", ".pt", ".safetensors", ".png", ".tiff"]), bits=NUMBERS
)
def test_saved_files_can_be_opened(tmp_path_factory, values, suffix, bits):
    path = tmp_path_factory.mktemp("saved") / f"a{suffix}"
    kinds: list[tuple[Any, dict[str, Any]]] = [(STFT, {"sample_rate": 8000}), (MEL, {})]
    for transform, options in kinds:
        attempt(partial(rtspecinv.save_spectrogram, path, values, transform, bits=bits, **options))
        if path.exists():
            found = rtspecinv.open_spectrogram(path)
            check_finite(list(found.frames()))
            path.unlink()
    assert not list(path.parent.iterdir())


@quick
@given(
    samples=ANYTHING,
    scale=st.sampled_from(["linear", "log", "mel"]),
    numbers=st.lists(NUMBERS, min_size=4, max_size=4),
)
def test_picture_scales_and_sinks(samples, scale, numbers):
    sample_rate, fmin, white, height = numbers
    picture = attempt(lambda: PictureScale(sample_rate, 64, scale, fmin, white=white))
    picture = picture or PictureScale(8000, 64, scale)
    levels = np.random.default_rng(0).uniform(0, 1, (7, 3))
    attempt(lambda: picture.magnitude(levels))
    if not isinstance(height, int) or height < 10**5:
        attempt(lambda: picture.levels(np.ones((N_FREQ, 3)), height))
    sink = ArraySink()
    attempt(lambda: sink.write(samples))
    check_finite(sink.samples)
