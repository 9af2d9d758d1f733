"""What an operator sees of delivered messages: running, waiting for their retry, overdue; with the real programs."""

from __future__ import annotations

import pytest

from dramatiq_jetstream import admin
from dramatiq_jetstream.admin import doctor
from tests.support.faults import SOON, Application
from tests.support.operated import Shell
from tests.support.waiting import eventually


@pytest.fixture
def shell(application: Application, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("NATS_URL", application.url)
    return Shell(str(application.settings["namespace"]))


def states(shell: Shell) -> dict[str, int]:
    """What ``queues --json`` says of the delivered messages of the default queue."""
    records = shell.records("queues", "--interval", "0s", "--namespace", shell.namespace)
    [record] = [record for record in records if record["queue"] == "default"]
    return {name: record[name] for name in ("running", "retrying", "overdue", "in_flight") if record[name]}


def await_states(shell: Shell, **expected: int) -> None:
    """Wait for counts; a failure shows the last ones."""
    seen: list[dict[str, int]] = [{}]

    def are_there() -> bool:
        seen[0] = states(shell)
        return seen[0] == expected

    try:
        eventually(are_there, SOON, message=f"{expected}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {seen[0]}") from error


def complaints(shell: Shell, status: int) -> list[tuple[str, str]]:
    """What ``doctor --json`` complains of, which ends with a status."""
    records = shell.records("doctor", "--namespace", shell.namespace, status=status)
    return [(record["level"], record["check"]) for record in records if record["level"] in ("warning", "problem")]


def test_retries_whose_time_passed_without_a_worker_are_overdue(application: Application, shell: Shell) -> None:
    for number in range(20):
        application.send(f"message {number}", "retry:4000")
    with application.workers(threads=8) as workers:
        await_states(shell, retrying=20)
        workers.kill()

    await_states(shell, overdue=20)
    assert "20" in shell.text("queues", "--interval", "0s")
    assert complaints(shell, status=1) == [("problem", "pulls")]


def test_running_messages_of_a_killed_worker_are_in_flight_and_then_overdue(
    application: Application, shell: Shell
) -> None:
    application.redeclare("default", ack_wait=6_000)
    keys = [f"message {number}" for number in range(20)]
    for key in keys:
        application.send(key, "hold")
    with application.workers(threads=20) as workers:
        application.await_notes("start", *keys)
        assert states(shell) == {"running": 20}
        assert complaints(shell, status=0) == []
        workers.kill()

    assert "20?" in shell.text("queues", "--interval", "0s")
    await_states(shell, overdue=20)
    assert complaints(shell, status=1) == [("problem", "pulls")]


def test_messages_of_a_killed_worker_are_told_from_those_of_a_live_one(application: Application, shell: Shell) -> None:
    for number in range(5):
        application.send(f"killed {number}", "hold")
    with application.workers(threads=5) as killed:
        application.await_notes("start", *[f"killed {number}" for number in range(5)])
        for number in range(2):
            application.send(f"alive {number}", "hold")
        with application.workers(threads=2):
            application.await_notes("start", "alive 0", "alive 1")
            assert states(shell) == {"running": 7}
            killed.kill()
            await_states(shell, running=2, overdue=5)
            # Somebody works, if on other messages.
            assert complaints(shell, status=0) == []
            application.release()
            application.await_empty()


def test_a_retry_that_runs_is_running_and_not_overdue(application: Application, shell: Shell) -> None:
    application.send("first", "retry:50", "hold")
    with application.workers():
        eventually(lambda: len(application.notes("start", "first")) == 2, SOON, message="the second attempt")
        await_states(shell, running=1)
        application.release()
        application.await_empty()


def test_messages_beyond_the_sample_are_told_apart(application: Application, shell: Shell) -> None:
    failing = [f"failing {number}" for number in range(1_400)]
    with application.broker.batch():
        for key in failing:
            application.send(key, "retry:600000")
    with application.workers(threads=4):
        await_states(shell, retrying=len(failing))
        for number in range(4):
            application.send(f"held {number}", "hold")
        application.await_notes("start", *[f"held {number}" for number in range(4)])
        eventually(lambda: sum(states(shell).values()) == len(failing) + 4, SOON, message="all in the sum")
        application.release()


def test_doctor_fails_when_a_message_waits_and_nobody_has_worked_for_a_while(
    application: Application, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with application.workers() as workers:
        application.send("done")
        application.await_notes("end", "done")
        application.await_empty()
        assert complaints(shell, status=0) == []
        workers.kill()
    eventually(lambda: not admin.view(application.broker, "default").pulls, SOON, message="the pulls' end")

    application.send("waiting")
    assert complaints(shell, status=0) == []
    monkeypatch.setattr(doctor, "SILENT", 0)
    assert complaints(shell, status=1) == [("problem", "pulls")]


def test_busy_workers_with_a_backlog_are_no_complaint(application: Application, shell: Shell) -> None:
    for number in range(5):
        application.send(f"message {number}", "hold")
    with application.workers():
        application.await_notes("start", "message 0")
        assert complaints(shell, status=0) == []
        application.release()
        application.await_empty()
