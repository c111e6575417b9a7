"""The parser of the command line, which gets the options of each subcommand from its module."""

from __future__ import annotations

import argparse
from importlib import import_module

import rtspecinv

SUBCOMMANDS = (
    *("play", "live", "serve", "invert", "image", "picture", "compare", "demo", "export", "bench"),
    *("devices", "doctor"),
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands."""
    top = argparse.ArgumentParser(
        prog="rtspecinv", description="Turn magnitude spectrograms into sound while they arrive."
    )
    top.add_argument("--version", action="version", version=f"rtspecinv {rtspecinv.__version__}")
    subparsers = top.add_subparsers(metavar="COMMAND", required=True)
    for name in SUBCOMMANDS:
        command = import_module(f"rtspecinv.cli.{name}")
        sub = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.DESCRIPTION,
            epilog=f"example:\n  {command.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_options(sub)
        sub.set_defaults(command=name, runs=command.RUNS)
    return top
