"""Consuming: acknowledgements, prefetch, leases, and all that must not stop a consumer."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker, NatsServer, WorkQueue
from dramatiq_jetstream.deliveries.delivery import JetStreamMessage
from dramatiq_jetstream.worker.consumer import JetStreamConsumer
from tests.support.admin import Admin
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tests.support.workers import run_worker, threads_alive

#: Milliseconds of a lease that a busy machine does not keep a worker from renewing.
LEASE = 3_000


def message_to(queue_name: str, *args: Any) -> Message[Any]:
    return Message(queue_name=queue_name, actor_name="keep", args=args, kwargs={}, options={})


def take(consumer: JetStreamConsumer) -> JetStreamMessage:
    """The next message."""
    message = eventually(lambda: next(consumer))
    assert message is not None
    return message


def declare(broker: JetStreamBroker, **options: Any) -> list[Any]:
    """Declare the actor "keep", and return the list that it adds its arguments to."""
    kept: list[Any] = []

    @dramatiq.actor(broker=broker, **options)
    def keep(value: Any) -> None:
        kept.append(value)

    return kept


def in_flight(broker: JetStreamBroker, admin: Admin) -> int:
    info = admin.consumer(broker.names.stream("default"), broker.names.consumer)
    return int(info["num_ack_pending"])


def deliveries(broker: JetStreamBroker, admin: Admin) -> int:
    """How many deliveries there were, repeated ones included."""
    info = admin.consumer(broker.names.stream("default"), broker.names.consumer)
    return int(info["delivered"]["consumer_seq"])


def _has_delivered(broker: JetStreamBroker, admin: Admin, expected: int) -> bool:
    return deliveries(broker, admin) == expected


def test_acknowledged_message_is_removed(broker: JetStreamBroker, admin: Admin) -> None:
    declare(broker)
    broker.enqueue(message_to("default", 1))
    consumer = broker.consume("default", timeout=100)

    consumer.ack(take(consumer))

    eventually(lambda: admin.count(broker.names.stream("default")) == 0)
    consumer.close()


def test_nacked_message_is_dead_lettered_once(broker: JetStreamBroker, admin: Admin) -> None:
    declare(broker)
    sent = broker.enqueue(message_to("default", 1))
    consumer = broker.consume("default", timeout=100)

    message = take(consumer)
    consumer.nack(message)
    consumer.nack(message)

    eventually(lambda: admin.count(broker.names.stream("default")) == 0)
    [dead] = admin.stored(broker.names.dead_letters)
    assert Message.decode(dead.body) == sent
    consumer.close()


def test_confirmed_acknowledgement_has_removed_the_message_when_it_returns(
    nats_url: str, namespace: str, admin: Admin
) -> None:
    broker = JetStreamBroker(nats_url, namespace=namespace, queues={"default": WorkQueue(confirm_acks=True)})
    declare(broker)
    broker.enqueue(message_to("default", 1))
    consumer = broker.consume("default", timeout=100)

    consumer.ack(take(consumer))

    assert admin.count(broker.names.stream("default")) == 0
    broker.close()


@pytest.mark.parametrize("max_retries", [0, 3])
def test_requeued_message_returns_with_its_attempts_unspent(broker: JetStreamBroker, max_retries: int) -> None:
    declare(broker, max_retries=max_retries)
    sent = broker.enqueue(message_to("default", 1))
    consumer = broker.consume("default", timeout=100)

    for _ in range(5):
        message = take(consumer)
        assert message.message_id == sent.message_id
        assert message.options.get("retries", 0) == 0
        consumer.requeue([message])

    consumer.ack(take(consumer))
    broker.join("default", timeout=5_000)
    assert broker.get_queue_message_counts("default") == (0, 0, 0)
    consumer.close()


def test_consumer_holds_no_more_than_its_prefetch(broker: JetStreamBroker, admin: Admin) -> None:
    declare(broker)
    for number in range(20):
        broker.enqueue(message_to("default", number))
    consumer = broker.consume("default", prefetch=5, timeout=100)

    eventually(lambda: in_flight(broker, admin) == 5)
    for expected in range(6, 16):
        consumer.ack(take(consumer))
        eventually(partial(_has_delivered, broker, admin, expected))
        assert in_flight(broker, admin) == 5
    consumer.close()


def test_credit_is_refilled_under_load_and_everything_runs_once(broker: JetStreamBroker, admin: Admin) -> None:
    kept = declare(broker)
    for number in range(500):
        broker.enqueue(message_to("default", number))

    with run_worker(broker, threads=4):
        broker.join("default", timeout=30_000)

    assert sorted(kept) == list(range(500))
    assert deliveries(broker, admin) == 500


def test_two_consumers_share_the_work(broker: JetStreamBroker, nats_url: str, namespace: str) -> None:
    other = JetStreamBroker(nats_url, namespace=namespace)
    together = threading.Barrier(2)
    ran: Counter[str] = Counter()

    for each, name in ((broker, "one"), (other, "other")):

        @dramatiq.actor(broker=each, actor_name="keep", max_retries=0)
        def keep(_: int, name: str = name) -> None:
            together.wait(timeout=10)
            ran[name] += 1

    broker.enqueue(message_to("default", 1))
    broker.enqueue(message_to("default", 2))
    with run_worker(broker, threads=1), run_worker(other, threads=1):
        eventually(lambda: ran == {"one": 1, "other": 1})
    other.close()


def test_lease_of_a_running_message_is_renewed(nats_url: str, namespace: str, admin: Admin) -> None:
    broker = JetStreamBroker(nats_url, namespace=namespace, queues={"default": WorkQueue(ack_wait=LEASE)})
    ran: list[int] = []
    finish = threading.Event()

    @dramatiq.actor(broker=broker)
    def keep(number: int) -> None:
        ran.append(number)
        finish.wait(3 * LEASE / 1000)

    broker.enqueue(message_to("default", 1))
    with run_worker(broker), run_worker(broker):
        broker.join("default", timeout=60_000)

    assert ran == [1]
    assert deliveries(broker, admin) == 1
    broker.close()


def test_message_of_a_consumer_that_vanished_is_elsewhere_after_ack_wait(
    proxy: Proxy, nats_url: str, namespace: str, admin: Admin
) -> None:
    queues = {"default": WorkQueue(ack_wait=1_000)}
    vanishing = JetStreamBroker(proxy.url, namespace=namespace, queues=queues, timeout=500)
    broker = JetStreamBroker(nats_url, namespace=namespace, queues=queues)
    for each in (vanishing, broker):
        declare(each)
    sent = broker.enqueue(message_to("default", 1))
    lost = vanishing.consume("default", timeout=100)
    take(lost)

    proxy.black_hole()
    consumer = broker.consume("default", timeout=100)
    message = take(consumer)

    assert message.message_id == sent.message_id
    assert message.options["retries"] == 1
    consumer.ack(message)
    broker.close()
    proxy.cut()
    vanishing.close()


def _delete_consumer(broker: JetStreamBroker, admin: Admin) -> None:
    admin.api(f"CONSUMER.DELETE.{broker.names.stream('default')}.{broker.names.consumer}")


def _delete_stream(broker: JetStreamBroker, admin: Admin) -> None:
    admin.api(f"STREAM.DELETE.{broker.names.stream('default')}")


@pytest.mark.parametrize("delete", [_delete_consumer, _delete_stream])
def test_consuming_goes_on_after_a_deletion(
    broker: JetStreamBroker, admin: Admin, delete: Callable[[JetStreamBroker, Admin], None]
) -> None:
    kept = declare(broker)
    with run_worker(broker) as worker:
        broker.enqueue(message_to("default", 1))
        eventually(lambda: kept == [1])
        eventually(lambda: admin.count(broker.names.stream("default")) == 0)

        delete(broker, admin)
        broker.enqueue(message_to("default", 2))

        eventually(lambda: kept == [1, 2])
        assert threads_alive(worker)


def test_consuming_goes_on_after_a_server_restart(namespace: str) -> None:
    with NatsServer() as server:
        broker = JetStreamBroker(server.url, namespace=namespace)
        kept = declare(broker)
        with run_worker(broker) as worker:
            broker.enqueue(message_to("default", 1))
            eventually(lambda: kept == [1])

            server.restart()
            broker.enqueue(message_to("default", 2))

            eventually(lambda: kept == [1, 2])
            assert threads_alive(worker)
        broker.close()


def test_consuming_goes_on_after_a_cut_of_the_connection(
    proxy: Proxy, broker: JetStreamBroker, nats_url: str, namespace: str, admin: Admin
) -> None:
    cut_off = JetStreamBroker(proxy.url, namespace=namespace)
    kept = declare(cut_off)
    with run_worker(cut_off) as worker:
        broker.enqueue(message_to("default", 1))
        eventually(lambda: kept == [1])

        proxy.cut()
        # Whatever the server still sends down the old connection comes back only after ack_wait.
        stream, consumer = broker.names.stream("default"), broker.names.consumer
        eventually(lambda: admin.consumer(stream, consumer)["num_waiting"] == 0)
        broker.enqueue(message_to("default", 2))
        proxy.resume()

        eventually(lambda: kept == [1, 2])
        assert threads_alive(worker)
    cut_off.close()


def test_acknowledgement_during_a_cut_reaches_the_server(
    proxy: Proxy, broker: JetStreamBroker, namespace: str, admin: Admin
) -> None:
    cut_off = JetStreamBroker(proxy.url, namespace=namespace)
    declare(cut_off)
    cut_off.enqueue(message_to("default", 1))
    consumer = cut_off.consume("default", timeout=100)
    message = take(consumer)

    proxy.cut()
    eventually(lambda: not cut_off.connection.session().client.is_connected)
    consumer.ack(message)
    proxy.resume()

    eventually(lambda: admin.count(cut_off.names.stream("default")) == 0)
    assert deliveries(cut_off, admin) == 1
    cut_off.close()


def _body(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "queue_name": "default",
        "actor_name": "keep",
        "args": ["bad"],
        "kwargs": {},
        "options": {},
        "message_id": "an-id",
        "message_timestamp": 1_700_000_000_000,
    }
    fields |= changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


UNDECODABLE = {
    "empty": b"",
    "byte order mark": b"\xef\xbb\xbf" + _body(),
    "a list": b"[]",
    "an empty object": b"{}",
    "a string": b'"text"',
    "null": b"null",
    "half": _body()[:-10],
    "deep": b"[" * 200_000,
    "a huge integer": b'{"queue_name": ' + b"9" * 5_000 + b"}",
    "a missing key": _body(actor_name=...),
    "an extra key": _body(more=1),
    "not UTF-8": b"\xff\xfe\x00",
    "pickle": b"\x80\x04K\x01.",
    "a message id that is an object": _body(message_id={}),
    "options that are a list": _body(options=[]),
    "options that are null": _body(options=None),
    "kwargs that are a list": _body(kwargs=[1]),
    "args that are text": _body(args="abc"),
    "a queue name that is a number": _body(queue_name=7),
    "an actor name that is a list": _body(actor_name=[]),
    "a timestamp that is text": _body(message_timestamp="now"),
    "retries that are text": _body(options={"retries": "many"}),
    "a time limit that is text": _body(options={"time_limit": "soon"}),
    "a pipe target that is text": _body(options={"pipe_target": "nowhere"}),
}

RUNNABLE = {
    "a foreign queue name": _body(queue_name="elsewhere"),
    "an endless eta": _body(options={"eta": float("inf")}),
    "an eta in the future": _body(options={"eta": 10**15}),
    "an eta that is text": _body(options={"eta": "soon"}),
    "a name twice": _body().replace(b'"kwargs"', b'"args": ["bad"], "kwargs"'),
}


def test_messages_that_are_none_are_dead_lettered_and_neighbours_proceed(broker: JetStreamBroker, admin: Admin) -> None:
    kept = declare(broker, max_retries=0)
    broker.enqueue(message_to("default", 0))
    subject = broker.names.work_subject("default", "keep")

    with run_worker(broker) as worker:
        for number, body in enumerate([*UNDECODABLE.values(), *RUNNABLE.values()], start=1):
            assert "error" not in admin.store(subject, body)
            broker.enqueue(message_to("default", number))
        broker.join("default", timeout=20_000)

        assert threads_alive(worker)
    assert sorted(each for each in kept if each != "bad") == list(range(len(UNDECODABLE) + len(RUNNABLE) + 1))
    assert kept.count("bad") == len(RUNNABLE)
    dead = admin.stored(broker.names.dead_letters)
    assert {each.body for each in dead} == set(UNDECODABLE.values())
    assert {each.headers["Dramatiq-Reason"] for each in dead} == {"undecodable"}


def test_message_on_an_odd_subject_or_of_an_unknown_actor_harms_nobody(
    nats_url: str, namespace: str, admin: Admin
) -> None:
    broker = JetStreamBroker(nats_url, namespace=namespace, unknown_actor_grace=0)
    kept = declare(broker, max_retries=0)
    broker.declare_queue("default")
    broker.setup()
    admin.store(broker.names.work_subject("default", "nobody"), _body(actor_name="nobody"))
    admin.store(broker.names.work_subject("default", "nobody"), _body(args=["odd"]))
    admin.store(broker.names.work_subject("default", "keep"), _body(actor_name="=*>. \r\n"))

    with run_worker(broker) as worker:
        broker.enqueue(message_to("default", 1))
        broker.join("default", timeout=10_000)
        assert threads_alive(worker)

    assert sorted(kept, key=str) == [1, "odd"]
    reasons = [each.headers["Dramatiq-Reason"] for each in admin.stored(broker.names.dead_letters)]
    assert reasons == ["unknown actor"] * 2
    broker.close()


HOSTILE_HEADERS = [
    # First, for it purges what is older: streams with message schedules allow that to whoever may publish.
    {"Nats-Rollup": "all"},
    {"Status": "409", "Description": "Consumer Deleted"},
    {"Status": "100", "Description": "Idle Heartbeat"},
    {"Status": "503"},
    {"Nats-Pending-Messages": "1000000", "Nats-Pending-Bytes": "x"},
    {"Nats-Msg-Id": "*.>"},
    {"Nats-Expected-Stream": "elsewhere"},
    {"Nats-Expected-Last-Sequence": "999"},
    {"Nats-TTL": "1s"},
    {"Nats-Schedule": "@at 2999-01-01T00:00:00Z"},
    {"Dramatiq-Options": "[]", "Dramatiq-Message-Id": "%", "Dramatiq-Timestamp": "now"},
    {"Dramatiq-Reason": "none", "Dramatiq-Queue": "elsewhere"},
]


def test_hostile_headers_mislead_nobody(broker: JetStreamBroker, admin: Admin) -> None:
    kept = declare(broker, max_retries=0)
    broker.setup()
    subject = broker.names.work_subject("default", "keep")

    with run_worker(broker) as worker:
        stored = [
            number
            for number, headers in enumerate(HOSTILE_HEADERS)
            if "error" not in admin.store(subject, _body(args=[number]), headers)
        ]
        broker.enqueue(message_to("default", "last"))
        eventually(lambda: "last" in kept)
        eventually(lambda: sorted(each for each in kept if each != "last") == stored)
        broker.join("default", timeout=10_000)
        assert threads_alive(worker)
    assert broker.get_queue_message_counts("default") == (0, 0, 0)
