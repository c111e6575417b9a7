"""The command line `rtspecinv`; parser.py has all its subcommands."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error, 130 after Ctrl-C."""
    from rtspecinv.cli.program import INTERRUPTED, leave_when_interrupted_again, run, say_interrupted

    try:
        return run(argv)
    except KeyboardInterrupt:
        if argv is None:  # this is a program, which ends now
            leave_when_interrupted_again()
        say_interrupted()
        return INTERRUPTED
