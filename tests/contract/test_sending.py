"""Sending messages to actors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq import Message, Worker
from dramatiq.common import current_millis
from dramatiq.middleware import CurrentMessage

from tests.contract.helpers import DRAMATIQ_2, AnyBroker, StartWorker, dead_letter_count, finish


def test_sent_message_runs_its_actor_once(broker: AnyBroker, worker: Worker) -> None:
    ran: list[tuple[int, int]] = []

    @dramatiq.actor
    def note(x: int, y: int) -> None:
        ran.append((x, y))

    note.send(1, y=2)
    finish(broker, worker)

    assert ran == [(1, 2)]
    assert dead_letter_count(broker) == 0


def test_messages_sent_before_a_worker_starts_run_when_it_does(broker: AnyBroker, start_worker: StartWorker) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def note(number: int) -> None:
        ran.append(number)

    for number in range(100):
        note.send(number)
    finish(broker, start_worker())

    assert sorted(ran) == list(range(100))


@pytest.mark.skipif(not DRAMATIQ_2, reason="dramatiq 1 sorts what was prefetched by its message's fields")
def test_one_thread_runs_messages_in_the_order_they_were_sent(broker: AnyBroker, start_worker: StartWorker) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def note(number: int) -> None:
        ran.append(number)

    for number in range(20):
        note.send(number)
    finish(broker, start_worker(threads=1))

    assert ran == list(range(20))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**63,
        1.5,
        -1e300,
        "",
        "text",
        "grüße \U0001f600 \u2028 \x00 \r\n",
        [],
        [1, "two", None, [3.0]],
        {},
        {"key": {"nested": [1, 2]}, "": None},
        "x" * 100_000,
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:8]!a}",
)
def test_arguments_of_every_json_type_arrive_as_they_were_sent(
    broker: AnyBroker, worker: Worker, value: object
) -> None:
    received: list[tuple[object, object]] = []

    @dramatiq.actor
    def note(positional: object, *, keyword: object) -> None:
        received.append((positional, keyword))

    note.send(value, keyword=value)
    finish(broker, worker)

    assert received == [(value, value)]
    assert [type(part) for part in received[0]] == [type(value), type(value)]


def test_what_cannot_be_encoded_raises_at_send(broker: AnyBroker, worker: Worker) -> None:
    @dramatiq.actor
    def note(value: object) -> None:
        raise AssertionError("must not run")

    with pytest.raises(TypeError):
        note.send(object())
    finish(broker, worker)


def test_send_returns_the_message_that_runs(broker: AnyBroker, worker: Worker) -> None:
    ran: list[Message[Any] | None] = []

    @dramatiq.actor(queue_name="letters")
    def note(*args: int, **kwargs: int) -> None:
        ran.append(CurrentMessage.get_current_message())

    sent = note.send_with_options(args=(1,), kwargs={"two": 2}, color="red")
    finish(broker, worker, "letters")

    assert (sent.queue_name, sent.actor_name) == ("letters", "note")
    assert len(ran) == 1
    received = ran[0]
    assert received is not None
    assert received.message_id == sent.message_id
    assert received.message_timestamp == sent.message_timestamp
    assert (received.queue_name, received.actor_name) == ("letters", "note")
    assert (received.args, received.kwargs) == ((1,), {"two": 2})
    assert received.options == {"color": "red"}


def test_message_runs_only_once_it_is_enqueued(broker: AnyBroker, worker: Worker) -> None:
    ran: list[str] = []

    @dramatiq.actor
    def note(text: str) -> None:
        ran.append(text)

    message = note.message("built")
    note.send("sent")
    finish(broker, worker)
    assert ran == ["sent"]

    assert broker.enqueue(message) == message
    finish(broker, worker)
    assert ran == ["sent", "built"]


def test_same_message_enqueued_twice_runs_twice(broker: AnyBroker, worker: Worker) -> None:
    ran: list[str] = []

    @dramatiq.actor
    def note() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        ran.append(message.message_id)

    message = note.message()
    broker.enqueue(message)
    broker.enqueue(message)
    finish(broker, worker)

    assert ran == [message.message_id] * 2


@pytest.mark.parametrize("delay", [300, pytest.param(timedelta(milliseconds=300), id="timedelta")])
def test_delayed_message_does_not_run_early(broker: AnyBroker, worker: Worker, delay: Any) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def note() -> None:
        ran.append(current_millis())

    sent_at = current_millis()
    note.send_with_options(delay=delay)
    finish(broker, worker)

    assert len(ran) == 1
    assert ran[0] - sent_at >= 300


def test_delayed_messages_run_in_the_order_they_are_due(broker: AnyBroker, start_worker: StartWorker) -> None:
    ran: list[str] = []

    @dramatiq.actor
    def note(text: str) -> None:
        ran.append(text)

    note.send_with_options(args=("later",), delay=1_500)
    note.send_with_options(args=("sooner",), delay=200)
    note.send("now")
    finish(broker, start_worker())

    assert ran == ["now", "sooner", "later"]


def test_delayed_message_keeps_its_id_and_shows_its_eta_to_the_sender(broker: AnyBroker, worker: Worker) -> None:
    ran: list[str] = []

    @dramatiq.actor
    def note() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        assert "eta" not in message.options
        ran.append(message.message_id)

    before = current_millis()
    sent = note.send_with_options(delay=50)
    assert sent.options["eta"] >= before + 50
    finish(broker, worker)

    assert ran == [sent.message_id]


def test_zero_delay_runs_like_none(broker: AnyBroker, worker: Worker) -> None:
    ran: list[str] = []

    @dramatiq.actor
    def note(text: str) -> None:
        ran.append(text)

    note.send_with_options(args=("zero",), delay=0)
    finish(broker, worker)

    assert ran == ["zero"]


def test_actor_may_send_messages(broker: AnyBroker, worker: Worker) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def count_down(number: int) -> None:
        ran.append(number)
        if number:
            count_down.send(number - 1)

    count_down.send(5)
    finish(broker, worker)

    assert ran == [5, 4, 3, 2, 1, 0]


def test_actor_may_enqueue_its_own_message_again(broker: AnyBroker, worker: Worker) -> None:
    ran: list[str] = []

    @dramatiq.actor
    def again() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        ran.append(message.message_id)
        if len(ran) == 1:
            broker.enqueue(message, delay=50)

    sent = again.send()
    finish(broker, worker)

    assert ran == [sent.message_id] * 2


def test_called_actor_runs_here_and_now(broker: AnyBroker) -> None:
    @dramatiq.actor
    def add(x: int, y: int) -> int:
        return x + y

    assert add(1, 2) == 3
