"""One push of a stream as a pure function of real numbers: frame and state in, hop and next state out.

It computes what `engines.eager` does, from the same constants, but without complex numbers, Fourier
transforms and writes into buffers, so that other programs can run it. Spectra are those of `Split`,
`(streams, n_rows, n_frames, 2 * n_short)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from rtspecinv import engines
from rtspecinv.checkpoint import PREFIX
from rtspecinv.common.modes import Module
from rtspecinv.engines.table import (
    INTO_P_C,
    INTO_P_M,
    NEW_STATE,
    Table,
    table_of,
    why_none,
)
from rtspecinv.export.split import Split, cut
from rtspecinv.frames import MIN_COVERAGE, MIN_COVERAGE_AT_START, FrameBuffer, asymmetric_windows
from rtspecinv.inputs import full_scale, largest_magnitude
from rtspecinv.mel.bank import MelBank
from rtspecinv.mel.stream import MelInverter
from rtspecinv.phase import Overlap, Zeros
from rtspecinv.projections import signs
from rtspecinv.streaming import StreamingInverter


class Step(Module):
    """One push of an inverter: `step(frame, *state)` returns the hop and the next state.

    Args:
        inverter: inverter whose start is `Overlap` or `Zeros` and whose rule applies `P_C` once per iteration
            and has constant coefficients (a table in `engines.table`). Its parameters and its bank are used,
            but not its streams.

    Attributes:
        shapes: shape of each state for one stream, by name, in the order of the arguments.

    A frame is `(streams, n_freq)`, or `(streams, n_bands)` for an inverter with a bank. A state is zeros at
    first. A frame with a value that `push` rejects, such as NaN, counts as no frame: pushing NaN returns the
    samples that `flush` returns.

    Raises:
        ValueError: start or rule are of another kind, or `Split` does not support n_fft.
    """

    dual_windows: Tensor
    others: Tensor
    newest: Tensor
    windows: Tensor
    start_window: Tensor
    hops: Tensor
    fade: Tensor
    signs: Tensor
    nudge: Tensor

    def __init__(self, inverter: StreamingInverter) -> None:
        super().__init__()
        stft, self.bank, self.n_iter = inverter.stft, inverter.bank, inverter.n_iter
        self.stft, update, init = stft, inverter.update, inverter.init
        if type(init) not in (Overlap, Zeros):
            raise ValueError(
                f"Parameter {init=} cannot be exported, only 'overlap' and 'zeros' can: make the inverter "
                "with init='overlap'"
            )
        self.n_open = engines.n_open(init, inverter.look_ahead, inverter.revise)
        self.is_overlap = isinstance(init, Overlap)
        table = table_of(update, self.n_open)
        if table is None or table.projects_twice:
            why = why_none(update, self.n_open) or "an iteration has two P_C"
            raise ValueError(f"Parameter {update=} cannot be exported: {why}; use 'raar', 'gla' or 'fgla'")
        self.start_factors, self.looks_again = table.start, table.looks_again
        self.split = Split(stft)
        self.n_half = stft.n_fft // 2 + 1
        self.every = 1 if self.bank is None else (self.bank.filters.shape[1] - 1) // max(1, self.n_half - 1)
        self.bands = self.bank.measured(stft) if self.bank is not None and inverter.joint else None
        self.deemphasis = inverter.deemphasis if isinstance(inverter, MelInverter) else None
        self.limit, self.full_scale = largest_magnitude(stft.dtype, stft.n_fft), full_scale(stft)
        self.tiny = torch.finfo(stft.dtype).tiny
        buffer = FrameBuffer(
            stft,
            self.n_open,
            n_revised=inverter.revise,
            n_carried=update.n_carried,
            n_values=0 if self.bands is None else self.bands.n_values,
            compensated=not update.textbook,
        )
        self.compensated = buffer.compensated
        self._set_constants(buffer)
        self._set_rule(table)
        shapes = {name: tuple(buffer.get_buffer(name).shape) for name in buffer.STATE if name != "past"}
        spectra = (self.split.n_rows, self.n_open, 2 * self.split.n_short)
        shapes["spectra"] = (table.n_slots, *spectra)
        if self.bands is None:
            shapes["magnitude"] = spectra
        if self.deemphasis is not None:
            shapes["deemphasis"] = (1,)
        self.shapes = {name: shape for name, shape in shapes.items() if math.prod(shape)}

    def _set_constants(self, buffer: FrameBuffer) -> None:
        stft, n_open, n_fft = self.stft, self.n_open, self.stft.n_fft
        self.n_heard, self.n_fade, self.n_samples = buffer.n_heard, buffer.n_fade, buffer.committed.shape[-1]
        ones = torch.ones_like(buffer.committed)
        ones[: self.n_heard] = 0
        unheard = stft.frame(ones)  # samples that were returned do not change
        envelopes = stft.envelope * unheard
        windows, start_window = stft.window.expand(n_open, n_fft), stft.window
        if not self.compensated:
            start_window, newest = asymmetric_windows(stft)
            windows = torch.cat([windows[:-1], newest[None]])
        slots, parts = (torch.arange(n, device=stft.device) for n in (n_open, -(-n_fft // stft.hop_length)))
        sign = self.split.doubled(signs(self.n_half, stft.dtype, stft.device).view(1, 1, -1))[0]
        sign[..., self.split.n_short :] = 0  # imaginary parts
        constants = {
            "dual_windows": stft.dual_window * unheard,
            "others": torch.cat([envelopes[:-1], torch.zeros_like(envelopes[:1])]),
            "newest": F.pad(envelopes[-1], (self.n_samples - n_fft, 0)),
            "windows": windows,
            "start_window": start_window,
            "hops": (slots[:, None] + parts).flatten(),
            "fade": buffer.fade(),
            "signs": sign,
            "nudge": sign * 2 * self.tiny**0.5,
        }
        for name, values in constants.items():
            self.register_buffer(name, values.contiguous(), persistent=False)

    def _set_rule(self, table: Table) -> None:
        """Make a `Mix` of each row of the table, for the first iteration and for the others."""

        def mixes(steps: Tensor) -> torch.nn.ModuleList:
            return torch.nn.ModuleList(Mix(row, self.stft.dtype) for row in steps.unbind(1))

        self.first_rows, self.rows = mixes(table.first_step), mixes(table.step)

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return the hop `(streams, hop_length)` and the next state."""
        old = dict(zip(self.shapes, state, strict=True))
        new = self._taken_in(frame, old)
        # All values are divided by a power of two, which causes no rounding error, so that squares neither
        # overflow nor underflow.
        scale = self._scale(new["magnitude"], old["committed"])
        of_spectra = scale[:, :, None, None]
        committed = old["committed"] / scale
        target = new["magnitude"] / (of_spectra if self.bands is None else scale[:, :, None])
        values = new.get("values")
        if self.bands is not None and values is not None:
            for _ in range(round(self.bands.power)):
                values = values / scale[:, :, None]
        analysis, start_analysis, gain = self._windows(new["present"], old["coverage"])

        def p_m(spectra: Tensor) -> Tensor:
            return self._to_magnitude(spectra, target, values)

        def p_c(spectra: Tensor) -> Tensor:
            frames = self.split.inverse_transform(spectra) * self.dual_windows
            return self.split.transform(self._frame(committed + self._overlap_add(frames)) * analysis)

        kept = [part[:, :, 1:] / of_spectra for part in old["spectra"].unbind(1)]
        if self.is_overlap:
            start = self._start(kept[0], target, values, committed, start_analysis)
        else:
            newest = target[:, :, -1:] if self.bands is None else self.split.doubled(target[:, -1:])
            start = newest * self.signs
        start = start * new["present"][:, -1:, None, None]
        x = [
            torch.cat([part, factor * start], 2)
            for part, factor in zip(kept, self.start_factors, strict=True)
        ]
        for i in range(self.n_iter):
            rows = self.rows if i else self.first_rows
            a = p_m(rows[INTO_P_M]([x[0], x[0], *x]))
            s = p_c(rows[INTO_P_C]([a, a, *x]))
            x = [row([s, a, *x]) for row in rows[NEW_STATE:-1]]
        estimate = p_m(self.rows[-1]([x[0], x[0], *x]) if self.n_iter else x[0])
        if self.n_iter and self.looks_again:
            estimate = p_m(p_c(estimate))
        new["spectra"] = torch.stack(x, 1) * of_spectra[:, None]

        frames = self.split.inverse_transform(estimate)
        samples = committed + self._overlap_add(frames * self.dual_windows)
        hop_length, heard = self.stft.hop_length, self.n_heard
        known = samples[:, heard : heard + hop_length + self.n_fade] * gain * scale
        hop = known[:, :hop_length]
        if self.n_fade:
            new["expected"] = known[:, hop_length:]
            became = hop[:, : self.n_fade]
            faded = old["expected"] + self.fade * (became - old["expected"])
            hop = torch.cat([faded, hop[:, self.n_fade :]], 1)
        leaving = frames[:, 0] * self.stft.dual_window * scale
        new["committed"] = self._retired(old["committed"], hop, leaving)
        envelope = new["present"][:, :1] * self.stft.envelope
        new["coverage"] = self._retired(old["coverage"], torch.ones_like(hop), envelope)
        if self.deemphasis is not None:
            hop, new["deemphasis"] = self._without_preemphasis(hop, old["deemphasis"])
        return hop, *(new[name] for name in self.shapes)

    def state_of(self, inverter: StreamingInverter) -> tuple[Tensor, ...]:
        """Return the present state of the streams of an inverter with the same parameters."""
        kept, n_streams = inverter.state_dict(), math.prod(inverter.batch_shape)
        state = {}
        for name, shape in self.shapes.items():
            values = kept[f"{PREFIX}{name}"]
            values = values.reshape(n_streams, *values.shape[len(inverter.batch_shape) :])
            if name == "spectra":
                n_short = self.split.n_short
                real, imaginary = (self.split.doubled(part.flatten(0, 1)) for part in values.unbind(-1))
                values = torch.cat([real[..., :n_short], imaginary[..., n_short:]], 3) * self.split.conjugate
            elif name == "magnitude" and self.bands is None:
                values = self.split.doubled(values)
            state[name] = values.reshape(n_streams, *shape)
        return tuple(state.values())

    def _taken_in(self, frame: Tensor, old: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the next states that contain the new frame: present, magnitude and values."""
        bank = self.bank
        is_good = (frame >= 0) & (frame <= self.limit)
        fits = bank.fits(frame, frame) if isinstance(bank, MelBank) else is_good
        is_frame = fits.to(frame.dtype).amin(1, keepdim=True)
        frame = torch.where(is_frame > 0, frame, 0)
        new = {"present": _shifted(old["present"], is_frame, 1)}
        if bank is None:
            magnitude = frame[:, : self.n_half]
        else:
            values = bank.undo(frame) if isinstance(bank, MelBank) else frame
            magnitude = bank.unmix(values)[:, :: self.every] * is_frame
            if self.bands is not None:
                new["values"] = _shifted(old["values"], (bank.heard(values) * is_frame)[:, None], 1)
                return new | {"magnitude": _shifted(old["magnitude"], magnitude[:, None], 1)}
        return new | {"magnitude": _shifted(old["magnitude"], self.split.doubled(magnitude[:, None]), 2)}

    def _scale(self, magnitude: Tensor, committed: Tensor) -> Tensor:
        """Return the power of two, `(streams, 1)`, next below the largest value that a spectrum may have."""
        of_samples = self.full_scale * committed.abs().amax(1, keepdim=True)
        largest = torch.maximum(magnitude.flatten(1).amax(1, keepdim=True), of_samples)
        return largest.clamp_min(self.tiny).log2().floor().exp2()

    def _windows(self, present: Tensor, coverage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the windows of `FrameBuffer._make_windows`: of analysis, of the start, and of the hop."""
        others = coverage + self._overlap_add(present[:, :, None] * self.others)
        total = others + present[:, -1:] * self.newest
        next_heard = total[:, self.n_heard : self.n_heard + self.stft.hop_length + self.n_fade]
        gain = next_heard.clamp_min(MIN_COVERAGE).reciprocal()
        analysis, start = present[:, :, None] * self.windows, self.start_window
        if self.compensated:
            analysis = analysis / self._frame(total).clamp_min(MIN_COVERAGE)
            start = start / others[:, -self.stft.n_fft :].clamp_min(MIN_COVERAGE_AT_START)
        return analysis, start, gain

    def _to_magnitude(self, spectra: Tensor, target: Tensor, values: Tensor | None) -> Tensor:
        """Return `P_M`. An added term sets the phase of bins that are 0; in others, rounding removes it."""
        spectra = spectra + self.nudge
        found = ((spectra * spectra) @ self.split.both_parts).clamp_min(self.tiny).sqrt()
        if self.bands is not None and values is not None:
            target = self.split.doubled(self.bands.corrected(self.split.natural(found), target, values))
        return spectra * (target / found)

    def _start(
        self, kept: Tensor, target: Tensor, values: Tensor | None, committed: Tensor, window: Tensor
    ) -> Tensor:
        """Return the spectrum of the newest frame that is determined by the frames before it."""
        samples = committed
        if self.n_open > 1:
            earlier = target[:, :, :-1] if self.bands is None else target[:, :-1]
            estimate = self._to_magnitude(kept, earlier, None if values is None else values[:, :-1])
            frames = self.split.inverse_transform(estimate) * self.dual_windows[:-1]
            samples = samples + self._overlap_add(F.pad(frames, (0, 0, 0, 1)))
        return self.split.transform((samples[:, -self.stft.n_fft :] * window)[:, None])

    def _frame(self, samples: Tensor) -> Tensor:
        """Return the frames `(streams, n_open, n_fft)` of samples."""
        hop_length, n_parts = self.stft.hop_length, len(self.hops) // self.n_open
        missing = (self.n_open - 1 + n_parts) * hop_length - self.n_samples
        hops = F.pad(samples, (0, missing)) if missing else samples
        hops = cut(hops, 1, self.n_open - 1 + n_parts, hop_length).index_select(1, self.hops)
        return cut(hops.flatten(1), 1, self.n_open, n_parts * hop_length)[:, :, : self.stft.n_fft]

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """Return the sum of frames `(streams, n_open, n_fft)`, each a hop after the one before."""
        n_samples = self.n_samples
        # Rows are padded to n_samples + hop_length and joined. If the result is divided into rows of
        # n_samples, each frame begins a hop later in its row than the frame before.
        rows = F.pad(frames, (0, n_samples + self.stft.hop_length - self.stft.n_fft)).flatten(1)
        return cut(rows[:, : self.n_open * n_samples], 1, self.n_open, n_samples).sum(1)

    def _retired(self, samples: Tensor, hop: Tensor, leaving: Tensor) -> Tensor:
        """Write the final hop, add the frame that leaves, and shift by a hop, as `FrameBuffer` does."""
        hop_length, heard = self.stft.hop_length, self.n_heard
        remains = samples + F.pad(leaving, (0, self.n_samples - self.stft.n_fft))
        remains = F.pad(remains[:, heard + hop_length :], (0, hop_length))
        return torch.cat([samples[:, hop_length:heard], hop, remains], 1) if heard else remains

    def _without_preemphasis(self, hop: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hop without pre-emphasis and its last sample, as `DeEmphasis` does."""
        assert self.deemphasis is not None
        pieces, decay = [], self.deemphasis.decay
        for piece in torch.split(hop, len(decay), 1):
            n = piece.shape[1]
            pieces.append(F.linear(piece, self.deemphasis.impulse[:n, :n]) + last * decay[:n])
            last = pieces[-1][:, -1:]
        return torch.cat(pieces, 1), last


class Mix(Module):
    """A row of a rule's table: the sum of the spectra of all open frames, each times a number.

    row: numbers `(n_open, n_columns)`; columns are s, A, x_0, ...
    """

    def __init__(self, row: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.groups: list[tuple[float | str, list[int]]] = []  # number, or its buffer's name, and columns
        columns = [column for column in range(row.shape[1]) if row[:, column].any()]
        while columns:
            numbers = row[:, columns[0]]
            alike = [column for column in columns if torch.equal(row[:, column], numbers)]
            columns = [column for column in columns if column not in alike]
            number: float | str = numbers[0].item()
            if not (numbers == numbers[0]).all():
                number = f"numbers_{alike[0]}"
                self.register_buffer(number, numbers.to(dtype)[:, None], persistent=False)
            self.groups.append((number, alike))

    def forward(self, spectra: list[Tensor]) -> Tensor:
        """Return the weighted sum of spectra s, A, x_0, ...; spectra with the weight 0 are not read."""
        total: Tensor | None = None
        for number, columns in self.groups:
            part = spectra[columns[0]]
            for column in columns[1:]:
                part = part + spectra[column]
            if number == -1 and total is not None:
                total = total - part
                continue
            if number != 1:
                part = part * (self.get_buffer(number) if isinstance(number, str) else number)
            total = part if total is None else total + part
        return torch.zeros_like(spectra[-1]) if total is None else total


def _shifted(state: Tensor, newest: Tensor, axis: int) -> Tensor:
    """Return the state without its oldest frame and with the newest at the end."""
    return torch.cat([state.narrow(axis, 1, state.shape[axis] - 1), newest], axis)
