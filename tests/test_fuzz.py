"""Anything into every public entry point: a documented error or a finite result, in bounded time and memory.

A call may raise what its docstring says. It may not raise anything else, go on for more than `SECONDS`, or
let the process grow by more than `MEGABYTES` over what it had, whatever a shape or a file's header promises.
"""

from __future__ import annotations

import io
import os
import signal
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as safetensors_bytes

import rtspecinv
from rtspecinv import ArraySink, Compression, MelConfig, PictureScale
from rtspecinv.audio import DeviceError
from rtspecinv.cli import main
from rtspecinv.images import read_image

SECONDS = 30
MEGABYTES = 1000
DOCUMENTED = (ValueError, TypeError, KeyError, FileNotFoundError, IsADirectoryError, ImportError, DeviceError)
STFT = rtspecinv.STFT(64, 16)
MEL = rtspecinv.Mel(MelConfig(8000, 64, 16, n_mels=10, compression=Compression("ln", floor=1e-5)))
N_FREQ, N_MELS = STFT.n_freq, 10
STREAMS = {  # made once: they must survive everything
    name: rtspecinv.StreamingInverter(STFT, engine="eager", n_iter=1, batch_shape=shape)
    for name, shape in (("one", ()), ("two", (2,)))
}

EFFORT = int(os.environ.get("FUZZ", "1"))  # FUZZ=50 takes a quarter of an hour
quick = settings(
    deadline=None,
    max_examples=60 * EFFORT,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@contextmanager
def bounded() -> Iterator[None]:
    """Raise `TimeoutError` when it takes too long."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def high_water() -> int | None:
    """Most memory in use since it was last asked, kB; None where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return peak


@pytest.fixture(autouse=True)
def memory(capsys):
    before = high_water() and high_water()
    yield
    after = high_water()
    if before is not None and after is not None:
        assert after - before < 1000 * MEGABYTES


def attempt(call: Callable[[], Any]) -> Any:
    """What a call returns, checked to be finite; None after a documented error with something to say."""
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = call()
        except DOCUMENTED as error:
            said = str(error)
        else:
            check_finite(result)
            return result
    assert len(said) > 10, f"an error says only {said!r}"
    return None


def check_finite(result: Any) -> None:
    if isinstance(result, list | tuple):
        for part in result:
            check_finite(part)
    elif isinstance(result, torch.Tensor | np.ndarray):
        values = torch.as_tensor(result).detach()
        assert bool(torch.isfinite(values).all()), "a result is NaN or infinite"


def sound(value: Any) -> bool:
    """Whether a value is no tensor of numbers, or one that a transform makes finite numbers of."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fc":
        return bool((np.abs(value).astype(float) < 1e15).all())
    if not isinstance(value, torch.Tensor) or value.is_meta or value.layout != torch.strided:
        return True
    return value.dtype == torch.bool or bool((value.abs().double() < 1e15).all())


SIZES = st.sampled_from([0, 1, 2, 3, 5, N_MELS, 16, N_FREQ, N_FREQ, N_FREQ, 40, 64, 80])
DTYPES = ["f4"] * 6 + ["f2", "f8", ">f4", "c8", "i4", "u1", "?", "O", "U3"]
SCALES = [1.0, 1.0, 1.0, 0.0, 1e-45, 1e-30, 1e-7, 1e6, 1e30, 1e38, 1e300, -1.0]
SPECIAL = [np.nan, np.inf, -np.inf, -1.0, -0.0, 0.0, 1e-45, 3e38]


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """An array or tensor, often nearly right."""
    shape = draw(
        st.one_of(
            st.lists(SIZES, max_size=4).map(tuple),
            st.integers(0, 30).map(lambda n: (N_FREQ, n)),
            st.integers(0, 30).map(lambda n: (N_MELS, n)),
            st.integers(0, 9).map(lambda n: (2, N_FREQ, n)),
            st.sampled_from([(N_FREQ,), (N_MELS,), (2, N_FREQ), (400,), (2, 300)]),
        )
    )
    while np.prod(shape) > 20_000:
        shape = shape[1:]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = np.asarray(rng.uniform(0, 1, shape) * draw(st.sampled_from(SCALES)))
    if values.size and draw(st.integers(0, 3)) == 0:
        values.flat[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from(SPECIAL))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = np.asarray(values.astype(draw(st.sampled_from(DTYPES))))
    if draw(st.booleans()) or array.dtype.kind in "OU" or array.dtype.byteorder == ">":
        return array
    tensor = torch.from_numpy(array)
    kind = draw(
        st.sampled_from(["plain", "plain", "plain", "transposed", "bfloat16", "sparse", "expanded", "meta"])
    )
    if kind == "transposed" and tensor.ndim > 1:
        return tensor.mT.contiguous().mT
    if kind == "bfloat16" and tensor.is_floating_point():
        return tensor.bfloat16()
    if kind == "sparse" and tensor.ndim > 0:
        return tensor.to_sparse()
    if kind == "meta":
        return tensor.to("meta")
    return tensor.expand(2, *tensor.shape) if kind == "expanded" else tensor


ANYTHING = st.one_of(
    arrays(), arrays(), arrays(), st.sampled_from([None, 3, 1.5, "text", [], [1.0, 2.0], {}, b"\0"])
)
NUMBERS = st.one_of(
    st.integers(-2, 70),
    st.sampled_from(
        [1024, 10**6, 2**31, 10**12, 10**30, 0.5, 8.0, float("nan"), float("inf"), -1e300, True, None, "8"]
    ),
)

LENGTHS = st.one_of(st.none(), st.integers(-1, 500), st.sampled_from([1.5, "8", float("nan")]))  # padded to


@quick
@given(
    n_fft=NUMBERS,
    hop_length=NUMBERS,
    win_length=st.one_of(st.none(), NUMBERS),
    window=st.one_of(st.sampled_from(["hann", "kaiser", "nuttall", "", "exec", 3, None]), arrays()),
    center=st.sampled_from([True, False, "same", "maybe", None, 1]),
    pad_mode=st.sampled_from(["reflect", "constant", "wrap", None]),
    samples=ANYTHING,
)
def test_stft(n_fft, hop_length, win_length, window, center, pad_mode, samples):
    stft = attempt(
        lambda: rtspecinv.STFT(
            n_fft, hop_length, win_length=win_length, window=window, center=center, pad_mode=pad_mode
        )
    )
    if stft is not None and stft.n_fft < 10**4:
        attempt(lambda: stft.synthesize(stft.analyze(samples)))


@quick
@given(samples=ANYTHING, spectrum=ANYTHING, length=LENGTHS)
def test_transforms(samples, spectrum, length):
    if sound(samples):  # a transform of NaN is NaN, and of 3e38 infinite
        attempt(lambda: STFT.magnitude(samples))
        attempt(lambda: MEL(samples))
    attempt(lambda: MEL.inverse(samples))
    attempt(lambda: MEL.expand(samples))
    if sound(spectrum):
        attempt(lambda: STFT.synthesize(spectrum, length))


@quick
@given(name=st.sampled_from(list(STREAMS)), frames=st.lists(ANYTHING, max_size=4), mask=ANYTHING)
def test_streams_survive(name, frames, mask):
    inverter = STREAMS[name]
    for frame in frames:
        attempt(lambda frame=frame: inverter.push(frame))
        attempt(lambda frame=frame: inverter.push_many(frame))
    attempt(lambda: inverter.reset(mask))
    attempt(inverter.flush)
    good = torch.rand(*inverter.batch_shape, N_FREQ, 9, generator=torch.Generator().manual_seed(0))
    heard = inverter.push_many(good)
    assert heard.abs().max() > 0.01
    inverter.reset()
    assert torch.equal(heard, inverter.push_many(good))
    inverter.reset()


MEL_STREAM = MEL.inverter(engine="eager", n_iter=1)
TRANSFORMS = rtspecinv.transforms


@quick
@given(pieces=st.lists(ANYTHING, max_size=4))
def test_streams_of_mel_frames_and_of_samples_survive(pieces):
    analysis = rtspecinv.StreamingAnalysis(STFT)
    for piece in pieces:
        attempt(lambda piece=piece: MEL_STREAM.push(piece))
        attempt(lambda piece=piece: MEL_STREAM.push_many(piece))
        if sound(piece):  # a spectrum of NaN is NaN, and of 3e38 infinite
            attempt(lambda piece=piece: analysis.push(piece))
    attempt(MEL_STREAM.flush)
    attempt(analysis.finish)
    good = MEL(torch.rand(400, generator=torch.Generator().manual_seed(0)) - 0.5)
    heard = MEL_STREAM.push_many(good)
    assert heard.abs().max() > 0.01
    MEL_STREAM.reset()
    assert torch.equal(heard, MEL_STREAM.push_many(good))
    MEL_STREAM.reset()


@quick
@given(
    frames=st.lists(ANYTHING, max_size=3),
    make=st.sampled_from([TRANSFORMS.Pitch, TRANSFORMS.Formants, TRANSFORMS.Smear, TRANSFORMS.Gain]),
    number=NUMBERS,
)
def test_transforms_of_frames_and_playing_them(frames, make, number):
    transform = attempt(lambda: make(number)) or TRANSFORMS.Pitch(1.5)
    for frame in frames:  # what comes of NaN or of negative values, the inverter refuses
        attempt(lambda frame=frame: str(transform(frame)))
    sink = ArraySink()
    attempt(lambda: rtspecinv.play(frames, STREAMS["one"], sink))
    STREAMS["one"].reset()
    check_finite(sink.samples)


@quick
@given(
    options=st.fixed_dictionaries(
        {},
        optional={
            "update": st.sampled_from(["raar", "rtisi", "agla", "", 3, None]),
            "init": st.sampled_from(["overlap", "gradient", "peaks", "zeros", "x", 3]),
            "look_ahead": st.one_of(st.none(), st.integers(-1, 9), st.sampled_from([1.5, 10**9, "3", True])),
            "revise": st.one_of(st.none(), st.integers(-1, 9), st.sampled_from([10**9, "3"])),
            "n_iter": st.one_of(st.integers(-1, 3), st.sampled_from([1.5, None, "3"])),
            "batch_shape": st.sampled_from([(), (2,), (0,), (-1,), 2, (2, 3), (10**9,), (1.5,), None]),
            "engine": st.sampled_from(["eager", "numpy", None]),
        },
    )
)
def test_inverters(options):
    inverter = attempt(lambda: rtspecinv.StreamingInverter(STFT, **{"engine": "eager", **options}))
    if inverter is not None:
        attempt(lambda: inverter.push(torch.rand(*inverter.batch_shape, N_FREQ)))


@quick
@given(
    magnitude=ANYTHING,
    update=st.sampled_from(["agla", "gla", "raar", "hybrid", "x", None]),
    init=st.one_of(st.sampled_from(["stream", "peaks", "random", "zeros", "x"]), arrays()),
    length=st.one_of(
        st.none(), st.integers(-1, 500), NUMBERS.filter(lambda n: not (isinstance(n, int) and n > 10**5))
    ),
    n_iter=st.one_of(st.integers(-1, 3), st.just(1.5)),
    known=st.one_of(st.none(), arrays()),
)
def test_whole_spectrograms(magnitude, update, init, length, n_iter, known):
    attempt(
        lambda: rtspecinv.invert(
            magnitude, STFT, update=update, init=init, length=length, n_iter=n_iter, known=known
        )
    )
    attempt(lambda: rtspecinv.invert_many([magnitude, magnitude], STFT, n_iter=1))
    attempt(lambda: list(rtspecinv.invert_blocks([magnitude, magnitude], STFT, n_iter=1)))


@settings(quick, max_examples=30 * EFFORT)
@given(target=ANYTHING, length=st.one_of(st.none(), st.integers(-1, 500)))
def test_descent(target, length):
    attempt(lambda: rtspecinv.lbfgs(target, STFT.magnitude, n_iter=2, length=length))
    attempt(lambda: rtspecinv.lbfgs(target, MEL, n_iter=2))
    attempt(lambda: rtspecinv.lbfgs(target, lambda x: x.square(), n_iter=2, length=length))


@settings(quick, max_examples=40 * EFFORT)
@given(spec=ANYTHING, number=NUMBERS)
def test_faces_of_torch_specinv(spec, number):
    options = {"verbose": False, "n_fft": 64, "hop_length": 16}
    for method in ("griffin_lim", "ADMM"):
        attempt(lambda method=method: getattr(rtspecinv.methods, method)(spec, max_iter=2, **options))
    attempt(lambda: rtspecinv.methods.RTISI_LA(spec, max_iter=1, **options))
    attempt(lambda: rtspecinv.methods.phase_init(spec, n_fft=64, hop_length=16))
    attempt(lambda: rtspecinv.methods.griffin_lim(spec, max_iter=1, verbose=False, hop_length=number))


@quick
@given(one=ANYTHING, other=ANYTHING, same=st.booleans())
def test_metrics_and_diagnose(one, other, same):
    second = one if same else other
    for name in ("sc", "snr", "ser", "spectral_convergence", "log_spectral_distance"):
        measure = getattr(rtspecinv.metrics, name)  # of silence and of NaN there is no finite ratio
        attempt(lambda measure=measure: str(measure(one, second)))
    assert attempt(lambda: str(rtspecinv.diagnose(one))) != ""
    attempt(lambda: str(rtspecinv.diagnose(one, preset="whisper")))


FIELDS = {
    "sample_rate": NUMBERS,
    "n_fft": st.one_of(st.integers(-1, 300), NUMBERS),
    "hop_length": st.one_of(st.integers(-1, 100), NUMBERS),
    "win_length": NUMBERS,
    "n_mels": st.one_of(st.integers(-1, 100), NUMBERS),
    "fmin": NUMBERS,
    "fmax": NUMBERS,
    "scale": st.sampled_from(["htk", "slaney", "bark", None]),
    "power": st.sampled_from([1, 2, 1.5, None, "2"]),
    "epsilon": NUMBERS,
    "center": st.sampled_from([True, "same", "x", None]),
    "preemphasis": NUMBERS,
    "compression": st.sampled_from(
        [Compression("ln", floor=1e-5), Compression("dB", floor=1e-8, clip=(-4, 4)), None]
    ),
}


@quick
@given(st.fixed_dictionaries({}, optional=FIELDS), arrays())
def test_mel_configurations(fields, samples):
    config = attempt(
        lambda: MelConfig(**{"sample_rate": 8000, "n_fft": 64, "hop_length": 16, "n_mels": 10, **fields})
    )
    mel = attempt(lambda: rtspecinv.Mel(config)) if config is not None else None
    if mel is not None:
        attempt(lambda: mel.inverse(torch.zeros(config.n_mels, 3)))


@quick
@given(
    curve=st.sampled_from(["power", "ln", "log10", "dB", "x", None]),
    numbers=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("floor", "exponent", "reference", "dynamic_range", "gain", "offset", "mean", "std"), NUMBERS
        ),
    ),
    clip=st.sampled_from([None, (0, 1), (1, 0), 3, ("a", "b"), (float("nan"), 1)]),
)
def test_compressions(curve, numbers, clip):
    attempt(lambda: Compression(curve, clip=clip, **numbers))


@quick
@given(
    sound=st.one_of(ANYTHING, st.lists(arrays(), max_size=3)),
    kind=st.sampled_from(["samples", "magnitude", "mel"]),
    layout=st.sampled_from([None, "freq-time", "time-freq"]),
)
def test_listen(sound, kind, layout):
    if kind == "mel":  # the CPU's compiled engine would take its time to compile
        sound = None if isinstance(sound, str) else sound
    how = {
        "samples": {"sample_rate": 8000},
        "magnitude": {"stft": STFT, "sample_rate": 8000},
        "mel": {"preset": MEL},
    }
    attempt(lambda: rtspecinv.listen(sound, layout=layout, output=ArraySink(), n_iter=1, **how[kind]).samples)


@quick
@given(
    values=ANYTHING, suffix=st.sampled_from([".npz", ".pt", ".safetensors", ".png", ".tiff"]), bits=NUMBERS
)
def test_what_can_be_saved_can_be_opened(tmp_path_factory, values, suffix, bits):
    path = tmp_path_factory.mktemp("saved") / f"a{suffix}"
    for transform, options in ((STFT, {"sample_rate": 8000}), (MEL, {})):
        attempt(partial(rtspecinv.save_spectrogram, path, values, transform, bits=bits, **options))
        if path.exists():
            found = rtspecinv.open_spectrogram(path)
            check_finite(list(found.frames()))
            path.unlink()
    assert not list(path.parent.iterdir())


@quick
@given(
    samples=ANYTHING,
    scale=st.sampled_from(["linear", "log", "mel"]),
    numbers=st.lists(NUMBERS, min_size=4, max_size=4),
)
def test_picture_scales_and_sinks(samples, scale, numbers):
    sample_rate, fmin, white, height = numbers
    picture = attempt(lambda: PictureScale(sample_rate, 64, scale, fmin, white=white))
    picture = picture or PictureScale(8000, 64, scale)
    levels = np.random.default_rng(0).uniform(0, 1, (7, 3))
    attempt(lambda: picture.magnitude(levels))
    if not isinstance(height, int) or height < 10**5:
        attempt(lambda: picture.levels(np.ones((N_FREQ, 3)), height))
    sink = ArraySink()
    attempt(lambda: sink.write(samples))
    check_finite(sink.samples)


# -- files ---------------------------------------------------------------------------------------------------


def file_of(suffix: str) -> bytes:
    values = np.random.default_rng(0).uniform(0, 1, (N_FREQ, 12)).astype(np.float32)
    buffer = io.BytesIO()
    if suffix == ".npy":
        np.save(buffer, values)
    elif suffix == ".npz":
        np.savez_compressed(buffer, magnitude=values, sample_rate=8000, n_fft=64, window="hann")
    elif suffix == ".pt":
        torch.save({"magnitude": torch.from_numpy(values), "sample_rate": 8000}, buffer)
    elif suffix == ".safetensors":
        return safetensors_bytes({"magnitude": values}, {"sample_rate": "8000", "n_fft": "64"})
    return buffer.getvalue()


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    contents = {suffix: file_of(suffix) for suffix in (".npy", ".npz", ".pt", ".safetensors")}
    for suffix in (".png", ".tiff"):
        rtspecinv.save_spectrogram(folder / f"a{suffix}", torch.rand(N_FREQ, 12), STFT, sample_rate=8000)
        contents[suffix] = (folder / f"a{suffix}").read_bytes()
    for suffix in (".wav", ".flac", ".ogg"):
        with rtspecinv.FileSink(folder / f"a{suffix}", 8000) as sink:
            sink.write(np.random.default_rng(0).uniform(-1, 1, 900).astype(np.float32))
        contents[suffix] = (folder / f"a{suffix}").read_bytes()
    return contents


@settings(quick, max_examples=150 * EFFORT)
@given(data=st.data())
def test_damaged_files(tmp_path_factory, whole_files, data):
    suffix = data.draw(st.sampled_from(list(whole_files)), "suffix")
    content = bytearray(whole_files[suffix])
    if data.draw(st.booleans(), "cut"):
        content = content[: data.draw(st.integers(0, len(content)), "length")]
    for at in data.draw(st.lists(st.integers(0, max(0, min(len(content), 400) - 1)), max_size=6), "at"):
        if content:
            content[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255, 46, 57]), "byte")
    named = data.draw(st.sampled_from([suffix, suffix, suffix, ".npy", ".png", ".wav"]), "name")
    path = tmp_path_factory.mktemp("damaged") / f"a{named}"
    path.write_bytes(content)
    attempt(lambda: rtspecinv.listen(path, sample_rate=None, output=ArraySink(), n_iter=1).samples)
    attempt(lambda: read_image(path)[0])
    attempt(lambda: rtspecinv.read_audio(path)[0])
    with bounded():
        out = str(path.parent / "out.wav")
        assert main(["invert", str(path), "-o", out, "--method", "stream", "--n-iter", "1"]) in (0, 1)
        assert main(
            ["image", str(path), "-o", out, "--seconds", "0.1", "--n-fft", "64", "--n-iter", "1"]
        ) in (0, 1)


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_2_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


HUGE = st.sampled_from([0, 1, N_FREQ, 2**20, 2**31, 2**40, 2**62])


@settings(quick, max_examples=40 * EFFORT)
@given(
    shape=st.lists(HUGE, min_size=1, max_size=4).map(tuple),
    dtype=st.sampled_from(["<f4", "|O", "<U9", "|V1000000000", "<c16"]),
)
def test_headers_that_lie(tmp_path_factory, shape, dtype):
    folder = tmp_path_factory.mktemp("liars")
    lie = npy_header(shape, dtype) + bytes(200)
    (folder / "a.npy").write_bytes(lie)
    good = io.BytesIO()
    np.save(good, np.ones((N_FREQ, 5), np.float32))
    for name, members in (
        ("a.npz", {"magnitude.npy": lie}),
        ("b.npz", {"magnitude.npy": good.getvalue(), "n_fft.npy": lie, "mel_config.npy": lie}),
    ):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    sizes = ",".join(map(str, shape))
    header = f'{{"magnitude":{{"dtype":"F32","shape":[{sizes}],"data_offsets":[0,200]}}}}'.encode()
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(200))
    (folder / "b.safetensors").write_bytes(struct.pack("<Q", 2**60) + header)
    tensor = torch.zeros(1).expand(*(min(size, 2**30) for size in shape[:2]))
    torch.save({"magnitude": tensor}, folder / "a.pt")
    wave = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 60000, 8000, 8000, 2, 16)
    (folder / "a.wav").write_bytes(wave + b"data" + struct.pack("<I", 2**32 - 1) + bytes(200))
    for path in folder.iterdir():
        attempt(
            lambda path=path: rtspecinv.listen(path, sample_rate=8000, output=ArraySink(), n_iter=1).samples
        )


def test_an_archive_that_unpacks_to_more_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10**5}))
    np.savez_compressed(tmp_path / "a.npz", magnitude=np.zeros((N_FREQ, 2000), np.float32))
    with pytest.raises(ValueError, match="unpacks to 264128 bytes"):
        rtspecinv.open_spectrogram(tmp_path / "a.npz")
