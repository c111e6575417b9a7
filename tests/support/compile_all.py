"""Program that compiles all compiled code once, before tests run in parallel: `python compile_all.py`."""

from __future__ import annotations

import importlib.util
import multiprocessing

import torch

import rtspecinv


def compile_for(precision: str) -> None:
    """Compile the code of streams, batches and mel frames for one precision."""
    dtype = getattr(torch, precision)
    stft = rtspecinv.STFT(64, 16, dtype=dtype)
    rtspecinv.invert(torch.ones(33, 20, dtype=dtype), stft, n_iter=1)
    rtspecinv.MelInverter(rtspecinv.MelConfig(8000, 64, 16, n_mels=8, preemphasis=0.9), dtype=dtype)


if __name__ == "__main__" and importlib.util.find_spec("numba") is not None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(compile_for, ["float32", "float64"])
