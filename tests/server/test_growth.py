"""Nothing grows with what passes through: counts of whatever a broker keeps, before and after."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.errors import BrokerConnectionError
from tests.support.admin import Admin
from tests.support.bw import Program
from tests.support.faults import take
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tests.support.workers import in_background, open_sockets, run_worker


def message_to(queue_name: str, *args: Any) -> Message[Any]:
    return Message(queue_name=queue_name, actor_name="anyone", args=args, kwargs={}, options={})


def census(broker: JetStreamBroker) -> dict[str, int]:
    """How many of each thing a broker, and this process, keeps."""
    session = broker.connection.session()

    async def count() -> dict[str, int]:
        client, outbox = session.client, session.outbox
        return {
            "tasks": len(asyncio.all_tasks()),
            "publishes without an answer": session.publisher.waiting,
            "items": outbox.size,
            "requests": len(session._asking) + len(client._resp_map),
            "subscriptions": len(client._subs),
            "receivers": len(client.receivers or ()),
            "listeners": len(session._listeners),
            "commands of the client": len(client._pending),
            "pongs": len(client._pongs),
            "threads": threading.active_count(),
            "sockets": len(open_sockets()),
        }

    return session.thread.run(count, 10)


def check_unchanged(broker: JetStreamBroker, before: dict[str, int]) -> None:
    """Wait until all counts are what they were."""
    now: dict[str, int] = {}

    def unchanged() -> bool:
        now.update(census(broker))
        return now == before

    try:
        # A round trip that a broken link cut off is given up after ten seconds, by nats-py.
        eventually(unchanged, 15_000)
    except AssertionError:
        assert now == before


def stay_unchanged(broker: JetStreamBroker, action: Callable[[], object], *, warm_up: int = 3, times: int) -> None:
    """Check that counts are after so many actions what they were after a few."""
    for _ in range(warm_up):
        action()
    before = settled(broker)
    for _ in range(times):
        action()
    check_unchanged(broker, before)


def settled(broker: JetStreamBroker) -> dict[str, int]:
    """The counts once nothing is on its way any more, and they do not change for a while."""
    idle = {"publishes without an answer": 0, "items": 0, "requests": 0, "pongs": 0}
    counts: list[dict[str, int]] = []

    def still() -> bool:
        counts.append(census(broker))
        return idle.items() <= counts[-1].items() and len(counts) > 10 and counts[-10:] == 10 * counts[-1:]

    eventually(still, message="a standstill")
    return counts[-1]


@pytest.fixture
def linked(proxy: Proxy, namespace: str, admin: Admin) -> Iterator[JetStreamBroker]:
    """A broker behind a breakable link, quick to reconnect."""
    with closing(JetStreamBroker(proxy.url, namespace=namespace, reconnect_time_wait=0.01)) as broker:
        yield broker


def break_link(broker: JetStreamBroker, proxy: Proxy) -> None:
    """Cut the link, and wait until it is back."""
    reconnects = broker.connection.session().client.stats["reconnects"]
    proxy.cut()
    proxy.resume()
    await_reconnect(broker, reconnects)


def await_reconnect(broker: JetStreamBroker, before: int) -> None:
    client = broker.connection.session().client
    eventually(lambda: client.stats["reconnects"] > before and client.is_connected)


def test_nothing_grows_over_ten_thousand_sends(broker: JetStreamBroker, admin: Admin) -> None:
    def send(number: int) -> None:
        broker.enqueue(message_to("default", number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(send, range(100)))
        before = settled(broker)
        list(threads.map(send, range(10_000)))
        check_unchanged(broker, before)

    assert admin.count(broker.names.stream("default")) == 10_100


@pytest.mark.parametrize("atomic", [False, True], ids=["pipelined", "atomic"])
def test_nothing_grows_over_batches(broker: JetStreamBroker, atomic: bool) -> None:
    messages = [message_to("default", number) for number in range(100)]

    stay_unchanged(broker, lambda: broker.enqueue_many(messages, atomic=atomic), times=50)


def test_nothing_grows_over_messages_that_run(broker: JetStreamBroker) -> None:
    ran = []

    @dramatiq.actor(broker=broker, actor_name="anyone")
    def run(number: int) -> None:
        ran.append(number)

    with run_worker(broker):
        broker.enqueue_many([message_to("default", number) for number in range(100)])
        eventually(lambda: len(ran) == 100)
        before = settled(broker)
        broker.enqueue_many([message_to("default", number) for number in range(2_000)])
        eventually(lambda: len(ran) == 2_100)
        check_unchanged(broker, before)


def test_nothing_grows_over_sends_that_fail(proxy: Proxy, namespace: str, admin: Admin) -> None:
    def fail() -> None:
        reconnects = broker.connection.session().client.stats["reconnects"]
        proxy.drop_replies()
        sending = [in_background(broker.enqueue, message_to("default")) for _ in range(20)]
        assert all(isinstance(each.exception(timeout=10), BrokerConnectionError) for each in sending)
        proxy.resume()
        await_reconnect(broker, reconnects)

    with closing(JetStreamBroker(proxy.url, namespace=namespace, timeout=1_000, reconnect_time_wait=0.01)) as broker:
        broker.enqueue(message_to("default"))
        stay_unchanged(broker, fail, warm_up=1, times=2)


def test_sends_given_up_while_the_link_is_away_are_not_kept(proxy: Proxy, namespace: str, admin: Admin) -> None:
    with closing(JetStreamBroker(proxy.url, namespace=namespace, timeout=1_000)) as broker:
        broker.enqueue(message_to("default"))
        session = broker.connection.session()
        proxy.cut()
        eventually(lambda: not session.client.is_connected)
        sending = [in_background(broker.enqueue, message_to("default")) for _ in range(50)]
        for each in sending:
            assert isinstance(each.exception(timeout=10), BrokerConnectionError)

        assert session.publisher.waiting == 0
        assert len(session.outbox._queue) == 0


def test_publish_waits_once_for_a_link_that_is_away(
    linked: JetStreamBroker, proxy: Proxy, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq_jetstream.client.publisher.REPEAT_AFTER", 0.01)
    linked.enqueue(message_to("default"))
    session = linked.connection.session()
    proxy.cut()
    eventually(lambda: not session.client.is_connected)
    sending = in_background(linked.enqueue_many, [message_to("default", number) for number in range(100)])
    eventually(lambda: session.publisher.waiting == 100)
    # Long enough to be repeated many times.
    passed = threading.Event()
    session.thread.call_soon(session.thread.loop.call_later, 0.5, passed.set)
    assert passed.wait(10)

    assert len(session.outbox._queue) <= 100
    proxy.resume()
    sending.result(10)
    assert admin.count(linked.names.stream("default")) == 101


def test_a_thousand_declared_queues_cost_no_connection_thread_or_socket(
    nats_url: str, namespace: str, admin: Admin
) -> None:
    with closing(JetStreamBroker(nats_url, namespace=namespace)) as broker:
        threads, sockets = threading.active_count(), open_sockets()

        for number in range(1_000):
            broker.declare_queue(f"queue-{number}")

        assert broker.connection.current() is None
        assert (threading.active_count(), open_sockets()) == (threads, sockets)

        broker.enqueue(message_to("queue-0"))
        before = settled(broker)
        for number in range(1_000, 2_000):
            broker.declare_queue(f"queue-{number}")
        check_unchanged(broker, before)


def test_nothing_is_left_of_consumers_of_many_queues(broker: JetStreamBroker) -> None:
    queues = [f"queue-{number}" for number in range(30)]
    for queue in [*queues, "first"]:
        broker.declare_queue(queue)
    broker.consume("first").close()
    before = settled(broker)

    consumers = [broker.consume(queue) for queue in queues]
    opened = census(broker)
    for consumer in consumers:
        consumer.close()

    # What is delivered, and the requests to renew leases at once.
    assert opened["subscriptions"] == before["subscriptions"] + 2 * 30
    assert opened["receivers"] == before["receivers"] + 2 * 30
    assert opened["threads"] == before["threads"]
    check_unchanged(broker, before)


def test_nothing_grows_over_consumers_opened_and_closed(broker: JetStreamBroker) -> None:
    @dramatiq.actor(broker=broker, actor_name="anyone")
    def run(number: int) -> None: ...

    broker.enqueue_many([message_to("default", number) for number in range(20)])

    def open_and_close() -> None:
        consumer = broker.consume("default", prefetch=5, timeout=1_000)
        consumer.requeue([take(consumer)])
        consumer.close()

    stay_unchanged(broker, open_and_close, times=50)


def test_nothing_grows_over_subscriptions_opened_and_closed(broker: JetStreamBroker) -> None:
    stay_unchanged(broker, lambda: broker.subscribe("a.b", lambda subject, body: None).close(), times=50)


def test_nothing_grows_over_a_hundred_reconnects(linked: JetStreamBroker, proxy: Proxy) -> None:
    queues = ["a", "b"]
    for queue in queues:
        dramatiq.actor(broker=linked, queue_name=queue, actor_name=f"anyone on {queue}")(lambda: None)
    consumers = [linked.consume(queue, timeout=100) for queue in queues]

    def reconnect() -> None:
        break_link(linked, proxy)
        for queue, consumer in zip(queues, consumers, strict=True):
            linked.enqueue(linked.actors[f"anyone on {queue}"].message())
            # Once it delivers, it has taken up everything again.
            consumer.ack(take(consumer))

    stay_unchanged(linked, reconnect, times=100)
    for consumer in consumers:
        consumer.close()


def test_consumers_closed_while_the_link_is_away_leave_nothing(linked: JetStreamBroker, proxy: Proxy) -> None:
    linked.declare_queue("default")
    linked.consume("default").close()
    break_link(linked, proxy)
    before = settled(linked)
    session = linked.connection.session()

    consumers = [linked.consume("default") for _ in range(5)]
    proxy.cut()
    eventually(lambda: not session.client.is_connected)
    for consumer in consumers:
        consumer.close()
    proxy.resume()
    eventually(lambda: session.client.is_connected)

    check_unchanged(linked, before)


def test_acknowledgement_repeated_after_a_broken_link_is_not_kept(
    linked: JetStreamBroker, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq_jetstream.client.nats_internals.PONG_TIMEOUT", 1)
    message = dramatiq.actor(broker=linked, actor_name="anyone")(lambda: None).send()
    session = linked.connection.session()
    with closing(linked.consume("default", timeout=100)) as consumer:
        taken = take(consumer)
        assert taken.message_id == message.message_id
        proxy.drop_replies()
        consumer.ack(taken)
        # The server has seen it, but does not get to say so.
        eventually(lambda: session.outbox._pinged)
        reconnects = session.client.stats["reconnects"]
        proxy.cut()
        proxy.resume()
        await_reconnect(linked, reconnects)

        eventually(lambda: census(linked)["items"] == 0)


def test_late_answer_to_a_ping_does_not_break_the_connection(
    linked: JetStreamBroker, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq_jetstream.client.nats_internals.PONG_TIMEOUT", 0.2)
    dramatiq.actor(broker=linked, actor_name="anyone")(lambda: None).send()
    session = linked.connection.session()
    with closing(linked.consume("default", timeout=100)) as consumer:
        taken = take(consumer)
        proxy.black_hole()
        consumer.ack(taken)
        eventually(lambda: session.outbox._confirming is not None and session.client._pongs)
        waiting = list(session.client._pongs)
        passed = threading.Event()
        session.thread.call_soon(session.thread.loop.call_later, 0.5, passed.set)
        assert passed.wait(10)
        proxy.resume()
        eventually(lambda: not set(waiting) & set(session.client._pongs))

        assert linked.get_queue_message_counts("default") == (0, 0, 0)
        assert session.client.stats["reconnects"] == 0


def test_connections_that_fail_leave_no_thread_and_no_socket(proxy: Proxy, namespace: str) -> None:
    proxy.cut()
    broker = JetStreamBroker(proxy.url, namespace=namespace, timeout=50)

    def fail() -> None:
        with pytest.raises(BrokerConnectionError):
            broker.enqueue(message_to("default"))

    fail()
    threads, sockets = threading.active_count(), open_sockets()
    for _ in range(10):
        fail()

    eventually(lambda: (threading.active_count(), open_sockets()) == (threads, sockets))


FILLING = """
import os, resource, sys
from dramatiq import Message
from dramatiq_jetstream import JetStreamBroker

broker = JetStreamBroker(os.environ["NATS_URL"], namespace=os.environ["GROWTH_NAMESPACE"])

def send(count):
    with broker.batch():
        for number in range(count):
            broker.enqueue(Message("default", "anyone", (number, "x" * 500), {}, {}))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

send(10_000)
before = peak()
send(100_000)
print("grown by", peak() - before, "bytes")
broker.close()
"""


@pytest.mark.timeout(600)
def test_memory_stays_flat_over_a_batch_of_a_hundred_thousand(
    nats_url: str, namespace: str, broker: JetStreamBroker, admin: Admin, tmp_path: Path
) -> None:
    variables = {"NATS_URL": nats_url, "GROWTH_NAMESPACE": namespace}

    with Program([sys.executable, "-c", FILLING], tmp_path / "filling.log", variables) as program:
        # As long as it takes: it is the memory that is measured.
        status = program.wait(540)

    assert status == 0, program.log
    [grown] = [int(line.split()[2]) for line in program.lines("grown by")]
    assert grown < 20_000_000
    assert admin.count(broker.names.stream("default")) == 110_000
