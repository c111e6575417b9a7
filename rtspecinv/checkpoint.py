"""The state of a stream in a `state_dict`: all of it, or an error that leaves the stream as it is.

A state dict says what stream it is of, in a tensor of bytes, as some formats hold nothing but tensors.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rtspecinv.common.modes import Module

VERSION = 1
PREFIX = "state."
ABOUT = f"{PREFIX}about"

Settings = dict[str, Any]


class Checkpointed(Module):
    """A module whose state dict is the state of a stream, copied, and what stream that is."""

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """All tensors that change from push to push."""

    @abstractmethod
    def _settings(self) -> Settings:
        """What must be the same for a state to mean the same, as JSON has it."""

    @abstractmethod
    def _state_changed(self) -> None:
        """Called when the state has been written to."""

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state; after an error the stream goes on as if nothing had happened."""
        before = {name: tensor.clone() for name, tensor in self._state().items()}
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except Exception:
            self._take(self._state(), before)
            raise

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self._state().items():
            kept = tensor if keep_vars else tensor.detach()
            destination[prefix + PREFIX + name] = kept.clone()  # the stream goes on, what is saved does not
        about = json.dumps({"version": VERSION, **self._settings()}, sort_keys=True)
        destination[prefix + ABOUT] = torch.tensor(list(about.encode()), dtype=torch.uint8, device="cpu")

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        state = self._state()
        names = {name: prefix + PREFIX + name for name in state}
        known = {*names.values(), prefix + ABOUT}
        given = {key: value for key, value in state_dict.items() if key in known}
        others = {key: value for key, value in state_dict.items() if key not in known}
        super()._load_from_state_dict(
            others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if not given:
            missing_keys += sorted(known)  # an error if all must match
            return
        new = {name: given.get(key) for name, key in names.items()}
        if problem := self._problem(new, state, given.get(prefix + ABOUT)):
            error_msgs.append(f"{problem} The stream is as it was.")
            return
        self._take(state, new)

    def _take(self, state: dict[str, Tensor], new: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.detach_().copy_(new[name])
        self._state_changed()

    def _problem(self, new: dict[str, Any], state: dict[str, Tensor], about: Any) -> str:
        """What is wrong with a state; nothing if it is empty."""
        mine, its = self._settings(), _read(about)
        if its.pop("version", None) != VERSION:
            return f"It is not a state of version {VERSION}: save it with this version of rtspecinv."
        for name in {**mine, **its}:
            if its.get(name) != mine.get(name):
                return (
                    f"Its stream has {name}={its.get(name)!r}, this one {name}={mine.get(name)!r}: make the "
                    "inverter with the parameters of the one that was saved."
                )
        for name, tensor in state.items():
            value = new[name]
            if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != tensor.shape:
                found = "missing" if value is None else f"of shape {tuple(getattr(value, 'shape', ()))}"
                return f"Its {name!r} is {found}, not real and of shape {tuple(tensor.shape)}: it is damaged."
            if not bool(value.isfinite().all()):
                return f"Its {name!r} has values that are NaN or infinite: it is damaged."
        return ""


def _read(about: Any) -> Settings:
    try:
        found = json.loads(bytes(about.tolist()))
    except (AttributeError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
