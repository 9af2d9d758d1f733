"""Sending: what `send()` promises once it has returned, and what it raises when it cannot."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker, NatsServer, WorkQueue
from dramatiq_jetstream.errors import (
    BrokerConnectionError,
    CallTimeout,
    EnqueueRejected,
    MessageTooLarge,
    ServerUnreachable,
)
from tests.support.admin import Admin
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tests.support.workers import in_background, run_worker


def message_to(queue_name: str, actor_name: str = "anyone", *args: Any) -> Message[Any]:
    return Message(queue_name=queue_name, actor_name=actor_name, args=args, kwargs={}, options={})


def test_message_is_stored_when_send_returns(broker: JetStreamBroker, admin: Admin) -> None:
    @dramatiq.actor(broker=broker)
    def add(x: int, y: int) -> None: ...

    message = add.send(1, 2)

    [stored] = admin.stored(broker.names.stream("default"))
    assert stored.subject == broker.names.work_subject("default", "add")
    assert Message.decode(stored.body) == message


def test_sending_a_message_twice_stores_two(broker: JetStreamBroker, admin: Admin) -> None:
    message = message_to("default")

    broker.enqueue(message)
    broker.enqueue(message)

    assert admin.count(broker.names.stream("default")) == 2


def test_publish_repeated_after_a_lost_reply_is_stored_once(proxy: Proxy, namespace: str, admin: Admin) -> None:
    broker = JetStreamBroker(proxy.url, namespace=namespace)
    stream = broker.names.stream("default")
    broker.enqueue(message_to("default"))

    proxy.drop_replies()
    sending = in_background(broker.enqueue, message_to("default"))
    eventually(lambda: admin.count(stream) == 2)
    assert not sending.done()
    proxy.resume()

    sending.result(timeout=10)
    broker.enqueue(message_to("default"))
    assert admin.count(stream) == 3
    broker.close()


def test_sixteen_threads_send_at_once(broker: JetStreamBroker, admin: Admin) -> None:
    def send(number: int) -> None:
        broker.enqueue(message_to("default", "anyone", number))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(send, range(320)))

    stored = admin.stored(broker.names.stream("default"))
    assert sorted(Message.decode(each.body).args[0] for each in stored) == list(range(320))


def test_message_over_the_servers_limit_is_refused_and_the_connection_survives(broker: JetStreamBroker) -> None:
    broker.enqueue(message_to("default"))
    session = broker.connection.session()

    with pytest.raises(MessageTooLarge, match=r"takes \d+ bytes .* at most 1044480; send a reference"):
        broker.enqueue(message_to("default", "anyone", "x" * 2**21))

    broker.enqueue(message_to("default"))
    assert broker.connection.session() is session
    assert session.client.stats["reconnects"] == 0


def test_message_over_the_queues_limit_is_refused_with_the_sizes(nats_url: str, namespace: str, admin: Admin) -> None:
    broker = JetStreamBroker(nats_url, namespace=namespace, queues={"small": WorkQueue(max_msg_size=512)})
    broker.enqueue(message_to("small"))

    with pytest.raises(MessageTooLarge, match=rf"stream '{namespace}_small' \(max_msg_size\) takes at most 512"):
        broker.enqueue(message_to("small", "anyone", "x" * 512))

    broker.enqueue(message_to("small"))
    assert admin.count(broker.names.stream("small")) == 2
    broker.close()


def test_message_over_a_limit_that_only_the_server_knows_is_refused(broker: JetStreamBroker, admin: Admin) -> None:
    broker.enqueue(message_to("default"))
    config = admin.stream(broker.names.stream("default"))["config"]
    admin.api(f"STREAM.UPDATE.{config['name']}", config | {"max_msg_size": 512})

    with pytest.raises(MessageTooLarge, match="raise the stream's max_msg_size"):
        broker.enqueue(message_to("default", "anyone", "x" * 512))

    broker.enqueue(message_to("default"))


def test_full_stream_refuses_new_messages_and_keeps_the_old(nats_url: str, namespace: str, admin: Admin) -> None:
    broker = JetStreamBroker(
        nats_url, namespace=namespace, queues={"full": WorkQueue(max_msgs=1, discard="new", dead_letters="move")}
    )
    first = broker.enqueue(message_to("full"))

    with pytest.raises(EnqueueRejected, match=r"queue 'full' .* maximum messages exceeded"):
        broker.enqueue(message_to("full"))

    [kept] = admin.stored(broker.names.stream("full"))
    assert Message.decode(kept.body) == first
    broker.close()


@pytest.mark.parametrize(
    "name",
    [
        "a*b",
        "*",
        ">",
        "a > b",
        "a.b",
        ".a.",
        " a b ",
        "a=2Eb",
        "Grüße 日本 🐇",
        "x" * 300,
        "é" * 300,
        "a/b\\c",
        "a\r\nb",
    ],
    ids=lambda name: ascii(name[:20]),
)
def test_any_name_of_a_queue_and_an_actor_works(broker: JetStreamBroker, name: str) -> None:
    ran: list[str] = []

    @dramatiq.actor(broker=broker, actor_name=name)
    def keep(value: str) -> None:
        ran.append(value)

    message = message_to(name, name, name)
    broker.enqueue(message)

    broker.declare_queue(name)
    with run_worker(broker):
        eventually(lambda: ran == [name])
        broker.join(name, timeout=10_000)


def test_names_that_only_look_alike_are_kept_apart(broker: JetStreamBroker, admin: Admin) -> None:
    names = ["a.b", "a=2Eb", "a_b", "a-b", "A.b"]
    for name in names:
        broker.enqueue(message_to(name))

    assert [admin.count(broker.names.stream(name)) for name in names] == [1] * len(names)


def test_sending_makes_the_stream_of_an_unknown_queue_but_does_not_declare_it(broker: JetStreamBroker) -> None:
    broker.enqueue(message_to("never_declared"))

    assert broker.get_declared_queues() == set()
    assert broker.requirements() == JetStreamBroker(namespace=broker.names.namespace).requirements()
    assert broker.get_queue_message_counts("never_declared") == (1, 0, 0)


@pytest.mark.parametrize("from_actor", [True, False], ids=["in the worker", "before the worker starts"])
def test_worker_does_not_consume_a_queue_that_it_only_sends_to(broker: JetStreamBroker, from_actor: bool) -> None:
    ran: list[str] = []

    @dramatiq.actor(broker=broker)
    def keep(value: str) -> None:
        ran.append(value)

    @dramatiq.actor(broker=broker)
    def pass_on() -> None:
        broker.enqueue(message_to("elsewhere", "keep", "not here"))
        broker.enqueue(message_to("elsewhere", "keep", "not here"), delay=1)
        keep.send("here")

    (pass_on.send if from_actor else pass_on)()
    with run_worker(broker) as worker:
        eventually(lambda: ran == ["here"])
        eventually(lambda: broker.get_queue_message_counts("elsewhere") == (2, 0, 0))
        assert set(worker.consumers) == {"default"}

        broker.declare_queue("elsewhere")
        eventually(lambda: sorted(ran) == ["here", "not here", "not here"])


def test_send_during_a_server_restart_succeeds(namespace: str) -> None:
    with NatsServer() as server:
        broker = JetStreamBroker(server.url, namespace=namespace)
        broker.enqueue(message_to("default"))

        server.kill()
        sending = in_background(broker.enqueue, message_to("default"))
        eventually(lambda: not broker.connection.session().client.is_connected)
        server.start()

        sending.result(timeout=10)
        assert broker.get_queue_message_counts("default") == (2, 0, 0)
        broker.close()


def test_send_to_a_server_that_is_gone_raises_in_time(namespace: str) -> None:
    with NatsServer() as server:
        broker = JetStreamBroker(server.url, namespace=namespace, timeout=500)
        broker.enqueue(message_to("default"))
        server.kill()

        started = time.monotonic()
        with pytest.raises(CallTimeout, match=r"within 500 ms: it may or may not be stored.*check") as raised:
            broker.enqueue(message_to("default"))

        assert isinstance(raised.value, BrokerConnectionError)
        assert 0.5 <= time.monotonic() - started < 5
        broker.close()


def test_first_send_without_a_server_raises_in_time(proxy: Proxy) -> None:
    proxy.cut()
    broker = JetStreamBroker(proxy.url, timeout=500)

    started = time.monotonic()
    with pytest.raises(ServerUnreachable, match="is it running, and is this the right address") as raised:
        broker.enqueue(message_to("default"))

    assert isinstance(raised.value, BrokerConnectionError)
    assert time.monotonic() - started < 5


def test_body_is_what_dramatiqs_encoder_makes_and_carries_no_eta(broker: JetStreamBroker, admin: Admin) -> None:
    message = broker.enqueue(message_to("default"))

    [stored] = admin.stored(broker.names.stream("default"))
    assert json.loads(stored.body) == message.asdict() | {"args": []}
    assert set(stored.headers) == {"Nats-Msg-Id"}
