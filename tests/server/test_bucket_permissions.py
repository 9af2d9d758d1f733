"""Backends of users who may not do everything: what is missing is named at once, and what docs list is enough."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from dramatiq import Message
from dramatiq_abort import Event

from dramatiq_jetstream import NatsServer
from dramatiq_jetstream.abort import JetStreamBackend as Aborts
from dramatiq_jetstream.errors import PermissionDenied
from dramatiq_jetstream.rate_limits import JetStreamBackend as Limits
from dramatiq_jetstream.results import JetStreamBackend as ResultBackend
from tests.support.workers import in_background

TTL = 60_000

#: Far more than what is "at once" takes.
TIMEOUT = 60_000

USERS = """
authorization {
  users: [
    {user: admin, password: secret}
    {user: user, password: secret, permissions: {
      publish: ["$KV.shared.>", "$JS.API.DIRECT.GET.KV_shared.>", "$JS.API.STREAM.MSG.GET.KV_shared"]
      subscribe: ["_INBOX.>", "$KV.shared.>"]
    }}
    {user: deaf, password: secret, permissions: {publish: ">", subscribe: "_INBOX.>"}}
    {user: unread, password: secret, permissions: {publish: {deny: ["$JS.API.DIRECT.GET.>"]}, subscribe: ">"}}
    {user: unwritten, password: secret, permissions: {publish: {deny: ["$KV.>"]}, subscribe: ">"}}
  ]
}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer(config=USERS) as server:
        yield server


@pytest.fixture
def admins(server: NatsServer) -> Iterator[ResultBackend]:
    backend = ResultBackend(bucket="shared", **options(server, "admin"))
    backend.store_result(message(), "makes the bucket", TTL)
    yield backend
    backend.close()


def options(server: NatsServer, user: str, **others: Any) -> dict[str, Any]:
    return {"url": server.url, "user": user, "password": "secret", "timeout": TIMEOUT, **others}


def message() -> Message[Any]:
    return Message(queue_name="default", actor_name="answer", args=(), kwargs={}, options={})


def test_what_docs_list_is_enough(server: NatsServer, admins: ResultBackend) -> None:
    given = options(server, "user", bucket="shared", declare="never")
    results, limits, aborts = ResultBackend(**given), Limits(**given), Aborts(**given)
    sent = message()
    waiting = in_background(lambda: results.get_result(sent, block=True, timeout=TIMEOUT))
    results.store_result(sent, 1, TTL)
    aborts.notify([Event("one", {}), Event("two", {})], TTL)

    assert waiting.result(20) == 1
    assert limits.add("key", 1, TTL)
    signaled = [aborts.wait_many(["one", "two"], 10_000) for _ in range(2)]
    assert sorted(event.key for event in signaled if event) == ["one", "two"]
    for backend in (results, limits, aborts):
        backend.close()


def test_result_is_seen_without_the_right_to_hear_of_it(server: NatsServer, admins: ResultBackend) -> None:
    deaf = ResultBackend(bucket="shared", **options(server, "deaf"))
    sent = message()
    waiting = in_background(lambda: deaf.get_result(sent, block=True, timeout=TIMEOUT))
    admins.store_result(sent, 1, TTL)

    assert waiting.result(20) == 1
    deaf.close()


@pytest.mark.parametrize("block", [False, True])
def test_missing_right_to_read_is_named_at_once(server: NatsServer, admins: ResultBackend, block: bool) -> None:
    unread = ResultBackend(bucket="shared", **options(server, "unread"))
    began = time.monotonic()
    with pytest.raises(PermissionDenied, match=r"DIRECT\.GET"):
        unread.get_result(message(), block=block, timeout=TIMEOUT)

    assert time.monotonic() - began < 20
    unread.close()


def test_missing_right_to_write_is_named_at_once(server: NatsServer, admins: ResultBackend) -> None:
    given = options(server, "unwritten", bucket="shared")
    results, limits = ResultBackend(**given), Limits(**given)
    began = time.monotonic()
    with pytest.raises(PermissionDenied, match="KV"):
        results.store_result(message(), 1, TTL)
    with pytest.raises(PermissionDenied, match="KV"):
        limits.add("another", 1, TTL)

    assert time.monotonic() - began < 20
    results.close()
    limits.close()
