"""How fast a worker drains its queue, and what a message costs it."""

from __future__ import annotations

import gc
import logging
import threading
import time
from typing import Any

from dramatiq import Actor, Broker

from ..bench import TIMEOUT, Bench, Calls, Figures, working
from ..filling import enqueue_all, fill_stream

#: Seconds between the end of the filling and the worker's start, for the server to write what it has: the
#: queue's messages, and where there are so many more, those as well.
SETTLING, LONG_SETTLING = 0.5, 3

HOUR = 3_600_000


def drain(bench: Bench) -> Figures:
    """Drain `count` messages; with `behind` more stored behind them, or with `failing` ones that wait for a retry."""
    calls = Calls(bench.params["count"])
    with bench.broker() as broker:
        if bench.params.get("failing"):
            _declare_failing(bench, broker, threading.Semaphore(0))
            bench.run_child("fail", count=bench.params["failing"])
        actor = bench.actor(broker, calls.add, actor_name="noop")
        enqueue_all(broker, [actor.message() for _ in range(calls.total)])
        fill_stream(bench, broker, actor, bench.params.get("behind", 0))
        gc.collect()
        time.sleep(LONG_SETTLING if bench.params.keys() & {"behind", "failing"} else SETTLING)
        with working(broker):
            return calls.figures()


def fail(bench: Bench) -> Figures:
    """Leave `count` messages on the server that failed and wait for their retry."""
    # dramatiq logs the traceback of each.
    logging.disable()
    broker, failed = bench.make_broker(), threading.Semaphore(0)
    actor = _declare_failing(bench, broker, failed)
    enqueue_all(broker, [actor.message() for _ in range(bench.params["count"])])
    with working(broker):
        for number in range(bench.params["count"]):
            if not failed.acquire(timeout=TIMEOUT):
                raise RuntimeError(f"{number} of {bench.params['count']} messages failed in time")
    broker.close()
    return {}


def _declare_failing(bench: Bench, broker: Broker, failed: threading.Semaphore) -> Actor[..., Any]:
    def failing() -> None:
        failed.release()
        raise RuntimeError("this actor always fails")

    return bench.actor(broker, failing, min_backoff=HOUR, max_backoff=2 * HOUR)
