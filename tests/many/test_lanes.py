"""Tests of many spectrograms at a time: the bits are those of each alone, and errors affect only one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import rtspecinv
from rtspecinv import STFT, StreamingInverter, presets, stream_many
from rtspecinv.many.lanes import Item, Lane
from rtspecinv.many.runner import Opened, Task, carry_out
from rtspecinv.measure.clip import render

CLIP = torch.from_numpy(render())
SMALL = STFT(64, 16)
LENGTHS = (5, 40, 1, 33, 64, 2, 97, 32)


def spectrograms(transform, hop_length: int) -> list[Tensor]:
    """Return spectrograms with `LENGTHS` frames, each of another part of the clip."""
    parts = [CLIP[9000 * (1 + i) :][: hop_length * 100 + 2000] for i in range(len(LENGTHS))]
    return [transform(part)[..., :n] for part, n in zip(parts, LENGTHS, strict=True)]


@pytest.mark.parametrize(
    "options", [{}, {"update": "rtisi"}, {"look_ahead": 0}, {"init": "peaks", "n_iter": 1}]
)
@pytest.mark.parametrize("n_streams", [1, 3, 16])
def test_the_bits_of_each_alone(options, n_streams):
    pytest.importorskip("numba")
    magnitudes = spectrograms(SMALL.magnitude, 16)
    wanted = [None, 16 * 40 + 7, 3, None, 700, None, 5000, None]
    alone = StreamingInverter(SMALL, engine="numba", **options)
    inverter = StreamingInverter(SMALL, batch_shape=(n_streams,), engine="numba", **options)
    found = dict(stream_many(iter(magnitudes), inverter, lengths=wanted))
    assert sorted(found) == list(range(len(LENGTHS)))
    for i, (magnitude, length) in enumerate(zip(magnitudes, wanted, strict=True)):
        assert torch.equal(found[i], alone.run(magnitude, length=length)), i


@pytest.mark.parametrize("name", ["hifigan-22k", "kaldi-fbank", "whisper"])
def test_the_bits_of_mel_frames(name):
    """This holds with pre-emphasis, whose filter has a state for each stream."""
    pytest.importorskip("numba")
    mels = spectrograms(presets[name], presets[name].config.hop_length)[1::3]
    found = dict(
        stream_many([mel.numpy() for mel in mels], presets[name].inverter(n_iter=2, batch_shape=(2,)))
    )
    for i, mel in enumerate(mels):
        assert torch.equal(found[i], presets[name].inverter(n_iter=2).run(mel))


def test_the_reference_engine_is_close():
    magnitudes = spectrograms(SMALL.magnitude, 16)[3:]
    inverter = StreamingInverter(SMALL, batch_shape=(3,), engine="eager", n_iter=1)
    for i, samples in stream_many(magnitudes, inverter):
        expected = StreamingInverter(SMALL, engine="eager", n_iter=1).run(magnitudes[i])
        torch.testing.assert_close(samples, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("engine", ["numba", "eager"])
def test_pushes_of_many_frames_to_some_streams(engine):
    if engine == "numba":
        pytest.importorskip("numba")
    magnitude = SMALL.magnitude(CLIP[9000:9480].expand(3, -1))
    inverter, other = (StreamingInverter(SMALL, batch_shape=(3,), engine=engine) for _ in range(2))
    some = inverter.push_many(magnitude[[2, 0], :, :9], streams=[2, 0])
    hops = [other.push(frame, streams=[2, 0]) for frame in magnitude[[2, 0], :, :9].unbind(-1)]
    assert torch.equal(some, torch.cat(hops, -1))
    assert torch.equal(inverter.push_many(magnitude), other.push_many(magnitude))
    with pytest.raises(ValueError, match="has shape"):
        inverter.push_many(magnitude, streams=[1])


def test_memory_is_that_of_the_spectrograms_in_progress():
    """A spectrogram is read from the iterable only when a stream is free."""
    taken: list[int] = []

    def source() -> Iterator[Tensor]:
        for i in range(20):
            taken.append(i)
            yield torch.ones(33, 5)

    many = stream_many(source(), StreamingInverter(SMALL, batch_shape=(3,), n_iter=0))
    for n_ended, _ in enumerate(many, 1):
        assert len(taken) <= n_ended + 3


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.full((33, 4), -1.0), ValueError, "Spectrogram 1: .*< 0"),
        (torch.ones(32, 4), ValueError, "Spectrogram 1: .*n_fft"),
        (torch.ones(2, 33, 4), ValueError, "Spectrogram 1: .*one by one"),
        (torch.ones(33, 0), ValueError, "Spectrogram 1: .*with frames in it"),
        (torch.ones(33, 4, dtype=torch.complex64), TypeError, r"Spectrogram 1: .*pass its .abs\(\)"),
        (np.ones((33, 4), int), TypeError, "Spectrogram 1: .*astype"),
    ],
)
def test_a_bad_spectrogram_is_named(bad, error, message):
    inverter = StreamingInverter(SMALL, batch_shape=(2,), n_iter=0)
    with pytest.raises(error, match=message):
        list(stream_many([torch.ones(33, 4), bad], inverter))
    assert len(list(stream_many([torch.ones(33, 4)] * 3, inverter))) == 3


def test_what_is_no_batch_of_streams():
    with pytest.raises(ValueError, match=r"make it with batch_shape=\(16,\)"):
        next(stream_many([], StreamingInverter(SMALL)))
    with pytest.raises(ValueError, match="shorter"):
        list(stream_many([torch.ones(33, 4)], StreamingInverter(SMALL, batch_shape=(2,)), lengths=[]))


def test_an_error_concerns_one_spectrogram():
    """The error may be in the first or in later frames, or in the function that receives the samples."""
    good = SMALL.magnitude(CLIP[9000:12000]).mT.unsqueeze(1)
    heard: dict[str, list[Tensor]] = {"alone": [], "beside": []}

    def failing() -> Iterator[Tensor]:
        yield good[:40]
        raise OSError("the disk is gone")

    def full(samples: Tensor) -> None:
        raise RuntimeError("no more room")

    lane = Lane(StreamingInverter(SMALL, batch_shape=(1,)))
    lane.add(Item(iter([good]), 1, None, heard["alone"].append))
    while len(lane):
        lane.step()
    lane = Lane(StreamingInverter(SMALL, batch_shape=(4,)))
    with pytest.raises(ValueError, match="< 0"):
        lane.add(Item(iter([-good]), 1, None, print))
    beside = Item(iter([good[:7], good[7:]]), 1, None, heard["beside"].append)
    items = [Item(failing(), 1, None, lambda samples: None), beside, Item(iter([good]), 1, None, full)]
    for item in items:
        lane.add(item)
    ended: dict[Item, Exception | None] = {}
    while len(lane):
        ended |= dict(lane.step())
    assert [str(ended[item]) for item in items] == ["the disk is gone", "None", "no more room"]
    assert lane.n_free == 4
    torch.testing.assert_close(
        torch.cat(heard["alone"], -1), torch.cat(heard["beside"], -1), atol=1e-4, rtol=0
    )


class Counted(Task):
    """A task that records the calls of its methods."""

    def __init__(self, values: Tensor, failure: Exception | None = None) -> None:
        super().__init__()
        self.values, self.failure = values, failure
        self.pieces: list[Tensor] = []
        self.is_stored = self.is_aborted = False

    def open(self) -> Opened | None:
        rtspecinv.common.warning.warn(f"opened {len(self.values)} frames")
        return Opened("small", make, iter([self.values]), self.values.shape[1], None)

    def write(self, samples: Tensor) -> None:
        self.pieces.append(samples)

    def finish(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.is_stored = True

    def abort(self) -> None:
        self.is_aborted = True


def make(n_streams: int) -> StreamingInverter:
    return StreamingInverter(SMALL, batch_shape=(n_streams,), n_iter=1)


def frames(n_frames: int, channels: int = 1) -> Tensor:
    return SMALL.magnitude(CLIP[9000 : 9000 + 16 * n_frames]).mT.unsqueeze(1).repeat(1, channels, 1)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_tasks_end_each_with_its_own_error_and_remarks(n_threads):
    tasks = [Counted(frames(10 + 7 * i, channels=1 + i % 3 * 4)) for i in range(12)]
    tasks[3].failure = OSError("full")
    tasks[5].values = -tasks[5].values
    tasks[7].values = 1000 * tasks[7].values
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ended = list(carry_out(tasks, n_threads=n_threads, n_streams=4))
    assert sorted(map(id, ended)) == sorted(map(id, tasks))
    assert [i for i, task in enumerate(tasks) if task.error is not None] == [3, 5]
    assert all(task.is_stored != task.is_aborted for task in tasks)
    for i, task in enumerate(tasks):
        assert task.remarks[0] == f"opened {len(task.values)} frames"
        assert (len(task.remarks) > 1) == (i == 7)
        if task.error is None:
            assert torch.cat(task.pieces, -1).shape == (task.values.shape[1], 16 * (len(task.values) - 1))


def test_an_unexpected_error_ends_the_run_and_aborts():
    tasks = [Counted(frames(200)) for _ in range(6)]
    tasks[1].failure = ZeroDivisionError("a mistake in the program")
    with pytest.raises(ZeroDivisionError):
        list(carry_out(tasks, n_threads=2, n_streams=2))
    assert not any(task.is_stored and task.is_aborted for task in tasks)


def test_a_closed_run_aborts_what_is_in_progress():
    tasks = [Counted(frames(20)), *(Counted(frames(3000)) for _ in range(20))]
    run = carry_out(tasks, n_threads=2, n_streams=3)
    assert next(run) is tasks[0]
    run.close()
    begun = [task for task in tasks if task.remarks]
    assert len(begun) < 15
    assert all(task.is_stored or task.is_aborted for task in begun)
