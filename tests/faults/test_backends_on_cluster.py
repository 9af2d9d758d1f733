"""Results and rate limits in replicated buckets, whose leaders are killed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dramatiq import Message
from dramatiq.rate_limits import Barrier

from dramatiq_jetstream.rate_limits import JetStreamBackend as Limits
from dramatiq_jetstream.results import JetStreamBackend as ResultBackend
from tests.support.admin import Admin
from tests.support.cluster import Cluster, cluster
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tests.support.workers import in_background

TTL = 60_000

#: Milliseconds that a call waits here: elections take a few seconds on a busy machine.
TIMEOUT = 30_000


@pytest.fixture
def servers() -> Iterator[Cluster]:
    with cluster() as servers:
        yield servers


@pytest.fixture
def limits(servers: Cluster) -> Iterator[Limits]:
    backend = Limits(url=servers.url, replicas=3, timeout=TIMEOUT)
    yield backend
    backend.close()


def kill_leader(servers: Cluster, bucket: str) -> None:
    """Kill the server that leads a bucket."""
    with Admin(servers.servers[0].url) as admin:
        leader = eventually(lambda: admin.stream(f"KV_{bucket}")["cluster"].get("leader"), message="a leader")
    servers.named(leader).kill()


def increment(limits: Limits, times: int) -> list[bool]:
    """Increment on several threads at once."""
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(lambda _: limits.incr("counter", 1, 1_000_000, TTL), range(times)))


@pytest.mark.faults
def test_every_increment_counts_once_while_the_leader_is_killed(servers: Cluster, limits: Limits) -> None:
    assert all(increment(limits, 50))
    counting = in_background(lambda: increment(limits, 100))
    kill_leader(servers, "dramatiq-rate-limits")

    assert all(counting.result(60))
    assert not limits.incr("counter", 1, 150, TTL)
    assert limits.incr("counter", 1, 151, TTL)


@pytest.mark.faults
def test_write_to_a_replicated_bucket_whose_answer_was_lost_counts_once(servers: Cluster, limits: Limits) -> None:
    limits.add("counter", 1, TTL)
    with Proxy(servers.servers[0].port) as proxy:
        far = Limits(url=proxy.url, replicas=3, timeout=TIMEOUT)
        assert far.incr("counter", 1, 100, TTL)
        with Admin(servers.servers[0].url) as admin:
            asked = admin.subscribe("$JS.API.STREAM.MSG.GET.KV_dramatiq-rate-limits")
            counting = in_background(lambda: [far.incr("counter", 1, 100, TTL) for _ in range(20)])
            asked.get(timeout=10)
        proxy.drop_replies()
        assert limits.incr("counter", 1, 100, TTL)
        proxy.resume()

        assert all(counting.result(60))
        far.close()
    assert not limits.incr("counter", 1, 23, TTL)
    assert limits.incr("counter", 1, 24, TTL)


@pytest.mark.faults
def test_waits_outlive_the_leader(servers: Cluster, limits: Limits) -> None:
    results = ResultBackend(url=servers.url, replicas=3, timeout=TIMEOUT)
    message: Message[Any] = Message(queue_name="default", actor_name="actor", args=(), kwargs={}, options={})
    barrier = Barrier(limits, "barrier")
    barrier.create(parties=2)
    results.store_result(message.copy(message_id="another"), 0, TTL)
    waiting = in_background(lambda: results.get_result(message, block=True, timeout=60_000))
    meeting = in_background(lambda: barrier.wait(timeout=60_000))
    eventually(lambda: limits.incr(barrier.key, 0, 1, TTL), message="the arrival of one party")
    kill_leader(servers, "dramatiq-results")
    results.store_result(message, "after all", TTL)

    assert waiting.result(60) == "after all"
    assert barrier.wait(timeout=60_000)
    assert meeting.result(60)
    results.close()
