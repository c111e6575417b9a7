"""More than one machine: inversion of many spectrograms by Ray Data."""

from rtspecinv.cluster.dataset import invert_dataset

__all__ = ["invert_dataset"]
