"""Exceptions that hit a thread from outside, anywhere on the way of a message out or of its answer: nothing stands."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream.deliveries.delivery import JetStreamMessage
from dramatiq_jetstream.sending import Batch
from dramatiq_jetstream.worker.consumer import JetStreamConsumer
from tests.support.admin import Admin
from tests.support.interrupts import Interrupted, Target, everywhere, interrupt_at
from tests.support.waiting import eventually
from tests.support.workers import in_background

#: Milliseconds within which a connection that may hold half a command is replaced.
SOON = 10_000

SEED = 20_261_125


@contextmanager
def connected(url: str, namespace: str, **queue: Any) -> Iterator[JetStreamBroker]:
    queues = {"default": WorkQueue(**queue)}
    with closing(JetStreamBroker(url, namespace=namespace, queues=queues, reconnect_time_wait=0.01)) as broker:
        yield broker


@pytest.fixture
def sender(nats_url: str, namespace: str, admin: Admin) -> Iterator[JetStreamBroker]:
    with connected(nats_url, namespace) as broker:
        yield broker


def message() -> Message[Any]:
    return Message(queue_name="default", actor_name="keep", args=(), kwargs={}, options={})


def send(broker: JetStreamBroker, confirmed: list[str], delay: int | None = None) -> None:
    confirmed.append(broker.enqueue(message(), delay=delay).message_id)


def send_many(broker: JetStreamBroker, confirmed: list[str], *, atomic: bool = False) -> None:
    sent = broker.enqueue_many([message() for _ in range(3)], atomic=atomic)
    confirmed.extend(each.message_id for each in sent)


def send_batch(broker: JetStreamBroker, confirmed: list[str]) -> None:
    with broker.batch():
        sent = [broker.enqueue(message()) for _ in range(2)]
    confirmed.extend(each.message_id for each in sent)


SENDS: dict[str, Callable[[JetStreamBroker, list[str]], object]] = {
    "send": send,
    "delayed send": lambda broker, confirmed: send(broker, confirmed, 3_600_000),
    "enqueue_many": send_many,
    "atomic enqueue_many": lambda broker, confirmed: send_many(broker, confirmed, atomic=True),
    "batch": send_batch,
    "publish": lambda broker, _: broker.publish("nobody.listens", b""),
    "call": lambda broker, _: broker.get_queue_message_counts("default"),
}


def stored_ids(admin: Admin, broker: JetStreamBroker) -> set[str]:
    return {json.loads(each.body)["message_id"] for each in admin.stored(broker.names.stream("default"))}


def check_all_can_send(broker: JetStreamBroker, confirmed: list[str]) -> None:
    """Check that this thread and another one can still send."""
    in_background(send, broker, confirmed).result(SOON / 1000)
    send(broker, confirmed)


@pytest.mark.parametrize("kind", SENDS)
def test_sending_goes_on_wherever_an_exception_hits_a_sender(sender: JetStreamBroker, admin: Admin, kind: str) -> None:
    confirmed: list[str] = []
    send(sender, confirmed)

    places = []
    for place in everywhere(lambda: SENDS[kind](sender, confirmed)):
        places.append(place)
        check_all_can_send(sender, confirmed)

    assert len(places) > 10
    assert set(confirmed) <= stored_ids(admin, sender)
    session = sender.connection.session()
    eventually(lambda: session.publisher.waiting == 0, SOON, message="an answer to all that was sent")


def test_batch_that_an_exception_left_takes_no_more_messages(sender: JetStreamBroker, admin: Admin) -> None:
    confirmed: list[str] = []
    kept: list[BaseException] = []

    def fill() -> None:
        try:
            send_batch(sender, confirmed)
        except Interrupted as error:
            # With the traceback, and so with the batch.
            kept.append(error)
            assert Batch.of(sender.connection) is None
            send(sender, confirmed)

    send(sender, confirmed)
    places = list(everywhere(fill))

    assert any("leave" in place or "batch.py" in place for place in places)
    assert len(kept) == len(places)
    send(sender, confirmed)
    assert set(confirmed) <= stored_ids(admin, sender)


def test_connection_opens_wherever_an_exception_hits_the_first_sender(
    nats_url: str, namespace: str, admin: Admin
) -> None:
    confirmed: list[str] = []
    for line in itertools.count():
        with connected(nats_url, namespace) as broker:
            place = interrupt_at(line, partial(send, broker, confirmed), "client/connection.py")
            check_all_can_send(broker, confirmed)
            assert set(confirmed) <= stored_ids(admin, broker)
        if place is None:
            break


def test_sending_goes_on_whenever_an_exception_hits_a_sender(sender: JetStreamBroker, admin: Admin) -> None:
    confirmed: list[str] = []
    send(sender, confirmed)
    kinds = [SENDS[kind] for kind in ("send", "enqueue_many", "batch", "delayed send", "send")]
    targets = [Target(lambda number: kinds[number % len(kinds)](sender, confirmed), SEED + each) for each in range(3)]

    for running in [in_background(target.hit, 100) for target in targets]:
        running.result(100)
    check_all_can_send(sender, confirmed)

    assert set(confirmed) <= stored_ids(admin, sender)


class Taker:
    """Takes messages from a consumer that holds one at a time, so that a slot that is lost stops it.

    Parameters:
      broker(JetStreamBroker): The broker.
      consumer(JetStreamConsumer): The consumer.
    """

    def __init__(self, broker: JetStreamBroker, consumer: JetStreamConsumer) -> None:
        self.broker = broker
        self._consumer = consumer
        self.stream = broker.names.stream("default")

    def take(self) -> JetStreamMessage:
        taken = eventually(lambda: next(self._consumer), 30_000, message="a message")
        assert isinstance(taken, JetStreamMessage)
        return taken

    def answer(self, answer: str, taken: JetStreamMessage) -> None:
        getattr(self._consumer, answer)(taken)

    def send_and_answer(self, answer: str) -> None:
        self.broker.enqueue(message())
        self.answer(answer, self.take())


@contextmanager
def taker(
    url: str, namespace: str, monkeypatch: pytest.MonkeyPatch, *, prefetch: int = 1, **queue: Any
) -> Iterator[Taker]:
    monkeypatch.setattr("dramatiq_jetstream.deliveries.puller.HEARTBEAT", 0.1)
    with connected(url, namespace, ack_wait=1_000, **queue) as broker:
        dramatiq.actor(actor_name="keep", broker=broker)(lambda: None)
        with closing(broker.consume("default", prefetch=prefetch, timeout=100)) as consumer:
            yield Taker(broker, consumer)


@pytest.mark.parametrize(("answer", "confirm_acks"), [("ack", False), ("ack", True), ("nack", False)])
def test_consuming_goes_on_wherever_an_exception_hits_an_answer(
    nats_url: str, namespace: str, admin: Admin, monkeypatch: pytest.MonkeyPatch, answer: str, confirm_acks: bool
) -> None:
    with taker(nats_url, namespace, monkeypatch, confirm_acks=confirm_acks) as worker:
        places = 0
        for line in itertools.count():
            worker.broker.enqueue(message())
            taken = worker.take()
            if interrupt_at(line, partial(worker.answer, answer, taken)) is None:
                break
            places += 1
            worker.answer(answer, taken)
            # There is but one slot.
            in_background(worker.send_and_answer, "ack").result(60)

        assert places > 10

        def empty() -> bool:
            left = next(worker._consumer)
            if left is not None:
                worker.answer("ack", left)
            return admin.count(worker.stream) == 0

        eventually(empty, 30_000, message="the end of the queue")


def test_consuming_goes_on_whenever_an_exception_hits_an_answer(
    nats_url: str, namespace: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with taker(nats_url, namespace, monkeypatch, prefetch=50) as worker:
        waiting: list[JetStreamMessage] = []

        def answer_next(_: int) -> None:
            if waiting:
                worker.answer("ack", waiting[-1])
                waiting.pop()

        target = Target(answer_next, SEED)
        hitting = in_background(target.hit, 200)
        while not hitting.done():
            worker.broker.enqueue(message())
            waiting.insert(0, worker.take())
        hitting.result()
        while waiting:
            answer_next(0)
        eventually(lambda: admin.count(worker.stream) == 0, 30_000, message="the end of the queue")
