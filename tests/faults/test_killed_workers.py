"""Worker processes that are killed: what they held is elsewhere after ack_wait, and nothing is lost."""

from __future__ import annotations

import signal

from tests.support.faults import ACK_WAIT, Application
from tests.support.waiting import eventually

#: Seconds by which a redelivery may seem early: leases are renewed three times per ack_wait, so the
#: last renewal lies up to a third before the kill; and the two clocks are read one after the other.
RENEWAL = ACK_WAIT / 3 / 1000 + 0.05


def test_message_of_a_killed_worker_runs_elsewhere_after_ack_wait_and_not_sooner(application: Application) -> None:
    application.send("held", "hold")
    with application.workers() as first, application.workers() as second:
        [started] = application.await_notes("start", "held")
        killed = first if started.pid in first.pids else second
        killed.kill()
        application.release()

        [ended] = application.await_notes("end", "held")
        application.await_empty()

    starts = application.notes("start", "held")
    assert [start.pid == ended.pid for start in starts] == [False, True]
    assert starts[1].options["retries"] == 1


def test_message_whose_actor_kills_its_process_is_not_redelivered_before_ack_wait(application: Application) -> None:
    application.send("deadly", "kill:1")
    with application.workers() as first, application.workers() as second:
        application.await_notes("end", "deadly")
        application.await_empty()
        assert first.is_running != second.is_running

    died, again = application.notes("start", "deadly")
    assert again.at - died.at >= ACK_WAIT / 1000 - RENEWAL


def test_messages_prefetched_by_a_killed_worker_run_elsewhere(application: Application) -> None:
    keys = [f"message {number}" for number in range(12)]
    for key in keys:
        application.send(key, "hold")
    with application.workers(threads=2, dramatiq_queue_prefetch="8") as first:
        eventually(lambda: len(application.notes("start")) == 2, message="the start of two")
        first.kill()
    application.release()

    with application.workers():
        application.await_notes("end", *keys)
        application.await_empty()

    assert sorted(note.key for note in application.notes("end")) == sorted(keys)


def test_second_signal_ends_a_worker_at_once_and_its_message_runs_elsewhere(application: Application) -> None:
    application.send("held", "hold")
    with application.workers() as first:
        application.await_notes("start", "held")
        first.signal(signal.SIGTERM)
        first.await_line("Stopping worker process")
        first.signal(signal.SIGTERM)
        first.wait()
    assert not application.notes("end")
    application.release()

    with application.workers():
        application.await_notes("end", "held")
        application.await_empty()


def test_worker_whose_shutdown_takes_too_long_leaves_its_message_to_others(application: Application) -> None:
    application.send("held", "hold")
    with application.workers(options=["--worker-shutdown-timeout", "200"]) as first:
        application.await_notes("start", "held")
        first.signal(signal.SIGTERM)
        first.wait()
    application.release()

    with application.workers():
        application.await_notes("end", "held")
        application.await_empty()


def test_process_that_runs_out_of_memory_is_replaced_and_loses_nothing(application: Application) -> None:
    application.send("greedy", "eat")
    application.send("neighbour")
    with application.workers(processes=2) as first:
        application.await_notes("start", "greedy")
        # dramatiq's main process ends when one of its workers does; whoever supervises it starts it again.
        first.wait()
    with application.workers(processes=2):
        application.await_notes("end", "greedy", "neighbour")
        application.await_empty()

    assert len(application.notes("end", "neighbour")) == 1


def test_message_that_always_kills_its_worker_runs_exactly_max_deliver_times(application: Application) -> None:
    application.send("deadly", "kill")
    while not application.dead_letters():
        with application.workers() as workers:
            workers.wait_until(lambda: bool(application.dead_letters()))
    application.await_empty()

    assert len(application.notes("start", "deadly")) == 4
    [letter] = application.dead_letters()
    assert letter.reason == "attempts exceeded"
    assert letter.attempts == 4


def test_message_without_retries_that_kills_its_worker_runs_once(application: Application) -> None:
    application.send("deadly", "kill", actor="run_once")
    while not application.dead_letters("once"):
        with application.workers() as workers:
            workers.wait_until(lambda: bool(application.dead_letters("once")))
    application.await_empty("once")

    assert len(application.notes("start", "deadly")) == 1


def test_message_that_allows_itself_more_retries_than_its_queue_goes_on_as_a_copy(application: Application) -> None:
    application.send("patient", "kill:5", max_retries=9)
    while not application.notes("end", "patient"):
        assert not application.dead_letters()
        with application.workers() as workers:
            workers.wait_until(lambda: bool(application.notes("end", "patient")))
    with application.workers():
        # The copy may have killed the worker that was about to remove the original; the next one does that.
        application.await_empty()

    starts = application.notes("start", "patient")
    assert [start.options.get("retries", 0) for start in starts] == [0, 1, 2, 3, 4, 5]


def test_exceptions_and_crashes_count_alike(application: Application) -> None:
    application.send("both", "kill:1", "fail")
    with application.workers() as first:
        first.wait()
    with application.workers():
        letter = application.await_dead_letter()
        application.await_empty()

    starts = application.notes("start", "both")
    assert [start.options.get("retries", 0) for start in starts] == [0, 1, 2, 3]
    assert letter.reason == "retries exhausted"
    assert letter.attempts == 4
