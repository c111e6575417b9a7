"""Tests of the transforms of frames, and of frames of signals in blocks."""

from __future__ import annotations

import copy
import math
import threading
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rtspecinv
from rtspecinv import AudioReader, StreamingAnalysis, StreamingInverter, magnitude_frames
from rtspecinv.live.transforms import Formants, Freeze, Gain, Pitch, Smear, Stretch
from rtspecinv.stft import PAD_MODES

N_FFT, HOP_LENGTH, SAMPLE_RATE = 1024, 256, 22050
STFT = rtspecinv.STFT(N_FFT, HOP_LENGTH)
# A bin is 21.5 Hz wide; this share of it is 0.6 Hz, 2.5 cents at 440 Hz.
TOLERANCE_BINS = 0.03
BIN = SAMPLE_RATE / N_FFT


def frames_of(*batch: int, n_frames: int = 12, n_freq: int = 9, seed: int = 0) -> list[torch.Tensor]:
    return list(torch.rand(*batch, n_freq, n_frames, generator=torch.manual_seed(seed)).unbind(-1))


def sine(frequency: float, seconds: float = 1.0) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * frequency * torch.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE)


def inverted(frames) -> torch.Tensor:
    inverter = rtspecinv.StreamingInverter(STFT, engine="eager", n_iter=4)
    hops = [inverter.push(frame) for frame in frames]
    return torch.cat([*hops, inverter.flush()], -1)[inverter.latency :]


def frequency_of(samples: torch.Tensor) -> float:
    """Return the frequency of the loudest partial, Hz, by a parabola through the peak of a Gaussian lobe."""
    n = 8192
    middle = samples[(len(samples) - n) // 2 :][:n].double()
    window = torch.signal.windows.gaussian(n, std=n / 8, dtype=torch.float64)
    log = torch.fft.rfft(middle * window).abs().log()
    k = int(log.argmax())
    left, top, right = log[k - 1 : k + 2].tolist()
    return (k + 0.5 * (left - right) / (left - 2 * top + right)) * SAMPLE_RATE / n


# -- stretch --


@settings(deadline=None)
@given(
    rate=st.one_of(st.floats(0.05, 40), st.integers(1, 5).map(float), st.just(0.1)),
    n_frames=st.integers(1, 20),
)
def test_stretch_yields_as_many_frames_as_stated(rate, n_frames):
    stretched = list(Stretch(frames_of(n_frames=n_frames), rate))
    assert len(stretched) == next(k for k in range(10**4) if k * rate >= n_frames)
    assert abs(len(stretched) - n_frames / rate) <= 1


@given(batch=st.sampled_from([(), (2,)]), rate=st.floats(0.1, 3))
def test_stretch_is_linear_interpolation(batch, rate):
    frames = frames_of(*batch)
    known = torch.stack([*frames, frames[-1]]).double().numpy()
    for k, frame in enumerate(Stretch(frames, rate)):
        i, a = int(k * rate), k * rate - int(k * rate)
        np.testing.assert_allclose(frame, (1 - a) * known[i] + a * known[i + 1], rtol=1e-5)


def test_stretch_by_one_is_the_frames_themselves_and_reads_no_further():
    frames, n_read = frames_of(), []
    stretch = Stretch(n_read.append(i) or frame for i, frame in enumerate(frames))
    for i, frame in enumerate(frames):
        assert torch.equal(next(stretch), frame)
        assert len(n_read) == i + 1
    assert list(stretch) == []


def test_rate_changes_while_it_plays():
    frames = [np.full(3, float(i)) for i in range(100)]
    stretch, seen = Stretch(iter(frames)), []
    for rate, n in [(1, 4), (0, 3), (0.5, 2), (2, 3), (-1, 4), (-0.5, 2), (1, 1)]:
        stretch.rate = rate
        seen += [float(next(stretch)[0]) for _ in range(n)]
    expected = [0, 1, 2, 3, 3, 3, 3, 3.5, 4, 6, 8, 10, 9, 8, 7, 6, 5.5, 5, 6]
    assert seen == expected
    assert stretch.position == 6


def test_stretch_plays_backwards_to_the_oldest_kept_frame():
    stretch = Stretch((np.full(1, float(i)) for i in range(50)), memory=5)
    assert [float(next(stretch)[0]) for _ in range(20)] == list(range(20))
    stretch.rate = -2
    assert [float(next(stretch)[0]) for _ in range(5)] == [17, 15, 15, 15, 15]
    stretch.rate = 1
    assert [float(next(stretch)[0]) for _ in range(6)] == [16, 17, 18, 19, 20, 21]


@pytest.mark.parametrize("rate", [0.31, 1.7])
def test_a_sine_keeps_its_frequency_under_stretch(rate):
    frequency = 440.0
    frames = STFT.magnitude(sine(frequency, 1.7 * max(0.35, rate))).unbind(-1)
    samples = inverted(Stretch(frames, rate))
    assert len(samples) / HOP_LENGTH == pytest.approx(len(frames) / rate, abs=2)
    assert frequency_of(samples) == pytest.approx(frequency, abs=TOLERANCE_BINS * BIN)


# -- functions of a frame --

IDENTITIES = [Freeze(), Smear(0), Gain(0), Gain(torch.zeros(9)), Pitch(1), Formants(1), Pitch(), Formants()]


@pytest.mark.parametrize("transform", IDENTITIES, ids=lambda transform: type(transform).__name__)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_neutral_settings_change_no_bit(transform, batch):
    for frame in frames_of(*batch):
        assert torch.equal(transform(frame), frame)
        array = transform(frame.numpy())
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, frame.numpy())


ACTIVE = [
    (Freeze, True),
    (Smear, 0.5),
    (Gain, -6),
    (Pitch, 1.3),
    (Pitch, 0.7),
    (Pitch, 10),
    (Formants, 1.2),
    (Formants, 0.8),
]


@pytest.mark.parametrize(("kind", "setting"), ACTIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_type_of_the_frames(kind, setting, dtype):
    transform = kind(setting)
    first = torch.rand(2, 65, generator=torch.manual_seed(1)).to(dtype)
    for frame in (first, torch.zeros_like(first), 1e-30 * first, 1e30 * first):
        before = frame.clone()
        out = transform(frame)
        if not isinstance(transform, (Freeze, Smear)):  # these two have a memory
            assert out.any() == frame.any()
        assert (out.shape, out.dtype) == (frame.shape, dtype)
        assert out.isfinite().all()
        assert (out >= 0).all()
        assert torch.equal(frame, before)
    for bad, says in (
        ([1.0], "list"),
        (first.to(torch.complex64), "complex64"),
        (torch.ones(65).int(), "int32"),
    ):
        with pytest.raises(TypeError, match=rf"Parameter frame is .*{says}.*: pass"):
            transform(bad)
    assert transform(torch.full_like(first, math.nan)).shape == first.shape  # the inverter rejects it
    if not isinstance(transform, Freeze):
        assert transform(first).isfinite().all()


TRANSFORMS = {
    "Freeze": lambda: Freeze(on=True),
    "Freeze off": Freeze,
    "Smear": lambda: Smear(0.5),
    "Smear off": lambda: Smear(0.0),
    "Gain": lambda: Gain(-6.0),
    "Pitch": lambda: Pitch(1.2),
    "Pitch off": Pitch,
    "Formants": lambda: Formants(1.2, 4.0),
    "Formants off": Formants,
}


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_transform_shares_no_memory_with_its_caller(make, as_array):
    frames: list[Any] = [frame.numpy() if as_array else frame for frame in frames_of(2, n_freq=33)]
    expected = list(map(make(), copy.deepcopy(frames)))
    transform, buffer = make(), copy.deepcopy(frames[0])
    for frame, wanted in zip(frames, expected, strict=True):
        buffer[:] = frame
        result = transform(buffer)
        buffer[:] = -1
        np.testing.assert_array_equal(result, wanted)
        result[:] = -2
        assert (buffer == -1).all()


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("rate", [1.0, 0.5, 0.3, 0.0, -1.0])
def test_stretch_shares_no_memory_with_its_source_or_its_caller(rate, as_array):
    frames: list[Any] = [frame.numpy() if as_array else frame for frame in frames_of(2)]
    buffer = copy.deepcopy(frames[0])

    def refilled():
        for frame in frames:
            buffer[:] = frame
            yield buffer
            buffer[:] = -1

    def taken(source, overwrite):
        stretch = Stretch(source)
        for number, frame in zip(range(20), stretch, strict=False):
            yield copy.deepcopy(frame)
            stretch.rate = rate if number >= 4 else 1.0
            if overwrite:
                frame[:] = -2

    results = list(taken(refilled(), True))
    np.testing.assert_array_equal(np.stack(results), np.stack(list(taken(iter(frames), False))))


def test_gain_keeps_its_own_decibels():
    decibels = np.full(9, -6.0)
    gain, (frame, *_) = Gain(decibels), frames_of()
    before = gain(frame)
    decibels[:] = 0
    assert (gain.decibels == -6).all()
    assert torch.equal(gain(frame), before)


def test_freeze_holds_the_frame_at_which_it_was_switched_on():
    freeze, frames = Freeze(), frames_of()
    seen = []
    for i, frame in enumerate(frames):
        freeze.on = i in (3, 4, 5, 7, 8)
        seen.append(next(k for k, each in enumerate(frames) if torch.equal(freeze(frame), each)))
    assert seen == [0, 1, 2, 3, 3, 3, 6, 7, 7, 9, 10, 11]


def test_smear_decays_by_its_amount():
    smear, impulse = Smear(0.8), torch.ones(5)
    smear(torch.zeros(5))
    ringing = torch.stack([smear(impulse * (t == 0)) for t in range(10)])
    torch.testing.assert_close(ringing[:, 0], 0.2 * 0.8 ** torch.arange(10))
    steady = [smear(impulse) for _ in range(200)][-1]
    torch.testing.assert_close(steady, impulse)


@given(decibels=st.lists(st.floats(-120, 60), min_size=9, max_size=9))
def test_gain_of_each_bin(decibels):
    (frame,) = frames_of(2, n_frames=1)
    expected = frame.double().numpy() * 10 ** (np.array(decibels) / 20)
    np.testing.assert_allclose(Gain(np.array(decibels))(frame), expected, rtol=1e-6)
    assert not Gain(-math.inf)(frame).any()


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.26, 2.0])
def test_pitch_moves_a_sine_to_ratio_times_its_frequency(ratio):
    frequency = 660.0
    samples = inverted(map(Pitch(ratio), STFT.magnitude(sine(frequency, 1.5)).unbind(-1)))
    assert frequency_of(samples) == pytest.approx(ratio * frequency, abs=TOLERANCE_BINS * BIN)
    level = samples[N_FFT:-N_FFT].square().mean() / sine(frequency).square().mean()
    assert 10 * math.log10(level) == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("ratio", [0.6, 1.5])
def test_pitch_moves_every_partial_of_a_chord(ratio):
    partials = torch.tensor([400.0, 900.0, 1250.0])
    chord = torch.stack([sine(float(frequency), 1.5) / 3 for frequency in partials]).sum(0)
    samples = inverted(map(Pitch(ratio), STFT.magnitude(chord).unbind(-1)))[N_FFT:-N_FFT]
    spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs()
    found = (spectrum > 0.3 * spectrum.max()).nonzero() * SAMPLE_RATE / len(samples)
    distance = (found - ratio * partials).abs()
    resolution = SAMPLE_RATE / len(samples)  # about 0.7 Hz
    assert (
        distance.amin(0) < TOLERANCE_BINS * BIN + resolution
    ).all()  # all partials are at their frequencies ...
    assert (distance.amin(1) < TOLERANCE_BINS * BIN + 3 * resolution).all()  # ... and there are no others


def test_pitch_by_whole_bins_moves_a_lobe_as_it_is():
    frame = torch.zeros(513)
    frame[98:103] = torch.tensor([0.1, 0.6, 1.0, 0.6, 0.1])
    for ratio in (0.5, 0.98, 1.01, 2.0, 5.0):
        centre = round(100 * ratio)
        moved = Pitch(ratio)(frame)
        torch.testing.assert_close(moved[centre - 2 : centre + 3], frame[98:103], rtol=1e-3, atol=1e-5)
        assert moved.sum() == pytest.approx(float(frame.sum()), rel=1e-3)


def test_pitch_leaves_zeros_above_the_highest_frequency():
    frame = torch.rand(101, generator=torch.manual_seed(0)) + 0.1
    assert Pitch(0.5)(frame).nonzero().max() == 50
    assert Pitch(2)(frame).all()


def voice(pitch: float, formant: float) -> torch.Tensor:
    """Return a frame of harmonics at multiples of `pitch` bins, with one formant at `formant` bins."""
    k = torch.arange(513, dtype=torch.float64)
    envelope = torch.exp(-0.5 * ((k - formant) / 40) ** 2) + 0.01
    near = (k - (k / pitch).round() * pitch).abs()
    return envelope * torch.exp(-0.5 * (near / 0.8) ** 2)


@pytest.mark.parametrize("ratio", [0.75, 0.9, 1.2, 1.4])
@pytest.mark.parametrize("pitch", [12.0, 17.0])
def test_formants_move_and_harmonics_stay(ratio, pitch):
    frame = voice(pitch, 200)
    moved = Formants(ratio)(frame)

    def harmonics(frame: torch.Tensor) -> torch.Tensor:
        inner = frame[1:-1]
        peaks = (inner > frame[:-2]) & (inner > frame[2:]) & (inner > 0.05 * frame.max())
        return peaks.nonzero()[:, 0] + 1

    for peaks in (harmonics(frame), harmonics(moved)):
        offset = peaks / pitch - (peaks / pitch).round()
        assert (offset.abs() * pitch < 1.01).all()  # at multiples of the pitch, within a bin
        assert len(peaks) >= 5
    centre = [float((f * torch.arange(513)).sum() / f.sum()) for f in (frame**2, moved**2)]
    assert centre[1] / centre[0] == pytest.approx(ratio, rel=0.05)


def test_envelope_touches_the_tops_of_the_harmonics():
    frame = voice(12.0, 200)
    envelope = Formants().envelope(frame)
    tops = torch.arange(12, 40) * 12
    difference = 20 * torch.log10(envelope[tops] / frame[tops])
    assert difference.abs().max() < 3  # dB; the valleys between are at -60 dB


def test_formants_after_pitch_put_the_envelope_back():
    frame, ratio = voice(12.0, 200), 1.3
    shifted = Pitch(ratio)(frame)
    restored = Formants(1 / ratio)(shifted)
    bins = torch.arange(513)
    centre = [float((f**2 * bins).sum() / (f**2).sum()) for f in (frame, shifted, restored)]
    assert centre[1] / centre[0] == pytest.approx(ratio, rel=0.02)
    assert centre[2] / centre[0] == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stretch([], math.nan), "rate=nan is not 0, a number from 0.001 to 1000"),
        (lambda: Stretch([], memory=1), "memory=1"),
        (lambda: Pitch(0), "ratio=0 is not a finite number from 0.1 to 10"),
        (lambda: Pitch(cast(Any, "high")), "ratio='high' is not a finite number"),
        (lambda: Smear(1.1), "amount=1.1"),
        (lambda: Smear(cast(Any, None)), "amount=None"),
        (lambda: Formants(1, width=0), "width=0"),
        (lambda: Gain(math.nan), "decibels"),
        (lambda: Gain(math.inf), "decibels"),
        (lambda: Gain(torch.zeros(2, 3)), r"decibels=.* of shape \(2, 3\)"),
        (lambda: Gain(torch.zeros(3))(torch.zeros(4)), "3 values, but the frame has 4"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_refused_setting_leaves_the_one_before():
    pitch = Pitch(1.5)
    with pytest.raises(ValueError):
        pitch.ratio = -1
    assert pitch.ratio == 1.5
    with pytest.raises(TypeError, match=r"unbind\(-1\)"):
        Stretch(torch.zeros(3, 4))


def test_settings_of_a_chain_may_change_from_another_thread():
    stretch, pitch, gain = Stretch(iter(frames_of(n_frames=100)), 0.1), Pitch(), Gain()
    stop = threading.Event()

    def turn_knobs() -> None:
        generator = np.random.default_rng(0)
        while not stop.is_set():
            stretch.rate, pitch.ratio, gain.decibels = generator.uniform((0.05, 0.5, -20), (0.5, 2, 0))

    knobs = threading.Thread(target=turn_knobs)
    knobs.start()
    try:
        n_frames = sum(bool(f.isfinite().all()) for f in map(gain, map(pitch, stretch)))
    finally:
        stop.set()
        knobs.join()
    assert 100 / 0.5 <= n_frames <= 100 / 0.05


# -- frames of signals in blocks --


@st.composite
def transforms(draw) -> rtspecinv.STFT:
    """Draw any setting of `STFT`."""
    n_fft = draw(st.integers(1, 80))
    win_length = draw(st.sampled_from([n_fft, max(1, n_fft - 7)]))
    window = draw(st.sampled_from(["hann", "hamming", "rectangular"]))
    return rtspecinv.STFT(
        n_fft,
        draw(st.integers(1, max(1, win_length if window == "rectangular" else win_length // 2))),
        win_length=win_length,
        window=window if win_length > 2 else "rectangular",
        center=draw(st.sampled_from([True, False, "same"])),
        pad_mode=draw(st.sampled_from(PAD_MODES)),
        normalized=draw(st.booleans()),
        onesided=draw(st.booleans()),
        dtype=draw(st.sampled_from([torch.float32, torch.float64])),
    )


@settings(deadline=None, max_examples=150)
@given(
    stft=transforms(),
    lengths=st.lists(st.integers(0, 300), max_size=8),
    n_samples=st.integers(0, 700),
    channels=st.sampled_from([(), (2,)]),
    double=st.booleans(),
)
def test_streaming_analysis_is_the_analysis_of_the_whole(stft, lengths, n_samples, channels, double):
    """This holds for every setting and division into blocks; both reject the same short signals."""
    generator = np.random.default_rng(0)
    samples = generator.uniform(-1, 1, (*channels, n_samples)).astype(np.float64 if double else np.float32)
    analysis = StreamingAnalysis(stft)
    blocks = np.split(samples, np.cumsum(lengths).clip(max=n_samples), axis=-1)
    parts = [analysis.push(block) for block in blocks]
    assert {part.shape[:-1] for part in parts} == {(*channels, stft.n_freq)}
    if n_samples < stft.n_needed or not n_samples:
        with pytest.raises(ValueError, match=f"{n_samples} samples are too few"):
            analysis.finish()
        with pytest.raises(ValueError, match=r"needs|empty"):
            stft.magnitude(torch.from_numpy(samples).to(stft.dtype))
        return
    whole = stft.magnitude(torch.from_numpy(samples).to(stft.dtype))
    torch.testing.assert_close(torch.cat([*parts, analysis.finish()], -1), whole, rtol=1e-5, atol=1e-5)
    frames = list(magnitude_frames(iter(blocks), stft))
    torch.testing.assert_close(torch.stack(frames, -1), whole, rtol=1e-5, atol=1e-5)
    StreamingInverter(stft, n_iter=0, batch_shape=channels, engine="eager").push(frames[0])


@pytest.mark.parametrize("setting", [Pitch(1.3), Formants(0.8)])
@pytest.mark.parametrize("n_fft", [64, 63])
@pytest.mark.parametrize("as_array", [True, False])
def test_two_sided_frames_are_moved_as_one_sided_ones_and_stay_symmetric(setting, n_fft, as_array):
    stft, both = rtspecinv.STFT(n_fft, 16), rtspecinv.STFT(n_fft, 16, onesided=False)
    samples = sine(440, 0.1)
    for one, two in zip(stft.magnitude(samples).mT, both.magnitude(samples).mT, strict=True):
        expected = setting(one)
        setting.onesided = False
        moved = torch.as_tensor(setting(two.numpy() if as_array else two))
        setting.onesided = True
        torch.testing.assert_close(moved[: n_fft // 2 + 1], expected)
        torch.testing.assert_close(moved[1:], moved[1:].flip(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [100, 400])
def test_analysis_copies_blocks_that_are_overwritten_later(length):
    samples, block = torch.randn(400, generator=torch.manual_seed(0)), torch.zeros(length)
    stft, parts = rtspecinv.STFT(64, 16), []
    analysis = StreamingAnalysis(stft)
    for piece in samples.split(length):
        parts.append(analysis.push(block.copy_(piece)))
        block.zero_()
    parts.append(analysis.finish())
    torch.testing.assert_close(torch.cat(parts, -1), stft.magnitude(samples), rtol=1e-6, atol=1e-6)


def test_a_too_short_signal_is_an_error():
    analysis = StreamingAnalysis(rtspecinv.STFT(64, 16))
    assert analysis.push(np.zeros((1, 32), np.float32)).shape == (1, 33, 0)
    with pytest.raises(ValueError, match="32 samples are too few for n_fft=64, which needs 33"):
        analysis.finish()


def test_a_signal_without_channels_is_refused():
    with pytest.raises(ValueError, match=r"shape \(0, 400\), not \(\*channels, n_samples\) with a channel"):
        StreamingAnalysis(rtspecinv.STFT(64, 16)).push(np.zeros((0, 400), np.float32))


def test_a_file_is_a_source_of_frames(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(440, 0.3).numpy(), SAMPLE_RATE, subtype="FLOAT")
    stft = rtspecinv.STFT(512, 128, dtype=torch.float64)  # blocks are converted to its precision
    frames = torch.stack(list(magnitude_frames(AudioReader(tmp_path / "a.wav"), stft)), -1)
    torch.testing.assert_close(frames[0], stft.magnitude(sine(440, 0.3).double()))
