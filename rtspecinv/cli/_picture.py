"""Implementation of `rtspecinv picture`: it draws a spectrogram of a sound file as a picture."""

from __future__ import annotations

import argparse

import torch

import rtspecinv
from rtspecinv.audio import read_audio
from rtspecinv.cli._files import refuse_same_file, sound_file
from rtspecinv.common.printable import printable
from rtspecinv.files.images import MOST_PIXELS, read_image
from rtspecinv.files.picture_scale import PictureScale


def picture(args: argparse.Namespace) -> None:
    """Draw the magnitudes of an audio file as a picture that `image` can play."""
    refuse_same_file(args.audio, args.output)
    stft = rtspecinv.STFT(args.n_fft, args.hop_length)
    height = stft.n_freq if args.height is None else args.height
    n_frames = stft.count_frames(sound_file(args.audio).n_samples)
    if n_frames * max(height, stft.n_freq) > MOST_PIXELS:
        raise ValueError(
            f"{printable(args.audio)} needs {n_frames} x {height} pixels, more than {MOST_PIXELS}: "
            "use a larger --hop-length, or a shorter file"
        )
    samples, rate = read_audio(args.audio)
    magnitude = stft.magnitude(torch.from_numpy(samples.mean(0)))
    white = float(magnitude.max())
    if not white:
        raise ValueError(
            f"{printable(args.audio)} is silent, and its picture would be black: choose another file"
        )
    scale = PictureScale(rate, stft.n_fft, args.scale, args.fmin, args.fmax, white, args.range)
    rtspecinv.save_spectrogram(
        args.output,
        magnitude,
        stft,
        sample_rate=rate,
        length=samples.shape[-1],
        scale=scale,
        height=height,
        bits=args.bits,
    )
    back = torch.from_numpy(scale.magnitude(read_image(args.output)[0]))
    print(
        f"drawn         {magnitude.shape[-1]} x {height} pixels of {args.bits} bits; {scale.lowest:g} to "
        f"{scale.highest:g} Hz, {scale.scale}, {scale.range_db:g} dB"
    )
    convergence = float(rtspecinv.metrics.spectral_convergence(back, magnitude))
    print(f"round trip    {convergence:.1f} dB spectral convergence of the picture alone")
    print(f"written       {printable(args.output)}")
