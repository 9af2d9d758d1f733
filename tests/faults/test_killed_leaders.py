"""A queue on three servers whose leaders are killed: delivery goes on, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker, NatsServer
from dramatiq_jetstream.errors import BrokerConnectionError
from tests.support.admin import Admin
from tests.support.cluster import Cluster, cluster
from tests.support.faults import SOON
from tests.support.waiting import eventually
from tests.support.workers import in_background, run_worker

#: Milliseconds that a call waits here: elections take a few seconds on a busy machine.
TIMEOUT = 30_000


@pytest.fixture
def servers() -> Iterator[Cluster]:
    with cluster() as servers:
        yield servers


def leader_of(what: str, servers: Cluster, broker: JetStreamBroker) -> NatsServer:
    """The server that leads the queue's stream, or the stream's consumer."""
    stream, consumer = broker.names.stream("default"), broker.names.consumer
    operation = {"stream": f"STREAM.INFO.{stream}", "consumer": f"CONSUMER.INFO.{stream}.{consumer}"}[what]
    with Admin(servers.servers[0].url) as admin:
        found = eventually(lambda: admin.ask(operation).get("cluster", {}).get("leader"), SOON, message="a leader")
    return servers.named(found)


class Sender:
    """Sends until it is told to stop, and remembers what was confirmed."""

    def __init__(self, broker: JetStreamBroker) -> None:
        self.confirmed: list[int] = []
        self.over = threading.Event()
        self._broker = broker
        self._number = 0

    def send_on(self) -> None:
        while not self.over.wait(0.01):
            self._number += 1
            try:
                self._broker.enqueue(message(self._number))
            except BrokerConnectionError:
                continue
            self.confirmed.append(self._number)


def message(number: int) -> Message[Any]:
    return Message(queue_name="default", actor_name="run", args=(number,), kwargs={}, options={})


@pytest.mark.faults
@pytest.mark.parametrize("what", ["stream", "consumer"])
def test_killed_leader_neither_stalls_a_queue_nor_loses_a_message(servers: Cluster, namespace: str, what: str) -> None:
    broker = JetStreamBroker(servers.url, namespace=namespace, replicas=3, timeout=TIMEOUT)
    ran: set[int] = set()

    @dramatiq.actor(broker=broker, max_retries=None)
    def run(number: int) -> None:
        ran.add(number)

    with closing(broker):
        broker.enqueue(message(0))
        sender = Sender(broker)
        with run_worker(broker):
            sending = in_background(sender.send_on)
            eventually(lambda: len(ran) > 20, SOON, message="the first messages")
            leader = leader_of(what, servers, broker)
            leader.kill()
            sent = len(sender.confirmed)
            eventually(lambda: len(sender.confirmed) > sent + 20, SOON, message="sends after the kill")
            eventually(lambda: set(sender.confirmed[sent : sent + 20]) <= ran, SOON, message="work after the kill")
            leader.start()
            sender.over.set()
            sending.result(SOON / 1000)
            eventually(lambda: set(sender.confirmed) <= ran, SOON, message="all messages")
