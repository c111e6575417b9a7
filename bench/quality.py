"""Prints how good and how fast streaming inversion is; see bench/README.md.

python bench/quality.py                    every table but g, the slow one
python bench/quality.py --only a,d         some of them
python bench/quality.py --all --write      every table, put into bench/README.md as well
python bench/quality.py --audio DIR        of other recordings; those named speech_* get PESQ and ESTOI
"""

from __future__ import annotations

import argparse
import datetime
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import protocol
import torch
from tables import SECTIONS, Bench, summary

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_AUDIO = ROOT.parent / "shared" / "audio"
README = ROOT / "bench" / "README.md"
BEGIN = 0.5  # seconds
USUAL = "a,b,c,d,e,f"  # g takes as long as all the others


def render(letter: str, bench: Bench, command: str) -> str:
    section = SECTIONS[letter]
    title, _, caption = " ".join((section.__doc__ or "").split()).partition(".")
    begin = time.perf_counter()
    rows = section(bench)
    parts = [f"### {letter}. {title}", caption.strip(), rows, stamp(command, time.perf_counter() - begin)]
    return "\n\n".join(part for part in parts if part) + "\n"


def stamp(command: str, seconds: float) -> str:
    """Where and when a table was made."""
    today = datetime.date.today()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, 1 thread"
    return f"<sub>{today}, commit {commit()}, {cpu()}, {versions}, {seconds:.0f} s: `{command}`</sub>"


def commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--", "rtspecinv")
        return (git("rev-parse", "--short", "HEAD") or "unknown") + (" and changes" if changes else "")
    except OSError:
        return "unknown"


def cpu() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def write(sections: dict[str, str]) -> None:
    """Put sections between the markers of bench/README.md, those not given staying as they are."""
    old = between(README, "quality")
    kept = {part[4]: part.strip() + "\n" for part in re.split(r"^(?=### )", old, flags=re.M) if part.strip()}
    replace_between(README, "quality", "\n".join(text for _, text in sorted((kept | sections).items())))


def write_summary(bench: Bench) -> None:
    """Put the few rows that sum up section a into the README of the project."""
    caption = (
        f"Mean of {len(bench.clips(protocol.A).names)} recordings, 4 s each, 22.05 kHz, n_fft 1024, hop 256. "
        "SC is spectral convergence, the lower the better; PESQ (wideband) and ESTOI are of the speech among "
        "them; textbook is RTISI-LA; latency is that of the inverter. Real-time factor: seconds of work per "
        "second of sound, engine `eager` on one core.\n\n"
    )
    origin = (
        f"From [bench/README.md](bench/README.md), commit {commit()}, {cpu()}, torch {torch.__version__}."
    )
    replace_between(ROOT / "README.md", "measured", f"{summary(bench)}\n\n{caption}{origin}\n")


def between(page: Path, name: str) -> str:
    found = re.search(rf"<!-- {name}:begin -->(.*)<!-- {name}:end -->", page.read_text(), re.S)
    if not found:
        raise SystemExit(f"{page.name} has no lines <!-- {name}:begin --> and <!-- {name}:end -->.")
    return found[1]


def replace_between(page: Path, name: str, text: str) -> None:
    begin, end = (f"<!-- {name}:{side} -->" for side in ("begin", "end"))
    old = f"{begin}{between(page, name)}{end}"
    page.write_text(page.read_text().replace(old, f"{begin}\n\n{text}\n{end}"))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--audio", type=Path, metavar="DIR", help="recordings; default ../shared/audio, else the demo clip"
    )
    parser.add_argument("--only", metavar="a,b,...", default=USUAL, help=f"tables to make, else {USUAL}")
    parser.add_argument("--all", action="store_true", help="make all tables")
    parser.add_argument(
        "--clips-from", type=float, metavar="SECONDS", default=BEGIN, help="where clips begin"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into bench/README.md too")
    args = parser.parse_args(arguments)
    args.only = list(SECTIONS) if args.all else args.only.split(",")
    if unknown := sorted(set(args.only) - set(SECTIONS)):
        parser.error(f"no table {', '.join(unknown)}: there are {', '.join(SECTIONS)}")
    return args


def command(args: argparse.Namespace, letter: str) -> str:
    """What makes one table again; of a folder, only its name."""
    audio = f" --audio {args.audio.resolve().name}" if args.audio else ""
    begin = f" --clips-from {args.clips_from:g}" if args.clips_from != BEGIN else ""
    return f"bench/quality.py --only {letter}{audio}{begin}"


def recordings(folder: Path | None) -> list[Path]:
    """Files to measure; none means the demo clip."""
    if folder is None and not DEFAULT_AUDIO.is_dir():
        print(
            "No ../shared/audio here: this measures the package's demo clip, pass --audio DIR for others.\n"
        )
        return []
    return protocol.files_in(folder or DEFAULT_AUDIO)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    torch.set_num_threads(1)
    try:
        bench = Bench(recordings(args.audio), args.clips_from)
        print(f"Clips: {', '.join(bench.clips(protocol.A).names)}\n")
    except protocol.NoRecordings as error:
        print(error, file=sys.stderr)
        return 1
    for letter in args.only:
        text = render(letter, bench, command(args, letter))
        print(text, flush=True)
        if args.write:
            write({letter: text})
            if letter == "a" and bench.files:
                write_summary(bench)
    return 0


if __name__ == "__main__":
    sys.exit(main())
