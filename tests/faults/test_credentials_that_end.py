"""Credentials that are taken back while they are in use: named in time, and work goes on once they are good again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dramatiq_jetstream import NatsServer
from dramatiq_jetstream.errors import AuthenticationFailed, BrokerConnectionError
from tests.support.faults import SOON, Application
from tests.support.waiting import eventually

GOOD = "authorization { users: [{user: app, password: good}] }"
CHANGED = "authorization { users: [{user: app, password: changed}] }"


@pytest.fixture
def guarded() -> Iterator[NatsServer]:
    """A server that asks for a password."""
    with NatsServer(config=GOOD) as server:
        yield server


def change(server: NatsServer, config: str) -> None:
    server.config = config
    server.restart()


def test_password_that_was_changed_is_named_and_restored_lets_all_go_on(
    guarded: NatsServer, namespace: str, tmp_path: Path
) -> None:
    url = f"nats://app:good@127.0.0.1:{guarded.port}"
    with Application(url, namespace, tmp_path, timeout=2_000) as application, application.workers() as workers:
        application.send("before")
        application.await_notes("end", "before")
        change(guarded, CHANGED)
        eventually(lambda: is_denied(application), SOON, message="an error that names the credentials")
        workers.await_line("Authorization Violation")

        change(guarded, GOOD)
        application.send_until_stored("after")
        application.await_notes("end", "after")
        assert workers.is_running


def is_denied(application: Application) -> bool:
    """Whether a send says that the credentials are refused."""
    try:
        application.send("meanwhile")
    except AuthenticationFailed:
        return True
    except BrokerConnectionError:
        return False
    return False
