"""Where the contract is stricter than dramatiq's: on JetStream the server counts the attempts."""

from __future__ import annotations

import threading

import dramatiq
import pytest
from dramatiq.middleware import CurrentMessage, Shutdown

from dramatiq_jetstream import JetStreamBroker
from tests.contract.helpers import (
    AnyBroker,
    StartWorker,
    dead_letter_count,
    finish,
    run_until_interrupted,
    wait_for,
)

pytestmark = pytest.mark.parametrize("broker", ["jetstream"], indirect=True)


@pytest.mark.parametrize("max_retries", [0, 2, 25])
def test_retries_are_redeliveries_of_one_stored_message(
    broker: AnyBroker, start_worker: StartWorker, max_retries: int
) -> None:
    counts: list[tuple[int, int, int]] = []

    @dramatiq.actor(max_retries=max_retries, min_backoff=1, max_backoff=1)
    def fail() -> None:
        assert isinstance(broker, JetStreamBroker)
        counts.append(broker.get_queue_message_counts("default"))
        raise RuntimeError("on purpose")

    fail.send()
    finish(broker, start_worker())

    assert counts == [(0, 0, 0)] * (max_retries + 1)
    assert dead_letter_count(broker) == 1


def test_attempts_left_by_one_worker_are_all_that_the_next_has(broker: AnyBroker, start_worker: StartWorker) -> None:
    failed = threading.Event()
    retries: list[int] = []

    @dramatiq.actor(max_retries=3, min_backoff=200, max_backoff=200)
    def fail() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        retries.append(message.options.get("retries", 0))
        failed.set()
        raise RuntimeError("on purpose")

    fail.send()
    first = start_worker()
    wait_for(failed)
    first.stop()
    finish(broker, start_worker())

    assert retries == [0, 1, 2, 3]
    assert dead_letter_count(broker) == 1


def test_prefetched_messages_go_back_without_losing_an_attempt(broker: AnyBroker, start_worker: StartWorker) -> None:
    started, release = threading.Event(), threading.Event()
    retries: dict[int, list[int]] = {number: [] for number in range(6)}

    @dramatiq.actor(max_retries=1, min_backoff=1, max_backoff=1)
    def fail(number: int) -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        retries[number].append(message.options.get("retries", 0))
        started.set()
        wait_for(release)
        raise RuntimeError("on purpose")

    for number in retries:
        fail.send(number)
    first = start_worker(threads=1, prefetch=8)
    wait_for(started)
    stopping = threading.Thread(target=first.stop)
    stopping.start()
    release.set()
    stopping.join()
    finish(broker, start_worker())

    assert retries == {number: [0, 1] for number in range(6)}
    assert dead_letter_count(broker) == 6


def test_message_interrupted_by_a_shutdown_runs_on_the_next_worker(
    broker: AnyBroker, start_worker: StartWorker
) -> None:
    started = threading.Event()
    ran: list[str] = []

    @dramatiq.actor(notify_shutdown=True, min_backoff=1, max_backoff=1)
    def resumable() -> None:
        if not started.is_set():
            started.set()
            try:
                run_until_interrupted()
            except Shutdown:
                ran.append("interrupted")
                raise
        ran.append("finished")

    resumable.send()
    first = start_worker(threads=1)
    wait_for(started)
    first.stop()
    finish(broker, start_worker())

    assert ran == ["interrupted", "finished"]


def test_delay_queues_are_none(broker: AnyBroker) -> None:
    broker.declare_queue("default")

    assert broker.get_declared_delay_queues() == set()
