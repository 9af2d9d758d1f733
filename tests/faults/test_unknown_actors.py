"""Messages whose actor a worker does not know, as during a deployment: others may, and nothing is spent meanwhile."""

from __future__ import annotations

from tests.support.faults import SOON, Application
from tests.support.waiting import eventually


def test_message_waits_for_a_worker_of_the_other_version(application: Application) -> None:
    application.send("new", actor="run_new")
    with application.workers() as old:
        eventually(lambda: old.lines("does not know the actor 'run_new'"), SOON)
        # It goes round several times; the log says so once.
        eventually(lambda: application.deliveries() >= 3, SOON)
        assert len(old.lines("does not know the actor 'run_new'")) == 1
        application.send("old")
        application.await_notes("end", "old")
        with application.workers(FAULTS_VERSION="new") as new:
            [end] = application.await_notes("end", "new")
            application.await_empty()
            assert end.pid in new.pids

    [start] = application.notes("start", "new")
    assert start.options.get("retries", 0) == 0
    assert not application.dead_letters()


def test_message_that_no_worker_knows_is_a_dead_letter_after_the_grace(application: Application) -> None:
    application.configure(unknown_actor_grace=1_000)
    message = application.send("new", actor="run_new")
    with application.workers() as workers:
        letter = application.await_dead_letter()
        application.await_empty()

        assert workers.lines("does not know the actor")
    assert letter.reason == "unknown actor"
    assert letter.message_id == message.message_id
    assert letter.exception is not None
    assert letter.exception.endswith("ActorNotFound")
    assert letter.failed_at - message.message_timestamp >= 1_000
    assert len(application.dead_letters()) == 1


def test_without_grace_it_is_a_dead_letter_at_once(application: Application) -> None:
    application.configure(unknown_actor_grace=0)
    application.send("new", actor="run_new")
    with application.workers() as workers:
        letter = application.await_dead_letter()
        application.await_empty()
        assert not workers.lines("leaving it to others")

    assert letter.reason == "unknown actor"
