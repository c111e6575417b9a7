"""Spectrograms in files: arrays and pictures, read a few frames at a time, written whole or not at all."""

from rtspecinv.files.opening import open_spectrogram
from rtspecinv.files.picture_scale import PictureScale
from rtspecinv.files.saving import save_spectrogram

__all__ = ["PictureScale", "open_spectrogram", "save_spectrogram"]
