"""Writing of spectrograms to files, with all parameters that their inversion needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from rtspecinv.common.checks import choice, count, file_name
from rtspecinv.common.masks import unmasked
from rtspecinv.common.printable import printable
from rtspecinv.common.whole_files import write_whole
from rtspecinv.conventions import half_spectrum
from rtspecinv.files.images import SUFFIXES as IMAGES
from rtspecinv.files.images import encode_image
from rtspecinv.files.metadata import LAYOUTS, LENGTH, describe, frames_of
from rtspecinv.files.picture_scale import PictureScale, mel_levels
from rtspecinv.inputs import Array
from rtspecinv.mel.config import MelConfig
from rtspecinv.mel.models import config_of
from rtspecinv.mel.spectrogram import Mel
from rtspecinv.stft import STFT, check_dense


def save_spectrogram(
    path: str | os.PathLike[str],
    values: Tensor | Array,
    transform: STFT | Mel | MelConfig | str | os.PathLike[str],
    *,
    sample_rate: int | None = None,
    length: int | None = None,
    layout: str = "freq-time",
    bits: int = 16,
    scale: PictureScale | None = None,
    height: int | None = None,
) -> None:
    """Write a spectrogram and its parameters into a file that `listen` and `rtspecinv invert` can read.

    Args:
        path: path of a .npz, .pt, .safetensors, .png or .tiff file. A failed write leaves no partial file.
        values: magnitudes `([channels,] n_freq, n_frames)`, or mel frames `([channels,] n_mels, n_frames)`.
            Two-sided magnitudes are written as their half from 0 Hz up to the Nyquist frequency.
        transform: `STFT` of the magnitudes; or, for mel frames, their `Mel`, their `MelConfig`, a name of
            `presets`, or the path of the .json or .toml file of a `MelConfig`.
        sample_rate: sample rate of magnitudes, Hz; mel frames have that of their configuration.
        length: number of samples of the sound, stored in the file; default: what the frames cover.
        layout: order of the axes; "time-freq" writes `(n_frames, n_mels)` and stores this order in the file.
        bits: bits per grey value of a picture, 8 or 16.
        scale: scale of a picture of magnitudes; default: one row per frequency, where magnitudes more than
            80 dB below the largest are silent.
        height: number of rows of a picture of magnitudes; default: one per frequency.

    Raises:
        ValueError: `values` are not finite or not of this transform, `length` does not fit the number of
            frames, or the suffix of `path` is not supported.
        TypeError: `values` are not real floating-point numbers.
        OSError: the file cannot be written.
        ImportError: an extra is missing; the message names it.

    Examples:
        >>> import torch
        >>> from rtspecinv import STFT, open_spectrogram, save_spectrogram
        >>> stft = STFT(n_fft=1024, hop_length=256)
        >>> save_spectrogram("clip.npz", stft.magnitude(torch.randn(25600)), stft, sample_rate=22050)
        >>> open_spectrogram("clip.npz").n_frames
        101
    """
    path = file_name(path=path)
    suffix = path.suffix.lower()
    if suffix not in (*_WRITERS, *IMAGES):
        raise ValueError(
            f"Cannot write {printable(path)}: its name must end in {', '.join((*_WRITERS, *IMAGES))}"
        )
    choice(LAYOUTS, layout=layout)
    config = transform if isinstance(transform, STFT) else config_of(transform)
    texts = describe(config, sample_rate)
    array = _checked(values, config)
    if length is not None:
        texts[LENGTH] = _checked_length(length, config, array.shape[-1])
    if suffix in IMAGES:
        if array.ndim != 2:
            raise ValueError(f"A picture has one channel, not shape {array.shape}: save each channel")
        if isinstance(config, MelConfig):
            levels, meaning = mel_levels(array, config)
        else:
            rate = int(texts["sample_rate"])
            scale = scale or PictureScale(rate, config.n_fft, white=float(array.max()) or 1.0)
            if scale.sample_rate != rate or scale.n_fft != config.n_fft:
                raise ValueError(
                    f"Parameter scale has another sample_rate or n_fft than {(rate, config.n_fft)}"
                )
            levels, meaning = scale.levels(array, height), scale.texts
        kind = "PNG" if suffix == ".png" else "TIFF"
        write_whole(path, lambda file: encode_image(file, kind, levels, texts | meaning, bits=bits))
        return
    stored = np.ascontiguousarray(array if layout == LAYOUTS[0] else array.swapaxes(-1, -2))
    name = "mel" if isinstance(config, MelConfig) else "magnitude"
    write_whole(path, lambda file: _WRITERS[suffix](file, name, stored, {"layout": layout, **texts}))


def _checked(values: Tensor | Array, transform: STFT | MelConfig) -> np.ndarray[Any, np.dtype[np.float32]]:
    values = unmasked(values, "values")
    if isinstance(values, Tensor):
        check_dense(values, "values")
    real = values.is_floating_point() if isinstance(values, Tensor) else np.asarray(values).dtype.kind == "f"
    if not real:
        raise TypeError("Parameter values does not have real floating-point numbers: convert it first")
    array = values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values)
    n_bands = transform.n_mels if isinstance(transform, MelConfig) else transform.n_freq
    if array.ndim not in (2, 3) or array.shape[-2] != n_bands or not array.size:
        raise ValueError(
            f"Parameter values has shape {array.shape}, but with this transform it must be "
            f"([channels,] {n_bands}, n_frames) with n_frames >= 1"
        )
    with np.errstate(over="ignore"):
        single: np.ndarray[Any, np.dtype[np.float32]] = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise ValueError("Parameter values contains NaN or infinite values, or values too large for float32")
    if isinstance(transform, STFT) and single.min() < 0:
        raise ValueError(f"Parameter values has the value {single.min():g} < 0: magnitudes are >= 0")
    return single if isinstance(transform, MelConfig) else half_spectrum(single, transform.n_fft)


def _checked_length(length: int, config: STFT | MelConfig, n_frames: int) -> int:
    expected = frames_of(config, count(1, length=length))
    if expected != n_frames:
        raise ValueError(f"Parameter {length=} has {expected} frames, but values has {n_frames}")
    return length


def _write_npz(file: BinaryIO, name: str, array: Array, fields: dict[str, str | int]) -> None:
    content: dict[str, Any] = {name: array, **fields}
    np.savez(file, **content)


def _write_pt(file: BinaryIO, name: str, array: Array, fields: dict[str, str | int]) -> None:
    torch.save({name: torch.from_numpy(array), **fields}, file)


def _write_safetensors(file: BinaryIO, name: str, array: Array, fields: dict[str, str | int]) -> None:
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise ImportError('.safetensors files need safetensors: pip install "rtspecinv[files]"') from error
    file.write(save({name: array}, {field: str(value) for field, value in fields.items()}))


_WRITERS: dict[str, Callable[[BinaryIO, str, Array, dict[str, str | int]], None]] = {
    ".npz": _write_npz,
    ".pt": _write_pt,
    ".safetensors": _write_safetensors,
}
