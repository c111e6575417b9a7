"""Streaming inversion: push a magnitude frame, get a hop of samples."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv import defaults, engines, phase, updates
from rtspecinv.checkpoint import Checkpointed, Settings
from rtspecinv.common.checks import LONGEST_SOUND, count, sizes
from rtspecinv.common.threads import one_thread
from rtspecinv.common.warning import warn
from rtspecinv.inputs import (
    Array,
    as_magnitude,
    as_mask,
    as_positions,
    check_values,
    full_scale,
    iterations,
    some_streams,
    warn_of_power,
)
from rtspecinv.levels import no_samples
from rtspecinv.stft import STFT, check_stft

Streams = Tensor | Array | Sequence[int]  # a bool mask, or positions
_OF_STFT = ("n_fft", "hop_length", "win_length", "center", "normalized")  # what a state depends on
MOST_VALUES = 2**31  # of the open frames of all streams: 8 GB, several times over


class StreamOptions(TypedDict, total=False):
    """Keywords of a `StreamingInverter` that others hand on to it, for type checkers."""

    init: str | phase.Start | None
    look_ahead: int | None
    revise: int | None
    n_iter: int | None
    batch_shape: tuple[int, ...]
    engine: str


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
            default: "overlap", but the phase gradient where so few samples overlap that they say little, such
            as at 50 %, with `delay=1` if `look_ahead` is 2 or more.
        look_ahead: number of frames that arrive after a frame before it is committed; default:
            `stft.look_back`.
        revise: number of committed frames that are still revised where they have not been heard, 0 (textbook)
            to `stft.look_back`; default: half of `stft.look_back`, at least 1 if frames overlap, 0 for
            textbook rules. It costs time but adds no latency.
        n_iter: iterations per push over all frames that may change, 0 (the start alone) to a million;
            default: 8, and up to 16 where a hop is longer than a quarter of the window. It may be set at any
            time and applies from the next push on.
        batch_shape: shape of the streams, `()` for one.
        engine: "eager" (plain torch), "numba" (compiled for the CPU, needs the extra `fast`) or "auto": numba
            if it is installed and has the rule and the start, on a CPU; eager otherwise. The first inverter
            of a precision takes some 20 s to compile, once for all processes. For a GPU, "cuda_graph"
            replays what eager does, and "triton" (extra `gpu`, float32) is a kernel for many streams, or
            "cuda_graph" where it has none.

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
        engine: str = "auto",
    ) -> None:
        super().__init__()
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
        n_open = engines.n_open(self.init, self.look_ahead, self.revise)
        make = engines.find(engine, self.stft, self.update, self.init, n_open)
        self._engine: engines.Engine = make(
            self.stft,
            self.update,
            self.init,
            look_ahead=self.look_ahead,
            n_revised=self.revise,
            n_iter=n_iter,
            batch_shape=self.batch_shape,
        )
        self._full_scale = full_scale(self.stft)
        self._warned = False

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

        A rejected frame leaves the stream unchanged.
        """
        if streams is None:
            return self._engine.push(*self._check(magnitude, 1, self.batch_shape))
        chosen, batch_shape = self._chosen(streams)
        return self._advance(*self._check(magnitude, 1, batch_shape), chosen)

    def check(self, magnitude: Tensor | Array, *, streams: Streams | None = None) -> None:
        """Raise what `push` would raise for this frame, and change nothing."""
        self._check(magnitude, 1, self._chosen(streams)[1])

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
        magnitudes, spectra = self._check(magnitude, 2, self.batch_shape)
        frames = magnitudes.unbind(-1)
        starts = (None,) * len(frames) if spectra is None else spectra.unbind(-1)
        hops = [self.stft.window.new_zeros(*self.batch_shape, 0)]
        with self._engine.preserved(len(frames)):
            hops += [self._engine.push(*pair) for pair in zip(frames, starts, strict=True)]
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
        self._check(magnitude, 2, self.batch_shape)

    def reset(self, streams: Streams | None = None) -> None:
        """Reset streams to their state before the first push.

        Args:
            streams: streams to reset, as in `push`; default: all.

        Raises:
            ValueError: a mask of another shape, or a position that does not exist.
            TypeError: neither a bool mask nor positions.
        """
        if streams is None:
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
        """Magnitude and, of complex frames, spectrum; half spectra with the axes of `value`."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise RuntimeError(
                "A push changes the state of the inverter, which torch.jit.trace does not record: trace the "
                "model that makes the magnitudes, and push what it gives"
            )
        stft = self.stft
        value = as_magnitude(value, stft.window)
        _check_shape(value.shape, batch_shape, stft, n_axes)
        is_complex, n_half = value.is_complex(), stft.n_fft // 2 + 1
        if is_complex and self.init.n_waiting:
            raise ValueError(
                f"Parameter magnitude is complex, but {self.init} makes the phase: pass init='overlap'"
            )
        magnitude = _modulus(value, n_axes) if is_complex else value
        largest = check_values(magnitude, stft.n_fft)
        if largest > 2 * self._full_scale and not self._warned:
            self._warned = True
            warn_of_power(largest, self._full_scale)
        if n_half < stft.n_freq:
            magnitude, value = magnitude.narrow(-n_axes, 0, n_half), value.narrow(-n_axes, 0, n_half)
        return magnitude, value if is_complex else None


def _modulus(spectrum: Tensor, n_axes: int) -> Tensor:
    """Modulus of one frame or of several, each by itself.

    Torch rounds what is left over at the end of its vectors otherwise than the rest, and how much that is
    must not depend on how many frames come at once.
    """
    if n_axes == 1 or not spectrum.shape[-1]:
        return spectrum.contiguous().abs()
    return torch.stack([frame.contiguous().abs() for frame in spectrum.unbind(-1)], -1)


def _check_shape(shape: torch.Size, batch_shape: tuple[int, ...], stft: STFT, n_axes: int) -> None:
    """Raise unless the shape is batch_shape + (n_freq,), followed by n_frames if `n_axes` is 2."""
    one = (*batch_shape, stft.n_freq)
    many = len(shape) == len(one) + 1 and shape[: len(batch_shape)] == batch_shape
    if (n_axes == 1 and shape == one) or (n_axes == 2 and many and shape[-2] == stft.n_freq):
        return
    layout = (
        f"batch_shape + (n_freq,) = {one}"
        if n_axes == 1
        else f"batch_shape + (n_freq, n_frames) = {one} + ..."
    )
    if many and shape[-2] == stft.n_freq:
        way_out = "there are several frames, use push_many"
    elif many and shape[-1] == stft.n_freq:
        way_out = "it looks like (frames, freq), use push_many(magnitude.mT)"
    elif n_axes == 2 and shape == one:
        way_out = "it is one frame, use push"
    elif len(shape) == len(one) + n_axes - 1:
        way_out = f"make the inverter for its batch_shape and n_fft ({stft.n_fft} gives {stft.n_freq})"
    else:
        way_out = f"batch_shape={batch_shape} wants {len(one) + n_axes - 1} axes"
    raise ValueError(f"Parameter magnitude has shape {tuple(shape)}, not {layout}: {way_out}")
