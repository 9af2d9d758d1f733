"""What it costs to enqueue a message, alone, from several threads, and in a batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dramatiq import Actor

from ..bench import THREADS, Bench, Figures

#: Sends before any is timed.
WARM_UP = 200


def send(bench: Bench) -> Figures:
    """The median of `count` sends, and how many a second one thread and eight together get done."""
    count = bench.params["count"]
    with bench.broker() as broker:
        actor = bench.actor(broker, _noop)
        _send(actor, WARM_UP)
        times = _send(actor, count)
        return {
            "p50_us": statistics.median(times) * 1e6,
            "one_rate": count / sum(times),
            "eight_rate": _together(actor, count),
        }


def batch(bench: Bench) -> Figures:
    """Messages a second, `count` at once where the broker can do that and one by one elsewhere."""
    count = bench.params["count"]
    with bench.broker() as opened:
        broker: Any = opened
        actor = bench.actor(broker, _noop)
        _send(actor, WARM_UP)
        if not hasattr(broker, "enqueue_many"):
            return {"rate": count / sum(_send(actor, count))}
        messages = [actor.message() for _ in range(count)]
        many = _seconds(lambda: broker.enqueue_many(messages))
        _check_stored(broker, actor, WARM_UP + count)
        together = _seconds(lambda: _send_in_batch(broker, actor, count))
        _check_stored(broker, actor, WARM_UP + 2 * count)
        return {"rate": count / many, "batch_rate": count / together}


def _noop() -> None:
    pass


def _send(actor: Actor[..., Any], count: int) -> list[float]:
    clock, times = time.perf_counter, []
    for _ in range(count):
        began = clock()
        actor.send()
        times.append(clock() - began)
    return times


def _together(actor: Actor[..., Any], count: int) -> float:
    each = count // 2
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda _: _send(actor, 20), range(THREADS)))
        seconds = _seconds(lambda: list(threads.map(lambda _: _send(actor, each), range(THREADS))))
    return each * THREADS / seconds


def _send_in_batch(broker: Any, actor: Actor[..., Any], count: int) -> None:
    with broker.batch():
        for _ in range(count):
            actor.send()


def _check_stored(broker: Any, actor: Actor[..., Any], count: int) -> None:
    stored, _, _ = broker.get_queue_message_counts(actor.queue_name)
    if stored != count:
        raise RuntimeError(f"{stored} of {count} messages are stored")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
