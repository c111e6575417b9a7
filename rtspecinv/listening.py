"""`listen`: play samples, magnitudes or mel frames from an array, a file or an iterable.

The module is long because it checks every combination of input and options before anything is played.
"""

from __future__ import annotations

import base64
import copy
import io
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from rtspecinv.audio import (
    ArraySink,
    AudioReader,
    DeviceError,
    FileSink,
    Sink,
    SoundDeviceSink,
    TeeSink,
)
from rtspecinv.audio.formats import check
from rtspecinv.audio.level import Level
from rtspecinv.audio.wav import WavWriter
from rtspecinv.common.checks import LONGEST_SOUND, MOST_RATE, choice, count
from rtspecinv.common.masks import unmasked
from rtspecinv.common.printable import printable
from rtspecinv.common.warning import warn
from rtspecinv.conventions import SCALINGS, half_spectrum, row_counts, unscaled
from rtspecinv.files.metadata import LAYOUTS
from rtspecinv.files.opening import LOADERS, SUFFIXES, no_spectrogram, open_spectrogram
from rtspecinv.inputs import Array
from rtspecinv.levels import no_samples, warn_of_peak
from rtspecinv.live.player import play_through
from rtspecinv.live.stream import Stream
from rtspecinv.mel.config import MelConfig
from rtspecinv.mel.diagnosis import diagnose
from rtspecinv.mel.models import config_of
from rtspecinv.mel.spectrogram import Mel
from rtspecinv.mel.stream import MelInverter
from rtspecinv.stft import STFT, check_dense
from rtspecinv.streaming import StreamingInverter
from rtspecinv.updates import Update

_MOST_CHANNELS = 2  # largest number of channels of an array; one with more rows may be a spectrogram
_MANY_CHANNELS = 16  # an array with at most this number of very long rows is sound with too many channels


@dataclass(frozen=True)
class Sound:
    """Result of `listen`; a notebook shows it as an audio player.

    Attributes:
        samples: float32 samples `(n_samples,)` or `(channels, n_samples)` within -1 to 1, as TensorBoard's
            `add_audio` takes them.
        sample_rate: sample rate, Hz.
        path: path of the file that was written, or None if there is no file.
        clipped: number of samples, over all channels, that were beyond full scale and were limited to it.
    """

    samples: Array = field(repr=False)
    sample_rate: int
    path: Path | None = None
    clipped: int = 0

    @property
    def wav(self) -> bytes:
        """Return the bytes of a 16-bit WAV file of the sound."""
        channels = np.atleast_2d(self.samples)
        check("the sound", "WAV", "PCM_16", self.sample_rate, *channels.shape)
        file = io.BytesIO()
        writer = WavWriter(file, self.sample_rate, len(channels), "PCM_16")
        writer.write(channels.T)
        writer.close()
        return file.getvalue()

    def _repr_html_(self) -> str:
        content = base64.b64encode(self.wav).decode("ascii")
        return f'<audio controls src="data:audio/wav;base64,{content}"></audio>'


def listen(
    sound: Tensor | Array | str | os.PathLike[str] | Iterable[Tensor | Array],
    *,
    preset: str | os.PathLike[str] | Mel | MelConfig | None = None,
    stft: STFT | None = None,
    sample_rate: int | None = None,
    layout: str | None = None,
    array: str | None = None,
    scaling: str | None = None,
    length: int | None = None,
    output: str | os.PathLike[str] | BinaryIO | Sink | None = None,
    device: int | str | None = None,
    update: str | Update | None = None,
    look_ahead: int | None = None,
    n_iter: int | None = None,
) -> Sound:
    """Play samples, magnitudes or mel frames on a sound device or in a notebook, or write them to a file.

    Args:
        sound: a tensor on any device, or an array: mel frames `([channels,] n_mels, n_frames)` if `preset`
            is given, magnitudes `([channels,] n_freq, n_frames)` if `stft` is given, otherwise samples
            `(n_samples,)` or `([channels,] n_samples)`. Or an iterable of such pieces, each with one or
            several frames; or the path of a sound file or of a file that `save_spectrogram` wrote. Magnitudes
            may be two-sided or lack the row at the Nyquist frequency, which is then 0. Further leading axes
            of size 1 are removed.
        preset: format of the mel frames: a name of `presets`, a `Mel`, a `MelConfig`, or the path of its
            .json or .toml file.
        stft: transform that the magnitudes come from.
        sample_rate: sample rate of samples and magnitudes, Hz; default: that of the preset or of the file.
        layout: order of the axes; "time-freq" if frames come before bands, as in Kaldi and ESPnet.
        array: name of the array, for a file with several arrays; default: as in `open_spectrogram`.
        scaling: scaling that scipy applied to the magnitudes, to be undone: "spectrum" or "psd" of
            `scipy.signal.stft`, "magnitude" or "psd" of `ShortTimeFFT`.
        length: number of samples of the sound, such as that of the recording; default: the number that the
            file states, or what the frames cover, in whole hops.
        output: sound file or open binary file to write, or sink to write to, which stays open; then nothing
            is played. Default: the sound is played. In a notebook without `device`, the returned `Sound` is
            the player. If there is no device, the sound is written to `rtspecinv-1.wav`, or to the next free
            number, with a warning.
        device: number or part of the name of a device that `rtspecinv devices` lists.
        update, look_ahead, n_iter: as in `StreamingInverter`.

    Returns:
        A `Sound`, which holds all samples. For a stream without an end, use `play`.

    A warning is issued if samples were beyond full scale and were limited to it, with the factor that would
    avoid this; and if the sound is silent or far below a usual level. If `output` is a `FileSink`, the sink
    limits the samples and warns when it closes.

    Raises:
        ValueError: `sound` is none of the above (the message says what it looks like), or it has no frame,
            or only one centred frame, which covers no samples.
        TypeError: `sound` does not consist of floating-point numbers.
        KeyError: there is no such preset.
        DeviceError: the device that was asked for cannot play.

    Examples:
        >>> import torch
        >>> from rtspecinv import listen, presets
        >>> mel = presets["hifigan-22k"](0.1 * torch.sin(0.05 * torch.arange(25600)))
        >>> sound = listen(mel, preset="hifigan-22k", output="tone.wav")
        >>> sound.samples.shape, sound.sample_rate, sound.path.name
        ((25600,), 22050, 'tone.wav')
        >>> listen("tone.wav")  # doctest: +SKIP
    """
    if preset is not None and stft is not None:
        raise ValueError(
            "Parameters preset and stft are both given: pass preset for mel frames, stft for magnitudes"
        )
    if layout is not None:
        choice(LAYOUTS, layout=layout)
    if length is not None:
        length = count(1, LONGEST_SOUND, length=length)
    if scaling is not None:
        choice(SCALINGS, scaling=scaling)
    given_options = {"update": update, "look_ahead": look_ahead, "n_iter": n_iter}
    options: dict[str, Any] = {name: value for name, value in given_options.items() if value is not None}
    given = config_of(preset) if preset is not None else stft
    if isinstance(sound, str | os.PathLike):
        pieces, given, sample_rate, layout, length = _file(
            Path(sound), given, sample_rate, layout, array, scaling, length
        )
        scaling = None  # `_file` has undone the scaling
    elif isinstance(sound, Tensor | np.ndarray):
        pieces = iter([_array(sound)])
    elif isinstance(sound, Iterable):
        pieces = map(_array, sound)
    else:
        raise TypeError(f"Parameter sound is a {type(sound).__name__}: pass a tensor, array or file")
    if array is not None and not isinstance(sound, str | os.PathLike):
        raise ValueError(
            f"Parameter {array=} names an array in a file, but sound is not a file: leave it out"
        )
    first = next(pieces, None)
    if first is None:
        raise ValueError("Parameter sound is empty: pass samples or frames")
    most_axes = 2 if given is None else 3
    first = _squeezed(first, most_axes)
    pieces = itertools.chain([first], (_squeezed(piece, most_axes) for piece in pieces))
    if given is None:
        _check_samples(first)
        if scaling is not None:
            raise ValueError(
                f"Parameter {scaling=} applies to magnitudes, but sound has samples: leave it out"
            )
        rate = _rate(sample_rate, None)
        return _emit(pieces, None, first, rate, output, device, length=length)
    rate = _rate(sample_rate, given)
    transposed = layout == LAYOUTS[1]
    inverter: StreamingInverter
    if isinstance(given, MelConfig):
        if scaling is not None:
            raise ValueError(
                f"Parameter {scaling=} applies to magnitudes, but sound has mel frames: leave it out"
            )
        batch_shape = _batch_shape(first, (given.n_mels,), transposed)
        inverter = MelInverter(given, device="cpu", batch_shape=batch_shape, **options)
        frames = _frames(pieces, len(batch_shape) + 1, transposed)
        return _emit(frames, inverter, first, rate, output, device, length=length)
    stft = copy.deepcopy(given).to("cpu", torch.float32)
    stft = stft.with_center(stft.center)
    factor = unscaled(scaling, stft, rate)
    batch_shape = _batch_shape(first, row_counts(stft.n_fft), transposed)
    inverter = StreamingInverter(stft, batch_shape=batch_shape, **options)
    frames = (
        factor * half_spectrum(frame.unsqueeze(-1), stft.n_fft).squeeze(-1)
        for frame in _frames(pieces, len(batch_shape) + 1, transposed)
    )
    return _emit(frames, inverter, first, rate, output, device, length=length, scaling=scaling)


def _squeezed(piece: Tensor, most_axes: int) -> Tensor:
    """Return the piece without leading axes of size 1 beyond `most_axes` axes."""
    while piece.ndim > most_axes and piece.shape[0] == 1:
        piece = piece[0]
    return piece


def _array(piece: Any) -> Tensor:
    """Return the piece as a float32 tensor on the CPU, detached from its graph."""
    if not isinstance(piece, Tensor | np.ndarray):
        raise TypeError(f"Parameter sound contains a {type(piece).__name__}: pass tensors or arrays")
    if isinstance(piece, np.ndarray):
        piece = unmasked(piece, "sound")
        if piece.dtype.kind != "f":
            raise TypeError(f"Parameter sound has {piece.dtype} values: convert and scale them to floats")
        with np.errstate(over="ignore"):
            return torch.from_numpy(np.ascontiguousarray(piece, np.float32))
    if not piece.is_floating_point():
        raise TypeError(f"Parameter sound has {piece.dtype} values: convert and scale them to floats")
    check_dense(piece, "sound")
    return piece.detach().to("cpu", torch.float32)


def _file(
    path: Path,
    given: MelConfig | STFT | None,
    sample_rate: int | None,
    layout: str | None,
    array: str | None,
    scaling: str | None,
    length: int | None,
) -> tuple[Iterator[Tensor], MelConfig | STFT | None, int, str | None, int | None]:
    """Return the pieces of a file, their kind, sample rate and layout, and how many samples they cover."""
    if path.suffix.lower() not in SUFFIXES:
        reader = _reader(path)
        if given is not None or array is not None or scaling is not None:
            raise ValueError(f"{printable(path)} is a sound file: leave out preset, stft, array and scaling")
        if sample_rate not in (None, reader.sample_rate):
            raise ValueError(
                f"{printable(path)} has sample_rate={reader.sample_rate}, not {sample_rate}: leave it out"
            )
        return map(torch.from_numpy, reader.blocks()), None, reader.sample_rate, None, length
    mel = given if isinstance(given, MelConfig) else None
    found = open_spectrogram(path, layout=layout, mel=mel, array=array)
    rate: int | None
    if found.mel is not None:
        given, rate = found.mel, _rate(sample_rate, found.mel)
    elif isinstance(given, STFT):
        rate = found.settings(n_fft=given.n_fft, hop_length=given.hop_length, sample_rate=sample_rate)[2]
    else:
        given, rate = found.stft(sample_rate=sample_rate)
    length = found.length(given) if length is None else length
    if isinstance(given, STFT):
        frames = found.magnitudes(given, scaling, rate)
    elif scaling is not None:
        raise ValueError(
            f"Parameter {scaling=} applies to magnitudes, but {printable(path)} has mel frames: leave it out"
        )
    else:
        frames = map(torch.from_numpy, found.frames())
    return (frame if found.channels > 1 else frame[0] for frame in frames), given, rate, None, length


def _reader(path: Path) -> AudioReader:
    """Open a sound file; the error for a file of arrays states how to read it."""
    if path.suffix.lower() in LOADERS and path.is_file():
        raise no_spectrogram(path)
    try:
        return AudioReader(path)
    except ValueError as error:
        if "is not audio" not in str(error):
            raise
        raise ValueError(
            f"{error}, and {str(no_spectrogram(path)).removeprefix(f'{printable(path)} ')}"
        ) from error


def _rate(sample_rate: int | None, given: MelConfig | STFT | None) -> int:
    if isinstance(given, MelConfig):
        known = round(given.sample_rate)
        if sample_rate not in (None, known):
            raise ValueError(f"Parameter {sample_rate=} is not {known}, that of the preset: leave it out")
        return known
    if sample_rate is None:
        raise ValueError("Parameter sample_rate is missing: pass the sample rate of the sound in Hz")
    return count(1, int(MOST_RATE), sample_rate=sample_rate)


def _check_samples(piece: Tensor) -> None:
    if piece.ndim in (1, 2) and (piece.ndim == 1 or len(piece) <= _MOST_CHANNELS):
        return
    shape = tuple(piece.shape)
    expected = "(n_samples,) or ([channels,] n_samples)"
    if piece.ndim == 2 and min(shape) <= _MANY_CHANNELS and max(shape) >= 64 * min(shape) > 0:
        turned = ".T" if shape[1] < shape[0] else ""
        lies = "it is transposed, (n_samples, channels)" if turned else f"it has {shape[0]} channels"
        few = min(shape) <= _MOST_CHANNELS
        way_out = f"pass sound{turned}" if few else f"pass sound{turned}[:2], or sound{turned}.mean(0)"
        raise ValueError(
            f"Parameter sound has shape {shape}, not {expected} with at most {_MOST_CHANNELS} channels: "
            f"{lies}: {way_out}; for a spectrogram pass preset= or stft="
        )
    lines = str(diagnose(piece)).splitlines() if piece.numel() else ["empty"]
    looks = "; ".join(line for line in lines if not line.startswith("cannot tell"))
    raise ValueError(
        f"Parameter sound has shape {shape}, not {expected}: "
        f"for a spectrogram pass preset= or stft=. The array is {looks}"
    )


def _batch_shape(first: Tensor, row_counts: tuple[int, ...], transposed: bool) -> tuple[int, ...]:
    """Return `()` or `(channels,)` for a piece of one or several frames with one of these row counts."""
    shape = tuple(first.shape)
    axis = -1 if transposed else -2
    several = len(shape) >= 2 and shape[axis] in row_counts
    if several and len(shape) <= 3:
        return shape[:-2]
    one = bool(shape) and shape[-1] in row_counts and not several
    if one and (len(shape) == 1 or (len(shape) == 2 and shape[0] <= _MOST_CHANNELS)):
        return shape[:-1]
    turned = len(shape) >= 2 and shape[-3 - axis] in row_counts
    n_bands, other = row_counts[0], LAYOUTS[0] if transposed else LAYOUTS[1]
    raise ValueError(
        f"Parameter sound has shape {shape}, not ([channels,] {n_bands}, n_frames) or frames of {n_bands}: "
        + (
            f"it is transposed: pass layout={other!r}"
            if turned
            else "pass one item of a batch, or find the format with rtspecinv.diagnose"
        )
    )


def _frames(pieces: Iterable[Tensor], n_axes: int, transposed: bool) -> Iterator[Tensor]:
    for piece in pieces:
        if piece.ndim == n_axes:
            yield piece
        elif piece.ndim == n_axes + 1:
            yield from piece.unbind(-2 if transposed else -1)
        else:
            raise ValueError(
                f"Parameter sound contains a piece of shape {tuple(piece.shape)}, but its frames have "
                f"{n_axes} axes: pass pieces with as many channels as the first"
            )


def _emit(
    pieces: Iterable[Tensor],
    inverter: StreamingInverter | None,
    first: Tensor,
    rate: int,
    output: str | os.PathLike[str] | BinaryIO | Sink | None,
    device: int | str | None,
    *,
    length: int | None = None,
    scaling: str | None = None,
) -> Sound:
    """Write samples to the sink, inverting the pieces first if they are frames."""
    shape = first.shape[:-1] if inverter is None else inverter.batch_shape
    channels = shape[0] if shape else 1
    memory, level = ArraySink(), Level()
    with ExitStack() as stack:
        target = _target(output, rate, channels, device)
        if target is not None and target is not output:
            stack.enter_context(target)
        sink = TeeSink(memory, target) if target is not None else memory
        if inverter is not None:
            done = play_through(pieces, Stream(inverter, sink, length=length))
            if not done.n_samples:
                raise ValueError(f"Parameter sound is too short: {no_samples(done.n_frames)}")
        else:
            for piece in _of_length(pieces, length):
                sink.write(piece)
            sink.drain()
        samples = level.limit(memory.samples)
        if not samples.size:
            raise ValueError("Parameter sound has no samples: pass at least one")
    if not isinstance(target, FileSink):
        level.warn("the sound")
    stft = inverter.stft if inverter is not None and not isinstance(inverter, MelInverter) else None
    warn_of_peak(level.peak, stft, scaling)
    path = target.path if isinstance(target, FileSink) else None
    return Sound(samples, rate, path, level.clipped)


def _of_length(pieces: Iterable[Tensor], length: int | None) -> Iterator[Tensor]:
    """Yield pieces of samples up to a length, with zeros at the end if they are shorter."""
    if length is None:
        yield from pieces
        return
    for piece in pieces:
        yield piece[..., :length]
        length = max(0, length - piece.shape[-1])
    yield piece.new_zeros(*piece.shape[:-1], length)


def _target(
    output: str | os.PathLike[str] | BinaryIO | Sink | None,
    rate: int,
    channels: int,
    device: int | str | None,
) -> Sink | None:
    """Return the sink for the sound, or None if the returned `Sound` is the player."""
    if isinstance(output, Sink):
        return output
    if output is not None:
        return FileSink(output, rate, channels)
    if device is None and _in_notebook():
        return None
    try:
        return SoundDeviceSink(rate, channels, device=device)
    except DeviceError as error:
        if device is not None:
            raise
        path = next(path for path in map(Path, _names()) if not path.exists())
        warn(f"{error}; the sound is written to {printable(path)}")
        return FileSink(path, rate, channels)


def _names() -> Iterator[str]:
    return (f"rtspecinv-{number}.wav" for number in itertools.count(1))


def _in_notebook() -> bool:
    """Return whether the code runs in a notebook: IPython is loaded and has a kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
