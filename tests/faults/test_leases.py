"""Leases: held as long as a worker lives and works, and no longer."""

from __future__ import annotations

import itertools
import os
import signal
import threading

import dramatiq
import pytest

from dramatiq_jetstream.deliveries import actor_options
from tests.support.faults import ACK_WAIT, SOON, Application
from tests.support.waiting import eventually
from tests.support.workers import run_worker


def test_call_into_c_that_outlasts_the_lease_runs_once(application: Application) -> None:
    application.send("busy", f"block:{3 * ACK_WAIT}")
    with application.workers(), application.workers():
        application.await_notes("end", "busy")
        application.await_empty()

    assert len(application.notes("start", "busy")) == 1


def test_prefetched_message_that_waits_longer_than_its_lease_is_not_delivered_twice(application: Application) -> None:
    application.send("busy", f"block:{3 * ACK_WAIT}")
    with application.workers(dramatiq_queue_prefetch="3"):
        application.await_notes("start", "busy")
        application.send("waiting")
        eventually(lambda: application.in_flight() == 2, SOON, message="the prefetch")
        with application.workers():
            application.await_notes("end", "busy", "waiting")
            application.await_empty()

    assert application.deliveries() == 2


def test_frozen_worker_whose_message_ran_elsewhere_goes_on_when_it_wakes(application: Application) -> None:
    application.send("frozen", "freeze")
    with application.workers() as one, application.workers() as other:
        eventually(lambda: len(application.notes("start", "frozen")) == 2, SOON, message="the second attempt")
        first, second = application.notes("start", "frozen")
        application.await_notes("end", "frozen")
        os.kill(first.pid, signal.SIGCONT)
        eventually(lambda: len(application.notes("end", "frozen")) == 2, SOON, message="the frozen worker's end")
        application.await_empty()

        def both_work() -> bool:
            application.send(f"message {next(numbers)}", "block:50")
            ends = [note for note in application.notes("end") if note.key != "frozen"]
            return {end.pid for end in ends} == {first.pid, second.pid}

        numbers = itertools.count()
        eventually(both_work, SOON, message="messages that both run")
        assert one.is_running
        assert other.is_running
        application.await_empty()

    assert first.pid != second.pid
    assert not application.dead_letters()


def test_thread_stuck_beyond_its_time_limit_and_grace_loses_its_message(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_options, "LEASE_GRACE", 0.1)
    begun, unstuck = threading.Event(), threading.Event()

    @dramatiq.actor(broker=application.broker, actor_name="run", max_retries=3, time_limit=100)
    def run(key: str) -> None:
        begun.set()
        # An exception reaches a thread between two steps of Python only; this is one.
        unstuck.wait()

    application.send("stuck")
    with run_worker(application.broker, threads=1):
        assert begun.wait(SOON / 1000)
        with application.workers():
            [end] = application.await_notes("end", "stuck")
        unstuck.set()
        application.await_empty()

    assert application.notes("start", "stuck")[0].pid == end.pid


def test_lease_ends_only_after_the_grace(application: Application) -> None:
    released = threading.Event()
    runs = []

    @dramatiq.actor(broker=application.broker, actor_name="run", max_retries=3, time_limit=100)
    def run(key: str) -> None:
        runs.append(key)
        released.wait()

    application.send("long")
    with run_worker(application.broker, threads=1), application.workers():
        eventually(lambda: runs, SOON)
        assert not threading.Event().wait(2 * ACK_WAIT / 1000)
        assert application.deliveries() == 1
        released.set()
        application.await_empty()

    assert not application.notes("start")
