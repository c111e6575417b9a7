"""Tests of the length of a sound whose recording has a known length."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rtspecinv
from rtspecinv import ArraySink, FileSink, Player, StreamingInverter, listen, play
from rtspecinv.cli import main
from rtspecinv.cli._names import METHODS
from rtspecinv.measure.clip import SAMPLE_RATE, render

CLIP = torch.from_numpy(render())[12000:]


def n_samples(path) -> int:
    return rtspecinv.read_audio(path)[0].shape[-1]


# -- the stream and the blocks -------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(
    length=st.integers(300, 1200),
    hop_length=st.integers(1, 128),
    n_fft=st.sampled_from([128, 127]),
    center=st.sampled_from([True, False, "same"]),
    look_ahead=st.integers(0, 4),
)
def test_a_stream_ends_as_the_inverse_transform_does(length, hop_length, n_fft, center, look_ahead):
    """With known phase and no iterations, a stream is the inverse, except where the window sum is small."""
    hop_length = min(hop_length, n_fft)
    transform = rtspecinv.STFT(n_fft, hop_length, center=center, window="hamming", dtype=torch.float64)
    spectrum = transform.analyze(CLIP[:length].double())
    assert transform.count_frames(length) == spectrum.shape[-1]
    options = {"init": "overlap", "look_ahead": look_ahead, "revise": 0, "n_iter": 0, "engine": "eager"}
    inverter = StreamingInverter(transform, **options)
    pushed = inverter.push_many(spectrum)
    heard = torch.cat([pushed, inverter.flush(max(0, inverter.latency + length - pushed.shape[-1]))], -1)
    expected = transform.synthesize(spectrum, length)
    heard = heard[inverter.latency :][:length]
    assert heard.shape == expected.shape
    envelopes = transform.envelope.expand(spectrum.shape[-1], -1)
    covered = transform.overlap_add(envelopes)[transform.padding :][:length] > 0.04
    inside = torch.nn.functional.pad(covered, (0, length - len(covered)))
    torch.testing.assert_close(heard[inside], expected[inside], rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(0, 900),
    n_frames=st.integers(1, 20),
    n_pushed=st.integers(0, 20),
    batch=st.sampled_from([(), (2,)]),
)
def test_flush_returns_the_requested_length_and_begins_with_the_default_samples(
    length, n_frames, n_pushed, batch
):
    transform = rtspecinv.STFT(64, 16)
    frames = transform.magnitude(CLIP[: 16 * 20])[:, :n_frames].expand(*batch, -1, -1)
    inverter = StreamingInverter(transform, n_iter=1, batch_shape=batch)
    inverter.push_many(frames)
    usual = inverter.flush()
    inverter.push_many(frames)
    asked = inverter.flush(length)
    assert asked.shape == (*batch, length)
    n = min(length, usual.shape[-1])
    assert torch.equal(asked[..., :n], usual[..., :n])
    assert not asked[..., usual.shape[-1] + transform.padding :].any()
    assert not inverter.flush().any()


@pytest.mark.parametrize("length", [-1, 1.5, True])
def test_invalid_lengths_are_rejected(length):
    inverter = StreamingInverter(rtspecinv.STFT(64, 16))
    with pytest.raises(ValueError, match="n_samples="):
        inverter.flush(length)


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 2000), cut=st.integers(0, 300), told=st.booleans())
def test_play_writes_a_length(length, cut, told):
    """The samples equal those without a length; the length may be a function that returns it late."""
    transform = rtspecinv.STFT(64, 16)
    frames = transform.magnitude(CLIP[:1000]).unbind(-1)
    inverter = StreamingInverter(transform, n_iter=1)
    usual, sink = ArraySink(), ArraySink()
    play(frames, inverter, usual)
    n_asked = 0

    def late() -> int | None:
        nonlocal n_asked
        n_asked += 1
        return length if n_asked > 2 else None

    done = play(frames, inverter, sink, length=late if told else length)
    n = min(length, len(usual.samples))
    assert done.n_samples == len(sink.samples) == length
    np.testing.assert_array_equal(sink.samples[:n], usual.samples[:n])


def test_a_player_ends_at_a_length_and_may_begin_again():
    transform = rtspecinv.STFT(64, 16)
    frames = transform.magnitude(CLIP[:1000]).unbind(-1)
    expected, sink = ArraySink(), ArraySink()
    play(frames, StreamingInverter(transform, n_iter=1), expected, length=1000)
    with Player(StreamingInverter(transform, n_iter=1), sink, length=1000) as player:
        for _ in range(2):
            for frame in frames:
                player.push(frame)
            player.drain()
    np.testing.assert_array_equal(sink.samples, np.tile(expected.samples, 2))


@settings(deadline=None, max_examples=12)
@given(length=st.integers(6000, 9000), center=st.sampled_from([True, False, "same"]), hop=st.integers(20, 64))
def test_blocks_have_a_length_and_are_good_to_its_end(length, center, hop):
    transform = rtspecinv.STFT(128, hop, center=center)
    target = transform.magnitude(CLIP[:length])
    block_frames = 4 * max(32, 2 * (transform.look_back + 1))
    pieces = rtspecinv.invert_blocks(
        target.unbind(-1), transform, block_frames=block_frames, n_iter=2, length=length
    )
    samples = torch.cat(list(pieces), -1)
    assert samples.shape == (length,)
    again = transform.magnitude(samples)
    assert again.shape == target.shape
    last = slice(-3, None)
    assert float(rtspecinv.metrics.sc(again, target)) < -15
    assert float((again[:, last] - target[:, last]).norm() / target[:, last].norm()) < 0.5


# -- files ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=24)
@given(
    length=st.integers(600, 2000),
    hop=st.integers(20, 64),
    center=st.sampled_from([True, False, "same"]),
    suffix=st.sampled_from([".npz", ".pt", ".safetensors", ".png", ".tiff"]),
    onesided=st.booleans(),
)
def test_files_store_the_length(tmp_path_factory, length, hop, center, suffix, onesided):
    path = tmp_path_factory.mktemp("length") / f"a{suffix}"
    transform = rtspecinv.STFT(128, hop, center=center, onesided=onesided)
    values = transform.magnitude(CLIP[:length])
    rtspecinv.save_spectrogram(path, values, transform, sample_rate=SAMPLE_RATE, length=length)
    assert rtspecinv.open_spectrogram(path).n_samples == length
    assert listen(path, n_iter=1, output=ArraySink()).samples.shape == (length,)
    assert listen(path, n_iter=1, length=777, output=ArraySink()).samples.shape == (777,)
    output = path.with_name("b.wav")
    assert main(["invert", str(path), "-o", str(output), "--n-iter", "1"]) == 0
    assert n_samples(output) == length


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_command_line_keeps_the_length(tmp_path, method):
    transform = rtspecinv.STFT(256, 64)
    values = transform.magnitude(CLIP[:2600])
    rtspecinv.save_spectrogram(tmp_path / "a.npz", values, transform, sample_rate=SAMPLE_RATE, length=2600)
    options = ["--method", method, "--n-iter", "2"]
    assert main(["invert", str(tmp_path / "a.npz"), "-o", str(tmp_path / "a.wav"), *options]) == 0
    assert main(["invert", str(tmp_path), "-o", str(tmp_path / "out"), *options]) == 0
    assert n_samples(tmp_path / "a.wav") == n_samples(tmp_path / "out/a.wav") == 2600


def test_a_length_of_other_frames_is_ignored(tmp_path):
    """Such a file was cut or is wrong; a terabyte of silence would follow otherwise."""
    values = rtspecinv.STFT(64, 16).magnitude(CLIP[:1000])
    for n, wrong in ((40, 1000), (63, 2**39)):
        np.savez(tmp_path / "a.npz", magnitude=values[:, :n], sample_rate=8000, n_samples=wrong)
        with pytest.warns(UserWarning, match=rf"states n_samples={wrong}, which has \d+ frames, but.*{n}"):
            sound = listen(tmp_path / "a.npz", output=ArraySink())
        assert sound.samples.shape == ((n - 1) * 16,)
    np.savez(tmp_path / "a.npz", magnitude=values, sample_rate=8000, n_samples=2**41)
    with pytest.raises(ValueError, match="n_samples=2199023255552 is more than"):
        listen(tmp_path / "a.npz", output=ArraySink())


def test_samples_have_a_length_too():
    pieces = CLIP[:900].split(200)
    for length in (100, 200, 850, 1200):
        heard = listen(pieces, sample_rate=8000, length=length, output=ArraySink()).samples
        expected = torch.nn.functional.pad(CLIP[: min(900, length)], (0, max(0, length - 900)))
        np.testing.assert_array_equal(heard, expected)


# -- the command line ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=12)
@given(
    length=st.integers(800, 3000),
    hop=st.integers(40, 256),
    rate=st.sampled_from([1, 0.3, 0.5, 1.7, 3]),
    channels=st.integers(1, 2),
)
def test_play_is_as_long_as_the_recording(tmp_path_factory, length, hop, rate, channels):
    folder = tmp_path_factory.mktemp("play")
    soundfile.write(folder / "a.wav", CLIP[: length * channels].reshape(length, channels), 22050)
    args = ["--no-device", "--n-fft", "512", "--hop-length", str(hop), "--n-iter", "1", "--rate", str(rate)]
    assert main(["play", str(folder / "a.wav"), "-o", str(folder / "b.wav"), *args]) == 0
    assert n_samples(folder / "b.wav") == round(length / rate)


def test_play_faster_than_there_are_samples_plays_one(tmp_path):
    soundfile.write(tmp_path / "a.wav", CLIP[:300], 22050)
    args = [str(tmp_path / "a.wav"), "-o", str(tmp_path / "b.wav"), "--no-device", "--n-fft", "128"]
    assert main(["play", *args, "--hop-length", "32", "--rate", "1000"]) == 0
    assert n_samples(tmp_path / "b.wav") == 1


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_pictures_store_the_length(tmp_path, suffix):
    soundfile.write(tmp_path / "a.wav", CLIP[:22050], 22050)
    drawn, heard = str(tmp_path / f"a{suffix}"), tmp_path / "b.wav"
    assert main(["picture", str(tmp_path / "a.wav"), "-o", drawn, "--hop-length", "300"]) == 0
    expected = {"": 22050, "--seconds 0.4": 8820, "--hop-length 150": 11025, "--sample-rate 11025": 22050}
    for options, length in expected.items():
        assert main(["image", drawn, "-o", str(heard), "--n-iter", "1", *options.split()]) == 0
        assert n_samples(heard) == length
    assert main(["invert", drawn, "-o", str(heard), "--n-iter", "1"]) == 0
    assert n_samples(heard) == 22050


def test_an_inverter_with_the_old_flush_still_plays():
    """An inverter of a user need not support lengths if none is passed."""

    class Doubler:
        latency = 0

        def push(self, frame):
            return np.repeat(frame, 2)

        def flush(self, n_samples: int | None = None):
            return np.zeros(1, np.float32)

        def reset(self):
            pass

    sink = ArraySink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play([np.ones(3, np.float32)], Doubler(), sink)
    assert len(sink.samples) == 7


def test_a_recording_is_read_as_long_as_it_is(tmp_path):
    with FileSink(tmp_path / "a.ogg", 8000) as sink:
        sink.write(CLIP[:7777].numpy())
    heard = listen(tmp_path / "a.ogg", output=tmp_path / "b.flac")
    assert heard.samples.shape == (1, 7777)
    assert n_samples(tmp_path / "b.flac") == 7777
