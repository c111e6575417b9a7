"""Readers, one for every format of files: each maps an array, and says its shape, dtype and parameters.

Nothing in a file is ever run: pickled objects are refused. Sizes are looked at before anything is unpacked,
and what is read stays in proportion to the file.
"""

from __future__ import annotations

import io
import math
import shutil
import sys
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from rtspecinv.images import read_image
from rtspecinv.mel_config import MelConfig
from rtspecinv.metadata import FIELDS
from rtspecinv.printable import printable
from rtspecinv.scales import values_of

# A function that maps the array, its shape, its dtype's name, and what else the file says.
Opened = tuple[Callable[[], Any], tuple[int, ...], str, Mapping[str, Any]]

_MOST_NAMES = 8  # in a message
_PREFERRED_NAMES = ("magnitude", "spectrogram", "mel")
_LARGEST_FIELD = 2**20  # bytes of what an archive says about its array
_LONGEST_CONTENTS = 2**20  # bytes of an archive's table of contents: some 10000 members
_LONGEST_HEADER = 2**16  # bytes, of an array
_LARGEST_PICKLE = 2**22  # bytes of what a .pt file says about its tensors
_FREE_SIZE = 2**30  # bytes that any archive may unpack to
_MOST_RATIO = 64  # and in proportion to its size: arrays of floats shrink by much less, but for silence


def _open_npy(path: Path) -> Opened:
    def load() -> npt.NDArray[Any]:
        # Not np.load, which would open an archive of that name, too.
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
        return array

    array = load()
    return load, array.shape, array.dtype.name, {}


def _open_npz(path: Path) -> Opened:
    with _archive(path) as archive:
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
        _check_room(archive.getinfo(f"{chosen}.npy").file_size, path.stat().st_size)
        # It has no name, so that nothing is left of it however the process ends, and lives as long as `load`.
        unpacked = tempfile.TemporaryFile()  # noqa: SIM115
        with archive.open(f"{chosen}.npy") as stream:
            shutil.copyfileobj(stream, unpacked)
        unpacked.flush()
    shape, dtype = headers[chosen]
    unpacked.seek(0)
    order = _read_header(unpacked)[1]
    offset = unpacked.tell()

    def load() -> npt.NDArray[Any]:
        return np.memmap(unpacked, dtype, "r", offset, shape, order)

    weakref.finalize(load, unpacked.close)
    return load, shape, dtype.name, parameters


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose table of contents is no longer than it need be: it is read as a whole."""
    with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
        file.most = sys.maxsize
        yield archive


class _Bounded(io.FileIO):
    most = _LONGEST_CONTENTS

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > self.most:
            raise ValueError(
                f"its table of contents has {size} bytes, more than {self.most}: too many arrays"
            )
        return super().read(size) or b""


def _check_room(n_bytes: int, n_packed: int) -> None:
    """Raise `ValueError` for what unpacks to much more than it is, or to over half of the room there is."""
    if n_bytes > max(_FREE_SIZE, _MOST_RATIO * n_packed):
        raise ValueError(
            f"it unpacks from {n_packed} to {n_bytes} bytes, which is out of proportion: if that is right, "
            "save the array with numpy.save"
        )
    room = shutil.disk_usage(tempfile.gettempdir()).free
    if n_bytes > room // 2:
        raise ValueError(f"it unpacks to {n_bytes} bytes, more than half of the {room} there is room for")


def _npy_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of an array in an archive, if they agree with its size there."""
    with archive.open(member) as stream:
        begin = io.BytesIO(stream.read(_LONGEST_HEADER))  # it may say any length of itself
        shape, _, dtype = _read_header(begin)
        size = member.file_size - begin.tell()
    if dtype.hasobject:
        raise ValueError("pickled objects")
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError(
            f"{member.filename} has {size} bytes of values, which is not shape {shape} of {dtype}"
        )
    return shape, dtype


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    """Return shape, order and dtype of the array that begins here, and stop where its values begin."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    return shape, "F" if is_fortran else "C", dtype


def _open_pt(path: Path) -> Opened:
    mapped = zipfile.is_zipfile(path)
    if mapped:
        with _archive(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("it is compressed, as torch.save never does: it may unpack to any size")
                if member.filename.endswith(".pkl") and member.file_size > _LARGEST_PICKLE:
                    raise ValueError(f"it says {member.file_size} bytes about its tensors, which is too much")

    content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)

    def load_all() -> Any:  # the old format of torch.save cannot be mapped: it stays in memory as a whole
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True) if mapped else kept

    kept = None if mapped else content
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
            f"it holds {len(candidates)} arrays of two or more axes ({_named(candidates)}), "
            f"expected one, or one named {_PREFERRED_NAMES[0]!r}"
        )
    return (preferred or candidates)[0]


def _named(names: list[str]) -> str:
    """Some names, fit to be shown."""
    shown = [printable(name, 40) for name in names[:_MOST_NAMES]]
    return ", ".join([*shown, *(["..."] if len(names) > _MOST_NAMES else [])]) or "none"


READERS: dict[str, Callable[[Path], Opened]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".pt": _open_pt,
    ".safetensors": _open_safetensors,
}
