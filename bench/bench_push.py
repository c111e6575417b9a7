"""Times of a push and of its parts: pytest --benchmark-enable --benchmark-only bench."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import pytest
import torch
from protocol import DENSE, LONG, SHORT, STANDARD, Configuration
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import rtspecinv
from rtspecinv.engines import ENGINES
from rtspecinv.frames import FrameBuffer
from rtspecinv.measure import timing
from rtspecinv.measure.timing import Runner
from rtspecinv.projections import to_consistent, to_magnitude

LOOK_AHEAD, N_ITER = 3, 8
N_FRAMES = 64


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(configuration: Configuration, *batch: int) -> Tensor:
    """Return magnitudes of white noise, `(*batch, n_freq, N_FRAMES)`."""
    n_samples = (N_FRAMES - 1) * configuration.hop_length
    samples = 0.1 * torch.randn(*batch, n_samples, generator=torch.Generator().manual_seed(0))
    return configuration.magnitude(samples)


@pytest.fixture(scope="module")
def buffer() -> FrameBuffer:
    """Return a buffer with n_fft 1024 and hop 256, all of whose frames are open."""
    buffer = FrameBuffer(rtspecinv.STFT(STANDARD.n_fft, STANDARD.hop_length), LOOK_AHEAD + 1)
    for magnitude in noise(STANDARD).unbind(-1):
        buffer.push(magnitude)
    return buffer


@pytest.fixture(scope="module")
def spectrum(buffer: FrameBuffer) -> Tensor:
    phase = torch.rand(buffer.target().shape, generator=torch.Generator().manual_seed(0))
    return torch.polar(buffer.target(), 2 * torch.pi * phase)


@pytest.mark.benchmark(group="parts, 1024/256, 4 frames")
def test_to_magnitude(benchmark: BenchmarkFixture, buffer: FrameBuffer, spectrum: Tensor) -> None:
    result = benchmark(to_magnitude, spectrum, buffer.target())
    torch.testing.assert_close(result.abs(), buffer.target())


@pytest.mark.benchmark(group="parts, 1024/256, 4 frames")
def test_to_consistent(benchmark: BenchmarkFixture, buffer: FrameBuffer, spectrum: Tensor) -> None:
    result = benchmark(to_consistent, spectrum, buffer)
    assert result.shape == spectrum.shape


@pytest.mark.benchmark(group="parts, 1024/256, 4 frames")
def test_overlap_add(benchmark: BenchmarkFixture, buffer: FrameBuffer, spectrum: Tensor) -> None:
    stft = buffer.stft
    samples = benchmark(stft.overlap_add, stft.inverse_transform(spectrum))
    assert samples.shape == (LOOK_AHEAD * STANDARD.hop_length + STANDARD.n_fft,)


@pytest.mark.benchmark(group=f"a push, look_ahead {LOOK_AHEAD}, n_iter {N_ITER}")
@pytest.mark.parametrize("device", timing.devices())
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "auto"])
@pytest.mark.parametrize("n_streams", [1, 16])
@pytest.mark.parametrize("configuration", [STANDARD, LONG, SHORT, DENSE], ids=str)
def test_push(
    benchmark: BenchmarkFixture, configuration: Configuration, n_streams: int, engine: str, device: str
) -> None:
    setting = configuration.setting(LOOK_AHEAD, N_ITER)
    try:
        inverter = Runner(engine, device).inverter(setting, n_streams)
    except (ImportError, ValueError) as error:
        pytest.skip(str(error))
    if inverter.engine != engine:
        pytest.skip(f"{engine} is {inverter.engine} here")
    frames = cycle(noise(configuration, n_streams).movedim(-1, 0).contiguous().to(device))

    def push() -> Tensor:
        hop = inverter.push(next(frames))
        if device == "cuda":
            torch.cuda.synchronize()
        return hop

    for _ in range(2 * LOOK_AHEAD):
        push()
    hop = benchmark(push)
    assert hop.shape == (n_streams, configuration.hop_length)
    if benchmark.stats is not None:  # None if benchmarks are disabled
        seconds = n_streams * configuration.hop_length / configuration.sample_rate
        benchmark.extra_info["real_time_factor"] = benchmark.stats.stats.median / seconds
