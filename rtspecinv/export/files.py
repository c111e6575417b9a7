"""Writes a push of a stream into a file, .onnx or .pt2."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any

import torch

from rtspecinv.common.checks import MOST_RATE, file_name, finite, instance
from rtspecinv.common.modes import modeless
from rtspecinv.common.printable import printable
from rtspecinv.common.whole_files import check_place, write_whole
from rtspecinv.export.step import Step
from rtspecinv.mel.stream import MelInverter
from rtspecinv.streaming import StreamingInverter

SUFFIXES = (".onnx", ".pt2")
OPSET = 20
MOST_STREAMS = 2**16
ABOUT = "about.json"  # name of the facts in a file of torch.export


@modeless
def export_step(
    inverter: StreamingInverter, path: str | os.PathLike[str], *, sample_rate: float | None = None
) -> None:
    """Write one push of an inverter into a file that other programs run, without Python and this package.

    The file contains a pure function: a frame and a state in, a hop and the next state out. All numbers are
    real, of the dtype of the inverter; the first axis of each tensor counts streams, of which there may be
    any number. `docs/export.md` describes inputs, outputs and how to call them.

    Args:
        inverter: `StreamingInverter` or `MelInverter` with the start "overlap" or "zeros" and any rule that
            compiled engines support except a `DifferenceMap` whose beta is not 1. `n_iter` and all other
            parameters become part of the file; the state of its streams does not.
        path: name of the file: `.onnx` (needs the extra `export`) or `.pt2` (for `torch.export.load`).
        sample_rate: sample rate in Hz for the file's metadata; default: that of a `MelInverter`, else none.

    Raises:
        ValueError: the start or the rule cannot be exported, n_fft has too large a factor, or the name of the
            file ends in another suffix.
        ImportError: ONNX is not installed.
        OSError: the file cannot be written; an earlier file of this name stays unchanged.

    Examples:
        >>> from rtspecinv import STFT, StreamingInverter, export_step
        >>> inverter = StreamingInverter(STFT(1024, 256), look_ahead=3, n_iter=8)
        >>> export_step(inverter, "step.onnx", sample_rate=22050)  # doctest: +SKIP
    """
    instance(StreamingInverter, "pass rtspecinv.StreamingInverter(...)", inverter=inverter)
    path = file_name(path=path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"Parameter path={printable(path)} does not end in {' or '.join(SUFFIXES)}")
    if sample_rate is not None:
        sample_rate = finite(0, MOST_RATE, above=True, sample_rate=sample_rate)
    elif isinstance(inverter, MelInverter):
        sample_rate = inverter.bank.config.sample_rate
    check_place(path)
    if suffix == ".onnx":
        _check_installed()
    about = facts(inverter, sample_rate)
    step = copy.deepcopy(Step(inverter)).cpu()
    with torch.no_grad(), _quietly():
        program = _traced(step)
        content = _onnx(program, step, about) if suffix == ".onnx" else _pt2(program, about)
    write_whole(path, lambda file: file.write(content))


def facts(inverter: StreamingInverter, sample_rate: float | None) -> dict[str, str]:
    """Return the metadata of a file that a program needs, as text by name."""
    stft = inverter.stft
    mel = inverter.bank.config if isinstance(inverter, MelInverter) else None
    known = {
        "rtspecinv": metadata.version("rtspecinv"),
        "sample_rate": sample_rate,
        **{name: getattr(stft, name) for name in ("n_fft", "hop_length", "win_length", "n_freq", "center")},
        "window": stft.window_name,
        "normalized": stft.normalized,
        "look_ahead": inverter.look_ahead,
        "revise": inverter.revise,
        "n_iter": inverter.n_iter,
        "update": inverter.update,
        "init": inverter.init,
        "latency": inverter.latency,
        "flush_samples": max(0, inverter.latency + inverter.length(0)),
        "n_bands": None if inverter.bank is None else inverter.bank.n_bands,
        "mel": None if mel is None else json.dumps(mel.to_dict()),
    }
    return {name: str(value) for name, value in known.items() if value is not None}


def _check_installed() -> None:
    try:
        for name in ("onnx", "onnxscript"):
            import_module(name)
    except ImportError as error:
        raise ImportError(
            f'{error}: a .onnx file needs onnx and onnxscript: pip install "rtspecinv[export]"; a .pt2 file '
            "needs neither"
        ) from error


def frame_name(step: Step) -> str:
    """Return the name of the frame among the inputs of a file."""
    return "magnitude" if step.bank is None else "mel"


def _traced(step: Step) -> torch.export.ExportedProgram:
    n_streams = 2  # with one stream, torch would treat the number as a constant
    width = step.stft.n_freq if step.bank is None else step.bank.n_bands
    shapes = [(width,), *step.shapes.values()]
    zeros = [torch.zeros(n_streams, *shape, dtype=step.stft.dtype, device="cpu") for shape in shapes]
    streams = {0: torch.export.Dim("streams", min=1, max=MOST_STREAMS)}
    dynamic = (streams, (streams,) * len(step.shapes))
    return torch.export.export(step, tuple(zeros), dynamic_shapes=dynamic, strict=False)


def _pt2(program: torch.export.ExportedProgram, about: dict[str, str]) -> bytes:
    for node in program.graph.nodes:  # origin of each node in the code, a third of the size of the file
        node.meta.pop("stack_trace", None)
        node.meta.pop("nn_module_stack", None)
        node.meta.pop("source_fn_stack", None)
        node.meta.pop("torch_fn", None)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={ABOUT: json.dumps(about)})
    return file.getvalue()


def _onnx(program: torch.export.ExportedProgram, step: Step, about: dict[str, str]) -> bytes:
    made = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=[frame_name(step), *(f"state_{name}" for name in step.shapes)],
        output_names=["hop", *(f"next_{name}" for name in step.shapes)],
        verbose=False,
    )
    assert made is not None
    model: Any = made.model_proto
    graph = model.graph
    del graph.value_info[:]
    for node in graph.node:  # origin of each node in the code, half of the size of the file
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*graph.input, *graph.output]:
        del value.metadata_props[:]
        value.type.tensor_type.shape.dim[0].dim_param = "streams"
    for name, text in about.items():
        model.metadata_props.add(key=name, value=text)
    content: bytes = model.SerializeToString()
    return content


@contextmanager
def _quietly() -> Iterator[None]:
    """Return a context without torch's warnings about its own code and about missing packages."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
