"""Makes the tables of a script, prints them, and writes them into bench/README.md."""

from __future__ import annotations

import argparse
import datetime
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import protocol
import torch
from tables import Bench

from rtspecinv.measure.machine import commit, processor

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_AUDIO = ROOT.parent / "shared" / "audio"
README = ROOT / "bench" / "README.md"
SUMMARIES = {  # pages that contain a few rows of a table, between markers of these names
    "measured": "README.md",
    "offline": "docs/whole.md",
    "mel": "docs/mel.md",
    "live": "docs/live.md",
    "pictures": "docs/files.md",
    "folders": "docs/files.md",
    "cluster": "docs/cluster.md",
    "export": "docs/export.md",
}
BEGIN = 0.5  # start of a clip in its recording, seconds

Section = Callable[[Bench], str]


def run(
    description: str,
    sections: Mapping[str, Section],
    usual: str,
    script: str,
    after: Callable[[str, Bench], None] = lambda name, bench: None,
) -> int:
    """Make the tables that the command line asks for; call `after` with the name of each one written."""
    args = parse(description, sections, usual)
    torch.set_num_threads(1)
    try:
        bench = Bench(recordings(args.audio), args.clips_from)
        print(f"Clips: {', '.join(bench.clips(protocol.STANDARD).names)}\n")
    except protocol.NoRecordings as error:
        print(error, file=sys.stderr)
        return 1
    for name in args.only:
        text = render(name, sections[name], bench, command(args, script, name))
        print(text, flush=True)
        if args.write:
            write(script, list(sections), name, text)
            after(name, bench)
    return 0


def parse(description: str, sections: Mapping[str, Section], usual: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--audio", type=Path, metavar="DIR", help="recordings; default ../shared/audio, else the demo clip"
    )
    parser.add_argument("--only", metavar="NAME,...", default=usual, help=f"tables to make, else {usual}")
    parser.add_argument("--all", action="store_true", help="make all tables")
    parser.add_argument(
        "--clips-from", type=float, metavar="SECONDS", default=BEGIN, help="where clips begin"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into bench/README.md too")
    args = parser.parse_args()
    args.only = list(sections) if args.all else args.only.split(",")
    if unknown := sorted(set(args.only) - set(sections)):
        parser.error(f"no table {', '.join(unknown)}: there are {', '.join(sections)}")
    return args


def command(args: argparse.Namespace, script: str, name: str) -> str:
    """Return the command that makes one table again; a folder of recordings is given by its name only."""
    audio = f" --audio {args.audio.resolve().name}" if args.audio else ""
    begin = f" --clips-from {args.clips_from:g}" if args.clips_from != BEGIN else ""
    return f"bench/{script}.py --only {name}{audio}{begin}"


def recordings(folder: Path | None) -> list[Path]:
    """Return the recordings to measure; an empty list means the demo clip."""
    if folder is None and not DEFAULT_AUDIO.is_dir():
        print(
            "No ../shared/audio here: this measures the package's demo clip, pass --audio DIR for others.\n"
        )
        return []
    return protocol.files_in(folder or DEFAULT_AUDIO)


def render(name: str, section: Section, bench: Bench, command: str) -> str:
    title, _, caption = " ".join((section.__doc__ or "").split()).partition(".")
    begin = time.perf_counter()
    rows = section(bench)
    parts = [
        f"### {heading(name)}: {title[0].lower()}{title[1:]}",
        caption.strip(),
        rows,
        stamp(command, time.perf_counter() - begin),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def stamp(command: str, seconds: float) -> str:
    """Return a line with date, commit, machine, versions, duration and command of a table."""
    today = datetime.date.today()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, 1 thread"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"<sub>{today}, commit {commit()}, {processor()}{gpu}, {versions}, {seconds:.0f} s: `{command}`</sub>"
    )


def named(*sections: Section) -> dict[str, Section]:
    """Return tables by their names in `--only`: function `stream_quality` makes table `stream-quality`."""
    return {section.__name__.replace("_", "-"): section for section in sections}


def heading(name: str) -> str:
    """Return the heading of a table: "Stream quality" for `stream-quality`."""
    words = name.replace("-", " ")
    return words.replace("gpu", "GPU") if words.startswith("gpu") else words.capitalize()


def write(script: str, names: Sequence[str], name: str, section: str) -> None:
    """Write a table between the script's markers in bench/README.md; its other tables do not change."""
    old = between(README, script)
    parts = [part.strip() + "\n" for part in re.split(r"^(?=### )", old, flags=re.M) if part.strip()]
    kept = {part[4:].partition(":")[0]: part for part in parts} | {heading(name): section}
    order = [heading(known) for known in names]
    if strangers := sorted(set(kept) - set(order)):
        raise SystemExit(f"{README.name} has tables that bench/{script}.py does not make: {strangers}")
    replace_between(README, script, "\n".join(kept[title] for title in order if title in kept))


def summarise(name: str, text: str) -> None:
    """Write a few rows with their caption and origin into the page that shows them."""
    replace_between(ROOT / SUMMARIES[name], name, f"{text}\n")


def between(page: Path, name: str) -> str:
    found = re.search(rf"<!-- {name}:begin -->(.*)<!-- {name}:end -->", page.read_text(), re.S)
    if not found:
        raise SystemExit(f"{page.name} has no lines <!-- {name}:begin --> and <!-- {name}:end -->.")
    return found[1]


def replace_between(page: Path, name: str, text: str) -> None:
    begin, end = (f"<!-- {name}:{side} -->" for side in ("begin", "end"))
    old = f"{begin}{between(page, name)}{end}"
    page.write_text(page.read_text().replace(old, f"{begin}\n\n{text}\n{end}"))
