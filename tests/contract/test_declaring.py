"""Declaring queues and actors, and looking them up."""

from __future__ import annotations

import dramatiq
import pytest
from dramatiq import Message, Worker
from dramatiq.errors import ActorNotFound, QueueNotFound

from tests.contract.helpers import AnyBroker, dead_letter_count, finish, join


def test_declaring_an_actor_declares_its_queue(broker: AnyBroker) -> None:
    @dramatiq.actor(queue_name="first")
    def one() -> None: ...

    @dramatiq.actor(queue_name="second", actor_name="named")
    def two() -> None: ...

    # The StubBroker counts its delay queues among them.
    assert broker.get_declared_queues() - broker.get_declared_delay_queues() == {"first", "second"}
    assert broker.get_declared_actors() == {"one", "named"}


def test_declared_queues_are_a_copy(broker: AnyBroker) -> None:
    broker.declare_queue("first")
    broker.get_declared_queues().add("second")

    assert "second" not in broker.get_declared_queues()


def test_queue_may_be_declared_twice(broker: AnyBroker, worker: Worker) -> None:
    broker.declare_queue("default")
    broker.declare_queue("default")
    ran: list[int] = []

    @dramatiq.actor
    def note() -> None:
        ran.append(1)

    note.send()
    finish(broker, worker)

    assert ran == [1]


def test_get_actor_finds_a_declared_actor(broker: AnyBroker) -> None:
    @dramatiq.actor
    def known() -> None: ...

    assert broker.get_actor("known") is known


def test_get_actor_of_an_undeclared_one_raises_actor_not_found(broker: AnyBroker) -> None:
    with pytest.raises(ActorNotFound):
        broker.get_actor("unknown")


def test_option_that_no_middleware_knows_is_refused(broker: AnyBroker) -> None:
    with pytest.raises(ValueError, match="made_up_option"):
        dramatiq.actor(made_up_option=1)(lambda: None)


def test_consuming_an_undeclared_queue_raises_queue_not_found(broker: AnyBroker) -> None:
    with pytest.raises(QueueNotFound):
        broker.consume("undeclared")


def test_joining_an_undeclared_queue_raises_queue_not_found(broker: AnyBroker) -> None:
    with pytest.raises(QueueNotFound):
        join(broker, "undeclared")


def test_message_for_an_unknown_actor_is_dead_lettered_and_its_neighbours_run(
    broker: AnyBroker, worker: Worker
) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def known(number: int) -> None:
        ran.append(number)

    known.send(1)
    broker.enqueue(Message(queue_name="default", actor_name="unknown", args=(), kwargs={}, options={}))
    known.send(2)
    finish(broker, worker)

    assert sorted(ran) == [1, 2]
    assert dead_letter_count(broker) == 1


def test_actor_declared_while_the_worker_runs_gets_its_messages(broker: AnyBroker, worker: Worker) -> None:
    ran: list[str] = []

    @dramatiq.actor
    def first() -> None:
        ran.append("first")

    first.send()
    finish(broker, worker)

    @dramatiq.actor
    def second() -> None:
        ran.append("second")

    @dramatiq.actor(queue_name="other")
    def third() -> None:
        ran.append("third")

    second.send()
    finish(broker, worker)
    third.send()
    finish(broker, worker, "other")

    assert ran == ["first", "second", "third"]
