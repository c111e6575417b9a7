"""Saving and loading the state of a stream with `state_dict`; a failed load leaves the stream unchanged.

A state dict also holds the settings of its stream, as a tensor of bytes because some file formats store only
tensors.
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
    """A module whose state dict holds a copy of the state of a stream, and the settings of that stream."""

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """Return all tensors that change from push to push, by name."""

    @abstractmethod
    def _settings(self) -> Settings:
        """Return the settings, as JSON values, that must be equal in the stream that loads a state."""

    @abstractmethod
    def _state_changed(self) -> None:
        """Update all values that depend on the state; called after the state was written to."""

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state; an error leaves the stream unchanged.

        Args:
            state_dict: state dict of a stream with the same settings.
            strict: whether missing and unexpected names raise an error, default: True.
            assign: as in `torch.nn.Module.load_state_dict`; it does not affect the state of the stream.

        Raises:
            RuntimeError: the state is of a stream with other settings, of another version, or damaged.
        """
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
            destination[prefix + PREFIX + name] = kept.clone()  # later pushes do not change the copy
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
            missing_keys += sorted(known)  # raises an error if `strict`
            return
        new = {name: given.get(key) for name, key in names.items()}
        if problem := self._problem(new, state, given.get(prefix + ABOUT)):
            error_msgs.append(f"{problem} The stream was not changed.")
            return
        self._take(state, new)

    def _take(self, state: dict[str, Tensor], new: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.detach_().copy_(new[name])
        self._state_changed()

    def _problem(self, new: dict[str, Any], state: dict[str, Tensor], about: Any) -> str:
        """Return what is wrong with a state, or an empty string."""
        mine, its = self._settings(), _read(about)
        if (version := its.pop("version", None)) != VERSION:
            return (
                f"The state has version {version!r}, not {VERSION}: save it with this version of rtspecinv."
            )
        for name in {**mine, **its}:
            if its.get(name) != mine.get(name):
                return (
                    f"The saved stream has {name}={its.get(name)!r}, this one {name}={mine.get(name)!r}: "
                    "make the inverter with the parameters of the saved one."
                )
        for name, tensor in state.items():
            value = new[name]
            if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != tensor.shape:
                found = "missing" if value is None else f"of shape {tuple(getattr(value, 'shape', ()))}"
                return (
                    f"The state is damaged: {name!r} is {found}, not real and of shape {tuple(tensor.shape)}."
                )
            if not bool(value.isfinite().all()):
                return f"The state is damaged: {name!r} contains NaN or infinite values."
        return ""


def _read(about: Any) -> Settings:
    try:
        found = json.loads(bytes(about.tolist()))
    except (AttributeError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
