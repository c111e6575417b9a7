"""The plan of an inverter: the constants of push.c, made from the objects that all engines use."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import torch

from rtspecinv.common.checks import instance
from rtspecinv.engines import n_open
from rtspecinv.engines.table import (
    CONSISTENT,
    INTO_P_C,
    INTO_P_M,
    STATE,
    Table,
    table_of,
    why_none,
)
from rtspecinv.frames import MIN_COVERAGE, MIN_COVERAGE_AT_START, N_PAST, FrameBuffer
from rtspecinv.inputs import largest_magnitude
from rtspecinv.phase import Gradient, Overlap, Start, Zeros
from rtspecinv.projections import signs
from rtspecinv.stft import STFT
from rtspecinv.streaming import StreamingInverter

Array = np.ndarray[Any, Any]

# Constants of push.h, in the same order.
MAGIC, FORMAT = b"RTSI", 1
LEAST_LENGTH, MOST_LENGTH, MOST_OPEN = 32, 2**15, 256
STARTS: tuple[type[Start], ...] = (Overlap, Zeros, Gradient)
HEADER = struct.Struct("<4s15i6f8x")
ALIGNMENT = 4  # numbers


def kernel_plan(inverter: StreamingInverter) -> bytes:
    """Return the constants of an inverter as the C kernel reads them, `rtspecinv_plan` in push.h.

    The C kernel, `rtspecinv/kernel/push.c`, inverts spectrograms in programs without Python. A plan contains
    all sizes, windows and numbers of a stream, little-endian, and no state.

    Args:
        inverter: inverter of magnitudes, with compensated windows, whose `n_fft` is a power of two from 32 to
            32768, and whose start is "overlap", "zeros" or "gradient".

    Raises:
        ValueError: the kernel does not support the inverter; the message says why.
        TypeError: the parameter is not a StreamingInverter.
    """
    instance(StreamingInverter, "make one, StreamingInverter(STFT())", inverter=inverter)
    stft, update, init = inverter.stft, inverter.update, inverter.init
    n_frames = n_open(init, inverter.look_ahead, inverter.revise)
    _check_supported(inverter, n_frames)
    table = table_of(update, n_frames)
    if table is None or not _is_supported(table):
        reason = why_none(update, n_frames) or "it projects more than once in an iteration"
        raise ValueError(f"Parameter {update=} has no C code ({reason}): use another rule, such as RAAR()")
    buffer = FrameBuffer(stft, n_frames, n_revised=inverter.revise)
    n_past, numbers = 0, (0.0, 0.0, 0.0)
    if isinstance(init, Gradient):
        _, _, to_frame, to_bin = init.constants(stft)
        n_past, numbers = N_PAST, (to_frame, to_bin, math.log(init.tolerance))
    arrays = [_padded(array) for array in _arrays(stft, buffer, table, init)]
    header = HEADER.pack(
        MAGIC,
        FORMAT,
        HEADER.size // 4 + sum(map(len, arrays)),
        stft.n_fft,
        stft.hop_length,
        inverter.latency,
        max(0, inverter.latency + inverter.length(0)),
        inverter.n_iter,
        n_frames,
        init.n_waiting,
        inverter.revise,
        n_past,
        buffer.n_fade,
        table.n_slots,
        table.looks_again,
        STARTS.index(type(init)),
        largest_magnitude(torch.float32, stft.n_fft),
        MIN_COVERAGE,
        MIN_COVERAGE_AT_START,
        *numbers,
    )
    return header + b"".join(array.tobytes() for array in arrays)


def _check_supported(inverter: StreamingInverter, n_frames: int) -> None:
    n_fft, init = inverter.stft.n_fft, inverter.init
    if inverter.bank is not None:
        raise ValueError(
            "Parameter inverter has a filter bank: the C kernel takes magnitudes, use "
            "StreamingInverter(stft) and push bank.unmix(values)"
        )
    if n_fft & (n_fft - 1) or not LEAST_LENGTH <= n_fft <= MOST_LENGTH:
        raise ValueError(
            f"Parameter {n_fft=} is not a power of two from {LEAST_LENGTH} to {MOST_LENGTH}: the C kernel "
            "transforms no other lengths, use n_fft=1024"
        )
    if inverter.update.textbook:
        raise ValueError(
            f"Parameter update={inverter.update} has the windows of the textbook, which the C kernel lacks: "
            "use GriffinLim()"
        )
    if type(init) not in STARTS:
        raise ValueError(f"Parameter {init=} has no C code: use 'overlap', 'zeros' or 'gradient'")
    if n_frames > MOST_OPEN:
        raise ValueError(
            f"Parameter look_ahead={inverter.look_ahead} makes {n_frames} open frames, more than "
            f"{MOST_OPEN}: use a smaller one"
        )


def _is_supported(table: Table) -> bool:
    """Return whether push.c supports all sums in a table: those of projections and of the estimate."""
    both = torch.stack([table.first_step, table.step])
    rows = (both[..., INTO_P_M, :STATE], both[..., INTO_P_C, CONSISTENT], both[..., -1, :STATE])
    return not table.projects_twice and not any(bool(row.any()) for row in rows)


def _arrays(stft: STFT, buffer: FrameBuffer, table: Table, init: Start) -> list[Any]:
    """Return the arrays that follow the header, in the order of `constants_of` in push.c."""
    n_half = stft.n_fft // 2 + 1
    advance, turn, *_ = init.constants(stft) if isinstance(init, Gradient) else (np.zeros(0),) * 2
    directions = signs(n_half, torch.float32, torch.device("cpu"))
    split = np.exp(-2j * np.pi * np.arange(stft.n_fft // 4 + 1) / stft.n_fft)
    return [
        stft.window * (stft.scale / 2),  # the transform of push.c gives twice the spectrum
        stft.dual_window / (stft.scale * stft.n_fft),
        stft.envelope,
        buffer.fade(),
        np.pad(directions, (0, -n_half % ALIGNMENT), constant_values=1),  # a magnitude of 0 times 1 is 0
        torch.stack([table.first_step, table.step]),
        np.array(table.start),
        np.concatenate([split.real, split.imag]),
        _twiddles(stft.n_fft // 2),
        advance,
        turn,
    ]


def _twiddles(n: int) -> Array:
    """Return the factors `w^p`, `w^2p`, `w^3p` of all steps of radix 4 but the last, real and imaginary."""
    steps = [np.zeros(0)]
    while n > 4:
        turns = np.outer(np.arange(1, 4), np.arange(n // 4))
        factors = np.exp(-2j * np.pi * turns / n)
        steps.append(np.stack([factors.real, factors.imag], 1).ravel())
        n //= 4
    return np.concatenate(steps)


def _padded(values: Any) -> Array:
    """Return values as float32, little-endian, with zeros up to a multiple of ALIGNMENT."""
    array = np.asarray(values.cpu() if isinstance(values, torch.Tensor) else values, "<f4").ravel()
    return np.pad(array, (0, -len(array) % ALIGNMENT))
