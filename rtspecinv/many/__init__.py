"""Many spectrograms at once: side by side in the streams of one inverter, and in several threads."""

from rtspecinv.many.lanes import stream_many

__all__ = ["stream_many"]
