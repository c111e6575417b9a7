"""Streaming inversion: push a magnitude frame, get a hop of samples.

Half of the module is the documentation of the public methods.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import EllipsisType
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv import defaults, engines, phase, updates
from rtspecinv.bands import FilterBank, bands_of
from rtspecinv.checkpoint import Checkpointed, Settings
from rtspecinv.common.checks import LONGEST_SOUND, choice, count, flag, sizes
from rtspecinv.common.threads import one_thread
from rtspecinv.common.warning import warn
from rtspecinv.inputs import Array, as_positions, iterations, some_streams
from rtspecinv.intake import BandIntake, Intake
from rtspecinv.levels import no_samples
from rtspecinv.stft import STFT, check_stft

Streams = Tensor | Array | Sequence[int]  # a bool mask, or positions
_OF_STFT = ("n_fft", "hop_length", "win_length", "center", "normalized")  # attributes that a state depends on
CHECKS = ("now", "later")
MOST_VALUES = 2**31  # largest number of values in the open frames of all streams; a copy takes 8 GB


class StreamOptions(TypedDict, total=False):
    """Type of the keywords that other functions pass on to `StreamingInverter`, for type checkers."""

    init: str | phase.Start | None
    look_ahead: int | None
    revise: int | None
    n_iter: int | None
    batch_shape: tuple[int, ...]
    joint: bool
    engine: str
    check: str


class StreamingInverter(Checkpointed):
    """Turns magnitude frames into samples while they arrive, for any number of streams at once.

    Every push takes one frame and returns `hop_length` samples. Frame t is committed when frame
    `t + look_ahead` is pushed: its first hop of samples is final then, and its other samples may still be
    revised until they are returned. `cat([push(f) for f in frames] + [flush()], -1)[..., latency:]` has the
    length of the inverse STFT, or is longer if frames hardly overlap. Its bits do not depend on how many
    frames each call pushes.

    Args:
        stft: transform that the magnitudes come from; it is copied.
        update: rule of one iteration, an `Update` or its name: "raar", "rtisi" (textbook RTISI-LA), "gla",
            "fgla", "dm", "admm", "agla"; default: "raar" with constants that depend on the transform and,
            with a bank, on `joint`.
        init: method that makes the first phase of the newest frame, a `Start` or its name: "overlap",
            "gradient", "peaks", "zeros"; default: "overlap". With RAAR and little overlap, such as 50 %, the
            default is "gradient", with `delay=1` if `look_ahead` is 2 or more.
        look_ahead: number of frames that arrive after a frame before it is committed; default:
            `stft.look_back`.
        revise: number of committed frames whose samples are still revised until they are returned, 0
            (textbook) to `stft.look_back`; default: half of `stft.look_back`, at least 1 if frames overlap, 0
            for textbook rules. Revision takes time but adds no latency.
        n_iter: number of iterations per push over all frames that may change, 0 (the first phase is kept) to
            a million; default: 8, and up to 16 where a hop is longer than a quarter of the window, or a
            quarter of a window that is wider than a Hann window, such as its square root. The attribute may
            be set at any time and applies from the next push on.
        batch_shape: shape of the streams; default: `()`, one stream.
        bank: filter bank whose band values `(*batch_shape, n_bands)` are pushed in place of magnitudes;
            default: none, magnitudes are pushed.
        joint: whether a stream with a bank estimates magnitudes and phase together; default: True. In every
            iteration a frame then takes the magnitudes of the consistent spectrum, corrected to match its
            band values. If False, the magnitudes of each frame are estimated once, from its values alone.
        engine: "eager" (plain torch), "numba" (compiled for the CPU, needs the extra `fast`), "cuda_graph" (a
            recorded push on a GPU), "cuda" (a GPU kernel, needs the extra `gpu`) or "auto"; default: "auto".
            On a CPU, "auto" selects numba if it is installed and supports rule and start, else eager. On a
            GPU, it selects the first of "cuda", "cuda_graph", "eager" that supports rule, start and
            precision. Numba compiles for about 20 s when the first inverter of a precision is made, and
            caches the result for all processes.
        check: "now" or "later"; default: "now". With "now" the push of a bad frame raises the error, and
            every push waits for the GPU. With "later" the engines "cuda" and "cuda_graph" do not wait: a
            stream with a bad frame stays unchanged and returns a hop of silence, the other streams continue,
            and a later `push`, `flush`, `reset` or `check()` raises the error, which names the frame. Other
            engines and `push_many` always raise it at once.

    Attributes:
        latency: number of samples to drop from the beginning, `look_ahead * hop_length + stft.padding`.

    Raises:
        ValueError: a parameter is out of range, a name is unknown, or the engine does not support the others.
        ImportError: the engine is not installed.

    `print(inverter)` shows the selected defaults; `rtspecinv/defaults.py` defines them.

    `state_dict()` returns the state of the streams, independent of the engine. An inverter with the same
    parameters, except `n_iter`, that loads it continues from there; with other parameters `load_state_dict`
    raises RuntimeError.

    `.to(device)` and `.to(dtype)` move the state, also between pushes. A push records gradients only if a
    magnitude requires one; they reach back to the last `reset`, `detach` or push without gradients.

    With `center=False` only the tail of one window covers the first and the last samples. Let c be the sum of
    squared windows at a sample, relative to its value inside the signal. Where c is less than
    `frames.MIN_COVERAGE`, 0.04, the sample is scaled by `c / 0.04`, even if the phase is known. For a Hann
    window and a hop of `n_fft // 4` this affects the first and the last sixth of a frame. All other samples
    equal the inverse STFT if the phase is known.

    Sources: Beauregard, Zhu & Wyse 2005 (RTISI); Zhu, Beauregard & Wyse 2007 (RTISI-LA); Gnann & Spiertz 2010
    (compensated windows); Peer, Welker, Kolhoff & Gerkmann 2024 (any projection algorithm as a stream).

    Examples:
        >>> import torch
        >>> from rtspecinv import STFT, StreamingInverter
        >>> stft = STFT(n_fft=1024, hop_length=256)
        >>> inverter = StreamingInverter(stft, look_ahead=1)
        >>> hops = [inverter.push(frame) for frame in stft.magnitude(torch.randn(25600)).mT]
        >>> torch.cat([*hops, inverter.flush()])[inverter.latency :].shape
        torch.Size([25600])
    """

    bank: FilterBank | None

    def __init__(
        self,
        stft: STFT,
        *,
        update: str | updates.Update | None = None,
        init: str | phase.Start | None = None,
        look_ahead: int | None = None,
        revise: int | None = None,
        n_iter: int | None = None,
        batch_shape: tuple[int, ...] = (),
        bank: FilterBank | None = None,
        joint: bool = True,
        engine: str = "auto",
        check: str = "now",
    ) -> None:
        super().__init__()
        is_late = choice(CHECKS, check=check) == "later"
        self.stft = copy.deepcopy(check_stft(stft))
        self.joint = flag(joint=joint) and bank is not None
        if update is None:
            update = defaults.rule(self.stft, defaults.JOINT if self.joint else updates.RAAR())
        self.update = updates.find(update)
        look_back = stft.look_back
        self.look_ahead = look_back if look_ahead is None else count(look_ahead=look_ahead)
        if init is None:
            self.init = defaults.start(self.stft, self.update, self.look_ahead)
        else:
            self.init = phase.find(init)
        self.revise = defaults.revise(stft, self.update) if revise is None else count(revise=revise)
        n_iter = defaults.n_iter(stft) if n_iter is None else iterations(n_iter=n_iter)
        self.batch_shape = sizes("a tuple of integers >= 1, () for one stream", batch_shape=batch_shape)
        if self.revise > look_back:
            raise ValueError(f"Parameter {revise=} is larger than {look_back=}: older frames are final")
        if self.update.textbook and self.revise:
            raise ValueError(f"Parameter {revise=} must be 0 for {self.update}: use GriffinLim() to revise")
        if self.look_ahead < self.init.n_waiting:
            raise ValueError(
                f"Parameter look_ahead={self.look_ahead} is too small: {self.init} needs at least "
                f"{self.init.n_waiting}"
            )
        n_values = (self.look_ahead + look_back + 1) * stft.n_fft * math.prod(self.batch_shape)
        if n_values > MOST_VALUES:
            raise ValueError(
                f"Parameters look_ahead={self.look_ahead}, batch_shape={self.batch_shape} make a state of "
                f"{n_values} values and more, over {MOST_VALUES}: use several inverters"
            )
        measurement = None if bank is None else bands_of(bank, self.stft)
        n_open = engines.n_open(self.init, self.look_ahead, self.revise)
        make = engines.find(engine, self.stft, self.update, self.init, n_open, self.joint)
        self._engine: engines.Engine = make(
            self.stft,
            self.update,
            self.init,
            look_ahead=self.look_ahead,
            n_revised=self.revise,
            n_iter=n_iter,
            batch_shape=self.batch_shape,
            measurement=measurement if self.joint else None,
        )
        self.bank = bank
        self._intake = self._make_intake(is_late)

    @property
    def engine(self) -> str:
        """Name of the selected engine."""
        return self._engine.name

    @property
    def n_iter(self) -> int:
        """Number of iterations per push; setting it affects the next push."""
        return self._engine.n_iter

    @n_iter.setter
    def n_iter(self, n_iter: int) -> None:
        self._engine.n_iter = iterations(n_iter=n_iter)

    @property
    def latency(self) -> int:
        """Number of samples to drop from the beginning, which aligns the output with the inverse STFT."""
        return self.look_ahead * self.stft.hop_length + self.stft.padding

    def length(self, n_frames: int) -> int:
        """Return the number of samples of `n_frames` frames, pushes and flush together, less the latency."""
        return self.stft.length(n_frames)

    def push(self, magnitude: Tensor | Array, *, streams: Streams | None = None) -> Tensor:
        """Push one frame and return the next hop of samples.

        Args:
            magnitude: magnitude frame `(*batch_shape, n_freq)`, real and non-negative, on the device and in
                the dtype of the inverter; arrays are converted. The phase of a complex frame is its first
                phase, in place of the one that `init` makes.
            streams: selection of streams that receive a frame, a bool mask of shape `batch_shape`, or a list
                of positions if `batch_shape` has one axis; default: all. With a selection, one axis of the
                selected streams, in their order, replaces `batch_shape` in magnitude and samples. The other
                streams stay unchanged.

        Returns:
            Samples `(*batch_shape, hop_length)`.

        Raises:
            ValueError: the frame has a wrong shape or device, or a value is negative, NaN, infinite or so
                large that sums overflow.
            TypeError: the frame is not a tensor or array, or not of the dtype of the inverter.

        A rejected frame leaves the stream unchanged. With `check="later"` the error may be that of an earlier
        frame; the frame of this call is then not pushed.
        """
        self._intake.look_back(wait=False)
        if streams is None:
            return self._intake.push(magnitude)[0]
        chosen, batch_shape = self._chosen(streams)
        hops = self._advance(*self._intake.checked(magnitude, 1, batch_shape), chosen)
        self._intake.n_pushed += 1
        return hops

    def check(
        self, magnitude: Tensor | Array | EllipsisType = ..., *, streams: Streams | None = None
    ) -> None:
        """Raise the error that `push` would raise for a frame, without pushing it.

        Without a frame, wait for all frames that were pushed with `check="later"`, and raise the error of the
        first bad one.

        Args:
            magnitude: magnitude frame, as in `push`; default: none.
            streams: selection of streams, as in `push`; default: all.
        """
        if isinstance(magnitude, EllipsisType):
            return self._intake.look_back(wait=True)
        self._intake.check(magnitude, 1, self._chosen(streams)[1])

    def is_silence(self, magnitude: Tensor | Array) -> bool:
        """Return whether all magnitudes of a frame are 0."""
        return not bool((magnitude != 0).any())

    def push_many(self, magnitude: Tensor | Array, *, streams: Streams | None = None) -> Tensor:
        """Push any number of frames and return one hop of samples for each, bit-identical to single pushes.

        Args:
            magnitude: magnitude frames `(*batch_shape, n_freq, n_frames)`, otherwise as in `push`.
            streams: selection of streams that receive frames, as in `push`; default: all.

        Returns:
            Samples `(*batch_shape, n_frames * hop_length)`.

        Raises:
            ValueError, TypeError: as in `push`, before any frame is pushed.
        """
        self._intake.look_back(wait=False)
        chosen, batch_shape = self._chosen(streams)
        magnitudes, spectra = self._intake.checked(magnitude, 2, batch_shape)
        frames = magnitudes.movedim(-1, 0).contiguous()  # copies of single frames would be slower
        starts = None if spectra is None else spectra.movedim(-1, 0)
        if not math.prod(batch_shape):
            return self.stft.window.new_zeros(*batch_shape, len(frames) * self.stft.hop_length)
        hops = [self.stft.window.new_zeros(*batch_shape, 0)]
        with self._engine.preserved(len(frames)):
            hops += self._engine.push_many(frames, starts, chosen)
        self._intake.n_pushed += len(frames)
        return torch.cat(hops, -1)

    def flush(self, n_samples: int | None = None, *, streams: Streams | None = None) -> Tensor:
        """Return the samples that pushes have not returned yet, then reset.

        Args:
            n_samples: number of samples to return; default: all that the pushed frames cover, in whole hops.
                Up to `stft.padding` more samples contain sound, as in `stft.synthesize(length=)`; further
                samples are silence.
            streams: selection of streams to flush, as in `push`; default: all.

        Returns:
            Samples `(*batch_shape, n_samples)`, by default `(*batch_shape, max(0, latency + length(0)))`;
            they are silence if no frame was pushed since the last reset.
        """
        self._intake.look_back(wait=True)
        stft = self.stft
        covered = max(0, self.latency + self.length(0))  # without the hops that pushes have returned
        owed = covered if n_samples is None else count(0, LONGEST_SOUND, n_samples=n_samples)
        n_heard = min(owed, covered + stft.padding)
        n_hops = -(-n_heard // stft.hop_length)
        chosen, batch_shape = self._chosen(streams)
        with self._engine.preserved(n_hops):
            hops = [self._advance(None, None, chosen) for _ in range(n_hops)]
            self.reset(streams)
        empty = stft.window.new_zeros(*batch_shape, 0)
        samples = torch.cat([empty, *hops], -1)[..., :n_heard]
        return F.pad(samples, (0, owed - n_heard)) if owed > n_heard else samples

    def run(self, magnitude: Tensor | Array, *, length: int | None = None) -> Tensor:
        """Return the samples of a whole spectrogram: reset, push all frames, flush, drop the latency.

        Args:
            magnitude: magnitude frames `(*batch_shape, n_freq, n_frames)`, otherwise as in `push`.
            length: number of samples to return, such as that of the recording; default:
                `self.length(n_frames)`.

        Returns:
            Samples `(*batch_shape, length)`.

        The stream is reset afterwards. A warning is issued if the frames are too few for any sample.

        Raises:
            ValueError, TypeError: as in `push`, before anything changes.
        """
        wanted = None if length is None else count(0, LONGEST_SOUND, length=length)
        self._intake.check(magnitude, 2, self.batch_shape)
        self.reset()
        hops = self.push_many(magnitude)
        owed = None if wanted is None else max(0, self.latency + wanted - hops.shape[-1])
        samples = torch.cat([hops, self.flush(owed)], -1)[..., self.latency :][..., :wanted]
        if wanted is None and not samples.shape[-1]:
            warn(no_samples(hops.shape[-1] // self.stft.hop_length))
        return samples

    def reset(self, streams: Streams | None = None) -> None:
        """Reset streams to their state before the first push.

        Args:
            streams: selection of streams to reset, as in `push`; default: all.

        Raises:
            ValueError: a mask has another shape, or a position does not exist.
            TypeError: `streams` is neither a bool mask nor positions.
        """
        self._intake.look_back(wait=True)
        if streams is None:
            self._intake.n_pushed = 0
            return self._engine.reset()
        self._engine.reset(self._selected(streams))

    @staticmethod
    def one_thread() -> AbstractContextManager[None]:
        """Return a context in which torch uses one thread, which is fastest for single streams."""
        return one_thread()

    def detach(self) -> None:
        """Detach the state from the gradients of earlier frames; the samples do not change."""
        self._engine.detach()

    def _make_intake(self, is_late: bool) -> Intake:
        common = self._engine, self.stft, self.init, self.batch_shape, is_late
        return Intake(*common) if self.bank is None else BandIntake(*common, self.bank, self.joint)

    def _state(self) -> dict[str, Tensor]:
        return self._engine.state()

    def _settings(self) -> Settings:
        stft = self.stft
        return {
            "kind": type(self).__name__,
            **{name: getattr(stft, name) for name in _OF_STFT},
            "window": stft.window_name or stft.window_values,
            "look_ahead": self.look_ahead,
            "revise": self.revise,
            "batch_shape": list(self.batch_shape),
            "update": repr(self.update),
            "init": repr(self.init),
            **({} if self.bank is None else {"bank": self.bank.settings(), "joint": self.joint}),
        }

    def _state_changed(self) -> None:
        self._engine.changed()

    def extra_repr(self) -> str:
        """Return the parameters, with selected defaults, as text for `print`."""
        names = "look_ahead revise n_iter batch_shape engine latency update init"
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names.split())

    def _advance(self, magnitude: Tensor | None, spectrum: Tensor | None, chosen: Tensor | None) -> Tensor:
        if chosen is not None and not len(chosen):
            return self.stft.window.new_zeros(0, self.stft.hop_length)
        return self._engine.push(magnitude, spectrum, chosen)

    def _chosen(self, streams: Streams | None) -> tuple[Tensor | None, tuple[int, ...]]:
        """Return the positions of selected streams, None for all, and the batch shape of their frames."""
        if streams is None:
            return None, self.batch_shape
        positions = as_positions(some_streams(streams, self.batch_shape)).to(self.stft.device)
        return positions, tuple(positions.shape)

    def _selected(self, streams: Streams) -> Tensor:
        """Return positions or a flat mask; unlike the positions of a mask, it does not wait for a GPU."""
        return some_streams(streams, self.batch_shape).flatten().to(self.stft.device)
