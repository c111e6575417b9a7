"""A server of live streams: frames in and hops out, by websocket."""

from rtspecinv.serve.limits import Limits
from rtspecinv.serve.server import Server

__all__ = ["Limits", "Server"]
