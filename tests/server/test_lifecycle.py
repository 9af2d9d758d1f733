"""From the constructor to close(): when there is a connection, and what is left of it afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.errors import QueueJoinTimeout, QueueNotFound

from dramatiq_jetstream import JetStreamBroker, NatsServer
from dramatiq_jetstream.deliveries.delivery import JetStreamMessage
from dramatiq_jetstream.worker.consumer import JetStreamConsumer
from tests.support.admin import Admin
from tests.support.waiting import eventually
from tests.support.workers import in_background, open_sockets, run_worker, threads_alive

SYSTEM_ACCOUNT = """
accounts {
  SYS: {users: [{user: sys, password: sys}]}
  APP: {jetstream: enabled, users: [{user: app, password: app}]}
}
system_account: SYS
"""

FORK = """
import json
import os
import sys

import dramatiq
from dramatiq import Worker

from dramatiq_jetstream import JetStreamBroker
from tests.support.waiting import eventually
from tests.support.workers import open_connections, run_worker

broker = JetStreamBroker(sys.argv[1], namespace=sys.argv[2])
ran = []

@dramatiq.actor(broker=broker)
def note(who):
    ran.append(who)

note.send("parent, before")
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    before = len(open_connections())
    note.send("child")
    with run_worker(broker):
        eventually(lambda: "child" in ran)
        broker.join("default", timeout=10_000)
    broker.close()
    os.write(writing, json.dumps({"before": before, "after": len(open_connections()), "ran": sorted(ran)}).encode())
    os._exit(0)

os.waitpid(child, 0)
told = json.loads(os.read(reading, 10_000))
note.send("parent, after")
ran.clear()
with run_worker(broker):
    eventually(lambda: ran == ["parent, after"])
reconnects = broker.connection.session().client.stats["reconnects"]
broker.close()
print(json.dumps({"child": told, "reconnects": reconnects}))
"""


def message_to(queue_name: str, *args: Any, **options: Any) -> Message[Any]:
    return Message(queue_name=queue_name, actor_name="keep", args=args, kwargs={}, options=options)


def declare(broker: JetStreamBroker) -> list[Any]:
    """Declare the actor "keep", and return the list that it adds its arguments to."""
    kept: list[Any] = []

    @dramatiq.actor(broker=broker)
    def keep(value: Any) -> None:
        kept.append(value)

    return kept


def take(consumer: JetStreamConsumer) -> JetStreamMessage:
    """The next message."""
    message = eventually(lambda: next(consumer))
    assert message is not None
    return message


@pytest.fixture
def loop_threads() -> Callable[[], set[threading.Thread]]:
    """Tells the event loops' threads that were started since the test began."""
    before = set(threading.enumerate())

    def started() -> set[threading.Thread]:
        return {thread for thread in set(threading.enumerate()) - before if thread.name == "dramatiq-jetstream"}

    return started


def test_declaring_does_no_io() -> None:
    sockets, threads = open_sockets(), threading.active_count()
    broker = JetStreamBroker("nats://nowhere.invalid:1")

    @dramatiq.actor(broker=broker, queue_name="other")
    def keep() -> None: ...

    broker.declare_queue("default")

    assert broker.get_declared_queues() == {"default", "other"}
    assert broker.get_declared_delay_queues() == set()
    assert (open_sockets(), threading.active_count()) == (sockets, threads)
    broker.close()


def test_address_is_read_from_the_environment_when_the_broker_connects(
    nats_url: str, namespace: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = JetStreamBroker(namespace=namespace)
    monkeypatch.setenv("NATS_URL", nats_url)

    broker.enqueue(message_to("default"))

    assert admin.count(broker.names.stream("default")) == 1
    broker.close()


def test_sixteen_threads_that_connect_at_once_share_one_connection(
    broker: JetStreamBroker, loop_threads: Callable[[], set[threading.Thread]]
) -> None:
    sessions = [in_background(broker.connection.session) for _ in range(16)]

    assert len({session.result(timeout=10) for session in sessions}) == 1
    assert len(loop_threads()) == 1


def test_close_leaves_nothing_behind_and_the_next_use_opens_another(
    broker: JetStreamBroker, loop_threads: Callable[[], set[threading.Thread]]
) -> None:
    sockets = open_sockets()
    kept = declare(broker)
    for number in (1, 2):
        broker.enqueue(message_to("default", number))
        with run_worker(broker):
            broker.join("default", timeout=10_000)
        loop = broker.connection.session().thread.loop
        broker.close()

        assert loop.is_closed()
        assert loop_threads() == set()
        assert open_sockets() == sockets
    assert kept == [1, 2]


def test_close_can_be_repeated_and_needs_no_connection(
    broker: JetStreamBroker, loop_threads: Callable[[], set[threading.Thread]]
) -> None:
    broker.close()
    broker.enqueue(message_to("default"))
    broker.close()
    broker.close()
    assert loop_threads() == set()


def test_close_while_the_server_is_away_is_bounded(
    namespace: str, loop_threads: Callable[[], set[threading.Thread]]
) -> None:
    with NatsServer() as server:
        broker = JetStreamBroker(server.url, namespace=namespace, timeout=500)
        declare(broker)
        broker.enqueue(message_to("default"))
        take(broker.consume("default", timeout=100))
        server.kill()

        in_background(broker.close).result(timeout=10)

        assert loop_threads() == set()


def test_close_hands_back_what_was_prefetched(broker: JetStreamBroker, nats_url: str, namespace: str) -> None:
    other = JetStreamBroker(nats_url, namespace=namespace)
    for each in (broker, other):
        declare(each)
    for number in range(5):
        broker.enqueue(message_to("default", number))
    holding = broker.consume("default", prefetch=5, timeout=100)
    held = take(holding)

    broker.close()

    consumer = other.consume("default", prefetch=5, timeout=100)
    returned = [take(consumer) for _ in range(4)]
    assert {message.args[0] for message in returned} == set(range(5)) - {held.args[0]}
    assert [message.options.get("retries", 0) for message in returned] == [0] * 4
    other.close()


def test_worker_with_nothing_to_do_stops_quickly(broker: JetStreamBroker) -> None:
    broker.declare_queue("default")
    with run_worker(broker, timeout=500) as worker:
        eventually(lambda: worker.consumers["default"].consumer)
        started = time.monotonic()

    assert time.monotonic() - started < 5
    assert not any(thread.is_alive() for thread in [*worker.workers, *worker.consumers.values()])


def test_stopping_worker_returns_what_it_has_not_started_at_once(
    broker: JetStreamBroker, nats_url: str, namespace: str
) -> None:
    other = JetStreamBroker(nats_url, namespace=namespace)
    release = threading.Event()
    ran: list[tuple[str, int]] = []

    @dramatiq.actor(broker=broker, max_retries=0)
    def keep(number: int) -> None:
        ran.append(("first", number))
        release.wait(20)

    @dramatiq.actor(broker=other, actor_name="keep", max_retries=0)
    def keep_too(number: int) -> None:
        ran.append(("second", number))

    for number in range(6):
        broker.enqueue(message_to("default", number))
    with run_worker(broker, threads=1) as worker:
        eventually(lambda: ran == [("first", 0)])
        stopping = in_background(worker.stop)
        with run_worker(other, threads=1):
            eventually(lambda: len(ran) == 6)
        assert not stopping.done()
        release.set()
        stopping.result(timeout=10)

    assert {number for _, number in ran} == set(range(6))
    assert [who for who, _ in ran] == ["first"] + ["second"] * 5
    broker.join("default", timeout=5_000)
    other.close()


def test_connection_bears_the_process_name_in_the_servers_monitoring(namespace: str) -> None:
    with NatsServer(config=SYSTEM_ACCOUNT) as server, Admin(server.url, user="sys", password="sys") as system:
        broker = JetStreamBroker(server.url, namespace=namespace, user="app", password="app")
        named = JetStreamBroker(server.url, namespace=namespace, user="app", password="app", name="the reporter")
        broker.enqueue(message_to("default"))
        named.enqueue(message_to("default"))

        report = json.loads(system.request("$SYS.REQ.SERVER.PING.CONNZ", b"{}").data)
        names = [connection.get("name", "") for connection in report["data"]["connections"]]

        assert "the reporter" in names
        assert any(str(broker.connection.session().client.options["name"]) == name for name in names)
        broker.close()
        named.close()


def test_forked_child_has_a_connection_of_its_own_and_the_parents_goes_on(
    nats_url: str, namespace: str, admin: Admin
) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, nats_url, namespace]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout) == {
        "child": {"before": 0, "after": 0, "ran": ["child", "parent, before"]},
        "reconnects": 0,
    }
    assert admin.count(f"{namespace}_default") == 0


def test_join_waits_for_running_and_delayed_messages(broker: JetStreamBroker) -> None:
    kept: list[int] = []

    @dramatiq.actor(broker=broker)
    def keep(number: int) -> None:
        kept.append(number)

    keep.send(1)
    keep.send_with_options(args=(2,), delay=300)
    with run_worker(broker):
        broker.join("default", timeout=10_000)

    assert sorted(kept) == [1, 2]


def test_join_gives_up_after_its_timeout(broker: JetStreamBroker) -> None:
    broker.enqueue(message_to("default"))

    with pytest.raises(QueueJoinTimeout):
        broker.join("default", interval=10, timeout=50)


def test_queue_that_was_never_declared_is_not_found(broker: JetStreamBroker) -> None:
    for use in (broker.join, broker.flush, broker.consume, broker.get_queue_message_counts):
        with pytest.raises(QueueNotFound):
            use("nowhere")


def test_counts_tell_ready_delayed_and_dead_messages_apart(broker: JetStreamBroker) -> None:
    @dramatiq.actor(broker=broker, max_retries=0)
    def keep(number: int) -> None:
        raise ValueError(number)

    keep.send(1)
    with run_worker(broker):
        eventually(lambda: broker.get_queue_message_counts("default") == (0, 0, 1))
    broker.close()
    keep.send(2)
    keep.send(3)
    keep.send_with_options(args=(4,), delay=600_000)

    assert broker.get_queue_message_counts("default") == (2, 1, 1)


def test_flush_drops_one_queues_messages_delayed_ones_too(broker: JetStreamBroker) -> None:
    for queue_name in ("default", "other"):
        broker.enqueue(message_to(queue_name))
        broker.enqueue(message_to(queue_name), delay=600_000)

    broker.flush("default")

    assert broker.get_queue_message_counts("default") == (0, 0, 0)
    assert broker.get_queue_message_counts("other") == (1, 1, 0)


def test_flush_all_drops_every_queues_messages_and_may_come_before_any(broker: JetStreamBroker) -> None:
    broker.declare_queue("default")
    broker.declare_queue("other")
    broker.flush_all()
    broker.enqueue(message_to("default"))
    broker.enqueue(message_to("other"), delay=600_000)

    broker.flush_all()

    assert broker.get_queue_message_counts("default") == (0, 0, 0)
    assert broker.get_queue_message_counts("other") == (0, 0, 0)


def test_paused_worker_neither_hoards_nor_loses(broker: JetStreamBroker, nats_url: str, namespace: str) -> None:
    other = JetStreamBroker(nats_url, namespace=namespace)
    ran: list[tuple[str, int]] = []

    for each, who in ((broker, "paused"), (other, "other")):

        @dramatiq.actor(broker=each, actor_name="keep")
        def keep(number: int, who: str = who) -> None:
            ran.append((who, number))

    broker.enqueue(message_to("default", 0))
    with run_worker(broker) as worker:
        eventually(lambda: ran == [("paused", 0)])
        worker.pause()
        for number in range(1, 9):
            broker.enqueue(message_to("default", number))
        with run_worker(other):
            eventually(lambda: len(ran) == 9)
        assert {who for who, _ in ran[1:]} == {"other"}

        worker.resume()
        broker.enqueue(message_to("default", 9))
        eventually(lambda: ran[-1] == ("paused", 9))
        assert threads_alive(worker)
    other.close()
