"""Tests of configurations of mel spectrograms in files, and of rejected files."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rtspecinv
from rtspecinv import Compression, Mel, MelConfig, listen, open_spectrogram, save_spectrogram
from rtspecinv.common.settings import LARGEST_FILE
from rtspecinv.mel.models import CONFIGS

MINE = MelConfig(
    16000,
    400,
    160,
    n_mels=12,
    fmin=90,
    fmax=7600,
    window=cast(Any, np.hamming(400)),
    compression=Compression("log10", guard=1e-6, clip=(-5, 3), mean=range(12), std=2),
)
SMALL = {"sample_rate": 8000, "n_fft": 64, "hop_length": 16, "n_mels": 8}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


@pytest.mark.parametrize("name", [*CONFIGS, "mine"])
def test_saved_settings_are_loaded(tmp_path, name):
    config = CONFIGS.get(name, MINE)
    config.save(tmp_path / "a.json")
    assert MelConfig.load(tmp_path / "a.json") == config
    assert MelConfig.from_dict(config.to_dict()) == config


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 reads no TOML")
def test_toml(tmp_path):
    text = (
        "\ufeffsample_rate = 8000\nn_fft = 64\nhop_length = 16\nn_mels = 8\n[compression]\ncurve = 'log1p'\n"
    )
    found = MelConfig.load(write(tmp_path / "a.toml", text))
    assert found == MelConfig.from_dict({**SMALL, "compression": {"curve": "log1p"}})


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="Python has tomllib")
def test_toml_needs_a_newer_python(tmp_path):
    with pytest.raises(ImportError, match=r"Python 3\.11 or newer; write the parameters to a \.json"):
        MelConfig.load(write(tmp_path / "a.toml", "sample_rate = 8000"))


@pytest.mark.filterwarnings("ignore:.*beyond full scale")
@pytest.mark.parametrize("kind", ["text", "path", "config", "mel"])
def test_everything_that_takes_a_preset_takes_a_file(tmp_path, kind):
    config = MelConfig.from_dict({**SMALL, "compression": {"curve": "ln", "floor": 1e-5}})
    config.save(path := tmp_path / "a.json")
    given = {"text": str(path), "path": path, "config": config, "mel": Mel(config)}[kind]
    mel = Mel(config)(torch.randn(800, generator=torch.Generator().manual_seed(0)))
    save_spectrogram(tmp_path / "a.npz", mel, given)
    assert open_spectrogram(tmp_path / "a.npz").mel == config
    np.save(tmp_path / "a.npy", mel.numpy())
    assert open_spectrogram(tmp_path / "a.npy", mel=given).mel == config
    wanted = Mel(config).inverter().length(mel.shape[-1])
    for sound in (mel, tmp_path / "a.npy"):
        heard = listen(sound, preset=given, output=rtspecinv.ArraySink())
        assert (heard.sample_rate, heard.samples.shape) == (8000, (wanted,))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({**SMALL, "hop_lenght": 16}, "no parameter hop_lenght: did you mean hop_length?"),
        ({**SMALL, "xyz": 16}, "no parameter xyz: the parameters are sample_rate, n_fft"),
        (
            {**SMALL, "compression": {"flor": 1e-5}},
            "no parameter compression.flor: did you mean compression.floor?",
        ),
        ({**SMALL, "compression": "ln"}, "Parameter compression is a str, not a mapping of names to values"),
        ({**SMALL, "compression": {"curve": "log"}}, "curve='log' is not one of"),
        ({"n_mels": 8}, "sample_rate is missing"),
        ([SMALL], "The content is a list, not a mapping of names to values"),
        ({**SMALL, "n_fft": "64"}, "n_fft='64' is not an integer >= 1"),
        ({**SMALL, "n_fft": 64.5}, "n_fft=64.5"),
        ({**SMALL, "hop_length": None}, "hop_length=None"),
        ({**SMALL, "sample_rate": True}, "sample_rate=True is not a finite number"),
        ({**SMALL, "sample_rate": math.inf}, "sample_rate=inf"),
        ({**SMALL, "n_fft": 2**30}, "require .* weights, but at most"),
        ({**SMALL, "fmax": [4000]}, "fmax="),
        ({**SMALL, "area_norm": "false"}, "area_norm='false' is not True or False"),
        ({**SMALL, "scale": ["htk"]}, "scale="),
        ({**SMALL, "window": {}}, "window="),
        ({**SMALL, "center": "SAME"}, "center='SAME' is not"),
        ('{"sample_rate": 1' + "0" * 5000 + "}", "has more than 20 characters"),
        ('{"sample_rate": 8000', "is not a valid .json file"),
        ("", "is not a valid .json file"),
        ("[" * 100_000, "is not a valid .json file"),
        (" " * (LARGEST_FILE + 1), "more than 262144 bytes"),
    ],
)
def test_errors_name_the_cause(tmp_path, content, says):
    path = write(tmp_path / "a.json", content)
    with pytest.raises(ValueError, match=rf"a\.json.*{says}"):
        MelConfig.load(path)
    with pytest.raises(ValueError, match=says):
        listen(torch.zeros(8, 5), preset=str(path), output=rtspecinv.ArraySink())


def test_files_that_are_not_configurations(tmp_path):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{}")
    for name, error in (
        ("b.json", FileNotFoundError),
        ("folder.json", FileNotFoundError),
        ("a.json", ValueError),
    ):
        with pytest.raises(error, match=name):
            MelConfig.load(tmp_path / name)
    with pytest.raises(ValueError, match=r"does not end in \.json or \.toml"):
        MelConfig.load(tmp_path / "a.yaml")
    with pytest.raises(ValueError, match=r"must end in \.json"):
        MINE.save(tmp_path / "a.toml")
    with pytest.raises(KeyError, match="hifigan-22k"):
        listen(torch.zeros(80, 5), preset="hifigan", output=rtspecinv.ArraySink())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_nothing_waits_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        MelConfig.load(tmp_path / "a.json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=200)
@given(
    part=st.sampled_from([*MelConfig.__dataclass_fields__, *Compression.__dataclass_fields__]),
    value=VALUES,
)
def test_any_value_is_taken_or_refused(part, value):
    """A rejected value raises an error with a sentence; an accepted one can be written and read again."""
    compression = {"curve": "ln", "floor": 1e-5}
    within = part not in MelConfig.__dataclass_fields__
    given_ = {**SMALL, "compression": {**compression, part: value}} if within else {**SMALL, part: value}
    config, said = None, ""
    try:
        config = MelConfig.from_dict(given_)
    except ValueError as error:
        said = str(error)
    if config is None:
        assert len(said) > 10
    else:
        assert MelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_numbers_of_numpy_and_torch_are_numbers():
    numbers: Any = {"fmin": np.int64(20), "fmax": torch.tensor(3000.0), "flip": np.bool_(True)}
    config = MelConfig(cast(Any, np.float32(8000)), **numbers)
    assert MelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config == MelConfig(8000.0, fmin=20, fmax=3000.0, flip=True)
    assert replace(config, flip=False) != config
