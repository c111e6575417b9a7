"""Tests of keywords that functions pass on: a type checker knows them, and no others are accepted."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rtspecinv
from rtspecinv.batch import BlockOptions, ManyOptions
from rtspecinv.descent import OPTIONS
from rtspecinv.mel.stream import MelOptions
from rtspecinv.streaming import StreamOptions
from rtspecinv.torch_specinv import _LBFGSKeywords, _STFTKeywords

ROOT = Path(__file__).parents[2]
STFT = rtspecinv.STFT(64, 16)
MEL = rtspecinv.presets["whisper"]
FRAMES = torch.ones(9, 33)

# Calls that take one more keyword, and a keyword that they accept.
CALLS = {
    "MelInverter": ("rtspecinv.MelInverter(MEL.config, {})", "n_iter=1"),
    "Mel.inverter": ("MEL.inverter({})", "device='cpu'"),
    "MelConfig.stft": ("MEL.config.stft({})", "dtype=torch.float64"),
    "invert_many": ("rtspecinv.invert_many([FRAMES.mT], STFT, {})", "init='zeros'"),
    "invert_blocks": ("list(rtspecinv.invert_blocks(FRAMES, STFT, {}))", "n_iter=1"),
    "griffin_lim": (
        "rtspecinv.torch_specinv.griffin_lim(FRAMES.mT, verbose=False, window=STFT.window, {})",
        "hop_length=16",
    ),
    "RTISI_LA": (
        "rtspecinv.torch_specinv.RTISI_LA(FRAMES.mT, verbose=False, window=STFT.window, {})",
        "hop_length=16",
    ),
    "ADMM": (
        "rtspecinv.torch_specinv.ADMM(FRAMES.mT, verbose=False, window=STFT.window, {})",
        "hop_length=16",
    ),
    "phase_init": ("rtspecinv.torch_specinv.phase_init(FRAMES.mT, window=STFT.window, {})", "hop_length=16"),
    "L_BFGS": (
        "rtspecinv.torch_specinv.L_BFGS(FRAMES.mT, STFT.magnitude, 128, outer_max_iter=1, verbose=False, {})",
        "max_iter=1",
    ),
}


def keywords(function) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (StreamOptions, keywords(rtspecinv.StreamingInverter) - {"update", "bank"}),
        (MelOptions, (keywords(rtspecinv.StreamingInverter) - {"bank"}) | keywords(rtspecinv.Mel)),
        (ManyOptions, keywords(rtspecinv.invert) - {"length"}),
        (BlockOptions, keywords(rtspecinv.invert) - {"length", "init", "known", "generator"}),
        (_STFTKeywords, set(inspect.signature(torch.stft).parameters) - {"input", "align_to_window"}),
        (_LBFGSKeywords, set(OPTIONS)),
        (_LBFGSKeywords, set(inspect.signature(torch.optim.LBFGS).parameters) - {"params"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_keywords_are_those_of_the_function_that_receives_them(options, expected):
    assert set(options.__annotations__) == expected


@pytest.mark.parametrize("name", CALLS)
def test_an_unknown_keyword_is_a_type_error_that_names_it(name):
    call, known = CALLS[name]
    eval(call.format(known))
    with pytest.raises(TypeError, match="n_itre"):
        eval(call.format("n_itre=1"))


@pytest.mark.slow
def test_a_type_checker_sees_a_typo_in_a_keyword(tmp_path):
    pytest.importorskip("mypy", reason='mypy is missing: pip install "rtspecinv[test]"')
    head = (
        "import torch\nimport rtspecinv\nSTFT, MEL = rtspecinv.STFT(64, 16), rtspecinv.presets['whisper']\n"
        "FRAMES = torch.ones(9, 33)\n"
    )
    right = "\n".join(call.format(known) for call, known in CALLS.values())
    wrong = "\n".join(call.format("n_itre=1") for call, _ in CALLS.values())
    (tmp_path / "right.py").write_text(head + right)
    (tmp_path / "wrong.py").write_text(head + wrong)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    files = [tmp_path / "right.py", tmp_path / "wrong.py"]
    found = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
    assert not found.stderr
    # `make lint` checks the errors in the package itself.
    errors = [
        line for line in found.stdout.splitlines() if re.search(r"(right|wrong)\.py:\d+: error: ", line)
    ]
    assert all("wrong.py" in line and '"n_itre"' in line for line in errors), found.stdout
    assert len(errors) == len(CALLS)
