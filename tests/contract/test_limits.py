"""Age limits, time limits, and interruptions when a worker shuts down."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.common import current_millis
from dramatiq.middleware import Shutdown, TimeLimit, TimeLimitExceeded

from tests.contract.helpers import (
    AnyBroker,
    Recorder,
    StartWorker,
    dead_letter_count,
    finish,
    run_until_interrupted,
    wait_for,
)


@pytest.fixture(autouse=True)
def _watch_time_limits(broker: AnyBroker) -> Iterator[None]:
    """Start what enforces time limits, as dramatiq's processes do when they boot; it never ends."""
    [limiter] = [middleware for middleware in broker.middleware if isinstance(middleware, TimeLimit)]
    manager: Any = limiter.manager
    manager.interval = 0.02
    limiter.after_process_boot(broker)
    yield
    manager.interval = 3600


@pytest.mark.parametrize("of_message", [False, True])
def test_message_past_its_age_limit_is_dead_lettered_unrun(
    broker: AnyBroker, worker: Worker, recorder: Recorder, of_message: bool
) -> None:
    ran: list[int] = []

    @dramatiq.actor(max_age=None if of_message else 5_000)
    def note() -> None:
        ran.append(1)

    options: dict[str, Any] = {"max_age": 5_000} if of_message else {}
    message = note.message_with_options(**options).copy(message_timestamp=current_millis() - 6_000)
    broker.enqueue(message)
    finish(broker, worker)

    assert ran == []
    assert dead_letter_count(broker) == 1
    assert "after_skip_message" in recorder.of(message.message_id)


def test_message_within_its_age_limit_runs(broker: AnyBroker, worker: Worker) -> None:
    ran: list[int] = []

    @dramatiq.actor(max_age=60_000)
    def note() -> None:
        ran.append(1)

    note.send()
    finish(broker, worker)

    assert ran == [1]


def test_retry_past_the_age_limit_is_dead_lettered(broker: AnyBroker, worker: Worker) -> None:
    ran: list[int] = []

    @dramatiq.actor(max_age=300, min_backoff=800, max_backoff=800)
    def fail() -> None:
        ran.append(1)
        raise RuntimeError("on purpose")

    fail.send()
    finish(broker, worker)

    assert ran == [1]
    assert dead_letter_count(broker) == 1


@pytest.mark.parametrize("of_message", [False, True])
def test_message_past_its_time_limit_is_interrupted(broker: AnyBroker, worker: Worker, of_message: bool) -> None:
    interrupted: list[str] = []

    @dramatiq.actor(time_limit=600_000 if of_message else 50, max_retries=0)
    def endless() -> None:
        try:
            run_until_interrupted()
        except TimeLimitExceeded as error:
            interrupted.append(type(error).__name__)
            raise

    options: dict[str, Any] = {"time_limit": 50} if of_message else {}
    endless.send_with_options(**options)
    finish(broker, worker)

    assert interrupted == ["TimeLimitExceeded"]
    assert dead_letter_count(broker) == 1


def test_message_interrupted_at_its_time_limit_is_retried(broker: AnyBroker, worker: Worker) -> None:
    ran: list[int] = []

    @dramatiq.actor(time_limit=50, min_backoff=1, max_backoff=1)
    def slow_at_first() -> None:
        ran.append(1)
        if len(ran) == 1:
            run_until_interrupted()

    slow_at_first.send()
    finish(broker, worker)

    assert len(ran) == 2
    assert dead_letter_count(broker) == 0


@pytest.mark.parametrize("of_message", [False, True])
def test_running_message_is_told_of_the_shutdown(
    broker: AnyBroker, start_worker: StartWorker, of_message: bool
) -> None:
    started = threading.Event()
    told: list[str] = []

    @dramatiq.actor(notify_shutdown=not of_message)
    def endless() -> None:
        started.set()
        try:
            run_until_interrupted()
        except Shutdown as error:
            told.append(type(error).__name__)

    options: dict[str, Any] = {"notify_shutdown": True} if of_message else {}
    endless.send_with_options(**options)
    worker = start_worker(threads=1)
    wait_for(started)
    worker.stop()

    assert told == ["Shutdown"]


def test_running_message_that_asked_for_no_notice_is_finished_before_the_shutdown(
    broker: AnyBroker, start_worker: StartWorker
) -> None:
    started, release = threading.Event(), threading.Event()
    ran: list[int] = []

    @dramatiq.actor
    def slow() -> None:
        started.set()
        wait_for(release)
        ran.append(1)

    slow.send()
    worker = start_worker(threads=1)
    wait_for(started)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    release.set()
    stopping.join()

    assert ran == [1]
