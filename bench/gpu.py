"""Checks and times every engine for a GPU, for short access to a machine that has one.

python bench/gpu.py DIR             runs every step in its own process; rows are written to DIR/results.jsonl
python bench/gpu.py DIR             a second call runs the steps that are not complete
python bench/gpu.py DIR --only times-cuda,most-cuda
python bench/gpu.py DIR --render    prints the tables of bench/README.md; without rows, the computed numbers
python bench/gpu.py DIR --render --write    also writes them into bench/README.md

The script runs from a checkout that is not installed, with torch, numpy and triton. If the checkout has no
repository, the variable RTSPECINV_COMMIT names its commit.

`gpu_checks.py` has the checks, `gpu_times.py` the times, `gpu_machine.py` the facts about the card and the
times of compilation, `gpu_tables.py` the tables, and `gpu_common.py` the settings that these share.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout may not be installed

import gpu_common as common  # noqa: E402
import torch  # noqa: E402
from gpu_checks import checks  # noqa: E402
from gpu_common import Emit, Rows  # noqa: E402
from gpu_machine import compiling, facts, profile  # noqa: E402
from gpu_tables import rendered  # noqa: E402
from gpu_times import most, offline, sizes, times  # noqa: E402

SECONDS = 560  # no step begins later: machines may limit a command to 10 minutes


def steps() -> dict[str, tuple[float, Callable[[Emit], None]]]:
    """Return the steps in their order, by name: the largest duration in seconds, and the function."""
    found: dict[str, tuple[float, Callable[[Emit], None]]] = {
        "facts": (60, facts),
        "compiling": (150, compiling),
    }
    for name, seconds, step in (("checks", 90, checks), ("times", 120, times), ("most", 90, most)):
        found |= {f"{name}-{engine}": (seconds, partial(step, engine=engine)) for engine in common.engines()}
    found["offline"] = (120, offline)
    found |= {f"profile-{engine}": (60, partial(profile, engine=engine)) for engine in common.engines()[:2]}
    return found | {"sizes": (120, sizes)}


def emitter(folder: Path, step: str) -> Emit:
    """Return a function that appends a row to the results at once, so that it outlives the process."""

    def emit(**row: Any) -> None:
        with (folder / "results.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(step, row, flush=True)

    return emit


def run_step(folder: Path, name: str) -> int:
    """Run one step in this process; return the exit status."""
    emit = emitter(folder, name)
    emit(begin=True)
    try:
        steps()[name][1](emit)
    except Exception as error:
        traceback.print_exc()
        emit(failed=common.short(error))
        return 1
    emit(done=True)
    return 0


def in_a_process(command: list[str], seconds: float) -> None:
    """Run a command for at most `seconds`."""
    subprocess.run(command, timeout=seconds, check=False)


def visit(folder: Path, names: list[str], seconds: float) -> None:
    """Run the steps that are not complete, each in its own process and for at most its duration."""
    end = time.monotonic() + seconds
    done = {row["step"] for row in read(folder) if row.get("done")}
    for name in names:
        left = end - time.monotonic()
        if name in done or left < 5:
            print(f"{name}: {'complete' if name in done else 'no time is left'}", flush=True)
            continue
        command = [sys.executable, str(Path(__file__)), str(folder), "--step", name]
        try:
            in_a_process(command, min(steps()[name][0], left))
        except subprocess.TimeoutExpired:
            emitter(folder, name)(failed="the step took too long")


def read(folder: Path) -> list[dict[str, Any]]:
    """Return all rows so far, without a last line that is incomplete."""
    path = folder / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def latest(rows: list[dict[str, Any]]) -> Rows:
    """Return the rows of every step since it last began."""
    found: Rows = {}
    for row in rows:
        if row.get("begin"):
            found[row["step"]] = []
        elif not row.get("done"):
            found.setdefault(row["step"], []).append(row)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "gpu", metavar="DIR")
    parser.add_argument("--only", metavar="STEP,...", help=f"steps to run, of {', '.join(steps())}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time after which no step begins")
    parser.add_argument("--render", action="store_true", help="print the tables")
    parser.add_argument("--write", action="store_true", help="with --render: write them into bench/README.md")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.render:
        tables = rendered(latest(read(args.folder)))
        print("\n".join(tables.values()))
        if args.write:
            readme = ROOT / "bench" / "README.md"
            pattern = r"(<!-- gpu:begin -->\n).*(<!-- gpu:end -->)"
            text = "\n".join(tables.values())
            readme.write_text(
                re.sub(
                    pattern, lambda found: f"{found[1]}\n{text}\n{found[2]}", readme.read_text(), flags=re.S
                )
            )
        return 0
    names = args.only.split(",") if args.only else list(steps())
    if unknown := sorted(set(names) - set(steps())):
        parser.error(f"no step is named {', '.join(unknown)}: use {', '.join(steps())}")
    if not torch.cuda.is_available():
        print("This machine has no GPU to measure: --render prints the tables", file=sys.stderr)
        return 1
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.step:
        return run_step(args.folder, args.step)
    visit(args.folder, names, args.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
