"""The contract of a streaming inverter, as properties that any engine, rule and setting must have."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from rtspecinv import StreamingInverter

MakeInverter = Callable[[], StreamingInverter]


@dataclass(frozen=True)
class Domain:
    """Properties of the frames that the contract depends on.

    silence: value of silent frames.
    scales: smallest and largest factor of the sound with which it is not lost.
    scaled: function that returns the frames of a sound times a factor.
    negative: whether frames can have negative values.
    bounded: whether frames are clipped, so that no value is too large.
    louder: number to add to frames so that they differ and are louder.
    """

    silence: float = 0.0
    scales: tuple[float, float] = (1e-30, 1e30)
    scaled: Callable[[Tensor, float], Tensor] = mul
    negative: bool = False
    bounded: bool = False
    louder: float = 1.0


LINEAR = Domain()


def run(inverter: StreamingInverter, magnitude: Tensor, chunks: Sequence[int] = ()) -> Tensor:
    """Return all samples of a stream; `chunks` are the numbers of frames of the first calls of push_many."""
    hops, at = [], 0
    for size in chunks:
        if at + size < magnitude.shape[-1]:
            hops.append(inverter.push_many(magnitude[..., at : at + size]))
            at += size
    hops += [inverter.push(frame) for frame in magnitude[..., at:].unbind(-1)]
    return torch.cat([*hops, inverter.flush()], -1)


def verify_contract(
    make_inverter: MakeInverter,
    magnitude: Tensor,
    chunks: Sequence[int] = (2, 3),
    domain: Domain = LINEAR,
) -> None:
    """Check properties 1 to 5 of the contract; 6, agreement of engines, compares two of them.

    Args:
        make_inverter: function that returns a new inverter with the same settings at every call.
        magnitude: frames to push, `(*batch_shape, n_freq, n_frames)` with at least 4 frames.
        chunks: numbers of frames for the first calls of push_many.
        domain: properties of the frames, default: those of magnitudes.
    """
    samples = run(make_inverter(), magnitude)
    one_frame_in_one_hop_out(make_inverter(), magnitude)
    does_not_depend_on_chunks(make_inverter(), magnitude, samples, chunks)
    is_causal(make_inverter(), magnitude, samples, domain)
    streams_are_independent(make_inverter(), magnitude, samples, domain)
    reset_is_complete(make_inverter(), magnitude, samples)
    is_finite(make_inverter(), magnitude, domain)
    bad_input_changes_nothing(make_inverter(), magnitude, samples, domain)


def does_not_depend_on_chunks(
    inverter: StreamingInverter, magnitude: Tensor, samples: Tensor, chunks: Sequence[int]
) -> None:
    """1. The samples are bit-identical for all chunks, and their number is that of the inverse STFT."""
    assert torch.equal(run(inverter, magnitude, chunks), samples)
    assert torch.equal(run(inverter, magnitude, (magnitude.shape[-1] - 1,)), samples)
    n_frames = magnitude.shape[-1]
    n_pushed = n_frames * inverter.stft.hop_length  # this is more only if windows hardly overlap
    assert samples.shape[-1] == max(n_pushed, inverter.latency + inverter.length(n_frames))


def one_frame_in_one_hop_out(inverter: StreamingInverter, magnitude: Tensor) -> None:
    """2. Shapes and latency are constant, and the latency is known before the first push."""
    latency, hop_length = inverter.latency, inverter.stft.hop_length
    assert isinstance(latency, int)
    assert latency == inverter.look_ahead * hop_length + inverter.stft.padding
    for frame in magnitude.unbind(-1):
        assert inverter.push(frame).shape == (*inverter.batch_shape, hop_length)
        assert inverter.latency == latency
    assert inverter.push_many(magnitude).shape == (*inverter.batch_shape, hop_length * magnitude.shape[-1])


def is_causal(inverter: StreamingInverter, magnitude: Tensor, samples: Tensor, domain: Domain) -> None:
    """3a. A hop depends on no frame later than the one just pushed."""
    n_known = magnitude.shape[-1] // 2
    other = torch.cat([magnitude[..., :n_known], magnitude[..., n_known:].flip(-1) + domain.louder], -1)
    changed = run(inverter, other)
    n_samples = n_known * inverter.stft.hop_length
    assert torch.equal(changed[..., :n_samples], samples[..., :n_samples])
    assert not torch.equal(changed, samples)


def streams_are_independent(
    inverter: StreamingInverter, magnitude: Tensor, samples: Tensor, domain: Domain
) -> None:
    """3b. A hop depends on no other stream of the batch."""
    if samples[..., 0].numel() < 2:
        return  # a single stream
    flat = magnitude.clone().flatten(0, -3)
    flat[1:] = flat[1:].flip(-1) + domain.louder
    changed = run(inverter, flat.reshape(magnitude.shape)).flatten(0, -2)
    assert torch.equal(changed[0], samples.flatten(0, -2)[0])
    assert not torch.equal(changed[1], samples.flatten(0, -2)[1])


def reset_is_complete(inverter: StreamingInverter, magnitude: Tensor, samples: Tensor) -> None:
    """4. After a flush or a reset, the streams that were reset, and no others, begin anew."""
    assert torch.equal(run(inverter, magnitude), samples)  # `run` flushes at the end ...
    assert not inverter.flush().any()  # ... so that no samples remain ...
    assert torch.equal(run(inverter, magnitude), samples)  # ... and the next run begins anew.
    inverter.push_many(magnitude)
    inverter.reset()
    assert torch.equal(run(inverter, magnitude), samples)

    fresh = torch.zeros(inverter.batch_shape, dtype=torch.bool)
    fresh.view(-1)[:1] = True
    inverter.push_many(magnitude)
    inverter.reset(fresh)
    again = torch.cat([inverter.push_many(magnitude), inverter.flush()], -1)
    twice = run(inverter, torch.cat([magnitude, magnitude], -1))[..., -again.shape[-1] :]
    assert torch.equal(again, torch.where(fresh.to(again.device).unsqueeze(-1), samples, twice))


def is_finite(inverter: StreamingInverter, magnitude: Tensor, domain: Domain) -> None:
    """5a. The samples are finite; silence stays silent, and sound after it is as loud as in a new stream."""
    silence = torch.full_like(magnitude, domain.silence)
    assert not run(inverter, silence).any()
    gap = torch.cat([magnitude, silence, silence, silence, magnitude], -1)
    late = torch.cat([silence[..., :1], magnitude], -1)
    assert run(inverter, late).isfinite().all()
    samples = run(inverter, gap)
    assert samples.isfinite().all()
    last = slice(-magnitude.shape[-1] * inverter.stft.hop_length, None)
    fresh, after = (x[..., last].square().mean(-1) for x in (run(inverter, magnitude), samples))
    # Without iterations, the phases of neighbouring frames differ, and the frames cancel each other.
    assert (after > (0.1 if inverter.n_iter else 0.01) * fresh).all()
    assert run(inverter, magnitude[..., :1]).isfinite().all()
    for scale in domain.scales:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the sound exceeds full scale
            scaled = run(inverter, domain.scaled(magnitude, scale))
        assert scaled.isfinite().all()
        assert scaled.any() or not magnitude.any()


def bad_input_changes_nothing(
    inverter: StreamingInverter, magnitude: Tensor, samples: Tensor, domain: Domain
) -> None:
    """5b. An error names the value, and the stream continues as if the bad frame had not been pushed."""
    good = magnitude[..., 0]

    def poisoned(value: float, where: int) -> Tensor:
        """Return a frame with one bad bin in one stream."""
        frame = good.clone()
        frame.view(-1)[where] = value
        return frame

    bad: list[tuple[type[Exception], str, object]] = [
        (ValueError, "nan", poisoned(torch.nan, -1)),
        (ValueError, "inf", poisoned(torch.inf, 0)),
        *([] if domain.negative else [(ValueError, "-1( < 0|, but .*least value).*dB", poisoned(-1.0, -1))]),
        *([] if domain.bounded else [(ValueError, "overflow", poisoned(torch.finfo(good.dtype).max, 0))]),
        (ValueError, "shape", good[..., :-1]),
        (ValueError, "shape", good.unsqueeze(0)),
        (TypeError, "int64", torch.ones_like(good, dtype=torch.int64)),
        (TypeError, "float16", good.half()),
        (TypeError, "list", [0.0]),
        (ValueError, "meta", good.to("meta")),
    ]
    hops = []
    for index, frame in enumerate(magnitude.unbind(-1)):
        error, words, value = bad[index % len(bad)]
        for push in (inverter.push, inverter.push_many):
            with pytest.raises(error, match=words if push == inverter.push else None):
                push(cast(Any, value))
        hops.append(inverter.push(frame))
    assert torch.equal(torch.cat([*hops, inverter.flush()], -1), samples)
