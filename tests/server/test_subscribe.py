"""Callbacks on NATS subjects: what they may do, what happens when they fail, and how long they last."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from queue import SimpleQueue
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.errors import BrokerError

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.errors import BlockingCallRefused, BrokerConnectionError
from dramatiq_jetstream.results import JetStreamBackend
from tests.support.admin import Admin
from tests.support.waiting import eventually
from tests.support.workers import in_background, run_worker


def message() -> Message[Any]:
    return Message(queue_name="default", actor_name="keep", args=(), kwargs={}, options={})


def enter_batch(broker: JetStreamBroker) -> None:
    with broker.batch():
        broker.enqueue(message())


BLOCKING: dict[str, Callable[[JetStreamBroker], object]] = {
    "enqueue": lambda broker: broker.enqueue(message()),
    "delayed enqueue": lambda broker: broker.enqueue(message(), delay=1_000),
    "enqueue_many": lambda broker: broker.enqueue_many([message()]),
    "atomic enqueue_many": lambda broker: broker.enqueue_many([message()], atomic=True),
    "batch": enter_batch,
    "counts": lambda broker: broker.get_queue_message_counts("default"),
    "join": lambda broker: broker.join("default"),
    "flush": lambda broker: broker.flush("default"),
    "setup": lambda broker: broker.setup(),
    "subscribe": lambda broker: broker.subscribe("other", print),
    "consume": lambda broker: broker.consume("default"),
    "delayed": lambda broker: list(broker.delayed("default")),
    "dead letters": lambda broker: list(broker.dead_letters.list()),
    "result": lambda broker: JetStreamBackend(broker=broker).get_result(message(), block=True),
    "close": lambda broker: broker.close(),
}


@pytest.mark.parametrize("call", BLOCKING)
def test_blocking_call_in_a_callback_is_refused_at_once(broker: JetStreamBroker, admin: Admin, call: str) -> None:
    broker.declare_queue("default")
    raised: SimpleQueue[BaseException | None] = SimpleQueue()

    def callback(_: str, __: bytes) -> None:
        try:
            BLOCKING[call](broker)
        except BaseException as error:
            raised.put(error)
        else:
            raised.put(None)

    with broker.subscribe("noon", callback):
        admin.publish("noon")
        error = raised.get(timeout=5)

        assert isinstance(error, BlockingCallRefused)
        assert isinstance(error, BrokerError)
        assert not isinstance(error, BrokerConnectionError)
        assert "hand the work to another thread" in str(error)
        # Nothing of the refused call is left.
        broker.enqueue(message())


def test_call_on_another_broker_is_refused_in_a_callback_too(
    broker: JetStreamBroker, nats_url: str, namespace: str, admin: Admin
) -> None:
    raised: SimpleQueue[BaseException] = SimpleQueue()
    with closing(JetStreamBroker(nats_url, namespace=namespace)) as other:

        def callback(_: str, __: bytes) -> None:
            try:
                other.enqueue(message())
            except BaseException as error:
                raised.put(error)

        with broker.subscribe("noon", callback):
            admin.publish("noon")

            assert isinstance(raised.get(timeout=5), BlockingCallRefused)


def test_callback_may_publish_and_end_its_own_subscription(broker: JetStreamBroker, admin: Admin) -> None:
    heard = admin.subscribe("answer")
    count: list[bytes] = []

    def callback(_: str, body: bytes) -> None:
        count.append(body)
        broker.publish("answer", body)
        subscription.close()

    subscription = broker.subscribe("question", callback)
    admin.publish("question", b"1")
    assert heard.get(timeout=5).data == b"1"
    admin.publish("question", b"2")
    with broker.subscribe("question", lambda _, body: broker.publish("answer", b"other " + body)):
        admin.publish("question", b"3")
        assert heard.get(timeout=5).data == b"other 3"

    assert count == [b"1"]


@pytest.mark.parametrize("error", [ValueError("on purpose"), SystemExit(1), KeyboardInterrupt(), BaseException("odd")])
def test_subscription_outlives_what_its_callback_raises(
    broker: JetStreamBroker, admin: Admin, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    heard: SimpleQueue[bytes] = SimpleQueue()

    def callback(_: str, body: bytes) -> None:
        heard.put(body)
        if body == b"1":
            raise error

    with broker.subscribe("noon.*", callback):
        admin.publish("noon.today", b"1")
        admin.publish("noon.today", b"2")

        assert [heard.get(timeout=5), heard.get(timeout=5)] == [b"1", b"2"]
        broker.enqueue(message())
    assert "A callback failed for a message on 'noon.today'" in caplog.text


def test_subscriptions_consumers_and_sends_outlive_a_client_that_is_closed_for_good(
    broker: JetStreamBroker, admin: Admin
) -> None:
    heard: SimpleQueue[bytes] = SimpleQueue()
    ran: SimpleQueue[int] = SimpleQueue()
    actor = dramatiq.actor(actor_name="run", broker=broker)(lambda number: ran.put(number))
    backend = JetStreamBackend(broker=broker)
    awaited = message()
    with run_worker(broker), broker.subscribe("noon", lambda _, body: heard.put(body)):
        session = broker.connection.session()
        for number in range(3):
            waiting = in_background(partial(backend.get_result, awaited, block=True, timeout=20_000))
            client = session.client
            # As when the server sends this: nats-py closes the client and does not come back.
            session.thread.run(partial(client._process_err, "'User Authentication Expired'"))
            eventually(lambda client=client: session.client is not client and session.client.is_connected)  # type: ignore[misc]

            actor.send(number)
            assert ran.get(timeout=20) == number
            admin.publish("noon", b"%d" % number)
            assert heard.get(timeout=5) == b"%d" % number
            backend.store_result(awaited, number, 60_000)
            assert waiting.result(20) in range(number + 1)
        assert session._subscriptions.are_current
