"""Buckets: their names, their settings, and what they refuse."""

from __future__ import annotations

import sys
from typing import Any, cast

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.rate_limits import ConcurrentRateLimiter, WindowRateLimiter
from dramatiq.results import ResultFailure, Results
from dramatiq_abort import Event

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream import admin as operator
from dramatiq_jetstream.abort import JetStreamBackend as Aborts
from dramatiq_jetstream.errors import ConfigMismatch, EnqueueRejected, MessageTooLarge
from dramatiq_jetstream.rate_limits import JetStreamBackend as Limits
from dramatiq_jetstream.results import JetStreamBackend as ResultBackend
from dramatiq_jetstream.streams import bucket_config
from tests.support.admin import Admin
from tests.support.workers import in_background, run_worker

TTL = 60_000

BACKENDS = [ResultBackend, Limits, Aborts]

HUGE = [sys.maxsize, 10**30, 292 * 366 * 86_400_000, float("inf")]


def message() -> Message[Any]:
    return Message(queue_name="default", actor_name="answer", args=(), kwargs={}, options={})


@pytest.fixture
def limits(broker: JetStreamBroker) -> Limits:
    return Limits(broker=broker)


@pytest.fixture
def aborts(broker: JetStreamBroker) -> Aborts:
    return Aborts(broker=broker)


def make_bucket(admin: Admin, bucket: str, **settings: Any) -> None:
    """Make a bucket that differs from ours in some settings."""
    admin.api(f"STREAM.CREATE.KV_{bucket}", {**bucket_config(bucket, 1), **settings})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["", "a.b", "a b", "a*", "a>", "a/b", "é", "a\n", "x" * 253])
def test_name_that_no_bucket_can_have_is_refused_where_it_is_given(backend: type[Any], name: str) -> None:
    with pytest.raises(ValueError, match="bucket"):
        backend(bucket=name)


def test_longest_name_of_a_bucket_works(broker: JetStreamBroker, namespace: str) -> None:
    limits = Limits(broker=broker, bucket=f"{namespace}-".ljust(200, "x"))

    assert limits.add("key", 1, TTL)


def test_setup_makes_the_buckets_of_every_backend_with_the_broker(
    broker: JetStreamBroker, admin: Admin, namespace: str, nats_url: str
) -> None:
    broker.add_middleware(Results(backend=ResultBackend(broker=broker)))
    Limits(broker=broker)
    Aborts(broker=broker, bucket=f"{namespace}-mine")
    broker.setup()
    made = {f"KV_{namespace}-results", f"KV_{namespace}-rate-limits", f"KV_{namespace}-mine"}

    assert made <= set(admin.streams())
    assert made <= {requirement.stream for requirement in broker.requirements()}
    assert {part.state for part in operator.check(broker)} == {"fits"}


def test_worker_that_may_make_nothing_finds_the_buckets_that_setup_made(
    broker: JetStreamBroker, nats_url: str, namespace: str
) -> None:
    Limits(broker=broker)
    ResultBackend(broker=broker)
    broker.setup()
    sent = message()
    with_nothing = JetStreamBroker(nats_url, namespace=namespace, declare="never")
    results = ResultBackend(broker=with_nothing)
    results.store_result(sent, 1, TTL)

    assert Limits(broker=with_nothing).add("key", 1, TTL)
    assert results.get_result(sent) == 1
    with_nothing.close()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"discard": "old", "max_bytes": 10_000}, "discard"),
        ({"discard": "old", "max_msgs": 10}, "discard"),
        ({"max_age": 60_000_000_000}, "max_age"),
        ({"max_msgs_per_subject": 5}, "max_msgs_per_subject"),
        ({"allow_direct": False}, "allow_direct"),
    ],
)
def test_bucket_that_may_lose_a_value_early_is_refused(
    limits: Limits, broker: JetStreamBroker, admin: Admin, namespace: str, settings: dict[str, Any], field: str
) -> None:
    make_bucket(admin, f"{namespace}-rate-limits", **settings)

    with pytest.raises(ConfigMismatch, match=field):
        limits.add("key", 1, TTL)
    with pytest.raises(ConfigMismatch, match=field):
        broker.setup()


def test_bucket_that_refuses_what_it_has_no_room_for_is_fine(limits: Limits, admin: Admin, namespace: str) -> None:
    make_bucket(admin, f"{namespace}-rate-limits", max_msgs=1)
    mutex = ConcurrentRateLimiter(limits, "mutex")
    assert mutex._acquire()
    with pytest.raises(EnqueueRejected, match="bucket"):
        limits.add("another", 1, TTL)

    assert mutex._release()
    assert mutex._acquire()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_msg_size": 1_000}, "MessageTooLarge"),
        ({"max_msg_size": 60}, "MessageTooLarge"),
        ({"max_bytes": 2_000}, "EnqueueRejected"),
        ({"max_msgs": 1}, "EnqueueRejected"),
    ],
    ids=str,
)
def test_who_waits_for_a_result_that_its_bucket_refuses_hears_why(
    broker: JetStreamBroker, admin: Admin, namespace: str, settings: dict[str, int], reason: str
) -> None:
    make_bucket(admin, f"{namespace}-results", **settings)
    admin.store(f"$KV.{namespace}-results.first")
    results = ResultBackend(broker=broker)
    broker.add_middleware(Results(backend=results))

    @dramatiq.actor(store_results=True, broker=broker)
    def large() -> str:
        return "x" * 20_000

    sent = large.send()
    waiting = in_background(lambda: sent.get_result(backend=results, block=True, timeout=60_000))
    with run_worker(broker):
        broker.join("default", timeout=20_000)
        # One begins to wait when the actor has long returned.
        with pytest.raises(ResultFailure, match=reason):
            sent.get_result(backend=results, block=True, timeout=20_000)

    with pytest.raises(ResultFailure, match=reason):
        waiting.result(10)


def test_result_that_its_bucket_refuses_raises_where_it_is_stored(
    broker: JetStreamBroker, admin: Admin, namespace: str
) -> None:
    make_bucket(admin, f"{namespace}-results", max_msg_size=1_000)

    with pytest.raises(MessageTooLarge, match=f"bucket '{namespace}-results'"):
        ResultBackend(broker=broker).store_result(message(), "x" * 20_000, TTL)


@pytest.mark.parametrize("ttl", HUGE)
def test_time_to_live_that_the_server_cannot_express_does_not_expire_at_once(
    broker: JetStreamBroker, limits: Limits, aborts: Aborts, ttl: Any
) -> None:
    results, sent = ResultBackend(broker=broker), message()
    mutex = ConcurrentRateLimiter(limits, "mutex", ttl=ttl)
    results.store_result(sent, 1, ttl)
    aborts.notify([Event("event", {})], ttl)
    assert mutex._acquire()
    # Another key, whose time is over when whatever expires at once has expired.
    limits.add("brief", 1, 1)
    while not limits.add("brief", 1, TTL):
        continue

    assert not mutex._acquire()
    assert results.get_result(sent) == 1
    assert aborts.poll("event") == Event("event", {})


def test_window_of_a_day_is_held(limits: Limits) -> None:
    limiter = WindowRateLimiter(limits, "limiter", limit=2, window=86_400)

    assert [limiter._acquire() for _ in range(3)] == [True, True, False]


def test_wait_that_nobody_lives_to_see_the_end_of_begins(limits: Limits) -> None:
    waiting = in_background(lambda: limits.wait("event", sys.maxsize))
    limits.wait_notify("event", sys.maxsize)

    assert waiting.result(20)


@pytest.mark.parametrize("name", ["ack_wait", "duplicate_window"])
def test_duration_of_a_queue_that_the_server_cannot_express_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        WorkQueue(**cast("Any", {name: sys.maxsize}))


def test_timeout_that_no_clock_can_express_is_refused() -> None:
    with pytest.raises(ValueError, match="timeout"):
        JetStreamBroker(timeout=sys.maxsize)


@pytest.mark.parametrize("duration", [sys.maxsize, 10**30])
def test_pause_of_any_length_lasts(broker: JetStreamBroker, duration: int) -> None:
    broker.declare_queue("default")
    broker.setup()
    operator.pause(broker, "default", duration)

    assert operator.view(broker, "default").paused


def test_second_signal_of_an_event_is_handed_out_too(aborts: Aborts) -> None:
    aborts.notify([Event("key", {"abort_timeout": 60_000})], TTL)
    assert aborts.wait_many(["key"], 10_000) == Event("key", {"abort_timeout": 60_000})
    assert aborts.wait_many(["key"], 50) is None
    aborts.notify([Event("key", {"abort_timeout": 0})], TTL)

    assert aborts.wait_many(["other", "key"], 10_000) == Event("key", {"abort_timeout": 0})
    assert aborts.wait_many(["key"], 50) is None


def test_second_signal_wakes_who_waits(aborts: Aborts) -> None:
    aborts.notify([Event("key", {"abort_timeout": 60_000})], TTL)
    assert aborts.wait_many(["key"], 10_000) is not None
    waiting = in_background(lambda: aborts.wait_many(["key"], 60_000))
    aborts.notify([Event("key", {"abort_timeout": 0})], TTL)

    assert waiting.result(10) == Event("key", {"abort_timeout": 0})
