"""A nats-server for development and tests: found, started and stopped from Python."""

from __future__ import annotations

from .server import NatsServer
from .server_process import BINARY_VARIABLE

__all__ = ["BINARY_VARIABLE", "NatsServer"]
