"""Mel spectrograms: analysis of samples and magnitudes, and inversion, in batch or streaming."""

from rtspecinv.mel.config import Compression, MelConfig
from rtspecinv.mel.diagnosis import Diagnosis, diagnose
from rtspecinv.mel.models import presets
from rtspecinv.mel.spectrogram import Mel
from rtspecinv.mel.stream import MelInverter

__all__ = ["Compression", "Diagnosis", "Mel", "MelConfig", "MelInverter", "diagnose", "presets"]
