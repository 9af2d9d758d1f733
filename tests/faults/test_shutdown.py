"""Signals: what has not started is back at once and unspent, what runs finishes."""

from __future__ import annotations

import signal
import threading
import time

import dramatiq
import pytest
from dramatiq import Worker

from tests.support.faults import SOON, Application, Workers
from tests.support.waiting import eventually

#: Seconds in which an idle worker is surely closed: several times what dramatiq's own polling takes,
#: and far below anything that waits for the network in vain.
IDLE_CLOSE = 8

#: Whether a worker runs what it holds in the order it came; dramatiq 1 keeps it on a heap.
IN_ORDER = not dramatiq.__version__.startswith("1.")


def fill(application: Application, workers: Workers, actor: str) -> list[str]:
    """Have a worker run one message, and hold five more that it has not started."""
    queue = actor.partition("_")[2] or "default"
    application.send("held", "hold", actor=actor)
    application.await_notes("start", "held")
    keys = [f"prefetched {number}" for number in range(5)]
    for key in keys:
        application.send(key, actor=actor)
    eventually(lambda: application.in_flight(queue) == 6, SOON, message="the prefetch")
    return keys


@pytest.mark.parametrize("actor", ["run", "run_once"])
def test_prefetched_messages_are_back_at_once_and_unspent_while_the_running_one_goes_on(
    application: Application, actor: str
) -> None:
    with application.workers(dramatiq_queue_prefetch="6") as first:
        keys = fill(application, first, actor)
        first.signal(signal.SIGTERM)
        with application.workers():
            ends = application.await_notes("end", *keys)
            assert first.is_running
            assert not application.notes("end", "held")
            application.release()
            assert first.wait() == 0
            application.await_empty(actor.partition("_")[2] or "default")

    starts = [note for note in application.notes("start") if note.key != "held"]
    assert sorted(note.key for note in starts) == keys
    if IN_ORDER:
        assert [note.key for note in starts] == keys
    assert [note.options.get("retries", 0) for note in starts] == [0] * 5
    assert {end.pid for end in ends}.isdisjoint(first.pids)
    [held] = application.notes("end", "held")
    assert held.pid in first.pids


def test_interrupt_is_a_shutdown_too(application: Application) -> None:
    with application.workers(dramatiq_queue_prefetch="6") as first:
        keys = fill(application, first, "run")
        first.signal(signal.SIGINT)
        with application.workers():
            application.await_notes("end", *keys)
            application.release()
            assert first.wait() == 0
            application.await_empty()

    assert all(note.options.get("retries", 0) == 0 for note in application.notes("start"))
    assert len(application.notes("end")) == 6


def test_reload_finishes_what_runs_and_goes_on_with_new_workers(application: Application) -> None:
    with application.workers(dramatiq_queue_prefetch="6") as workers:
        keys = fill(application, workers, "run")
        [old] = workers.pids
        workers.signal(signal.SIGHUP)
        workers.await_line("Shutting down")
        application.release()
        application.await_notes("end", "held", *keys)
        application.await_empty()

    assert [note.pid == old for note in application.notes("start")] == [True] + [False] * 5
    assert all(note.options.get("retries", 0) == 0 for note in application.notes("start"))


def test_idle_worker_and_broker_close_in_no_time(application: Application) -> None:
    ran = threading.Event()
    dramatiq.actor(broker=application.broker, actor_name="run", max_retries=3)(lambda key: ran.set())
    worker = Worker(application.broker, worker_timeout=50, worker_threads=2)
    worker.start()
    application.send("only")
    assert ran.wait(SOON / 1000)
    application.await_empty()

    begun = time.monotonic()
    worker.stop()
    application.broker.close()
    assert time.monotonic() - begun < IDLE_CLOSE


def test_full_queue_that_takes_nothing_back_does_not_stop_the_shutdown(application: Application) -> None:
    application.redeclare("once", max_msgs=6, discard="new")
    with application.workers(dramatiq_queue_prefetch="6") as first:
        keys = fill(application, first, "run_once")
        first.signal(signal.SIGTERM)
        first.await_line("Shutting down")
        application.release()
        assert first.wait() == 0, first.log
        assert application.notes("end", "held")

    with application.workers():
        application.await_empty("once")
    dead = {letter.message_id for letter in application.dead_letters("once")}
    assert len(dead) + len(application.notes("end")) == 1 + len(keys)
