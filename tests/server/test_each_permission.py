"""A role without a single permission: every command and every operation ends at once, and names the subject."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import NamedTuple, TypeVar

import dramatiq
import pytest
from click.testing import CliRunner
from dramatiq import Message
from dramatiq.errors import QueueJoinTimeout
from dramatiq.results import ResultMissing
from dramatiq_abort import Event

from dramatiq_jetstream import JetStreamBroker, NatsServer, WorkQueue
from dramatiq_jetstream.abort import JetStreamBackend as Aborts
from dramatiq_jetstream.cli import main
from dramatiq_jetstream.dead_letters.letter import ATTEMPTS, FAILED, QUEUE, REASON, SEQUENCE, STREAM
from dramatiq_jetstream.errors import BatchUnconfirmed, PermissionDenied
from dramatiq_jetstream.rate_limits import JetStreamBackend as Limits
from dramatiq_jetstream.results import JetStreamBackend as ResultBackend
from dramatiq_jetstream.wire import ACTOR, MSG_ID, Publication
from tests.support.operated import APP, Shell

#: Seconds that a command or an operation may take on a busy machine; waiting for the server would take TIMEOUT.
AT_ONCE = 10
TIMEOUT = 60_000


class Permission(NamedTuple):
    """What a user lacks.

    Parameters:
      verb(str): ``publish`` or ``subscribe``.
      subject(str): What may not be published or subscribed to.
      named(str): What an error has to name; ``{n}`` is the namespace.
    """

    verb: str
    subject: str
    named: str


PERMISSIONS = {
    "account": Permission("publish", "$JS.API.INFO", "$JS.API.INFO"),
    "names": Permission("publish", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.NAMES"),
    "stream info": Permission("publish", "$JS.API.STREAM.INFO.>", "$JS.API.STREAM.INFO."),
    "stream create": Permission("publish", "$JS.API.STREAM.CREATE.>", "$JS.API.STREAM.CREATE."),
    "stream update": Permission("publish", "$JS.API.STREAM.UPDATE.>", "$JS.API.STREAM.UPDATE."),
    "purge": Permission("publish", "$JS.API.STREAM.PURGE.>", "$JS.API.STREAM.PURGE."),
    "get": Permission("publish", "$JS.API.STREAM.MSG.GET.>", "$JS.API.STREAM.MSG.GET."),
    "delete": Permission("publish", "$JS.API.STREAM.MSG.DELETE.>", "$JS.API.STREAM.MSG.DELETE."),
    "direct get": Permission("publish", "$JS.API.DIRECT.GET.>", "$JS.API.DIRECT.GET."),
    "consumer info": Permission("publish", "$JS.API.CONSUMER.INFO.>", "$JS.API.CONSUMER.INFO."),
    "consumer create": Permission("publish", "$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.CREATE."),
    "pause": Permission("publish", "$JS.API.CONSUMER.PAUSE.>", "$JS.API.CONSUMER.PAUSE."),
    "next": Permission("publish", "$JS.API.CONSUMER.MSG.NEXT.>", "$JS.API.CONSUMER.MSG.NEXT."),
    "acknowledge": Permission("publish", "$JS.ACK.>", "$JS.ACK."),
    "work": Permission("publish", "*.work.>", "{n}.work."),
    "delayed": Permission("publish", "*.delayed.>", "{n}.delayed."),
    "dead": Permission("publish", "*.dead.>", "{n}.dead."),
    "buckets": Permission("publish", "$KV.>", "$KV."),
    "answers": Permission("subscribe", "_INBOX.>", "_INBOX.>"),
    "advisories": Permission("subscribe", "$JS.EVENT.ADVISORY.>", "$JS.EVENT.ADVISORY."),
}

USER = '{{user: "{name}", password: secret, permissions: {{{verb}: {{deny: ["{subject}"]}}}}}}'


def config() -> str:
    users = [USER.format(name=name.replace(" ", "-"), **each._asdict()) for name, each in PERMISSIONS.items()]
    everybody = "\n".join(["{user: all, password: secret}", *users])
    return f"accounts {{A {{jetstream: enabled, users: [\n{everybody}\n]}}}}"


@pytest.fixture(scope="module")
def guarded() -> Iterator[NatsServer]:
    with NatsServer(config=config()) as server:
        yield server


def url_of(server: NatsServer, name: str) -> str:
    return server.url.replace("nats://", f"nats://{name.replace(' ', '-')}:secret@")


def make_message(queue_name: str = "default") -> Message[object]:
    return Message(queue_name=queue_name, actor_name="greet", args=("x",), kwargs={}, options={})


def bury(broker: JetStreamBroker) -> None:
    """Store a dead letter of the queue default."""
    headers = {
        MSG_ID: "dead",
        QUEUE: "default",
        ACTOR: "greet",
        REASON: "retries exhausted",
        ATTEMPTS: "1",
        FAILED: "1700000000000",
        STREAM: broker.names.stream("default"),
        SEQUENCE: "99",
    }
    publication = Publication(broker.names.dead_subject("default", "greet"), make_message().encode(), headers)
    broker.connection.call(lambda session: session.store(publication))


#: Commands that change nothing, or what the next one does not need; each with what it needs.
COMMANDS: dict[tuple[str, ...], set[str]] = {
    ("queues", "--interval", "0s"): {"names", "stream info", "consumer info", "direct get"},
    ("peek", "--queue", "default"): {"names", "stream info", "consumer info", "direct get"},
    ("show", "dead"): {"names", "stream info", "consumer info", "direct get"},
    ("show", "--queue", "default", "1"): {"names", "get", "stream info", "consumer info"},
    ("dead", "list"): {"names", "direct get"},
    ("dead", "show", "1"): {"names", "get"},
    ("delayed", "list"): {"names", "direct get"},
    ("delayed", "cancel", "--queue", "slow", "none"): {"names", "purge"},
    ("delayed", "run-now", "none"): {"names", "direct get"},
    ("pause", "--queue", "slow"): {"names", "stream info", "consumer info", "direct get", "pause"},
    ("resume", "--queue", "slow"): {"names", "stream info", "consumer info", "direct get", "pause"},
    ("events", "--for", "1ms"): {"names", "advisories"},
    ("enqueue", APP, "later"): {"stream info", "work"},
    ("enqueue", APP, "later", "--delay", "1h"): {"stream info", "delayed"},
    ("setup", APP, "--check"): {"stream info", "consumer info"},
    ("dead", "requeue", "--all", "--yes"): {"names", "direct get", "work", "delete"},
    ("dead", "purge", "1", "--yes"): {"names", "get", "delete"},
    ("dead", "purge", "--queue", "default", "--yes"): {"names", "direct get", "delete"},
    ("purge", "--queue", "default", "--yes"): {"names", "stream info", "consumer info", "direct get", "purge"},
}


@pytest.fixture
def filled(guarded: NatsServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Shell]]:
    """Gives the command line of a user, on queues with a message, one that is held back, and a dead letter."""
    monkeypatch.setenv("OPERATED_NAMESPACE", namespace)

    def become(name: str) -> Shell:
        monkeypatch.setenv("NATS_URL", url_of(guarded, name))
        monkeypatch.setattr(dramatiq.broker, "global_broker", None)
        sys.modules.pop(APP, None)
        return Shell(namespace)

    become("all")
    with closing(importlib.import_module(APP).broker) as broker:
        broker.setup()
        broker.enqueue(make_message())
        broker.enqueue(make_message("slow"), delay=3_600_000)
        bury(broker)
    yield become
    sys.modules.pop(APP, None)


def attempt(*args: str) -> str:
    """What a command prints, however it ends; no exception may reach its caller."""
    result = CliRunner().invoke(main, args)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


@pytest.mark.parametrize("lacking", PERMISSIONS)
def test_command_without_the_permission_names_it_at_once(
    filled: Callable[[str], Shell], namespace: str, lacking: str
) -> None:
    named = PERMISSIONS[lacking].named.format(n=namespace)
    wrong = []
    for words, needed in COMMANDS.items():
        filled(lacking)
        started = time.monotonic()
        more = () if APP in words else ("--namespace", namespace)
        output = attempt(*words, "--timeout", "60s", *more)
        took = time.monotonic() - started
        is_named = named in output
        if is_named is not (lacking in needed or lacking == "answers") or took > AT_ONCE:
            wrong.append((words, took, output))

    assert wrong == []


@pytest.mark.parametrize("lacking", PERMISSIONS)
def test_doctor_names_the_permission_once(filled: Callable[[str], Shell], namespace: str, lacking: str) -> None:
    roles = ("--role", "worker", "--role", "producer", "--role", "provisioner", "--role", "operator")
    started = time.monotonic()
    records = filled(lacking).records("doctor", "--app", APP, "--timeout", "60s", *roles, status=1)

    named = PERMISSIONS[lacking].named.format(n=namespace)
    telling = [record for record in records if named in record["text"]]
    assert telling
    assert len({(record["check"], record["text"]) for record in telling}) == len(telling)
    assert len(telling) <= 6
    assert records.index(telling[0]) <= 6
    assert all(record["advice"] for record in telling)
    assert time.monotonic() - started < AT_ONCE


def join(broker: JetStreamBroker) -> None:
    with suppress(QueueJoinTimeout):
        broker.join("default", timeout=1)


def subscribe(broker: JetStreamBroker, subject: str) -> None:
    broker.subscribe(subject, lambda name, body: None).close()


B = TypeVar("B", ResultBackend, Limits, Aborts)


#: Operations of the broker and of its backends, with what each needs.
OPERATIONS: dict[str, tuple[Callable[[JetStreamBroker], object], set[str]]] = {
    "enqueue": (lambda broker: broker.enqueue(make_message()), {"stream info", "work"}),
    "enqueue delayed": (lambda broker: broker.enqueue(make_message(), delay=9_999), {"stream info", "delayed"}),
    "enqueue many": (
        lambda broker: broker.enqueue_many([make_message(), make_message()]),
        {"stream info", "work"},
    ),
    "delayed": (lambda broker: list(broker.delayed("default")), {"direct get"}),
    "cancel": (lambda broker: broker.cancel(make_message()), {"purge"}),
    "flush": (lambda broker: broker.flush("default"), {"purge"}),
    "join": (lambda broker: join(broker), {"stream info", "consumer info"}),
    "counts": (lambda broker: broker.get_queue_message_counts("default"), {"stream info", "consumer info"}),
    "list of dead letters": (lambda broker: list(broker.dead_letters.list()), {"direct get"}),
    "dead letter": (lambda broker: broker.dead_letters.get(1), {"get"}),
    "purge of dead letters": (lambda broker: broker.dead_letters.purge(), {"purge"}),
    "subscribe": (lambda broker: subscribe(broker, "$JS.EVENT.ADVISORY.>"), {"advisories"}),
    "setup": (lambda broker: broker.setup(), {"stream info", "consumer info"}),
    "store result": (
        lambda broker: backend(broker, ResultBackend).store_result(make_message(), 1, 1_000),
        {"stream info", "buckets"},
    ),
    "get result": (lambda broker: missing_result(backend(broker, ResultBackend)), {"stream info", "direct get"}),
    "rate limit": (lambda broker: backend(broker, Limits).add("key", 1, 1_000), {"stream info", "get", "buckets"}),
    "abort": (lambda broker: backend(broker, Aborts).notify([Event("key", {})], 1_000), {"stream info", "buckets"}),
}


def backend(broker: JetStreamBroker, kind: type[B]) -> B:
    return kind(broker=broker, bucket=f"{broker.names.namespace}-results")


def missing_result(results: ResultBackend) -> None:
    with pytest.raises(ResultMissing):
        results.get_result(make_message())


@pytest.mark.parametrize("lacking", PERMISSIONS)
def test_operation_without_the_permission_names_it_at_once(
    filled: Callable[[str], Shell], guarded: NatsServer, namespace: str, lacking: str
) -> None:
    named = PERMISSIONS[lacking].named.format(n=namespace)
    wrong = []
    for name, (operate, needed) in OPERATIONS.items():
        error = ""
        started = time.monotonic()
        queues = {"default": WorkQueue(max_deliver=2)}
        url = url_of(guarded, lacking)
        with closing(JetStreamBroker(url, namespace=namespace, queues=queues, timeout=TIMEOUT)) as broker:
            broker.declare_queue("default")
            try:
                operate(broker)
            except (PermissionDenied, BatchUnconfirmed) as denied:
                error = str(denied)
        took = time.monotonic() - started
        # What is heard is no answer.
        answered = lacking == "answers" and name != "subscribe"
        if (named in error) is not (lacking in needed or answered) or took > AT_ONCE:
            wrong.append((name, took, error))

    assert wrong == []
