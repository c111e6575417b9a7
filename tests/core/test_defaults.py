"""Tests of the default parameters that depend on the transform."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from contract import run
from sounds import sound

from rtspecinv import STFT, StreamingInverter, defaults
from rtspecinv.phase import Gradient, Overlap
from rtspecinv.updates import RAAR, RTISI, GriffinLim

SQRT_HANN = torch.hann_window(64, dtype=torch.float64).sqrt()


@pytest.mark.parametrize("setting", [(64, 16, 64), (64, 32, 64), (65, 20, 50), (64, 64, 64)])
def test_shares_are_those_of_energies(setting):
    """Energy of a frame is divided among earlier frames, the frame itself, and later frames."""
    n_fft, hop_length, win_length = setting
    window = torch.rand(win_length, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    stft = STFT(n_fft, hop_length, win_length=win_length, window=window, dtype=torch.float64)
    power, own = stft.window.square(), stft.envelope
    earlier, later = torch.zeros(2, 3 * n_fft, dtype=torch.float64)  # the frame lies in the middle
    for shift in range(hop_length, n_fft, hop_length):
        earlier[n_fft - shift : 2 * n_fft - shift] += own
        later[n_fft + shift : 2 * n_fft + shift] += own
    covered, by_later, kept = (
        float((power * part).sum() / power.sum())
        for part in (*torch.stack([earlier, later])[:, n_fft:-n_fft], own)
    )
    assert defaults.covered(stft) == pytest.approx(covered)
    assert defaults.kept(stft) == pytest.approx(kept)
    assert covered + kept + by_later == pytest.approx(1)
    louder = STFT(n_fft, hop_length, win_length=win_length, window=7 * window, dtype=torch.float64)
    assert defaults.covered(louder) == pytest.approx(covered)


@pytest.mark.parametrize("n_fft", [64, 400, 512, 1024, 2048])
def test_a_hann_window_with_overlap_4_has_the_constants_as_written(n_fft):
    inverter = StreamingInverter(STFT(n_fft, n_fft // 4))
    found = (inverter.update, inverter.init, inverter.revise, inverter.n_iter)
    assert found == (RAAR(), Overlap(), 1, 8)


@pytest.mark.parametrize("window", ["hann", "hamming", "blackman", SQRT_HANN])
def test_less_overlap_covers_less_and_keeps_more(window):
    all_of = [STFT(64, 64 // overlap, window=window) for overlap in (2, 4, 8, 16)]
    for thin, dense in itertools.pairwise(all_of):
        assert defaults.covered(thin) < defaults.covered(dense) < 0.5
        assert defaults.kept(thin) > defaults.kept(dense)
        for default in (RAAR(), defaults.JOINT):
            bolder, less_bold = defaults.rule(dense, default), defaults.rule(thin, default)
            assert bolder.beta >= less_bold.beta
            assert bolder.beta + bolder.ramp <= 1
            assert bolder.ramp <= less_bold.ramp


@pytest.mark.parametrize(
    ("hop_length", "window", "by_gradient"),
    [(32, "hann", True), (32, "hamming", True), (32, SQRT_HANN, False), (16, "hann", False)],
)
def test_the_start_uses_magnitudes_if_the_overlap_is_small(hop_length, window, by_gradient):
    stft = STFT(64, hop_length, window=window)
    for look_ahead in range(4):
        found = StreamingInverter(stft, look_ahead=look_ahead)
        delay = 1 if look_ahead > 1 else 0
        assert found.init == (Gradient(delay=delay) if by_gradient else Overlap())
        for update in ("rtisi", "dm", "admm"):
            assert StreamingInverter(stft, look_ahead=look_ahead, update=update).init == Overlap()


def test_revision_and_iterations():
    revised = {hop: StreamingInverter(STFT(64, hop)).revise for hop in (32, 16, 8, 4)}
    assert revised == {32: 1, 16: 1, 8: 3, 4: 7}
    assert StreamingInverter(STFT(64, 64, window="hamming")).revise == 0  # frames do not overlap
    assert StreamingInverter(STFT(64, 32), update=RTISI()).revise == 0
    for hop_length, n_iter in ((64, 16), (32, 16), (24, 12), (16, 9), (15, 8), (8, 8), (4, 8)):
        assert StreamingInverter(STFT(64, hop_length, window="hamming")).n_iter == n_iter


@pytest.mark.parametrize(("window", "n_iter"), [("hamming", 9), (SQRT_HANN, 13)])
def test_a_smaller_weight_of_the_magnitudes_gets_more_iterations(window, n_iter):
    """At overlap 4, (1 - beta) n_iter is that of a Hann window, but for the rounding of both."""
    stft = STFT(64, 16, window=window)
    rule = defaults.rule(stft, RAAR())
    assert defaults.n_iter(stft) == n_iter
    assert (1 - rule.beta) * n_iter == pytest.approx((1 - RAAR().beta) * 8, rel=0.06)
    assert defaults.n_iter(STFT(64, 16, window=torch.ones(64))) == defaults.MOST_ITER
    assert defaults.n_iter(STFT(64, 16, window="blackman")) == 8  # keeps more than a Hann window


def test_given_values_replace_defaults():
    given: dict[str, Any] = {"update": GriffinLim(), "init": Overlap(), "revise": 0, "n_iter": 3}
    inverter = StreamingInverter(STFT(64, 32), **given)
    assert {name: getattr(inverter, name) for name in given} == given
    assert StreamingInverter(STFT(64, 8), update="raar").update == RAAR()


@pytest.mark.parametrize("hop_length", [32, 16, 8])
def test_a_default_equals_its_printed_form(hop_length):
    """Passing the printed values as arguments gives bit-identical samples."""
    stft = STFT(64, hop_length)
    magnitude = stft.magnitude(sound(900).float())
    default = StreamingInverter(stft, look_ahead=2)
    names = ("update", "init", "revise", "n_iter")
    assert all(repr(getattr(default, name)) in repr(default) for name in names)
    given = StreamingInverter(stft, look_ahead=2, **{name: getattr(default, name) for name in names})
    assert torch.equal(run(default, magnitude), run(given, magnitude))
