"""Reading and writing of grey pictures: PNG and TIFF with texts; other formats are only read.

Only formats whose decoders execute no code and call no other program are opened, after a check of their size.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rtspecinv.common.masks import unmasked
from rtspecinv.common.printable import printable
from rtspecinv.common.whole_files import write_whole

Levels = npt.NDArray[np.float32]  # (height, width), 0 is black, 1 is white, the top row first
SUFFIXES = (".png", ".tif", ".tiff")
MOST_PIXELS = 2**25
_FORMATS = ("PNG", "TIFF", "JPEG", "WEBP", "BMP", "GIF", "PPM")
_DESCRIPTION = 270  # TIFF tag ImageDescription
_TILE_SIZE = (322, 323)  # TIFF tags TileWidth, TileLength
_LONGEST_TEXT = 2**19
_MOST_SCANS = 100  # largest number of scans in a JPEG; programs write about 10


def pillow() -> Any:
    """Return the module PIL.Image; raises `ImportError` with the command that installs Pillow."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('Pictures need Pillow: pip install "rtspecinv[files]"') from error
    return Image


def check_file(path: Path) -> None:
    """Raise an error if `path` is not a regular file.

    Raises `FileNotFoundError`, `IsADirectoryError`, or `ValueError` for a pipe or a device, from which
    reading could wait without limit.
    """
    name = printable(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {name}")
    if path.is_dir():
        raise IsADirectoryError(f"{name} is a folder, expected a file")
    if not path.is_file():
        raise ValueError(f"{name} is a pipe or a device, expected a file")


def read_image(path: str | os.PathLike[str]) -> tuple[Levels, dict[str, str]]:
    """Return the grey levels `(height, width)` of a picture, from 0 to 1, and the texts in its file.

    Colours are converted to luminance, transparent pixels to black. Only the first picture of a file is read.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the path is not a regular file, or the file is not a picture, is damaged, has
            floating-point values or has more than `MOST_PIXELS` pixels.
        ImportError: Pillow is not installed.
    """
    image_module, path = pillow(), Path(path)
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged metadata
            with image_module.open(path, formats=_FORMATS) as image:
                width, height = image.size
                if not 0 < width * height <= MOST_PIXELS:
                    raise ValueError(f"it has {width} x {height} pixels, more than {MOST_PIXELS}")
                _check_work(path, image)
                return _grey(image), _texts(image)
    except Exception as error:  # a decoder may raise any exception on a damaged file
        reason = printable(" ".join(str(error).split()).replace(str(path), "it")) or type(error).__name__
        raise ValueError(
            f"{printable(path)} is damaged or not a picture ({', '.join(_FORMATS)}): {reason}"
        ) from error


def _check_work(path: Path, image: Any) -> None:
    """Raise `ValueError` if a JPEG has too many scans or a TIFF too large tiles.

    Decoding them takes far more work than the number of pixels suggests.
    """
    if image.format in ("JPEG", "MPO"):
        n_scans = _count(path, b"\xff\xda")
        if n_scans > _MOST_SCANS:
            raise ValueError(f"it has {n_scans} scans, more than {_MOST_SCANS}: save it with fewer")
    elif image.format == "TIFF":
        tile = [image.tag_v2.get(tag, 0) for tag in _TILE_SIZE]
        if not all(isinstance(size, int) for size in tile) or math.prod(tile) > MOST_PIXELS:
            raise ValueError(f"its tiles have more than {MOST_PIXELS} pixels")


def _count(path: Path, marker: bytes) -> int:
    """Return how often a marker of two bytes occurs in a file."""
    found, last = 0, b""
    with open(path, "rb") as file:
        while part := file.read(2**20):
            found += (last + part).count(marker)
            last = part[-1:]
    return found


def resize_columns(levels: Levels, n_columns: int) -> Levels:
    """Return the picture with `n_columns` columns: more are interpolated, fewer are averaged."""
    image_module = pillow()
    image = image_module.fromarray(np.ascontiguousarray(levels, np.float32))
    resized = image.resize((n_columns, len(levels)), image_module.Resampling.BILINEAR)
    found: Levels = np.asarray(resized).clip(0, 1)
    return found


def _grey(image: Any) -> Levels:
    if image.mode == "F":
        raise ValueError("it has floating-point values, which do not state the values of black and white")
    if image.mode.startswith("I"):  # 16 bits
        values = np.asarray(image).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("it has values beyond 16 bits")
        sixteen: Levels = (values / 65535).astype(np.float32)
        return sixteen
    if image.mode not in ("1", "L"):
        image = image.convert("RGBA")
        black = pillow().new("RGBA", image.size, (0, 0, 0, 255))
        image = pillow().alpha_composite(black, image)
    grey: Levels = np.asarray(image.convert("L")).astype(np.float32) / np.float32(255)
    return grey


def _texts(image: Any) -> dict[str, str]:
    if image.format == "TIFF":
        text = image.tag_v2.get(_DESCRIPTION, "")
        if not isinstance(text, str) or not text.startswith("{") or len(text) > _LONGEST_TEXT:
            return {}
        given = json.loads(text)
    else:
        given = getattr(image, "text", {})
    return {str(name): str(value) for name, value in given.items()}


def write_image(
    path: str | os.PathLike[str], levels: npt.ArrayLike, texts: Mapping[str, str | int], *, bits: int = 16
) -> None:
    """Write a grey picture with texts to a PNG or TIFF file; the suffix of `path` selects the format.

    levels: grey levels `(height, width)`, 0 to 1.
    texts: texts and numbers by name.
    bits: number of bits per pixel, 8 or 16, default: 16.
    """
    kind = "PNG" if Path(path).suffix.lower() == ".png" else "TIFF"
    write_whole(path, lambda file: encode_image(file, kind, levels, texts, bits=bits))


def encode_image(
    file: BinaryIO, kind: str, levels: npt.ArrayLike, texts: Mapping[str, str | int], *, bits: int = 16
) -> None:
    """Write a picture to an open file; `kind` is "PNG" or "TIFF", the rest is as in `write_image`."""
    image_module = pillow()
    if bits not in (8, 16):
        raise ValueError(f"Parameter {bits=} is not 8 or 16")
    values = np.asarray(unmasked(levels, "levels"), np.float64)
    if values.ndim != 2 or not 0 < values.size <= MOST_PIXELS:
        raise ValueError(f"A picture of shape {values.shape} does not have 1 to {MOST_PIXELS} pixels")
    largest = 2**bits - 1
    whole = np.rint(values.clip(0, 1) * largest).astype(np.uint8 if bits == 8 else np.uint16)
    image = image_module.fromarray(np.ascontiguousarray(whole))
    described = {name: str(value) for name, value in texts.items()}
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        for name, text in described.items():
            info.add_text(name, text)
        image.save(file, "PNG", pnginfo=info)
    else:
        tags = {_DESCRIPTION: json.dumps(described)}
        image.save(file, "TIFF", tiffinfo=tags, compression="tiff_adobe_deflate")
