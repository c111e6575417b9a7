"""Readers, one for every format of files: each maps an array, and says its shape, dtype and parameters.

Nothing in a file is ever run: pickled objects are refused. Sizes are looked at before anything is unpacked.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rtspecinv.images import read_image
from rtspecinv.mel_config import MelConfig
from rtspecinv.metadata import FIELDS
from rtspecinv.scales import values_of

# A function that maps the array, its shape, its dtype's name, and what else the file says.
Opened = tuple[Callable[[], Any], tuple[int, ...], str, Mapping[str, Any]]

_PREFERRED_NAMES = ("magnitude", "spectrogram", "mel")
_LARGEST_FIELD = 2**20  # bytes of what an archive says about its array


def _open_npy(path: Path) -> Opened:
    def load() -> npt.NDArray[Any]:
        # Not np.load, which would open an archive of that name, too.
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
        return array

    array = load()
    return load, array.shape, array.dtype.name, {}


def _open_npz(path: Path) -> Opened:
    with zipfile.ZipFile(path) as archive:
        headers = {}
        for member in archive.infolist():
            if member.filename.endswith(".npy"):
                headers[member.filename.removesuffix(".npy")] = _npy_header(archive, member)
        chosen = _choose({name: shape for name, (shape, _) in headers.items()})
        parameters: dict[str, Any] = {}
        for name in set(headers) & set(FIELDS):
            shape, dtype = headers[name]
            if math.prod(shape) != 1 or dtype.itemsize > _LARGEST_FIELD:
                parameters[name] = f"an array of shape {shape}"
                continue
            with archive.open(f"{name}.npy") as stream:
                parameters[name] = np.lib.format.read_array(stream, allow_pickle=False)
        _check_room(archive.getinfo(f"{chosen}.npy").file_size)
        unpacked = tempfile.NamedTemporaryFile(suffix=".npy")  # noqa: SIM115 - lives as long as `load`
        with archive.open(f"{chosen}.npy") as stream:
            shutil.copyfileobj(stream, unpacked)
        unpacked.flush()

    def load() -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(unpacked.name, mmap_mode="r", allow_pickle=False)
        return array

    shape, dtype = headers[chosen]
    return load, shape, dtype.name, parameters


def _check_room(n_bytes: int) -> None:
    """Raise `ValueError` if unpacking so much would take more than half of the room for temporary files."""
    room = shutil.disk_usage(tempfile.gettempdir()).free
    if n_bytes > room // 2:
        raise ValueError(f"it unpacks to {n_bytes} bytes, more than half of the {room} there is room for")


def _npy_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of an array in an archive, if they agree with its size there."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(stream)
        size = member.file_size - stream.tell()
    if dtype.hasobject:
        raise ValueError("pickled objects")
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError(
            f"{member.filename} has {size} bytes of values, which is not shape {shape} of {dtype}"
        )
    return shape, dtype


def _open_pt(path: Path) -> Opened:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("it is compressed, as torch.save never does: it may unpack to any size")

    def load_all() -> Any:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:  # the old format of torch.save cannot be mapped
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)

    content = load_all()
    if isinstance(content, torch.Tensor):
        return load_all, _dense_shape(content), str(content.dtype), {}
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, expected a tensor or a dictionary with one")
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    chosen = _choose({name: _dense_shape(value) for name, value in tensors.items()})
    return lambda: load_all()[chosen], _dense_shape(tensors[chosen]), str(tensors[chosen].dtype), content


def _dense_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise ValueError("it holds a sparse or quantized tensor, or one without values, expected a plain one")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("it holds a tensor whose values overlap, expected one with memory of its own")
    return tuple(tensor.shape)


def _open_safetensors(path: Path) -> Opened:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError('.safetensors files need safetensors: pip install "rtspecinv[files]"') from error

    def load() -> Any:
        file: Any = safe_open(path, framework="pt")
        return file.get_slice(chosen)

    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            chosen = _choose(shapes)
            parameters = dict(file.metadata() or {})
            small = {name for name in set(shapes) & set(FIELDS) if math.prod(shapes[name]) == 1}
            parameters |= {name: file.get_tensor(name) for name in small}
            return load, shapes[chosen], slices[chosen].get_dtype(), parameters
    except SafetensorError as error:
        raise ValueError(f"not a whole .safetensors file: {error}") from error


def open_image(path: Path, mel: MelConfig | None) -> Opened:
    """Read a picture of magnitudes, or of the mel values that it or `mel` says."""
    levels, texts = read_image(path)
    values = values_of(levels, texts, mel)
    return lambda: values, values.shape, values.dtype.name, texts


def _choose(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the name of the spectrogram among the arrays of a file."""
    candidates = [name for name, shape in shapes.items() if len(shape) >= 2]
    preferred = [name for name in _PREFERRED_NAMES if name in candidates]
    if len(candidates) != 1 and not preferred:
        raise ValueError(
            f"it holds {len(candidates)} arrays of two or more axes ({', '.join(candidates) or 'none'}), "
            f"expected one, or one named {_PREFERRED_NAMES[0]!r}"
        )
    return (preferred or candidates)[0]


READERS: dict[str, Callable[[Path], Opened]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".pt": _open_pt,
    ".safetensors": _open_safetensors,
}
