"""The CPU engine of batch runs: iterations of whole spectrograms in compiled code; see `EagerBatch`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv.bands import Bands, Magnitudes
from rtspecinv.engines.batch import BatchTransform
from rtspecinv.engines.cpu import fft
from rtspecinv.engines.cpu.host import (
    Array,
    aligned,
    bands_of,
    padded_signs,
    parallel_for,
    rule_of,
    scales,
    threads_for,
)
from rtspecinv.engines.cpu.interrupts import LONG, aside
from rtspecinv.engines.cpu.lanes import WIDTH
from rtspecinv.engines.cpu.memory import N_NUMBERS, TWICE
from rtspecinv.engines.cpu.sweep import (
    ACTUAL,
    ESTIMATE,
    ITERATE,
    MIXED_ESTIMATE,
    NOTHING,
    RULE,
    SPECTRUM,
    SweepMemory,
    SweepPlan,
    settle,
    sweep,
)
from rtspecinv.frames import MIN_COVERAGE
from rtspecinv.stft import COVERAGE_FLOOR, STFT
from rtspecinv.updates import Update

BLOCK_FRAMES = 16


class NumbaBatch:
    """Iterates whole spectrograms in compiled code that releases the GIL.

    Blocks of frames are distributed over at most `torch.get_num_threads()` threads. The number of threads
    does not change the bits of the samples. The arguments are those of `EagerBatch`; gradients are not
    supported.
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
        n_items, n_frames, n_half = target.shape
        self.plan = plan = _plan(transform, n_items, known.shape[-1], rules, measurement)
        self.shape, self.n_samples = target.shape, transform.n_samples
        self.padded_with, self.begun, self.is_new = _padded_with(transform), False, True
        self.rooms = [
            plan.y + thread * plan.n_room
            for thread in range(threads_for(n_items * plan.n_blocks, plan.n_open * plan.n_fft))
        ]
        dtype = known.numpy().dtype
        self.number = dtype.type(0)
        arrays = {"known": known.numpy(), **_constants(transform), **bands_of(measurement, n_half)}
        self.arrays = {name: aligned(values.size, dtype, values) for name, values in arrays.items()}
        self.arrays["numbers"] = aligned(N_NUMBERS * plan.n_open, dtype)
        self.arrays["work"] = aligned(plan.y + len(self.rooms) * plan.n_room, dtype)
        self.arrays["stop"] = aligned(1, dtype)
        # Views without padding.
        work = torch.from_numpy(self.arrays["work"])
        spectra = work[plan.spectra : plan.samples].view(-1, n_items, n_frames, 2, plan.padded)
        self.spectra = spectra[..., :n_half]
        self.signals = work[plan.samples : plan.added].view(n_items, plan.n_signal)
        work[: plan.spectra].view(n_items, n_frames, plan.padded)[..., :n_half] = target
        work[plan.values : plan.values + values.numel()] = values.reshape(-1)
        self.spectra[0, ..., 0, :], self.spectra[0, ..., 1, :] = start.real, start.imag
        self._set(rules[0])
        sweep(*self.calls[0], 0, self.number, NOTHING, NOTHING, 0, 0, 0)  # compiles if necessary

    def begin(self, rule: Update) -> None:
        """Use this rule in the next iterations; see `BatchEngine`."""
        if self.begun:
            self.spectra[0] = self.spectra[self.plan.kept]
        self.begun = self.is_new = True
        self._set(rule)
        for spectra, share in reversed(list(zip(self.spectra, self.rule.start, strict=False))):
            spectra[:] = share * self.spectra[0]

    def iterate(self, n_iter: int) -> None:
        """Do `n_iter` iterations, at least 1."""
        if self.is_new:
            self._set_numbers(self.rule.numbers[0])
            self._iterate(1)
            self._set_numbers(self.rule.numbers[1])
        if n_iter > self.is_new:
            self._iterate(n_iter - self.is_new)
        self.is_new = False

    def _iterate(self, n_iter: int) -> None:
        # What is done with the samples of the last sweep, and what is added to those of the next one.
        steps = [(SPECTRUM, RULE), (RULE, ITERATE)] if self.rule.kind == TWICE else [(RULE, RULE)]
        self._sweep(NOTHING, steps[-1][1])
        steps *= n_iter
        steps[-1] = (RULE, NOTHING)
        for take, give in steps:
            self._settle()
            self._sweep(take, give, slot=1)

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Return samples `(n_items, n_samples)` of the estimate, and their magnitude."""
        self._sweep(NOTHING, MIXED_ESTIMATE if self.begun and self.rule.mixes else ESTIMATE)
        if self.begun and self.rule.looks_again:
            self._settle()
            self._sweep(SPECTRUM, ESTIMATE, slot=self.plan.kept)
        self._settle(fading=True)
        actual = torch.empty(self.shape, dtype=self.signals.dtype, device="cpu")
        self._sweep(ACTUAL, NOTHING, actual=actual.data_ptr())
        begin = self.plan.padding
        return self.signals[:, begin : begin + self.n_samples].clone(), actual

    def _set(self, rule: Update) -> None:
        """Set the rule that compiled code uses."""
        n_frames = self.plan.n_frames
        found = rule_of(rule, n_frames, n_new=n_frames)
        assert found is not None, "see `suits`"
        self.rule = found
        self._set_numbers(found.numbers[1])
        of_rule = ("kind", "n_slots", "uses_iterate", "n_kept")
        plan = self.plan._replace(**{name: getattr(found, name) for name in of_rule})
        addresses = {name: array.ctypes.data for name, array in self.arrays.items()}
        self.calls = []
        for y in self.rooms:
            real = y + 6 * plan.padded + _room(fft.GAP)
            half = real + _room(plan.n_fft)
            room = {
                name: addresses["work"] + at * self.arrays["work"].itemsize
                for name, at in (("real", real), ("half", half))
            }
            memory = SweepMemory(**addresses, **room)
            of_thread = plan._replace(y=y, room=y + 2 * plan.padded, found=half + _room(2 * plan.n_half))
            self.calls.append((np.array(of_thread, np.int64), np.array(memory, np.int64)))

    def _set_numbers(self, numbers: Array) -> None:
        """Set the numbers of the rule for all items, `(n_frames or 1, N_NUMBERS)`."""
        self.arrays["numbers"].reshape(self.shape[0], self.shape[1], N_NUMBERS)[:] = numbers

    def _sweep(self, take: int, give: int, *, slot: int = 0, actual: int = 0) -> None:
        def part(thread: int, first: int, last: int) -> None:
            sweep(*self.calls[thread], actual, self.number, take, give, slot, first, last)

        def work() -> None:
            parallel_for(part, self.shape[0] * self.plan.n_blocks, len(self.calls))

        if self.plan.n_open * self.plan.n_fft < LONG:
            work()
        else:
            aside(work, self.arrays["stop"])

    def _settle(self, fading: bool = False) -> None:
        settle(*self.calls[0], self.number, self.padded_with, int(fading), 0, self.shape[0])


def suits(stft: STFT, rules: tuple[Update, ...], n_frames: int, joint: bool) -> bool:
    """Return whether there is compiled code for these rules, on values of bands if `joint`."""
    if stft.device.type != "cpu":
        return False
    found = [rule_of(rule, n_frames, n_new=n_frames) for rule in rules]
    return not any(rule is None or (joint and rule.kind == TWICE) for rule in found)


def _plan(
    transform: BatchTransform,
    n_items: int,
    n_known: int,
    rules: tuple[Update, ...],
    measurement: Magnitudes | Bands,
) -> SweepPlan:
    stft, n_open = transform.stft, n_items * transform.n_frames
    n_block = max(BLOCK_FRAMES, stft.look_back)  # only adjacent blocks overlap
    n_blocks = -(-transform.n_frames // n_block)
    kept = max(1 + rule.n_carried for rule in rules)  # the first slot after those of the rules
    padded = fft.pad(stft.n_fft // 2 + 1)
    n_signal = _room(max(transform.n_samples + 2 * stft.padding, transform.n_covered))
    n_added = _room((n_block - 1) * stft.hop_length + stft.n_fft)
    samples = n_open * padded * (1 + 2 * (kept + 1))
    added = samples + n_items * n_signal
    values = added + n_items * n_blocks * n_added
    y = values + fft.pad(n_open * measurement.n_values)
    found = 2 * padded if measurement.n_values else 0
    return SweepPlan(
        n_fft=stft.n_fft,
        n_half=stft.n_fft // 2 + 1,
        padded=padded,
        own_fft=fft.suits(stft.n_fft),
        second_radix=fft.odd_radix(stft.n_fft),
        hop_length=stft.hop_length,
        n_open=n_open,
        n_frames=transform.n_frames,
        n_block=n_block,
        n_blocks=n_blocks,
        n_covered=transform.n_covered,
        n_samples=transform.n_samples,
        padding=stft.padding,
        first_known=transform.offset,
        n_known=n_known,
        n_slots=1,
        kept=kept,
        kind=0,
        uses_iterate=1,
        n_kept=1,
        n_values=measurement.n_values,
        is_power=isinstance(measurement, Bands) and measurement.power == 2,
        values=values,
        spectra=n_open * padded,
        samples=samples,
        n_signal=n_signal,
        added=added,
        n_added=n_added,
        y=y,
        found=0,
        room=0,
        n_room=6 * padded + _room(fft.GAP) + _room(stft.n_fft) + _room(2 * (stft.n_fft // 2 + 1)) + found,
    )


def _room(n: int) -> int:
    """Return the array length that vectors (`Lanes`) may access when they process n numbers."""
    return fft.pad(n) + WIDTH


def _constants(transform: BatchTransform) -> dict[str, Array]:
    stft = transform.stft
    forward, inverse = scales(stft)
    windows = {"window": stft.window * forward, "dual_window": stft.dual_window * inverse}
    gains = [stft.edge_gain(transform.n_frames, least) for least in (COVERAGE_FLOOR, MIN_COVERAGE)]
    return {
        "gain": torch.stack(gains).numpy(),
        "tables": fft.tables(stft.n_fft),
        "signs": padded_signs(stft.n_fft // 2 + 1),
        **{name: F.pad(window, (0, WIDTH)).numpy() for name, window in windows.items()},
    }


def _padded_with(transform: BatchTransform) -> Array:
    """Return the sample, counted from 1, that each padding sample repeats, `(2 * padding,)`; 0 is silence."""
    padding = transform.stft.padding
    if not padding:
        return np.zeros(0, np.int64)
    samples = torch.arange(1, transform.n_samples + 1, dtype=torch.float64, device="cpu").view(1, 1, -1)
    padded = F.pad(samples, (padding, padding), mode=transform.stft.pad_mode).flatten()
    return torch.cat([padded[:padding], padded[-padding:]]).long().numpy()
