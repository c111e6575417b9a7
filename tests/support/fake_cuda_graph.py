"""Fake CUDA graph for a CPU: operations are recorded while they run, undone, and repeated at every replay.

As in a real graph, a replay reads and writes the same tensors as the recording, and values that Python
computed are constants.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape:
    """Replacement of `torch.cuda.CUDAGraph`; `made` is the number of graphs."""

    made = 0

    def __init__(self) -> None:
        Tape.made += 1
        self.steps: list[tuple[Any, tuple, dict, Any]] = []
        self.n_replays = 0

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local", "a call of another thread would break the recording"
        self._take_down = _TakeDown(self)
        self._take_down.__enter__()

    def capture_end(self) -> None:
        self._take_down.__exit__(None, None, None)
        self._take_down.undo()

    def replay(self) -> None:
        self.n_replays += 1
        for function, args, kwargs, outputs in self.steps:
            again = function(*args, **kwargs)
            if not function._schema.is_mutable:
                for old, new in zip(tree_leaves(outputs), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor):
                        old.copy_(new)


class _TakeDown(TorchDispatchMode):
    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self.before: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        if function._schema.is_mutable:
            self.before += [(tensor, tensor.clone()) for tensor in tensors]
        outputs = function(*args, **kwargs)
        storages = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        new = [value for value in tree_leaves(outputs) if isinstance(value, torch.Tensor)]
        is_view = not function._schema.is_mutable and all(
            value.untyped_storage().data_ptr() in storages for value in new
        )
        assert new or function._schema.is_mutable, f"{function} takes a value out of the graph"
        if not is_view:
            self.tape.steps.append((function, args, kwargs, outputs))
        return outputs

    def undo(self) -> None:
        for tensor, value in reversed(self.before):
            tensor.copy_(value)


class _Stream:
    def wait_stream(self, other: object) -> None:
        pass


def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the engine `cuda_graph` record on the CPU."""
    monkeypatch.setattr("rtspecinv.engines.gpu.graph.DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
