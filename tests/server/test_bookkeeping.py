"""What is remembered of a message between two deliveries: never needed for safety, and read from earlier versions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import dramatiq
import pytest
from dramatiq import Middleware, group, pipeline
from dramatiq.common import current_millis
from dramatiq.middleware import GroupCallbacks

from dramatiq_jetstream import JetStreamBroker, WorkQueue
from dramatiq_jetstream.dead_letters import DeadLetter
from dramatiq_jetstream.worker import keeping, redelivery
from tests.contract.helpers import RateLimiterBackend
from tests.support.admin import Admin
from tests.support.faults import SOON, take
from tests.support.waiting import eventually
from tests.support.workers import run_worker

QUICK: dict[str, Any] = {"min_backoff": 1, "max_backoff": 1}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MIN_BACKOFF", 10)
    monkeypatch.setattr(keeping, "MAX_BACKOFF", 20)


class Seen(Middleware):
    """Notes the options that each attempt sees."""

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []

    def before_process_message(self, broker: Any, message: Any) -> None:
        self.options.append(dict(message.options))


def letters_of(broker: JetStreamBroker, admin: Admin) -> list[DeadLetter]:
    return list(broker.dead_letters.list()) if broker.names.dead_letters in admin.streams() else []


def await_letter(broker: JetStreamBroker, admin: Admin) -> DeadLetter:
    [letter] = eventually(lambda: letters_of(broker, admin), SOON, message="a dead letter")
    return letter


def await_empty(broker: JetStreamBroker, admin: Admin, queue_name: str = "default") -> None:
    eventually(lambda: admin.count(broker.names.stream(queue_name)) == 0, SOON, message="the end of the queue")


def test_message_without_retries_runs_though_the_record_of_its_return_is_lost(
    broker: JetStreamBroker, admin: Admin
) -> None:
    runs: list[str] = []

    @dramatiq.actor(broker=broker)
    def patient() -> None: ...

    @dramatiq.actor(broker=broker, max_retries=0)
    def once() -> None:
        runs.append("once")

    once.send()
    consumer = broker.consume("default", timeout=100)
    take(consumer)
    take_back(consumer)
    admin.api(f"STREAM.PURGE.KV_{broker.attempts.bucket}")

    with run_worker(broker, threads=1):
        await_empty(broker, admin)

    assert runs == ["once"]
    assert not letters_of(broker, admin)


def take_back(consumer: Any) -> None:
    """Hand everything back that a consumer holds, as a worker does that ends."""
    # First nothing more is pulled, or it would arrive here once more.
    consumer.close()
    consumer._handling.give_back(list(consumer.puller._held.values()))


def test_message_without_retries_that_was_handed_back_often_runs(broker: JetStreamBroker, admin: Admin) -> None:
    runs: list[str] = []

    @dramatiq.actor(broker=broker)
    def patient() -> None: ...

    @dramatiq.actor(broker=broker, max_retries=0)
    def once() -> None:
        runs.append("once")
        raise RuntimeError("on purpose")

    once.send()
    for _ in range(3):
        consumer = broker.consume("default", timeout=100)
        take(consumer)
        take_back(consumer)
    with run_worker(broker, threads=1):
        letter = await_letter(broker, admin)
        await_empty(broker, admin)

    assert runs == ["once"]
    assert (letter.reason, letter.attempts) == ("retries exhausted", 1)


def test_copy_and_record_of_an_earlier_version_are_understood(broker: JetStreamBroker, admin: Admin) -> None:
    seen = Seen()
    broker.add_middleware(seen)

    @dramatiq.actor(broker=broker, max_retries=5, **QUICK)
    def fail() -> None:
        raise RuntimeError("on purpose")

    broker.setup()
    # As earlier versions wrote a copy: its bookkeeping among its options.
    origin = f"{broker.names.stream('default')}:7.1764065264000000001"
    ours: dict[str, Any] = {"origin": origin, "handoff_failures": 0, "unknown_actor_since": 5}
    old = fail.message_with_options(**ours, retries=3, mine=1)
    admin.store(broker.names.work_subject("default", "fail"), old.encode(), {"Nats-Msg-Id": f"{origin}.copy"})
    consumer = broker.consume("default", timeout=100)
    message = take(consumer)
    assert message.identity == origin
    place = message.delivery.origin
    take_back(consumer)
    eventually(lambda: admin.count(f"KV_{broker.attempts.bucket}") == 1, SOON, message="the record of the return")
    # As they wrote a record.
    record = {"traceback": "…", "removed_options": ["mine"], "handoff_failures": 2, "added": True}
    headers = {"Dramatiq-Attempt": "1", "Dramatiq-Returned": "1", "Nats-TTL": "3600"}
    bucket, stream = broker.attempts.bucket, broker.attempts._subject(message.delivery)
    admin.store(stream, json.dumps(record).encode(), headers)
    assert bucket in stream
    assert place.sequence == 1

    with run_worker(broker, threads=1):
        letter = await_letter(broker, admin)
        await_empty(broker, admin)

    assert [options["retries"] for options in seen.options] == [3, 4, 5]
    assert all(options["added"] for options in seen.options)
    gone = {*ours, "removed_options", "not_before", "mine"}
    assert not any(gone & options.keys() for options in seen.options)
    assert letter.reason == "retries exhausted"


@pytest.mark.parametrize("name", ["origin", "not_before", "removed_options", "unknown_actor_since", "handoffs"])
@pytest.mark.parametrize("value", [5, 2**62, "text", ["retries"], {"a": 1}, True])
def test_member_of_a_group_whose_options_bear_our_names_leads_to_the_callback(
    broker: JetStreamBroker, admin: Admin, name: str, value: Any
) -> None:
    broker.add_middleware(GroupCallbacks(RateLimiterBackend()))
    runs: list[str] = []

    @dramatiq.actor(broker=broker, max_retries=3, **QUICK)
    def member(number: int) -> None:
        runs.append(f"member {number}")
        if runs.count(f"member {number}") == 1:
            raise RuntimeError("not yet")

    @dramatiq.actor(broker=broker)
    def callback(result: Any = None) -> None:
        runs.append("callback")

    members = group([member.message_with_options(args=(n,), **{name: value}) for n in range(2)], broker=broker)
    members.add_completion_callback(callback.message_with_options(**{name: value}))
    members.run()
    pipeline([member.message_with_options(args=(9,), **{name: value}), callback.message()], broker=broker).run()
    with run_worker(broker, threads=2):
        eventually(lambda: runs.count("callback") == 2, SOON, message="the callbacks")
        await_empty(broker, admin)

    assert len(runs) == 8
    assert not letters_of(broker, admin)


def test_middleware_that_acknowledges_early_keeps_the_retries(broker: JetStreamBroker, admin: Admin) -> None:
    seen = Seen()

    class AtMostOnce(Middleware):
        worker: Any = None

        def after_worker_boot(self, broker: Any, worker: Any) -> None:
            self.worker = worker

        def before_process_message(self, broker: Any, message: Any) -> None:
            self.worker.consumers[message.queue_name].consumer.ack(message)

    broker.add_middleware(AtMostOnce())
    broker.add_middleware(seen)

    @dramatiq.actor(broker=broker, max_retries=2, **QUICK)
    def fail() -> None:
        raise RuntimeError("on purpose")

    fail.send()
    with run_worker(broker, threads=1):
        letter = await_letter(broker, admin)
        await_empty(broker, admin)

    assert [options.get("retries", 0) for options in seen.options] == [0, 1, 2]
    assert (letter.reason, letter.attempts) == ("retries exhausted", 3)


class Unwritable:
    pass


@pytest.mark.parametrize(
    "kind", ["large result", "unwritable result", "large callback", "large report", "unknown report"]
)
def test_what_follows_an_actor_and_can_never_be_enqueued_ends_it_after_one_run(
    nats_url: str, namespace: str, admin: Admin, kind: str
) -> None:
    broker = JetStreamBroker(nats_url, namespace=namespace, queues={"small": WorkQueue(max_msg_size=500)})
    broker.add_middleware(GroupCallbacks(RateLimiterBackend()))
    results = {"large result": "x" * 2_000_000, "unwritable result": Unwritable()}
    runs: list[str] = []

    @dramatiq.actor(broker=broker, max_retries=0, **QUICK)
    def parent(*args: Any) -> Any:
        runs.append("parent")
        if "report" in kind:
            raise RuntimeError("on purpose")
        return results.get(kind)

    @dramatiq.actor(broker=broker, queue_name="small")
    def child(*args: Any) -> None: ...

    if kind == "large callback":
        members = group([parent.message()], broker=broker)
        members.add_completion_callback(child.message("x" * 1_000))
        members.run()
    elif "report" in kind:
        parent.send_with_options(args=("x" * 1_000,), on_retry_exhausted="child" if "large" in kind else "nobody")
    else:
        pipeline([parent.message(), child.message()], broker=broker).run()
    with run_worker(broker, threads=1):
        letter = await_letter(broker, admin)
        await_empty(broker, admin)
    broker.close()

    assert runs == ["parent"]
    assert (letter.reason, letter.attempts) == ("next message could not be enqueued", 1)
    assert letter.exception_text


@pytest.fixture
def bound(nats_url: str, namespace: str, admin: Admin) -> Iterator[JetStreamBroker]:
    """A broker with a queue bound by three names."""
    names: dict[str, Any] = {"stream": f"{namespace}-B", "subject": f"{namespace}.bound", "consumer": "W"}
    broker = JetStreamBroker(nats_url, namespace=namespace, queues={"bound": WorkQueue(**names)})
    yield broker
    broker.close()


def make_unlimited(admin: Admin, namespace: str) -> None:
    """What `nats stream add` and `nats consumer add` make when every question is answered with Enter."""
    stream, subject = f"{namespace}-B", f"{namespace}.bound"
    admin.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [subject], "retention": "workqueue"})
    config = {"durable_name": "W", "ack_policy": "explicit", "filter_subject": subject, "max_deliver": -1}
    admin.api(f"CONSUMER.DURABLE.CREATE.{stream}.W", {"stream_name": stream, "config": config})


@pytest.mark.parametrize("body", [b'{"key": 1}', b"\xff", b"{}"], ids=["that fails", "undecodable", "without its key"])
@pytest.mark.parametrize("by_hand", [True, False], ids=["made by hand", "made by us"])
def test_failing_message_of_a_consumer_without_a_limit_ends_with_one_letter_that_points_at_it(
    bound: JetStreamBroker, namespace: str, admin: Admin, body: bytes, by_hand: bool
) -> None:
    runs: list[int] = []

    @dramatiq.actor(broker=bound, queue_name="bound", max_retries=2, **QUICK)
    def fail(key: int) -> None:
        runs.append(key)
        if key == 1:
            raise RuntimeError("on purpose")

    if by_hand:
        make_unlimited(admin, namespace)
    bound.setup()
    stream = f"{namespace}-B"
    assert admin.consumer(stream, "W")["config"]["max_deliver"] == (-1 if by_hand else 3)
    admin.store(f"{namespace}.bound", body)
    with run_worker(bound, threads=1):
        letter = await_letter(bound, admin)
        admin.store(f"{namespace}.bound", b'{"key": 2}')
        eventually(lambda: 2 in runs, SOON, message="a neighbour")
        delivered = admin.consumer(stream, "W")["delivered"]["consumer_seq"]
    with run_worker(bound, threads=1):
        admin.store(f"{namespace}.bound", b'{"key": 3}')
        eventually(lambda: 3 in runs, SOON, message="a later neighbour")
        eventually(lambda: admin.count(stream) == 1, SOON, message="the neighbours' end")

    assert admin.consumer(stream, "W")["delivered"]["consumer_seq"] == delivered + 1
    assert (letter.kept, letter.stream, letter.sequence, letter.body) == (True, stream, 1, body)
    assert len(letters_of(bound, admin)) == 1
    assert runs.count(1) == (3 if body == b'{"key": 1}' else 0)


def has_ticked(starts: list[str], times: int) -> bool:
    return starts.count("tick") >= times


def test_time_limit_that_is_none_ends_no_lease(nats_url: str, namespace: str, admin: Admin) -> None:
    settings = {"default": WorkQueue(ack_wait=3_000)}
    broker = JetStreamBroker(nats_url, namespace=namespace, queues=settings)
    starts: list[str] = []

    @dramatiq.actor(broker=broker)
    def odd(name: str) -> None:
        starts.append(name)
        eventually(lambda: "release" in starts, SOON, message="the test")

    @dramatiq.actor(broker=broker)
    def even(name: str) -> None:
        starts.append(name)
        eventually(lambda: "release" in starts, SOON, message="the test")

    @dramatiq.actor(broker=broker)
    def clock() -> None:
        starts.append("tick")

    # As dramatiq 1's option check lets pass.
    odd.options["time_limit"] = None
    even.options["time_limit"] = "60000"
    odd.send("odd")
    even.send("even")
    began = current_millis()
    with run_worker(broker, threads=3):
        while current_millis() - began < 9_000:
            expected = starts.count("tick") + 1
            clock.send()
            eventually(partial(has_ticked, starts, expected), SOON, message="the clock")
        starts.append("release")
        await_empty(broker, admin)
    broker.close()

    assert starts.count("odd") == 1
    assert starts.count("even") == 1


def test_messages_seen_by_old_and_new_workers_in_turn_are_not_unknown_for_ever(
    nats_url: str, namespace: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling deploy: each message meets a worker that does not know its actor, and long after another."""
    monkeypatch.setattr("dramatiq_jetstream.worker.handling.MIN_BACKOFF", 10)
    new = JetStreamBroker(nats_url, namespace=namespace)
    old = JetStreamBroker(nats_url, namespace=namespace, unknown_actor_grace=2_000)
    old.declare_queue("default")
    ran: set[int] = set()

    @dramatiq.actor(broker=new, max_retries=20)
    def run(number: int) -> None:
        ran.add(number)

    new.setup()
    stream = new.names.stream("default")
    for number in range(12):
        run.send(number)
    for _ in range(3):
        expected = admin.stream(stream)["state"]["last_seq"] + 12
        consumer = old.consume("default", prefetch=12, timeout=20)
        eventually(partial(are_copied, consumer, admin, stream, expected), SOON, message="the old worker's copies")
        consumer.close()
        consumer = new.consume("default", prefetch=12, timeout=20)
        for message in [take(consumer) for _ in range(12)]:
            # It fails here, and is back when the old worker's patience has passed.
            message.retry_delay = 2_100
            consumer.ack(message)
        consumer.close()
    with run_worker(new, threads=1):
        eventually(lambda: len(ran) == 12, SOON, message="the end of all")
        await_empty(new, admin)
    for broker in (old, new):
        broker.close()

    assert not letters_of(new, admin)


def are_copied(consumer: Any, admin: Admin, stream: str, expected: int) -> bool:
    """Have a consumer deal with what it holds; whether the stream has a copy of each by then."""
    next(consumer)
    return bool(admin.stream(stream)["state"]["last_seq"] >= expected)


def test_copy_without_a_scheduler_is_held_back_though_it_has_no_options(
    nats_url: str, namespace: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery, "MAX_HOLD", 100)
    settings = {"default": WorkQueue(discard="new", max_msgs=100)}
    broker = JetStreamBroker(nats_url, namespace=namespace, queues=settings)
    ran: list[int] = []

    @dramatiq.actor(broker=broker)
    def run() -> None:
        ran.append(current_millis())

    run.send()
    consumer = broker.consume("default", timeout=100)
    message = take(consumer)
    due = current_millis() + 1_500
    consumer._handling._redelivery.copy(message, 1_500)
    consumer.close()
    with run_worker(broker, threads=1):
        await_empty(broker, admin)
    broker.close()

    assert len(ran) == 1
    assert ran[0] >= due
