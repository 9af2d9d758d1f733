"""One contract for rate limiter and result backends, dramatiq's and ours: contention, deadlines, bounds."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from dramatiq import Message
from dramatiq.rate_limits import ConcurrentRateLimiter, RateLimiterBackend, WindowRateLimiter
from dramatiq.results import ResultBackend, ResultMissing, ResultTimeout

from dramatiq_jetstream.rate_limits import JetStreamBackend as Limits
from dramatiq_jetstream.results import JetStreamBackend as OurResults
from tests.contract.helpers import RateLimiterBackend as StubLimits
from tests.contract.helpers import ResultBackend as StubResults
from tests.support.admin import Admin
from tests.support.redis import redis_server, why_not

TTL = 60_000

#: A busy machine with two cores takes a while for this many threads.
THREADS = 256

KINDS = ["stub", "redis", "jetstream"]


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"not compared with dramatiq's RedisBackend: {reason}")
    with redis_server() as url:
        yield url


def make_redis_limits(url: str) -> RateLimiterBackend:
    # By name: type checks go without the package.
    redis = importlib.import_module("redis")
    from dramatiq.rate_limits.backends import RedisBackend

    # Its pool has a hundred connections by default, and raises for the next thread.
    backend: RateLimiterBackend = RedisBackend(client=redis.Redis.from_url(url, max_connections=2 * THREADS))
    return backend


@pytest.fixture(params=KINDS)
def limits(request: pytest.FixtureRequest) -> Iterator[RateLimiterBackend]:
    if request.param == "stub":
        yield StubLimits()
    elif request.param == "redis":
        yield make_redis_limits(request.getfixturevalue("redis_url"))
    else:
        request.getfixturevalue("admin")
        backend = Limits(url=request.getfixturevalue("nats_url"), bucket=f"load-{uuid4().hex}")
        yield backend
        backend.close()


@pytest.fixture(params=KINDS)
def results(request: pytest.FixtureRequest) -> Iterator[ResultBackend]:
    if request.param == "stub":
        yield StubResults()
    elif request.param == "redis":
        # First, as it skips the test where there is no Redis.
        url = request.getfixturevalue("redis_url")
        from dramatiq.results.backends import RedisBackend

        yield RedisBackend(url=url)
    else:
        request.getfixturevalue("admin")
        backend = OurResults(url=request.getfixturevalue("nats_url"), bucket=f"load-{uuid4().hex}")
        yield backend
        backend.close()


def message() -> Message[Any]:
    return Message(queue_name="default", actor_name="answer", args=(), kwargs={}, options={})


def key() -> str:
    return f"key-{uuid4().hex}"


def at_once(function: Callable[[], Any], threads: int) -> list[Any]:
    """Call a function on so many threads that start together."""
    together = threading.Barrier(threads)

    def call(_: int) -> Any:
        together.wait(60)
        return function()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, range(threads)))


def threads_for(limits: RateLimiterBackend) -> int:
    """Ours bears many threads on one key; for RedisBackend, whose losers try again at once, they take minutes."""
    return THREADS if isinstance(limits, Limits) else 24


def test_every_thread_is_let_in_and_out_where_there_is_room_for_all(limits: RateLimiterBackend) -> None:
    threads = threads_for(limits)
    limiter = ConcurrentRateLimiter(limits, key(), limit=threads, ttl=TTL)

    assert at_once(limiter._acquire, threads) == [True] * threads
    assert not limiter._acquire()
    assert at_once(limiter._release, threads) == [True] * threads


def test_no_slot_is_lost_when_many_come_and_go(limits: RateLimiterBackend) -> None:
    limiter = ConcurrentRateLimiter(limits, key(), limit=4, ttl=TTL)

    def come_and_go() -> None:
        for _ in range(3):
            with limiter.acquire(raise_on_failure=False):
                pass

    at_once(come_and_go, threads_for(limits))

    assert [limiter._acquire() for _ in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize("window", [60, 600, 3_600])
def test_window_of_any_length_lets_in_as_many_as_its_limit(limits: RateLimiterBackend, window: int) -> None:
    limiter = WindowRateLimiter(limits, key(), limit=20, window=window)

    let_in = sum(at_once(limiter._acquire, 24 if isinstance(limits, Limits) else 2))

    assert 0 < let_in <= 20
    assert let_in + sum(limiter._acquire() for _ in range(24)) == 20


@pytest.mark.parametrize("timeout", [0, 100, 700])
def test_wait_ends_on_time(results: ResultBackend, timeout: int) -> None:
    began = time.monotonic()
    with pytest.raises(ResultTimeout):
        results.get_result(message(), block=True, timeout=timeout)

    assert time.monotonic() - began < timeout / 1000 + 5


def test_result_that_is_not_there_is_missing(results: ResultBackend) -> None:
    with pytest.raises(ResultMissing):
        results.get_result(message())


def test_limiter_in_many_processes_is_never_above_its_limit(nats_url: str, admin: Admin) -> None:
    backends = [Limits(url=nats_url, bucket=f"load-{uuid4().hex}")]
    backends += [Limits(url=nats_url, bucket=backends[0]._values.bucket) for _ in range(15)]
    limiters = [ConcurrentRateLimiter(backend, "key", limit=40, ttl=TTL) for backend in backends] * 8
    remaining = iter(limiters)

    assert sum(at_once(lambda: next(remaining)._acquire(), len(limiters))) == 40
    for backend in backends:
        backend.close()
