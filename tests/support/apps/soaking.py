"""The application of the long run: `dramatiq tests.support.apps.soaking`.

All of :mod:`tests.support.apps.faulty`, and pipelines with results, groups with callbacks, rate limiters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits import ConcurrentRateLimiter, WindowRateLimiter
from dramatiq.results import Results

from dramatiq_jetstream.rate_limits import JetStreamBackend as RateLimits
from dramatiq_jetstream.results import JetStreamBackend as ResultBackend
from tests.support.apps.faulty import FOLDER, QUICK, broker, perform
from tests.support.faults import write_note
from tests.support.reckoning import HOLD

#: Bytes of a result that the server does not take.
TOO_LARGE = 2_000_000

results = ResultBackend(broker=broker)
limits = RateLimits(broker=broker)
broker.add_middleware(Results(backend=results))
broker.add_middleware(GroupCallbacks(limits))

MUTEX = ConcurrentRateLimiter(limits, "mutex", limit=1, ttl=HOLD * 1000)
WINDOW = WindowRateLimiter(limits, "window", limit=100, window=2)


def declare(**options: Any) -> Callable[[Callable[..., Any]], dramatiq.Actor[..., Any]]:
    """As `dramatiq.actor`, whose overloads know no options of middleware."""
    decorate: Any = dramatiq.actor
    declared: Callable[[Callable[..., Any]], dramatiq.Actor[..., Any]] = decorate(**QUICK | options)
    return declared


@declare(max_retries=None, store_results=True)
def stage(key: str, *carried: str) -> str:
    """One step of a pipeline; returns the keys of the steps so far."""
    perform(key)
    return "+".join([*carried, key])


@declare(max_retries=3, store_results=True)
def swell(key: str) -> str:
    """Return more than the server takes."""
    perform(key)
    return "x" * TOO_LARGE


@declare(max_retries=None)
def member(key: str) -> None:
    """One message of a group."""
    perform(key)


@declare(max_retries=None)
def complete(key: str) -> None:
    """What follows when a group is done."""
    perform(key)


@declare(queue_name="limited", max_retries=None, min_backoff=200, max_backoff=2000)
def exclude(key: str) -> None:
    """Run while no other does."""
    with MUTEX.acquire():
        write_note(FOLDER, "enter", key)
        with contextlib.ExitStack() as stack:
            stack.callback(write_note, FOLDER, "leave", key)
            perform(key, "block:10")


@declare(queue_name="limited", max_retries=None, min_backoff=200, max_backoff=2000)
def pace(key: str) -> None:
    """Run a hundred times in two seconds at most."""
    with WINDOW.acquire():
        perform(key)


run_purged = declare(actor_name="run_purged", queue_name="purged", max_retries=1)(perform)
run_bounded = declare(actor_name="run_bounded", queue_name="bounded", max_retries=3)(perform)
