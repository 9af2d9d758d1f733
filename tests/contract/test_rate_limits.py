"""Rate limiters: never more than the limit, and never less than there is room for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dramatiq
import pytest
from dramatiq.errors import RateLimitExceeded
from dramatiq.rate_limits import (
    BucketRateLimiter,
    ConcurrentRateLimiter,
    RateLimiter,
    RateLimiterBackend,
    WindowRateLimiter,
)

from tests.contract.helpers import AnyBroker, StartWorker, finish
from tests.support.waiting import eventually
from tests.support.workers import in_background

TTL = 60_000

THREADS = 8


def acquired(limiter: RateLimiter) -> bool:
    """Whether a limiter let one in, that has left again by now."""
    with limiter.acquire(raise_on_failure=False) as let_in:
        return bool(let_in)


def at_once(function: Callable[[], Any], times: int = THREADS) -> list[Any]:
    """Call a function on several threads that start together."""
    together = threading.Barrier(times)

    def call(_: int) -> Any:
        together.wait(10)
        return function()

    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(call, range(times)))


def test_key_is_added_once(limits: RateLimiterBackend) -> None:
    assert limits.add("key", 1, TTL)
    assert not limits.add("key", 2, TTL)
    assert limits.incr("key", 1, 2, TTL)


def test_key_is_incremented_up_to_its_maximum(limits: RateLimiterBackend) -> None:
    assert [limits.incr("key", 2, 5, TTL) for _ in range(3)] == [True, True, False]
    assert limits.incr("key", 1, 5, TTL)


def test_key_is_decremented_down_to_its_minimum(limits: RateLimiterBackend) -> None:
    limits.add("key", 5, TTL)

    assert [limits.decr("key", 2, 1, TTL) for _ in range(3)] == [True, True, False]
    assert not limits.decr("key", 1, 1, TTL)


def test_key_that_does_not_exist_counts_as_zero(limits: RateLimiterBackend) -> None:
    assert not limits.decr("key", 1, 0, TTL)
    assert not limits.incr("key", 3, 2, TTL)
    assert limits.incr("key", 2, 2, TTL)


def test_sum_of_several_keys_is_held_to_the_maximum(limits: RateLimiterBackend) -> None:
    def keys() -> Sequence[str]:
        return ["a", "b", "c"]

    limits.add("b", 2, TTL)

    assert [limits.incr_and_sum("a", keys, 1, 4, TTL) for _ in range(3)] == [True, True, False]
    assert not limits.incr_and_sum("c", keys, 1, 4, TTL)
    assert limits.incr_and_sum("c", keys, 1, 5, TTL)
    assert not limits.incr_and_sum("c", lambda: ["c"], 9, 9, TTL)


@pytest.mark.parametrize("remake", [0, 1, 2], ids=["add", "incr", "incr_and_sum"])
def test_key_can_be_made_anew_when_its_time_is_over(limits: RateLimiterBackend, remake: int) -> None:
    again: list[Callable[[], bool]] = [
        lambda: limits.add("key", 1, TTL),
        lambda: limits.incr("key", 1, 1, TTL),
        lambda: limits.incr_and_sum("key", lambda: ["key"], 1, 1, TTL),
    ]
    limits.add("key", 1, 1_000)
    assert not again[remake]()

    eventually(again[remake], message="another key in its place")
    assert not again[remake]()


def test_change_prolongs_the_life_of_a_key(limits: RateLimiterBackend) -> None:
    limits.add("kept", 1, 1_000)
    limits.incr("kept", 1, 9, TTL)
    limits.add("expired", 1, 1_000)

    eventually(lambda: limits.add("expired", 1, TTL), message="the end of the other key")
    assert not limits.add("kept", 1, TTL)


def test_keys_of_any_characters_do_not_collide(limits: RateLimiterBackend) -> None:
    keys = [
        "a",
        "A",
        "a@1",
        "a:1",
        "a.1",
        "a 1",
        "a=1",
        "a=401",
        "a*",
        "a>",
        "$a",
        "a/b",
        "a\\b",
        "é",
        "e",
        "日本",
        "\r\n",
    ]
    keys += ["x" * 99, "x" * 100, "x" * 300, "x" * 301, "@", ".", "*", ">"]

    assert all(limits.add(key, 1, TTL) for key in keys)
    assert not any(limits.add(key, 1, TTL) for key in keys)


def test_no_increment_is_lost_when_many_contend(limits: RateLimiterBackend) -> None:
    results = at_once(lambda: [limits.incr("key", 1, 1_000, TTL) for _ in range(15)])

    assert all(map(all, results))
    assert not limits.incr("key", 1, THREADS * 15, TTL)
    assert limits.incr("key", 1, THREADS * 15 + 1, TTL)


def test_maximum_holds_when_many_contend(limits: RateLimiterBackend) -> None:
    assert sum(at_once(lambda: limits.incr("key", 1, 5, TTL))) == 5
    assert sum(at_once(lambda: limits.decr("key", 1, 2, TTL))) == 3
    assert sum(at_once(lambda: limits.add("another", 1, TTL))) == 1


def test_maximum_of_a_sum_is_met_exactly_when_many_contend_for_a_key(limits: RateLimiterBackend) -> None:
    limits.add("other", 2, TTL)

    assert sum(at_once(lambda: limits.incr_and_sum("key", lambda: ["key", "other"], 1, 7, TTL))) == 5


def test_concurrent_rate_limiter_lets_in_as_many_as_its_limit(limits: RateLimiterBackend) -> None:
    limiter = ConcurrentRateLimiter(limits, "limiter", limit=2, ttl=TTL)
    with limiter.acquire() as first, limiter.acquire() as second:
        assert first
        assert second
        assert not acquired(limiter)
        with pytest.raises(RateLimitExceeded), limiter.acquire():
            pytest.fail("let in above the limit")

    assert acquired(limiter)


def test_concurrent_rate_limiter_is_never_above_its_limit(limits: RateLimiterBackend) -> None:
    limiter = ConcurrentRateLimiter(limits, "limiter", limit=3, ttl=TTL)
    inside, most, guard = 0, 0, threading.Lock()

    def enter() -> int:
        nonlocal inside, most
        let_in = 0
        while let_in < 5:
            with limiter.acquire(raise_on_failure=False) as lucky:
                if not lucky:
                    continue
                with guard:
                    inside += 1
                    most = max(most, inside)
                let_in += 1
                with guard:
                    inside -= 1
        return let_in

    assert at_once(enter) == [5] * THREADS
    assert most <= 3
    assert [limiter._acquire() for _ in range(4)] == [True, True, True, False]


def test_concurrent_rate_limiter_lets_in_again_after_a_holder_died(limits: RateLimiterBackend) -> None:
    limiter = ConcurrentRateLimiter(limits, "limiter", limit=1, ttl=1_000)
    assert limiter._acquire()

    eventually(lambda: acquired(limiter), message="the end of the holder's time")


def test_bucket_rate_limiter_lets_in_as_many_as_its_limit_in_each_bucket(limits: RateLimiterBackend) -> None:
    limiter = BucketRateLimiter(limits, "limiter", limit=3, bucket=60_000)
    let_in = at_once(lambda: acquired(limiter))

    # The minute may end in between.
    assert sum(let_in) in range(3, 7)
    assert not all(acquired(limiter) for _ in range(10))


def test_bucket_rate_limiter_lets_in_again_in_the_next_bucket(limits: RateLimiterBackend) -> None:
    limiter = BucketRateLimiter(limits, "limiter", limit=1, bucket=200)
    assert acquired(limiter)

    eventually(lambda: acquired(limiter), message="the next bucket")


def test_window_rate_limiter_lets_in_as_many_as_its_limit_in_any_window(limits: RateLimiterBackend) -> None:
    limiter = WindowRateLimiter(limits, "limiter", limit=3, window=30)

    assert sum(at_once(lambda: acquired(limiter))) <= 3
    assert not all(acquired(limiter) for _ in range(4))


def test_window_rate_limiter_lets_in_again_when_its_window_has_passed(limits: RateLimiterBackend) -> None:
    limiter = WindowRateLimiter(limits, "limiter", limit=2, window=1)
    while acquired(limiter):
        continue

    eventually(lambda: acquired(limiter), message="the next window")


def test_actor_that_is_not_let_in_is_retried_until_it_is(
    broker: AnyBroker, limits: RateLimiterBackend, start_worker: StartWorker
) -> None:
    inside, most, done, guard = 0, 0, 0, threading.Lock()
    pause = threading.Event()

    @dramatiq.actor(min_backoff=10, max_backoff=50, max_retries=1_000)
    def limited() -> None:
        nonlocal inside, most, done
        with ConcurrentRateLimiter(limits, "actor", limit=2, ttl=TTL).acquire():
            with guard:
                inside += 1
                most = max(most, inside)
            pause.wait(0.02)
            with guard:
                inside -= 1
                done += 1

    for _ in range(12):
        limited.send()
    finish(broker, start_worker(THREADS))

    assert done == 12
    assert most <= 2


def test_wait_returns_when_it_is_notified(limits: RateLimiterBackend) -> None:
    waiting = in_background(lambda: limits.wait("event", 20_000))

    def notified() -> bool:
        # dramatiq's stub tells only those who wait already.
        limits.wait_notify("event", TTL)
        return waiting.done()

    eventually(notified, message="the end of the wait")
    assert waiting.result()


def test_wait_gives_up_when_its_time_is_over(limits: RateLimiterBackend) -> None:
    assert not limits.wait("event", 150)
