"""Brokers and workers for the contract: what dramatiq's StubBroker does, ours does too."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from dramatiq import Middleware, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import CurrentMessage, default_middleware

from dramatiq_jetstream import JetStreamBroker
from tests.contract.backends import limits, results
from tests.contract.helpers import AnyBroker, Recorder, StartWorker

__all__ = ["limits", "results"]


def make_middleware() -> list[Middleware]:
    """dramatiq's defaults; dramatiq 1 counts Prometheus among them, which only works in its own processes."""
    return [kind() for kind in default_middleware if kind.__name__ != "Prometheus"]


def make_jetstream_broker(url: str) -> JetStreamBroker:
    return JetStreamBroker(
        url, middleware=make_middleware(), namespace=f"contract-{uuid4().hex}", unknown_actor_grace=0
    )


@pytest.fixture(params=["stub", "jetstream"])
def broker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[AnyBroker]:
    """A broker with nothing in it, also the global one, so that actors are declared on it."""
    broker: AnyBroker = (
        StubBroker(middleware=make_middleware())
        if request.param == "stub"
        else make_jetstream_broker(request.getfixturevalue("nats_url"))
    )
    broker.add_middleware(CurrentMessage())
    monkeypatch.setattr("dramatiq.broker.global_broker", broker)
    yield broker
    broker.close()


@pytest.fixture
def recorder(broker: AnyBroker) -> Recorder:
    """Notes which signals the middleware receives."""
    recorder = Recorder()
    broker.add_middleware(recorder)
    return recorder


@pytest.fixture
def start_worker(broker: AnyBroker) -> Iterator[StartWorker]:
    """Starts workers, which are stopped when the test ends."""
    workers = []

    def start(threads: int = 4, prefetch: int | None = None) -> Worker:
        worker = Worker(broker, worker_timeout=20, worker_threads=threads)
        worker.queue_prefetch = prefetch or worker.queue_prefetch
        worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.stop()


@pytest.fixture
def worker(start_worker: StartWorker) -> Worker:
    """A running worker; it consumes each queue as soon as a test declares it."""
    return start_worker()
