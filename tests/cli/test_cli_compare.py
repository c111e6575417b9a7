"""Tests of `rtspecinv compare`: page, numbers and sounds agree, and the page fetches nothing."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import rtspecinv
from rtspecinv.audio import read_audio
from rtspecinv.cli import main
from rtspecinv.measure.clip import SAMPLE_RATE, render
from rtspecinv.measure.contest import CONTESTANTS
from rtspecinv.measure.plots import Curve, convergence_plot, small_picture, small_waveform

NAMES = [contestant.name for contestant in CONTESTANTS]
FIGURES = {
    "spectral_convergence_db": 2,
    "log_spectral_distance_db": 2,
    "pesq": 2,
    "estoi": 3,
    "real_time_factor": 3,
    "seconds": 2,
}


class Page(HTMLParser):
    """Addresses, table cells and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self.ids: set[str] = set()
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[name] for name in ("src", "href", "srcset") if name in values]
        self.ids |= {values["id"]} if "id" in values else set()
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("th", "td")

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[Path, str]:
    """Folder and output of a comparison of all methods, for a stereo file whose name contains markup."""
    folder = tmp_path_factory.mktemp("compare")
    clip = render()[20000:]
    soundfile.write(
        folder / "a <b> & 'c'.wav", np.stack([clip, 0.5 * clip], -1), SAMPLE_RATE, subtype="FLOAT"
    )
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        options = ["--seconds", "1.2", "--n-iter", "20", "--n-fft", "512", "--hop-length", "128"]
        status = main(["compare", str(folder / "a <b> & 'c'.wav"), "-o", str(folder / "report"), *options])
    assert status == 0
    return folder / "report", out.getvalue()


def shown(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def test_all_files_are_there(report):
    folder, out = report
    expected = {"index.html", "results.json", "original.wav", *(f"{name}.wav" for name in NAMES)}
    assert {path.name for path in folder.iterdir()} == expected
    assert out.endswith(f"written       {folder / 'index.html'}\n")


def test_page_terminal_and_numbers_agree(report):
    folder, out = report
    numbers = json.loads((folder / "results.json").read_text())
    assert (numbers["n_fft"], numbers["hop_length"], numbers["n_iter"]) == (512, 128, 20)
    assert [method["name"] for method in numbers["methods"]] == NAMES
    page = Page((folder / "index.html").read_text())
    rows = {row[0].lstrip("■▼◆●✖"): row[1:] for row in page.rows if len(row) == 1 + len(FIGURES)}
    printed = {line[:26].strip(): line[26:].split() for line in out.splitlines()}
    for method in numbers["methods"]:
        expected = [shown(method[key], digits) for key, digits in FIGURES.items()]
        assert rows[method["label"]] == expected
        assert printed[method["label"]] == expected
        assert method["name"] in page.ids
        assert method["curve"][-1][0] <= method["seconds"]
        seconds, levels = zip(*method["curve"], strict=True)
        assert list(seconds) == sorted(seconds)
        assert levels[-1] == pytest.approx(method["spectral_convergence_db"], abs=0.01)


def test_numbers_are_those_of_the_sounds(report):
    folder, _ = report
    stft = rtspecinv.STFT(512, 128)
    original, rate = read_audio(folder / "original.wav")
    assert (rate, original.shape) == (SAMPLE_RATE, (1, round(1.2 * rate) // 128 * 128))
    wanted = stft.magnitude(torch.from_numpy(original))
    numbers = json.loads((folder / "results.json").read_text())
    for method in numbers["methods"]:
        samples = torch.from_numpy(read_audio(folder / method["file"])[0])
        assert samples.shape == original.shape
        convergence = float(rtspecinv.metrics.sc(stft.magnitude(samples)[..., 4:-4], wanted[..., 4:-4]))
        assert method["spectral_convergence_db"] == pytest.approx(convergence, abs=0.1)
        assert method["real_time_factor"] == pytest.approx(method["seconds"] / numbers["seconds"])
    scores = {method["name"]: method["spectral_convergence_db"] for method in numbers["methods"]}
    assert scores["agla"] < scores["stream-3"] < scores["stream-0"] < scores["peaks"]


def test_the_page_contains_everything_that_it_shows(report):
    folder, _ = report
    text = (folder / "index.html").read_text()
    page = Page(text)
    assert "a &lt;b&gt; &amp; &#39;c&#39;.wav" in text
    assert "<b> & 'c'" not in text
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[\w+/=]+", "", text))
    kinds = {"image/png": 0, "image/svg+xml": 0, "audio/flac": 0}
    for address in page.addresses:
        if address.startswith("#"):
            assert address[1:] in page.ids
        elif not address.startswith("data:"):
            assert (folder / address).is_file()
        else:
            kind, content = re.fullmatch(r"data:([\w/+]+);base64,([\w+/=]+)", address).groups()
            data = base64.b64decode(content)
            kinds[kind] += 1
            if kind == "image/png":
                image = Image.open(io.BytesIO(data))
                image.load()
                assert min(image.size) > 100 or image.size == (480, 48)  # a waveform
            elif kind == "audio/flac":
                assert len(soundfile.read(io.BytesIO(data))[0]) == soundfile.info(folder / "dm.wav").frames
            else:
                assert b"<svg" in data
    n_methods = len(NAMES)
    assert kinds == {"image/png": 2 + 3 * n_methods, "image/svg+xml": 2, "audio/flac": 1 + n_methods}


def test_some_methods_without_extras(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rtspecinv.cli._page.PAGE_SECONDS", 0.25)
    soundfile.write("a.wav", render()[:12000], SAMPLE_RATE)
    for name in ("pesq", "pystoi"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["compare", "a.wav", "--methods", "peaks, stream-0", "--n-iter", "0"]) == 0
    err = capsys.readouterr().err.splitlines()
    assert err == [
        'rtspecinv: PESQ needs pesq, which compiles C: pip install "rtspecinv[pesq]"; its column stays empty',
        'rtspecinv: ESTOI needs pystoi: pip install "rtspecinv[bench]"; its column stays empty',
    ]
    text = Path("rtspecinv-report/index.html").read_text()
    assert "rtspecinv[pesq]" in text
    assert "rtspecinv[bench]" in text
    assert "plays the first 0.25 seconds" in text
    numbers = json.loads(Path("rtspecinv-report/results.json").read_text())
    assert [method["name"] for method in numbers["methods"]] == ["stream-0", "peaks"]
    assert all(method["pesq"] is None and method["estoi"] is None for method in numbers["methods"])


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("jinja2", 'Reports need jinja2: pip install "rtspecinv[report]"'),
        ("matplotlib.figure", 'Pictures need matplotlib: pip install "rtspecinv[plot]"'),
    ],
)
def test_a_missing_extra_is_reported_first(tmp_path, capsys, monkeypatch, module, line):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    for name in ("rtspecinv.cli._page", "rtspecinv.measure.plots"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("rtspecinv.cli._page", raising=False)
    soundfile.write("a.wav", render()[:12000], SAMPLE_RATE)
    assert main(["compare", "a.wav"]) == 1
    assert capsys.readouterr() == ("", f"rtspecinv: error: {line}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("none.wav", "There is no file none.wav"),
        ("a.wav --methods fgla,magic", "'magic', which is not one of rtisi-la, stream-0"),
        ("a.wav --methods ,", "methods is empty"),
        ("a.wav --seconds 0", "seconds=0.0 is not a finite number > 0"),
        ("a.wav --seconds nan", "seconds=nan"),
        ("a.wav --n-iter -1", "n_iter=-1"),
        ("a.wav --seconds 0.01", "220 samples are too few for n_fft=1024"),
        ("a.wav -o a.wav", "a.wav is a file: name a folder for the report"),
        ("silence.wav", "silence.wav is silent"),
        ("long.wav", "long.wav is longer than 5 minutes: use its beginning"),
    ],
)
def test_refused_in_one_line(tmp_path, capsys, monkeypatch, command, message):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", np.ones(12000), SAMPLE_RATE)
    soundfile.write("silence.wav", np.zeros(12000), SAMPLE_RATE)
    soundfile.write("long.wav", np.ones(1000 * 302), 1000)
    before = sorted(tmp_path.iterdir())
    assert main(["compare", *command.split()]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("rtspecinv: error: ")
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_recording_in_the_report_is_not_overwritten(tmp_path, capsys):
    soundfile.write(tmp_path / "original.wav", render()[:12000], SAMPLE_RATE)
    before = (tmp_path / "original.wav").read_bytes()
    assert main(["compare", str(tmp_path / "original.wav"), "-o", str(tmp_path)]) == 1
    assert "is the input: choose another name" in capsys.readouterr().err
    assert (tmp_path / "original.wav").read_bytes() == before


# -- its parts --


def test_small_picture_shows_the_levels():
    magnitude = np.ones((300, 1000))
    magnitude[:150] = 1e-2
    image = Image.open(io.BytesIO(small_picture(magnitude, reference=1.0)))
    assert image.size == (480, 160)
    pixels = np.asarray(image)
    assert (pixels[:79] == 63).all()  # high frequencies are on top; 0 dB is the last colour
    assert (pixels[81:] == round(63 / 2)).all()  # -40 of 80 dB is in the middle
    silent = Image.open(io.BytesIO(small_picture(np.zeros((3, 5)), reference=0.0)))
    assert silent.size == (5, 3)
    assert not np.asarray(silent).any()


def test_small_waveform_shows_the_envelope():
    samples = np.concatenate([np.zeros(4000), np.tile([0.5, -0.25], 2000)])
    pixels = np.asarray(Image.open(io.BytesIO(small_waveform(samples, color="#102030"))).convert("RGBA"))
    assert pixels.shape == (48, 480, 4)
    opaque = pixels[..., 3] > 0
    assert (pixels[opaque][:, :3] == (0x10, 0x20, 0x30)).all()
    assert 1 <= opaque[:, 0].sum() <= 2  # silence is a line
    assert 18 <= opaque[:, -1].sum() <= 20
    assert abs(np.flatnonzero(opaque[:, -1])[0] - 12) <= 1  # 0.5 is a quarter from the top
    with pytest.raises(ValueError, match="waveform must have"):
        small_waveform(np.zeros((2, 3)), color="#102030")


def test_plot_is_always_the_same():
    curves = [Curve([(0.1, -3.0), (0.2, -4.0)], "#ff0000", dashed=True), Curve([(0.1, -3.0)], "#00ff00")]
    pictures = [convergence_plot(curves, dark=dark) for dark in (False, False, True)]
    assert pictures[0] == pictures[1] != pictures[2]
    assert b"#ff0000" in pictures[0]


def test_speech_scores_distinguish_good_bad_and_silent_results():
    pytest.importorskip("pystoi")
    clip = render()[20000:64000]
    noisy = clip + 0.1 * np.random.default_rng(0).standard_normal(len(clip)).astype(np.float32)
    measures = [rtspecinv.metrics.estoi]
    try:
        import pesq  # noqa: F401
    except ImportError:
        pass
    else:
        measures.append(rtspecinv.metrics.pesq)
    for measure in measures:
        assert measure(clip, clip, SAMPLE_RATE) > 0.99
        assert measure(noisy, clip, SAMPLE_RATE) < measure(0.9 * clip, clip, SAMPLE_RATE) - 0.1
        assert math.isnan(measure(np.zeros(44000), np.zeros(44000), SAMPLE_RATE))
        assert math.isnan(measure(clip[:1000], clip[:1000], SAMPLE_RATE))
