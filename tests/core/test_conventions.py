"""Tests of magnitudes of other programs: two-sided, without their last row, scaled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch

import rtspecinv
from rtspecinv import ArraySink, StreamingInverter, listen, open_spectrogram
from rtspecinv.cli import main
from rtspecinv.conventions import half_spectrum, suggestion, unscaled
from rtspecinv.measure.clip import SAMPLE_RATE, render

CLIP = torch.from_numpy(render())[12000:16000]


def heard(sound, **options) -> np.ndarray:
    return listen(sound, output=ArraySink(), n_iter=1, **options).samples


@pytest.mark.parametrize("n_fft", [1, 2, 63, 64])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_every_kind_of_rows_becomes_the_half(n_fft, batch):
    stft = rtspecinv.STFT(n_fft, 1 if n_fft < 3 else 16, window="rectangular")
    both = rtspecinv.STFT(n_fft, stft.hop_length, window="rectangular", onesided=False)
    samples = CLIP[:200].expand(*batch, -1)
    half = stft.magnitude(samples)
    kinds: list[Callable[..., Any]] = [torch.Tensor.clone, torch.Tensor.numpy]
    for make in kinds:
        torch.testing.assert_close(torch.as_tensor(half_spectrum(make(both.magnitude(samples)), n_fft)), half)
        assert torch.equal(torch.as_tensor(half_spectrum(make(half), n_fft)), half)
        if n_fft % 2 == 0 and n_fft > 2:
            found = torch.as_tensor(half_spectrum(make(half[..., :-1, :]), n_fft))
            assert torch.equal(found[..., :-1, :], half[..., :-1, :])
            assert not found[..., -1, :].any()
    with pytest.raises(ValueError, match=rf"n_fft={n_fft} have {n_fft // 2 + 1} rows, not 200"):
        half_spectrum(torch.zeros(200, 3), n_fft)


@pytest.mark.parametrize("rows", ["half", "two-sided", "no last"])
@pytest.mark.parametrize("form", ["array", "frames", "time-freq", "two channels", ".npy", "squeezed"])
def test_all_kinds_of_rows_give_the_same_sound(tmp_path, rows, form):
    """The last row is 0 here, so that leaving it out does not change the sound."""
    stft = rtspecinv.STFT(64, 16)
    half = stft.magnitude(CLIP)
    half[-1] = 0
    expected = heard(half, stft=stft, sample_rate=8000)
    values = {
        "half": half,
        "two-sided": torch.cat([half, half[1:-1].flip(0)]),
        "no last": half[:-1],
    }[rows]
    options: dict[str, Any] = {"stft": stft, "sample_rate": 8000}
    both = rtspecinv.STFT(64, 16, onesided=False)
    if form == "array":
        found = heard(values, **options)
        np.testing.assert_array_equal(heard(values, stft=both, sample_rate=8000), expected)
    elif form == "frames":
        found = heard(values.unbind(-1), **options)
    elif form == "time-freq":
        found = heard(values.mT, layout="time-freq", **options)
    elif form == "two channels":
        found = heard(torch.stack([values, values]), **options)[1]
    elif form == "squeezed":
        found = heard(values[None, None], **options)[0]
    else:
        np.save(tmp_path / "a.npy", values.numpy())
        found = heard(tmp_path / "a.npy", **options)
        spectrogram = open_spectrogram(tmp_path / "a.npy")
        assert spectrogram.settings(n_fft=64, sample_rate=8000)[0] == 64
        command = ["invert", str(tmp_path / "a.npy"), "-o", str(tmp_path / "a.wav"), "--sample-rate", "8000"]
        assert main([*command, "--n-fft", "64", "--method", "stream", "--n-iter", "1"]) == 0
        written = rtspecinv.read_audio(tmp_path / "a.wav")[0][0]
        np.testing.assert_allclose(written, expected, atol=1e-4)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors", ".png"])
@pytest.mark.parametrize("n_fft", [63, 64])
def test_two_sided_magnitudes_are_saved_as_their_half(tmp_path, suffix, n_fft):
    both, half = (rtspecinv.STFT(n_fft, 16, onesided=onesided) for onesided in (False, True))
    for name, stft in (("both", both), ("half", half)):
        path = tmp_path / f"{name}{suffix}"
        rtspecinv.save_spectrogram(path, half_or_both(stft), stft, sample_rate=8000)
    first, second = (open_spectrogram(tmp_path / f"{name}{suffix}") for name in ("both", "half"))
    for a, b in zip(first.frames(), second.frames(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert repr(first.stft()[0]) == repr(half)
    assert heard(tmp_path / f"both{suffix}").shape == heard(tmp_path / f"half{suffix}").shape


def half_or_both(stft: rtspecinv.STFT) -> torch.Tensor:
    return stft.magnitude(CLIP)


def test_pictures_of_two_sided_magnitudes_are_those_of_their_half():
    both, half = (rtspecinv.STFT(64, 16, onesided=onesided).magnitude(CLIP) for onesided in (False, True))
    scale = rtspecinv.PictureScale(8000, 64, white=float(half.max()))
    np.testing.assert_allclose(scale.levels(both), scale.levels(half), atol=1e-4)


# -- scipy ---------------------------------------------------------------------------------------------------


def scipys(scaling: str, window: str, n_fft: int, hop: int) -> np.ndarray:
    """Return magnitudes of scipy, which pads with zeros, as `pad_mode="constant"` does."""
    values = scipy.signal.get_window(window, n_fft)
    if scaling == "magnitude":
        transform = scipy.signal.ShortTimeFFT(values, hop, SAMPLE_RATE, scale_to="magnitude")
        spectrum = transform.stft(CLIP.numpy().astype(np.float64))
        first = -transform.p_min
        return np.abs(spectrum[:, first : first + 1 + len(CLIP) // hop])
    spectrum = scipy.signal.stft(
        CLIP.numpy().astype(np.float64),
        SAMPLE_RATE,
        window,
        n_fft,
        n_fft - hop,
        scaling=scaling,
        padded=False,
    )[2]
    return np.abs(spectrum)


@pytest.mark.parametrize("scaling", ["spectrum", "magnitude", "psd"])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("window", "n_fft", "hop"), [("hann", 256, 64), ("hamming", 250, 100)])
def test_scipys_scalings_are_undone(tmp_path, scaling, normalized, window, n_fft, hop):
    stft = rtspecinv.STFT(n_fft, hop, window=window, pad_mode="constant", normalized=normalized)
    theirs, ours = scipys(scaling, window, n_fft, hop), stft.magnitude(CLIP).double().numpy()
    factor = unscaled(scaling, stft, SAMPLE_RATE)
    n = min(theirs.shape[-1], ours.shape[-1])
    np.testing.assert_allclose(factor * theirs[:, :n], ours[:, :n], rtol=1e-3, atol=1e-4)
    np.save(tmp_path / "a.npy", theirs[:, :n])
    for sound in (theirs[:, :n], tmp_path / "a.npy"):
        samples = torch.from_numpy(
            heard(sound, stft=stft, sample_rate=SAMPLE_RATE, scaling=scaling, length=len(CLIP))
        )
        again = stft.magnitude(samples)[:, :n]
        assert float(rtspecinv.metrics.sc(again, torch.from_numpy(ours[:, :n]).float())) < -10


@pytest.mark.parametrize("method", ["stream", "agla"])
def test_the_command_line_undoes_scipys_scaling(tmp_path, capsys, method):
    np.save(tmp_path / "a.npy", scipys("psd", "hann", 256, 64))
    command = ["invert", str(tmp_path / "a.npy"), "-o", str(tmp_path / "a.wav"), "--scaling", "psd"]
    assert main([*command, "--sample-rate", str(SAMPLE_RATE), "--method", method, "--n-iter", "8"]) == 0
    assert capsys.readouterr().err == ""
    samples = torch.from_numpy(rtspecinv.read_audio(tmp_path / "a.wav")[0][0])
    assert 0.8 < float(samples.std() / CLIP.std()) < 1.2


def test_a_scaling_of_other_input_is_rejected(tmp_path):
    mel = rtspecinv.presets["hifigan-22k"](CLIP)
    with pytest.raises(
        ValueError, match="scaling='spectrum' applies to magnitudes, but sound has mel frames"
    ):
        heard(mel, preset="hifigan-22k", scaling="spectrum")
    with pytest.raises(ValueError, match="scaling='spectrum' applies to magnitudes, but sound has samples"):
        heard(CLIP, sample_rate=8000, scaling="spectrum")
    with pytest.raises(ValueError, match=r"scaling='spectrun' is not one of.*did you mean 'spectrum'"):
        heard(torch.zeros(33, 5), stft=rtspecinv.STFT(64, 16), sample_rate=8000, scaling="spectrun")
    rtspecinv.save_spectrogram(tmp_path / "a.npz", mel, "hifigan-22k")
    with pytest.raises(ValueError, match=r"scaling='psd' applies to magnitudes, but .*a\.npz has mel frames"):
        heard(tmp_path / "a.npz", scaling="psd")


def test_suggestions_name_the_usual_first():
    assert suggestion(552) == "give n_fft=1102 or 1103"
    assert suggestion(512) == (
        "give n_fft=1024 if the row at the Nyquist frequency is missing, n_fft=512 if they are two-sided, "
        "n_fft=1022 or 1023 if neither"
    )


# -- chunks without frames -----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["eager", "numba"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_a_chunk_of_no_frames_is_no_samples_and_changes_nothing(engine, dtype, batch):
    stft = rtspecinv.STFT(64, 16, dtype=dtype)
    frames = stft.magnitude(CLIP[:300].to(dtype)).expand(*batch, -1, -1)
    inverter = StreamingInverter(stft, batch_shape=batch, engine=engine, n_iter=1)
    expected = inverter.push_many(frames)
    inverter.reset()
    hops: list[torch.Tensor] = []
    for nothing in (frames[..., :0], frames[..., :0].numpy(), frames[..., :0].to(dtype.to_complex())):
        empty = inverter.push_many(nothing)
        assert (empty.shape, empty.dtype) == ((*batch, 0), dtype)
        hops.append(inverter.push_many(frames[..., len(hops) : len(hops) + 1]))
    assert torch.equal(torch.cat(hops, -1), expected[..., : 3 * 16])
    for wrong in (frames[..., :5, :0], frames[None, ..., :0]):
        with pytest.raises(ValueError, match="shape"):
            inverter.push_many(wrong)


@pytest.mark.parametrize("preset", ["hifigan-22k", "tacotron"])
@pytest.mark.parametrize("engine", ["eager", "numba"])
def test_a_chunk_of_no_mel_frames_is_no_samples(preset, engine):
    inverter = rtspecinv.presets[preset].inverter(engine=engine)
    mel = rtspecinv.presets[preset](CLIP)
    first = inverter.push_many(mel[:, :2])
    assert inverter.push_many(mel[:, :0]).shape == (0,)
    second = inverter.push_many(mel[:, 2:4])
    inverter.reset()
    torch.testing.assert_close(torch.cat([first, second]), inverter.push_many(mel[:, :4]))
