"""Tests of `rtspecinv invert`: all methods, files, folders and error messages."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import forked

import rtspecinv
from rtspecinv.audio import read_audio
from rtspecinv.cli import main
from rtspecinv.cli._names import METHODS
from rtspecinv.measure.clip import SAMPLE_RATE, render

STFT = rtspecinv.STFT(512, 128)
CLIP = torch.from_numpy(render())
QUICK = ("invert", "--method", "stream", "--n-iter", "1")


def magnitude(n_samples: int = 20000, channels: int = 1) -> torch.Tensor:
    """Return magnitudes of the demo clip, of another part in each channel, `(channels, n_freq, n_frames)`."""
    return STFT.magnitude(torch.stack([CLIP[12000 * (1 + i) :][:n_samples] for i in range(channels)]))


def store(path: Path, values: torch.Tensor, **settings: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    named: dict[str, Any] = {"sample_rate": SAMPLE_RATE, "hop_length": 128, **settings}
    np.savez(path, magnitude=values.numpy(), **named)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Folder `in` with three spectrograms, one of them in a sub-folder, and other files."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("b.npz", "a.NPZ", "sub/deep.er/a.npz")):
        store(Path("in") / (name + ".npz"), magnitude(2000 + 1000 * i))
        (Path("in") / (name + ".npz")).rename(Path("in") / name)
    Path("in/notes.txt").write_text("not a spectrogram")
    store(Path("in/.hidden.npz"), magnitude(2000))
    return Path("in")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_good_sound(tmp_path, capsys, method):
    wanted = magnitude(12000, channels=2)
    store(tmp_path / "a.npz", wanted)
    n_iter = "8" if method == "stream" else "30"
    output = tmp_path / "b.wav"
    options = ["--method", method, "--n-iter", n_iter]
    assert main(["invert", str(tmp_path / "a.npz"), "-o", str(output), *options]) == 0
    samples, rate = read_audio(output)
    assert (rate, samples.shape) == (SAMPLE_RATE, (2, (wanted.shape[-1] - 1) * 128))
    convergence = float(rtspecinv.metrics.sc(STFT.magnitude(torch.from_numpy(samples)), wanted))
    assert convergence < -20
    out = capsys.readouterr().out
    assert float(re.search(r"convergence +(-\d+\.\d) dB", out).group(1)) == pytest.approx(
        convergence, abs=0.1
    )
    assert f"{n_iter} iterations" in out
    assert out.endswith(f"written       {output}\n")


def test_mel_frames_are_a_stream(tmp_path, monkeypatch, capsys):
    """The file may store the configuration, or be plain with frames first, or be in a folder."""
    monkeypatch.chdir(tmp_path)
    mel = rtspecinv.presets["hifigan-22k"](CLIP[12000:20000])
    Path("in").mkdir()
    rtspecinv.save_spectrogram("in/a.npz", mel, "hifigan-22k")
    np.save("a.npy", mel.mT.numpy())
    bare = ["a.npy", "--preset", "hifigan-22k", "--layout", "time-freq", "-o", "bare.wav"]
    for command in (["in/a.npz", "-o", "named.wav"], bare, ["in", "-o", "out"]):
        assert main(["invert", *command]) == 0
    assert "s of mel frames, as a stream" in capsys.readouterr().out
    assert main(["invert", "in/a.npz", "-o", "few.wav", "--n-iter", "0"]) == 0
    wanted = rtspecinv.listen(mel, preset="hifigan-22k", output=rtspecinv.ArraySink()).samples
    named, *others = (read_audio(name)[0][0] for name in ("named.wav", "bare.wav", "out/a.wav", "few.wav"))
    assert np.abs(named - wanted).max() < 1e-4
    assert np.array_equal(named, others[0])
    assert np.array_equal(named, others[1])
    assert np.abs(named - others[2]).max() > 1e-2


@pytest.mark.parametrize("channels", [1, 3])
def test_mel_frames_by_lbfgs(tmp_path, monkeypatch, capsys, channels):
    """The result is nearer to the mel frames than that of the stream, and more iterations bring it nearer."""
    monkeypatch.chdir(tmp_path)
    preset = rtspecinv.presets["hifigan-22k"]
    samples = torch.stack([CLIP[12000 * (1 + i) :][: 256 * 30] for i in range(channels)])
    mel = preset(samples)
    Path("in").mkdir()
    rtspecinv.save_spectrogram("in/a.npz", mel, preset, layout="time-freq")
    for command in (["--n-iter", "20"], ["--n-iter", "0"]):
        assert main(["invert", "in/a.npz", "-o", f"{command[1]}.wav", "--method", "lbfgs", *command]) == 0
    out = capsys.readouterr().out
    assert "0.35 s of mel frames, lbfgs, 20 iterations" in out
    said = [float(number) for number in re.findall(r"convergence +(-\d+\.\d) dB", out)]
    heard, start = (torch.from_numpy(read_audio(name)[0]) for name in ("20.wav", "0.wav"))
    assert heard.shape == samples.shape
    found = [float(rtspecinv.metrics.sc(preset.linear(x), preset.expand(mel))) for x in (heard, start)]
    assert said == pytest.approx(found, abs=0.2)
    assert found[0] < found[1] - 3
    assert main(["invert", "in", "-o", "out", "--method", "lbfgs", "--n-iter", "20"]) == 0
    assert np.array_equal(read_audio("out/a.wav")[0], heard.numpy())


def test_lbfgs_reports_unsupported_options_and_clipping(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    preset = rtspecinv.presets["hifigan-22k"]
    mel = preset(CLIP[12000:18000])
    rtspecinv.save_spectrogram("short.npz", mel[:, :1], preset)
    command = ["invert", "short.npz", "-o", "a.wav", "--method"]
    assert main([*command, "lbfgs"]) == 1
    assert "1 frames, too few for lbfgs with n_fft=1024: use --method stream" in capsys.readouterr().err
    assert main([*command, "stream"]) == 0
    rtspecinv.save_spectrogram("loud.npz", mel + 4, preset)
    assert main(["invert", "loud.npz", "-o", "a.wav", "--method", "lbfgs", "--n-iter", "2"]) == 0
    assert "were beyond full scale and are clipped in a.wav" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["stream", "lbfgs"])
def test_frames_that_whisper_drops_are_heard(tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    mel = rtspecinv.presets["whisper"](0.3 * CLIP[:16000])
    np.save("a.npy", mel.numpy())
    command = ["invert", "a.npy", "-o", "a.wav", "--preset", "whisper", "--method", method, "--n-iter", "1"]
    assert main(command) == 0
    assert read_audio("a.wav")[0].shape == (1, 16000)


@pytest.mark.parametrize("suffix", [".json", ".toml"])
@pytest.mark.parametrize("method", ["stream", "lbfgs"])
def test_a_configuration_in_a_file(tmp_path, monkeypatch, suffix, method):
    """The mel frames are those of no preset, scaled to 0 to 1, and their file is written by hand."""
    monkeypatch.chdir(tmp_path)
    if suffix == ".toml" and sys.version_info < (3, 11):
        pytest.skip("Python 3.10 reads no TOML")
    text = {
        ".toml": """
            sample_rate = 16000
            fmin = 90
            fmax = 7600
            [compression]
            curve = "dB"
            floor = 1e-5
            gain = 0.01
            offset = 1
            clip = [0, 1]
        """,
        ".json": """{"sample_rate": 16000, "fmin": 90, "fmax": 7600, "compression":
            {"curve": "dB", "floor": 1e-5, "gain": 0.01, "offset": 1, "clip": [0, 1]}}""",
    }[suffix]
    Path(f"mine{suffix}").write_text(text)
    mel = rtspecinv.Mel(rtspecinv.MelConfig.load(f"mine{suffix}"))
    values = mel(CLIP[12000:24000])
    np.save("a.npy", values.mT.numpy())
    command = ["invert", "a.npy", "-o", "a.wav", "--preset", f"mine{suffix}", "--layout", "time-freq"]
    assert main([*command, "--method", method, "--n-iter", "8"]) == 0
    samples, rate = read_audio("a.wav")
    assert (rate, samples.shape) == (16000, (1, mel.length(values.shape[-1])))
    again = mel.linear(torch.from_numpy(samples[0]))
    assert rtspecinv.metrics.sc(again, mel.expand(values)) < -14


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"sample_rate": 16000, "n_mel": 80}',
            "mine.json: There is no parameter n_mel: did you mean n_mels?",
        ),
        ('{"sample_rate": 16000, "n_mels": 0}', "mine.json: Parameter n_mels=0 is not an integer >= 1"),
        ('{"n_mels": 80}', "mine.json: Parameter sample_rate is missing"),
        (None, "There is no file mine.json"),
    ],
)
def test_a_configuration_that_is_wrong(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("mine.json").write_text(text)
    np.save("a.npy", np.zeros((80, 9), np.float32))
    assert main(["invert", "a.npy", "-o", "a.wav", "--preset", "mine.json"]) == 1
    assert message in capsys.readouterr().err
    assert not Path("a.wav").exists()


def test_an_unknown_preset_is_rejected(capsys):
    with pytest.raises(SystemExit):
        main(["invert", "a.npy", "-o", "a.wav", "--preset", "hifigan22k"])
    assert (
        "is neither a preset nor a .json or .toml file; did you mean hifigan-22k?" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--preset whisper", "stores another mel configuration than the one that was given"),
        ("--n-fft 512", "not support --n-fft: leave it out"),
        ("--method stream --init peaks", "not support --init: leave it out"),
        ("--method stream --revise 2", "not support --revise: leave it out"),
        ("--method hybrid", "mel frames: use --method stream or --method lbfgs"),
        ("--method lbfgs --update raar", "--update is an option of --method stream, not of lbfgs"),
        ("--method lbfgs --n-iter -1", "n_iter=-1 is not an integer >= 0"),
        ("--method lbfgs --sample-rate 16000", "has mel frames of 22050 Hz: leave out --sample-rate"),
    ],
)
def test_options_that_mel_frames_do_not_support(tmp_path, capsys, options, message):
    rtspecinv.save_spectrogram(tmp_path / "a.npz", torch.zeros(80, 9), "hifigan-22k")
    output = tmp_path / "a.wav"
    assert main(["invert", str(tmp_path / "a.npz"), "-o", str(output), *options.split()]) == 1
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_the_default_is_agla_with_100_iterations(tmp_path, capsys):
    store(tmp_path / "a.npz", magnitude(3000))
    for name, options in (("a", []), ("b", ["--method", "agla", "--n-iter", "100"])):
        assert main(["invert", str(tmp_path / "a.npz"), "-o", str(tmp_path / f"{name}.wav"), *options]) == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert capsys.readouterr().out.count("agla, 100 iterations") == 2
    expected = rtspecinv.invert(magnitude(3000), STFT)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], expected, atol=1e-4)


def test_blocks_are_what_invert_blocks_gives_and_warn_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rtspecinv.blocks.BLOCK_FRAMES", 64)
    wanted = 1000 * magnitude(30000)
    store(tmp_path / "a.npz", wanted)
    assert main(["invert", str(tmp_path / "a.npz"), "-o", str(tmp_path / "b.wav"), "--n-iter", "2"]) == 0
    # overlap_frames are 32, and a block is at least four times as long
    with pytest.warns(UserWarning, match="power"):
        pieces = list(rtspecinv.invert_blocks(wanted.unbind(-1), STFT, block_frames=128, n_iter=2))
    assert len(pieces) > 2
    expected = torch.cat(pieces, -1).clamp(-1, 1)
    np.testing.assert_allclose(read_audio(tmp_path / "b.wav")[0], expected, atol=1e-4)
    err = capsys.readouterr().err
    # The stream and the batch run warn once, and not for every block.
    assert 1 <= err.count("if they are powers") <= 2
    assert "beyond full scale" in err


# -- folders --


def test_folder_keeps_names_and_resumes(folder, capsys):
    assert main([*QUICK, "in", "-o", "out"]) == 0
    assert files(Path("out")) == ["a.wav", "b.wav", "sub/deep.er/a.wav"]
    out, err = capsys.readouterr()
    written = re.findall(r"^written +(\S+)   real-time factor \d+\.\d{3}$", out, re.MULTILINE)
    assert sorted(written) == [str(Path("out") / name) for name in ("a.wav", "b.wav", "sub/deep.er/a.wav")]
    assert re.search(
        r"^speed +\d+\.\d files per second\n3 written, 0 skipped, 0 failed\n$", out, re.MULTILINE
    )
    assert err == ""
    assert read_audio(Path("out/sub/deep.er/a.wav"))[0].shape == (1, 4000 // 128 * 128)

    Path("out/b.wav").unlink()
    times = {name: (Path("out") / name).stat().st_mtime_ns for name in files(Path("out"))}
    assert main([*QUICK, "in", "-o", "out"]) == 0
    assert {name: (Path("out") / name).stat().st_mtime_ns for name in times} == times
    expected = "1 written, 2 skipped (already there: --overwrite writes them anew), 0 failed\n"
    assert capsys.readouterr().out.endswith(expected)
    assert main([*QUICK, "in", "-o", "out", "--overwrite"]) == 0
    assert capsys.readouterr().out.endswith("3 written, 0 skipped, 0 failed\n")
    assert all((Path("out") / name).stat().st_mtime_ns != before for name, before in times.items())


def test_a_bad_file_does_not_stop_the_others(folder, capsys):
    (folder / "aa.npy").write_text("hello")
    store(folder / "loud.npz", 1000 * magnitude(2000))
    assert main([*QUICK, "in", "-o", "out", "--format", "flac"]) == 1
    assert files(Path("out")) == ["a.flac", "b.flac", "loud.flac", "sub/deep.er/a.flac"]
    out, err = capsys.readouterr()
    assert out.endswith("4 written, 0 skipped, 1 failed\n")
    error, clipped, warning = sorted(
        err.splitlines(), key=lambda line: ("magnitudes" in line, "clipped" in line)
    )
    assert error.startswith(f"rtspecinv: error: {folder / 'aa.npy'}")
    assert warning.startswith(f"rtspecinv: warning: {folder / 'loud.npz'}: magnitudes up to")
    assert "beyond full scale" in clipped


@pytest.mark.parametrize(
    "options", [["--method", "stream"], ["--n-iter", "3"], ["--method", "lbfgs", "--n-iter", "2"]]
)
def test_folder_gives_the_bytes_of_single_files(tmp_path, monkeypatch, capsys, options):
    """The files have several lengths, transforms and channels; some have mel frames."""
    monkeypatch.chdir(tmp_path)
    for i, (n_samples, channels) in enumerate([(9000, 1), (3000, 2), (40000, 1), (5000, 9), (2000, 1)]):
        store(Path(f"in/{i}.npz"), 0.5 * magnitude(n_samples, channels))
    wide = rtspecinv.STFT(1024, 256).magnitude(0.3 * CLIP[20000:40000])
    store(Path("in/wide.npz"), wide, hop_length=256, n_samples=20000)
    rtspecinv.save_spectrogram(
        "in/mel.npz", rtspecinv.presets["hifigan-22k"](CLIP[20000:30000]), "hifigan-22k"
    )
    rtspecinv.save_spectrogram("in/speech.npz", rtspecinv.presets["coqui"](CLIP[20000:30000]), "coqui")
    assert main(["invert", "in", "-o", "out", "--measure", *options]) == 0
    together = dict(
        re.findall(r"^written +out/(\S+)\.wav   (-\d+\.\d) dB", capsys.readouterr().out, re.MULTILINE)
    )
    assert sorted(together) == sorted(path.stem for path in Path("in").iterdir())
    for name in together:
        assert main(["invert", f"in/{name}.npz", "-o", "one.wav", *options]) == 0
        assert Path("one.wav").read_bytes() == Path(f"out/{name}.wav").read_bytes(), name
        said = re.search(r"convergence +(\S+) dB", capsys.readouterr().out)
        assert said is None or abs(float(said[1]) - float(together[name])) < 0.11


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_bar_on_a_terminal(folder, capsys, monkeypatch, with_tqdm):
    monkeypatch.setattr("rtspecinv.cli._report.on_terminal", lambda: True)
    if not with_tqdm:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    assert main([*QUICK, "in", "-o", "out"]) == 0
    out, err = capsys.readouterr()
    assert out.count("written  ") == 3
    if with_tqdm:
        assert re.search(r"\d/3 \[", err)
    else:
        assert err == ('rtspecinv: the progress bar needs tqdm: pip install "rtspecinv[progress]"\n')


# -- errors --


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("in -o in", "in is the input: choose another name"),
        ("in -o in/notes.txt", "the output must be one too"),
        ("in -o out.wav", "in is a folder, so out.wav must be one"),
        ("in/sub -o empty", "in/sub/twins/a.npy and in/sub/twins/a.npz would both become empty/twins/a.wav"),
        (
            "in/sub/deep.er -o short.npz/out",
            "Cannot write into the folder short.npz/out (Not a directory): choose",
        ),
        ("empty -o out", "contains no spectrograms (.npy, .npz, .pt, .safetensors)"),
        ("in/b.npz -o out.wav --look-ahead 1", "--look-ahead is an option of --method stream, not of agla"),
        ("in/b.npz -o out.wav --method admm --update raar", "--update is an option of --method stream"),
        ("in/b.npz -o out.wav --n-iter -1", "n_iter=-1"),
        ("in/b.npz -o out.wav --overwrite", "--overwrite is for folders"),
        ("in/b.npz -o out.wav --measure", "--measure is for folders"),
        ("in/b.npz -o out.wav --format ogg", "--format is for folders"),
        ("in/b.npz -o empty", "its name must end in .wav, .flac, .ogg"),
        ("short.npz -o out.wav --method lbfgs", "3 frames, too few for lbfgs with n_fft=512: use --method"),
    ],
)
def test_refused_in_one_line(folder, capsys, command, message):
    Path("empty").mkdir()
    store(folder / "sub/twins/a.npz", magnitude(2000))
    np.save(folder / "sub/twins/a.npy", magnitude(2000).numpy())
    store(Path("short.npz"), magnitude(2000)[..., :3])
    before = files(Path())
    assert main(["invert", *command.split()]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert files(Path()) == before


def test_unknown_method_is_wrong_usage(folder, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["invert", "in/b.npz", "-o", "out.wav", "--method", "magic"])
    assert leaving.value.code == 2
    assert "invalid choice: 'magic'" in capsys.readouterr().err


def test_interrupted_folder_has_whole_files_only(folder):
    for i in range(40):
        store(folder / f"c{i:02}.npz", 0.5 * magnitude(60000))
    code = (
        "import signal, sys\n"
        "from rtspecinv.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(main())"
    )
    process = subprocess.Popen(
        forked([sys.executable, "-c", code, *QUICK, "in", "-o", "out"]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(300):
        if len(list(Path("out").glob("c*.wav"))) >= 2 and list(Path("out").glob(".*.part")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[1] == "rtspecinv: interrupted\n"
    assert process.returncode == 130
    names = files(Path("out"))
    assert 3 <= len(names) < 43
    assert not [name for name in names if name.endswith(".part")]
    for name in names:
        assert read_audio(Path("out") / name)[0].shape[-1] >= 1920
