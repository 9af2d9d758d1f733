"""Messages and errors that hold what nobody expects: each ends with a readable dead letter, and its neighbours run."""

from __future__ import annotations

import builtins
import json
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
from dramatiq import Message, Middleware

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.dead_letters import DeadLetter
from dramatiq_jetstream.wire import STATE
from tests.support.admin import Admin
from tests.support.raw import publish_raw
from tests.support.waiting import eventually
from tests.support.workers import run_worker, threads_alive

SOON = 30_000
MAX_PAYLOAD = 1024 * 1024


class Stage(SimpleNamespace):
    """A broker with an actor that raises what a test wants, and one that notes its neighbours."""

    url: str
    broker: JetStreamBroker
    admin: Admin
    raised: Callable[[], BaseException]
    runs: list[str]
    ran: list[Any]

    @property
    def subject(self) -> str:
        return self.broker.names.work_subject("default", "neighbour")

    def letters(self) -> list[DeadLetter]:
        if self.broker.names.dead_letters not in self.admin.streams():
            return []
        return list(self.broker.dead_letters.list())

    def await_letters(self, count: int = 1) -> list[DeadLetter]:
        return eventually(lambda: found if len(found := self.letters()) >= count else [], SOON, message="the letters")

    def stored(self) -> int:
        return self.admin.count(self.broker.names.stream("default"))

    def await_end(self) -> None:
        eventually(lambda: self.stored() == 0, SOON, message="the end of the queue")

    def check_neighbours(self) -> None:
        """Whether both threads still take new work."""
        before = len(self.ran)
        for number in range(4):
            self.broker.get_actor("neighbour").send(number)
        eventually(lambda: len(self.ran) >= before + 4, SOON, message="the neighbours")


@pytest.fixture
def stage(nats_url: str, broker: JetStreamBroker, admin: Admin) -> Stage:
    stage = Stage(url=nats_url, broker=broker, admin=admin, raised=lambda: RuntimeError("on purpose"), runs=[], ran=[])

    @dramatiq.actor(broker=broker, max_retries=1, min_backoff=1, max_backoff=1)
    def fail(name: str = "") -> None:
        stage.runs.append(name)
        raise stage.raised()

    @dramatiq.actor(broker=broker)
    def neighbour(number: Any = None) -> None:
        stage.ran.append(number)

    broker.setup()
    return stage


HEADERS = {
    "a line feed": b"Dramatiq-Foo: a\nb",
    "a carriage return": b"Dramatiq-Actor: a\rb",
    "both, the other way round": b"Dramatiq-Message-Id: a\n\rb",
    "a NUL": b"Dramatiq-Options: a\x00b",
    "bytes that are not UTF-8": b"Dramatiq-Actor: \xff\xfe",
    "a quoted byte that is not UTF-8": b"Dramatiq-Actor: %FF\r\nDramatiq-Message-Id: %FF",
    "a claim to be kept": b"Dramatiq-Kept: 1\r\nDramatiq-Reason: x\r\nDramatiq-Attempts: -5",
    "a traceback that is no JSON": b"Dramatiq-Traceback: notjson\r\nDramatiq-Exception-Text: x",
    "60 kB": b"Dramatiq-Options: " + b"x" * 60_000,
    "a state that is junk": b"Dramatiq-State: junk",
    "a state that is a list": b"Dramatiq-State: [1]",
    "a state of odd types": b'Dramatiq-State: {"origin": 5, "not_before": "x", "handoffs": -1, "ended": [], "x": 1}',
    "a state of long texts": b'Dramatiq-State: {"origin": "' + b"x" * 3_000 + b'"}',
    "a state nested deeply": b"Dramatiq-State: " + b"[" * 4_000,
    "a status": b"Status: 409\r\nDescription: Consumer Deleted",
    "those of a direct read": b"Nats-Subject: x\r\nNats-Sequence: y\r\nNats-Time-Stamp: z\r\nNats-Stream: ..",
    "no name": b": value",
    "no colon": b"just text",
}


@pytest.mark.parametrize("name", HEADERS)
def test_undecodable_message_with_an_odd_header_is_a_readable_dead_letter(stage: Stage, name: str) -> None:
    publish_raw(stage.url, stage.subject, HEADERS[name], b"\xff{not a message", copies=5)
    with run_worker(stage.broker, threads=2) as worker:
        letters = stage.await_letters(5)
        stage.await_end()
        stage.check_neighbours()
        assert threads_alive(worker)

    assert {(each.reason, each.body, each.kept) for each in letters} == {("undecodable", b"\xff{not a message", False)}


@pytest.mark.parametrize("name", HEADERS)
def test_decodable_message_with_an_odd_header_runs(stage: Stage, name: str) -> None:
    body = stage.broker.get_actor("neighbour").message().encode()
    publish_raw(stage.url, stage.subject, HEADERS[name], body, copies=5)
    with run_worker(stage.broker, threads=2):
        eventually(lambda: len(stage.ran) == 5, SOON, message="the end of all")
        stage.await_end()
        stage.check_neighbours()

    assert not stage.letters()


@pytest.mark.parametrize("name", HEADERS)
def test_failing_message_with_an_odd_header_has_its_attempts_and_one_dead_letter(stage: Stage, name: str) -> None:
    publish_raw(stage.url, stage.subject, HEADERS[name], stage.broker.get_actor("fail").message().encode())
    with run_worker(stage.broker, threads=2):
        letters = stage.await_letters()
        stage.await_end()
        stage.check_neighbours()

    assert len(stage.runs) == 2
    assert [(each.reason, each.attempts, each.kept) for each in letters] == [("retries exhausted", 2, False)]


class Raises(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Ends(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Number(Exception):
    def __str__(self) -> Any:
        return 5

    __repr__ = __str__


class OddText(str):
    __slots__ = ()

    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("not sliced")

    def encode(self, *_: Any) -> bytes:
        raise RuntimeError("not encoded")


class OddTextError(Exception):
    def __str__(self) -> str:
        return OddText("odd")


def odd_class() -> BaseException:
    kind = type("Odd", (Exception,), {})
    oddly: Any = kind
    oddly.__module__, oddly.__qualname__ = 5, "a\r\nb \ud800 " + "ü" * 3_000
    error: BaseException = kind("odd")
    return error


def cyclic() -> BaseException:
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def chained() -> BaseException:
    error = RuntimeError("0")
    for number in range(1, 3_000):
        following = RuntimeError(str(number))
        following.__cause__, error = error, following
    return error


class NoGroup(Exception):
    """Stands for groups where Python has none."""


Group: Any = getattr(builtins, "ExceptionGroup", NoGroup)

ERRORS: dict[str, Callable[[], BaseException]] = {
    "its text raises": Raises,
    "its text ends the process": Ends,
    "its text is a number": Number,
    "its text is of another class": OddTextError,
    "its class has odd names": odd_class,
    "it is a cycle": cyclic,
    "it has many causes": chained,
    "3 MB of text": lambda: RuntimeError("x" * 3_000_000),
    "9,000 emoji": lambda: RuntimeError("😀" * 9_000),
    "surrogates": lambda: RuntimeError("\ud800" * 2_000),
    "line breaks and NUL": lambda: RuntimeError("a\r\nb\0\x1b[31m\u2028" * 500),
    "a group": lambda: Group("many", [ValueError(str(number)) for number in range(50)]),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "of no class of Exception": lambda: type("Base", (BaseException,), {})("base"),
}


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Nothing is logged: pytest-xdist cannot pass surrogates on."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


@pytest.mark.usefixtures("unlogged")
@pytest.mark.parametrize("name", ERRORS)
def test_whatever_an_actor_raises_it_is_retried_and_then_a_readable_dead_letter(stage: Stage, name: str) -> None:
    stage.raised = ERRORS[name]
    sent = [stage.broker.get_actor("fail").send(str(number)) for number in range(3)]
    with run_worker(stage.broker, threads=2) as worker:
        letters = stage.await_letters(3)
        stage.await_end()
        stage.check_neighbours()
        assert threads_alive(worker)

    assert len(stage.runs) == 6
    assert {each.message_id for each in letters} == {message.message_id for message in sent}
    assert {(each.reason, each.attempts) for each in letters} == {("retries exhausted", 2)}


def test_long_exception_text_costs_no_attempt_and_no_other_option(stage: Stage) -> None:
    stage.raised = lambda: RuntimeError("x" * 3_000_000)
    seen: list[Any] = []

    class Witness(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            seen.append((message.options.get("retries", 0), message.options.get("note")))
            message.options["note"] = len(seen)

    stage.broker.add_middleware(Witness())
    stage.broker.get_actor("fail").send_with_options(max_retries=5)
    with run_worker(stage.broker, threads=2):
        [letter] = stage.await_letters()
        stage.await_end()

    assert seen == [(0, None), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]
    assert (letter.reason, letter.attempts) == ("retries exhausted", 6)


@pytest.mark.usefixtures("unlogged")
@pytest.mark.parametrize("length", [300, 5_000, 50_000])
def test_message_with_a_long_id_and_an_unknown_actor_with_a_long_name_is_a_dead_letter(
    stage: Stage, length: int
) -> None:
    stage.broker._parts.handling("default")._unknown_actor_grace = 0
    for name in ("x" * length, "ü😀\ud800" * (length // 6), "a.b *>" * (length // 6)):
        strange: Message[None] = Message(
            queue_name="default", actor_name=name, args=(), kwargs={}, options={}, message_id=name[::-1]
        )
        stage.admin.store(stage.subject, strange.encode())
    with run_worker(stage.broker, threads=2):
        letters = stage.await_letters(3)
        stage.await_end()
        stage.check_neighbours()

    assert {each.reason for each in letters} == {"unknown actor"}


def test_message_with_a_long_id_and_actor_waits_for_other_workers(stage: Stage) -> None:
    strange: Message[None] = Message(
        queue_name="default", actor_name="x" * 5_000, args=(), kwargs={}, options={}, message_id="y" * 50_000
    )
    stage.admin.store(stage.subject, strange.encode())
    with run_worker(stage.broker, threads=2):
        stage.check_neighbours()
        eventually(lambda: stage.stored() == 1, SOON)

    assert not stage.letters()


@pytest.mark.parametrize("size", [MAX_PAYLOAD, MAX_PAYLOAD - 40, MAX_PAYLOAD - 30_000])
def test_undecodable_body_as_large_as_the_server_takes_is_kept_whole(stage: Stage, size: int) -> None:
    body = b"\xff" + b"x" * (size - 1)
    stage.admin.publish(stage.subject, body)
    eventually(lambda: stage.stored() == 1, SOON)
    with run_worker(stage.broker, threads=2):
        stage.await_letters()
        stage.await_end()
        stage.check_neighbours()

    letters = stage.letters()
    assert b"".join(each.body for each in letters) == body
    assert {each.reason for each in letters} == {"undecodable"}
    parts = [each.part for each in letters]
    assert parts in ([None], ["1/2", "2/2"])


def test_message_as_large_as_the_server_takes_fails_and_is_kept_whole(stage: Stage) -> None:
    message = stage.broker.get_actor("fail").message("x")
    body = message.encode()
    body = body[:-1] + b" " * (MAX_PAYLOAD - len(body)) + b"}"
    stage.admin.publish(stage.subject, body)
    with run_worker(stage.broker, threads=2):
        stage.await_letters()
        stage.await_end()
        stage.check_neighbours()

    letters = stage.letters()
    assert b"".join(each.body for each in letters) == body
    assert {(each.reason, each.attempts, each.message_id) for each in letters} == {
        ("retries exhausted", 2, message.message_id)
    }


OPTIONS: dict[str, dict[str, Any]] = {
    "our earlier names as numbers": {"origin": 5, "not_before": 2**62, "handoff_failures": 99, "removed_options": 5},
    "our earlier names as texts": {"origin": "orders:1.5", "not_before": "tomorrow", "unknown_actor_since": "x"},
    "our earlier names as lists": {"origin": [1], "not_before": [], "removed_options": ["retries"], "ended": "x"},
    "our present names": {"handoffs": 10**9, "unknown_since": 1, "ended": "x", "bookkeeping": {}, "state": "x"},
    "an origin of an older shape": {"origin": "a stream:1.2", "not_before": 2**62},
    "eta": {"eta": 2**62},
    "eta as text": {"eta": "tomorrow"},
    "nested options": {"x": {"y": [{"z": None}] * 50}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_an_application_are_its_own(stage: Stage, name: str) -> None:
    seen: list[dict[str, Any]] = []

    class Witness(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            seen.append(dict(message.options))

    stage.broker.add_middleware(Witness())
    stage.broker.get_actor("fail").send_with_options(**OPTIONS[name])
    with run_worker(stage.broker, threads=2):
        [letter] = stage.await_letters()
        stage.await_end()

    expected = {key: value for key, value in OPTIONS[name].items() if key != "eta"}
    assert len(seen) == 2
    assert all(options.items() >= expected.items() for options in seen)
    assert (letter.reason, letter.attempts) == ("retries exhausted", 2)


def test_state_of_a_producer_harms_only_its_own_message(stage: Stage) -> None:
    states = [{"ended": "nonsense"}, {"handoffs": 2**62}, {"unknown_since": 1}, {"origin": "x" * 250}]
    for state in states:
        header = f"{STATE}: {json.dumps(state)}".encode()
        publish_raw(stage.url, stage.subject, header, stage.broker.get_actor("fail").message().encode())
    with run_worker(stage.broker, threads=2):
        letters = stage.await_letters(len(states))
        stage.await_end()
        stage.check_neighbours()

    assert sorted(each.reason for each in letters) == ["error while it was handled", *["retries exhausted"] * 3]
