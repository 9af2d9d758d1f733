"""flask-dramatiq: an application factory, with the server from its configuration or from the environment."""

from __future__ import annotations

import pytest

from dramatiq_jetstream import JetStreamBroker, NatsServer
from tests.frameworks.conftest import Start, await_line

SEND = """
from tests.frameworks.apps.flask_site import create_app, greet
create_app(**{config})
greet.send("{name}")
"""

FACTORY = ("--app", "tests.frameworks.apps.flask_site:create_app()")


def test_worker_runs_actors_within_the_application(start: Start, server: NatsServer) -> None:
    worker = start("flask", *FACTORY, "worker", "--processes", "1", "--threads", "2")
    await_line(worker, "ready for action")
    start("python", "-c", SEND.format(config={}, name="environment"))
    await_line(worker, "Hello, environment!")
    configured = {"DRAMATIQ_BROKER_URL": server.url}
    start("python", "-c", SEND.format(config=configured, name="configuration"), NATS_URL="nats://127.0.0.1:1")
    await_line(worker, "Hello, configuration!")

    assert worker.stop() == 0, worker.log


@pytest.mark.parametrize("url", [None, "nats://127.0.0.1:1"])
def test_broker_takes_what_the_extension_gives_it(url: str | None) -> None:
    assert JetStreamBroker(url=url, middleware=[]).settings.url == url
