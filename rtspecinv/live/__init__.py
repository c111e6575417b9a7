"""Live frames: players that invert frames on arrival, analysis of blocks of sound, transforms."""

from rtspecinv.live import transforms
from rtspecinv.live.analysis import StreamingAnalysis, magnitude_frames
from rtspecinv.live.mailbox import Mailbox
from rtspecinv.live.pace import Pace
from rtspecinv.live.player import Player, PlayerStats, play
from rtspecinv.live.pool import PooledStream, StreamPool
from rtspecinv.live.stream import Progress

__all__ = [
    "Mailbox",
    "Pace",
    "Player",
    "PlayerStats",
    "PooledStream",
    "Progress",
    "StreamPool",
    "StreamingAnalysis",
    "magnitude_frames",
    "play",
    "transforms",
]
