"""The signals that middleware receives, and their order."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from dramatiq import MessageProxy, Middleware, Worker
from dramatiq.middleware import SkipMessage

from tests.contract.helpers import AnyBroker, Recorder, StartWorker, dead_letter_count, finish

ENQUEUE = ["before_enqueue", "after_enqueue"]
PROCESS = ["before_process_message", "after_process_message"]
ACK = ["before_ack", "after_ack"]
NACK = ["before_nack", "after_nack"]


def test_declaring_an_actor_signals_its_queue_in_between(broker: AnyBroker, recorder: Recorder) -> None:
    @dramatiq.actor(queue_name="letters")
    def note() -> None: ...

    assert [(signal.name, signal.subject) for signal in recorder.signals] == [
        ("before_declare_actor", "note"),
        ("before_declare_queue", "letters"),
        ("after_declare_queue", "letters"),
        ("after_declare_actor", "note"),
    ]


def test_queue_is_signalled_once_however_often_it_is_declared(broker: AnyBroker, recorder: Recorder) -> None:
    broker.declare_queue("letters")
    broker.declare_queue("letters")

    assert recorder.of("letters") == ["before_declare_queue", "after_declare_queue"]


def test_middleware_that_comes_late_hears_of_what_was_declared(broker: AnyBroker) -> None:
    @dramatiq.actor(queue_name="letters")
    def note() -> None: ...

    recorder = Recorder()
    broker.add_middleware(recorder)

    assert recorder.of("note") == ["after_declare_actor"]
    assert "after_declare_queue" in recorder.of("letters")


def test_message_that_succeeds_is_processed_then_acknowledged(
    broker: AnyBroker, start_worker: StartWorker, recorder: Recorder
) -> None:
    @dramatiq.actor
    def note() -> None: ...

    sent = note.send()
    finish(broker, start_worker())

    assert recorder.of(sent.message_id) == [*ENQUEUE, *PROCESS, *ACK]


def test_message_that_fails_for_good_is_rejected(
    broker: AnyBroker, start_worker: StartWorker, recorder: Recorder
) -> None:
    @dramatiq.actor(max_retries=0)
    def fail() -> None:
        raise RuntimeError("on purpose")

    sent = fail.send()
    finish(broker, start_worker())

    assert recorder.of(sent.message_id) == [*ENQUEUE, *PROCESS, *NACK]


def test_message_that_is_retried_is_enqueued_and_acknowledged_each_time(
    broker: AnyBroker, start_worker: StartWorker, recorder: Recorder
) -> None:
    @dramatiq.actor(max_retries=2, min_backoff=1, max_backoff=1)
    def fail() -> None:
        raise RuntimeError("on purpose")

    sent = fail.send()
    # Another thread might begin the next attempt before this one has told of its acknowledgement.
    finish(broker, start_worker(threads=1))

    names = [name for name in recorder.of(sent.message_id) if name not in ENQUEUE]
    assert names == [*PROCESS, *ACK, *PROCESS, *ACK, *PROCESS, *NACK]
    for name in ENQUEUE:
        # What Prometheus counts retries by.
        assert [signal.retries for signal in recorder.retries(name)] == [1, 2]
        assert {signal.subject for signal in recorder.retries(name)} == {sent.message_id}


def test_retry_is_enqueued_within_the_processing_of_the_attempt(broker: AnyBroker, start_worker: StartWorker) -> None:
    # Behind Retries on the way in, so it hears of the end of an attempt before Retries acts.
    recorder = Recorder()
    broker.add_middleware(recorder)

    @dramatiq.actor(max_retries=1, min_backoff=1, max_backoff=1)
    def fail() -> None:
        raise RuntimeError("on purpose")

    sent = fail.send()
    finish(broker, start_worker(threads=1))

    assert recorder.of(sent.message_id)[:8] == [*ENQUEUE, *PROCESS, *ENQUEUE, *ACK]


def test_enqueue_signals_carry_the_delay_and_the_eta(broker: AnyBroker, recorder: Recorder) -> None:
    @dramatiq.actor
    def note() -> None: ...

    note.send_with_options(delay=60_000)

    assert [(signal.name, signal.delay) for signal in recorder.signals if signal.name in ENQUEUE] == [
        ("before_enqueue", 60_000),
        ("after_enqueue", 60_000),
    ]


def test_options_that_middleware_adds_before_enqueue_are_sent(broker: AnyBroker, worker: Worker) -> None:
    class Stamp(Middleware):
        def before_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
            message.options["stamp"] = "added"

        def before_process_message(self, broker: Any, message: MessageProxy) -> None:
            stamps.append(message.options["stamp"])

    stamps: list[str] = []
    broker.add_middleware(Stamp())

    @dramatiq.actor
    def note() -> None: ...

    note.send()
    finish(broker, worker)

    assert stamps == ["added"]


class Skip(Middleware):
    """Skips every message, and rejects it if told so."""

    def __init__(self, fail: bool) -> None:
        self.fail = fail

    def before_process_message(self, broker: Any, message: MessageProxy) -> None:
        if self.fail:
            message.fail()
        raise SkipMessage("skipped on purpose")


@pytest.mark.parametrize(("fail", "answer"), [(False, ACK), (True, NACK)], ids=["acknowledged", "rejected"])
def test_skipped_message_does_not_run(
    broker: AnyBroker, start_worker: StartWorker, recorder: Recorder, fail: bool, answer: list[str]
) -> None:
    broker.add_middleware(Skip(fail))

    @dramatiq.actor
    def note() -> None:
        raise AssertionError("must not run")

    sent = note.send()
    finish(broker, start_worker())

    assert recorder.of(sent.message_id) == [*ENQUEUE, "before_process_message", "after_skip_message", *answer]
    assert dead_letter_count(broker) == (1 if fail else 0)


def test_message_that_a_hook_fails_before_it_runs_is_rejected_unrun(
    broker: AnyBroker, start_worker: StartWorker, recorder: Recorder
) -> None:
    class Reject(Middleware):
        def before_process_message(self, broker: Any, message: MessageProxy) -> None:
            message.fail()

    broker.add_middleware(Reject())

    @dramatiq.actor
    def note() -> None:
        raise AssertionError("must not run")

    sent = note.send()
    finish(broker, start_worker())

    assert recorder.of(sent.message_id) == [*ENQUEUE, *PROCESS, *NACK]
    assert dead_letter_count(broker) == 1


def test_broken_hook_harms_no_message(broker: AnyBroker, worker: Worker) -> None:
    class Broken(Middleware):
        def before_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
            raise RuntimeError("broken on purpose")

        def before_process_message(self, broker: Any, message: MessageProxy) -> None:
            raise RuntimeError("broken on purpose")

        def after_process_message(self, broker: Any, message: MessageProxy, **outcome: Any) -> None:
            raise RuntimeError("broken on purpose")

    broker.add_middleware(Broken())
    ran: list[int] = []

    @dramatiq.actor
    def note() -> None:
        ran.append(1)

    note.send()
    finish(broker, worker)

    assert ran == [1]
    assert dead_letter_count(broker) == 0


def test_worker_signals_its_boot_and_its_shutdown(broker: AnyBroker, start_worker: StartWorker) -> None:
    class Lifecycle(Middleware):
        def before_worker_boot(self, broker: Any, worker: Worker) -> None:
            heard.append("before_worker_boot")

        def after_worker_boot(self, broker: Any, worker: Worker) -> None:
            heard.append("after_worker_boot")

        def before_worker_shutdown(self, broker: Any, worker: Worker) -> None:
            heard.append("before_worker_shutdown")

        def after_worker_shutdown(self, broker: Any, worker: Worker) -> None:
            heard.append("after_worker_shutdown")

    heard: list[str] = []
    broker.add_middleware(Lifecycle())
    broker.declare_queue("default")
    start_worker().stop()

    assert heard == ["before_worker_boot", "after_worker_boot", "before_worker_shutdown", "after_worker_shutdown"]
