"""Background tasks that fail: logged with a traceback and started again; a worker process that cannot go on ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import dramatiq
import pytest

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream.client import supervision
from dramatiq_jetstream.client.supervision import Supervisor
from dramatiq_jetstream.dead_letters import ExhaustedMessages, exhausted
from dramatiq_jetstream.deliveries import AttemptRecords, Puller
from dramatiq_jetstream.worker.fatal import EXIT_STATUS
from tests.support.admin import Admin
from tests.support.faults import SOON, Application
from tests.support.waiting import eventually
from tests.support.workers import run_worker, threads_alive

FAILURES = 3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "MIN_PAUSE", 5)
    monkeypatch.setattr(supervision, "MAX_PAUSE", 10)


def fail_first(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, times: int = FAILURES) -> list[str]:
    """Have a coroutine method raise in its first calls; the list grows with each call."""
    calls: list[str] = []
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def failing(self: Any, *arguments: Any) -> Any:
        calls.append(name)
        if len(calls) <= times:
            raise ValueError(f"{name} fails on purpose")
        return await original(self, *arguments)

    monkeypatch.setattr(owner, name, failing)
    return calls


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.levelno == logging.CRITICAL and record.exc_info]
    return [record.getMessage() for record in records]


@pytest.mark.parametrize("name", ["_watch", "_renew"])
def test_task_of_the_puller_that_fails_starts_again(
    broker: JetStreamBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    ran: list[int] = []

    @dramatiq.actor(broker=broker)
    def run(number: int) -> None:
        ran.append(number)

    calls = fail_first(monkeypatch, Puller, name)
    with run_worker(broker, threads=2) as worker:
        eventually(lambda: len(calls) > FAILURES, SOON, message="the restarts")
        run.send(1)
        eventually(lambda: ran == [1], SOON, message="the message")
        assert threads_alive(worker)

    said = [line for line in tracebacks(caplog) if "failed; it starts again in" in line]
    assert len(said) == FAILURES


def test_resumption_that_fails_starts_again(
    broker: JetStreamBroker, admin: Admin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []

    @dramatiq.actor(broker=broker)
    def run(number: int) -> None:
        ran.append(number)

    calls = fail_first(monkeypatch, Puller, "_reopen")
    with run_worker(broker, threads=1):
        run.send(1)
        eventually(lambda: ran == [1], SOON, message="the first message")
        admin.api(f"CONSUMER.DELETE.{broker.names.stream('default')}.{broker.names.consumer}")
        run.send(2)
        eventually(lambda: ran == [1, 2], SOON, message="the second message")

    assert len(calls) > FAILURES
    assert any("resumption of pulls of queue 'default' failed" in line for line in tracebacks(caplog))


def test_sweep_that_fails_for_one_queue_goes_on(
    broker: JetStreamBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exhausted, "SWEEP_INTERVAL", 0.05)
    calls = fail_first(monkeypatch, ExhaustedMessages, "_sweep")

    @dramatiq.actor(broker=broker)
    def run() -> None: ...

    with run_worker(broker, threads=1):
        eventually(lambda: len(calls) > 2 * FAILURES, SOON, message="more sweeps")

    assert tracebacks(caplog)


def test_recall_that_fails_gives_its_message_back(
    broker: JetStreamBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dramatiq_jetstream.deliveries.puller.RETURN_DELAY", 50)
    calls = fail_first(monkeypatch, AttemptRecords, "recall")
    runs: list[int] = []

    @dramatiq.actor(broker=broker, min_backoff=1, max_backoff=1)
    def run() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("not yet")

    run.send()
    with run_worker(broker, threads=1):
        eventually(lambda: len(runs) == 2, SOON, message="the second attempt")

    assert len(calls) == FAILURES + 1
    assert any("could not be passed on; it is delivered again" in line for line in tracebacks(caplog))


@pytest.mark.parametrize("method", ["admit", "undecodable", "knows"])
def test_error_in_handling_one_message_ends_no_thread(
    broker: JetStreamBroker, admin: Admin, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from dramatiq_jetstream.worker import QueueHandling

    original = getattr(QueueHandling, method)
    ran: list[Any] = []

    def failing(self: QueueHandling, message: Any, *arguments: Any) -> Any:
        name = getattr(message, "args", ["bad"])[0]
        if name == "bad":
            raise RecursionError("on purpose")
        return original(self, message, *arguments)

    monkeypatch.setattr(QueueHandling, method, failing)

    @dramatiq.actor(broker=broker)
    def run(name: Any) -> None:
        ran.append(name)

    broker.setup()
    subject = broker.names.work_subject("default", "run")
    for number in range(6):
        if method == "undecodable":
            admin.store(subject, b"\xff")
        else:
            run.send_with_options(args=("bad",), note=number)
    with run_worker(broker, threads=2) as worker:
        eventually(lambda: admin.count(broker.names.stream("default")) == 0, SOON, message="the end of all")
        for number in range(4):
            run.send(number)
        eventually(lambda: {0, 1, 2, 3} <= set(ran), SOON, message="the neighbours")
        assert threads_alive(worker)

    dead = list(broker.dead_letters.list()) if broker.names.dead_letters in admin.streams() else []
    assert len(dead) + ran.count("bad") == 6


@pytest.mark.parametrize("name", ["_watch", "_renew", "_sweep_for_ever"])
def test_worker_process_whose_task_fails_ten_times_in_a_row_ends_with_a_status_and_a_line(
    application: Application, name: str
) -> None:
    application.send("held", "hold")
    with application.workers(FAULTS_BREAK=name) as workers:
        said = f"This worker process cannot go on and ends with status {EXIT_STATUS}"
        workers.await_line(said)
        application.release()
        workers.wait()
        lines = workers.lines(said)
        status = workers.process.returncode

    assert status != 0
    assert len(lines) == 1
    assert "failed 10 times in a row" in lines[0]
    with application.workers():
        application.await_notes("end", "held")
        application.await_empty()


def test_process_that_only_sends_goes_on_when_a_task_fails_ten_times(
    nats_url: str, namespace: str, admin: Admin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dramatiq_jetstream.client.publisher import Publisher

    calls = fail_first(monkeypatch, Publisher, "watch", times=100)
    broker = JetStreamBroker(nats_url, namespace=namespace, queues={"default": WorkQueue()})

    @dramatiq.actor(broker=broker)
    def run() -> None: ...

    run.send()
    eventually(lambda: len(calls) == supervision.MAX_FAILURES, SOON, message="ten failures")
    run.send()
    broker.close()

    assert any("does not work any more" in record.getMessage() for record in caplog.records)
    assert admin.count(broker.names.stream("default")) == 2


def test_failures_that_are_far_apart_are_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "HEALTHY", 0.0)
    told: list[str] = []
    failures = 0

    async def work() -> None:
        nonlocal failures
        failures += 1
        if failures <= 3 * supervision.MAX_FAILURES:
            raise ValueError("on purpose")

    async def main() -> None:
        await Supervisor(told.append).keep("work", work)

    asyncio.run(main())

    assert failures == 3 * supervision.MAX_FAILURES + 1
    assert not told
