"""Credentials that are taken back while they are in use: named in time, and work goes on once they are good again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
        eventually(lambda: "does not let us in" in why(application.send, "meanwhile"), SOON, message="a reason")
        with pytest.raises(AuthenticationFailed, match="check the user"):
            application.broker.get_queue_message_counts("default")
        workers.await_line("Authorization Violation")

        change(guarded, GOOD)
        application.send_until_stored("after")
        application.await_notes("end", "after")
        assert workers.is_running


def why(call: Callable[..., object], *args: str) -> str:
    """Why a call fails for want of a connection."""
    try:
        call(*args)
    except BrokerConnectionError as error:
        return str(error)
    return ""
