"""The page in Chromium: painted with the mouse, every block that is played compared with the hops sent.

One of the pages inverts by itself; what it plays is compared with hops that node makes of the same frames.

`npm ci --prefix tests/page` installs playwright-core, which drives the browser. On a busy machine a browser
is late as any program is. So equality of samples is always asked for, and silence is allowed only where a
round trip took longer than the ring; figures are printed with the load (pytest -s).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason='the extra is missing: pip install "rtspecinv[serve]"')
pytest.importorskip("rocket_fft", reason='the extra is missing: pip install "rtspecinv[fast]"')

import served

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LEAST_NODE = 20
N_STROKES = 5
MOST_MS = 130.0  # largest delay from the brush to the sound
Found = dict[str, Any]


def why_not() -> str:
    """Return what this machine lacks, and the command that installs it; empty if nothing is missing."""
    if not shutil.which("node"):
        return f"node is missing: install Node.js {LEAST_NODE} or newer (apt-get install nodejs npm)"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < LEAST_NODE:
        return f"node is {version}, too old for playwright-core: install Node.js {LEAST_NODE} or newer"
    if not CHROMIUM:
        return "Chromium is missing: apt-get install chromium"
    if not (HERE / "node_modules" / "playwright-core").exists():
        return "playwright-core is missing: npm ci --prefix tests/page"
    return ""


MISSING = why_not()
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.card,  # a test that waits for sound most of the time, and is late beside other tests
]


def drive(out: Path, seconds: float) -> Found:
    """Run drive.mjs on the page; the server is killed and started again when drive.mjs requests it."""
    running = served.served("--streams", 8)
    server = running.__enter__()
    url = server.url
    program = ["node", str(HERE / "drive.mjs"), str(CHROMIUM), f"{url}/", str(out), str(seconds)]
    found: Found = {}
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        try:
            for line in driver.stdout:
                if line == "kill\n":
                    server.process.kill()
                    running.__exit__(None, None, None)
                elif line == "serve\n":
                    running = served.served("--streams", 8, "--port", url.rsplit(":", 1)[1])
                    server = running.__enter__()
                else:
                    found = json.loads(line)
                    continue
                driver.stdin.write("done\n")
                driver.stdin.flush()
            assert driver.wait(30) == 0
        finally:
            driver.kill()
            running.__exit__(None, None, None)
    assert found
    return found | {"url": url}


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Found]:
    out = tmp_path_factory.mktemp("page")
    return out, drive(out, 10)


def gaps_of(tape: np.ndarray, hops: np.ndarray) -> tuple[int, int, int]:
    """Compare a recording with hops; return the numbers of equal samples, samples of silence, and gaps.

    Samples other than 0 must be equal and in order; additional zeros mean that a hop was late.
    """
    sounds, wanted = np.flatnonzero(tape), np.flatnonzero(hops)[: np.count_nonzero(tape)]
    different = np.flatnonzero(tape[sounds] != hops[wanted])
    assert not len(different), f"the tape differs from sample {sounds[different[0]]} on"
    late = np.diff(sounds) - np.diff(wanted)
    assert late.min() >= 0, f"the tape lacks zeros at sample {sounds[np.argmin(late)]}"
    return int(np.ptp(wanted)) + 1, int(late.sum()), int(np.count_nonzero(late))


def strokes(tape: np.ndarray, facts: Found) -> list[tuple[float, np.ndarray]]:
    """Return, for the first strokes of the pen: ms until half of its level is played, and that level."""
    rate, heard = facts["rate"], []
    for ms in facts["downs"][:N_STROKES]:
        # Position of the sound at that time.
        clock = facts["contextTime"] + (ms - facts["performanceTime"]) / 1000
        begin = max(0, round(clock * rate) - facts["frames"][0])
        level = np.abs(tape[begin : begin + int(0.35 * rate)])
        onset = int(np.argmax(level > level.max() / 2))
        heard.append((1000 * onset / rate, tape[begin + onset :][: rate // 10]))
    return heard


def frequency_of(sound: np.ndarray, rate: float) -> float:
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 8 * len(sound)))
    return float(np.argmax(spectrum)) * rate / (8 * len(sound))


def check_tapes(out: Path, found: Found, seconds: float) -> None:
    for i, facts in enumerate(found["tapes"]):
        tape = np.fromfile(out / f"tape-{i}.f32", np.float32)
        hops = np.fromfile(out / f"hops-{i}.f32", np.float32)
        rate, stats = facts["rate"], facts["stats"]
        assert (np.diff(facts["frames"]) == 128).all(), "the tape lacks blocks"
        compared, silent, gaps = gaps_of(tape, hops)
        ring, lag = 1000 * facts["ring"] / rate, 1000 * stats["lag"] / rate
        heard = strokes(tape, facts)
        ears = [ms for ms, _ in heard]
        print(
            f"\npage {i}: {compared / rate:.1f} s equal, {silent} samples of silence in {gaps} gaps; ring "
            f"{ring:.0f} ms, longest round trip {stats['longest']:.0f} ms, {lag:.0f} ms of sound; brush to "
            f"ear {np.median(ears):.0f} ms ({min(ears):.0f} to {max(ears):.0f}), by the page's count "
            f"{facts['delays']['all']:.0f}; load {os.getloadavg()[0]:.1f}"
        )
        assert (compared + silent) / rate > seconds
        assert silent <= stats["silent"], "the page did not count silence"
        late = max(0.0, max(stats["longest"], lag) - ring)
        assert late or not gaps
        # A busy machine may delay a click or a hop, and therefore a stroke. The delay of the page is that of
        # the fastest stroke.
        assert min(ears) <= MOST_MS + late
        assert facts["delays"]["all"] <= MOST_MS
        wanted = rate / 2 * (50 / (rate / 2)) ** found["heights"][i]
        frequencies = [frequency_of(sound, rate) for _, sound in heard]
        assert abs(np.median(frequencies) - wanted) < rate / 1024  # a bin


def test_the_page_plays_exactly_the_samples_sent(driven):
    out, found = driven
    check_tapes(out, found, 10)


@pytest.mark.soak
def test_the_page_plays_exactly_the_samples_sent_for_minutes(tmp_path):
    check_tapes(tmp_path, drive(tmp_path, 120), 120)


def test_the_page_reports_a_lost_server_and_reconnects(driven):
    _, found = driven
    assert found["lost"].startswith(("The connection was lost", "The server does not answer"))
    assert found["again"]


def test_a_page_that_inverts_by_itself_needs_no_server(driven):
    alone = driven[1]["alone"]
    assert alone["plays"]
    assert alone["status"] == "This page inverts, without the server"
    assert alone["requests"] == []
    assert alone["lacks"].startswith("There is no sound: the server does not answer")
    assert alone["button"] == "Start"


def test_the_page_contacts_only_its_server_and_logs_no_error(driven):
    _, found = driven
    own = (found["url"], found["url"].replace("http", "ws"))
    assert not [url for url in found["requests"] if not url.startswith(own)]
    assert found["complaints"] == []


def test_keys_paint(driven):
    _, found = driven
    assert found["rest"]["keys"] == [112, 113, 114]  # from 64, three steps of 16 and one of 2
    assert found["rest"]["cursor"] == "Cursor: 742 Hz at 1.32 s"


def test_the_pressure_of_a_pen_is_its_level(driven):
    assert 0.4 < driven[1]["rest"]["pen"] <= 0.5  # the top of a lobe may lie between two bins


def test_freeze_is_a_button(driven):
    assert driven[1]["rest"]["freeze"]


def test_midi_notes_paint_at_the_playhead_and_wheels_set_smear_and_pitch(driven):
    _, found = driven
    midi = found["rest"]["midi"]
    assert midi["bin"] == round(440 * 1024 / 22050)
    assert midi["smear"] == 0.99
    assert midi["ratio"] == pytest.approx(2 ** (1 / 12))
    assert midi["notes"] == 0


def test_the_microphone_paints(driven):
    assert driven[1]["rest"]["microphone"]


def test_a_dropped_picture_is_painted_where_it_is_bright(driven):
    first, last, n = driven[1]["rest"]["picture"]  # white from 128 to 255, smoothed at its edges
    assert abs(first - 128) < 8
    assert abs(last - 255) < 8
    assert n == last - first + 1


def test_a_recording_is_a_wav_file_of_the_played_samples(driven):
    out, found = driven
    assert found["rest"]["name"] == "painted.wav"
    with wave.open(str(out / "painted.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (22050, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    assert len(samples) > 0.2 * 22050
    assert np.abs(samples).max() > 300  # the picture


def test_the_player_plays_16_bit_samples_unchanged(driven):
    player = driven[1]["player"]
    assert len(player["sent"]) == 1600
    compared, _, _ = gaps_of(np.array(player["heard"]), np.array(player["sent"]))
    assert compared > 1500
    assert player["stats"]["played"] == 1600
