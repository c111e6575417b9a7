"""Batch runs: the transform of the samples, the interface of an engine, and the reference in plain torch."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv.bands import Bands, Magnitudes
from rtspecinv.frames import MIN_COVERAGE
from rtspecinv.projections import to_magnitude_in_range
from rtspecinv.stft import STFT
from rtspecinv.updates import State, Update, of_pairs


class BatchTransform:
    """Transform of a batch run: its `P_C`, and the conversion of its samples to the result.

    It is the STFT of the magnitudes, padding included. If there are too few samples for that padding, it is
    the same STFT without centring.
    """

    def __init__(self, stft: STFT, n_frames: int, length: int | None) -> None:
        self.n_frames, self.n_covered = n_frames, (n_frames - 1) * stft.hop_length + stft.n_fft
        natural = stft.length(n_frames)
        # A signal of this length also has n_frames frames, and they contain its last samples.
        n_centred = length if length and natural <= length < natural + stft.hop_length else natural
        centred = bool(stft.center) and n_centred >= stft.n_needed
        self.stft = stft.with_center(stft.center if centred else False)
        self.n_samples = n_centred if centred else self.n_covered
        self.n_out = natural if length is None else length
        self.offset = stft.padding if stft.center and not centred else 0

    def samples(self, spectrum: Tensor, known: Tensor) -> Tensor:
        """Return samples `(n_items, n_samples)` of `(n_items, n_frames, n_half)`, faded in at edges."""
        return self._keep(known, self.stft.synthesize(spectrum.mT, self.n_samples, min_coverage=MIN_COVERAGE))

    def consistent(self, spectrum: Tensor, known: Tensor) -> Tensor:
        """Return `P_C(c) = STFT(iSTFT(c))` (Griffin & Lim 1984, eq. 6), `(n_items, n_frames, n_half)`."""
        return self.analyze(self._keep(known, self.stft.synthesize(spectrum.mT, self.n_samples)))

    def _keep(self, known: Tensor, samples: Tensor) -> Tensor:
        """Return samples `(n_items, n_samples)`, with the known ones, `(n_items, n_known)`, put in place."""
        if not known.shape[-1]:
            return samples
        before, after = samples[..., : self.offset], samples[..., self.offset + known.shape[-1] :]
        return torch.cat([before, known, after], -1)

    def analyze(self, samples: Tensor) -> Tensor:
        """Return the spectrum `(n_items, n_frames, n_half)` of samples, zero-padded at the end."""
        return self.stft.analyze(F.pad(samples, (0, self.n_samples - samples.shape[-1]))).mT

    def finish(self, samples: Tensor) -> Tensor:
        """Return the samples `(n_items, n_out)` that the user gets."""
        wanted = samples[..., self.offset : self.offset + self.n_out]
        return F.pad(wanted, (0, self.n_out - wanted.shape[-1]))


class BatchEngine(Protocol):
    """Interface of an engine that iterates whole spectrograms, `(n_items, n_frames, n_half)`."""

    def begin(self, rule: Update) -> None:
        """Use this rule in the next iterations, from the start or from the estimate of the rule before."""

    def iterate(self, n_iter: int) -> None:
        """Do `n_iter` iterations, at least 1."""

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Return samples `(n_items, n_samples)` of the estimate, and their magnitude."""


class EagerBatch:
    """Iterates with plain torch operations.

    Args:
        transform: transform and padding of this batch.
        rules: all rules that `begin` may be called with.
        target: magnitude, `(n_items, n_frames, n_half)`.
        start: spectrum, of the same shape.
        known: samples at the beginning that are given and do not change, `(n_items, n_known)`.
        measurement: projection `P_M`, on magnitudes or on values of bands.
        values: values of bands, `(n_items, n_frames, n_bands)`; none for `Magnitudes`.

    If gradients are enabled, they flow through all iterations.
    """

    def __init__(
        self,
        transform: BatchTransform,
        rules: tuple[Update, ...],
        target: Tensor,
        start: Tensor,
        known: Tensor,
        measurement: Magnitudes | Bands,
        values: Tensor,
    ) -> None:
        self.transform, self.known = transform, known
        if isinstance(measurement, Magnitudes) and not torch.is_grad_enabled():
            self.p_m = of_pairs(partial(to_magnitude_in_range, magnitude=target))
        else:
            self.p_m = of_pairs(partial(measurement.project, magnitude=target, values=values))
        self.p_c = of_pairs(partial(transform.consistent, known=known))
        self.spectrum = torch.view_as_real(start)
        self.rule: Update | None = None
        self.state: State = ()

    def begin(self, rule: Update) -> None:
        """Use this rule in the next iterations; see `BatchEngine`."""
        self.rule, self.state, self.is_new = rule, rule.start(self.spectrum), True

    def iterate(self, n_iter: int) -> None:
        """Do `n_iter` iterations, at least 1."""
        assert self.rule is not None
        if self.is_new:
            everywhere = torch.ones(1, 1, 1, dtype=torch.bool, device=self.spectrum.device)
            self.state = self.rule.first_step(self.state, self.p_m, self.p_c, everywhere)
        for _ in range(n_iter - self.is_new):
            self.state = self.rule.step(self.state, self.p_m, self.p_c)
        self.is_new = False

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Return samples `(n_items, n_samples)` of the estimate, and their magnitude."""
        if self.rule is None:
            estimate = self.p_m(self.spectrum)
        else:
            estimate = self.spectrum = self.rule.estimate(self.state, self.p_m, self.p_c)
        samples = self.transform.samples(torch.view_as_complex(estimate), self.known)
        return samples, self.transform.analyze(samples).abs()
