"""Delays on the server: never early, of any length, through restarts, and to be cancelled."""

from __future__ import annotations

import pytest
from dramatiq import Message
from dramatiq.common import current_millis

from dramatiq_jetstream import JetStreamBroker, NatsServer, WorkQueue
from dramatiq_jetstream.errors import DelayNotSupported
from tests.support.admin import Admin
from tests.support.faults import SOON, Application
from tests.support.waiting import eventually

MONTH = 30 * 86_400_000

#: Milliseconds by which a delayed message may be late: far more than the server's timer, for a machine may be busy.
LATE = 30_000


def test_delayed_messages_run_in_time_and_never_early(application: Application) -> None:
    due: dict[str, int] = {}
    with application.workers():
        for number, delay in enumerate([1, 50, 250, 700, 1_000, 1_500]):
            due[f"message {number}"] = current_millis() + delay
            application.send(f"message {number}", delay=delay)
        starts = application.await_notes("start", *due)
        application.await_empty()

    for start in starts:
        assert due[start.key] <= start.at * 1000 <= due[start.key] + LATE
        assert "eta" not in start.options
    assert sorted(note.key for note in application.notes("delayed")) == sorted(due)
    assert len(application.notes("end")) == len(due)


def test_delay_of_a_month_is_held_by_the_server_alone(application: Application) -> None:
    before = current_millis()
    message = application.send("much later", delay=MONTH)
    with application.workers():
        application.send("now")
        application.await_notes("end", "now")
        eventually(lambda: application.in_flight() == 0, SOON, message="the acknowledgement")

    assert application.broker.delay_queues == set()
    assert application.broker.get_queue_message_counts("default") == (0, 1, 0)
    [waiting] = application.broker.delayed("default")
    assert waiting.message is not None
    assert waiting.due is not None
    assert waiting.message.message_id == message.message_id
    assert before + MONTH <= waiting.due <= current_millis() + MONTH


def test_delayed_messages_survive_a_killed_server(own_server: NatsServer, own_application: Application) -> None:
    own_application.send("soon", delay=1_000)
    own_application.send("much later", delay=MONTH)
    own_server.kill()
    own_server.start()
    with own_application.workers():
        own_application.await_notes("end", "soon")

    assert len(list(own_application.broker.delayed("default"))) == 1


def test_cancelled_message_does_not_run(application: Application) -> None:
    cancelled = application.send("cancelled", delay=1_500)
    kept = application.send("kept", delay=1_500)

    assert application.broker.cancel(cancelled) is True
    assert application.broker.cancel(cancelled) is False
    with application.workers():
        application.await_notes("end", "kept")
        application.await_empty()
        assert application.broker.cancel(kept) is False

    assert not application.notes("start", "cancelled")


def test_message_that_was_never_delayed_cannot_be_cancelled(application: Application) -> None:
    message = application.send("now")

    assert application.broker.cancel(message) is False
    assert application.stored() == 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (WorkQueue(stream="ELSEWHERE", subject="elsewhere.work", consumer="W"), r"WorkQueue\(stream="),
        (WorkQueue(max_msgs=10, discard="new"), "discard='new'"),
    ],
)
def test_delay_that_the_stream_cannot_hold_is_refused_and_names_the_setting(
    nats_url: str, namespace: str, admin: Admin, settings: WorkQueue, named: str
) -> None:
    broker = JetStreamBroker(nats_url, namespace=namespace, queues={"limited": settings})
    broker.declare_queue("limited")
    message: Message[None] = Message(queue_name="limited", actor_name="run", args=(), kwargs={"key": "now"}, options={})

    with pytest.raises(DelayNotSupported, match=named):
        broker.enqueue(message, delay=1_000)
    broker.enqueue(message)
    broker.close()
