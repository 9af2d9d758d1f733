"""Whatever arrives: it ran, or is a dead letter that can be read, or is queued; and the worker still takes new work."""

from __future__ import annotations

import itertools
import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import dramatiq
import pytest
from dramatiq import Worker
from hypothesis import given, settings
from hypothesis import strategies as st

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.dead_letters import DeadLetter
from dramatiq_jetstream.streams import reading
from tests.support.raw import publish_raw
from tests.support.waiting import eventually
from tests.support.workers import run_worker, threads_alive

SOON = 30_000

#: Stands in each message once, wherever that is, and tells it from every other.
MARK = re.compile(rb"mark-\d{6}")


class Stage(NamedTuple):
    """A worker for all examples, and what it did."""

    url: str
    broker: JetStreamBroker
    worker: Worker
    ran: set[bytes]
    letters: dict[bytes, DeadLetter]

    def __repr__(self) -> str:
        return "the stage"

    @property
    def stream(self) -> str:
        return self.broker.names.stream("default")

    def publish(self, headers: bytes, body: bytes) -> None:
        publish_raw(self.url, self.broker.names.work_subject("default", "run"), headers, body)

    def queued(self) -> set[bytes]:
        subject = self.broker.names.work_subject("default")
        found = list(reading.walk(self.broker.connection, self.stream, subject, 0))
        return {mark for message in found for mark in MARK.findall(message.body)}

    def read_letters(self) -> None:
        last = max((letter.number for letter in self.letters.values()), default=0)
        for letter in self.broker.dead_letters.list(after=last):
            assert letter.reason
            assert letter.queue_name == "default"
            assert letter.sequence > 0
            assert not letter.kept
            for mark in MARK.findall(letter.body):
                self.letters[mark] = letter

    def has_settled(self, marks: set[bytes]) -> bool:
        """Whether each message ran to its end or is dead; and nothing of it is left in the queue."""
        self.read_letters()
        return marks <= self.ran | self.letters.keys() and not marks & self.queued()


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class OddBase(BaseException):
    pass


ERRORS: list[Callable[[], BaseException]] = [
    lambda: RuntimeError("on purpose"),
    Odd,
    lambda: OddBase("base"),
    lambda: SystemExit(2),
    lambda: ValueError("x" * 2_000_000),
    lambda: ValueError("😀" * 9_000),
    lambda: ValueError("\ud800\r\n\0" * 100),
    lambda: KeyError(object()),
    lambda: dramatiq.errors.Retry("again", delay=1),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"),
    lambda: ExceptionOfMany(*range(100)),
    MemoryError,
    RecursionError,
]


class ExceptionOfMany(Exception):
    """Cannot be made again of its text."""

    def __init__(self, *many: int) -> None:
        super().__init__(many)


@pytest.fixture(scope="module")
def stage(nats_url: str) -> Iterator[Stage]:
    broker = JetStreamBroker(nats_url, namespace=f"whatever-{secrets.token_hex(4)}", unknown_actor_grace=0)
    ran: set[bytes] = set()

    def note(*arguments: Any) -> None:
        ran.update(MARK.findall(repr(arguments).encode("utf-8", "replace")))

    @dramatiq.actor(broker=broker, max_retries=1, min_backoff=1, max_backoff=1)
    def run(*args: Any, **kwargs: Any) -> None:
        note(args, kwargs)

    @dramatiq.actor(broker=broker, max_retries=1, min_backoff=1, max_backoff=1)
    def fail(mark: Any = None, number: Any = 0, *args: Any) -> Any:
        raise ERRORS[number % len(ERRORS)]() if isinstance(number, int) else RuntimeError("on purpose")

    @dramatiq.actor(broker=broker, max_retries=0)
    def once(mark: Any = None, number: Any = 0, *args: Any) -> Any:
        raise ERRORS[number % len(ERRORS)]() if isinstance(number, int) else RuntimeError("on purpose")

    broker.setup()
    before = logging.root.manager.disable
    # Surrogates, which pytest-xdist cannot pass on.
    logging.disable(logging.CRITICAL)
    try:
        with run_worker(broker, threads=2) as worker:
            yield Stage(nats_url, broker, worker, ran, {})
    finally:
        logging.disable(before)
        broker.flush("default")
        broker.close()


MARKS = (f"mark-{number:06}" for number in itertools.count())

TEXT = st.text(max_size=8) | st.sampled_from(["", "\r\n", "%FF", "ü😀", "x" * 3_000, "a.b *>", "\0"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)

#: Values small enough not to have a message wait longer than a test does.
SMALL: st.SearchStrategy[Any] = st.sampled_from([None, 0, 1, 2, -1, 1.5, True, "1", [], {}])

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("eta", "removed_options", "ended", "pipe_ignore", "x", "state"), JSON),
        **dict.fromkeys(("retries", "min_backoff", "max_backoff", "handoffs", "unknown_since"), SMALL),
        "max_retries": st.sampled_from([0, 1, 2, -1, True, "1", 1.5, []]),
        "origin": JSON | st.sampled_from(["a:1.2", "dramatiq_default:1.1764065264000000001"]),
        "not_before": JSON,
        "traceback": JSON,
        "requeue_timestamp": JSON,
        "time_limit": st.sampled_from([None, 60_000, "60000", float("nan"), float("inf"), [], 10**400]),
        "max_age": st.sampled_from([None, 60_000, "60000", float("inf"), -1, 0]),
        "throws": st.sampled_from([None, "ValueError", [], {}]),
        "on_retry_exhausted": st.sampled_from([None, "run", "nobody", 5, ""]),
        "pipe_target": st.sampled_from([None, 5, {}, {"queue_name": "default"}, "run"]),
        "group_completion_callbacks": st.sampled_from([None, 5, [], [5], [{}]]),
        "dead_message_ttl": st.sampled_from([None, 0, 5_000, -1, "7d", 2**62, 10**30, True]),
    },
)

HEADERS = st.lists(
    st.sampled_from(
        [
            *(b"Dramatiq-Foo: a\nb", b"Dramatiq-Actor: a\rb", b"Dramatiq-Options: a\0b", b"Dramatiq-Kept: 1"),
            *(b"Dramatiq-Actor: \xff\xfe", b"Dramatiq-Message-Id: %FF", b"Dramatiq-Traceback: notjson"),
            *(b"Dramatiq-Options: " + b"x" * 2_000, b"Status: 409", b"X: " + "ü".encode() * 100, b": x", b"x"),
            *(b"Dramatiq-State: junk", b"Dramatiq-State: [1]", b"Dramatiq-State: " + b"[" * 3_000),
            *(b'Dramatiq-State: {"origin": 5}', b'Dramatiq-State: {"ended": "age limit", "handoffs": 99}'),
            b'Dramatiq-State: {"not_before": 1, "unknown_since": 1}',
            *(b"Dramatiq-Reason: x", b"Dramatiq-Timestamp: x", b"Dramatiq-Part: 1/2"),
        ]
    ),
    max_size=3,
    unique=True,
)


class Example(NamedTuple):
    headers: bytes
    body: bytes
    padding: int
    mark: bytes


@st.composite
def examples(draw: Any) -> Example:
    """A message: well formed, with odd fields or options, or of any bytes; small or large."""
    mark = next(MARKS)
    padding = draw(st.sampled_from([0, 0, 0, 20_000, 900_000]))
    if draw(st.integers(0, 3)) == 0:
        body = draw(st.binary(max_size=40)) + mark.encode()
        return Example(b"\r\n".join(draw(HEADERS)), body, padding, mark.encode())
    fields: dict[str, Any] = {
        "queue_name": "default",
        "actor_name": draw(st.sampled_from(["run", "fail", "fail", "once", "nobody"])),
        "args": [mark, draw(st.integers(0, len(ERRORS) - 1))],
        "kwargs": {},
        "options": draw(OPTIONS),
        "message_id": f"id-{mark}",
        "message_timestamp": 1_700_000_000_000,
    }
    odd = draw(st.sampled_from(["", "", "queue_name", "actor_name", "message_id", "message_timestamp", "kwargs"]))
    if odd:
        fields[odd] = draw(JSON)
    if draw(st.booleans()) and odd:
        del fields[odd]
    return Example(b"\r\n".join(draw(HEADERS)), json.dumps(fields).encode(), padding, mark.encode())


# The worker's threads use the module meanwhile; the strategies do not.
@pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(examples(), min_size=1, max_size=6))
def test_whatever_arrives_ran_or_is_dead_or_is_queued_and_the_worker_goes_on(
    stage: Stage, arriving: list[Example]
) -> None:
    for example in arriving:
        stage.publish(example.headers, example.body + b" " * example.padding)
    marks = {example.mark for example in arriving}
    eventually(partial(stage.has_settled, marks), SOON, message=f"the end of {arriving!r:.2000}")

    neighbours = [next(MARKS).encode() for _ in range(2)]
    for mark in neighbours:
        stage.broker.get_actor("run").send(mark.decode())
    eventually(lambda: stage.ran.issuperset(neighbours), SOON, message="the neighbours")
    assert threads_alive(stage.worker)
