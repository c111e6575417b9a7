"""Messages between client and server."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from rtspecinv.audio.resample import Resampler
from rtspecinv.common.checks import MOST_RATE, choice, count, finite, shown
from rtspecinv.files.bounds import check_frames, check_mel
from rtspecinv.mel.models import presets
from rtspecinv.serve.limits import Limits
from rtspecinv.stft import STFT
from rtspecinv.streaming import StreamingInverter

Array = np.ndarray[Any, Any]
Message = str | bytes
Said = dict[str, Any] | bytes  # a decoded message: a request or an answer, or frames or samples

DTYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2")}
FORMATS = ("f32", "s16", "mulaw")
_LINEAR = ("n_fft", "hop_length", "sample_rate")
_OPTIONS = ("look_ahead", "n_iter", "dtype", "format", "output_rate")
LEAST_OUTPUT_RATE, MOST_OUTPUT_RATE = 4000, 384000  # Hz
MOST_STATE = 2**23  # largest number of samples in the frames of all streams of a kind: about 300 MB
_MOST_DEFAULT = 16  # largest default number of iterations of an inverter
MOST_WORK = 2**20  # largest number of values that a push of one stream computes: a few milliseconds


class Codec(Protocol):
    """Encodes and decodes the messages of one protocol."""

    def read(self, message: Message) -> Said:
        """Return the decoded message of a client; raises `ValueError` for an invalid one."""

    def write(self, said: Said) -> Message:
        """Return the encoded message of the server: samples as bytes, or an answer."""


class Native:
    """Encodes messages in the native protocol: texts are JSON, binary messages are frames or samples."""

    def read(self, message: Message) -> Said:
        """Return the decoded message of a client: frames as bytes, or a JSON object."""
        return message if isinstance(message, bytes) else read_object(message)

    def write(self, said: Said) -> Message:
        """Return the encoded message of the server: samples as bytes, or a JSON object."""
        return said if isinstance(said, bytes) else json.dumps(said)


def read_object(text: str) -> dict[str, Any]:
    """Return the object of a JSON text; raises `ValueError` for any other text."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The message {shown(text)} is not JSON") from error
    if not isinstance(said, dict):
        raise ValueError(f'The message {shown(text)} is not a JSON object such as {{"type": "flush"}}')
    return said


@dataclass(frozen=True)
class Kind:
    """Parameters that all streams of one inverter share."""

    preset: str | None
    n_fft: int
    hop_length: int
    window: str
    look_ahead: int
    n_iter: int | None  # None: default of the inverter

    @property
    def n_open(self) -> int:
        """Number of frames of a stream that change, which is about the number of pushes of a flush."""
        return self.look_ahead + math.ceil(self.n_fft / self.hop_length)

    @property
    def most_iter(self) -> int:
        """Number of iterations, or the largest default of an inverter."""
        return _MOST_DEFAULT if self.n_iter is None else self.n_iter

    @property
    def work(self) -> int:
        """Number of values that a push of one stream computes."""
        return self.n_open * self.n_fft * (self.most_iter + 2)

    def inverter(self, n_streams: int) -> StreamingInverter:
        """Return an inverter of `n_streams` streams."""
        options: dict[str, Any] = {"look_ahead": self.look_ahead, "batch_shape": (n_streams,)}
        if self.n_iter is not None:
            options["n_iter"] = self.n_iter
        if self.preset is not None:
            return presets[self.preset].inverter(**options)
        return StreamingInverter(STFT(self.n_fft, self.hop_length, window=self.window), **options)


@dataclass(frozen=True)
class Hello:
    """Parameters of a client's stream, from its first message.

    kind: parameters of the inverter.
    n_values: number of values of a frame.
    sample_rate: sample rate of the inverter, Hz.
    output_rate: sample rate of the samples sent to the client, Hz.
    dtype: data type of the frames.
    format: format of the samples sent to the client, one of `FORMATS`.
    """

    kind: Kind
    n_values: int
    sample_rate: float
    output_rate: float
    dtype: np.dtype[Any]
    format: str


def hello_of(said: Mapping[str, Any], limits: Limits) -> Hello:
    """Return the checked parameters in the first message of a client.

    Raises:
        ValueError: a key is unknown, missing or out of range.
        TypeError: a value has the wrong type.
    """
    known = ("preset", *_OPTIONS) if "preset" in said else (*_LINEAR, "window", *_OPTIONS)
    if strays := [key for key in said if key not in known and key != "type"]:
        raise ValueError(f"The first message has {shown(strays[0])}; it may have {', '.join(known)}")
    if "preset" in said:
        name = choice(tuple(presets), preset=said["preset"])
        mel = presets[name]
        check_mel(mel.config, 1)
        stft, n_values, rate = mel.config.stft(critical=True), mel.config.n_mels, mel.config.sample_rate
        window = ""
    else:
        name = None
        if missing := [key for key in _LINEAR if key not in said]:
            raise ValueError(
                f'The first message lacks {", ".join(missing)}: send {{"n_fft": 1024, "hop_length": 256, '
                '"sample_rate": 22050}, or {"preset": "hifigan-22k"}'
            )
        rate = finite(0, MOST_RATE, above=True, sample_rate=said["sample_rate"])
        n_fft, hop_length = count(1, n_fft=said["n_fft"]), count(1, hop_length=said["hop_length"])
        check_frames(n_fft, hop_length, 1, rate)
        window = said.get("window", "hann")
        if not isinstance(window, str):
            raise TypeError(f"Parameter window={shown(window)} is not the name of a window")
        stft = STFT(n_fft, hop_length, window=window)
        n_values = stft.n_freq
    look_ahead, n_iter = said.get("look_ahead"), said.get("n_iter")
    kind = Kind(
        name,
        stft.n_fft,
        stft.hop_length,
        window,
        stft.look_back if look_ahead is None else count(0, limits.look_ahead, look_ahead=look_ahead),
        None if n_iter is None else count(0, limits.n_iter, n_iter=n_iter),
    )
    _check_cost(kind, limits)
    output_rate = said.get("output_rate")
    if output_rate is not None:
        finite(0, MOST_OUTPUT_RATE, sample_rate=rate)
        output_rate = finite(LEAST_OUTPUT_RATE, MOST_OUTPUT_RATE, output_rate=output_rate)
    return Hello(
        kind,
        n_values,
        rate,
        rate if output_rate is None else output_rate,
        DTYPES[choice(tuple(DTYPES), dtype=said.get("dtype", "f32"))],
        choice(FORMATS, format=said.get("format", "f32")),
    )


def _check_cost(kind: Kind, limits: Limits) -> None:
    state = kind.n_open * kind.n_fft * limits.streams
    said = f"n_fft={kind.n_fft}, hop_length={kind.hop_length}, look_ahead={kind.look_ahead}"
    if state > MOST_STATE:
        raise ValueError(
            f"{said} make {state} samples of state for {limits.streams} streams, more than {MOST_STATE}: "
            "send smaller ones"
        )
    if kind.work > MOST_WORK:
        raise ValueError(
            f"{said}, n_iter={kind.most_iter} pass over {kind.work} values for each frame, more than "
            f"{MOST_WORK}: send smaller ones"
        )


def frames_of(data: bytes, hello: Hello) -> Array:
    """Return the frames of a binary message, `(n_frames, n_values)` in float32.

    Raises:
        ValueError: the message is empty, or its length is not a multiple of that of a frame.
    """
    size = hello.n_values * hello.dtype.itemsize
    if not data or len(data) % size:
        raise ValueError(
            f"The message has {len(data)} bytes, not a whole number of frames: a frame has {hello.n_values} "
            f"values of {hello.dtype.itemsize} bytes, {size} bytes"
        )
    frames: Array = np.frombuffer(data, hello.dtype).reshape(-1, hello.n_values)
    return frames.astype(np.float32, copy=False)


class Sound:
    """Resamples the hops of one stream and encodes them in the format of the client.

    Each hop becomes samples of the same duration at the output rate, rounded to a whole sample. soxr returns
    samples in bursts, so they are buffered until they are due; the sound begins with `delay` samples of
    silence, so that the buffer does not run empty.

    Attributes:
        delay: number of samples of silence at the beginning, at the output rate.
    """

    def __init__(self, hello: Hello) -> None:
        self._encode = _ENCODERS[hello.format]
        self._rates = hello.sample_rate, hello.output_rate
        self._resampler, self.delay = None, 0
        if hello.output_rate != hello.sample_rate:
            self.delay = longest_delay(*self._rates, hello.kind.hop_length)
            self._resampler = Resampler(*self._rates, 1)
        self._begin()

    _resampler: Resampler | None

    def _begin(self) -> None:
        self._waiting = np.zeros(self.delay, np.float32)
        self._n_in = self._n_out = 0

    def push(self, hop: Array) -> bytes:
        """Return the encoded samples that are due with a hop."""
        if self._resampler is None:
            return self._encode(hop)
        self._n_in += len(hop)
        due = round(self._n_in * self._rates[1] / self._rates[0])
        waiting = np.concatenate([self._waiting, self._resampler.push(hop[:, None])[:, 0]])
        out, self._waiting = np.split(waiting, [due - self._n_out])
        self._n_out += len(out)
        return self._encode(out)

    def flush(self, owed: Array) -> bytes:
        """Return the remaining samples, encoded, and reset.

        owed: last samples of the inverter.
        """
        if self._resampler is None:
            return self._encode(owed)
        rest = [self._waiting, self._resampler.push(owed[:, None])[:, 0], self._resampler.flush()[:, 0]]
        self._begin()
        return self._encode(np.concatenate(rest))

    def reset(self) -> None:
        """Reset without returning samples."""
        if self._resampler is not None:
            self._resampler.clear()
        self._begin()


@lru_cache(64)
def longest_delay(from_rate: float, to_rate: float, hop_length: int) -> int:
    """Return the largest number of output samples that a resampler may hold back.

    It is measured with half a minute of hops; 16 samples are added for safety.
    """
    resampler, hop, longest = Resampler(from_rate, to_rate, 1), np.zeros((hop_length, 1), np.float32), 0
    for _ in range(int(30 * from_rate / hop_length) + 1):
        resampler.push(hop)
        longest = max(longest, resampler.delay)
    return longest + 16


def _encode_f32(samples: Array) -> bytes:
    return samples.astype("<f4", copy=False).tobytes()


def _as_s16(samples: Array) -> Array:
    return np.rint(samples * np.float32(32768)).clip(-32768, 32767).astype("<i2")


def _encode_s16(samples: Array) -> bytes:
    return _as_s16(samples).tobytes()


def _encode_mulaw(samples: Array) -> bytes:
    """Return samples in the mu-law code of ITU-T G.711.

    A byte consists of the sign, three bits of exponent and four bits of mantissa; all bits are inverted.
    """
    whole = _as_s16(samples).astype(np.int32)
    magnitude = np.minimum(np.abs(whole), 32635) + 132
    exponent = np.frexp(magnitude.astype(np.float32))[1] - 8  # 132 stands for 2**7 and above
    mantissa = (magnitude >> (exponent + 3)) & 15
    sign = np.where(whole < 0, 128, 0)
    code: Array = ~(sign | exponent << 4 | mantissa) & 255
    return code.astype(np.uint8).tobytes()


_ENCODERS = {"f32": _encode_f32, "s16": _encode_s16, "mulaw": _encode_mulaw}
