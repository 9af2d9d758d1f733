"""Retries in another process than the one that failed: nothing that dramatiq promises an attempt is missing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.faults import SOON, Application
from tests.support.waiting import eventually


def records_of(application: Application) -> str:
    """The stream of the attempts' records."""
    return f"KV_{application.broker.names.bucket('attempts')}"


def remembered(application: Application) -> bool:
    """Whether what a failed attempt left is stored."""
    stream = records_of(application)
    return stream in application.admin.streams() and application.admin.count(stream) > 0


def test_attempt_in_another_process_sees_what_the_failed_one_left(application: Application) -> None:
    application.send("elsewhere", "fail:1", min_backoff=3_000, max_backoff=3_000)
    with application.workers() as first:
        application.await_notes("start", "elsewhere")
        eventually(lambda: remembered(application), SOON, message="the record of the attempt")
        first.kill()
    with application.workers():
        [end] = application.await_notes("end", "elsewhere")
        application.await_empty()

    one, other = application.notes("start", "elsewhere")
    assert one.pid != other.pid == end.pid
    assert other.options["retries"] == 1
    assert "elsewhere fails on purpose" in other.options["traceback"]
    assert other.options["requeue_timestamp"] >= one.at * 1000
    assert other.options["witness"] == "attempt 0"


def test_attempt_runs_and_is_counted_although_nothing_is_remembered(application: Application) -> None:
    application.send("forgotten", "fail:1", min_backoff=3_000, max_backoff=3_000)
    with application.workers() as first:
        eventually(lambda: remembered(application), SOON, message="the record of the attempt")
        first.kill()
    application.admin.api(f"STREAM.DELETE.{records_of(application)}")
    with application.workers():
        application.await_notes("end", "forgotten")
        application.await_empty()

    again = application.notes("start", "forgotten")[1]
    assert again.options["retries"] == 1
    assert "traceback" not in again.options


@pytest.mark.parametrize(
    ("actor", "options", "fails", "runs"),
    [
        ("run", {"max_retries": 6}, 100, 7),
        ("run", {"max_retries": 1}, 100, 2),
        ("run", {"max_retries": 0}, 100, 1),
        ("run", {"max_retries": None}, 7, 8),
        ("run_tight", {}, 100, 6),
        ("run_endless", {}, 25, 26),
        ("run_picky", {}, 100, 25),
    ],
    ids=["more than the queue's", "fewer", "none", "no limit", "smaller max_deliver", "endless", "retry_when"],
)
def test_message_runs_as_often_as_its_retries_allow_and_stays_one(
    application: Application, actor: str, options: dict[str, Any], fails: int, runs: int
) -> None:
    queue = actor.partition("_")[2] or "default"
    message = application.send("stubborn", f"fail:{fails}", actor=actor, min_backoff=1, max_backoff=1, **options)
    with application.workers(), application.workers():
        eventually(lambda: len(application.notes("start")) == runs, SOON, message="the last run")
        application.await_empty(queue)

    starts = application.notes("start", "stubborn")
    assert [start.options.get("retries", 0) for start in starts] == list(range(runs))
    assert all("fails on purpose" in start.options["traceback"] for start in starts[1:])
    if application.notes("end"):
        assert not application.dead_letters(queue)
    else:
        [letter] = application.dead_letters(queue)
        assert (letter.reason, letter.attempts, letter.message_id) == ("retries exhausted", runs, message.message_id)


def test_crash_between_copy_and_removal_leaves_one_message(application: Application) -> None:
    application.send("copied", "fail:4", actor="run_tight")
    with application.workers(FAULTS_DIE_BETWEEN="copy") as first:
        first.wait()
    with application.workers():
        application.await_notes("end", "copied")
        application.await_empty("tight")

    assert len(application.notes("end", "copied")) == 1
    assert not application.dead_letters("tight")


def test_copy_waits_for_a_stream_that_does_not_answer_yet(application: Application) -> None:
    application.configure(timeout=SOON)
    application.send("copied", "hold", "fail:4", actor="run_tight")
    stream = application.broker.names.stream("tight")
    config = application.admin.stream(stream)["config"]
    deaf = [subject for subject in config["subjects"] if "delayed" not in subject]
    with application.workers():
        application.await_notes("start", "copied")
        application.admin.api(f"STREAM.UPDATE.{stream}", {**config, "subjects": deaf})
        application.release()
        eventually(lambda: len(application.notes("start")) == 2, SOON, message="the last run before the copy")
        # Nothing tells that the copy was refused once.
        eventually(lambda: application.in_flight("tight") == 1, SOON, message="the message that waits")
        application.admin.api(f"STREAM.UPDATE.{stream}", config)
        application.await_notes("end", "copied")
        application.await_empty("tight")

    assert len(application.notes("start", "copied")) == 5
    assert not application.dead_letters("tight")


def test_thousands_of_waiting_retries_do_not_hold_up_other_messages(application: Application) -> None:
    for number in range(2_000):
        application.send(f"waiting {number}", "retry:600000")
    with application.workers(threads=4):
        eventually(lambda: len(application.notes("start")) == 2_000, 2 * SOON, message="the first attempts")
        keys = [f"message {number}" for number in range(20)]
        for key in keys:
            application.send(key)
        application.await_notes("end", *keys)

    assert application.stored() == 2_000
