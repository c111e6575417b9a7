"""Spectrograms from .npy, .npz, .pt, .safetensors, .png and .tiff files, read a few frames at a time.

Nothing in such a file is ever run: pickled objects are refused. Memory does not grow with the file's length:
for every block the file is mapped, the frames are copied, and the mapping is closed. Compressed .npz arrays
are first unpacked into a temporary file; pictures and .pt files of the old format are read into memory as a
whole. Their size is checked before.

The module is long because the checks of each kind of file are beside the code that opens it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rtspecinv.common.checks import MOST_RATE, choice, count, file_name
from rtspecinv.common.printable import printable
from rtspecinv.common.warning import warn
from rtspecinv.conventions import half_spectrum, row_counts, suggestion, unscaled
from rtspecinv.files.bounds import check_frames, check_mel
from rtspecinv.files.images import SUFFIXES as IMAGES
from rtspecinv.files.images import check_file
from rtspecinv.files.metadata import LAYOUTS, LENGTH, MEL, frames_of, understand
from rtspecinv.files.readers import READERS, only_array, open_image
from rtspecinv.mel.config import MelConfig
from rtspecinv.mel.models import config_of
from rtspecinv.mel.spectrogram import Mel
from rtspecinv.stft import LONGEST, STFT

ARRAYS = tuple(READERS)
SUFFIXES = (*ARRAYS, *IMAGES)
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".au", ".opus", ".m4a")
PHOTOS = (".jpg", ".jpeg", ".webp", ".bmp", ".gif")
LOADERS = {  # code that reads an array from files of other programs, by suffix
    **dict.fromkeys((".h5", ".hdf5"), "h5py.File(path)[name]"),
    ".mat": "scipy.io.loadmat(path)[name]",
    **dict.fromkeys((".ark", ".scp"), "kaldiio.load_mat('path:offset')"),
    **dict.fromkeys((".csv", ".txt"), "numpy.loadtxt(path)"),
}
_N_FFT = "--n-fft "
_BLOCK_VALUES = 2**18  # number of values read at once, 1 MB; small, because many files may be open


@dataclass(frozen=True)
class Spectrogram:
    """A spectrogram file: its shape, its frames, and the parameters that it stores (None if missing).

    Attributes:
        shape: shape of the array, without leading axes of size 1 beyond three axes.
        n_samples: number of samples of the recording; None if the file does not store it.
        mel: configuration of the mel frames; None for magnitudes.
        options: other parameters of `STFT` that the file stores.
    """

    path: Path
    shape: tuple[int, ...]
    layout: str
    sample_rate: int | None
    n_fft: int | None
    hop_length: int | None
    n_samples: int | None
    mel: MelConfig | None
    options: Mapping[str, Any]
    load: Callable[[], Any] = field(repr=False)  # maps the file and returns an array-like object

    @property
    def n_freq(self) -> int:
        """Number of frequencies or mel bands in a frame."""
        return self.shape[-2] if self.layout == "freq-time" else self.shape[-1]

    @property
    def n_frames(self) -> int:
        """Number of frames in the file."""
        return self.shape[-1] if self.layout == "freq-time" else self.shape[-2]

    @property
    def channels(self) -> int:
        """Number of channels, 1 for a file with two axes."""
        return self.shape[0] if len(self.shape) == 3 else 1

    def settings(
        self, *, n_fft: int | None = None, hop_length: int | None = None, sample_rate: int | None = None
    ) -> tuple[int, int, int]:
        """Return n_fft, hop_length and rate in Hz: as given, as stored, or guessed from the shape.

        An n_fft may have as many frequencies as `conventions.half_spectrum` takes.

        Raises `ValueError` if file and arguments contradict each other, if the shape does not fit n_fft, if
        the sample rate is neither given nor stored, and if the frames would take more work than `bounds`
        allows, unless n_fft and hop_length are given.
        """
        rate = self._agreed("sample_rate", sample_rate)
        given = n_fft is not None and hop_length is not None
        n_fft = self._agreed("n_fft", n_fft) or self._guess_n_fft()
        hop_length = self._agreed("hop_length", hop_length) or max(1, n_fft // 4)
        if self.n_freq not in row_counts(n_fft):
            raise ValueError(
                f"{self._name} has {self.n_freq} frequencies, but n_fft={n_fft} has {n_fft // 2 + 1}"
                f"{self._transposed(n_fft) or f': {suggestion(self.n_freq, _N_FFT)}'}"
            )
        if rate is None:
            raise ValueError(
                f"{self._name} does not state its sample rate: give --sample-rate (in Python sample_rate=)"
            )
        if not given:
            self._check_work(n_fft, hop_length, rate)
        return n_fft, hop_length, rate

    def stft(
        self, *, n_fft: int | None = None, hop_length: int | None = None, sample_rate: int | None = None
    ) -> tuple[STFT, int]:
        """Return the transform that the magnitudes come from, and its rate in Hz; see `settings`."""
        n_fft, hop_length, rate = self.settings(n_fft=n_fft, hop_length=hop_length, sample_rate=sample_rate)
        return STFT(n_fft, hop_length, device="cpu", **self.options), rate

    def _check_work(self, n_fft: int, hop_length: int, rate: int) -> None:
        try:
            check_frames(n_fft, hop_length, self.channels, rate)
        except ValueError as error:
            way_out = f"give both: --n-fft {n_fft} --hop-length {hop_length}"
            raise ValueError(f"{self._name}: {error}; if that is right, {way_out}") from error

    @property
    def _name(self) -> str:
        return printable(self.path)

    def _agreed(self, name: str, given: int | None) -> int | None:
        stored: int | None = getattr(self, name)
        if given is not None:
            given = count(1, int(MOST_RATE) if name == "sample_rate" else LONGEST, **{name: given})
        if given is not None and stored is not None and given != stored:
            raise ValueError(
                f"{self._name} states {name}={stored}, but {name}={given} was given: leave it out"
            )
        return stored if given is None else given

    def length(self, stft: STFT | MelConfig) -> int | None:
        """Return the number of samples of the recording, or None if the file does not store it.

        A stored length that does not fit the number of frames, as in a file that was cut, is ignored with a
        warning.
        """
        if self.n_samples is None or (expected := frames_of(stft, self.n_samples)) == self.n_frames:
            return self.n_samples
        warn(
            f"{self._name} states n_samples={self.n_samples}, which has {expected} frames, but contains "
            f"{self.n_frames}: the sound gets the length of these frames"
        )
        return None

    def _guess_n_fft(self) -> int:
        win_length = self.options.get("win_length", 0)
        for n_fft in (2 * (self.n_freq - 1), 2 * self.n_freq - 1):
            if n_fft == win_length:
                return n_fft
        n_fft = 2 * (self.n_freq - 1)
        if n_fft < 4 or n_fft & (n_fft - 1):
            other = 2 * (self.n_frames - 1)
            turned = self._transposed(other) if other >= 4 and not other & (other - 1) else ""
            raise ValueError(
                f"{self._name} has {self.n_freq} frequencies, which is not n_fft // 2 + 1 of a usual n_fft"
                f"{turned or ' (is it a mel spectrogram? give --preset)'}; if it is right, "
                f"{suggestion(self.n_freq, _N_FFT)} (in Python stft=)"
            )
        return n_fft

    def _transposed(self, n_fft: int) -> str:
        if self.n_frames != n_fft // 2 + 1:
            return ""
        other = next(layout for layout in LAYOUTS if layout != self.layout)
        return f": it looks transposed, try --layout {other}"

    def magnitudes(self, stft: STFT, scaling: str | None, sample_rate: float) -> Iterator[torch.Tensor]:
        """Yield the frames as half spectra `(channels, n_fft // 2 + 1)` of `stft`.

        scaling: scaling of `scipy.signal` to be undone; see `listen`.
        """
        for block in self.magnitude_blocks(stft, scaling, sample_rate):
            yield from block

    def magnitude_blocks(self, stft: STFT, scaling: str | None, sample_rate: float) -> Iterator[torch.Tensor]:
        """Yield blocks of half spectra `(n_frames, channels, n_fft // 2 + 1)`, otherwise as `magnitudes`."""
        factor = unscaled(scaling, stft, sample_rate)
        for block in self.blocks():
            half = half_spectrum(torch.from_numpy(block).unsqueeze(-1), stft.n_fft).squeeze(-1)
            yield half if factor == 1 else half * factor

    def frames(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield frames `(channels, n_freq)`; raises `ValueError` for NaN and for negative magnitudes."""
        for block in self.blocks():
            yield from block

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield blocks of frames `(n_frames, channels, n_freq)`, otherwise as `frames`."""
        step = max(1, _BLOCK_VALUES // (self.channels * self.n_freq))
        for start in range(0, self.n_frames, step):
            block = self._read(start, min(start + step, self.n_frames))
            self._check_values(block, start)
            yield block

    def _read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return frames `start` to `stop` as `(n_frames, channels, n_freq)`."""
        mapped = self.load()
        part = mapped[..., start:stop] if self.layout == "freq-time" else mapped[..., start:stop, :]
        if isinstance(part, torch.Tensor):
            part = (part.abs() if part.is_complex() else part).detach().float().numpy()
        if np.iscomplexobj(part):
            part = np.abs(part)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes Inf, which is then reported
            values = np.array(part, np.float32).reshape(self.channels, *part.shape[-2:])
        axes = (2, 0, 1) if self.layout == "freq-time" else (1, 0, 2)
        return np.ascontiguousarray(values.transpose(axes))

    def _check_values(self, block: npt.NDArray[np.float32], start: int) -> None:
        bad = ~np.isfinite(block)
        if bad.any():
            raise ValueError(
                f"{self._name}: frame {start + int(np.argmax(bad.any((1, 2))))} holds NaN or Inf"
            )
        if self.mel is None and block.min() < 0:
            raise ValueError(
                f"{self._name}: values go down to {block.min():.4g}, but a magnitude is never negative: "
                "this looks like decibels or a logarithm; undo it first: 10 ** (values / 20) for dB, "
                "exp(values) for a natural logarithm, exp(values / 2) for one of powers"
            )


def open_spectrogram(
    path: str | os.PathLike[str],
    *,
    layout: str | None = None,
    mel: str | os.PathLike[str] | Mel | MelConfig | None = None,
    array: str | None = None,
) -> Spectrogram:
    """Open a spectrogram, `([channels,] n_freq, n_frames)` or with frequency last.

    Further leading axes of size 1, as those of a batch of one, are removed.

    Args:
        path: path of a .npy, .npz, .pt, .safetensors, .png, .tif or .tiff file.
        layout: order of the axes: "freq-time" or "time-freq", in which Kaldi and ESPnet write mel frames;
            default: the order that the file stores, or "freq-time".
        mel: format of the mel frames, as `preset` of `listen`; default: the format that the file stores.
        array: name of the array, for a file with several arrays; default: the only one with two axes or
            more, or the one named `magnitude`, `spectrogram` or `mel`.

    Returns:
        A `Spectrogram`, with the parameters that `save_spectrogram` wrote: fields of .npz and .pt files,
        metadata of .safetensors files, text of pictures.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: there is no such preset.
        ValueError: the file, its shape or dtype, or a parameter is not of these kinds.
        ImportError: an extra is missing; the message names it.

    A warning is issued for complex values, whose phase is not used.

    Examples:
        >>> import torch
        >>> from rtspecinv import open_spectrogram, presets, save_spectrogram
        >>> mel = presets["hifigan-22k"]
        >>> save_spectrogram("clip.npz", mel(torch.randn(25600)), mel)
        >>> found = open_spectrogram("clip.npz")
        >>> found.shape, found.sample_rate, found.mel == mel.config
        ((80, 100), 22050, True)
    """
    path = file_name(path=path)
    mel = None if mel is None else config_of(mel)
    if layout is not None:
        choice(LAYOUTS, layout=layout)
    check_file(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise no_spectrogram(path)
    try:
        if suffix in IMAGES:
            only_array(array)
            load, shape, dtype, parameters = open_image(path, mel)
        else:
            load, shape, dtype, parameters = READERS[suffix](path, array)
        found = understand(parameters)
    except ValueError as error:
        if re.search("pickle|Python objects", str(error)):
            raise ValueError(
                f"{printable(path)} holds Python objects, not loaded because they could run code"
            ) from error
        reason = _first_sentence(error)
        name = printable(path)
        raise ValueError(reason if name in reason else f"{name}: {reason}") from error
    except (OSError, ImportError):
        raise
    except Exception as error:  # damaged files make the parsers fail in all sorts of ways
        reason = _first_sentence(error)
        raise ValueError(
            f"{printable(path)} is damaged or not a {suffix} file of plain arrays: {reason}"
        ) from error
    return _spectrogram(path, load, shape, dtype, found, layout, mel)


def array_spectrogram(
    array: npt.NDArray[Any],
    name: str,
    parameters: Mapping[str, Any],
    *,
    layout: str | None = None,
    mel: MelConfig | None = None,
) -> Spectrogram:
    """Return an array as if it had been read from a file, with the checks of `open_spectrogram`.

    name: name of the array, for error messages.
    parameters: parameters, as in the fields of a .npz file.
    """
    path = Path(name)
    try:
        found = understand(parameters)
    except ValueError as error:
        raise ValueError(f"{printable(path)}: {_first_sentence(error)}") from error
    return _spectrogram(path, lambda: array, array.shape, array.dtype.name, found, layout, mel)


def _spectrogram(
    path: Path,
    load: Callable[[], Any],
    shape: tuple[int, ...],
    dtype: str,
    found: dict[str, Any],
    layout: str | None,
    mel: MelConfig | None,
) -> Spectrogram:
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    _check_shape(path, shape)
    _check_dtype(path, dtype)
    stored = found.pop(MEL, None)
    if mel is not None and stored is not None and mel != stored:
        raise ValueError(
            f"{printable(path)} stores another mel configuration than the one that was given: leave that out"
        )
    opened = _checked_bands(
        Spectrogram(
            path=path,
            shape=shape,
            layout=layout or found.get("layout", LAYOUTS[0]),
            sample_rate=found.pop("sample_rate", None),
            n_fft=found.pop("n_fft", None),
            hop_length=found.pop("hop_length", None),
            n_samples=found.pop(LENGTH, None),
            mel=mel or stored,
            options={name: value for name, value in found.items() if name != "layout"},
            load=load,
        )
    )
    if mel is None and stored is not None:
        _check_mel(opened, stored)
    return opened


def _check_mel(found: Spectrogram, mel: MelConfig) -> None:
    try:
        check_mel(mel, found.channels)
    except ValueError as error:
        raise ValueError(
            f"{printable(found.path)}: {error}; if that is right, pass the mel configuration, --preset"
        ) from error


def no_spectrogram(path: Path) -> ValueError:
    """Return the error for a file whose suffix is not that of a spectrogram; it states a remedy."""
    suffix = path.suffix.lower()
    load = LOADERS.get(suffix)
    if load is not None:
        way_out = f"write its array with numpy.save('x.npy', {load})"
    elif suffix in SOUNDS:
        way_out = "`rtspecinv play` and `listen` play sound"
    elif suffix in PHOTOS:
        way_out = "`rtspecinv image` plays any picture"
    else:
        way_out = "write its array with numpy.save('x.npy', array)"
    return ValueError(f"{printable(path)} is not one of {', '.join(SUFFIXES)}: {way_out}")


def no_sound(path: Path) -> ValueError:
    """Return the error for a file that is not sound; it states the command that converts it to sound."""
    suffix = path.suffix.lower()
    name, load = printable(path), LOADERS.get(suffix)
    if load is not None:
        return ValueError(
            f"{name} holds arrays, not sound: if one is a spectrogram, write it with "
            f"numpy.save('x.npy', {load}), and invert it with `rtspecinv invert`"
        )
    if suffix in ARRAYS:
        return ValueError(f"{name} holds arrays, not sound: `rtspecinv invert` inverts spectrograms")
    if suffix in (*IMAGES, *PHOTOS):
        return ValueError(f"{name} is a picture, not sound: `rtspecinv image` with --seconds S plays it")
    return ValueError(f"{name} is not audio: expected a WAV, FLAC, OGG or MP3 file")


def _checked_bands(found: Spectrogram) -> Spectrogram:
    mel = found.mel
    for name in ("sample_rate", "hop_length", "n_fft") if mel is not None else ():
        stored, own = getattr(found, name), round(getattr(mel, name))
        if stored not in (None, own):
            raise ValueError(
                f"{printable(found.path)} states {name}={stored}, but the given mel configuration has {own}: "
                "the sound would have another duration or pitch; give a preset or MelConfig with "
                f"{name}={stored}"
            )
    if mel is not None and found.n_freq != mel.n_mels:
        other = next(layout for layout in LAYOUTS if layout != found.layout)
        transposed = f": it looks transposed, try layout {other}" if found.n_frames == mel.n_mels else ""
        raise ValueError(
            f"{printable(found.path)} has {found.n_freq} mel bands, not {mel.n_mels}{transposed}"
        )
    return found


def _first_sentence(error: BaseException) -> str:
    return printable(" ".join(str(error).split()).split(". ")[0], 1000) or type(error).__name__


def _check_shape(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3):
        expected = "(n_freq, n_frames) or (channels, n_freq, n_frames)"
        raise ValueError(f"{printable(path)} has shape {shape}, expected {expected}")
    if 0 in shape:
        raise ValueError(f"{printable(path)} has shape {shape}: it contains no values")


def _check_dtype(path: Path, dtype: str) -> None:
    """Raise unless a dtype, such as float32, torch.float32 or F32 (safetensors), consists of floats."""
    if re.match(r"(torch\.)?c", dtype, re.IGNORECASE):
        warn(f"{printable(path)} holds complex values: only their magnitude is used")
    elif not re.match(r"(torch\.)?b?f(loat)?\d", dtype, re.IGNORECASE):
        image = " (an image?)" if dtype in ("uint8", "torch.uint8", "U8") else ""
        raise ValueError(
            f"{printable(path)} holds {dtype} values{image}: magnitudes must be floats, convert and scale "
            "them first"
        )
