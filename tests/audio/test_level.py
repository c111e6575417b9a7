"""Tests of the warnings about clipped, quiet, silent and empty sounds."""

from __future__ import annotations

import asyncio
import re
import sys
import types
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rtspecinv
from rtspecinv import ArraySink, FileSink, Player, StreamingInverter, listen, play, torch_specinv
from rtspecinv.audio.level import Level
from rtspecinv.cli import main

STFT = rtspecinv.STFT(512, 128)
LOUD = 1.6 * torch.sin(0.06 * torch.arange(9000))
PRESET = rtspecinv.presets["hifigan-22k"]


def told(call) -> list[str]:
    """Return the warnings of a call."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in heard]


def factor_of(message: str) -> float:
    return float(re.search(r"multiply the samples by ([\d.e+-]+) to avoid this", message).group(1))


@settings(deadline=None)
@given(
    values=st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), min_size=1, max_size=30
    ),
    cuts=st.lists(st.integers(0, 30), max_size=3),
)
def test_clipped_samples_are_counted_and_the_factor_avoids_them(values, cuts):
    samples = np.array(values, np.float32)
    level = Level()
    limited = [level.limit(part) for part in np.split(samples, sorted(cuts))]
    np.testing.assert_array_equal(np.concatenate(limited), samples.clip(-1, 1))
    assert level.clipped == (np.abs(samples) > 1).sum()
    assert (level.n_samples, level.peak) == (len(samples), np.abs(samples).max())
    said = told(lambda: level.warn("here"))
    assert len(said) == bool(level.clipped)
    if said:
        assert f"{level.clipped} of {len(samples)} samples" in said[0]
        factor = factor_of(said[0])
        assert 0.98 < factor * level.peak <= 1
        assert np.abs(samples.astype(np.float64) * factor).max() <= 1


@pytest.mark.parametrize("to", ["array", "wav", "flac", "notebook", "device"])
@pytest.mark.parametrize("kind", ["samples", "magnitudes", "mel"])
def test_listen_reports_clipped_samples(tmp_path, monkeypatch, to, kind):
    shell = types.SimpleNamespace(kernel=object())
    if to == "notebook":
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr("rtspecinv.listening.SoundDeviceSink", lambda *args, device: ArraySink())
    kinds: dict[str, tuple[torch.Tensor, dict[str, Any]]] = {
        "samples": (LOUD, {"sample_rate": 22050}),
        "magnitudes": (STFT.magnitude(LOUD), {"stft": STFT, "sample_rate": 22050}),
        "mel": (PRESET(LOUD / 3.2) + 1.5, {"preset": "hifigan-22k"}),
    }
    sound, how = kinds[kind]
    places: dict[str, Any] = {"array": ArraySink(), "wav": tmp_path / "a.wav", "flac": tmp_path / "a.flac"}
    with pytest.warns(UserWarning, match="beyond full scale") as remarks:
        heard = listen(sound, output=places.get(to), **how)
    assert len(remarks) == 1
    assert remarks[0].filename == __file__
    assert np.abs(heard.samples).max() == 1
    assert heard.clipped >= (np.abs(heard.samples) == 1).sum() > 1000
    assert f"{heard.clipped} of {heard.samples.size} samples" in str(remarks[0].message)
    if kind == "samples":
        assert heard.clipped == int((LOUD.abs() > 1).sum())
        assert not told(lambda: listen(sound * factor_of(str(remarks[0].message)), output=ArraySink(), **how))


def test_files_report_clipping_once_when_closed(tmp_path):
    frames = STFT.magnitude(LOUD).unbind(-1)

    def through_play():
        with FileSink(tmp_path / "a.wav", 22050) as sink:
            play(frames, StreamingInverter(STFT), sink)

    def through_player():
        with (
            FileSink(tmp_path / "b.wav", 22050) as sink,
            Player(StreamingInverter(STFT), sink) as player,
        ):
            for frame in frames:
                player.push(frame)

    def through_listen():
        with FileSink(tmp_path / "c.wav", 22050) as sink:
            listen(STFT.magnitude(LOUD), stft=STFT, sample_rate=22050, output=sink)

    for call in (through_play, through_player, through_listen):
        said = told(call)
        assert len(said) == 1
        assert re.match(r"\d+ of 8960 samples \(\d+\.\d\d%\) were beyond full scale", said[0])


def test_float_files_and_other_sinks_keep_samples_beyond_full_scale(tmp_path):
    def write():
        with FileSink(tmp_path / "a.wav", 22050, subtype="FLOAT") as sink:
            sink.write(LOUD)
        assert (sink.clipped, sink.level.peak) == (0, float(LOUD.abs().max()))

    assert not told(write)


def test_an_aborted_file_does_not_warn(tmp_path):
    def write():
        sink = FileSink(tmp_path / "a.wav", 22050)
        sink.write(LOUD)
        sink.abort()

    assert not told(write)


@pytest.mark.parametrize(
    "command", ["invert --method stream", "invert --n-iter 2", "image", "play --no-device"]
)
def test_the_command_line_warns_once(tmp_path, capsys, command):
    """A sound from a picture has the level of the recording, and is clipped too."""
    with FileSink(tmp_path / "loud.wav", 22050, subtype="FLOAT") as sink:
        sink.write(LOUD)
    rtspecinv.save_spectrogram(tmp_path / "a.npz", STFT.magnitude(LOUD), STFT, sample_rate=22050)
    assert main(["picture", str(tmp_path / "loud.wav"), "-o", str(tmp_path / "a.png")]) == 0
    name = {"invert": "a.npz", "image": "a.png", "play": "loud.wav"}[command.split()[0]]
    assert main([*command.split(), str(tmp_path / name), "-o", str(tmp_path / "b.wav")]) == 0
    err = capsys.readouterr().err
    assert err.count("beyond full scale") == err.count("rtspecinv: warning: ") == 1


# -- quiet, silent and empty sounds --------------------------------------------------------------------------


def test_a_far_too_quiet_result_is_reported_with_its_causes():
    magnitude = STFT.magnitude(LOUD / 4)
    scaled = magnitude / float(STFT.window.sum())
    how: dict[str, Any] = {"stft": STFT, "sample_rate": 22050, "output": ArraySink()}
    assert not told(lambda: listen(magnitude, **how))
    (said,) = told(lambda: listen(scaled, **how))
    assert re.search(r"largest sample is 0\.00\d+, 5\d dB below full scale and far below a usual level", said)
    option = re.search(r"scaling='(\w+)'", said).group(1)
    assert not told(lambda: listen(scaled, scaling=option, **how))
    heard = listen(scaled, scaling=option, **how).samples
    assert 0.3 < np.abs(heard).max() < 0.5
    (said,) = told(lambda: listen(magnitude * 1e-9, **how))
    assert "scaling" not in said


@pytest.mark.parametrize("method", ["stream", "agla"])
def test_the_command_line_reports_a_quiet_result(tmp_path, capsys, method):
    scaled = STFT.magnitude(LOUD / 4) / float(STFT.window.sum())
    for name, values in (("quiet", scaled), ("silent", 0 * scaled)):
        rtspecinv.save_spectrogram(tmp_path / f"{name}.npz", values, STFT, sample_rate=22050)
    command = ["--method", method, "--n-iter", "2"]
    for name, words in (("quiet", "--scaling spectrum"), ("silent", "the sound is silent")):
        one = [str(tmp_path / f"{name}.npz"), "-o", str(tmp_path / "b.wav")]
        assert main(["invert", *one, *command]) == 0
        err = capsys.readouterr().err
        assert words in err
        assert err.count("warning") == 1
    assert main(["invert", str(tmp_path / "quiet.npz"), "-o", str(tmp_path / "b.wav"), *command,
                 "--scaling", "spectrum"]) == 0  # fmt: skip
    assert capsys.readouterr().err == ""
    assert main(["invert", str(tmp_path), "-o", str(tmp_path / "out"), *command]) == 0
    assert capsys.readouterr().err.count("warning") == 2


def test_silence_is_reported():
    silent = torch.zeros(257, 9)
    (said,) = told(lambda: listen(silent, stft=STFT, sample_rate=8000, output=ArraySink()))
    assert "the sound is silent: every sample is 0, which is the result of magnitudes that are all 0" in said
    (said,) = told(lambda: listen(torch.zeros(900), sample_rate=8000, output=ArraySink()))
    assert said == "the sound is silent: every sample is 0"


@pytest.mark.parametrize("as_frames", [True, False])
def test_no_samples_is_an_error_with_a_reason(tmp_path, as_frames):
    one = STFT.magnitude(LOUD / 16)[:, :1]
    sound = [one[:, 0]] if as_frames else one
    how: dict[str, Any] = {"stft": STFT, "sample_rate": 8000}
    with pytest.raises(ValueError, match=r"too short: no samples result from 1 frame.*at least two"):
        listen(sound, output=tmp_path / "a.wav", **how)
    assert not list(tmp_path.iterdir())
    assert listen(torch.cat([one, one], -1), output=ArraySink(), **how).samples.shape == (128,)
    assert listen(sound, length=100, output=ArraySink(), **how).samples.shape == (100,)
    uncentred = rtspecinv.STFT(512, 128, center=False)
    assert listen(sound, stft=uncentred, sample_rate=8000, output=ArraySink()).samples.shape == (512,)
    with pytest.raises(ValueError, match="no samples"):
        listen(torch.zeros(0), sample_rate=8000, output=tmp_path / "a.wav")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "call",
    [
        lambda one: rtspecinv.invert(one, STFT),
        lambda one: rtspecinv.invert(one.expand(2, -1, 1), STFT),
        lambda one: rtspecinv.invert_many([one, one], STFT),
        lambda one: list(rtspecinv.invert_blocks(one.unbind(-1), STFT)),
        lambda one: torch_specinv.griffin_lim(one, n_fft=512, hop_length=128, verbose=False),
        lambda one: torch_specinv.RTISI_LA(one, n_fft=512, hop_length=128, verbose=False),
        lambda one: StreamingInverter(STFT).run(one),
        lambda one: rtspecinv.presets["tacotron2"].invert(torch.zeros(80, 1)),
    ],
    ids=["invert", "batch", "many", "blocks", "griffin_lim", "RTISI_LA", "run", "mel"],
)
def test_one_centred_frame_is_reported_to_cover_no_samples(call):
    (said,) = told(lambda: call(STFT.magnitude(LOUD)[:, :1]))
    assert re.match(r"no samples result from 1 frame.*at least two.*length=", said)


def test_a_length_or_frames_that_cover_samples_do_not_warn():
    one = STFT.magnitude(LOUD)[:, 20:21]
    assert not told(lambda: rtspecinv.invert(one, STFT, length=50))
    assert not told(lambda: rtspecinv.invert(one, STFT.with_center(False)))
    assert not told(lambda: rtspecinv.presets["tacotron2"].invert(torch.zeros(80, 1), length=50))


class Mute:
    """An inverter that returns silence for every frame."""

    latency, n_iter = 128, 0

    def check(self, magnitude) -> None: ...

    def reset(self) -> None: ...

    def push(self, magnitude) -> torch.Tensor:
        return torch.zeros(128)

    def flush(self, n_samples=128) -> torch.Tensor:
        return torch.zeros(n_samples)


def by_player(frames, inverter) -> None:
    with Player(inverter, ArraySink()) as player:
        for frame in frames:
            player.push(frame)


def by_async_player(frames, inverter) -> None:
    async def main() -> None:
        async with Player(inverter, ArraySink()) as player:
            for frame in frames:
                await player.push_async(frame)

    asyncio.run(main())


def by_play(frames, inverter) -> None:
    play(frames, inverter, ArraySink())


@pytest.mark.parametrize("as_array", [True, False])
@pytest.mark.parametrize("how", [by_play, by_player, by_async_player])
def test_silence_is_reported_if_frames_were_not_silent(how, as_array):
    tensors = STFT.magnitude(LOUD).unbind(-1)
    frames = [frame.numpy() for frame in tensors] if as_array else list(tensors)
    (said,) = told(lambda: how(frames, Mute()))
    assert said == "the sound is silent: every sample is 0"
    assert told(lambda: how([0 * frames[0]] * 4 + frames[:1], Mute())) == [said]
    assert not told(lambda: how([0 * frame for frame in frames], Mute()))
    assert not told(lambda: how([0 * frame for frame in frames], StreamingInverter(STFT)))
    assert not told(lambda: how(frames, StreamingInverter(STFT)))


@pytest.mark.parametrize("as_array", [True, False])
@pytest.mark.parametrize("how", [by_play, by_player, by_async_player])
def test_silent_mel_frames_do_not_warn(how, as_array, monkeypatch):
    """Silent mel frames have the value of the floor, not 0."""
    for sound in (torch.zeros(2000), LOUD[:2000] / 4):
        frames = list(PRESET(sound).unbind(-1))
        assert (frames[0] != 0).all()
        frames = [frame.numpy() for frame in frames] if as_array else frames
        assert not told(lambda frames=frames: how(frames, PRESET.inverter()))
    mute = PRESET.inverter()
    monkeypatch.setattr(mute, "push", lambda mel: torch.zeros(PRESET.stft.hop_length))
    (said,) = told(lambda: how(frames[:1] * 20, mute))
    assert said == "the sound is silent: every sample is 0"


def test_a_player_does_not_warn_of_dropped_frames():
    def use() -> None:
        with Player(Mute(), ArraySink()) as player:
            player.push(STFT.magnitude(LOUD)[:, 0])
            player.reset()
            player.push(torch.zeros(STFT.n_freq))

    assert not told(use)


def test_play_warns_of_frames_that_cover_no_samples():
    frame = STFT.magnitude(LOUD)[:, 0]
    with pytest.warns(UserWarning, match=r"no samples result from 1 frame.*length=") as remarks:
        play([frame], StreamingInverter(STFT), ArraySink())
    assert remarks[0].filename == __file__
    sink = ArraySink()
    play([frame], StreamingInverter(STFT), sink, length=50)
    assert len(sink.samples) == 50
