"""Ports to give to servers that cannot choose one themselves."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

#: Below the ports that systems give to outgoing connections, one of which could take a port before its server does.
RANGE = range(10_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on.

    They are chosen at random, for other runs of the tests choose at the same time.
    """
    with ExitStack() as stack:
        return [_bind(stack.enter_context(socket.socket())) for _ in range(count)]


def _bind(unbound: socket.socket) -> int:
    for port in random.SystemRandom().sample(RANGE, 100):
        try:
            unbound.bind(("127.0.0.1", port))
        except OSError:
            continue
        return port
    raise AssertionError("none of a hundred ports is free")
