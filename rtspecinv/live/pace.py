"""The pace of a loop from a microphone to speakers: how it keeps its queue short."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rtspecinv.audio import Recording, SoundDeviceSink
from rtspecinv.common.checks import count, finite, having
from rtspecinv.live.transforms import Stretch


class Pace:
    """Keeps the playback queue of a microphone-to-speakers loop near its target length.

    The queue grows longer than needed when the device starts late, and after gaps. If it has been too long
    for one second, blocks of the microphone are skipped. Only whole blocks are skipped, because frames are
    completed by blocks.

        pace = Pace(microphone, sink, 0.02, stft.hop_length)
        for frame in magnitude_frames(pace.blocks(), stft):
            if pace.takes_frame():
                player.push(frame)

    microphone: source of the blocks.
    sink: device that plays the output of the player.
    wanted_seconds: target length of the sink's queue when a frame arrives, seconds, 0 to 3600.
    hop_length: number of samples from one frame to the next.

    `n_skipped` counts the frames that were left out because the queue was too long.
    """

    def __init__(
        self, microphone: Recording, sink: SoundDeviceSink, wanted_seconds: float, hop_length: int
    ) -> None:
        having(("sample_rate", "block_length", "__iter__"), "pass a Microphone", microphone=microphone)
        having(("queued",), "pass a SoundDeviceSink", sink=sink)
        self._microphone, self._sink = microphone, sink
        self._hop_length = count(1, hop_length=hop_length)
        seconds = finite(0, 3600, wanted_seconds=wanted_seconds)
        self._wanted = round(seconds * microphone.sample_rate)
        self._surplus = 0  # number of samples of the microphone to skip
        self._has_begun = False
        self._before, self._least = 0, math.inf  # queue at the last frame; its minimum in this second
        self._frames_to_look = 0
        self.n_skipped = 0

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the blocks of the microphone, without the samples that are skipped."""
        for block in self._microphone:
            left_out = min(self._surplus, block.shape[-1])
            self._surplus -= left_out
            yield block[:, left_out:]

    def takes_frame(self) -> bool:
        """Return whether to push the frame that has just arrived; False if the queue is too long."""
        queued, block_length = self._sink.queued, self._microphone.block_length
        most = self._wanted + max(self._hop_length, 2 * block_length)
        if not self._has_begun:
            self._has_begun = 0 < queued <= self._before
            self._before = queued
            if not self._has_begun:
                return queued <= most
            # A long block completes many frames.
            self._frames_to_look = 4 + 4 * block_length // self._hop_length
        self._least = min(self._least, queued)
        self._frames_to_look -= 1
        if self._frames_to_look < 0:
            enough = self._wanted - min(block_length / 2, self._wanted / 4)
            self._surplus = max(0, int((self._least - enough) // block_length)) * block_length
            self._least = math.inf
            self._frames_to_look = self._microphone.sample_rate // self._hop_length
        elif queued >= most and not self._surplus:  # the player has repeated frames for late ones
            self.n_skipped += 1
            return False
        return True


def slowed(frames: Iterable[Tensor], rate: float, most: int) -> Iterator[Tensor]:
    """Yield one frame per frame of `frames`, read at a `rate` up to 1; drop frames beyond `most` waiting."""
    waiting: deque[Tensor] = deque()

    def read() -> Iterator[Tensor]:
        while True:
            yield waiting.popleft()

    stretch = Stretch(read(), rate, memory=2)
    for frame in frames:
        if len(waiting) >= most:
            waiting.clear()
        waiting.append(frame)
        yield next(stretch)
