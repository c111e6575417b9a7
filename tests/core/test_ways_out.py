"""Tests of the advice in errors: each is read from the message and tried."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import rtspecinv
from rtspecinv import ArraySink, listen, open_spectrogram, torch_specinv
from rtspecinv.cli import main
from rtspecinv.files.images import write_image
from rtspecinv.measure.clip import render

CLIP = torch.from_numpy(render())[12000:20000]
QUICK = ("--sample-rate", "22050", "--n-iter", "1")


def refused(call, *arguments, **options) -> str:
    """Return the message of the error that a call raises."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call(*arguments, **options)
    return str(caught.value)


def invert(capsys, path, *options: str) -> str:
    """Return the text of the command line on stderr; raises if the command fails."""
    status = main(["invert", str(path), "-o", str(path.with_suffix(".wav")), *options])
    err = capsys.readouterr().err
    assert status == ("rtspecinv: error:" in err)
    return err


# -- odd n_fft -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_fft", [511, 1103, 63])
@pytest.mark.parametrize("name", ["griffin_lim", "ADMM", "RTISI_LA", "phase_init"])
@pytest.mark.parametrize("given", ["window", "win_length", "both"])
def test_an_odd_n_fft_is_known_by_its_window(n_fft, name, given):
    hop_length, window = n_fft // 4, torch.hann_window(n_fft)
    used = window if given != "win_length" else torch.ones(n_fft)
    spec = torch.stft(CLIP, n_fft, hop_length, window=used, return_complex=True).abs()
    settings: dict[str, Any] = {"window": {"window": window}, "win_length": {"win_length": n_fft}}
    settings["both"] = settings["window"] | settings["win_length"]
    options: dict[str, Any] = {} if name == "phase_init" else {"max_iter": 3, "verbose": False}
    result = getattr(rtspecinv.torch_specinv, name)(spec, hop_length=hop_length, **settings[given], **options)
    if name == "phase_init":
        assert result.shape == spec.shape
        return
    again = torch.stft(result, n_fft, hop_length, window=used, return_complex=True).abs()
    n_frames = min(again.shape[-1], spec.shape[-1])
    assert n_frames >= spec.shape[-1] - 1
    assert float(rtspecinv.metrics.sc(again[:, :n_frames], spec[:, :n_frames])) < -8


def test_a_window_of_another_length_is_rejected_with_the_right_parameter():
    said = refused(torch_specinv.griffin_lim, torch.rand(256, 9), window=torch.hann_window(300))
    win_length = int(re.search(r"pass win_length=(\d+)", said).group(1))
    window = torch.hann_window(300)
    options: dict[str, Any] = {"hop_length": 64, "max_iter": 1, "verbose": False}
    torch_specinv.griffin_lim(torch.rand(256, 9), window=window, win_length=win_length, **options)
    said = refused(torch_specinv.griffin_lim, torch.rand(256, 9), window=torch.hann_window(600))
    assert "longer than n_fft=510, in which it must fit" in said
    assert "pass win_length" not in said


@pytest.mark.parametrize("n_fft", [1103, 511, 63])
def test_odd_n_fft_on_the_command_line(tmp_path, capsys, n_fft):
    path = tmp_path / "a.npy"
    np.save(path, rtspecinv.STFT(n_fft, n_fft // 4).magnitude(CLIP).numpy())
    if n_fft == 1103:
        ways = re.search(r"give --n-fft (\d+) or (\d+)", invert(capsys, path, *QUICK)).groups()
        assert ways == ("1102", "1103")
        assert not any("error" in invert(capsys, path, *QUICK, "--n-fft", way) for way in ways)
    wrong = invert(capsys, path, *QUICK, "--n-fft", "400")
    way = re.search(r"(\d+)(?: if neither)? *(?:\(in Python stft=\))?$", wrong).group(1)
    assert int(way) == n_fft
    assert "error" not in invert(capsys, path, *QUICK, "--n-fft", way)
    np.savez(tmp_path / "b.npz", magnitude=np.load(path), win_length=n_fft, sample_rate=22050)
    assert open_spectrogram(tmp_path / "b.npz").settings()[0] == n_fft


# -- rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["no last", "two-sided"])
def test_the_error_for_a_power_of_two_rows_lists_all_meanings(tmp_path, capsys, kind):
    onesided = kind == "no last"
    values = rtspecinv.STFT(1024 if onesided else 512, 128, onesided=onesided).magnitude(CLIP).numpy()
    np.save(tmp_path / "a.npy", values[:512])
    said = invert(capsys, tmp_path / "a.npy", *QUICK)
    ways = re.findall(r"--n-fft (\d+)", said)
    assert ways == ["1024", "512", "1022"]
    for way in ways:
        err = invert(capsys, tmp_path / "a.npy", *QUICK, "--hop-length", "128", "--n-fft", way)
        assert "error" not in err


@pytest.mark.parametrize("n_rows", [32, 64, 40])
def test_another_stft_is_named(n_rows):
    values = np.random.default_rng(0).uniform(size=(2, n_rows, 9)).astype(np.float32)
    stft = rtspecinv.STFT(64, 16)
    said = refused(rtspecinv.invert, values, stft)
    if n_rows == 32:
        expression = re.search(r"pass (numpy\.pad\(.*\)), which makes it 0", said).group(1)
        padded = eval(expression, {"numpy": np, "magnitude": values})
        assert rtspecinv.invert(padded, stft, n_iter=1).shape == (2, 128)
        return
    n_fft = int(re.search(r"make the STFT with n_fft=(\d+)", said).group(1))
    other = rtspecinv.STFT(n_fft, 16, onesided="onesided=False" not in said)
    assert rtspecinv.invert(values, other, n_iter=1).shape == (2, 128)


# -- options of the command line -----------------------------------------------------------------------------


def advised(capsys, *command: str) -> list[str]:
    """Return the options that the error of a command recommends; the command fails without them."""
    assert main(list(command)) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return re.findall(r"--[a-z-]+ [\d./]+", said)


@pytest.fixture
def photo(tmp_path) -> tuple[str, ...]:
    write_image(tmp_path / "a.png", np.random.default_rng(0).uniform(0.1, 1, (9, 9)), {})
    return ("image", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.wav"), "--n-iter", "1")


@pytest.mark.parametrize("seconds", ["1e-300", "1e-9", "0.00002"])
@pytest.mark.parametrize("hop_length", ["512", "441", "1000"])
def test_a_picture_lasts_at_least_a_sample(photo, capsys, seconds, hop_length):
    command = (*photo, "--hop-length", hop_length, "--seconds")
    ways = advised(capsys, *command, seconds)
    assert len(ways) == 2
    way = ways[1].split()[1]
    assert main([*command, way]) == 0
    assert len(rtspecinv.read_audio(photo[3])[0][0]) == int(hop_length)


@pytest.mark.parametrize("seconds", ["1e5", "1e300", "1.7e308"])
def test_a_picture_does_not_last_longer_than_any_sound(photo, capsys, seconds):
    assert main([*photo, "--seconds", seconds]) == 1
    assert re.search(r"^rtspecinv: error: .*: use smaller --seconds", capsys.readouterr().err)


@pytest.mark.parametrize("n_fft", ["2", "3", "16", "47"])
def test_the_error_for_too_short_frames_of_a_picture_names_n_fft(photo, capsys, n_fft):
    ways = advised(capsys, *photo, "--seconds", "0.1", "--n-fft", n_fft)
    assert [way.split()[0] for way in ways] == ["--n-fft", "--n-fft", "--hop-length"]
    assert ways[1] == f"--n-fft {n_fft}"
    for way in (ways[:1], ways[1:]):
        assert main([*photo, "--seconds", "0.1", *" ".join(way).split()]) == 0


@pytest.mark.parametrize(
    ("n_samples", "given"),
    [
        (12000, ["--seconds", "1e-9"]),
        (12000, ["--seconds", "0.1"]),
        (12000, ["--seconds", "0.15", "--n-fft", "2000", "--hop-length", "333"]),
        (2000, []),
        (48 * 3, []),
        (5000, ["--n-fft", "8192"]),
        (12000, ["--n-fft", "8192", "--hop-length", "4096"]),
    ],
)
def test_too_few_samples_to_compare(tmp_path, capsys, n_samples, given):
    soundfile.write(tmp_path / "a.wav", CLIP[:n_samples].repeat(2)[:n_samples].numpy(), 22050)
    command = ["compare", str(tmp_path / "a.wav"), "-o", str(tmp_path / "out"), "--methods", "peaks", *given]
    (*ways,) = advised(capsys, *command)
    assert ways
    assert main([*command, *" ".join(ways).split()]) == 0


def test_too_few_samples_to_measure(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", CLIP[:2000].numpy(), 22050)
    command = ["bench", str(tmp_path / "a.wav"), "--engines", "eager", "--pushes", "1", "--streams", "1"]
    command += ["--device", "cpu", "--n-iter", "1"]
    (way,) = advised(capsys, *command)
    assert main([*command, *way.split()]) == 0


@pytest.mark.parametrize("text", ["nan", "-1", "inf", "1e300", "hi", ""])
@pytest.mark.parametrize("command", [["play", "a.wav", "--no-device"], ["live"]])
def test_a_latency_is_low_high_or_seconds(capsys, command, text):
    with pytest.raises(SystemExit) as leaving:
        main([*command, f"--latency={text}"])
    assert leaving.value.code == 2
    assert f"--latency: {text!r} is not low, high or seconds from 0 to 60" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--streams", "--n-iter", "--look-ahead", "--transforms"])
@pytest.mark.parametrize("text", ["x", "", "1,", "1.5", "1024/"])
def test_the_error_for_lists_of_bench_states_their_format(capsys, option, text):
    with pytest.raises(SystemExit) as leaving:
        main(["bench", f"{option}={text}"])
    assert leaving.value.code == 2
    said = capsys.readouterr().err
    assert f"argument {option}: {text!r} is not " in said
    assert "such as 1" in said


# -- pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["linear", "log", "mel"])
def test_a_picture_at_a_tenth_of_its_rate_is_ten_times_slower_and_lower(tmp_path, capsys, scale):
    rate = 384000
    soundfile.write(tmp_path / "bat.wav", 0.3 * np.sin(2 * np.pi * 55000 / rate * np.arange(40000)), rate)
    drawn, heard = str(tmp_path / "bat.png"), str(tmp_path / "slow.wav")
    assert main(["picture", str(tmp_path / "bat.wav"), "-o", drawn, "--scale", scale]) == 0
    for options in ([], ["--fmax", "19200"]):
        assert main(["image", drawn, "-o", heard, "--sample-rate", "38400", *options]) == 0
        samples, slow = rtspecinv.read_audio(heard)
        assert (slow, samples.shape[-1]) == (38400, 40000)
        spectrum = np.abs(np.fft.rfft(samples[0] * np.hanning(40000)))
        assert abs(np.argmax(spectrum) * slow / 40000 - 5500) < 60
    assert f"{'20' if scale == 'log' else '0'} to 19200 Hz" in capsys.readouterr().out.replace(
        "2 to", "20 to"
    )
    assert main(["image", drawn, "-o", heard, "--sample-rate", "38400", "--fmax", "30000"]) == 1
    err = capsys.readouterr().err
    assert "fmax=30000.0" in err
    way = re.search(r"< fmax <= (\d+), half of", err).group(1)
    assert main(["image", drawn, "-o", heard, "--sample-rate", "38400", "--fmax", way]) == 0


# -- files that are something else ---------------------------------------------------------------------------


def test_raw_values_are_not_an_npy_file(tmp_path):
    values = rtspecinv.STFT(64, 16).magnitude(CLIP).numpy()
    values.tofile(tmp_path / "a.npy")
    said = refused(open_spectrogram, tmp_path / "a.npy")
    assert "magic" not in said
    code = re.search(r"write one with (numpy\.save\('x\.npy', .*\))$", said).group(1)
    names = {"numpy": np, "path": tmp_path / "a.npy", "dtype": np.float32, "shape": values.shape}
    eval(code.replace("'x.npy'", repr(str(tmp_path / "x.npy"))), names)
    np.testing.assert_array_equal(
        np.stack(list(open_spectrogram(tmp_path / "x.npy").frames()), -1)[0], values
    )


def test_other_files_with_a_name_in_npy(tmp_path):
    values = np.ones((33, 5), np.float32)
    np.savez(tmp_path / "a.npz", magnitude=values)
    (tmp_path / "a.npz").rename(tmp_path / "b.npy")
    assert "give it a name in .npz" in refused(open_spectrogram, tmp_path / "b.npy")
    (tmp_path / "c.npy").touch()
    assert "it is empty, not an .npy file" in refused(open_spectrogram, tmp_path / "c.npy")
    np.save(tmp_path / "d.npy", values)
    whole = (tmp_path / "d.npy").read_bytes()
    (tmp_path / "d.npy").write_bytes(whole[:-100])
    said = refused(open_spectrogram, tmp_path / "d.npy")
    assert "it is cut off: shape (33, 5) of float32 takes 660 bytes, but it has 560" in said
    (tmp_path / "d.npy").write_bytes(whole)
    assert open_spectrogram(tmp_path / "d.npy").shape == (33, 5)


def test_numpy_arrays_in_a_pt_file(tmp_path):
    array, path = np.ones((33, 5), np.float32), tmp_path / "a.pt"
    torch.save({"magnitude": array}, path)
    said = refused(open_spectrogram, path)
    code = re.search(r"write tensors, (torch\.save\(.*, path\)), or", said).group(1)
    eval(code, {"torch": torch, "array": array, "path": path})
    assert open_spectrogram(path).shape == (33, 5)


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".mat", ".ark", ".csv", ".pkl", ".xyz"])
@pytest.mark.parametrize("options", [{}, {"stft": rtspecinv.STFT(64, 16)}, {"preset": "hifigan-22k"}])
def test_the_error_for_other_files_of_arrays_states_how_to_convert_them(tmp_path, capsys, suffix, options):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"whatever it is" * 100)
    said = refused(listen, path, sample_rate=8000, output=ArraySink(), **options)
    assert "leave out" not in said
    assert "numpy.save('x.npy', " in said
    assert "numpy.save('x.npy', " in invert(capsys, path, *QUICK)
    np.save(tmp_path / "x.npy", rtspecinv.STFT(64, 16).magnitude(CLIP).numpy())
    options = {"stft": rtspecinv.STFT(64, 16)}
    assert listen(tmp_path / "x.npy", sample_rate=8000, output=ArraySink(), **options).samples.any()


def test_a_sound_file_is_not_a_spectrogram(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", CLIP.numpy(), 22050)
    said = refused(listen, tmp_path / "a.wav", stft=rtspecinv.STFT(64, 16), output=ArraySink())
    assert "is a sound file: leave out preset, stft, array and scaling" in said
    assert len(listen(tmp_path / "a.wav", output=ArraySink()).samples[0]) == len(CLIP)
    path = tmp_path / "a.wav"
    assert main(["invert", str(path), "-o", str(tmp_path / "b.wav")]) == 1
    assert "`rtspecinv play` and `listen` play sound" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["play", "picture", "compare", "bench"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors", ".h5", ".csv", ".png"])
def test_the_error_for_a_file_that_is_not_sound_names_the_right_command(tmp_path, capsys, suffix, command):
    path, sound = tmp_path / f"a{suffix}", tmp_path / "a.wav"
    values = rtspecinv.STFT(64, 16).magnitude(CLIP).numpy()
    if suffix == ".npy":
        np.save(path, values)
    elif suffix == ".csv":
        np.savetxt(path, values)
    elif suffix == ".h5":
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    elif suffix == ".png":
        write_image(path, values[::-1] / values.max(), {})
    else:
        several(path, {"magnitude": values})
    needs = {"picture": ["-o", str(tmp_path / "b.png")], "compare": ["-o", str(tmp_path / "report")]}
    assert main([command, str(path), *needs.get(command, [])]) == 1
    said = capsys.readouterr().err
    way = re.search(r"`rtspecinv (\w+)`", said).group(1)
    options = ["--seconds", "0.5"] if re.search(r"with --seconds", said) else ["--sample-rate", "22050"]
    if (code := re.search(r"(numpy\.save\('x\.npy', (.*)\)), and invert", said)) is not None:
        loaded = values if suffix == ".h5" else eval(code.group(2), {"numpy": np, "path": path})
        path = tmp_path / "x.npy"
        np.save(path, loaded)
    assert main([way, str(path), "-o", str(sound), "--n-iter", "1", *options]) == 0
    assert rtspecinv.read_audio(sound)[0].any()


# -- transposed samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_array", [True, False])
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((8000, 2), "it is transposed"),
        ((8000, 1), "it is transposed"),
        ((6, 8000), "it has 6 channels"),
        ((8000, 6), "it is transposed"),
        ((3, 1000), "it has 3 channels"),
    ],
)
def test_the_error_for_transposed_channels_states_the_layout(shape, words, as_array):
    sound = CLIP[: 1000 * (shape[1] == 1000) + 8000 * (shape[1] != 1000)]
    sound = (sound[:, None] if shape[0] > shape[1] else sound[None]) * torch.ones(shape)
    said = refused(listen, sound.numpy() if as_array else sound, sample_rate=8000, output=ArraySink())
    assert words in said
    assert str(shape) in said
    for way in re.search(r"pass (sound.*?); for", said).group(1).split(", or "):
        heard = listen(eval(way, {"sound": sound}), sample_rate=8000, output=ArraySink()).samples
        assert heard.shape[-1] == max(shape)


# -- arrays by name ------------------------------------------------------------------------------------------


def several(path, arrays: dict[str, Any]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".pt":
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    else:
        from safetensors.numpy import save_file

        save_file(arrays, path)


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_arrays_are_chosen_by_name(tmp_path, capsys, suffix):
    first, second = (rtspecinv.STFT(64, 16).magnitude(gain * CLIP).numpy() for gain in (1.0, 0.3))
    path = tmp_path / f"a{suffix}"
    several(path, {"clean": first, "noisy": second})
    assert "--array NAME (in Python array=)" in refused(open_spectrogram, path)
    said = refused(open_spectrogram, path, array="none")
    names = re.search(r"has no array 'none'; it has (.*)$", said).group(1).split(", ")
    assert sorted(names) == ["clean", "noisy"]
    how: dict[str, Any] = {"sample_rate": 22050, "output": ArraySink()}
    heard = [listen(path, array=name, **how | {"output": ArraySink()}).samples for name in sorted(names)]
    assert np.abs(heard[0] - 0.3 * heard[0]).max() > 0.05
    np.testing.assert_allclose(np.std(heard[1]) / np.std(heard[0]), 0.3, rtol=0.2)
    for name in names:
        assert "error" not in invert(capsys, path, *QUICK, "--array", name)
    several(path, {"magnitude": first, "noisy": second[:, :9]})
    assert (open_spectrogram(path).n_frames, open_spectrogram(path, array="noisy").n_frames) == (501, 9)
    assert "error" in invert(capsys, path, *QUICK, "--array", "other")


def test_mel_arrays_are_chosen_by_name_too(tmp_path):
    mel = rtspecinv.presets["hifigan-22k"](CLIP)
    np.savez(tmp_path / "a.npz", predicted=mel.numpy(), target=mel.numpy()[:, :9])
    options: dict[str, Any] = {"preset": "hifigan-22k", "output": ArraySink()}
    assert len(listen(tmp_path / "a.npz", array="target", **options).samples) == 9 * 256


def test_names_in_errors_are_few_and_short(tmp_path):
    arrays: dict[str, Any] = {f"{'n' * 300}{i}": np.ones((3, 3), np.float32) for i in range(200)}
    np.savez(tmp_path / "a.npz", **arrays)
    assert len(refused(open_spectrogram, tmp_path / "a.npz")) < 1000
    said = refused(open_spectrogram, tmp_path / "a.npz", array="m" * 1000)
    assert len(said) < 1000
    assert said.endswith(", ...")


def test_files_with_one_array_have_no_names(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((33, 5), np.float32))
    torch.save(torch.ones(33, 5), tmp_path / "a.pt")
    write_image(tmp_path / "a.png", np.ones((9, 9)), {})
    for suffix in (".npy", ".pt", ".png"):
        assert "leave it out" in refused(open_spectrogram, tmp_path / f"a{suffix}", array="magnitude")
    assert "names an array in a file" in refused(listen, CLIP, array="magnitude", sample_rate=8000)


# -- leading axes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors"])
@pytest.mark.parametrize("layout", ["freq-time", "time-freq"])
@pytest.mark.parametrize("lead", [(1,), (1, 1), (1, 1, 1, 2), (1, 2)])
def test_leading_axes_of_one_are_left_out_of_files(tmp_path, suffix, layout, lead):
    values = rtspecinv.STFT(64, 16).magnitude(CLIP[:500]).numpy()
    lying = values if layout == "freq-time" else values.T
    array = np.broadcast_to(lying, (*lead, *lying.shape)).copy()
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    else:
        several(path, {"magnitude": array})
    found = open_spectrogram(path, layout=layout)
    assert (found.channels, found.n_freq, found.n_frames) == (lead[-1], 33, values.shape[1])
    for channel in np.stack(list(found.frames()), -1):
        np.testing.assert_array_equal(channel, values)
    heard = listen(path, layout=layout, sample_rate=8000, output=ArraySink()).samples
    assert heard.shape == ((2, 496) if lead[-1] == 2 else (496,))


@pytest.mark.parametrize("lead", [(1, 1), (1, 1, 1), (1, 2)])
def test_leading_axes_of_one_are_left_out_of_arrays(lead):
    mel = rtspecinv.presets["hifigan-22k"](CLIP)
    expected = listen(mel, preset="hifigan-22k", output=ArraySink()).samples
    heard = listen(mel.expand(*lead, -1, -1), preset="hifigan-22k", output=ArraySink()).samples
    assert heard.shape == (lead[-1], len(expected))
    np.testing.assert_allclose(heard[0], expected, atol=1e-4)
    samples = listen(CLIP.expand(*lead, -1), sample_rate=8000, output=ArraySink()).samples
    assert samples.shape == (lead[-1], len(CLIP))
