"""The modes that torch may be in when somebody calls us, and how we leave them.

Autocast makes products of matrices coarser, and tensors made in inference mode can neither be written to nor
differentiated outside of it. Both belong to the caller's code: the same values come out whatever it is in.
That every tensor is made on a device and in a dtype that are named, whatever torch's defaults are, is for
every line of this package to see to; a test reads them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

CASTING = ("cpu", "cuda")  # devices whose autocast counts


def modeless(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function run outside of autocast and of inference mode; in inference mode, without gradients."""

    @wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> R:
        if not (torch.is_inference_mode_enabled() or any(map(torch.is_autocast_enabled, CASTING))):
            return function(*args, **kwargs)
        with left():
            return function(*args, **kwargs)

    return outside


@contextmanager
def left() -> Iterator[None]:
    """Context outside of autocast and of inference mode."""
    with ExitStack() as stack:
        for device in filter(torch.is_autocast_enabled, CASTING):
            stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())  # which leaving inference mode would switch on
        yield


class Module(torch.nn.Module):
    """A module whose tensors are made, copied, loaded and moved outside of any mode."""

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
            if tensor is not None and tensor.is_inference():  # copy and pickle have made it so
                self._buffers[name] = tensor.clone()


def home(device: torch.device | str | int | None) -> torch.device | str | int:
    """Device to make tensors on: None is torch's default."""
    return torch.get_default_device() if device is None else device
