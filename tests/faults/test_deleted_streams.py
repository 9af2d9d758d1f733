"""Streams and consumers that are deleted under a worker: it says so, makes them anew and goes on."""

from __future__ import annotations

import pytest

from tests.support.faults import SOON, Application
from tests.support.waiting import eventually


@pytest.mark.parametrize("what", ["stream", "consumer"])
def test_worker_goes_on_after_a_deletion(application: Application, what: str) -> None:
    stream, consumer = application.broker.names.stream("default"), application.broker.names.consumer
    operations = {"stream": f"STREAM.DELETE.{stream}", "consumer": f"CONSUMER.DELETE.{stream}.{consumer}"}
    with application.workers() as workers:
        application.send("before")
        application.await_notes("end", "before")
        application.await_empty()
        application.admin.api(operations[what])
        eventually(lambda: workers.lines("Cannot consume"), SOON)

        application.send("after")
        application.await_notes("end", "after")
        application.await_empty()

        assert workers.is_running
        assert len([line for line in workers.lines("Cannot consume") if "CRITICAL" in line]) == 1


def test_dead_letters_and_records_that_are_deleted_are_made_anew(application: Application) -> None:
    names = application.broker.names
    with application.workers():
        application.send("first", "fail", actor="run_once")
        application.await_dead_letter("once")
        for stream in (names.dead_letters, names.advisories, f"KV_{names.bucket('attempts')}"):
            application.admin.api(f"STREAM.DELETE.{stream}")

        message = application.send("second", "fail", actor="run_once")
        letter = application.await_dead_letter("once")
        application.await_empty("once")

    assert letter.message_id == message.message_id
