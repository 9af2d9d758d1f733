"""Fixtures that every set of tests shares. A missing nats-server fails the tests; it never skips them."""

from __future__ import annotations

import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dramatiq_jetstream import JetStreamBroker, NatsServer
from tests.support.admin import Admin
from tests.support.processes import kill, mark, marked
from tests.support.proxy import Proxy
from tests.support.waiting import eventually

#: Milliseconds in which what tests have ended must be gone.
ENDING = 60_000

#: Pillow 13, which the image service needs, does not exist for Python 3.10.
collect_ignore: list[str] = []
if sys.version_info < (3, 11):
    collect_ignore += [f"unit/test_image{name}.py" for name in ("s", "_advisories", "_paths", "_progress")]
    collect_ignore += [
        f"server/test_bw_tasks{name}.py" for name in ("", "_cli", "_processes", "_screens", "_without_pillow")
    ]


@pytest.fixture(scope="session", autouse=True)
def audible_signals() -> Iterator[None]:
    """Have the processes that tests start hear what nohup, or a shell's background, has this one ignore."""
    ignored = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        # What is ignored stays so in a process that is started; what is handled does not.
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session", autouse=True)
def no_process_outlives_the_tests() -> Iterator[None]:
    """Fail the run when a test leaves a process behind, which goes on with what the next tests make."""
    value = mark()
    yield
    try:
        eventually(lambda: not marked(value), ENDING)
    except AssertionError:
        left = marked(value)
        for pid in left:
            kill(pid)
        pytest.fail(f"tests left processes behind: {left}")


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """One server for the whole run. A test that stops, kills or restarts a server starts its own."""
    with NatsServer() as server:
        yield server


@pytest.fixture(scope="session")
def nats_url(nats_server: NatsServer) -> str:
    return nats_server.url


@pytest.fixture
def proxy(nats_server: NatsServer) -> Iterator[Proxy]:
    """A breakable link to the server of the run."""
    with Proxy(nats_server.port) as proxy:
        yield proxy


@pytest.fixture
def admin(nats_url: str, nats_server: NatsServer) -> Iterator[Admin]:
    """A plain client of the run's server, which loses every stream made meanwhile when the test ends."""
    with Admin(nats_url) as admin:
        before = set(admin.streams())
        yield admin
        # The server renames a deleted stream's folder and removes it later.  While one of that name is left it cannot
        # rename the next, and says that it deleted the stream, but the next stream of that name has its messages.
        eventually(lambda: not deleted_folders(nats_server.store_path), message="the end of what was deleted earlier")
        for stream in set(admin.streams()) - before:
            admin.ask(f"STREAM.DELETE.{stream}")


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def broker(nats_url: str, namespace: str, admin: Admin) -> Iterator[JetStreamBroker]:
    """A broker on the run's server, as patient as a busy machine needs it."""
    broker = JetStreamBroker(nats_url, namespace=namespace, timeout=60_000)
    yield broker
    broker.close()


def deleted_folders(store: Path) -> list[Path]:
    """The folders of deleted streams that the server has yet to remove."""
    return list(store.glob("jetstream/*/streams/.*"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the soak tests out of every run that does not name them."""
    if "soak" not in config.getoption("markexpr"):
        left_out = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
