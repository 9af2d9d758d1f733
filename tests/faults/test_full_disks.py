"""A server without room: a producer is told so at once, what is stored stays, and work makes room again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dramatiq_jetstream import NatsServer
from dramatiq_jetstream.errors import EnqueueRejected
from tests.support.faults import SOON, Application
from tests.support.waiting import eventually

#: Bytes that the server may store, and that each message has beside its key.
ROOM, PADDING = 4_000_000, 200_000


@pytest.fixture
def small(namespace: str, tmp_path: Path) -> Iterator[Application]:
    """The application on a server with room for a few messages."""
    config = f'jetstream {{ store_dir: "{tmp_path}/store", max_file_store: {ROOM} }}'
    with NatsServer(config=config) as server, Application(server.url, namespace, tmp_path) as application:
        application.broker.setup()
        yield application


def fill(application: Application) -> list[str]:
    """Send until the server refuses, and says why; the keys that it took."""
    taken: list[str] = []
    refusal = None
    while refusal is None and len(taken) < 2 * ROOM / PADDING:
        key = f"message {len(taken)}"
        refusal = refused(application, key)
        taken += [] if refusal else [key]
    assert refusal is not None
    assert "queue 'default'" in str(refusal)
    assert "insufficient" in str(refusal), refusal
    return taken


def refused(application: Application, key: str) -> EnqueueRejected | None:
    """Send a large message; why the server did not take it, if so."""
    try:
        application.send(key, padding="x" * PADDING)
    except EnqueueRejected as error:
        return error
    return None


def test_full_disk_is_named_and_nothing_that_was_stored_is_lost(small: Application) -> None:
    small.send("fails", "fail", max_retries=0)
    taken = fill(small)

    assert small.stored() == len(taken) + 1
    with small.workers():
        small.await_notes("end", *taken)
        letter = small.await_dead_letter()
        small.await_empty()
        eventually(lambda: refused(small, "afterwards") is None, SOON, message="room")
        small.await_notes("end", "afterwards")

    # Without room nothing remembers that it was only given back, so it may run once more.
    assert letter.reason == "retries exhausted"
    assert letter.attempts == len(small.notes("start", "fails"))
    assert len(small.dead_letters()) == 1
