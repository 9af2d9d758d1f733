"""Schedulers that enqueue: periodiq, dramatiq-crontab and APScheduler."""

from __future__ import annotations

import threading

import dramatiq
from apscheduler.schedulers.background import BackgroundScheduler
from dramatiq.middleware import Retries

from dramatiq_jetstream import JetStreamBroker, NatsServer
from tests.frameworks.conftest import ONE_WORKER, Start, await_line
from tests.frameworks.test_django import MANAGE
from tests.support.workers import run_worker


def test_periodiq_enqueues_and_its_middleware_lets_run(start: Start) -> None:
    worker = start("dramatiq", "tests.frameworks.apps.periodic", *ONE_WORKER)
    start("periodiq", "tests.frameworks.apps.periodic")

    await_line(worker, "a minute has passed")


def test_crontab_enqueues(start: Start) -> None:
    worker = start("python", *MANAGE, "rundramatiq", *ONE_WORKER)
    start("python", *MANAGE, "crontab", "--no-heartbeat")

    await_line(worker, "visitors counted")


def test_apscheduler_enqueues(server: NatsServer) -> None:
    broker = JetStreamBroker(server.url, namespace="apscheduler", middleware=[Retries()])
    ran = threading.Event()

    @dramatiq.actor(broker=broker)
    def tidy_up(folder: str) -> None:
        ran.set()

    scheduler = BackgroundScheduler()
    scheduler.add_job(tidy_up.send, "interval", args=("/srv/uploads",), seconds=1)
    scheduler.start()
    try:
        with run_worker(broker):
            assert ran.wait(20)
    finally:
        scheduler.shutdown()
        broker.close()
