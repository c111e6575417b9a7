"""A real Fourier transform as two small matrix products, for programs without a fast Fourier transform."""

from __future__ import annotations

import torch
from torch import Tensor

from rtspecinv.common.modes import Module
from rtspecinv.stft import STFT

# Largest number of values in the matrices of one direction, 16 MB; powers of two up to 16384 need fewer.
MOST_NUMBERS = 2**22


class Split(Module):
    """Transforms of an STFT, without windows, as two products with real matrices.

    With `n_fft = n_long * n_short`, `n = n_short * i + j` and `k = p + n_long * q`,

        X[k] = sum_j exp(-2 pi i j k / n_fft) sum_i x[n] exp(-2 pi i i p / n_long),

    so the inner sum is one product for all j, and the outer sum one product for each p. Frames are real, so
    p only runs to `n_long // 2`: the bins k, `(n_rows, n_short)`, contain every frequency, and some of them
    twice, as k and as n_fft - k.

    Args:
        stft: transform; its length, scale, dtype and device are used.

    Raises:
        ValueError: n_fft has a factor so large that the matrices are too large.

    Attributes:
        order: index of the frequency of each bin, `(n_rows * n_short,)`.
        conjugate: -1 for imaginary parts of bins above the Nyquist frequency, else 1,
            `(n_rows, 1, 2 * n_short)`.
        both_parts: matrix that adds the squares of both parts, at both, `(2 * n_short, 2 * n_short)`.
        places: index of the bin of each frequency, `(n_fft // 2 + 1,)`.

    Source: Cooley & Tukey 1965.
    """

    order: Tensor
    conjugate: Tensor
    places: Tensor
    both_parts: Tensor
    to_rows: Tensor
    to_bins: Tensor
    from_bins: Tensor
    from_rows: Tensor

    def __init__(self, stft: STFT) -> None:
        super().__init__()
        n_fft = stft.n_fft
        self.n_fft, self.n_long, self.n_short = n_fft, *factors(n_fft)
        self.n_rows = self.n_long // 2 + 1
        n_numbers = self.n_rows * (2 * self.n_long + 4 * self.n_short**2)
        if n_numbers > MOST_NUMBERS:
            raise ValueError(
                f"Parameter {n_fft=} has the factors {self.n_long} and {self.n_short}, which make matrices "
                f"of {n_numbers} numbers, over {MOST_NUMBERS}: use a power of two up to 16384"
            )
        long, short = (torch.arange(n, device="cpu") for n in (self.n_long, self.n_short))
        rows = long[: self.n_rows]
        bins = rows[:, None] + self.n_long * short
        is_above = 2 * bins > n_fft
        is_twice = is_above & torch.isin(n_fft - bins, bins)
        weight = torch.where((bins == 0) | (2 * bins == n_fft), 1.0, 2.0).double() * ~is_twice
        frequencies = torch.where(is_above, n_fft - bins, bins)
        self._keep("order", frequencies.flatten())
        sign = torch.where(is_above, -1.0, 1.0)
        self._keep("conjugate", torch.cat([torch.ones_like(sign), sign], 1)[:, None], stft)
        self._keep("both_parts", torch.eye(self.n_short, dtype=stft.dtype, device="cpu").repeat(2, 2), stft)
        places = torch.empty(n_fft // 2 + 1, dtype=torch.int64, device="cpu")
        places[frequencies[~is_twice]] = torch.arange(bins.numel(), device="cpu")[~is_twice.flatten()]
        self._keep("places", places)
        # (row and part, i) and (row, part and j, part and q)
        cos, sin = _angles(rows[:, None] * long, self.n_long)
        to_rows = torch.stack([cos, -sin], 1).flatten(0, 1)
        cos, sin = _angles(short[:, None] * bins[:, None], n_fft)
        to_bins = torch.cat([torch.cat([cos, -sin], 2), torch.cat([sin, cos], 2)], 1)
        weights = torch.cat([weight, weight], 1)[:, None] / (n_fft * stft.scale)
        self._keep("to_rows", to_rows, stft)
        self._keep("to_bins", to_bins * stft.scale, stft)
        self._keep("from_bins", (to_bins * weights).mT, stft)
        self._keep("from_rows", to_rows.mT, stft)

    def _keep(self, name: str, values: Tensor, like: STFT | None = None) -> None:
        values = values.to(like.device, like.dtype) if like is not None else values
        self.register_buffer(name, values.contiguous(), persistent=False)

    def transform(self, frames: Tensor) -> Tensor:
        """Return spectra `(streams, n_rows, n_frames, 2 * n_short)` of `(streams, n_frames, n_fft)`."""
        rows = self.to_rows @ cut(frames, 2, self.n_long, self.n_short)
        return cut(rows, 2, self.n_rows, 2).transpose(1, 2).flatten(3) @ self.to_bins

    def inverse_transform(self, spectra: Tensor) -> Tensor:
        """Return frames `(streams, n_frames, n_fft)` of spectra as `transform` returns them."""
        rows = cut(spectra @ self.from_bins, 3, 2, self.n_short)
        return (self.from_rows @ rows.transpose(1, 2).flatten(2, 3)).flatten(2)

    def doubled(self, values: Tensor) -> Tensor:
        """Return values `(streams, n_frames, n_fft // 2 + 1)` in the layout of spectra, for both parts."""
        bins = cut(values.index_select(2, self.order), 2, self.n_rows, self.n_short).transpose(1, 2)
        return torch.cat([bins, bins], 3)

    def natural(self, doubled: Tensor) -> Tensor:
        """Undo `doubled`."""
        return doubled[..., : self.n_short].transpose(1, 2).flatten(2).index_select(2, self.places)


def cut(values: Tensor, axis: int, *sizes: int) -> Tensor:
    """Return the values with one axis divided into several axes of these sizes."""
    found: Tensor = values.unflatten(axis, sizes)  # type: ignore[no-untyped-call]
    return found


def factors(n_fft: int) -> tuple[int, int]:
    """Return the two factors of n_fft with the cheapest products, the larger one first."""
    pairs = [(n_fft // n, n) for n in range(1, n_fft + 1) if n_fft % n == 0]
    return min(pairs, key=lambda pair: pair[0] + 2 * pair[1])


def _angles(turns: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of `2 pi turns / n`, in double precision, exact where they are 0, 1 or -1."""
    angles = torch.arange(n, dtype=torch.float64, device="cpu") * (2 * torch.pi / n)
    cos, sin = angles.cos(), angles.sin()
    for quarter, (c, s) in enumerate([(1, 0), (0, 1), (-1, 0), (0, -1)]):
        if quarter * n % 4 == 0:
            cos[quarter * n // 4], sin[quarter * n // 4] = c, s
    return cos[turns % n], sin[turns % n]
