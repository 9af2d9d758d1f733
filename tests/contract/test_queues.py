"""Several queues, and emptying and joining them."""

from __future__ import annotations

import threading

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.errors import QueueJoinTimeout

from tests.contract.helpers import AnyBroker, StartWorker, dead_letter_count, finish, join, wait_for


def test_messages_to_several_queues_run_their_own_actors(broker: AnyBroker, worker: Worker) -> None:
    ran: dict[str, list[int]] = {"one": [], "two": [], "with.dots_and-dashes": []}

    def note(queue_name: str, number: int) -> None:
        ran[queue_name].append(number)

    actors = {name: dramatiq.actor(actor_name=f"note-{name}", queue_name=name)(note) for name in ran}
    for number in range(10):
        for name, actor in actors.items():
            actor.send(name, number)
    finish(broker, worker, *ran)

    assert {name: sorted(numbers) for name, numbers in ran.items()} == {name: list(range(10)) for name in ran}


def test_two_actors_share_a_queue(broker: AnyBroker, worker: Worker) -> None:
    ran: list[tuple[str, int]] = []

    @dramatiq.actor
    def one(number: int) -> None:
        ran.append(("one", number))

    @dramatiq.actor(actor_name="any name: with . * > and ü")
    def two(number: int) -> None:
        ran.append(("two", number))

    for number in range(5):
        one.send(number)
        two.send(number)
    finish(broker, worker)

    assert sorted(ran) == [(name, number) for name in ("one", "two") for number in range(5)]


def test_worker_of_one_queue_leaves_the_others_alone(broker: AnyBroker) -> None:
    ran: list[str] = []

    @dramatiq.actor(queue_name="mine")
    def mine() -> None:
        ran.append("mine")

    @dramatiq.actor(queue_name="other")
    def other() -> None:
        ran.append("other")

    worker = Worker(broker, queues={"mine"}, worker_timeout=20, worker_threads=1)
    worker.start()
    try:
        other.send()
        mine.send()
        finish(broker, worker, "mine")
    finally:
        worker.stop()

    assert ran == ["mine"]


def test_slow_queue_does_not_hold_up_another(broker: AnyBroker, worker: Worker) -> None:
    release, ran = threading.Event(), threading.Event()

    @dramatiq.actor(queue_name="slow")
    def slow() -> None:
        wait_for(release)

    @dramatiq.actor(queue_name="quick")
    def quick() -> None:
        ran.set()

    slow.send()
    quick.send()
    wait_for(ran)
    release.set()
    finish(broker, worker, "slow", "quick")


def test_join_waits_for_what_still_runs(broker: AnyBroker, worker: Worker) -> None:
    started, release, joined = threading.Event(), threading.Event(), threading.Event()

    @dramatiq.actor
    def slow() -> None:
        started.set()
        wait_for(release)

    def join_here() -> None:
        join(broker)
        joined.set()

    slow.send()
    wait_for(started)
    with pytest.raises(QueueJoinTimeout):
        join(broker, timeout=100)
    joining = threading.Thread(target=join_here)
    joining.start()
    release.set()
    joining.join()

    assert joined.is_set()
    worker.join()


def test_join_of_a_queue_that_nobody_works_on_times_out(broker: AnyBroker) -> None:
    @dramatiq.actor
    def idle() -> None: ...

    idle.send()

    with pytest.raises(QueueJoinTimeout):
        join(broker, timeout=50)


def test_join_waits_for_delayed_messages(broker: AnyBroker) -> None:
    @dramatiq.actor
    def idle() -> None: ...

    idle.send_with_options(delay=60_000)

    with pytest.raises(QueueJoinTimeout):
        join(broker, timeout=50)


def test_join_of_a_queue_that_was_never_used_returns(broker: AnyBroker) -> None:
    broker.declare_queue("unused")

    join(broker, "unused")


def test_flush_drops_the_messages_of_one_queue(broker: AnyBroker, start_worker: StartWorker) -> None:
    ran: list[str] = []

    @dramatiq.actor(queue_name="flushed")
    def flushed() -> None:
        ran.append("flushed")

    @dramatiq.actor(queue_name="kept")
    def kept() -> None:
        ran.append("kept")

    flushed.send()
    kept.send()
    broker.flush("flushed")
    finish(broker, start_worker(), "flushed", "kept")

    assert ran == ["kept"]


def test_flush_of_a_queue_that_was_never_used_does_nothing(broker: AnyBroker) -> None:
    broker.declare_queue("unused")

    broker.flush("unused")


def test_flush_all_drops_every_message_delayed_ones_and_dead_letters_too(
    broker: AnyBroker, start_worker: StartWorker
) -> None:
    ran: list[str] = []

    @dramatiq.actor(queue_name="one", max_retries=0)
    def fail() -> None:
        raise RuntimeError("on purpose")

    @dramatiq.actor(queue_name="two")
    def note() -> None:
        ran.append("two")

    fail.send()
    worker = start_worker()
    finish(broker, worker, "one")
    worker.stop()
    assert dead_letter_count(broker, "one") == 1

    fail.send()
    note.send()
    note.send_with_options(delay=100)
    broker.flush_all()
    finish(broker, start_worker(), "one", "two")

    assert ran == []
    assert dead_letter_count(broker, "one") == 0


def test_queue_is_usable_after_a_flush(broker: AnyBroker, worker: Worker) -> None:
    ran: list[int] = []

    @dramatiq.actor
    def note(number: int) -> None:
        ran.append(number)

    note.send(1)
    finish(broker, worker)
    broker.flush("default")
    note.send(2)
    finish(broker, worker)

    assert ran == [1, 2]


def test_messages_that_a_stopped_worker_left_run_on_the_next(broker: AnyBroker, start_worker: StartWorker) -> None:
    started, release = threading.Event(), threading.Event()
    ran: list[int] = []

    @dramatiq.actor
    def note(number: int) -> None:
        started.set()
        wait_for(release)
        ran.append(number)

    note.send(1)
    first = start_worker(threads=1)
    wait_for(started)
    release.set()
    finish(broker, first)
    first.stop()
    note.send(2)
    finish(broker, start_worker(threads=1))

    assert ran == [1, 2]
