"""Code that `play` and `live` share: it pushes frames to a player and shows figures of the playback."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from torch import Tensor

from rtspecinv.audio import SoundDeviceSink
from rtspecinv.cli._view import View
from rtspecinv.live import Player, PlayerStats


def perform(frames: Iterable[Tensor], player: Player, view: View) -> None:
    """Push frames to the player and update the view when an update is due."""
    for frame in frames:
        if view.due:  # before the push, so that the latency shown is that of this frame
            view.show(frame, player.stats)
        player.push(frame)


def print_performance(stats: PlayerStats, view: View, device: SoundDeviceSink) -> None:
    """Print latency, late frames, underflows and real-time factor of a finished playback."""
    n_dropped = stats.n_dropped + view.n_skipped
    latencies = view.latencies_ms or [math.nan]
    silence = 1000 * device.underflow_samples / device.device_rate
    told = f", {device.late_blocks} of them reported by the device" if device.late_blocks else ""
    print(f"playback      {statistics.median(latencies):.1f} ms of latency, at most {max(latencies):.0f}")
    print(f"late          {stats.n_late} times: {stats.n_held} frames replaced, {n_dropped} dropped")
    print(f"underflows    {stats.underflows} ({silence:.0f} ms of silence){told}")
    factors = f"{stats.real_time_factor_p50:.3f}, 99 of 100 under {stats.real_time_factor_p99:.3f}"
    print(f"speed         real-time factor {factors}: seconds of work per second of sound")
