"""`rtspecinv serve`: its options."""

from __future__ import annotations

import argparse

from rtspecinv.cli import _names as names

RUNS = "_serve.serve"
HELP = "serve live streams by websocket: frames in, samples out"
DESCRIPTION = """\
Serve live streams by websocket: a client sends magnitude or mel frames, and receives a hop of
samples for each. docs/serve.md describes the messages. On SIGTERM and Ctrl-C, the server sends
the remaining samples of every stream, and ends."""
EXAMPLE = "rtspecinv serve --port 8765 --streams 64"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `rtspecinv serve`."""
    parser.add_argument(
        "--host",
        default=names.SERVE_HOST,
        help="address to listen on; one that other machines can reach needs --token (default: %(default)s)",
    )
    parser.add_argument(
        "--port",
        metavar="N",
        type=int,
        default=names.SERVE_PORT,
        help="port; 0 selects a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--streams",
        metavar="N",
        type=int,
        default=names.SERVE_STREAMS,
        help="largest number of clients at once; others are rejected (default: %(default)s)",
    )
    parser.add_argument("--token", metavar="T", help="secret word that clients must send (default: none)")
