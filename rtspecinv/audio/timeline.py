"""Timeline of playback: the position where the next sample goes, gaps, and the fades around them."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from rtspecinv.audio.device import Device
from rtspecinv.audio.sinks import Block

_FADE_SECONDS = 0.005
_AUDIBLE = 1e-3  # a jump between silence and less than this, -60 dB, does not click


class Timeline:
    """Positions of samples in what a device plays, counted since it was opened.

    Args:
        device: whose ring is written to; its lock is held during every call.
        queue_length: most samples that may wait to be played.
        prefill: samples that must wait before the device starts, and the lead after a gap; it doubles with
            every gap, up to half of the queue.

    Attributes:
        end: position behind the last sample written.
        used: position up to which the ring holds sound, a fade included.
        sounding: sound goes on up to `end`, so that the next sample must follow there.
        underflows: gaps that were heard, and those that the device told about.
        late_blocks: underflows that the device told about while there was sound.
        underflow_samples: samples of silence and fades in the gaps.
        underflow_seconds: when each underflow began (the last 10000).
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
        self._late_blocks_seen = 0  # in silence, too

    @property
    def goes_on(self) -> bool:
        """Whether the next sample written follows the last one without a gap."""
        return self.sounding and self._ring.claimed <= self.end

    @property
    def ahead(self) -> int:
        """Samples between the device and where the next one written goes."""
        ahead = self.end - self._ring.claimed  # one look, as the device goes on
        if self.sounding and ahead >= 0:
            return ahead
        return self._lead if self._device.running else 0

    @property
    def waiting(self) -> int:
        """Samples written that the device has not taken."""
        return max(0, self.end - self._ring.claimed) if self.sounding else 0

    @property
    def room(self) -> int:
        """Samples that may be queued now; behind a gap at least half of the queue, however long the lead."""
        most = self.queue_length if self.goes_on else self.queue_length // 2
        return self.queue_length - min(self.ahead, most)

    @property
    def is_prefilled(self) -> bool:
        """Whether enough waits for the device to start."""
        return self.end - self._ring.claimed >= self.prefill

    @property
    def _lead(self) -> int:
        """Samples to leave to the device before sound starts anew, so that it hardly comes there first."""
        fade_length = len(self._fade_out)
        most = len(self._ring.samples) - self.queue_length - 3 * fade_length  # or a full queue does not fit
        lead = min(self.prefill, self.queue_length // 2)
        return min(max(lead, self._ring.block_length), most) + fade_length

    def place(self, block: Block) -> None:
        """Put `block` behind what is queued or, if the device has come there first, behind a gap."""
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
            self.used = begin + len(whole)  # before it is, in case Ctrl-C comes in between
            stored, in_time = self._ring.store(begin, whole)
            if stored:
                break
            enough = 0
        end = begin + len(whole) - fade_length
        if self.sounding and not goes_on:
            self._count_underflow(self.end, end - len(block) - self.end)
            self.prefill = min(2 * self.prefill, max(self.prefill, self.queue_length // 2))
        if not in_time:  # they came at the same moment, and the device may have played some of the fade
            self._count_underflow(begin, 0)
        self.end, self.sounding = end, True

    def fade_out(self) -> None:
        """Fade what the device plays next, and silence what follows."""
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
        """Count as underflows what the device told about while there was sound."""
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
        """Fade of `(channels,)` to silence."""
        edge: Block = sample * self._fade_out
        return edge if np.abs(sample).max() > _AUDIBLE else np.zeros_like(edge)
