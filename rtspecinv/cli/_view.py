"""Display of a running player: level meter, spectrum and figures, or one line of text."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

import rtspecinv
from rtspecinv.audio import Sink
from rtspecinv.cli._report import StatusLine, clock, note, on_terminal
from rtspecinv.live import PlayerStats

if TYPE_CHECKING:
    from rich.text import Text

UPDATE_SECONDS = 0.1
_LEVEL_RANGE = 60.0  # range of the meter, dB below full scale
_SPECTRUM_RANGE = 80.0  # range of the spectrum, dB below full scale
_LOWEST = 50.0  # lowest frequency of the spectrum, Hz
_MOST_WIDTH = 72  # largest width of the display, columns
_REMEMBERED = 36_000  # number of latencies that are kept: those of an hour
_ROWS = 4  # height of the spectrum, lines
_EIGHTHS = " ▁▂▃▄▅▆▇█"


class Meter(Sink):
    """A sink that records the largest absolute sample."""

    def __init__(self) -> None:
        self._peak = 0.0

    def write(self, samples: npt.ArrayLike) -> None:
        """Update the peak from samples of any shape."""
        self._peak = max(self._peak, float(np.abs(np.asarray(samples)).max(initial=0)))

    def take(self) -> float:
        """Return the largest absolute sample since the last call."""
        peak, self._peak = self._peak, 0.0
        return peak


class View:
    """Shows level, spectrum and figures of a player on stderr.

    On a terminal it updates 10 times a second, otherwise it prints a line every 5 seconds. With rich (extra
    `live`) a terminal shows meters, without it one line that is replaced. The played samples must also be
    written to `meter`.

    stft: transform of the frames.
    rate: sample rate, Hz.
    total_seconds: length of the sound in seconds, default: unknown or endless.
    before_seconds: function that returns the latency before a frame is pushed, in seconds, which the player
        cannot measure; default: 0.
    """

    def __init__(
        self,
        stft: rtspecinv.STFT,
        rate: int,
        *,
        total_seconds: float | None = None,
        before_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.meter = Meter()
        self.n_skipped = 0  # frames that were not pushed, counted as dropped
        self.remark = ""  # text beside the time
        self.latencies_ms: deque[float] = deque(maxlen=_REMEMBERED)  # latencies that were shown
        self._rate, self._hop_length = rate, stft.hop_length
        self._total, self._before_seconds = total_seconds, before_seconds
        self._full_scale = float(stft.window.sum()) / 2  # magnitude of a sine of amplitude 1
        self._n_fft = stft.n_fft
        self._live: Any = None  # display of rich
        self._line: StatusLine | None = None
        self._next = 0.0

    @property
    def due(self) -> bool:
        """Whether the next update is due."""
        return time.monotonic() >= self._next

    def show(self, frame: torch.Tensor, stats: PlayerStats) -> None:
        """Show the spectrum of a frame `(*channels, n_freq)` that is about to be pushed, and the figures."""
        self._next = time.monotonic() + UPDATE_SECONDS
        latency_ms = stats.latency_ms + 1000 * self._before_seconds()
        self.latencies_ms.append(latency_ms)
        if self._live is not None:
            self._live.update(self._picture(frame, stats, latency_ms), refresh=True)
        elif self._line is not None and self._line.due:
            parts = [self._time(stats), f"level {_level(self.meter.take())}", *_figures(stats, latency_ms)]
            self._line.show("   ".join(parts))

    def _time(self, stats: PlayerStats) -> str:
        seconds = (stats.n_frames + stats.n_held) * self._hop_length / self._rate
        total = "" if self._total is None else f" / {clock(self._total)}"
        return f"{clock(seconds)}{total}{self.remark}"

    def _picture(self, frame: torch.Tensor, stats: PlayerStats, latency_ms: float) -> Text:
        from rich.text import Text

        width = max(8, min(_MOST_WIDTH, self._live.console.width - 1))
        peak = self.meter.take()
        filled = round(np.clip(1 + _decibels(peak) / _LEVEL_RANGE, 0, 1) * width)
        colour = "red" if peak > 1 else "yellow" if peak > 0.5 else "green"
        picture = Text(no_wrap=True, overflow="crop")
        picture.append(f"{self._time(stats)}   level {_level(peak)}\n")
        picture.append("█" * filled, colour).append("─" * (width - filled) + "\n", "bright_black")
        for row in spectrum_rows(self._bands(frame, width)):
            picture.append(row + "\n", "cyan")
        figures = _figures(stats, latency_ms)
        picture.append("   ".join(figures[:2]) + "\n" + "   ".join(figures[2:]))
        return picture

    def _bands(self, frame: torch.Tensor, width: int) -> npt.NDArray[np.float64]:
        """Return the heights, 0 to 1, of `width` bands of equal width on a logarithmic frequency scale."""
        loudest = np.abs(np.asarray(frame.detach().cpu())).reshape(-1, frame.shape[-1]).max(0)
        edges = np.geomspace(min(_LOWEST, self._rate / 4), self._rate / 2, width, endpoint=False)
        begins = (edges * self._n_fft / self._rate).astype(int)
        level = _decibels(np.maximum.reduceat(loudest, begins) / self._full_scale)
        heights: npt.NDArray[np.float64] = np.clip(1 + level / _SPECTRUM_RANGE, 0, 1)
        return heights

    def __enter__(self) -> View:
        if on_terminal() and "utf" in (sys.stderr.encoding or "").lower():
            try:
                from rich.console import Console
                from rich.live import Live
            except ImportError:
                note('the meters need rich: pip install "rtspecinv[live]"')
            else:
                console = Console(stderr=True)
                self._live = Live(console=console, auto_refresh=False, transient=True)
                self._live.start()
                return self
        self._line = StatusLine()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._line is not None:
            self._line.clear()


def spectrum_rows(heights: npt.NDArray[np.float64]) -> list[str]:
    """Return a bar chart of heights from 0 to 1 as lines of text, the top line first."""
    eighths = np.round(heights * 8 * _ROWS).astype(int)
    rows = [np.clip(eighths - 8 * row, 0, 8) for row in reversed(range(_ROWS))]
    return ["".join(_EIGHTHS[count] for count in row) for row in rows]


def _figures(stats: PlayerStats, latency_ms: float) -> list[str]:
    return [
        f"latency {latency_ms:.0f} ms",
        f"real-time factor {stats.real_time_factor_p50:.3f}",
        f"iterations {stats.n_iter}",
        f"late {stats.n_late}",
        f"underflows {stats.underflows}",
    ]


def _decibels(value: Any) -> Any:
    return 20 * np.log10(np.maximum(value, 1e-10))


def _level(peak: float) -> str:
    return f"{_decibels(peak):3.0f} dB" if peak > 1e-5 else "silent"
