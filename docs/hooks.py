"""Hooks of mkdocs that insert parts of other files, a table of the presets and sounds into the pages.

`<!-- include FILE -->` includes a file of the project, and `<!-- include FILE#MARK -->` the part of it
between `<!-- MARK:begin -->` and `<!-- MARK:end -->`, which the benchmarks write. `<!-- presets -->` is
replaced by a table of the presets, and `<!-- sounds -->` by sounds that are computed when the site is built.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import rtspecinv
from rtspecinv.measure.clip import SAMPLE_RATE, render
from rtspecinv.measure.quality import inner_convergence
from rtspecinv.mel.models import CONFIGS

ROOT = Path(__file__).resolve().parent.parent
PRESET = "hifigan-22k"


@dataclass(frozen=True)
class Example:
    """A sound of the start page.

    name: name of the file, without its suffix.
    title: description in Markdown.
    samples: `(n_samples,)` within -1 to 1 at the rate of the clip.
    latency: latency of the inverter, samples; None for the clip itself.
    convergence: spectral convergence against the clip in dB, of the frames that were inverted.
    """

    name: str
    title: str
    samples: torch.Tensor
    latency: int | None = None
    convergence: float | None = None


def on_files(files: Any, config: Any) -> Any:
    """Add the sounds to the files of the site."""
    from mkdocs.structure.files import File

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one thread is fastest, because the operations of a push are small
    try:
        found = examples()
    finally:
        torch.set_num_threads(n_threads)
    for example in found:
        wav = rtspecinv.Sound(example.samples.numpy(), SAMPLE_RATE).wav
        files.append(File.generated(config, f"sounds/{example.name}.wav", content=wav))
    return files


def on_page_markdown(markdown: str, **context: Any) -> str:
    """Insert the requested parts into a page, and adapt links from and to the page of the benchmarks."""
    if "<!-- sounds -->" in markdown:
        markdown = markdown.replace("<!-- sounds -->", _sounds())
    markdown = markdown.replace("<!-- presets -->", _presets())
    markdown = re.sub(r"<!-- include ([\w./]+)(?:#(\w+))? -->", _included, markdown)
    markdown = re.sub(r"\]\((?:\.\./)?bench/README\.md", "](measured.md", markdown)
    return markdown.replace("](../docs/", "](")


@cache
def examples() -> list[Example]:
    """Return the demo clip, and the results of several inverters for its magnitudes or mel frames."""
    clip, stft = torch.from_numpy(render()), rtspecinv.STFT(1024, 256)
    magnitude, found = stft.magnitude(clip), [Example("clip", "the clip itself", clip)]
    for look_ahead in (0, 3):
        for name, title, update in (
            ("textbook", "textbook (RTISI-LA)", "rtisi"),
            ("stream", "**rtspecinv**", "raar"),
        ):
            inverter = rtspecinv.StreamingInverter(stft, update=update, look_ahead=look_ahead)
            samples = inverter.run(magnitude)
            convergence = inner_convergence(stft.magnitude(samples), magnitude)
            title = f"{title}, look_ahead {look_ahead}"
            name = f"{name}-{look_ahead}"
            found.append(Example(name, title, samples, inverter.latency, float(convergence)))
    preset = rtspecinv.presets[PRESET]
    inverter, mel = preset.inverter(look_ahead=3), preset(clip)
    samples = inverter.run(mel)
    convergence = inner_convergence(preset.linear(samples), preset.expand(mel))
    title = f"**rtspecinv**, from {preset.config.n_mels} mel bands (`{PRESET}`), look_ahead 3"
    return [*found, Example("mel-3", title, samples, inverter.latency, float(convergence))]


def _sounds() -> str:
    """Return the table of the sounds, with players."""
    rows = ["| sound | listen | latency | spectral convergence |", "|---|---|---|---|"]
    for example in examples():
        player = f'<audio controls preload="none" src="sounds/{example.name}.wav"></audio>'
        latency = "" if example.latency is None else f"{1000 * example.latency / SAMPLE_RATE:.0f} ms"
        convergence = "" if example.convergence is None else f"{example.convergence:.1f} dB"
        rows.append(f"| {example.title} | {player} | {latency} | {convergence} |")
    return "\n".join(rows)


def _included(match: re.Match[str]) -> str:
    name, mark = match.groups()
    text = (ROOT / name).read_text("utf-8")
    if mark:
        text = text.split(f"<!-- {mark}:begin -->")[1].split(f"<!-- {mark}:end -->")[0].strip()
    return text


def _presets() -> str:
    """Return the table of the presets, from their configurations."""
    rows = [
        "| preset | rate | n_fft, hop | bands | bins per band | up to Hz | scale | values |",
        "|" + "---|" * 8,
    ]
    for name, config in CONFIGS.items():
        curve = {"power": "root"}.get(config.compression.curve, config.compression.curve)
        cells = (
            f"`{name}`",
            config.sample_rate,
            f"{config.n_fft}, {config.hop_length}",
            config.n_mels,
            f"{config.bins_per_band:.1f}",
            f"{config.highest:g}",
            "Kaldi" if config.slopes == "mel" else {"htk": "HTK", "slaney": "Slaney"}[config.scale],
            f"{curve}, powers" if config.power == 2 else curve,
        )
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)
