"""Reading what streams keep: all of it, however large, a page at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.admin import peek, show
from dramatiq_jetstream.dead_letters import DeadLetter, archive
from dramatiq_jetstream.streams import reading
from tests.support.admin import Admin
from tests.support.workers import run_worker

LARGE = 900_000
MANY = 150


def make_message(text: str, queue_name: str = "default") -> Message[Any]:
    return Message(queue_name=queue_name, actor_name="act", args=(text,), kwargs={}, options={})


@pytest.fixture
def declared(broker: JetStreamBroker) -> JetStreamBroker:
    broker.declare_queue("default")
    broker.setup()
    return broker


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each page that is read."""
    sizes: list[int] = []
    collect = reading._collect

    async def measured(*args: Any) -> Any:
        page = await collect(*args)
        sizes.append(sum(len(message.body) for message in page.messages))
        return page

    monkeypatch.setattr(reading, "_collect", measured)
    return sizes


def without_direct_access(admin: Admin, stream: str) -> None:
    config = admin.stream(stream)["config"]
    admin.api(f"STREAM.UPDATE.{stream}", {**config, "allow_direct": False})


def test_peek_sees_all_of_150_messages_of_900_kilobytes_with_bounded_memory(
    declared: JetStreamBroker, pages: list[int]
) -> None:
    for number in range(MANY):
        declared.enqueue(make_message(f"{number} {'x' * LARGE}"))

    seen = [view.args[0].split()[0] for view in peek(declared, "default")]

    assert seen == [str(number) for number in range(MANY)]
    assert max(pages) <= reading.PAGE_BYTES + 1_048_576


def test_all_of_300_delayed_messages_of_300_kilobytes_are_listed(declared: JetStreamBroker, pages: list[int]) -> None:
    for number in range(300):
        declared.enqueue(make_message(f"{number} {'x' * 300_000}"), delay=3_600_000)

    found = list(declared.delayed("default"))

    assert [waiting.message.args[0].split()[0] for waiting in found if waiting.message] == [str(n) for n in range(300)]
    assert max(pages) <= reading.PAGE_BYTES + 1_048_576


def test_every_one_of_150_large_dead_letters_is_listed_and_requeued(
    declared: JetStreamBroker, admin: Admin, pages: list[int]
) -> None:
    letters = declared.dead_letters
    names = declared.names
    for number in range(MANY):
        message = make_message(f"{number} {'x' * LARGE}")
        headers = {"Dramatiq-Queue": "default", "Dramatiq-Reason": "retries exhausted"}
        admin.store(names.dead_subject("default", "act"), message.encode(), headers)

    assert len(list(letters.list("default"))) == MANY
    moved = list(letters.requeue_all(letters.list("default", "act")))

    assert len(moved) == MANY
    assert not any(error for _, error in moved)
    assert not list(letters.list())
    assert admin.count(names.stream("default")) == MANY
    assert max(pages) <= reading.PAGE_BYTES + 1_048_576


def test_chosen_large_dead_letters_are_purged_and_the_others_stay(declared: JetStreamBroker, admin: Admin) -> None:
    letters, names = declared.dead_letters, declared.names
    for number in range(MANY):
        headers = {"Dramatiq-Queue": "default", "Dramatiq-Reason": "undecodable" if number % 3 else "other"}
        admin.store(names.dead_subject("default", "act"), b"x" * LARGE, headers)

    purged = letters.delete_all(letter for letter in letters.list("default") if letter.reason == "undecodable")

    assert purged == MANY - MANY // 3
    assert {letter.reason for letter in letters.list()} == {"other"}
    assert letters.purge("default", "act") == MANY // 3
    assert not list(letters.list())


def test_large_dead_letters_are_moved_a_few_at_a_time(declared: JetStreamBroker, admin: Admin) -> None:
    for number in range(40):
        message = make_message(f"{number} {'x' * LARGE}")
        headers = {"Dramatiq-Queue": "default", "Dramatiq-Reason": "retries exhausted"}
        admin.store(declared.names.dead_subject("default", "act"), message.encode(), headers)
    taken: list[int] = []

    def entries() -> Iterator[DeadLetter]:
        for letter in declared.dead_letters.list():
            taken.append(letter.number)
            yield letter

    moved = declared.dead_letters.requeue_all(entries())
    next(moved)

    assert len(taken) * LARGE <= archive.OUTSTANDING_BYTES + LARGE
    assert len(list(moved)) == 39


def test_large_delayed_messages_are_all_cancelled(declared: JetStreamBroker, admin: Admin) -> None:
    messages = [make_message(f"{number} {'x' * LARGE}") for number in range(30)]
    for message in messages:
        declared.enqueue(message, delay=3_600_000)

    assert all(declared.cancel(waiting.message) for waiting in declared.delayed("default") if waiting.message)
    assert admin.count(declared.names.stream("default")) == 0


def test_requeueing_a_letter_of_an_undeclared_queue_stores_it_there(declared: JetStreamBroker, admin: Admin) -> None:
    names = declared.names
    message = make_message("x", "elsewhere")
    headers = {"Dramatiq-Queue": "elsewhere", "Dramatiq-Reason": "retries exhausted"}
    admin.store(names.dead_subject("elsewhere", "act"), message.encode(), headers)

    assert [error for _, error in declared.dead_letters.requeue_all(declared.dead_letters.list())] == [None]

    assert admin.count(names.stream("elsewhere")) == 1
    assert "elsewhere" not in declared.get_declared_queues()


def test_last_messages_of_many_subjects_are_all_read(broker: JetStreamBroker, admin: Admin, namespace: str) -> None:
    subjects = [f"{namespace}.last.{number}" for number in range(40)]
    admin.api(f"STREAM.CREATE.{namespace}", {"name": namespace, "subjects": [f"{namespace}.>"], "allow_direct": True})
    for subject in subjects:
        admin.store(subject, b"x" * LARGE)

    found = broker.connection.call(lambda session: reading.read_last(session, namespace, subjects))

    assert [message.subject for message in found] == subjects


def test_stream_without_direct_access_is_read_one_by_one(declared: JetStreamBroker, admin: Admin) -> None:
    names = declared.names
    for number in range(5):
        declared.enqueue(make_message(f"ready {number}"))
        declared.enqueue(make_message(f"delayed {number}"), delay=3_600_000)
        admin.store(names.dead_subject("default", "act"), make_message(f"dead {number}").encode())
    without_direct_access(admin, names.stream("default"))
    without_direct_access(admin, names.dead_letters)

    seen = [view.args[0] for view in peek(declared, "default")]
    waiting = [held.message.args[0] for held in declared.delayed("default") if held.message]
    dead = [Message.decode(letter.body).args[0] for letter in declared.dead_letters.list()]

    assert seen == [f"ready {n}" for n in range(5)] + [f"delayed {n}" for n in range(5)]
    assert waiting == [f"delayed {n}" for n in range(5)]
    assert dead == [f"dead {n}" for n in range(5)]


@pytest.mark.parametrize("direct", [True, False], ids=["with direct access", "without"])
def test_headers_that_look_like_the_servers_own_do_not_lead_astray(
    declared: JetStreamBroker, admin: Admin, direct: bool
) -> None:
    hostile = {
        "Nats-Sequence": "1",
        "Nats-Subject": "elsewhere",
        "Nats-Num-Pending": "0",
        "Nats-Time-Stamp": "never",
        "Status": "404",
        "Description": "nothing here",
    }
    subject = declared.names.work_subject("default", "act")
    for number in range(3):
        admin.store(subject, make_message(str(number)).encode(), hostile)
    if not direct:
        without_direct_access(admin, declared.names.stream("default"))

    found = list(reading.walk(declared.connection, declared.names.stream("default"), subject))

    assert [(message.sequence, message.subject) for message in found] == [(n, subject) for n in (1, 2, 3)]
    assert all(message.timestamp for message in found)


@pytest.mark.parametrize("sequence", [-1, 0, 2, 2**63, 2**64 - 1, 2**64, 10**400])
def test_there_is_nothing_at_a_sequence_that_was_never_used(declared: JetStreamBroker, sequence: int) -> None:
    declared.enqueue(make_message("one"))

    assert show(declared, "default", sequence) is None
    assert declared.dead_letters.get(sequence) is None


def test_messages_removed_while_they_are_read_are_skipped(declared: JetStreamBroker, admin: Admin) -> None:
    subject = declared.names.work_subject("default", "act")
    stream = declared.names.stream("default")
    for number in range(reading.PAGE + 10):
        declared.enqueue(make_message(str(number)))

    walked = reading.walk(declared.connection, stream, subject)
    first = next(walked)
    admin.api(f"STREAM.PURGE.{stream}", {"filter": subject})

    assert first.sequence == 1
    assert len(list(walked)) == reading.PAGE - 1


def test_worker_goes_on_while_a_large_queue_is_read(declared: JetStreamBroker) -> None:
    done = threading.Event()

    @dramatiq.actor(broker=declared, queue_name="other")
    def act(text: str) -> None:
        done.set()

    for _ in range(30):
        declared.enqueue(make_message("x" * LARGE))
    with run_worker(declared, queues={"other"}):
        declared.enqueue(make_message("", "other"))
        assert len(list(peek(declared, "default"))) == 30
        assert done.wait(30)
