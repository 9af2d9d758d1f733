"""Results, rate limits and aborts while their bucket or their server is away: deadlines hold, and nothing is lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dramatiq import Message
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.results import ResultMissing, ResultTimeout
from dramatiq_abort import Event

from dramatiq_jetstream import NatsServer
from dramatiq_jetstream.abort import JetStreamBackend as Aborts
from dramatiq_jetstream.errors import BrokerConnectionError, StreamNotFound
from dramatiq_jetstream.rate_limits import JetStreamBackend as Limits
from dramatiq_jetstream.results import JetStreamBackend as ResultBackend
from tests.support.admin import Admin
from tests.support.proxy import Proxy
from tests.support.workers import in_background

TTL = 60_000

#: Seconds within which what is "at once" happens on a busy machine; the broker's timeout is far more.
AT_ONCE = 8.0

#: Milliseconds that a call waits here for a server that is away.
TIMEOUT = 30_000


@pytest.fixture
def results(nats_url: str, namespace: str, admin: Admin) -> Iterator[ResultBackend]:
    backend = ResultBackend(url=nats_url, bucket=namespace, timeout=TIMEOUT)
    backend.store_result(message(), "makes the bucket", TTL)
    yield backend
    backend.close()


@pytest.fixture
def other(nats_url: str, namespace: str) -> Iterator[ResultBackend]:
    """A backend of another process."""
    backend = ResultBackend(url=nats_url, bucket=namespace, timeout=TIMEOUT)
    backend.store_result(message(), "connects", TTL)
    yield backend
    backend.close()


def message() -> Message[Any]:
    return Message(queue_name="default", actor_name="answer", args=(), kwargs={}, options={})


def took(function: Callable[[], object]) -> float:
    """How many seconds something takes."""
    began = time.monotonic()
    function()
    return time.monotonic() - began


def waiting_for(backend: ResultBackend, admin: Admin, bucket: str, sent: Message[Any]) -> Any:
    """Wait for a result in the background; return once the server was asked for it."""
    asked = admin.subscribe(f"$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.{backend.build_message_key(sent)}")
    waiting = in_background(lambda: backend.get_result(sent, block=True, timeout=60_000))
    asked.get(timeout=10)
    return waiting


def test_result_is_stored_though_somebody_waits_in_a_bucket_that_was_deleted(
    results: ResultBackend, other: ResultBackend, admin: Admin, namespace: str
) -> None:
    sent = message()
    waiting = waiting_for(results, admin, namespace, sent)
    admin.api(f"STREAM.DELETE.KV_{namespace}")

    assert took(lambda: other.store_result(sent, "stored", TTL)) < AT_ONCE
    assert waiting.result(10) == "stored"
    assert other.get_result(sent) == "stored"


@pytest.mark.parametrize("wide", ["$KV.>", ">"])
def test_result_is_stored_though_a_stranger_listens_to_everything(
    results: ResultBackend, nats_url: str, namespace: str, admin: Admin, wide: str
) -> None:
    with Admin(nats_url) as stranger:
        stranger.subscribe(wide)
        admin.api(f"STREAM.DELETE.KV_{namespace}")
        sent = message()

        assert took(lambda: results.store_result(sent, "stored", TTL)) < AT_ONCE
        assert results.get_result(sent) == "stored"


def test_abort_is_signaled_though_somebody_waits_in_a_bucket_that_was_deleted(
    nats_url: str, namespace: str, admin: Admin
) -> None:
    here, there = (Aborts(url=nats_url, bucket=namespace, timeout=TIMEOUT) for _ in range(2))
    there.notify([Event("other", {})], TTL)
    asked = admin.subscribe(f"$JS.API.DIRECT.GET.KV_{namespace}.>")
    waiting = in_background(lambda: here.wait_many(["key"], 60_000))
    asked.get(timeout=10)
    admin.api(f"STREAM.DELETE.KV_{namespace}")

    assert took(lambda: there.notify([Event("key", {})], TTL)) < AT_ONCE
    assert waiting.result(10) == Event("key", {})
    here.close()
    there.close()


def test_result_in_a_bucket_that_was_deleted_is_missing_at_once(
    results: ResultBackend, admin: Admin, namespace: str
) -> None:
    admin.api(f"STREAM.DELETE.KV_{namespace}")

    with pytest.raises(ResultMissing):
        results.get_result(message())
    assert f"KV_{namespace}" in admin.streams()


def test_wait_in_a_bucket_that_was_deleted_ends_on_time(results: ResultBackend, admin: Admin, namespace: str) -> None:
    admin.api(f"STREAM.DELETE.KV_{namespace}")
    began = time.monotonic()
    with pytest.raises(ResultTimeout):
        results.get_result(message(), block=True, timeout=500)

    assert 0.5 <= time.monotonic() - began < AT_ONCE


@pytest.mark.parametrize("fault", ["cut", "black_hole"])
def test_wait_over_a_broken_link_ends_on_time(results: ResultBackend, proxy: Proxy, namespace: str, fault: str) -> None:
    far = ResultBackend(url=proxy.url, bucket=namespace, timeout=TIMEOUT)
    far.store_result(message(), "connects", TTL)
    getattr(proxy, fault)()
    began = time.monotonic()
    with pytest.raises(ResultTimeout):
        far.get_result(message(), block=True, timeout=500)
    ended = time.monotonic()
    proxy.resume()
    far.close()

    assert 0.5 <= ended - began < AT_ONCE


def test_wait_without_any_server_ends_on_time() -> None:
    backend = ResultBackend(url="nats://127.0.0.1:1", timeout=TIMEOUT)
    began = time.monotonic()
    with pytest.raises(BrokerConnectionError):
        backend.get_result(message(), block=True, timeout=500)

    assert 0.5 <= time.monotonic() - began < AT_ONCE


@pytest.mark.faults
def test_waits_outlive_a_server_that_is_away_for_longer_than_the_timeout(tmp_path: Path) -> None:
    with NatsServer(store=tmp_path) as server:
        backend = ResultBackend(url=server.url, timeout=1_000)
        sent = [message() for _ in range(50)]
        backend.store_result(message(), "makes the bucket", TTL)
        waiting = [
            in_background(lambda each=each: backend.get_result(each, block=True, timeout=60_000)) for each in sent
        ]
        with pytest.raises(ResultTimeout):
            backend.get_result(message(), block=True, timeout=100)
        server.kill()
        # Longer than the connection's timeout, twice.
        for _ in range(2):
            with pytest.raises(ResultTimeout):
                backend.get_result(message(), block=True, timeout=1_500)
        server.restart()
        storing = ResultBackend(url=server.url, timeout=TIMEOUT)
        for each in sent:
            storing.store_result(each, "at last", TTL)

        assert [each.result(60) for each in waiting] == ["at last"] * 50
        storing.close()
        backend.close()


@pytest.mark.parametrize("block", [False, True])
def test_missing_bucket_that_may_not_be_made_is_named_at_once(nats_url: str, namespace: str, block: bool) -> None:
    backend = ResultBackend(url=nats_url, bucket=namespace, declare="never", timeout=TIMEOUT)
    began = time.monotonic()
    with pytest.raises(StreamNotFound, match=r"the bucket .* does not exist, and declare='never'"):
        backend.get_result(message(), block=block, timeout=TIMEOUT)
    with pytest.raises(StreamNotFound, match=r"the bucket .* does not exist, and declare='never'"):
        backend.store_result(message(), 1, TTL)
    backend.close()

    assert time.monotonic() - began < AT_ONCE


def test_release_waits_longer_for_the_server_than_acquire(proxy: Proxy, namespace: str, admin: Admin) -> None:
    far = Limits(url=proxy.url, bucket=namespace, timeout=2_000)
    limiter = ConcurrentRateLimiter(far, "mutex", limit=1, ttl=TTL)
    assert limiter._acquire()
    proxy.cut()
    releasing = in_background(limiter._release)
    # An acquire that begins with it gives up meanwhile.
    with pytest.raises(BrokerConnectionError):
        far.incr("another", 1, 1, TTL)
    assert not releasing.done()
    proxy.resume()

    assert releasing.result(30)
    assert limiter._acquire()
    far.close()


def test_slot_of_a_thread_that_gave_up_is_taken_back(proxy: Proxy, namespace: str, admin: Admin) -> None:
    far = Limits(url=proxy.url, bucket=namespace, timeout=TIMEOUT)
    assert not far.decr("mutex", 1, 0, TTL)
    written, go_on = threading.Event(), threading.Event()
    values = far._values
    write = values.write

    async def slow(*args: Any, **kwargs: Any) -> bool:
        stored = await write(*args, **kwargs)
        written.set()
        await asyncio.to_thread(go_on.wait, 20)
        return stored

    values.write = slow  # type: ignore[method-assign]
    session = values._connection.session()
    timeout, session.timeout = session.timeout, 0.2
    with pytest.raises(BrokerConnectionError):
        far.incr("mutex", 1, 1, TTL)
    session.timeout = timeout
    assert written.wait(10)
    go_on.set()

    assert far.incr("mutex", 1, 1, TTL)
    far.close()
