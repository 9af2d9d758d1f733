"""Storms: thousands of messages fail at once, and each line is logged once a minute for each cause, with a count."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream.logs import FIRST_LINES
from tests.support.admin import Admin
from tests.support.waiting import eventually
from tests.support.workers import run_worker

MANY = 500


def lines_of_ours(caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """How often each line of this package was logged, warnings and worse."""
    ours = [record for record in caplog.records if record.name.startswith("dramatiq_jetstream")]
    return Counter(str(record.msg).partition(" (")[0] for record in ours if record.levelno >= logging.WARNING)


def send_many(broker: JetStreamBroker, actor_name: str) -> None:
    broker.enqueue_many(
        [
            Message(queue_name="default", actor_name=actor_name, args=(number,), kwargs={}, options={})
            for number in range(MANY)
        ]
    )


def test_messages_that_fail_at_once_are_counted(broker: JetStreamBroker, caplog: pytest.LogCaptureFixture) -> None:
    @dramatiq.actor(broker=broker, max_retries=0)
    def fail(number: int) -> None:
        raise ValueError(f"number {number} fails")

    send_many(broker, "fail")
    with caplog.at_level(logging.WARNING), run_worker(broker):
        eventually(lambda: broker.get_queue_message_counts("default")[2] == MANY)

    lines = lines_of_ours(caplog)
    assert list(lines) == ["Message %s of queue %r is a dead letter: %s."]
    # The first ones have a line each, so that few are told one by one.
    assert max(lines.values()) <= FIRST_LINES + 2
    # Each traceback is dramatiq's own.
    assert len([record for record in caplog.records if record.name.startswith("dramatiq.worker")]) == MANY


def test_messages_that_fail_in_a_stream_of_somebody_else_are_counted(
    nats_url: str, namespace: str, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"stream": f"S-{namespace}", "subject": f"s.{namespace}", "consumer": "C"}
    queues = {"default": WorkQueue(**settings, stream_subjects=(f"s.{namespace}",), max_deliver=2)}
    broker = JetStreamBroker(nats_url, namespace=namespace, queues=queues)

    @dramatiq.actor(broker=broker, max_retries=1, min_backoff=1, max_backoff=2)
    def fail(number: int) -> None:
        raise ValueError("every number fails alike")

    send_many(broker, "fail")
    with caplog.at_level(logging.WARNING), run_worker(broker):
        eventually(lambda: broker.get_queue_message_counts("default")[2] == MANY)
    broker.close()

    lines = lines_of_ours(caplog)
    assert len(lines) <= 3
    # So few that each attempt of a few messages is told.
    assert max(lines.values()) <= FIRST_LINES + 2


def test_messages_whose_worker_died_are_counted(
    broker: JetStreamBroker, namespace: str, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    @dramatiq.actor(broker=broker)
    def work(number: int) -> None:
        pass

    broker.setup()
    send_many(broker, "work")
    # Whoever took these said nothing more.
    path = f"{broker.names.stream('default')}.{broker.names.consumer}"
    admin.api(f"CONSUMER.CREATE.{path}.{broker.names.work_subject('default')}", shorter(admin, broker))
    taken = admin.subscribe(f"taken.{namespace}")
    admin.publish(f"$JS.API.CONSUMER.MSG.NEXT.{path}", f'{{"batch":{MANY}}}'.encode(), reply=f"taken.{namespace}")
    eventually(lambda: taken.qsize() == MANY)
    with caplog.at_level(logging.WARNING), run_worker(broker):
        eventually(lambda: admin.count(broker.names.stream("default")) == 0)

    died = {text: count for text, count in lines_of_ours(caplog).items() if "was delivered before" in text}
    assert list(died.values()) == [1]


def shorter(admin: Admin, broker: JetStreamBroker) -> dict[str, object]:
    """A request to shorten the leases of a queue."""
    stream = broker.names.stream("default")
    config = admin.consumer(stream, broker.names.consumer)["config"]
    return {"stream_name": stream, "action": "update", "config": {**config, "ack_wait": 1_000_000_000}}


def test_messages_whose_follow_up_cannot_be_enqueued_are_counted(
    broker: JetStreamBroker, caplog: pytest.LogCaptureFixture
) -> None:
    @dramatiq.actor(broker=broker)
    def work(number: int) -> str:
        return "x" * 2_000_000

    messages = [work.message(number) | work.message(0) for number in range(20)]
    broker.enqueue_many([pipeline.messages[0] for pipeline in messages])
    with caplog.at_level(logging.WARNING), run_worker(broker):
        eventually(lambda: broker.get_queue_message_counts("default")[2] == 20)

    assert sorted(lines_of_ours(caplog).values())[-2:] == [1, 20]


def test_undecodable_messages_are_counted(
    broker: JetStreamBroker, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    broker.declare_queue("default")
    broker.setup()
    for number in range(50):
        admin.store(broker.names.work_subject("default", "any"), b"no JSON %d" % number)
    with caplog.at_level(logging.WARNING), run_worker(broker):
        eventually(lambda: broker.get_queue_message_counts("default")[2] == 50)

    assert sorted(lines_of_ours(caplog).values()) == [1, 50]
