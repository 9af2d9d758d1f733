"""Dead letters: complete, one for each message, kept as long as was asked for, and to be requeued."""

from __future__ import annotations

import json
import socket
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.common import current_millis

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.dead_letters import exhausted
from tests.support.admin import Admin
from tests.support.faults import ACK_WAIT, SOON, Application
from tests.support.waiting import eventually
from tests.support.workers import run_worker

WEEK = "604800"


def test_dead_letter_says_all_there_is_to_say(application: Application) -> None:
    before = current_millis()
    message = application.send("hopeless", "fail", max_retries=1)
    with application.workers() as workers:
        letter = application.await_dead_letter()
        application.await_empty()
        [pid] = workers.pids

    names = application.broker.names
    found = application.broker.dead_letters.get(letter.number)
    assert found is not None
    assert found.message_id == message.message_id
    assert (letter.queue_name, letter.actor_name, letter.message_id) == ("default", "run", message.message_id)
    assert (letter.reason, letter.attempts) == ("retries exhausted", 2)
    assert (letter.exception, letter.exception_text) == ("builtins.RuntimeError", "hopeless fails on purpose")
    assert letter.traceback is not None
    assert "in fail" in letter.traceback
    assert letter.enqueued_at == message.message_timestamp
    assert before <= letter.enqueued_at <= letter.failed_at <= current_millis()
    assert letter.worker == f"{socket.gethostname()} {pid}"
    assert (letter.stream, letter.sequence, letter.kept) == (names.stream("default"), 1, False)
    assert Message.decode(letter.body) == message


def test_undecodable_and_misdirected_messages_harm_no_neighbour(application: Application) -> None:
    subject = application.broker.names.work_subject("default", "run")
    application.send("before")
    application.admin.store(subject, b"\xff{not a message")
    foreign: Message[None] = Message(queue_name="another", actor_name="run", args=("foreign",), kwargs={}, options={})
    application.admin.store(subject, foreign.encode())
    application.send("after")
    with application.workers(threads=2) as workers:
        application.await_notes("end", "before", "foreign", "after")
        letter = application.await_dead_letter()
        application.await_empty()
        assert workers.is_running

    assert letter.reason == "undecodable"
    assert letter.body == b"\xff{not a message"
    assert len(application.dead_letters()) == 1


def test_crash_between_storing_a_dead_letter_and_removing_its_message_yields_one(application: Application) -> None:
    application.send("hopeless", "fail", max_retries=0)
    with application.workers(FAULTS_DIE_BETWEEN="burial") as first:
        first.wait()
    assert application.stored() == 1
    with application.workers():
        application.await_empty()

    [letter] = application.dead_letters()
    assert (letter.reason, letter.attempts) == ("retries exhausted", 1)


def test_message_whose_attempts_ended_while_nobody_watched_is_found_by_the_sweep(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exhausted, "SWEEP_INTERVAL", 0.1)
    application.broker.setup()
    application.broker.close()
    names = application.broker.names
    application.admin.ask(f"STREAM.DELETE.{names.advisories}")
    message = application.send("exhausted", actor="run_once")
    stream = names.stream("once")
    pull = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{names.consumer}"
    delivered = application.admin.subscribe("parking")
    for _ in range(application.admin.consumer(stream, names.consumer)["config"]["max_deliver"]):
        application.admin.publish(pull, reply="parking")
        application.admin.publish(delivered.get(timeout=SOON / 1000).reply, b"-NAK")
    # The server gives a message up only when it would deliver it once more.
    application.admin.publish(pull, reply="parking")
    eventually(lambda: application.in_flight("once") == 0, SOON, message="the end of the last delivery")

    with run_worker(application.broker, threads=1):
        letter = application.await_dead_letter("once")
        application.await_empty("once")

    assert (letter.reason, letter.message_id) == ("attempts exceeded", message.message_id)


@pytest.mark.parametrize(
    ("settings", "environment", "actor", "message", "ttl"),
    [
        ({}, None, None, {}, WEEK),
        ({}, "60000", None, {}, "60"),
        ({"dead_message_ttl": 90_000}, "60000", None, {}, "90"),
        ({"dead_message_ttl": 90_000}, None, 30_000, {}, "30"),
        ({"dead_message_ttl": 90_000}, None, 30_000, {"dead_message_ttl": 1_500}, "2"),
        ({"dead_message_ttl": 0}, None, None, {}, None),
        ({}, None, 0, {}, None),
        ({}, None, None, {"dead_message_ttl": 0}, None),
    ],
)
def test_dead_letter_is_kept_as_long_as_was_asked_for(
    nats_url: str,
    namespace: str,
    admin: Admin,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    environment: str | None,
    actor: int | None,
    message: dict[str, Any],
    ttl: str | None,
) -> None:
    if environment is None:
        monkeypatch.delenv("dramatiq_dead_message_ttl", raising=False)
    else:
        monkeypatch.setenv("dramatiq_dead_message_ttl", environment)
    broker = JetStreamBroker(nats_url, namespace=namespace, **settings)

    @dramatiq.actor(broker=broker, max_retries=0)
    def fail() -> None:
        raise RuntimeError("on purpose")

    if actor is not None:
        fail.options["dead_message_ttl"] = actor
    fail.send_with_options(**message)
    with run_worker(broker):
        broker.join("default", timeout=SOON)
    broker.close()

    [stored] = admin.stored(broker.names.dead_letters)
    assert stored.headers.get("Nats-TTL") == ttl


def test_dead_letter_expires(application: Application) -> None:
    application.send("hopeless", "fail", max_retries=0, dead_message_ttl=1_000)
    with application.workers():
        application.await_dead_letter()
    eventually(lambda: not application.dead_letters(), SOON, message="the end of the dead letter")


def test_requeued_message_has_all_its_attempts_ahead_of_it(application: Application) -> None:
    message = application.send("second chance", "fail:2", max_retries=1)
    with application.workers():
        letter = application.await_dead_letter()
        application.await_empty()
        application.broker.dead_letters.requeue(letter)
        application.await_notes("end", "second chance")
        application.await_empty()

    assert not application.dead_letters()
    third = application.notes("start", "second chance")[2]
    assert third.options.keys() == {"max_retries"} | (third.options.keys() & {"dramatiq_origin"})
    assert Message.decode(letter.body) == message


def test_requeuing_repeated_after_a_crash_stores_one_message(application: Application) -> None:
    application.send("hopeless", "fail", max_retries=0)
    with application.workers():
        letter = application.await_dead_letter()
        application.await_empty()

    application.broker.dead_letters.requeue(letter)
    application.broker.dead_letters.requeue(letter)

    assert application.stored() == 1
    assert not application.dead_letters()


def test_message_that_dies_again_within_the_duplicate_window_is_requeued_again(application: Application) -> None:
    application.send("hopeless", "fail:3", max_retries=0)
    numbers = []
    with application.workers():
        for _ in range(3):
            letter = application.await_dead_letter()
            numbers.append(letter.number)
            application.await_empty()
            application.broker.dead_letters.requeue(letter)
        application.await_notes("end", "hopeless")
        application.await_empty()

    assert len(set(numbers)) == 3
    assert len(application.notes("start", "hopeless")) == 4
    assert not application.dead_letters()


def test_dead_letters_are_listed_and_purged_by_queue_and_actor(application: Application) -> None:
    for number in range(3):
        application.send(f"default {number}", "fail", max_retries=0)
        application.send(f"once {number}", "fail", actor="run_once")
    letters = application.broker.dead_letters
    with application.workers():
        eventually(lambda: len(application.dead_letters()) == len(application.dead_letters("once")) == 3, SOON)

    assert len(list(letters.list())) == 6
    assert [letter.queue_name for letter in letters.list(actor_name="run_once")] == ["once"] * 3
    assert len(list(letters.list(after=4))) == 2
    assert letters.purge("once") == 3
    assert letters.purge(actor_name="run") == 3
    assert letters.purge() == 0
    assert letters.get(1) is None


@pytest.mark.parametrize("step", [[], ["kill"]], ids=["by exceptions", "by crashes"])
def test_message_of_a_bound_stream_stays_there_and_a_dead_letter_points_at_it(
    application: Application, step: list[str]
) -> None:
    bound = {"stream": f"{application.broker.names.prefix}-B", "subject": f"{application.broker.names.prefix}.bound"}
    settings = {"consumer": "W", "actor": "run_bound", "ack_wait": ACK_WAIT, "max_deliver": 2}
    application.redeclare("bound", **bound, **settings)
    application.broker.setup()
    body = json.dumps({"key": "kept", "steps": step or ["fail"]}).encode()
    application.admin.store(bound["subject"], body)

    while not application.dead_letters("bound"):
        with application.workers() as workers:
            workers.wait_until(lambda: bool(application.dead_letters("bound")))

    [letter] = application.dead_letters("bound")
    assert letter.kept
    assert letter.attempts == 2
    assert (letter.stream, letter.sequence, letter.body) == (bound["stream"], 1, body)
    assert [message.body for message in application.admin.stored(bound["stream"])] == [body]
    assert len(application.notes("start", "kept")) == 2

    application.broker.dead_letters.requeue(letter)
    assert [message.body for message in application.admin.stored(bound["stream"])] == [
        json.dumps({"key": "kept", "steps": step or ["fail"]}, separators=(",", ":")).encode()
    ]
    assert not application.dead_letters("bound")
