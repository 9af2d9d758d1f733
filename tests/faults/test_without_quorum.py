"""A cluster that loses its quorum for a while: a send that says it was refused never runs."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.errors import BatchFailed, BrokerConnectionError, BrokerError
from tests.support.admin import Admin
from tests.support.cluster import cluster
from tests.support.waiting import eventually
from tests.support.workers import in_background

#: How many sends of each kind must have ended while there was no quorum.
ENDED = 3


def message() -> Message[Any]:
    return Message(queue_name="default", actor_name="keep", args=(), kwargs={}, options={})


class Sender:
    """Sends over and over, and notes which message ended how.

    Parameters:
      broker(JetStreamBroker): Where to.
      kind(str): One at a time, in batches, or in atomic batches.
    """

    def __init__(self, broker: JetStreamBroker, kind: str) -> None:
        self.confirmed: set[str] = set()
        self.refused: dict[str, BaseException] = {}
        self.uncertain: set[str] = set()
        self._broker = broker
        self._kind = kind

    def send(self) -> None:
        messages = [message() for _ in range(1 if self._kind == "one" else 5)]
        ids = {each.message_id for each in messages}
        try:
            if self._kind == "one":
                self._broker.enqueue(messages[0])
            else:
                self._broker.enqueue_many(messages, atomic=self._kind == "atomic batch")
        except BrokerConnectionError:
            self.uncertain |= ids
        except BatchFailed as error:
            failed = {failure.message.message_id: failure.error for failure in error.failures}
            self.confirmed |= ids - failed.keys()
            for message_id, reason in failed.items():
                if isinstance(reason, BrokerConnectionError):
                    self.uncertain.add(message_id)
                else:
                    self.refused[message_id] = reason
        except BrokerError as error:
            self.refused |= dict.fromkeys(ids, error)
        else:
            self.confirmed |= ids


def _can_send(broker: JetStreamBroker) -> bool:
    """Send a message, unless servers that have just found each other are still busy with that."""
    try:
        broker.enqueue(message())
    except BrokerConnectionError:
        return False
    return True


@pytest.mark.faults
def test_send_that_was_refused_without_a_quorum_is_not_stored(namespace: str) -> None:
    with cluster() as servers:
        broker = JetStreamBroker(servers.servers[0].url, namespace=namespace, replicas=3, timeout=4_000)
        with closing(broker):
            eventually(partial(_can_send, broker), message="a cluster that has settled")
            senders = [Sender(broker, kind) for kind in ("one", "one", "batch", "atomic batch")]
            going_on = threading.Event()

            def send_on(sender: Sender) -> None:
                while not going_on.is_set():
                    sender.send()

            running = [in_background(send_on, sender) for sender in senders]
            eventually(lambda: all(sender.confirmed for sender in senders), 30_000)
            for server in servers.servers[1:]:
                server.kill()
            eventually(lambda: all(len(each.uncertain | each.refused.keys()) >= ENDED for each in senders), 60_000)
            for server in servers.servers[1:]:
                server.start()
            before = [len(sender.confirmed) for sender in senders]
            eventually(
                lambda: all(len(each.confirmed) > count for each, count in zip(senders, before, strict=True)), 60_000
            )
            going_on.set()
            for each in running:
                each.result(60)
            with Admin(servers.servers[0].url) as admin:
                stored = {json.loads(each.body)["message_id"] for each in admin.stored(broker.names.stream("default"))}

    for sender in senders:
        assert {key: error for key, error in sender.refused.items() if key in stored} == {}
        assert sender.confirmed <= stored
