"""A short piece of music, strings and a voice, that is rendered by code, so the demo needs no recording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]
_Note = TypeVar("_Note", float, Samples)

SAMPLE_RATE = 22050  # Hz
_BEAT_SECONDS = 0.42

# Notes of the strings, "beat:MIDI note:loudness": an arpeggio over Dm, Bb, F, C and a strummed Dm.
_PLUCKS = """
0:38:.9   0:50:.6     .5:57:.6    1:62:.7    1.5:65:.7    2:69:.8    2.5:65:.6
3:34:.9   3:50:.6    3.5:53:.6    4:58:.7    4.5:62:.7    5:65:.8    5.5:62:.6
6:41:.9   6:53:.6    6.5:57:.6    7:60:.7    7.5:65:.7    8:69:.8    8.5:65:.6
9:36:.9   9:52:.6    9.5:55:.6   10:60:.7   10.5:64:.7   11:67:.7   11.5:64:.6
12:38:.9  12.06:50:.6  12.12:57:.6  12.18:62:.6  12.24:65:.7  12.3:69:.7
"""
# Notes of the voice, one line for each breath, "beat:MIDI note:vowel"; the last entry marks the end.
_PHRASES = """
2:57:a  3:58:o  4:62:a  5:60:e  5.75:58:e
6.5:57:o  7:60:a  8:65:i  9:64:e  10:60:a  10.5:62:a  11:64:e  12:62:u  13.5:62:a
"""
# Formants of vowels in Hz (Peterson & Barney 1952, men; the upper two are typical values).
_VOWELS = {
    "a": (730, 1090, 2440, 3400, 4300),
    "e": (530, 1840, 2480, 3500, 4400),
    "i": (270, 2290, 3010, 3600, 4400),
    "o": (570, 840, 2410, 3300, 4200),
    "u": (300, 870, 2240, 3200, 4200),
}
_BANDWIDTHS = (70, 90, 120, 160, 220)  # Hz
_CONTROL = 32  # samples between values of pitch and formants


def render() -> npt.NDArray[np.float32]:
    """Return the clip, `(n_samples,)` at `SAMPLE_RATE`, the same 7 seconds in each call, peak 0.8."""
    n_samples = round(16.5 * _BEAT_SECONDS * SAMPLE_RATE)
    random = np.random.default_rng(1)
    mix = np.zeros(n_samples)
    for event in _PLUCKS.split():
        beat, note, loudness = map(float, event.split(":"))
        begin = _at(beat)
        mix[begin:] += 0.5 * loudness * pluck(_frequency(note), n_samples - begin, random)
    for line in _PHRASES.strip().splitlines():
        phrase = [
            (float(beat), float(note), vowel) for beat, note, vowel in (e.split(":") for e in line.split())
        ]
        begin, voice = _at(phrase[0][0]), sing(phrase)
        mix[begin : begin + len(voice)] += 0.5 * voice
    fade = np.minimum(1, np.arange(n_samples)[::-1] / (0.4 * SAMPLE_RATE))
    mix *= fade
    clip: npt.NDArray[np.float32] = (0.8 * mix / np.abs(mix).max()).astype(np.float32)
    return clip


def pluck(frequency: float, n_samples: int, random: np.random.Generator) -> Samples:
    """Return a plucked string of `frequency` Hz, `(n_samples,)` with a peak of 1 (Karplus & Strong 1983).

    A burst of noise circulates in a delay line: y[n] = decay * sum_k taps[k] y[n - delay - k]. The taps
    attenuate high frequencies and delay by the fractional part of the period.
    """
    period = SAMPLE_RATE / frequency
    damping = 0.35
    delay = int(period - damping)
    fraction = period - damping - delay
    taps = np.convolve([1 - damping, damping], [1 - fraction, fraction])
    # A high string reaches -60 dB after 1.2 s, a low one later.
    decay = 0.001 ** (period / SAMPLE_RATE / (1.2 + 250 / frequency))

    burst = random.uniform(-1, 1, delay)
    burst -= np.roll(burst, max(1, delay // 5))  # plucked at a fifth of the string
    burst = (burst + np.roll(burst, 1) + np.roll(burst, 2)) / 3
    string = np.zeros(n_samples + delay + 2)
    string[2 : delay + 2] = burst - burst.mean()
    for begin in range(delay + 2, len(string), delay):  # each period depends only on the one before
        end = min(begin + delay, len(string))
        for k, tap in enumerate(taps):
            string[begin:end] += decay * tap * string[begin - delay - k : end - delay - k]
    return _normalised(string[2 : n_samples + 2])


def sing(phrase: Sequence[tuple[float, float, str]]) -> Samples:
    """Return a voice that sings entries (beat, MIDI note, vowel), with glides between them and a peak of 1.

    The glottal pulses are a sum of harmonics below the Nyquist frequency, so there is no aliasing; their
    amplitudes fall by 12 dB per octave. Each harmonic has the gain and phase of five formant resonators in
    cascade at its current frequency.
    """
    begin, end = _at(phrase[0][0]), _at(phrase[-1][0])
    n_samples = end - begin
    beats = np.array([beat for beat, _, _ in phrase])
    clock = (begin + np.arange(0, n_samples, _CONTROL)) / SAMPLE_RATE / _BEAT_SECONDS
    notes = _glide(clock, beats, np.array([note for _, note, _ in phrase]))
    seconds = (clock - clock[0]) * _BEAT_SECONDS
    vibrato = 0.35 * np.minimum(1, seconds / 0.5) * np.sin(2 * np.pi * 5.4 * seconds)
    pitch = _frequency(notes + vibrato)  # (n_controls,)
    formants = [
        _glide(clock, beats, np.array([float(_VOWELS[v][i]) for _, _, v in phrase])) for i in range(5)
    ]

    at, controls = np.arange(n_samples), np.arange(0, n_samples, _CONTROL)
    angle = 2 * np.pi * np.cumsum(np.interp(at, controls, pitch)) / SAMPLE_RATE
    voice = np.zeros(n_samples)
    for harmonic in range(1, int(0.45 * SAMPLE_RATE / pitch.min())):
        frequency = harmonic * pitch
        # The factor 1j * harmonic: the lips act as a differentiator.
        response = _resonators(frequency, formants) / harmonic**2 * (1j * harmonic)
        response *= np.clip((0.47 * SAMPLE_RATE - frequency) / 500, 0, 1)
        real, imaginary = np.interp(at, controls, response.real), np.interp(at, controls, response.imag)
        voice += real * np.cos(harmonic * angle) - imaginary * np.sin(harmonic * angle)
    breath = np.minimum(1, np.minimum(at / (0.09 * SAMPLE_RATE), at[::-1] / (0.18 * SAMPLE_RATE)))
    voice *= np.sin(0.5 * np.pi * breath) ** 2
    return _normalised(voice)


def _normalised(samples: Samples) -> Samples:
    result: Samples = samples / np.abs(samples).max()
    return result


def _resonators(frequency: Samples, formants: Sequence[Samples]) -> npt.NDArray[np.complex128]:
    """Return the complex gain at frequency f, Hz, of the formant resonators in cascade.

    A resonator at f0 has the gain `f0**2 / (f0**2 - f**2 + 1j * f * bandwidth)`.
    """
    response = np.ones(frequency.shape, np.complex128)
    for centre, bandwidth in zip(formants, _BANDWIDTHS, strict=True):
        response *= centre**2 / (centre**2 - frequency**2 + 1j * frequency * bandwidth)
    return response


def _glide(clock: Samples, beats: Samples, values: Samples) -> Samples:
    """Return a curve that steps to each value at its beat, smoothed over an eighth of a second around it."""
    width = 0.125 / _BEAT_SECONDS
    curve = np.full(clock.shape, values[0])
    for beat, step in zip(beats[1:], np.diff(values), strict=True):
        ramp = np.clip((clock - beat) / width + 0.5, 0, 1)
        curve += step * ramp**2 * (3 - 2 * ramp)
    return curve


def _frequency(note: _Note) -> _Note:
    """Return the frequency of a MIDI note, Hz."""
    result: _Note = 440.0 * 2.0 ** ((note - 69) / 12)
    return result


def _at(beat: float) -> int:
    return round(beat * _BEAT_SECONDS * SAMPLE_RATE)
