"""Applications to be broken: on the run's server, on one of their own, and behind a breakable link."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dramatiq_jetstream import NatsServer
from tests.support.admin import Admin
from tests.support.faults import Application


@pytest.fixture
def application(nats_url: str, namespace: str, tmp_path: Path, admin: Admin) -> Iterator[Application]:
    """The application on the run's server."""
    with Application(nats_url, namespace, tmp_path) as application:
        yield application


@pytest.fixture
def own_server() -> Iterator[NatsServer]:
    """A server that a test may kill."""
    with NatsServer() as server:
        yield server


@pytest.fixture
def own_application(own_server: NatsServer, namespace: str, tmp_path: Path) -> Iterator[Application]:
    """The application on a server that a test may kill."""
    with Application(own_server.url, namespace, tmp_path) as application:
        yield application
