"""Implementation of `rtspecinv serve`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rtspecinv.cli._report import note
from rtspecinv.common.threads import one_thread

SWITCH_SECONDS = 0.0005


def serve(args: argparse.Namespace) -> None:
    """Run the server of live streams until SIGTERM or Ctrl-C."""
    try:
        from rtspecinv.serve import Limits, Server
        from rtspecinv.serve.server import serve_until_told
    except ImportError as error:
        raise ImportError(f'{error}: serving needs aiohttp: pip install "rtspecinv[serve]"') from error
    server = Server(args.host, args.port, limits=Limits(streams=args.streams), token=args.token)
    with one_thread(), _switching_often():
        _run()(serve_until_told(server, note))


@contextmanager
def _switching_often() -> Iterator[None]:
    """Return a context in which Python switches threads more often.

    The thread that sends hops then waits less for the thread that computes them.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _run() -> Callable[[Any], object]:
    """Return `uvloop.run` if uvloop is installed, which is faster; otherwise `asyncio.run`."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run
