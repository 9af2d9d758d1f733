"""dramatiq-abort over our event backend: messages that wait and messages that run are aborted."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import dramatiq
import pytest
from dramatiq.middleware import Retries
from dramatiq_abort import Abortable, Event, abort
from dramatiq_abort.middleware import AbortMode

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.abort import JetStreamBackend
from tests.support.admin import Admin
from tests.support.waiting import eventually
from tests.support.workers import in_background, run_worker


@pytest.fixture
def broker(nats_url: str, namespace: str, admin: Admin) -> Iterator[JetStreamBroker]:
    broker = JetStreamBroker(nats_url, namespace=namespace, middleware=[Retries(min_backoff=10, max_backoff=10)])
    yield broker
    broker.close()


@pytest.fixture
def backend(broker: JetStreamBroker) -> JetStreamBackend:
    return JetStreamBackend(broker=broker)


@pytest.fixture
def abortable(broker: JetStreamBroker) -> Abortable:
    backend = JetStreamBackend(broker=broker)
    abortable = Abortable(backend=backend)
    broker.add_middleware(abortable)
    return abortable


def test_message_that_waits_does_not_run(broker: JetStreamBroker, abortable: Abortable) -> None:
    ran: list[str] = []

    @dramatiq.actor(broker=broker)
    def note(text: str) -> None:
        ran.append(text)

    aborted, kept = note.send("aborted"), note.send("kept")
    abort(aborted.message_id, middleware=abortable)
    with run_worker(broker):
        broker.join("default", timeout=20_000)

    assert ran == ["kept"]
    assert kept.message_id != aborted.message_id
    assert broker.get_queue_message_counts("default") == (0, 0, 0)


def test_message_that_runs_is_interrupted_and_does_not_run_again(broker: JetStreamBroker, abortable: Abortable) -> None:
    began, ended = threading.Event(), []
    never = threading.Event()

    @dramatiq.actor(broker=broker, max_retries=3)
    def endless() -> None:
        began.set()
        try:
            for _ in range(6_000):
                never.wait(0.01)
            ended.append("by itself")
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    sent = endless.send()
    with run_worker(broker) as worker:
        assert began.wait(20)
        abort(sent.message_id, middleware=abortable)
        eventually(lambda: ended, 20_000, message="the abort")
        broker.join("default", timeout=20_000)
        worker.join()

    assert ended == ["Abort"]
    assert broker.get_queue_message_counts("default") == (0, 0, 0)


def test_message_that_only_may_be_cancelled_runs_to_its_end(broker: JetStreamBroker, abortable: Abortable) -> None:
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    @dramatiq.actor(broker=broker)
    def patient() -> None:
        began.set()
        assert go_on.wait(20)
        ended.set()

    sent = patient.send()
    with run_worker(broker):
        assert began.wait(20)
        abort(sent.message_id, middleware=abortable, mode=AbortMode.CANCEL)
        go_on.set()
        assert ended.wait(20)
        broker.join("default", timeout=20_000)


def test_event_wakes_whoever_waits_for_it(backend: JetStreamBackend) -> None:
    waiting = in_background(lambda: backend.wait_many(["one:x", "two:x"], 20_000))
    backend.notify([Event("two:x", {"abort_timeout": 5})], ttl=60_000)

    assert waiting.result(10) == Event("two:x", {"abort_timeout": 5})


def test_event_is_handed_out_once_so_that_nobody_spins(backend: JetStreamBackend, admin: Admin, namespace: str) -> None:
    backend.notify([Event("key", {})], ttl=60_000)
    assert backend.wait_many(["key"], 1_000) == Event("key", {})
    asked = admin.subscribe(f"$JS.API.DIRECT.GET.KV_{namespace}-aborts.>")

    assert backend.wait_many(["key"], 300) is None
    assert asked.empty()
    assert backend.poll("key") == Event("key", {})


def test_event_ends_with_its_time(backend: JetStreamBackend) -> None:
    backend.notify([Event("key", {})], ttl=1_000)

    eventually(lambda: backend.poll("key") is None, message="the end of the event")
    assert backend.wait_many(["key"], 50) is None
