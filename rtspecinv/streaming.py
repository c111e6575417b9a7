"""Streaming inversion: push a magnitude frame, get a hop of samples."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import EllipsisType
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv import defaults, engines, phase, updates
from rtspecinv.bands import Bands, FilterBank
from rtspecinv.checkpoint import Checkpointed, Settings
from rtspecinv.common.checks import LONGEST_SOUND, choice, count, flag, instance, sizes
from rtspecinv.common.threads import one_thread
from rtspecinv.common.warning import warn
from rtspecinv.inputs import (
    Array,
    as_magnitude,
    as_mask,
    as_positions,
    check_range,
    check_values,
    full_scale,
    iterations,
    largest_magnitude,
    some_streams,
    warn_of_power,
)
from rtspecinv.levels import no_samples
from rtspecinv.stft import STFT, check_stft

Streams = Tensor | Array | Sequence[int]  # a bool mask, or positions
_OF_STFT = ("n_fft", "hop_length", "win_length", "center", "normalized")  # attributes a state depends on
CHECKS = ("now", "later")
MOST_VALUES = 2**31  # largest number of values in the open frames of all streams; each copy takes 8 GB


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


class _Unseen(NamedTuple):
    """Smallest and largest values of a frame, being copied to the CPU, which have not been checked yet."""

    number: int  # number of the push since the last reset
    extremes: Tensor
    arrival: Any  # CUDA event of the copy, None if there is nothing to wait for

    def has_arrived(self, wait: bool) -> bool:
        """Return whether the copy is complete; if `wait` is true, wait until it is."""
        if self.arrival is not None and wait:
            self.arrival.synchronize()
        return self.arrival is None or bool(self.arrival.query())


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
            "fgla", "dm", "admm", "agla"; default: "raar" with constants that depend on the transform.
        init: method that makes the first phase of the newest frame, a `Start` or its name: "overlap",
            "gradient", "peaks", "zeros"; default: "overlap". With RAAR and little overlap, such as 50 %, the
            default is "gradient", with `delay=1` if `look_ahead` is 2 or more.
        look_ahead: number of frames that arrive after a frame before it is committed; default:
            `stft.look_back`.
        revise: number of committed frames whose samples are still revised until they are returned, 0
            (textbook) to `stft.look_back`; default: half of `stft.look_back`, at least 1 if frames overlap, 0
            for textbook rules. Revision takes time but adds no latency.
        n_iter: number of iterations per push over all frames that may change, 0 (the first phase is kept) to
            a million; default: 8, and up to 16 where a hop is longer than a quarter of the window. The
            attribute may be set at any time and applies from the next push on.
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
        self._is_late = choice(CHECKS, check=check) == "later"
        self.stft = copy.deepcopy(check_stft(stft))
        self.update = defaults.rule(self.stft) if update is None else updates.find(update)
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
            raise ValueError(
                f"Parameter {revise=} is larger than {look_back=}: older frames have been heard in full"
            )
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
        self.joint = flag(joint=joint) and bank is not None
        measurement = None if bank is None else self._measured(bank)
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
        self._full_scale = full_scale(self.stft)
        self._limit = largest_magnitude(self.stft.dtype, stft.n_fft)
        self._warned = False
        self._unseen: deque[_Unseen] = deque()
        self._n_pushed = 0
        self.bank = bank
        self._framer: tuple[Tensor, Callable[[Tensor], Tensor]] | None = None
        if bank is not None:
            silence = self.stft.window.new_zeros(*self.batch_shape, bank.n_bands)
            self._framed(bank, silence)  # compiles now, not in the first push

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
        self._look_back(wait=False)
        if streams is None:
            return self._take_in(magnitude)[0]
        chosen, batch_shape = self._chosen(streams)
        hops = self._advance(*self._check(magnitude, 1, batch_shape), chosen)
        self._n_pushed += 1
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
            return self._look_back(wait=True)
        self._look_at(magnitude, 1, self._chosen(streams)[1])

    def is_silence(self, magnitude: Tensor | Array) -> bool:
        """Return whether all magnitudes of a frame are 0."""
        return not bool((magnitude != 0).any())

    def push_many(self, magnitude: Tensor | Array) -> Tensor:
        """Push any number of frames and return one hop of samples for each, bit-identical to single pushes.

        Args:
            magnitude: magnitude frames `(*batch_shape, n_freq, n_frames)`, otherwise as in `push`.

        Returns:
            Samples `(*batch_shape, n_frames * hop_length)`.

        Raises:
            ValueError, TypeError: as in `push`, before any frame is pushed.
        """
        self._look_back(wait=False)
        magnitudes, spectra = self._check(magnitude, 2, self.batch_shape)
        frames = magnitudes.unbind(-1)
        starts = (None,) * len(frames) if spectra is None else spectra.unbind(-1)
        hops = [self.stft.window.new_zeros(*self.batch_shape, 0)]
        with self._engine.preserved(len(frames)):
            hops += [self._engine.push(*pair) for pair in zip(frames, starts, strict=True)]
        self._n_pushed += len(frames)
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
        self._look_back(wait=True)
        stft = self.stft
        covered = max(0, self.latency + self.length(0))  # every push has returned its hop
        owed = covered if n_samples is None else count(0, LONGEST_SOUND, n_samples=n_samples)
        n_heard = min(owed, covered + stft.padding)
        n_hops = -(-n_heard // stft.hop_length)
        chosen, batch_shape = self._chosen(streams)
        with self._engine.preserved(n_hops):
            hops = [self._advance(None, None, chosen) for _ in range(n_hops)]
            self.reset(chosen)
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
        self._check_many(magnitude)
        self.reset()
        hops = self.push_many(magnitude)
        owed = None if wanted is None else max(0, self.latency + wanted - hops.shape[-1])
        samples = torch.cat([hops, self.flush(owed)], -1)[..., self.latency :][..., :wanted]
        if wanted is None and not samples.shape[-1]:
            warn(no_samples(hops.shape[-1] // self.stft.hop_length))
        return samples

    def _check_many(self, magnitude: Tensor | Array) -> None:
        self._look_at(magnitude, 2, self.batch_shape)

    def reset(self, streams: Streams | None = None) -> None:
        """Reset streams to their state before the first push.

        Args:
            streams: selection of streams to reset, as in `push`; default: all.

        Raises:
            ValueError: a mask has another shape, or a position does not exist.
            TypeError: `streams` is neither a bool mask nor positions.
        """
        self._look_back(wait=True)
        if streams is None:
            self._n_pushed = 0
            return self._engine.reset()
        mask = as_mask(some_streams(streams, self.batch_shape), self.batch_shape)
        self._engine.reset(mask.to(self.stft.device))

    @staticmethod
    def one_thread() -> AbstractContextManager[None]:
        """Return a context in which torch uses one thread, which is fastest for single streams."""
        return one_thread()

    def detach(self) -> None:
        """Detach the state from the gradients of earlier frames; the samples do not change."""
        self._engine.detach()

    def _measured(self, bank: FilterBank) -> Bands:
        """Return the filters of a checked bank in the form that the engine uses."""
        instance(FilterBank, "pass rtspecinv.FilterBank(filters)", bank=bank)
        return bank.measured(self.stft)

    def _framed(self, bank: FilterBank, values: Tensor) -> Tensor:
        """Return the engine's input for values `(*batch, n_bands)`: magnitudes, and values if joint."""
        if self._framer is None or self._framer[0] is not bank.filters:  # the filters were moved
            unmix, joint = engines.unmixer(self._engine, bank), self.joint
            step = (bank.filters.shape[1] - 1) // max(1, self.stft.n_fft // 2)

            def frame_of(values: Tensor) -> Tensor:
                magnitude = unmix(values)[..., ::step]
                return torch.cat([magnitude, bank.heard(values)], -1) if joint else magnitude

            self._framer = bank.filters, engines.replayed(self._engine, frame_of, bank.filters.device)
        return self._framer[1](values)

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

    def _check(
        self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the engine's input of frames whose values are checked: half spectra.

        The first is the magnitude, with band values if joint; the second the spectrum, None of real frames.
        """
        if self.bank is not None:
            frames = self._checked_bands(value, n_axes, batch_shape)
            if not len(frames):
                return self.stft.window.new_zeros(*batch_shape, 0, 0), None
            many = frames.unbind(0) if n_axes == 2 else (frames,)
            framed = [self._framed(self.bank, self._of_bands(frame)) for frame in many]
            magnitude = torch.stack(framed, -1) if n_axes == 2 else framed[0]
            self._look(magnitude, n_axes)
            return magnitude, None
        magnitude, spectrum = self._shaped(value, n_axes, batch_shape)
        self._look(magnitude)
        return self._half(magnitude, n_axes), None if spectrum is None else self._half(spectrum, n_axes)

    def _shaped(
        self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """Return magnitude and spectrum, None of real frames; shape and type are checked, values are not."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise RuntimeError(
                "A push changes the state of the inverter, which torch.jit.trace does not record: trace the "
                "model that makes the magnitudes, and push what it gives"
            )
        value = as_magnitude(value, self.stft.window)
        n_fft, n_freq = self.stft.n_fft, self.stft.n_freq
        _check_shape(value.shape, batch_shape, n_freq, n_axes, f"n_fft ({n_fft} gives {n_freq})")
        if not value.is_complex():
            return value, None
        if self.init.n_waiting:
            raise ValueError(
                f"Parameter magnitude is complex, but {self.init} makes the phase: pass init='overlap'"
            )
        return _modulus(value, n_axes), value

    def _half(self, value: Tensor, n_axes: int) -> Tensor:
        n_half = self.stft.n_fft // 2 + 1
        is_half = self.bank is not None or n_half == self.stft.n_freq
        return value if is_half else value.narrow(-n_axes, 0, n_half)

    def _take_in(self, value: Tensor | Array) -> tuple[Tensor, Tensor | None]:
        """Push a frame to all streams and return what `_push` returns."""
        if self.bank is None:
            return self._push(*self._shaped(value, 1, self.batch_shape))
        if not self._engine.judges:
            hop = self._engine.push(self._check(value, 1, self.batch_shape)[0])
            self._n_pushed += 1
            return hop, None
        values = self._shaped_bands(value, 1, self.batch_shape)
        seen = torch.stack(torch.aminmax(values.detach(), dim=-1))
        # The engine rejects NaN, so a bad frame is replaced by NaN, whatever magnitudes the bank makes of it.
        frame = self._framed(self.bank, self._of_bands(values))
        return self._push(frame.where(self._fits(*seen).unsqueeze(-1), torch.nan), None, seen)

    def _push(
        self, magnitude: Tensor, spectrum: Tensor | None, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Push a frame of the right shape; the engine checks its values if it can.

        magnitude: magnitudes `(*batch, n_freq)`, unchecked.
        spectrum: spectrum of a complex frame, otherwise None.
        seen: smallest and largest band values `(2, *batch)`, default: none, magnitudes were pushed.

        Returns:
            The hop and, if the engine checks values and `check="later"`, the smallest and largest magnitude
            of each stream, which show the streams that were not advanced for a bad frame; otherwise None.
        """
        offered = None
        if self.stft.onesided:
            offered = self._engine.offer(magnitude, spectrum, each=self._is_late)
        if offered is None:
            if seen is not None:
                self._look_at_seen(*_span(seen.cpu()))
            self._look(magnitude)
            halves = (None if value is None else self._half(value, 1) for value in (magnitude, spectrum))
            hop, late = self._engine.push(*halves), None
        else:
            hop, extremes = offered
            both = extremes if seen is None else torch.cat([extremes, seen])
            if self._is_late:
                late = extremes
                self._engine.accept()
                self._unseen.append(self._sent(both))
            else:
                self._judge(both.cpu())
                self._engine.accept()
                late = None
        self._n_pushed += 1
        return hop, late

    def _sent(self, extremes: Tensor) -> _Unseen:
        here = extremes.to("cpu", non_blocking=True, copy=True)
        event: Any = None
        if extremes.is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(extremes.device))
        return _Unseen(self._n_pushed, here, event)

    def _look_back(self, *, wait: bool) -> None:
        """Raise the error of the first bad unchecked frame.

        wait: whether to wait for all pushed frames; otherwise only those that are complete are checked.
        """
        while self._unseen and self._unseen[0].has_arrived(wait):
            late = self._unseen.popleft()
            try:
                self._judge(late.extremes)
            except ValueError as error:
                raise ValueError(
                    f"{error}. This was frame {late.number} since the last reset, 0 being the first: its "
                    "hop was silence, and its stream is as it was before"
                ) from None

    def _look(self, magnitude: Tensor, n_axes: int = 1) -> None:
        if self.bank is not None:  # the band values that follow are no magnitudes
            magnitude = magnitude.narrow(-n_axes, 0, self.stft.n_fft // 2 + 1)
        self._warn_of_power(check_values(magnitude, self.stft.n_fft))

    def _judge(self, extremes: Tensor) -> None:
        """Raise an error or issue a warning if values are out of range.

        extremes: smallest and largest magnitudes, then those of band values if any, `(2 or 4, *batch)`.
        """
        if len(extremes) > 2:
            self._look_at_seen(*_span(extremes[2:]))
        low, high = _span(extremes[:2])
        check_range(low, high, self._limit)
        self._warn_of_power(high)

    def _look_at_seen(self, low: float, high: float) -> None:
        """Raise `ValueError` if band values from `low` to `high` cannot be inverted."""
        check_range(low, high, self._limit)

    def _fits(self, low: Tensor, high: Tensor) -> Tensor:
        """Return a bool tensor: whether `_look_at_seen` accepts each stream; does not wait for the GPU."""
        return (low >= 0) & (high <= self._limit)

    def _warn_of_power(self, largest: float) -> None:
        if largest > 2 * self._full_scale and not self._warned:
            self._warned = True
            warn_of_power(largest, self._full_scale)

    def _look_at(self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]) -> None:
        """Raise the errors of `_check` without making the input of the engine."""
        if self.bank is None:
            self._check(value, n_axes, batch_shape)
        else:
            self._checked_bands(value, n_axes, batch_shape)

    def _checked_bands(self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]) -> Tensor:
        """Return band values of checked shape and range, as in `_shaped_bands`."""
        values = self._shaped_bands(value, n_axes, batch_shape)
        if values.numel():
            self._look_at_seen(*map(float, torch.aminmax(values.detach())))
        return values

    def _shaped_bands(self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]) -> Tensor:
        """Return contiguous band values of checked shape, `(*batch_shape, n_bands)` or `(n_frames, ...)`."""
        assert self.bank is not None
        values = as_magnitude(value, self.stft.window)
        n_bands = self.bank.n_bands
        _check_shape(values.shape, batch_shape, n_bands, n_axes, f"bank (this one has {n_bands} bands)")
        if values.is_complex():
            raise ValueError("Parameter magnitude is complex: values of bands have no phase, pass its .abs()")
        return (values.movedim(-1, 0) if n_axes == 2 else values).contiguous()

    def _of_bands(self, frame: Tensor) -> Tensor:
        """Return the band values of a pushed frame; subclasses undo compression here."""
        return frame

    def __getstate__(self) -> dict[str, Any]:
        # A copy has no pending errors, and makes a new function for its own bank.
        return {**self.__dict__, "_unseen": deque(), "_framer": None}

    def _apply(self, fn: Any, recurse: bool = True) -> StreamingInverter:
        super()._apply(fn, recurse)
        self._limit = largest_magnitude(self.stft.dtype, self.stft.n_fft)
        return self


def _span(extremes: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest value of extremes `(2, *batch)` on the CPU."""
    return float(extremes[0].amin()), float(extremes[1].amax())


def _modulus(spectrum: Tensor, n_axes: int) -> Tensor:
    """Return the modulus of one frame or of several, computed frame by frame.

    Torch rounds values at the end of an array, which do not fill a SIMD vector, differently from the others.
    Which values these are must not depend on the number of frames in a call.
    """
    if n_axes == 1 or not spectrum.shape[-1]:
        return spectrum.contiguous().abs()
    return torch.stack([frame.contiguous().abs() for frame in spectrum.unbind(-1)], -1)


def _check_shape(
    shape: torch.Size, batch_shape: tuple[int, ...], n_freq: int, n_axes: int, source: str
) -> None:
    """Raise unless the shape is batch_shape + (n_freq,), followed by n_frames if `n_axes` is 2.

    source: parameter that determines n_freq, for the error message.
    """
    one = (*batch_shape, n_freq)
    many = len(shape) == len(one) + 1 and shape[: len(batch_shape)] == batch_shape
    if (n_axes == 1 and shape == one) or (n_axes == 2 and many and shape[-2] == n_freq):
        return
    layout = (
        f"batch_shape + (n_freq,) = {one}"
        if n_axes == 1
        else f"batch_shape + (n_freq, n_frames) = {one} + ..."
    )
    if many and shape[-2] == n_freq:
        way_out = "there are several frames, use push_many"
    elif many and shape[-1] == n_freq:
        way_out = "it looks like (frames, freq), use push_many(magnitude.mT)"
    elif n_axes == 2 and shape == one:
        way_out = "it is one frame, use push"
    elif len(shape) == len(one) + n_axes - 1:
        way_out = f"make the inverter for its batch_shape and {source}"
    else:
        way_out = f"batch_shape={batch_shape} wants {len(one) + n_axes - 1} axes"
    raise ValueError(f"Parameter magnitude has shape {tuple(shape)}, not {layout}: {way_out}")
