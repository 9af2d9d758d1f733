"""What a worker takes that has nothing to do: CPU with many queues, memory with many delayed messages."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ..bench import Bench, Calls, Figures, NotMeasured, working
from ..filling import enqueue_all

#: Seconds that a worker is left alone before it is looked at.
SETTLING = 5

HOUR = 3_600_000

#: Delayed messages that are made at a time.
PORTION = 10_000


def idle(bench: Bench) -> Figures:
    """The CPU that a worker with so many `queues` takes in so many `seconds`."""
    with bench.broker() as broker:
        for number in range(bench.params["queues"]):
            # In the measurement's own queues, which its clean-up knows.
            bench.actor(broker, _noop, actor_name=f"actor{number}", queue_name=f"{bench.token}-{number}")
        with working(broker):
            time.sleep(SETTLING)
            began, began_cpu = time.perf_counter(), time.process_time()
            time.sleep(bench.params["seconds"])
            cpu = time.process_time() - began_cpu
            return {"cpu_percent": 100 * cpu / (time.perf_counter() - began)}


def delayed(bench: Bench) -> Figures:
    """The memory of a worker of whose queue so many `delayed` messages are due in an hour."""
    calls = Calls(1)
    with bench.broker() as broker:
        actor = bench.actor(broker, calls.add, actor_name="noop")
        if bench.params["delayed"]:
            bench.run_child("delay", count=bench.params["delayed"])
        with working(broker):
            actor.send()
            calls.wait()
            time.sleep(SETTLING)
            return {"rss_mb": _resident_bytes() / 1e6}


def delay(bench: Bench) -> Figures:
    """Enqueue `count` messages that are due in an hour."""
    broker = bench.make_broker()
    actor = bench.actor(broker, _noop, actor_name="noop")
    for _ in range(bench.params["count"] // PORTION):
        enqueue_all(broker, [actor.message() for _ in range(PORTION)], delay=HOUR)
    broker.close()
    return {}


def _noop() -> None:
    pass


def _resident_bytes() -> int:
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        raise NotMeasured("memory is read from /proc, which Linux has")
    return int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
