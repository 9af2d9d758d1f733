"""A subscriber to a queue's subjects hides that their stream is gone; a send notices all the same."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.errors import StreamNotFound
from tests.support.admin import Admin

#: Long enough that a test which waits for it fails for certain.
TIMEOUT = 60_000


def make_message() -> Message[Any]:
    return Message(queue_name="default", actor_name="act", args=(), kwargs={}, options={})


def lose_the_stream(broker: JetStreamBroker, admin: Admin) -> None:
    """Delete a queue's stream while somebody listens to its subjects."""
    admin.subscribe(broker.names.work_subject("default"))
    admin.api(f"STREAM.DELETE.{broker.names.stream('default')}")


def test_stream_that_is_deleted_behind_a_subscriber_is_made_again(nats_url: str, namespace: str, admin: Admin) -> None:
    with closing(JetStreamBroker(nats_url, namespace=namespace, timeout=TIMEOUT)) as broker:
        broker.enqueue(make_message())
        lose_the_stream(broker, admin)
        started = time.monotonic()
        broker.enqueue(make_message())

        assert time.monotonic() - started < TIMEOUT / 1000 / 2
        assert admin.count(broker.names.stream("default")) == 1


def test_missing_stream_behind_a_subscriber_is_named_where_it_may_not_be_made(
    nats_url: str, namespace: str, admin: Admin
) -> None:
    with closing(JetStreamBroker(nats_url, namespace=namespace)) as maker:
        maker.enqueue(make_message())
        lose_the_stream(maker, admin)
    with (
        closing(JetStreamBroker(nats_url, namespace=namespace, timeout=TIMEOUT, declare="never")) as broker,
        pytest.raises(StreamNotFound, match="no stream listens"),
    ):
        broker.enqueue(make_message())
