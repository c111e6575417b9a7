"""Makes the tables of `gpu.py` from its rows."""

from __future__ import annotations

import math
from typing import Any

from gpu_common import Rows


def gpu_goals(rows: Rows) -> str:
    """Targets of the engines for a GPU.

    The targets are for an H100 at 22.05 kHz, 1024/256, look_ahead 3, 8 iterations, float32. "On paper" is
    computed from the numbers of launches and instructions, not measured. The time of a stream is from the
    frame in GPU memory to the hop in GPU memory, including the check of the frame.
    """

    def of(step: str) -> list[dict[str, Any]]:
        return [row for name, found in rows.items() if name.startswith(step) for row in found]

    times = {
        (r["engine"], r["streams"]): r["p50"] for r in of("times-") if "p50" in r and r["check"] == "now"
    }
    most = {r["engine"]: r["streams"] for r in of("most-") if "streams" in r}
    first = "error of a push, raar"
    errors = {r["engine"]: r["value"] for r in of("checks-") if r.get("what") == first and "value" in r}
    inverts = [r for r in of("offline") if r.get("what") == "invert" and "seconds" in r]
    inverted = {r["engine"]: r["seconds"] for r in inverts if r["clips"] == 64}
    launches = {r["engine"]: r["kernels"] for r in of("profile-") if "kernels" in r}

    def cell(found: dict[Any, float], key: Any, form: str) -> str:
        return form.format(found[key]) if key in found else "not measured"

    graph, kernel, keep_up = "`cuda_graph`", "`cuda`", "streams with p99 < 11.6 ms"
    lines = [
        [f"one stream, p50, {graph}", "200 µs", "120 to 160 µs", cell(times, ("cuda_graph", 1), "{:.0f} µs")],
        [
            f"one stream, p50, {kernel}",
            "60 µs, then 35",
            "45 to 60 µs",
            cell(times, ("cuda", 1), "{:.0f} µs"),
        ],
        [f"{keep_up}, {graph}", "5,000", "11,000 to 13,000", cell(most, "cuda_graph", "{:,}")],
        [f"{keep_up}, {kernel}", "25,000, then 45,000", "40,000 to 50,000", cell(most, "cuda", "{:,}")],
        [
            f"error of a push, noise, {graph}",
            "1e-5",
            "8.7e-7, on a CPU",
            cell(errors, "cuda_graph", "{:.1e}"),
        ],
        [f"error of a push, noise, {kernel}", "1e-5", "5.5e-7", cell(errors, "cuda", "{:.1e}")],
        ["`invert` of 64 clips of 4 s", "50 times the CPU", "", cell(inverted, "cuda_graph", "{:.2f} s")],
        [f"launches of a push, {graph}", "75", "71", cell(launches, "cuda_graph", "{}")],
    ]
    return table(["quantity", "target", "on paper", "measured"], lines)


def gpu_checks(rows: Rows) -> str:
    """Engines for a GPU compared with `eager` in float64, and with themselves.

    "Error" is the largest error of one push in float32 from the same state, relative to the loudest sample;
    its limit is 1e-5.
    """
    found = [row for name in rows if name.startswith("checks-") for row in rows[name] if "what" in row]
    return table(
        ["engine", "what", "value", ""],
        [
            [r["engine"], r["what"], r.get("error") or f"{r['value']:.2g}", "ok" if r.get("ok") else "FAILED"]
            for r in found
        ],
    )


def gpu_times(rows: Rows) -> str:
    """A push on the GPU, by engine, number of streams and check.

    Times are in µs. "On the GPU" is the time between events before and after the push, "host" the time until
    the call returns; the percentiles are of the time until the GPU has finished. "Made" is the time to make
    the inverter, "first" that of its first push, both in ms. "GB" is the peak of GPU memory.
    """
    names = ("gpu_p50", "host_p50", "p50", "p95", "p99")
    found = [row for name in rows if name.startswith("times-") for row in rows[name] if "streams" in row]
    return table(
        [
            "engine",
            "streams",
            "check",
            "on the GPU",
            "host",
            "p50",
            "p95",
            "p99",
            "made, ms",
            "first, ms",
            "GB",
        ],
        [
            [r["engine"], f"{r['streams']:,}", r["check"], r["error"], *[""] * 7]
            if "error" in r
            else [
                r["engine"],
                f"{r['streams']:,}",
                r["check"],
                *(f"{r[name]:.0f}" for name in names),
                f"{r['made_ms']:.0f}",
                f"{r['first_ms']:.1f}",
                f"{r['peak_gb']:.2f}",
            ]
            for r in found
        ],
    )


def gpu_streams(rows: Rows) -> str:
    """Largest number of streams of which 99 of 100 pushes take less than the duration of a hop, 11.6 ms."""
    found = [row for name in rows if name.startswith("most-") for row in rows[name] if "streams" in row]
    return table(
        ["engine", "streams", "p99, ms"],
        [[r["engine"], f"{r['streams']:,}", f"{(r['p99_us'] or math.nan) / 1000:.2f}"] for r in found],
    )


def gpu_offline(rows: Rows) -> str:
    """Whole spectrograms on the GPU, in seconds; "engine" is that of the stream at the start."""
    return table(
        ["what", "engine", "clips", "seconds each", "seconds"],
        [
            [
                r["what"],
                r["engine"],
                str(r["clips"]),
                f"{r['clip_seconds']:g}",
                r.get("error") or f"{r['seconds']:.3f}",
            ]
            for r in rows.get("offline", [])
            if "what" in r
        ],
    )


def gpu_sizes(rows: Rows) -> str:
    """Other transforms and rules: error of a push, and p50 of one stream in µs."""
    return table(
        ["engine", "setting", "error", "p50"],
        [
            [
                r["engine"],
                r["setting"],
                r.get("error") or f"{r['error_of_push']:.1e}",
                f"{r['p50']:.0f}" if "p50" in r else "",
            ]
            for r in rows.get("sizes", [])
            if "engine" in r
        ],
    )


def gpu_kernels(rows: Rows) -> str:
    """The longest kernels of one push of one stream, µs."""
    found = [row for name in rows if name.startswith("profile-") for row in rows[name] if "kernel" in row]
    return table(
        ["engine", "kernel", "count", "µs"],
        [[r["engine"], f"`{r['kernel']}`", str(r["count"]), f"{r['us']:.1f}"] for r in found if r["us"]],
    )


TABLES = (gpu_goals, gpu_checks, gpu_times, gpu_streams, gpu_offline, gpu_sizes, gpu_kernels)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown with aligned columns; empty without rows."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def rendered(rows: Rows) -> dict[str, str]:
    """Return the tables that have rows, by name."""
    about = next((row for row in rows.get("facts", []) if "commit" in row), None)
    where = (
        "{date}, commit {commit}, {gpu}, Python {python}, torch {torch}".format(**{"gpu": "no GPU"} | about)
        if about
        else "Nothing has been measured so far"
    )
    where = f"<sub>{where}: `bench/gpu.py --render`</sub>"
    found = {}
    for make in TABLES:
        title, _, caption = " ".join((make.__doc__ or "").split()).partition(". ")
        if text := make(rows):
            name = make.__name__.replace("_", "-")
            words = name.replace("-", " ").replace("gpu", "GPU")
            heading = f"### {words}: {title[0].lower()}{title[1:].rstrip('.')}"
            found[name] = "\n\n".join(part for part in (heading, caption, text, where) if part) + "\n"
    return found
