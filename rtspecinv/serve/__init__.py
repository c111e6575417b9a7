"""Server of live streams: clients send frames and receive hops of samples by websocket."""

from rtspecinv.serve.limits import Limits
from rtspecinv.serve.server import Server

__all__ = ["Limits", "Server"]
