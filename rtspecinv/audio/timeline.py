"""Timeline of playback: the position where the next sample goes, gaps, and the fades around them."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from rtspecinv.audio.device import Device
from rtspecinv.audio.sinks import Block

_FADE_SECONDS = 0.005
_AUDIBLE = 1e-3  # a smaller step between sound and silence, -60 dB, is not heard


class Timeline:
    """Writes samples to the ring of a device, fades them at gaps, and counts the gaps.

    A position is a number of samples since the device was opened.

    Args:
        device: device whose ring is written to; the caller holds its lock during every call.
        queue_length: largest number of samples that may wait to be played.
        prefill: number of samples that must wait before the device starts, and the delay with which sound
            resumes after a gap; it doubles with every gap, up to half of the queue.

    Attributes:
        end: position after the last sample written.
        used: position up to which the ring holds sound, including a fade.
        sounding: whether the sound continues up to `end`, so that the next sample must follow there.
        underflows: number of gaps: those that the writer caused and those that the device reported.
        late_blocks: number of underflows that the device reported while there was sound.
        underflow_samples: number of samples of silence and fades in the gaps.
        underflow_seconds: times at which the last 10000 underflows began, seconds since opening.
    """

    def __init__(self, device: Device, queue_length: int, prefill: int) -> None:
        self._device, self._ring = device, device.ring
        self.queue_length, self.prefill = queue_length, prefill
        fade_length = max(1, round(_FADE_SECONDS * device.rate))
        falling = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, fade_length + 1) / (fade_length + 1))
        self._fade_out: Block = falling.astype(np.float32)[:, np.newaxis]
        self.end = self.used = 0
        self.sounding = False
        self.underflows = self.late_blocks = self.underflow_samples = 0
        self.underflow_seconds: deque[float] = deque(maxlen=10000)
        self._late_blocks_seen = 0  # including those in silence

    @property
    def goes_on(self) -> bool:
        """Whether the next sample written follows the last one without a gap."""
        return self.sounding and self._ring.claimed <= self.end

    @property
    def ahead(self) -> int:
        """Number of samples that the device plays before the next sample written."""
        ahead = self.end - self._ring.claimed  # read once, because the device runs meanwhile
        if self.sounding and ahead >= 0:
            return ahead
        return self._lead if self._device.running else 0

    @property
    def waiting(self) -> int:
        """Number of samples written that the device has not taken."""
        return max(0, self.end - self._ring.claimed) if self.sounding else 0

    @property
    def room(self) -> int:
        """Number of samples that may be queued now; after a gap, at least half of the queue."""
        most = self.queue_length if self.goes_on else self.queue_length // 2
        return self.queue_length - min(self.ahead, most)

    @property
    def is_prefilled(self) -> bool:
        """Whether enough samples are queued to start the device."""
        return self.end - self._ring.claimed >= self.prefill

    @property
    def _lead(self) -> int:
        """Number of samples of silence before sound resumes after a gap.

        It gives the writer time to store the samples before the device reaches them.
        """
        fade_length = len(self._fade_out)
        most = len(self._ring.samples) - self.queue_length - 3 * fade_length  # leaves room for a full queue
        lead = min(self.prefill, self.queue_length // 2)
        return min(max(lead, self._ring.block_length), most) + fade_length

    def place(self, block: Block) -> None:
        """Store `block` after the queued samples or, if the device has already passed them, after a gap."""
        self.count_late_blocks()
        fade_length, enough = len(self._fade_out), len(self._ring.samples) // 4
        while True:
            self._device.recycle(enough)
            claimed, begin, parts = self._ring.claimed, self.end, [block, self._edge(block[-1])]
            goes_on = self.sounding and claimed <= self.end
            if not goes_on:
                begin = max(begin + fade_length, claimed + self._lead) if self._device.running else claimed
                if np.abs(block[0]).max() > _AUDIBLE:
                    parts.insert(0, self._edge(block[0])[::-1])
            whole = np.concatenate(parts)
            self.used = begin + len(whole)  # set before `store`, because Ctrl-C may come in between
            stored, in_time = self._ring.store(begin, whole)
            if stored:
                break
            enough = 0
        end = begin + len(whole) - fade_length
        if self.sounding and not goes_on:
            self._count_underflow(self.end, end - len(block) - self.end)
            self.prefill = min(2 * self.prefill, max(self.prefill, self.queue_length // 2))
        if not in_time:  # the device passed `begin` during the copy: it may have played part of the fade
            self._count_underflow(begin, 0)
        self.end, self.sounding = end, True

    def fade_out(self) -> None:
        """Fade out the samples that the device plays next, and replace the following ones by silence."""
        fade_length = len(self._fade_out)
        stored = False
        while not stored and self._ring.claimed < self.used:
            self._device.recycle()
            begin = self._ring.claimed
            faded = np.zeros((max(self.used - begin, fade_length), self._ring.samples.shape[1]), np.float32)
            if self._device.running:
                faded[:fade_length] = self._ring.read(begin, fade_length) * self._fade_out
            stored, _ = self._ring.store(begin, faded)
            if stored:
                self.end = self.used = begin + fade_length if self._device.running else begin
        self.sounding = False

    def count_late_blocks(self) -> None:
        """Count the underflows that the device reported since the last call, if there was sound."""
        late = self._ring.late_blocks
        if self.sounding:
            for _ in range(late - self._late_blocks_seen):
                self.late_blocks += 1
                self._count_underflow(self._ring.claimed, 0)
        self._late_blocks_seen = late

    def _count_underflow(self, position: int, n_samples: int) -> None:
        self.underflows += 1
        self.underflow_samples += n_samples
        self.underflow_seconds.append(position / self._device.rate)

    def _edge(self, sample: npt.NDArray[np.float32]) -> Block:
        """Return a fade from one sample `(channels,)` to silence, `(n_samples, channels)`."""
        edge: Block = sample * self._fade_out
        return edge if np.abs(sample).max() > _AUDIBLE else np.zeros_like(edge)
