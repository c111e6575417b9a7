"""Frame buffer of a stream: the frames that may still change, and the samples that are final.

A frame is *committed* when its first hop of samples is returned, that is, heard. Its other samples have not
been heard yet, so for up to `look_back` more pushes it can still be *revised*. Frames enter on the right and
leave on the left:

    slot             0           1           2           3           4
                  revised    committed     open        open       newest      n_revised = 1, look_ahead = 3
    frame t-4  [  heard  :    hop    :           :           ]
    frame t-3            [    hop    :           :           :           ]
    frame t-2                        [           :           :           :           ]
      ...
    samples       heard  |    hop    |   may still change ...

`committed` holds samples that the frames of the buffer cannot change: first those that were heard, then the
overlap-added unheard samples of frames that have left the buffer. A batch run has no buffer, see
`engines.batch`.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from rtspecinv.common.modes import Module
from rtspecinv.stft import STFT

# Smallest window sum that samples are divided by, relative to the complete sum. Where only tails of windows
# overlap, division by their small sum amplifies errors. Half or twice this value costs a few tenths of a dB.
MIN_COVERAGE = 0.04
# The same for the start of the newest frame, which is not iterated; a smaller value suits it better.
MIN_COVERAGE_AT_START = 0.01

# A revision changes the samples after those that were heard. Over this share of a hop, the next hop is
# crossfaded from its expected to its revised samples. Without this, a pure tone has a step of -80 dB per hop.
FADE = 0.125

N_PAST = 2  # number of frames kept after they left the buffer, for the starts


class FrameBuffer(Module):
    """Spectra of the open frames and the committed samples, for streams of any batch shape.

    Args:
        stft: transform; the buffer has its device and dtype.
        n_open: number of slots, including those of revised frames.
        n_revised: number of slots on the left whose frames are committed, at most `stft.look_back`.
        n_waiting: number of magnitude frames on the right that have arrived but have no start yet.
        n_carried: number of spectra that the update rule carries beside its iterate.
        n_values: number of values of bands that follow the magnitudes of a frame.
        batch_shape: shape of the streams.
        compensated: whether to divide incomplete overlap by its window sum (Gnann & Spiertz 2010); otherwise
            the newest frame is analysed with the asymmetric window of Zhu, Beauregard & Wyse (2007, section
            II-D).

    State, zeros at first and after a reset, with `n_half = n_fft // 2 + 1`:
        magnitude: targets `(*batch, n_open + n_waiting, n_half)`.
        values: values of bands, `(*batch, n_open + n_waiting, n_values)`.
        present: 1 for a frame, 0 for none (before the first, after the last), `(*batch, n_open + n_waiting)`.
        spectra: the iterate and the carried spectra, `(*batch, 1 + n_carried, n_open, n_half, 2)`, as pairs
            of reals so that `.to(dtype)` casts them too.
        past: spectra of the frames that left last, `(*batch, N_PAST, n_half, 2)`.
        committed: `(*batch, (n_open - 1) * hop_length + n_fft)` samples.
        coverage: window sum of the committed samples, of their shape, 1 where it is complete.
        expected: beginning of the next hop, predicted from the present frames, `(*batch, n_fade)`.
    """

    STATE = ("magnitude", "values", "present", "spectra", "past", "committed", "coverage", "expected")

    stft: STFT
    magnitude: Tensor
    values: Tensor
    present: Tensor
    spectra: Tensor
    past: Tensor
    committed: Tensor
    coverage: Tensor
    expected: Tensor

    def __init__(
        self,
        stft: STFT,
        n_open: int,
        *,
        n_revised: int = 0,
        n_waiting: int = 0,
        n_carried: int = 0,
        n_values: int = 0,
        batch_shape: tuple[int, ...] = (),
        compensated: bool = True,
    ) -> None:
        super().__init__()
        self.stft, self.n_open, self.batch_shape, self.compensated = stft, n_open, batch_shape, compensated
        self.n_heard = n_revised * stft.hop_length  # number of final samples at the left end
        self.n_fade = min(round(FADE * stft.hop_length), stft.n_fft - stft.hop_length) if n_revised else 0
        n_half, n_samples = stft.n_fft // 2 + 1, (n_open - 1) * stft.hop_length + stft.n_fft
        shapes = {
            "magnitude": (n_open + n_waiting, n_half),
            "values": (n_open + n_waiting, n_values),
            "present": (n_open + n_waiting,),
            "spectra": (1 + n_carried, n_open, n_half, 2),
            "past": (N_PAST, n_half, 2),
            "committed": (n_samples,),
            "coverage": (n_samples,),
            "expected": (self.n_fade,),
        }
        for name in self.STATE:
            zeros = torch.zeros(batch_shape + shapes[name], dtype=stft.dtype, device=stft.device)
            self.register_buffer(name, zeros, persistent=False)

    def push(self, frame: Tensor | None) -> None:
        """Shift by one frame and take in the next, or None after the last one.

        frame: magnitudes, then values of bands, `(*batch, n_half + n_values)`.
        """
        n_half = self.magnitude.shape[-1]
        _shift(self.magnitude, -2, None if frame is None else frame[..., :n_half])
        _shift(self.values, -2, None if frame is None else frame[..., n_half:])
        _shift(self.present, -1, None if frame is None else torch.ones_like(self.present[..., 0]))
        _shift(self.spectra, -3)
        self._make_windows()

    def start(self, spectra: tuple[Tensor, ...]) -> None:
        """Set the newest frame's spectra, the iterate and the carried ones, each `(*batch, n_half, 2)`."""
        present = self.present[..., self.n_open - 1].clone()
        newest = present[..., None, None, None, None] * torch.stack(spectra, -3).unsqueeze(-3)
        self.spectra.copy_(torch.cat([self.spectra[..., :-1, :, :], newest], -3))

    def store(self, spectra: tuple[Tensor, ...]) -> None:
        """Store the spectra, the iterate and the carried ones, each `(*batch, n_open, n_half, 2)`."""
        self.spectra.copy_(torch.stack(spectra, -4))

    def load(self) -> tuple[Tensor, ...]:
        """Return the spectra, the iterate and the carried ones, each `(*batch, n_open, n_half, 2)`."""
        return _fresh(self.spectra).unbind(-4)

    def target(self) -> Tensor:
        """Return the target magnitudes of the open frames, `(*batch, n_open, n_half)`."""
        return _fresh(self.magnitude[..., : self.n_open, :])

    def measured(self) -> Tensor:
        """Return the values of bands of the open frames, `(*batch, n_open, n_values)`."""
        return _fresh(self.values[..., : self.n_open, :])

    def is_newest(self) -> Tensor:
        """Return a mask `(n_open, 1, 1)` that is True for the newest frame."""
        return (torch.arange(self.n_open, device=self.stft.device) == self.n_open - 1).view(-1, 1, 1)

    def overlap_add(self, spectrum: Tensor) -> Tensor:
        """Return the committed samples plus those of `(*batch, n_open, n_half)`; heard samples do not change.

        The result is not divided by the window sum; `analyze` does that.
        """
        frames = self.stft.inverse_transform(spectrum) * self.stft.dual_window
        samples = self.committed + self.stft.overlap_add(frames)
        samples[..., : self.n_heard] = self.committed[..., : self.n_heard]
        return samples

    def analyze(self, samples: Tensor) -> Tensor:
        """Return the spectrum `(*batch, n_open, n_half)` of samples that `overlap_add` returned."""
        return self.stft.transform(self.stft.frame(samples) * self._analysis)

    def analyze_newest(self, spectrum: Tensor) -> Tensor:
        """Return the spectrum `(*batch, n_half)` of the samples of the other frames within the newest frame.

        spectrum: spectra of all frames, `(*batch, n_open, n_half)`."""
        others = torch.nn.functional.pad(spectrum[..., :-1, :], (0, 0, 0, 1))
        samples = self.overlap_add(others)[..., -self.stft.n_fft :]
        return self.stft.transform(samples * self._start_analysis)

    def commit(self, spectrum: Tensor) -> Tensor:
        """Return the final hop `(*batch, hop_length)` of spectra `(*batch, n_open, n_half)`."""
        stft, heard, hop_length = self.stft, self.n_heard, self.stft.hop_length
        known = self.overlap_add(spectrum)[..., heard : heard + hop_length + self.n_fade] * self._gain
        hop, ahead = known.tensor_split([hop_length], -1)
        became, rest = hop.tensor_split([self.n_fade], -1)
        hop = torch.cat([torch.lerp(_fresh(self.expected), became, self.fade()), rest], -1)
        self.expected.copy_(ahead)
        leaving = stft.inverse_transform(spectrum[..., 0, :]) * stft.dual_window
        envelope = self.present[..., :1] * stft.envelope
        _retire(self.committed, heard, hop, leaving)
        _retire(self.coverage, heard, torch.ones_like(hop), envelope)
        _shift(self.past, -3, torch.view_as_real(spectrum[..., 0, :]))
        return hop

    def part(self, streams: Tensor) -> FrameBuffer:
        """Return a buffer with copies of some streams, of batch_shape `(n_streams,)`; `put` takes them back.

        streams: positions `(n_streams,)` among all streams, in the order of memory.
        """
        part = copy.copy(self)
        part.batch_shape = tuple(streams.shape)
        part._buffers = {name: self._rows(name).index_select(0, streams) for name in self.STATE}
        return part

    def put(self, streams: Tensor, part: FrameBuffer) -> None:
        """Replace the state of some streams by that of a buffer from `part`; the others do not change."""
        for name in self.STATE:
            self._rows(name).index_copy_(0, streams, part.get_buffer(name))

    def _rows(self, name: str) -> Tensor:
        """Return a view of a state tensor as `(n_streams, ...)`, for any batch shape."""
        state, n_axes = self.get_buffer(name), len(self.batch_shape)
        return state.flatten(0, n_axes - 1) if n_axes else state.unsqueeze(0)

    def detach(self) -> None:
        """Detach the state from the gradients of earlier frames."""
        for name in self.STATE:
            self.get_buffer(name).detach_()

    def reset(self, streams: Tensor | None = None) -> None:
        """Set the state to zero, in all streams or in those selected: positions or a flat bool mask."""
        self.detach()
        for name in self.STATE:
            if streams is None:
                self.get_buffer(name).zero_()
            else:
                self._rows(name)[streams] = 0  # does not wait for a mask on a GPU

    def fade(self) -> Tensor:
        """Return half a period of a raised cosine, from 0 to 1, `(n_fade,)`."""
        phase = torch.linspace(0, torch.pi, self.n_fade + 1, dtype=self.stft.dtype, device=self.stft.device)
        return 0.5 - 0.5 * phase[:-1].cos()

    def _make_windows(self) -> None:
        """Compute the windows for the present push, from the window sum of the frames that are present.

        _analysis: `(*batch, n_open, n_fft)`, windows that turn overlap-added samples into the open frames.
        _start_analysis: `(*batch, n_fft)`, the same for the newest frame, without its own samples in the sum.
        _gain: `(*batch, hop_length + n_fade)`, gain that turns overlap-added samples into those heard next.
        """
        stft, n_fft, present = self.stft, self.stft.n_fft, self.present[..., : self.n_open, None]
        envelopes = present * stft.envelope
        others = self.coverage + stft.overlap_add(
            torch.nn.functional.pad(envelopes[..., :-1, :], (0, 0, 0, 1))
        )
        total = self.coverage + stft.overlap_add(envelopes)
        for samples in (others, total):
            samples[..., : self.n_heard] = self.coverage[..., : self.n_heard]
        next_heard = total[..., self.n_heard : self.n_heard + stft.hop_length + self.n_fade]
        self._gain = next_heard.clamp_min(MIN_COVERAGE).reciprocal()
        if self.compensated:
            self._analysis = present * stft.window / stft.frame(total).clamp_min(MIN_COVERAGE)
            self._start_analysis = stft.window / others[..., -n_fft:].clamp_min(MIN_COVERAGE_AT_START)
        else:
            start, newest = asymmetric_windows(stft)
            windows = stft.window.repeat(self.n_open, 1)
            windows[-1] = newest
            self._analysis, self._start_analysis = present * windows, start


def asymmetric_windows(stft: STFT) -> tuple[Tensor, Tensor]:
    """Return windows for the newest frame, without and with its own samples in the sum, each `(n_fft,)`.

    Earlier frames fade out towards the right. If their sum is multiplied by the mirror image of its envelope,
    it is symmetric again: `W[n] = sum_q d[N - n + qH]`, where d is the dual window, q >= 1 without and q >= 0
    with its own samples (Zhu, Beauregard & Wyse 2007, figure 4). At 50 % overlap, the first envelope and its
    mirror image do not overlap.
    """
    stacked = stft.overlap_add(stft.dual_window.repeat(stft.look_back + 1, 1))[-stft.n_fft :]
    before, after = (w.flip(-1).roll(1, -1) for w in (stacked - stft.dual_window, stacked))
    return (before if stft.look_back > 1 else stft.window), after


def _shift(state: Tensor, dim: int, newest: Tensor | None = None) -> None:
    """Shift the slots along `dim` to the left and write `newest`, or zeros, to the last."""
    kept = state.narrow(dim, 1, state.shape[dim] - 1)
    last = torch.zeros_like(state.select(dim, 0)) if newest is None else newest
    state.copy_(torch.cat([kept, last.unsqueeze(dim)], dim))


def _retire(samples: Tensor, n_heard: int, hop: Tensor, leaving: Tensor) -> None:
    """Write the final hop, add the frame that leaves the buffer to the committed samples, shift by a hop."""
    n_final = n_heard + hop.shape[-1]
    remains = samples + torch.nn.functional.pad(leaving, (0, samples.shape[-1] - leaving.shape[-1]))
    shifted = [samples[..., hop.shape[-1] : n_heard], hop, remains[..., n_final:], torch.zeros_like(hop)]
    samples.copy_(torch.cat(shifted, -1)[..., -samples.shape[-1] :])


def _fresh(state: Tensor) -> Tensor:
    """Return the state, or a copy if it requires gradients: the next push must not overwrite saved values."""
    return state.clone() if state.requires_grad else state
