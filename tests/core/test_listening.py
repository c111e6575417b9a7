"""Tests of `listen`: all kinds of input, on a device, in a notebook and in a file."""

from __future__ import annotations

import io
import sys
import types
import wave

import numpy as np
import pytest
import torch

import rtspecinv
from rtspecinv import ArraySink, Sound, listen
from rtspecinv.audio import DeviceError
from rtspecinv.measure.clip import SAMPLE_RATE, render
from rtspecinv.metrics import spectral_convergence

CLIP = torch.from_numpy(render())[:SAMPLE_RATE]
PRESET = rtspecinv.presets["hifigan-22k"]
MEL = PRESET(CLIP)
STFT = rtspecinv.STFT(1024, 256)


@pytest.fixture(autouse=True)
def no_device(monkeypatch, tmp_path):
    """Simulate a machine without a sound card, in an empty folder."""

    def refuse(*args, **options):
        raise DeviceError("There is no sound device to play on")

    monkeypatch.setattr("rtspecinv.listening.SoundDeviceSink", refuse)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return listen(MEL, preset="hifigan-22k", output=ArraySink()).samples


def test_mel_frames_are_heard(expected):
    assert expected.dtype == np.float32
    assert expected.ndim == 1
    assert abs(len(expected) - len(CLIP)) < 256
    again = PRESET.linear(torch.from_numpy(expected))
    target = PRESET.linear(CLIP)[:, : again.shape[-1]]
    assert float(spectral_convergence(again, target)) < -15


@pytest.mark.parametrize(
    "sound",
    [
        MEL.numpy(),
        MEL.clone().requires_grad_(),
        MEL.double(),
        np.asfortranarray(MEL.numpy()),
        list(MEL.unbind(-1)),
        iter(torch.split(MEL, 7, -1)),
        (frame.numpy() for frame in MEL.unbind(-1)),
        MEL[None],
    ],
)
def test_every_kind_of_input_gives_the_same_sound(sound, expected):
    heard = listen(sound, preset=PRESET, output=ArraySink()).samples
    np.testing.assert_array_equal(heard.reshape(-1), expected)


def test_frames_first(expected):
    heard = listen(MEL.mT, preset=PRESET.config, layout="time-freq", output=ArraySink()).samples
    np.testing.assert_array_equal(heard, expected)


def test_in_a_training_loop(expected):
    """A half-precision tensor with a graph is played inside autocast; the global state does not change."""
    weight = torch.ones((), requires_grad=True)
    before = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        sound = listen(MEL * weight, preset="hifigan-22k", output=ArraySink())
        half = listen((MEL * weight).bfloat16(), preset="hifigan-22k", output=ArraySink())
    assert weight.grad is None
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(sound.samples, expected)
    assert half.samples.shape == expected.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: other devices are not tried here")
def test_tensors_on_another_device(expected):
    heard = listen(MEL.cuda(), preset="hifigan-22k", output=ArraySink()).samples
    np.testing.assert_array_equal(heard, expected)


def test_magnitudes_and_two_channels():
    magnitude = STFT.magnitude(torch.stack([CLIP, CLIP.flip(0)]))
    both = listen(magnitude, stft=STFT, sample_rate=SAMPLE_RATE, output=ArraySink()).samples
    one = listen(magnitude[1], stft=STFT, sample_rate=SAMPLE_RATE, output=ArraySink()).samples
    assert both.shape[0] == 2
    np.testing.assert_array_equal(both[1], one)


def test_samples_are_heard_as_they_are():
    np.testing.assert_array_equal(listen(CLIP, sample_rate=8000, output=ArraySink()).samples, CLIP)
    blocks = torch.split(torch.stack([CLIP, -CLIP]), 999, -1)
    np.testing.assert_array_equal(
        listen(blocks, sample_rate=8000, output=ArraySink()).samples, torch.stack([CLIP, -CLIP])
    )
    with pytest.warns(UserWarning, match="beyond full scale"):
        assert np.abs(listen(3 * CLIP, sample_rate=8000, output=ArraySink()).samples).max() == 1


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_files_contain_their_parameters(tmp_path, suffix, expected):
    path = tmp_path / f"a{suffix}"
    rtspecinv.save_spectrogram(path, MEL, "hifigan-22k", layout="time-freq")
    np.testing.assert_array_equal(listen(path, output=ArraySink()).samples, expected)


def test_a_sound_file_and_a_bare_array(tmp_path, expected):
    np.save(tmp_path / "a.npy", MEL.numpy())
    sound = listen(str(tmp_path / "a.npy"), preset="hifigan-22k", output=tmp_path / "a.flac")
    assert sound.path == tmp_path / "a.flac"
    samples, rate = rtspecinv.read_audio(tmp_path / "a.flac")
    np.testing.assert_allclose(samples[0], expected, atol=1 / 32767)
    again = listen(tmp_path / "a.flac", output=ArraySink())
    np.testing.assert_array_equal(again.samples, samples)
    assert again.sample_rate == rate == 22050


def test_without_a_device_a_new_file_is_written_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"no sound device.*rtspecinv-1\.wav") as remarks:
        first = listen(CLIP, sample_rate=8000)
    assert remarks[0].filename == __file__
    with pytest.warns(UserWarning, match=r"rtspecinv-2\.wav"):
        second = listen(CLIP, sample_rate=8000)
    assert first.path.exists()
    assert second.path.exists()
    with pytest.raises(DeviceError):
        listen(CLIP, sample_rate=8000, device="none such")


def test_with_a_device_it_plays(monkeypatch):
    played = ArraySink()
    monkeypatch.setattr("rtspecinv.listening.SoundDeviceSink", lambda rate, channels, device: played)
    sound = listen(CLIP, sample_rate=8000)
    assert sound.path is None
    np.testing.assert_array_equal(played.samples, CLIP)


def test_in_a_notebook_the_sound_is_a_player(monkeypatch, tmp_path):
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    sound = listen(torch.stack([CLIP, -CLIP]), sample_rate=8000)
    assert not list(tmp_path.iterdir())
    assert sound._repr_html_().startswith('<audio controls src="data:audio/wav;base64,UklGR')
    with wave.open(io.BytesIO(sound.wav)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 8000, len(CLIP))
        values = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    np.testing.assert_allclose(values[:, 0] / 32768, CLIP, atol=1 / 32768)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_player_has_what_a_file_has(tmp_path, channels):
    sound = listen(CLIP.expand(channels, -1), sample_rate=8000, output=tmp_path / "a.wav")
    assert sound.wav == (tmp_path / "a.wav").read_bytes()


@pytest.mark.parametrize("sample_rate", [10**9 + 1, 10**12, 10**30])
def test_a_rate_that_no_file_supports_is_rejected_before_the_first_sample(sample_rate):
    class Untouched(ArraySink):
        def write(self, samples):
            raise AssertionError("a sample was written")

    with pytest.raises(ValueError, match=f"sample_rate={sample_rate} is more than 1000000000"):
        listen(CLIP, sample_rate=sample_rate, output=Untouched())
    whole = listen(CLIP[:9], sample_rate=10**9, output=ArraySink()).wav
    with wave.open(io.BytesIO(whole)) as file:
        assert (file.getframerate(), file.getnframes()) == (10**9, 9)


def test_a_sound_that_wav_cannot_contain_is_an_error():
    sound = Sound(np.zeros((1025, 3), np.float32), 8000)
    with pytest.raises(ValueError, match="WAV with PCM_16 supports at most 1024 channels"):
        _ = sound.wav


def test_a_stream_that_fails_leaves_no_file(tmp_path):
    def frames():
        yield MEL[:, 0]
        yield MEL[:, 1] * torch.nan

    with pytest.raises(ValueError, match="nan"):
        listen(frames(), preset="hifigan-22k", output=tmp_path / "a.wav")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sound", "options", "error", "message"),
    [
        (MEL, {}, ValueError, r"pass preset= or stft=.*may be of hifigan-22k"),
        (CLIP, {}, ValueError, "sample_rate is missing"),
        (CLIP, {"sample_rate": 22050.5}, ValueError, r"sample_rate=22050\.5 is not an integer"),
        (3, {"sample_rate": 8000}, TypeError, "is a int: pass a tensor, array or file"),
        (MEL.mT, {"preset": "hifigan-22k"}, ValueError, "pass layout='time-freq'"),
        (MEL.expand(4, 2, -1, -1), {"preset": "hifigan-22k"}, ValueError, "pass one item of a batch"),
        (MEL, {"preset": "hifigan"}, KeyError, "hifigan-22k"),
        (MEL, {"preset": 22}, TypeError, "pass a name of"),
        (MEL, {"preset": "hifigan-22k", "stft": STFT}, ValueError, "are both given"),
        (MEL, {"preset": "hifigan-22k", "sample_rate": 24000}, ValueError, "that of the preset"),
        (MEL, {"preset": "hifigan-22k", "layout": "tf"}, ValueError, "freq-time"),
        ([], {"preset": "hifigan-22k"}, ValueError, "pass samples or frames"),
        ([3], {"preset": "hifigan-22k"}, TypeError, "pass tensors or arrays"),
        ((CLIP * 9).int(), {"sample_rate": 8000}, TypeError, "int32"),
        (STFT.magnitude(CLIP), {"stft": STFT}, ValueError, "sample_rate is missing"),
        ("missing.npy", {}, FileNotFoundError, "missing"),
    ],
)
def test_errors_name_the_reason(sound, options, error, message):
    with pytest.raises(error, match=message):
        listen(sound, **options)


@pytest.mark.parametrize("card", ["patient"], indirect=True)
def test_a_real_device_plays_it(card, monkeypatch, recwarn):
    monkeypatch.setattr("rtspecinv.listening.SoundDeviceSink", rtspecinv.SoundDeviceSink)
    sound = listen(CLIP, sample_rate=48000)  # the virtual card supports one rate
    assert sound.path is None
    assert not recwarn.list
    np.testing.assert_array_equal(sound.samples, CLIP)
