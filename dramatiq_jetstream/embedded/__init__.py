"""A nats-server for development and tests: found, started and stopped from Python."""

from __future__ import annotations

from .server import NatsServer

__all__ = ["NatsServer"]
