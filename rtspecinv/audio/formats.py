"""Limits of sound file formats, checked before the first sample is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rtspecinv.common.checks import count, shown
from rtspecinv.common.printable import printable

SUFFIXES = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}
LARGEST_WAV = 2**32 - 2**16  # bytes; the length field of a WAV file has 32 bits
SAMPLE_BYTES = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}  # in WAV files
MOST_CHANNELS = 1024  # limit of libsndfile, which many programs use to read files


@dataclass(frozen=True)
class Format:
    """Limits of a container format with one sample format.

    Attributes:
        container: name of the container: "WAV", "FLAC" or "OGG".
        subtype: libsndfile's name of the sample format.
        most_rate: largest sample rate, Hz.
        most_channels: largest number of channels.
        step_hertz: number that a sample rate of 2**16 Hz or more must be a multiple of, Hz, default: 1.
        rates: allowed sample rates, Hz, default: all up to `most_rate`.
        most_samples: largest number of samples per channel, default: no limit (a WAV file is limited to
            4 GiB).
    """

    container: str
    subtype: str
    most_rate: int
    most_channels: int
    step_hertz: int = 1
    rates: tuple[int, ...] = ()
    most_samples: int | None = None

    def holds_rate(self, sample_rate: int) -> bool:
        """Return whether the format allows this sample rate in Hz."""
        if self.rates:
            return sample_rate in self.rates
        return sample_rate <= self.most_rate and (sample_rate < 2**16 or sample_rate % self.step_hertz == 0)

    def holds_length(self, channels: int, length: int) -> bool:
        """Return whether the format can hold `length` samples in each of `channels` channels."""
        if self.container == "WAV":
            return length * channels * SAMPLE_BYTES.get(self.subtype, 1) <= LARGEST_WAV
        return self.most_samples is None or length <= self.most_samples

    def fits(self, sample_rate: int, channels: int, length: int) -> bool:
        """Return whether the format can hold a sound of this sample rate, channels and length."""
        return (
            self.holds_rate(sample_rate)
            and channels <= self.most_channels
            and self.holds_length(channels, length)
        )

    @property
    def rates_text(self) -> str:
        """Text for messages that states the allowed sample rates."""
        if self.rates:
            return f"{', '.join(map(str, self.rates))} Hz"
        step = f", above 65535 only multiples of {self.step_hertz}" if self.step_hertz > 1 else ""
        return f"1 to {self.most_rate} Hz{step}"


# FLAC: RFC 9639 and its streamable subset, which libFLAC enforces. Vorbis: libvorbis has settings up to
# 200 kHz; above this rate, libsndfile ends the process. Opus: RFC 6716.
FORMATS = (
    Format("WAV", "PCM_16", 2**31 - 1, MOST_CHANNELS),
    Format("FLAC", "PCM_16", 655350, 8, step_hertz=10, most_samples=2**36 - 1),
    Format("OGG", "VORBIS", 200000, 255),
    Format("OGG", "OPUS", 48000, 255, rates=(8000, 12000, 16000, 24000, 48000)),
)


def _find(container: str, subtype: str | None) -> Format:
    """Return the limits of a container with a sample format; with None, its first one in `FORMATS`."""
    of_container = [format for format in FORMATS if format.container == container]
    exact = [format for format in of_container if format.subtype == subtype]
    if exact or subtype is None:
        return (exact or of_container)[0]
    first = of_container[0]
    return Format(
        container, subtype, first.most_rate, first.most_channels, first.step_hertz, (), first.most_samples
    )


def check(
    name: object, container: str, subtype: str, sample_rate: Any, channels: Any, length: int = 0
) -> tuple[int, int]:
    """Return the sample rate and the number of channels as integers.

    name: name of the file in messages.
    length: number of samples per channel, default: 0.

    Raises:
        ValueError: the format cannot hold the sound; the message names the formats that can.
    """
    begin = (
        f"Cannot write {printable(name)} with sample_rate={shown(sample_rate)} and channels={shown(channels)}"
    )
    rate, n_channels = _count(begin, sample_rate=sample_rate), _count(begin, channels=channels)
    format = _find(container, subtype)
    if format.fits(rate, n_channels, length):
        return rate, n_channels
    if not format.holds_rate(rate):
        reason = f"{container} with {subtype} supports {format.rates_text}"
    elif n_channels > format.most_channels:
        reason = f"{container} with {subtype} supports at most {format.most_channels} channels"
    else:
        reason = f"{length} samples are more than {container} with {subtype} can contain"
        reason += " (4 GiB)" if container == "WAV" else ""
    others = [
        f"{suffix} ({other.subtype})"
        for suffix, held in SUFFIXES.items()
        for other in FORMATS
        if other.container == held and other.fits(rate, n_channels, length)
    ]
    way_out = (
        f"use {' or '.join(others)}"
        if others
        else "no format supports this: use a smaller sample_rate, or fewer channels or samples"
    )
    raise ValueError(f"{begin}: {reason}; {way_out}")


def _count(begin: str, **parameter: Any) -> int:
    """Return the value of one named parameter as an integer >= 1; `begin` begins the error message."""
    try:
        return count(1, **parameter)
    except ValueError as error:
        raise ValueError(f"{begin}: {next(iter(parameter))} is not an integer >= 1") from error
