"""An application for greenlets: `dramatiq-gevent tests.frameworks.apps.greenlets --processes 1 --threads 100`."""

import asyncio
import os
import time
from pathlib import Path

import dramatiq
from dramatiq.middleware import AsyncIO, GroupCallbacks
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.results import Results

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream.rate_limits import JetStreamBackend as LimiterBackend
from dramatiq_jetstream.results import JetStreamBackend as ResultBackend

broker = JetStreamBroker(queues={"busy": WorkQueue(ack_wait=3_000)})
limits = LimiterBackend(broker=broker)
broker.add_middleware(Results(backend=ResultBackend(broker=broker)))
broker.add_middleware(GroupCallbacks(limits))
broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def nap(number: int) -> int:
    time.sleep(0.2)
    return number


@dramatiq.actor(store_results=True)
async def snooze(number: int) -> int:
    await asyncio.sleep(0.05)
    return number


@dramatiq.actor(store_results=True, min_backoff=10, max_backoff=100, max_retries=1_000)
def limited() -> int:
    with ConcurrentRateLimiter(limits, "limited", limit=3).acquire():
        time.sleep(0.01)
        return os.getpid()


@dramatiq.actor(store_results=True)
def ask(number: int) -> int:
    return int(nap.send(number).get_result(block=True, timeout=20_000))


@dramatiq.actor(queue_name="busy", store_results=True)
def compute(log: str, seconds: float) -> None:
    """Let no other greenlet run for longer than a lease lasts."""
    with Path(log).open("a") as lines:
        lines.write(f"{os.getpid()}\n")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        continue


@dramatiq.actor
def done(file: str) -> None:
    Path(file).touch()
