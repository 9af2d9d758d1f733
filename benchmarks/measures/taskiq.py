"""taskiq-nats: its pull broker and its own receiver with its command line's defaults, no results.

The task is a coroutine, its best case; as taskiq-nats-threads it runs on 8 threads, as dramatiq's actors do.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from taskiq.receiver import Receiver
from taskiq_nats import PullBasedJetStreamBroker

from ..bench import THREADS, TIMEOUT, Bench, Calls, Figures, finish
from ..brokers import delete_streams
from ..loops import run
from .latency import Arrivals, pauses
from .send import WARM_UP

#: How many messages a pull asks for while there are plenty; one at a time, its default, on an idle queue.
BATCH = 100

#: What `taskiq worker` runs at a time.
ASYNC_TASKS = 100


def drain(bench: Bench) -> Figures:
    """Drain `count` messages."""
    calls = Calls(bench.params["count"])
    run(_with_task(bench, lambda task: _send_together(task, calls.total)))
    with _receiving(bench, lambda _: calls.add(), BATCH, threads=bench.name == "taskiq-nats-threads"):
        figures = calls.figures()
    run(delete_streams(bench.url, bench.token))
    return figures


def send(bench: Bench) -> Figures:
    """The median of `count` awaited sends, and how many a second one and eight coroutines get done."""
    count = bench.params["count"]

    async def measure(task: Any) -> Figures:
        await _send(task, WARM_UP)
        times = await _send(task, count)
        began = time.perf_counter()
        await asyncio.gather(*(_send(task, count // 2) for _ in range(THREADS)))
        together = count // 2 * THREADS / (time.perf_counter() - began)
        return {"p50_us": statistics.median(times) * 1e6, "one_rate": count / sum(times), "eight_rate": together}

    figures: Figures = run(_with_task(bench, measure))
    run(delete_streams(bench.url, bench.token))
    return figures


def batch(bench: Bench) -> Figures:
    """Messages a second, one send after the other."""
    count = bench.params["count"]
    times: list[float] = run(_with_task(bench, lambda task: _send(task, count)))
    run(delete_streams(bench.url, bench.token))
    return {"rate": count / sum(times)}


def latency(bench: Bench) -> Figures:
    """The median and the 99th percentile of `count` messages that come one at a time."""
    arrivals = Arrivals(bench.params["count"])
    with _receiving(bench, arrivals.arrive, 1):
        finish(bench.child("pace", count=arrivals.total))
        figures = arrivals.figures()
    run(delete_streams(bench.url, bench.token))
    return figures


def pace(bench: Bench) -> Figures:
    """Send `count` messages to a worker in another process, one at a time."""

    async def send_paced(task: Any) -> None:
        for pause in pauses(bench.params["count"]):
            await asyncio.sleep(pause)
            await task.kiq(time.monotonic())

    run(_with_task(bench, send_paced))
    return {}


def _broker(
    bench: Bench, called: Callable[[float], object], batch: int, *, threads: bool = False
) -> tuple[PullBasedJetStreamBroker, Any]:
    broker = PullBasedJetStreamBroker(
        bench.url, subject=f"{bench.token}.tasks", stream_name=bench.token, pull_consume_batch=batch
    )

    async def measured(sent: float = 0) -> None:
        called(sent)

    def measured_in_thread(sent: float = 0) -> None:
        called(sent)

    return broker, broker.task(task_name="measured")(measured_in_thread if threads else measured)


async def _with_task(bench: Bench, use: Callable[[Any], Any]) -> Any:
    broker, task = _broker(bench, _unused, 1)
    await broker.startup()
    try:
        return await use(task)
    finally:
        await broker.shutdown()


async def _send(task: Any, count: int) -> list[float]:
    clock, times = time.perf_counter, []
    for _ in range(count):
        began = clock()
        await task.kiq()
        times.append(clock() - began)
    return times


async def _send_together(task: Any, count: int) -> None:
    for _ in range(count // BATCH):
        await asyncio.gather(*(task.kiq() for _ in range(BATCH)))


@contextmanager
def _receiving(bench: Bench, called: Callable[[float], object], batch: int, *, threads: bool = False) -> Iterator[None]:
    """Run taskiq's receiver on a loop of its own, and the task there or on threads."""
    logging.getLogger("taskiq").setLevel(logging.ERROR)
    ready: Future[None] = Future()
    stop = threading.Event()
    broker, _ = _broker(bench, called, batch, threads=threads)
    thread = threading.Thread(target=lambda: run(_receive(broker, ready, stop)))
    thread.start()
    try:
        ready.result(TIMEOUT)
        yield
    finally:
        stop.set()
        thread.join()


async def _receive(broker: PullBasedJetStreamBroker, ready: Future[None], stop: threading.Event) -> None:
    broker.is_worker_process = True
    try:
        await broker.startup()
    except BaseException as error:
        ready.set_exception(error)
        raise
    finished = asyncio.Event()
    with ThreadPoolExecutor(THREADS) as executor:
        receiver = Receiver(broker, executor, max_async_tasks=ASYNC_TASKS, run_startup=False)
        listening = asyncio.create_task(receiver.listen(finished))
        ready.set_result(None)
        await asyncio.get_running_loop().run_in_executor(None, stop.wait)
        finished.set()
        await listening
    await broker.shutdown()


def _unused(sent: float) -> None:
    raise AssertionError("only receivers run the task")
