"""Readers of spectrogram files, one for each format.

A reader returns a function that maps the array into memory, the array's shape and dtype, and the parameters
in the file. No code in a file is executed: pickled objects are rejected. Sizes are checked before an archive
is unpacked, and the amount of data read is limited in proportion to the size of the file.
"""

from __future__ import annotations

import io
import math
import pickle
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

from rtspecinv.common.printable import printable
from rtspecinv.files.images import read_image
from rtspecinv.files.metadata import FIELDS
from rtspecinv.files.picture_scale import values_of
from rtspecinv.mel.config import MelConfig

# A function that maps the array, its shape, the name of its dtype, and the other fields of the file.
Opened = tuple[Callable[[], Any], tuple[int, ...], str, Mapping[str, Any]]

_MOST_NAMES = 8  # largest number of names in a message
PREFERRED_NAMES = ("magnitude", "spectrogram", "mel")
_LARGEST_FIELD = 2**20  # largest size of a field in an archive, bytes
_LONGEST_CONTENTS = 2**20  # largest table of contents of an archive, bytes: about 10000 members
_LONGEST_HEADER = 2**16  # largest header of an array, bytes
_LARGEST_PICKLE = 2**22  # largest description of the tensors in a .pt file, bytes
_FREE_SIZE = 2**30  # size that any archive may unpack to, bytes
_MOST_RATIO = 64  # larger archives may unpack to this multiple of their size; only silence compresses better


def _open_npy(path: Path, array_name: str | None) -> Opened:
    with path.open("rb") as stream:
        start = stream.read(len(np.lib.format.MAGIC_PREFIX))
        if start != np.lib.format.MAGIC_PREFIX:
            raise ValueError(_not_npy(start))
        stream.seek(0)
        shape, dtype, n_before = _npy_header(stream)
        room, wanted = path.stat().st_size - n_before, math.prod(shape) * dtype.itemsize
    if wanted > room:
        raise ValueError(
            f"it is cut off: shape {shape} of {dtype} takes {wanted} bytes, but it has {room}; write or "
            "copy it again"
        )

    def load() -> npt.NDArray[Any]:
        # Not np.load, which would open an archive of that name, too.
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
        return array

    load()
    only_array(array_name)
    return load, shape, dtype.name, {}


def _not_npy(start: bytes) -> str:
    if start.startswith(b"PK"):
        return "it is an archive, not an .npy file: give it a name in .npz"
    if not start:
        return "it is empty, not an .npy file: write or copy it again"
    return (
        "it has no .npy header, as files of values alone have none (`array.tofile`, `numpy.memmap`): write "
        "one with numpy.save('x.npy', numpy.fromfile(path, dtype).reshape(shape))"
    )


def only_array(array_name: str | None) -> None:
    """Raise `ValueError` if `array_name` is given for a file whose only array has no name."""
    if array_name is not None:
        raise ValueError(
            f"it holds one array without a name, so there is no array {printable(array_name, 40)!r}: leave "
            "it out"
        )


def _open_npz(path: Path, array_name: str | None) -> Opened:
    with _archive(path) as archive:
        headers = {}
        for member in archive.infolist():
            if member.filename.endswith(".npy"):
                headers[member.filename.removesuffix(".npy")] = _member_header(archive, member)
        chosen = _choose({name: shape for name, (shape, _) in headers.items()}, array_name)
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


def spectrogram_names(path: Path) -> list[str]:
    """Return the names of the arrays of two axes or more in a .npz file, whose sizes are checked."""
    names = []
    with _archive(path) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".npy") and len(_member_header(archive, member)[0]) >= 2:
                _check_room(member.file_size, path.stat().st_size)
                names.append(member.filename.removesuffix(".npy"))
    return names


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive; raises `ValueError` if its table of contents is too long.

    `zipfile` reads the whole table into memory.
    """
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
    """Raise `ValueError` if an array is too large to unpack.

    n_bytes: unpacked size, bytes; at most half of the free disk space.
    n_packed: size of the archive, bytes; above 1 GiB, `n_bytes` is at most 64 times as much.
    """
    if n_bytes > max(_FREE_SIZE, _MOST_RATIO * n_packed):
        raise ValueError(
            f"it unpacks from {n_packed} to {n_bytes} bytes, which is out of proportion: if that is right, "
            "save the array with numpy.save"
        )
    room = shutil.disk_usage(tempfile.gettempdir()).free
    if n_bytes > room // 2:
        raise ValueError(f"it unpacks to {n_bytes} bytes, more than half of the {room} free bytes on disk")


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape and dtype of the .npy array at the beginning of `file`, and the offset of its values.

    Raises `ValueError` for an array of pickled objects.
    """
    begin = io.BytesIO(file.read(_LONGEST_HEADER))  # it may say any length of itself
    shape, _, dtype = _read_header(begin)
    if dtype.hasobject:
        raise ValueError("pickled objects")
    return shape, dtype, begin.tell()


def _member_header(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of an array in an archive; raises `ValueError` if its size does not match."""
    with archive.open(member) as stream:
        shape, dtype, n_before = _npy_header(stream)
        size = member.file_size - n_before
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError(
            f"{member.filename} has {size} bytes of values, but its header states shape {shape} of {dtype}"
        )
    return shape, dtype


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    """Return shape, memory order and dtype of the .npy array in `file`; reads up to its first value."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    return shape, "F" if is_fortran else "C", dtype


def _open_pt(path: Path, array_name: str | None) -> Opened:
    mapped = zipfile.is_zipfile(path)
    if mapped:
        with _archive(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("it is compressed and could unpack to any size: save it with torch.save")
                if member.filename.endswith(".pkl") and member.file_size > _LARGEST_PICKLE:
                    raise ValueError(f"its list of tensors has {member.file_size} bytes: save fewer")

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if "numpy" in str(error):
            raise ValueError(
                "it holds numpy arrays, which could run code when they are loaded: write tensors, "
                "torch.save({'magnitude': torch.from_numpy(array)}, path), or numpy.save('x.npy', array)"
            ) from error
        raise

    def load_all() -> Any:  # the old format of torch.save cannot be mapped: it stays in memory as a whole
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True) if mapped else kept

    kept = None if mapped else content
    if isinstance(content, torch.Tensor):
        only_array(array_name)
        return load_all, _dense_shape(content), str(content.dtype), {}
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, expected a tensor or a dictionary with one")
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    chosen = _choose({name: _dense_shape(value) for name, value in tensors.items()}, array_name)
    return lambda: load_all()[chosen], _dense_shape(tensors[chosen]), str(tensors[chosen].dtype), content


def _dense_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise ValueError("it holds a sparse or quantized tensor, or one without values: save a plain one")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("it holds a tensor whose values overlap: save its .contiguous()")
    return tuple(tensor.shape)


def _open_safetensors(path: Path, array_name: str | None) -> Opened:
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
            chosen = _choose(shapes, array_name)
            parameters = dict(file.metadata() or {})
            small = {name for name in set(shapes) & set(FIELDS) if math.prod(shapes[name]) == 1}
            parameters |= {name: file.get_tensor(name) for name in small}
            return load, shapes[chosen], slices[chosen].get_dtype(), parameters
    except SafetensorError as error:
        raise ValueError(f"not a whole .safetensors file: {error}") from error


def open_image(path: Path, mel: MelConfig | None) -> Opened:
    """Read a picture of magnitudes or mel values.

    mel: configuration of the mel values; default: that in the metadata of the picture, if it has mel values.
    """
    levels, texts = read_image(path)
    values = values_of(levels, texts, mel)
    return lambda: values, values.shape, values.dtype.name, texts


def _choose(shapes: Mapping[str, tuple[int, ...]], array_name: str | None) -> str:
    """Return the name of the spectrogram among the arrays of a file.

    shapes: shapes of the arrays by name.
    array_name: requested name; default: `PREFERRED_NAMES`, or the only array of two or more axes.
    """
    candidates = [name for name, shape in shapes.items() if len(shape) >= 2]
    if array_name is not None:
        if array_name not in shapes:
            raise ValueError(f"it has no array {printable(array_name, 40)!r}; it has {_named(list(shapes))}")
        return array_name
    preferred = [name for name in PREFERRED_NAMES if name in candidates]
    if len(candidates) != 1 and not preferred:
        way_out = "name one with --array NAME (in Python array=)" if candidates else "expected one"
        raise ValueError(
            f"it holds {len(candidates)} arrays of two or more axes ({_named(candidates)}) and none of them "
            f"is named {PREFERRED_NAMES[0]!r}: {way_out}"
        )
    return (preferred or candidates)[0]


def _named(names: list[str]) -> str:
    """Return a list of names for a message, at most `_MOST_NAMES` of them."""
    shown = [printable(name, 40) for name in names[:_MOST_NAMES]]
    return ", ".join([*shown, *(["..."] if len(names) > _MOST_NAMES else [])]) or "none"


READERS: dict[str, Callable[[Path, str | None], Opened]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".pt": _open_pt,
    ".safetensors": _open_safetensors,
}
