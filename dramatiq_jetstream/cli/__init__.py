"""``dramatiq-jetstream``: the operator's command line."""

from __future__ import annotations

from . import completion, dead, delayed, diagnosis, messages, queues, server, setup
from .root import main

__all__ = ["completion", "dead", "delayed", "diagnosis", "main", "messages", "queues", "server", "setup"]
