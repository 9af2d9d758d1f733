"""A process that contends for a rate limiter or waits at a barrier: `python -m tests.support.contender`.

Its arguments are what to do, the bucket, and how often; it begins when a line comes in, and prints what came of it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from dramatiq.rate_limits import Barrier, ConcurrentRateLimiter

from dramatiq_jetstream.rate_limits import JetStreamBackend

TTL = 60_000


def increment(backend: JetStreamBackend, times: int) -> list[bool]:
    return [backend.incr("counter", 1, 1_000_000, TTL) for _ in range(times)]


def enter(backend: JetStreamBackend, times: int) -> list[tuple[float, float]]:
    """When it was inside of a limiter, by the clock that the processes share."""
    limiter = ConcurrentRateLimiter(backend, "limiter", limit=2, ttl=TTL)
    stays: list[tuple[float, float]] = []
    while len(stays) < times:
        with limiter.acquire(raise_on_failure=False) as let_in:
            if let_in:
                entered = time.monotonic()
                stays.append((entered, time.monotonic()))
    return stays


def meet(backend: JetStreamBackend, times: int) -> bool:
    """Wait for the other parties of a barrier."""
    return bool(Barrier(backend, "barrier").wait(timeout=30_000))


def meet_without_waiting(backend: JetStreamBackend, times: int) -> bool:
    return bool(Barrier(backend, "barrier").wait(block=False))


ACTIONS: dict[str, Any] = {action.__name__: action for action in (increment, enter, meet, meet_without_waiting)}


def main(action: str, bucket: str, times: str) -> None:
    backend = JetStreamBackend(bucket=bucket)
    backend.add("connected", 1, TTL)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(ACTIONS[action](backend, int(times))), flush=True)
    backend.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
