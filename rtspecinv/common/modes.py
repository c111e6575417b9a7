"""Functions that switch off autocast and inference mode of torch while the package computes.

Autocast reduces the precision of matrix products, and tensors made in inference mode can neither be written
to nor differentiated outside of it. The package leaves both modes, so its results do not depend on the mode
of the calling code. Neither do they depend on torch's default device and dtype: every line that makes a
tensor names both, and a test checks all of these lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

CASTING = ("cpu", "cuda")  # device types whose autocast is switched off


def modeless(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` wrapped so that it runs without autocast and inference mode.

    If it is called in inference mode, it records no gradients.
    """

    @wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> R:
        if not (torch.is_inference_mode_enabled() or any(map(torch.is_autocast_enabled, CASTING))):
            return function(*args, **kwargs)
        with left():
            return function(*args, **kwargs)

    return outside


@contextmanager
def left() -> Iterator[None]:
    """Return a context without autocast and inference mode."""
    with ExitStack() as stack:
        for device in filter(torch.is_autocast_enabled, CASTING):
            stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())  # leaving inference mode enables gradients
        yield


class Module(torch.nn.Module):
    """A module that makes, copies, loads and moves its tensors without autocast and inference mode."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = modeless(cls.__init__)  # type: ignore[method-assign]

    @modeless
    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Module:
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    @modeless
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for name, tensor in self._buffers.items():
            if tensor is not None and tensor.is_inference():  # copy and pickle make these in inference mode
                self._buffers[name] = tensor.clone()


def home(device: torch.device | str | int | None) -> torch.device | str | int:
    """Return the device to make tensors on; torch's default device for None."""
    return torch.get_default_device() if device is None else device
