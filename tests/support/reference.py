"""Reference of streaming inversion, written directly from the equations, in float64 with explicit loops.

It is slow, and inverts one whole spectrogram to a whole signal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from rtspecinv import STFT
from rtspecinv.frames import FADE, MIN_COVERAGE, MIN_COVERAGE_AT_START

Frames = dict[int, np.ndarray]
Projection = Callable[[Frames], Frames]
Place = Callable[[int], float]  # position of a frame in the buffer, from -1 (oldest) to 1 (newest)


def burst(last: int) -> np.ndarray:
    """Return the signs of bins that are 0: `(-1)^k` times Rudin-Shapiro signs of pairs; 1 at both ends."""
    pairs = [bin(j & (j >> 1)).count("1") for j in range(last + 1)]
    values = [(-1) ** (k + pairs[(k + 1) // 2]) for k in range(last)]
    return np.array([*values, 1])


def each(function: Callable[..., np.ndarray], *frames: Frames) -> Frames:
    return {t: function(*(f[t] for f in frames)) for t in frames[0]}


def griffin_lim(momentum: float):
    def step(
        c: Frames, carried: list[Frames], p_m: Projection, p_c: Projection, place: Place
    ) -> tuple[Frames, list[Frames]]:
        s = p_c(p_m(c))
        return each(lambda s, previous: s + momentum * (s - previous), s, s | carried[0]), [s]

    return step


def raar(beta: float, ramp: float, momentum: float):
    def step(c, carried, p_m, p_c, place):
        a = p_m(c)
        s = p_c(each(lambda a, c: 2 * a - c, a, c))
        previous = s | carried[0]
        new = {}
        for t in c:
            b = min(1.0, beta + ramp * place(t))
            new[t] = b * (c[t] + s[t] - a[t]) + (1 - b) * a[t] + momentum * (s[t] - previous[t])
        return new, [s]

    return step


def difference_map(beta: float):
    def step(c, carried, p_m, p_c, place):
        a, s = p_m(c), p_c(c)
        f_m = each(lambda a, c: a + (a - c) / beta, a, c)
        f_c = each(lambda s, c: s - (s - c) / beta, s, c)
        return each(lambda c, x, y: c + beta * (x - y), c, p_c(f_m), p_m(f_c)), []

    return step


def admm(rho: float):
    def step(z, carried, p_m, p_c, place):
        (u,) = carried
        x = p_m(each(np.subtract, z, u))
        y = each(np.add, x, u)
        z = each(lambda y, s: (rho * y + s) / (1 + rho), y, p_c(y))
        return z, [each(lambda u, x, z: u + x - z, u, x, z)]

    return step


def accelerated(alpha: float, beta: float, gamma: float):
    def step(c, carried, p_m, p_c, place):
        s = p_c(p_m(c))
        t, d = s | carried[0], s | carried[1]
        new = each(lambda d, s: (1 - gamma) * d + gamma * s, d, s)
        c = each(lambda new, t: new + alpha * (new - t), new, t)
        return c, [new, each(lambda new, t: new + beta * (new - t), new, t)]

    return step


# Name: step; carried arrays of a new frame as multiples of its start, None for none; committed spectrum.
RULES: dict[str, tuple[Any, list[float | None], str]] = {
    "gla": (griffin_lim(0.0), [None], "consistent"),
    "rtisi": (griffin_lim(0.0), [None], "consistent"),
    "fgla": (griffin_lim(0.99), [None], "consistent"),
    "raar": (raar(0.78, 0.2, 0.0), [None], "shadow"),
    "raar with momentum": (raar(0.78, 0.2, 0.3), [None], "shadow"),
    "dm": (difference_map(1.0), [], "shadow"),
    "admm": (admm(0.1), [0.0], "shadow"),
    "agla": (accelerated(0.99, 0.99, 1.25), [None, None], "shadow"),
}


def invert(
    S: np.ndarray, stft: STFT, update: str, *, look_ahead: int, revise: int, n_iter: int
) -> np.ndarray:
    """Return the samples of magnitudes (n_freq, n_frames), as many as the inverse STFT; start: overlap."""
    step, carried_start, committed = RULES[update]
    n_fft, hop, n_frames = stft.n_fft, stft.hop_length, S.shape[-1]
    w, d = stft.window.double().numpy(), stft.dual_window.double().numpy()
    norm: Literal["ortho", "backward"] = "ortho" if stft.normalized else "backward"
    S = S[: n_fft // 2 + 1]
    nothing = burst(n_fft // 2)
    n_samples = (n_frames - 1) * hop + n_fft
    heard, n_heard = np.zeros(n_samples), 0  # final samples and their number
    n_fade = min(round(FADE * hop), n_fft - hop) if revise else 0
    expected = np.zeros(n_fade)  # next samples, as expected by the last push
    left, left_sum = np.zeros(n_samples), np.zeros(n_samples)  # samples and window sum of final frames
    c: Frames = {}
    carried: list[Frames] = [{} for _ in carried_start]

    def place(t: int) -> float:
        n_slots = revise + 1 + look_ahead
        return 1 - 2 * (now - t) / (n_slots - 1) if n_slots > 1 else 0.0

    def p_m(y: Frames) -> Frames:
        return {t: S[:, t] * np.where(y[t] == 0, nothing, np.exp(1j * np.angle(y[t]))) for t in y}

    def overlap_add(y: Frames) -> np.ndarray:
        x = left.copy()
        for t, frame in y.items():
            x[t * hop : t * hop + n_fft] += d * np.fft.irfft(frame, n_fft, norm=norm)
        x[:n_heard] = heard[:n_heard]
        return x

    def window_sum(frames: list[int]) -> np.ndarray:
        e = left_sum.copy()
        for t in frames:
            e[t * hop : t * hop + n_fft] += w * d
        e[:n_heard] = 1
        return e

    def analyze(x: np.ndarray, t: int, window: np.ndarray) -> np.ndarray:
        return np.fft.rfft(x[t * hop : t * hop + n_fft] * window, norm=norm)

    def p_c(y: Frames) -> Frames:
        x, e = overlap_add(y), np.maximum(window_sum(list(y)), MIN_COVERAGE)
        return {t: analyze(x, t, window_of(t, e)) for t in y}

    def window_of(t: int, e: np.ndarray) -> np.ndarray:
        if update != "rtisi":
            return w / e[t * hop : t * hop + n_fft]
        return mirrored_envelope(0) if t == now else w

    def mirrored_envelope(first: int) -> np.ndarray:
        envelope = np.zeros(n_fft)
        for q in range(first, stft.look_back + 1):
            for n in range(n_fft - q * hop):
                envelope[n] += d[n + q * hop]
        return np.array([envelope[-1 - (n - 1) % n_fft] for n in range(n_fft)])

    for now in range(n_frames + look_ahead + stft.look_back):
        if now < n_frames:
            x = overlap_add(p_m(c))
            e = np.maximum(window_sum(list(c)), MIN_COVERAGE_AT_START)[now * hop : now * hop + n_fft]
            window = w / e if update != "rtisi" else mirrored_envelope(1) if stft.look_back > 1 else w
            c[now] = analyze(x, now, window)
            for array, factor in zip(carried, carried_start, strict=True):
                if factor is not None:
                    array[now] = factor * c[now]
        for _ in range(n_iter):
            c, carried = step(c, carried, p_m, p_c, place)
        estimate = (
            p_m(p_c(p_m(c)))
            if committed == "shadow" and n_iter
            else p_m(carried[0] if committed == "consistent" and n_iter else c)
        )
        due = (now - look_ahead) * hop  # position of the hop that this push returns
        known = overlap_add(estimate) / np.maximum(window_sum(list(c)), MIN_COVERAGE)
        if 0 <= due < n_samples:
            n_heard = min(due + hop, n_samples)
            heard[due:n_heard] = known[due:n_heard]
            for i in range(min(n_fade, n_heard - due)):
                fade = 0.5 - 0.5 * np.cos(np.pi * i / n_fade)
                heard[due + i] = expected[i] + fade * (known[due + i] - expected[i])
        if due + hop >= 0:
            expected = np.append(known[due + hop :], np.zeros(n_fade))[:n_fade]
        gone = now - look_ahead - revise
        if gone in c:
            left[gone * hop : gone * hop + n_fft] += d * np.fft.irfft(estimate[gone], n_fft, norm=norm)
            left_sum[gone * hop : gone * hop + n_fft] += w * d
            for frames in (c, *carried):
                frames.pop(gone, None)
    return heard[stft.padding : n_samples - stft.padding]
