"""The command line `rtspecinv`; parser.py has all its subcommands."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error, 130 after Ctrl-C."""
    from rtspecinv.cli.program import INTERRUPTED, run, say_interrupted

    try:
        return run(argv)
    except KeyboardInterrupt:
        say_interrupted()
        return INTERRUPTED
