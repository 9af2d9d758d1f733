"""Links that are slow or silent: what is on its way already is not sent again."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream.deliveries.delivery import JetStreamMessage
from tests.support.admin import Admin
from tests.support.proxy import Proxy
from tests.support.waiting import eventually

HELD = 20
SIZE = 50_000


def message(text: str = "") -> Message[Any]:
    return Message(queue_name="default", actor_name="keep", args=(text,), kwargs={}, options={})


@pytest.fixture
def linked(proxy: Proxy, namespace: str, admin: Admin) -> Iterator[JetStreamBroker]:
    queues = {"default": WorkQueue(ack_wait=1_000)}
    with closing(JetStreamBroker(proxy.url, namespace=namespace, queues=queues)) as broker:
        dramatiq.actor(actor_name="keep", broker=broker)(lambda _: None)
        yield broker


def pass_seconds(broker: JetStreamBroker, seconds: float) -> None:
    """Let so much time pass on the connection's own loop, which may be late."""
    passed = threading.Event()
    loop_thread = broker.connection.session().thread
    loop_thread.call_soon(loop_thread.loop.call_later, seconds, passed.set)
    assert passed.wait(30)


@pytest.mark.faults
def test_renewals_of_leases_do_not_pile_up_on_a_silent_link(
    linked: JetStreamBroker, proxy: Proxy, admin: Admin
) -> None:
    linked.enqueue_many([message() for _ in range(HELD)])
    answers = admin.subscribe(f"$JS.ACK.{linked.names.stream('default')}.>")
    with closing(linked.consume("default", prefetch=HELD, timeout=100)) as consumer:
        held: list[JetStreamMessage] = []

        def all_are_held() -> bool:
            taken = next(consumer)
            held.extend([taken] if isinstance(taken, JetStreamMessage) else [])
            return len(held) == HELD

        eventually(all_are_held)
        proxy.black_hole()
        while not answers.empty():
            answers.get()
        # Ten times the time after which leases are renewed.
        pass_seconds(linked, 3.3)
        proxy.resume()
        for each in held:
            consumer.ack(each)
        eventually(lambda: admin.count(linked.names.stream("default")) == 0)

    renewals = Counter(answer.subject for answer in iter_all(answers) if answer.data == b"+WPI")
    assert max(renewals.values(), default=0) <= 3


def iter_all(collected: Any) -> Iterator[Any]:
    while not collected.empty():
        yield collected.get()


@pytest.mark.faults
@pytest.mark.parametrize("atomic", [False, True])
def test_publishes_are_not_repeated_on_a_slow_link(
    linked: JetStreamBroker, proxy: Proxy, admin: Admin, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    monkeypatch.setattr("dramatiq_jetstream.client.publisher.REPEAT_AFTER", 0.2)
    monkeypatch.setattr("dramatiq_jetstream.client.publisher.LOOK_INTERVAL", 0.05)
    linked.enqueue(message())
    before = proxy.received
    proxy.rate = 20 * SIZE

    linked.enqueue_many([message("x" * SIZE) for _ in range(60)], atomic=atomic)

    assert 60 * SIZE < proxy.received - before < 60 * SIZE * 1.2
    assert admin.count(linked.names.stream("default")) == 61
