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
_OF_STFT = ("n_fft", "hop_length", "win_length", "center", "normalized")  # what a state depends on
CHECKS = ("now", "later")
MOST_VALUES = 2**31  # of the open frames of all streams: 8 GB, several times over


class StreamOptions(TypedDict, total=False):
    """Keywords of a `StreamingInverter` that others hand on to it, for type checkers."""

    init: str | phase.Start | None
    look_ahead: int | None
    revise: int | None
    n_iter: int | None
    batch_shape: tuple[int, ...]
    joint: bool
    engine: str
    check: str


class _Unseen(NamedTuple):
    """Extremes of a frame that nobody has looked at, on their way to the CPU."""

    number: int  # of the push since the last reset
    extremes: Tensor
    arrival: Any  # event, None where they are there already

    def has_arrived(self, wait: bool) -> bool:
        """Return whether they are there; or wait until they are."""
        if self.arrival is not None and wait:
            self.arrival.synchronize()
        return self.arrival is None or bool(self.arrival.query())


class StreamingInverter(Checkpointed):
    """Turns magnitude frames into samples while they arrive, for any number of streams at once.

    One frame in, `hop_length` samples out, always. Frame t is committed when frame `t + look_ahead` has come
    in: its first hop of samples is final then, the rest of it may still be revised until it is heard.
    `cat([push(f) for f in frames] + [flush()], -1)[..., latency:]` is as long as the inverse STFT (longer
    only if frames hardly overlap) and does not depend, to the bit, on how the frames are cut into pushes.

    Args:
        stft: the transform that the magnitudes come from; it is copied.
        update: rule of one iteration, an `Update` or its name: "raar", "rtisi" (textbook RTISI-LA), "gla",
            "fgla", "dm", "admm", "agla"; default: "raar" with constants that follow the transform.
        init: start of the newest frame, a `Start` or its name: "overlap", "gradient", "peaks", "zeros";
            default: "overlap"; for RAAR the phase gradient where so few samples overlap that they say little,
            such as at 50 %, with `delay=1` if `look_ahead` is 2 or more.
        look_ahead: number of frames that arrive after a frame before it is committed; default:
            `stft.look_back`.
        revise: number of committed frames that are still revised where they have not been heard, 0 (textbook)
            to `stft.look_back`; default: half of `stft.look_back`, at least 1 if frames overlap, 0 for
            textbook rules. It costs time but adds no latency.
        n_iter: iterations per push over all frames that may change, 0 (the start alone) to a million;
            default: 8, and up to 16 where a hop is longer than a quarter of the window. It may be set at any
            time and applies from the next push on.
        batch_shape: shape of the streams, `()` for one.
        bank: filters whose values are pushed in place of magnitudes, `(*batch_shape, n_bands)`. A stream then
            finds the magnitudes together with the phase: in every iteration a frame keeps those of the
            consistent spectrum, corrected so that its values are right. Default: magnitudes are pushed.
        joint: with a bank, whether magnitudes are found so; otherwise those of each frame are estimated from
            its values alone and stay as they are. Default: True.
        engine: "eager" (plain torch), "numba" (compiled for the CPU, needs the extra `fast`) or "auto": numba
            if it is installed and has the rule and the start, on a CPU; eager otherwise. The first inverter
            of a precision takes some 20 s to compile, once for all processes. On a GPU, "auto" takes the
            first that has the rule, the start and the precision: "cuda" (a kernel), "cuda_graph" (a recorded
            push), eager. "cuda" needs the extra `gpu`.
        check: "now" raises the error of a bad frame in its own push, for which the push waits until the GPU
            is done. "later" is for callers who do not wait: on the engines "cuda" and "cuda_graph", a stream
            whose frame is bad stays as it was and returns a hop of silence, the other streams go on, and a
            later `push`, `flush`, `reset` or `check()` raises the error, which says which frame it was. Other
            engines raise it at once either way, and so does `push_many`.

    Attributes:
        latency: samples to drop from the beginning, `look_ahead * hop_length + stft.padding`.

    Raises:
        ValueError: a parameter is out of range, a name unknown, or an engine unfit.
        ImportError: the engine is not installed.

    `print(inverter)` shows the defaults that were chosen; `rtspecinv/defaults.py` says by which rules.

    `state_dict()` returns the state, for any engine. An inverter with the same parameters that loads it
    continues where this one was; `n_iter` may differ. `load_state_dict` raises RuntimeError for any other.

    The state moves with `.to(device)` and `.to(dtype)`, in mid-stream too. Pushing does not record gradients
    unless a magnitude requires one; they then reach back to the last `reset`, `detach` or push without grad.

    With `center=False` the first and the last samples are under the tail of one window alone. Where the sum
    of squared windows is a share c of the complete sum, less than `frames.MIN_COVERAGE` of 0.04, they are
    `c / 0.04` times what they were, even if the phase is known: for a Hann window the first and the last
    sixth of a frame, within a hop of `n_fft // 4`. Elsewhere known phase gives the inverse STFT.

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
            self._framed(bank, silence)  # compiles, if need be

    @property
    def engine(self) -> str:
        """Name of the engine in use."""
        return self._engine.name

    @property
    def n_iter(self) -> int:
        """Iterations per push, from the next one on."""
        return self._engine.n_iter

    @n_iter.setter
    def n_iter(self, n_iter: int) -> None:
        self._engine.n_iter = iterations(n_iter=n_iter)

    @property
    def latency(self) -> int:
        """Samples to drop from the beginning, so that stream and batch line up."""
        return self.look_ahead * self.stft.hop_length + self.stft.padding

    def length(self, n_frames: int) -> int:
        """Samples that frames stand for: those of all pushes and the flush, without the latency."""
        return self.stft.length(n_frames)

    def push(self, magnitude: Tensor | Array, *, streams: Streams | None = None) -> Tensor:
        """Take in one frame and return the next hop of samples.

        Args:
            magnitude: real and non-negative, `(*batch_shape, n_freq)`, on the device and in the dtype of the
                inverter; arrays are moved there. Of a complex frame, the phase is the start of this frame.
            streams: streams that have a frame, default: all. A bool mask of shape `batch_shape`, or a list of
                positions where `batch_shape` has one axis. The first axis of magnitude and samples is then
                that of these streams, in their order, in place of `batch_shape`; the others stay as they are.

        Returns:
            Samples `(*batch_shape, hop_length)`.

        Raises:
            ValueError: wrong shape or device, negative, NaN, infinite or too large to add up.
            TypeError: not a tensor or array, or not of the dtype of the inverter.

        A rejected frame leaves the stream unchanged. With `check="later"` the error may be that of an earlier
        frame; this one is not taken in then.
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
        """Raise what `push` would raise for this frame, and change nothing.

        Without a frame, it waits for what was pushed with `check="later"`, and raises the error of the first
        bad frame.
        """
        if isinstance(magnitude, EllipsisType):
            return self._look_back(wait=True)
        self._look_at(magnitude, 1, self._chosen(streams)[1])

    def is_silence(self, magnitude: Tensor | Array) -> bool:
        """Return whether a frame is silence: all of its magnitudes are 0."""
        return not bool((magnitude != 0).any())

    def push_many(self, magnitude: Tensor | Array) -> Tensor:
        """Take in several frames, or none, and return as many hops; the same bits as pushing them one by one.

        Args:
            magnitude: `(*batch_shape, n_freq, n_frames)`, otherwise as in `push`.

        Returns:
            Samples `(*batch_shape, n_frames * hop_length)`.

        Raises:
            ValueError, TypeError: as in `push`, before any frame is taken in.
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
        """Return the samples that are still owed, then reset.

        Args:
            n_samples: number of samples to return; default: all that the frames cover, in whole hops. Up to
                `stft.padding` more samples hold sound, as in `stft.synthesize(length=)`; the rest is silence.
            streams: streams to flush, as in `push`; default: all.

        Returns:
            Samples `(*batch_shape, n_samples)`, by default
            `(*batch_shape, max(0, latency + length(0)))`; silence if no frame came in since the last reset.
        """
        self._look_back(wait=True)
        stft = self.stft
        covered = max(0, self.latency + self.length(0))  # each frame that came in has given its hop
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
            magnitude: `(*batch_shape, n_freq, n_frames)`, otherwise as in `push`.
            length: samples to return, such as those of the recording; default: what the frames cover.

        Returns:
            Samples `(*batch_shape, length)`, by default `(*batch_shape, self.length(n_frames))`.

        The stream is reset afterwards. A warning is issued for frames that stand for no samples.

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
            streams: streams to reset, as in `push`; default: all.

        Raises:
            ValueError: a mask of another shape, or a position that does not exist.
            TypeError: neither a bool mask nor positions.
        """
        self._look_back(wait=True)
        if streams is None:
            self._n_pushed = 0
            return self._engine.reset()
        mask = as_mask(some_streams(streams, self.batch_shape), self.batch_shape)
        self._engine.reset(mask.to(self.stft.device))

    @staticmethod
    def one_thread() -> AbstractContextManager[None]:
        """Context in which torch works on one thread, which is best for single streams."""
        return one_thread()

    def detach(self) -> None:
        """Cut the state off from the gradients of the frames so far; the stream goes on unchanged."""
        self._engine.detach()

    def _measured(self, bank: FilterBank) -> Bands:
        """What the engine needs of a bank."""
        instance(FilterBank, "pass rtspecinv.FilterBank(filters)", bank=bank)
        n_freq, n_half = bank.filters.shape[1], self.stft.n_fft // 2 + 1
        step = (n_freq - 1) // (n_half - 1) if n_half > 1 else 1
        if n_freq != step * (n_half - 1) + 1 or not step:
            raise ValueError(
                f"Parameter bank has {n_freq} frequencies, and the transform n_fft // 2 + 1 = {n_half}: make "
                "filters for this n_fft"
            )
        if bank.filters.dtype != self.stft.dtype or bank.filters.device != self.stft.device:
            raise ValueError(
                f"Parameter bank is {bank.filters.dtype} on {str(bank.filters.device)!r}, and the transform "
                f"{self.stft.dtype} on {str(self.stft.device)!r}: use bank.to(...)"
            )
        return bank.measured(step)

    def _framed(self, bank: FilterBank, values: Tensor) -> Tensor:
        """What the engine takes in for values `(*batch, n_bands)`: magnitudes, and what is measured."""
        if self._framer is None or self._framer[0] is not bank.filters:  # they were moved
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
        """Parameters, as they were resolved."""
        names = "look_ahead revise n_iter batch_shape engine latency update init"
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names.split())

    def _advance(self, magnitude: Tensor | None, spectrum: Tensor | None, chosen: Tensor | None) -> Tensor:
        if chosen is not None and not len(chosen):
            return self.stft.window.new_zeros(0, self.stft.hop_length)
        return self._engine.push(magnitude, spectrum, chosen)

    def _chosen(self, streams: Streams | None) -> tuple[Tensor | None, tuple[int, ...]]:
        """Positions of the streams that are named, if they are, and the batch shape of their frames."""
        if streams is None:
            return None, self.batch_shape
        positions = as_positions(some_streams(streams, self.batch_shape)).to(self.stft.device)
        return positions, tuple(positions.shape)

    def _check(
        self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """What the engine takes in and, of complex frames, spectrum: checked half spectra."""
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
        """Magnitude and, of complex frames, spectrum, with the axes of `value`; of any values."""
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
        """Push a frame to all streams; see `_push`."""
        if self.bank is None:
            return self._push(*self._shaped(value, 1, self.batch_shape))
        if not self._engine.judges:
            hop = self._engine.push(self._check(value, 1, self.batch_shape)[0])
            self._n_pushed += 1
            return hop, None
        values = self._shaped_bands(value, 1, self.batch_shape)
        seen = torch.stack(torch.aminmax(values.detach(), dim=-1))
        # What the engine sees of a bad frame is NaN, whatever the bank makes of it.
        frame = self._framed(self.bank, self._of_bands(values))
        return self._push(frame.where(self._fits(*seen).unsqueeze(-1), torch.nan), None, seen)

    def _push(
        self, magnitude: Tensor, spectrum: Tensor | None, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Take in a frame of the right shape and of any values; where the engine can tell, it does.

        seen: extremes `(2, *batch)` of what the magnitudes were made of.

        Returns:
            The hop and, where streams with a bad frame stay behind, the extremes of magnitudes, which say so.
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
        """Raise the error of the first bad frame that nobody has looked at, of those that are done or all."""
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
        if self.bank is not None:  # values of bands follow, which are magnitudes of nothing
            magnitude = magnitude.narrow(-n_axes, 0, self.stft.n_fft // 2 + 1)
        self._warn_of_power(check_values(magnitude, self.stft.n_fft))

    def _judge(self, extremes: Tensor) -> None:
        """Raise what extremes of magnitudes, and of what they were made of, call for, `(2 or 4, *batch)`."""
        if len(extremes) > 2:
            self._look_at_seen(*_span(extremes[2:]))
        low, high = _span(extremes[:2])
        check_range(low, high, self._limit)
        self._warn_of_power(high)

    def _look_at_seen(self, low: float, high: float) -> None:
        """Raise if values of bands from `low` to `high` cannot be inverted."""
        check_range(low, high, self._limit)

    def _fits(self, low: Tensor, high: Tensor) -> Tensor:
        """Return whether `_look_at_seen` would raise nothing, of each stream; waits for nobody."""
        return (low >= 0) & (high <= self._limit)

    def _warn_of_power(self, largest: float) -> None:
        if largest > 2 * self._full_scale and not self._warned:
            self._warned = True
            warn_of_power(largest, self._full_scale)

    def _look_at(self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]) -> None:
        """Raise what `_check` would, without making frames for the engine."""
        if self.bank is None:
            self._check(value, n_axes, batch_shape)
        else:
            self._checked_bands(value, n_axes, batch_shape)

    def _checked_bands(self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]) -> Tensor:
        """Frames of checked shape and values; see `_shaped_bands`."""
        values = self._shaped_bands(value, n_axes, batch_shape)
        if values.numel():
            self._look_at_seen(*map(float, torch.aminmax(values.detach())))
        return values

    def _shaped_bands(self, value: Tensor | Array, n_axes: int, batch_shape: tuple[int, ...]) -> Tensor:
        """Frames of checked shape, contiguous: `(*batch_shape, n_bands)`, or many, `(n_frames, ...)`."""
        assert self.bank is not None
        values = as_magnitude(value, self.stft.window)
        n_bands = self.bank.n_bands
        _check_shape(values.shape, batch_shape, n_bands, n_axes, f"bank (this one has {n_bands} bands)")
        if values.is_complex():
            raise ValueError("Parameter magnitude is complex: values of bands have no phase, pass its .abs()")
        return (values.movedim(-1, 0) if n_axes == 2 else values).contiguous()

    def _of_bands(self, frame: Tensor) -> Tensor:
        """Values of the bank that a frame stands for."""
        return frame

    def __getstate__(self) -> dict[str, Any]:
        # A copy does not repeat the errors of this one, and has a bank of its own.
        return {**self.__dict__, "_unseen": deque(), "_framer": None}

    def _apply(self, fn: Any, recurse: bool = True) -> StreamingInverter:
        super()._apply(fn, recurse)
        self._limit = largest_magnitude(self.stft.dtype, self.stft.n_fft)
        return self


def _span(extremes: Tensor) -> tuple[float, float]:
    """Smallest and largest of extremes `(2, *batch)` on the CPU."""
    return float(extremes[0].amin()), float(extremes[1].amax())


def _modulus(spectrum: Tensor, n_axes: int) -> Tensor:
    """Modulus of one frame or of several, each by itself.

    Torch rounds what is left over at the end of its vectors otherwise than the rest, and how much that is
    must not depend on how many frames come at once.
    """
    if n_axes == 1 or not spectrum.shape[-1]:
        return spectrum.contiguous().abs()
    return torch.stack([frame.contiguous().abs() for frame in spectrum.unbind(-1)], -1)


def _check_shape(
    shape: torch.Size, batch_shape: tuple[int, ...], n_freq: int, n_axes: int, source: str
) -> None:
    """Raise unless the shape is batch_shape + (n_freq,), followed by n_frames if `n_axes` is 2.

    source: what n_freq follows from.
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
