"""Runs the tests that play through a sound server beside all others, which give way to them.

The former wait most of the time, one at a time, but are late where the machine is busy. With CI=true, where
time does not matter as much as that, the others come afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

PYTEST = [sys.executable, "-m", "pytest", "--benchmark-disable"]


def give_way() -> None:
    """Work only while nobody else wants to."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


def main() -> int:
    with tempfile.TemporaryFile() as said:
        card = subprocess.Popen([*PYTEST, "-m", "card"], stdout=said, stderr=subprocess.STDOUT)
        if os.environ.get("CI"):
            card.wait()
        else:
            give_way()
        others = subprocess.Popen([*PYTEST, "--numprocesses", "auto", "-m", "not card"])
        try:
            statuses = [others.wait(), card.wait()]
        except KeyboardInterrupt:  # which both have heard
            statuses = [others.wait(), card.wait()]
        said.seek(0)
        sys.stdout.buffer.write(said.read())
    return max(statuses)


sys.exit(main())
