"""Implementation of `rtspecinv serve`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from typing import Any

from rtspecinv.cli._report import note


def serve(args: argparse.Namespace) -> None:
    """Run the server of live streams until SIGTERM or Ctrl-C."""
    try:
        from rtspecinv.serve import Limits, Server
        from rtspecinv.serve.process import serve_until_told
    except ImportError as error:
        raise ImportError(f'{error}: serving needs aiohttp: pip install "rtspecinv[serve]"') from error
    server = Server(args.host, args.port, limits=Limits(streams=args.streams), token=args.token)
    _run()(serve_until_told(server, note))


def _run() -> Callable[[Any], object]:
    """Return `uvloop.run` if uvloop is installed, which is faster; otherwise `asyncio.run`."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run
