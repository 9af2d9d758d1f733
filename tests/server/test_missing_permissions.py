"""A user who may not read is told so at once, by the subject that is missing; on a server with permissions."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.results import ResultTimeout

from dramatiq_jetstream import JetStreamBroker, NatsServer, WorkQueue, admin
from dramatiq_jetstream.errors import PermissionDenied
from dramatiq_jetstream.results import JetStreamBackend
from tests.support.operated import Shell
from tests.support.workers import run_worker

CONFIG = """
accounts {{
    A {{
        jetstream: enabled
        users: [
            {{user: all, password: all}}
            {{user: reader, password: reader, permissions: {{publish: {{deny: ["$JS.API.DIRECT.GET.>"]}}}}}}
            {{user: looker, password: looker, permissions: {{publish: {{deny: ["$JS.API.STREAM.MSG.GET.>"]}}}}}}
            {{user: deaf, password: deaf, permissions: {{subscribe: {{deny: ["$JS.ACK.>"]}}}}}}
            {{user: silent, password: silent, permissions: {{publish: {{deny: ["*.renew.>"]}}}}}}
            {{user: busy, password: busy, permissions: {{subscribe: {{deny: ["*.renew.>"]}}}}}}
            {{user: waiter, password: waiter, permissions: {{subscribe: {{deny: ["$KV.>"]}}}}}}
        ]
    }}
}}
"""

#: Long enough that a test which waits for it fails for certain.
TIMEOUT = 60_000


@pytest.fixture(scope="module")
def guarded() -> Iterator[NatsServer]:
    with NatsServer(config=CONFIG.format()) as server:
        yield server


def connect(server: NatsServer, namespace: str, user: str, **settings: Any) -> JetStreamBroker:
    broker = JetStreamBroker(server.url, namespace=namespace, user=user, password=user, timeout=TIMEOUT, **settings)
    broker.declare_queue("default")
    return broker


def make_message() -> Message[Any]:
    return Message(queue_name="default", actor_name="act", args=(), kwargs={}, options={})


@pytest.fixture
def made(guarded: NatsServer, namespace: str) -> NatsServer:
    """The server with a queue on it, and a message that is held back."""
    with closing(connect(guarded, namespace, "all")) as broker:
        broker.setup()
        broker.enqueue(make_message(), delay=3_600_000)
    return guarded


READING: dict[str, tuple[Callable[[JetStreamBroker], object], str]] = {
    "delayed": (lambda broker: list(broker.delayed("default")), "{n}_default"),
    "dead letters": (lambda broker: list(broker.dead_letters.list()), "{n}-dead-letters"),
    "dead letters of an actor": (lambda broker: list(broker.dead_letters.list("default", "a")), "{n}-dead-letters"),
    "peek": (lambda broker: list(admin.peek(broker, "default")), "{n}_default"),
    "find": (lambda broker: list(admin.find_message(broker, "x")), "{n}_default"),
    "list of delayed": (lambda broker: list(admin.list_delayed(broker)), "{n}_default"),
    "run now": (lambda broker: admin.run_delayed(broker, "x"), "{n}_default"),
}


@pytest.mark.parametrize("name", READING)
def test_reading_without_the_right_says_at_once_what_is_missing(made: NatsServer, namespace: str, name: str) -> None:
    read, stream = READING[name]
    with closing(connect(made, namespace, "reader")) as broker:
        for _ in range(2):
            with pytest.raises(PermissionDenied) as raised:
                read(broker)
            assert f"$JS.API.DIRECT.GET.{stream.format(n=namespace)}" in str(raised.value)


@pytest.mark.parametrize(
    "read",
    [
        lambda broker: admin.show(broker, "default", 1),
        lambda broker: broker.dead_letters.get(1),
        lambda broker: admin.cancel_delayed(broker, "1", "default"),
    ],
    ids=["show", "dead letter", "cancel by sequence"],
)
def test_getting_one_without_the_right_says_at_once_what_is_missing(
    made: NatsServer, namespace: str, read: Callable[[JetStreamBroker], object]
) -> None:
    with (
        closing(connect(made, namespace, "looker")) as broker,
        pytest.raises(PermissionDenied, match=r"\$JS\.API\.STREAM\.MSG\.GET\."),
    ):
        read(broker)


@pytest.mark.parametrize("words", [("dead", "list"), ("delayed", "list"), ("peek", "default")], ids=" ".join)
def test_command_without_the_right_names_the_subject(
    made: NatsServer, namespace: str, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("NATS_URL", made.url.replace("nats://", "nats://reader:reader@"))

    result = Shell(namespace).run(*words, "--namespace", namespace, status=1)

    assert "$JS.API.DIRECT.GET." in result.output


def test_waiting_for_results_without_the_right_is_reported_once(
    made: NatsServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(connect(made, namespace, "waiter")) as broker:
        backend = JetStreamBackend(broker=broker)
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                with pytest.raises(ResultTimeout):
                    backend.get_result(make_message(), block=True, timeout=200)

    assert len([record for record in caplog.records if "ermissions violation" in record.getMessage()]) == 1


@pytest.mark.parametrize(
    ("worker", "operator", "expected"),
    [
        ("all", "all", (1, 0)),
        ("all", "deaf", (0, 1)),
        ("all", "silent", (1, 0)),
        ("busy", "all", (1, 0)),
    ],
    ids=["both may", "the operator may not listen", "the operator may not ask", "the worker may not be asked"],
)
def test_message_is_running_or_in_flight_whatever_may_be_listened_to(
    guarded: NatsServer,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
    worker: str,
    operator: str,
    expected: tuple[int, int],
) -> None:
    started, go_on = threading.Event(), threading.Event()
    queues = {"default": WorkQueue(ack_wait=4_000)}
    with (
        closing(connect(guarded, namespace, worker, queues=queues)) as working,
        closing(connect(guarded, namespace, operator)) as looking,
    ):

        @dramatiq.actor(broker=working)
        def act() -> None:
            started.set()
            go_on.wait(60)

        act.send()
        with caplog.at_level(logging.WARNING), run_worker(working):
            try:
                assert started.wait(60)
                view = admin.view(looking, "default")
                findings = [finding for finding in admin.examine(looking, drift=False) if finding.wrong]
            finally:
                go_on.set()

    assert (view.running, view.in_flight, view.overdue) == (*expected, 0)
    assert findings == []
    assert [record.getMessage() for record in caplog.records] == []
