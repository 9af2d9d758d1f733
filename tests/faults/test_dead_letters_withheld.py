"""Dead letters that cannot be stored: their messages stay in the queue, hold nobody up, and do not run for it."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest

from dramatiq_jetstream import JetStreamBroker, NatsServer
from dramatiq_jetstream.dead_letters import DeadLetterStore
from dramatiq_jetstream.worker import handling
from tests.support.admin import Admin
from tests.support.faults import SOON
from tests.support.waiting import eventually
from tests.support.workers import run_worker

USERS = """
authorization {
  users: [
    {user: all, password: secret}
    {user: denied, password: secret, permissions: {publish: {deny: ["*.dead.>"]}}}
  ]
}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handling, "MIN_GIVE_BACK", 200)


class Runs:
    """Two actors and what they ran."""

    def __init__(self, broker: JetStreamBroker, admin: Admin) -> None:
        self.broker = broker
        self.admin = admin
        self.failed: list[int] = []
        self.ran: list[int] = []

        @dramatiq.actor(broker=broker, max_retries=1, min_backoff=1, max_backoff=1)
        def fail(number: int) -> None:
            self.failed.append(number)
            raise RuntimeError("on purpose")

        @dramatiq.actor(broker=broker)
        def neighbour(number: int) -> None:
            self.ran.append(number)

        self.fail, self.neighbour = fail, neighbour

    @property
    def stream(self) -> str:
        return self.broker.names.stream("default")

    def start(self) -> None:
        """Six messages that fail, or cannot be decoded, for two threads."""
        for number in range(4):
            self.fail.send(number)
        subject = self.broker.names.work_subject("default", "fail")
        for _ in range(2):
            self.admin.store(subject, b"\xff")

    def await_given_back(self) -> None:
        """Wait until all have been given back twice, and nothing stands in a neighbour's way."""
        names = self.broker.names

        def given_back() -> bool:
            # Each was delivered once for each of its attempts, and twice for nothing.
            delivered = self.admin.consumer(names.stream("default"), names.consumer)["delivered"]
            return int(delivered["consumer_seq"]) >= 4 * (2 + 2) + 2 * (1 + 2)

        eventually(given_back, SOON, message="the messages' return")
        for number in range(4):
            self.neighbour.send(number)
        eventually(lambda: len(self.ran) == 4, SOON, message="the neighbours")
        # Copies of some may be on their way.
        assert self.admin.count(self.stream) >= 6

    def await_letters(self) -> None:
        """Wait for a letter of each, none of which ran for it."""
        eventually(lambda: self.admin.count(self.stream) == 0, SOON, message="the end of the queue")
        letters = list(self.broker.dead_letters.list())
        assert sorted(each.reason for each in letters) == ["retries exhausted"] * 4 + ["undecodable"] * 2
        assert [each.attempts for each in letters if each.message_id] == [2] * 4
        assert sorted(self.failed) == sorted([*range(4)] * 2)


@pytest.mark.parametrize(
    "change",
    [{"max_msgs": 1, "discard": "new"}, {"max_msg_size": 10}, {"max_bytes": 1, "discard": "new"}, {"sealed": True}],
    ids=lambda change: next(iter(change)),
)
def test_message_whose_dead_letter_is_refused_comes_back_until_it_is_stored(
    broker: JetStreamBroker, admin: Admin, change: dict[str, Any]
) -> None:
    runs = Runs(broker, admin)
    broker.setup()
    letters = broker.names.dead_letters
    config = admin.stream(letters)["config"]
    filled = "max_msgs" in change
    admin.api(f"STREAM.UPDATE.{letters}", config | change)
    if filled:
        admin.store(broker.names.dead_subject("other", ""), b"full")
    runs.start()
    with run_worker(broker, threads=2):
        runs.await_given_back()
        if "sealed" in change:
            admin.api(f"STREAM.DELETE.{letters}")
        else:
            admin.api(f"STREAM.UPDATE.{letters}", config)
            admin.api(f"STREAM.PURGE.{letters}")
        runs.await_letters()


def test_message_whose_dead_letter_stream_is_missing_comes_back_until_it_exists(
    nats_url: str, namespace: str, admin: Admin
) -> None:
    maker = JetStreamBroker(nats_url, namespace=namespace)
    Runs(maker, admin)
    maker.setup()
    letters = maker.names.dead_letters
    config = admin.stream(letters)["config"]
    admin.api(f"STREAM.DELETE.{letters}")
    broker = JetStreamBroker(nats_url, namespace=namespace, declare="never", timeout=500)
    runs = Runs(broker, admin)
    runs.start()
    with run_worker(broker, threads=2):
        runs.await_given_back()
        admin.api(f"STREAM.CREATE.{letters}", config)
        runs.await_letters()
    for each in (broker, maker):
        each.close()


def test_bug_in_the_making_of_a_dead_letter_holds_nothing_up(
    broker: JetStreamBroker, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(broker, admin)
    broker.setup()
    runs.start()

    async def fail(*_: Any) -> None:
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(DeadLetterStore, "store", fail)
        with run_worker(broker, threads=2):
            runs.await_given_back()
    with run_worker(broker, threads=2):
        runs.await_letters()


def test_message_whose_dead_letter_may_not_be_published_comes_back_until_it_may(namespace: str) -> None:
    with NatsServer(config=USERS) as server:
        port = server.port
        with Admin(f"nats://all:secret@127.0.0.1:{port}") as admin:
            denied = JetStreamBroker(f"nats://denied:secret@127.0.0.1:{port}", namespace=namespace)
            runs = Runs(denied, admin)
            denied.setup()
            runs.start()
            with run_worker(denied, threads=2):
                runs.await_given_back()
            denied.close()
            allowed = JetStreamBroker(f"nats://all:secret@127.0.0.1:{port}", namespace=namespace)
            later = Runs(allowed, admin)
            with run_worker(allowed, threads=2):
                later.failed = runs.failed
                later.await_letters()
            allowed.close()
