"""Batches: many messages with one wait for all, each stored once, and what failed named one by one."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Message, MessageProxy, Middleware, group, pipeline

from dramatiq_jetstream import JetStreamBroker, NatsServer, WorkQueue
from dramatiq_jetstream.errors import (
    BatchFailed,
    BatchUnconfirmed,
    BrokerConnectionError,
    EnqueueRejected,
    MessageTooLarge,
    StreamNotFound,
)
from tests.support.admin import Admin
from tests.support.bw import Program
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tests.support.workers import in_background, run_worker

BOTH = pytest.mark.parametrize("atomic", [False, True], ids=["pipelined", "atomic"])

#: A queue that refuses messages when it holds as many as this.
ROOM = 5
FULL = WorkQueue(max_msgs=ROOM, discard="new")


def message_to(queue_name: str, *args: Any) -> Message[Any]:
    return Message(queue_name=queue_name, actor_name="anyone", args=args, kwargs={}, options={})


def messages_to(queue_name: str, numbers: Sequence[int]) -> list[Message[Any]]:
    return [message_to(queue_name, number) for number in numbers]


def numbers_in(admin: Admin, broker: JetStreamBroker, queue_name: str = "default") -> list[int]:
    """The first argument of each message of a queue, oldest first."""
    stream = broker.names.stream(queue_name)
    stored = admin.stored(stream) if admin.count(stream) else []
    return [Message.decode(each.body).args[0] for each in stored]


def failed_numbers(error: BatchFailed) -> list[int]:
    return [failure.message.args[0] for failure in error.failures]


class Hooks(Middleware):
    """Notes which messages the hooks of enqueueing saw."""

    def __init__(self) -> None:
        self.before: list[int] = []
        self.after: list[int] = []
        self.delays: list[int | None] = []

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        self.before.append(message.args[0])

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        self.after.append(message.args[0])
        self.delays.append(delay)


@pytest.fixture
def hooks(broker: JetStreamBroker) -> Hooks:
    hooks = Hooks()
    broker.add_middleware(hooks)
    return hooks


@pytest.fixture
def send(broker: JetStreamBroker) -> dramatiq.Actor[..., Any]:
    """An actor of the default queue that is never run."""

    @dramatiq.actor(broker=broker)
    def anyone(number: int) -> None: ...

    return anyone


@pytest.fixture
def limited(nats_url: str, namespace: str, admin: Admin) -> Iterator[JetStreamBroker]:
    """A broker with a queue that has little room."""
    with closing(JetStreamBroker(nats_url, namespace=namespace, queues={"full": FULL})) as broker:
        yield broker


# Storing


@BOTH
def test_all_messages_are_stored_in_order_and_run(broker: JetStreamBroker, admin: Admin, atomic: bool) -> None:
    ran: list[int] = []

    @dramatiq.actor(broker=broker)
    def run(number: int) -> None:
        ran.append(number)

    messages = [run.message(number) for number in range(300)]

    assert broker.enqueue_many(messages, atomic=atomic) == messages

    assert numbers_in(admin, broker) == list(range(300))
    with run_worker(broker):
        eventually(lambda: len(ran) >= 300)
        broker.join("default", timeout=10_000)
    assert sorted(ran) == list(range(300))


@BOTH
def test_what_an_actor_sends_in_a_block_is_stored_when_the_block_ends(
    broker: JetStreamBroker, admin: Admin, send: dramatiq.Actor[..., Any], atomic: bool
) -> None:
    with broker.batch(atomic=atomic):
        sent = [send.send(number) for number in range(50)]

    stored = admin.stored(broker.names.stream("default"))
    assert [Message.decode(each.body) for each in stored] == sent


def test_messages_of_one_batch_go_to_several_queues(broker: JetStreamBroker, admin: Admin) -> None:
    queues = ["a", "b", "never declared"]

    broker.enqueue_many([message_to(queues[number % 3], number) for number in range(30)])

    assert [numbers_in(admin, broker, queue) for queue in queues] == [list(range(n, 30, 3)) for n in range(3)]


@BOTH
def test_delayed_messages_wait_at_the_server_and_run(broker: JetStreamBroker, atomic: bool) -> None:
    ran: list[int] = []

    @dramatiq.actor(broker=broker)
    def run(number: int) -> None:
        ran.append(number)

    enqueued = broker.enqueue_many([run.message(number) for number in range(10)], delay=1_500, atomic=atomic)
    with broker.batch(atomic=atomic):
        run.send_with_options(args=(10,), delay=1_500)

    assert all(message.options["eta"] > message.message_timestamp for message in enqueued)
    assert broker.get_queue_message_counts("default") == (0, 11, 0)
    with run_worker(broker):
        eventually(lambda: sorted(ran) == list(range(11)))


@BOTH
def test_delayed_and_other_messages_share_a_batch(
    broker: JetStreamBroker, send: dramatiq.Actor[..., Any], atomic: bool
) -> None:
    with broker.batch(atomic=atomic):
        send.send(1)
        send.send_with_options(args=(2,), delay=60_000)
        send.send(3)

    assert broker.get_queue_message_counts("default") == (2, 1, 0)


@BOTH
def test_batch_of_nothing_asks_nothing_of_the_server(namespace: str, proxy: Proxy, atomic: bool) -> None:
    proxy.cut()
    broker = JetStreamBroker(proxy.url, namespace=namespace)

    assert broker.enqueue_many([], atomic=atomic) == []
    with broker.batch(atomic=atomic):
        pass

    assert broker.connection.current() is None


@BOTH
def test_stream_deleted_before_a_batch_is_made_anew(broker: JetStreamBroker, admin: Admin, atomic: bool) -> None:
    broker.enqueue_many(messages_to("default", range(3)))
    admin.api(f"STREAM.DELETE.{broker.names.stream('default')}")

    broker.enqueue_many(messages_to("default", range(20)), atomic=atomic)

    assert numbers_in(admin, broker) == list(range(20))


def test_stream_deleted_in_the_middle_of_a_batch_is_made_anew(broker: JetStreamBroker, admin: Admin) -> None:
    stream = broker.names.stream("default")
    with broker.batch():
        broker.enqueue_many(messages_to("default", range(5)))
        admin.api(f"STREAM.DELETE.{stream}")
        for message in messages_to("default", range(5, 20)):
            broker.enqueue(message)

    assert numbers_in(admin, broker) == list(range(5, 20))


@BOTH
def test_groups_and_pipelines_run_from_a_batch(broker: JetStreamBroker, admin: Admin, atomic: bool) -> None:
    results: list[int] = []

    @dramatiq.actor(broker=broker)
    def double(number: int) -> int:
        return 2 * number

    @dramatiq.actor(broker=broker)
    def keep(number: int) -> None:
        results.append(number)

    with broker.batch(atomic=atomic):
        members = [
            double.message_with_options(args=(n,), pipe_target=keep.message_with_options().asdict()) for n in range(10)
        ]
        group(members, broker=broker).run()
        steps = [double.message(100), double.message_with_options(), keep.message_with_options()]
        pipeline(steps, broker=broker).run()

    assert admin.count(broker.names.stream("default")) == 11
    with run_worker(broker):
        eventually(lambda: sorted(results) == [*range(0, 20, 2), 400])


@BOTH
def test_actor_enqueues_a_batch(broker: JetStreamBroker, atomic: bool) -> None:
    ran: list[int] = []

    @dramatiq.actor(broker=broker)
    def child(number: int) -> None:
        ran.append(number)

    @dramatiq.actor(broker=broker)
    def parent() -> None:
        with broker.batch(atomic=atomic):
            for number in range(40):
                child.send(number)

    parent.send()
    with run_worker(broker):
        eventually(lambda: sorted(ran) == list(range(40)))


# Hooks


@BOTH
def test_hooks_run_once_for_each_message(
    broker: JetStreamBroker, hooks: Hooks, send: dramatiq.Actor[..., Any], atomic: bool
) -> None:
    broker.enqueue_many(messages_to("default", range(10)), delay=60_000, atomic=atomic)
    with broker.batch(atomic=atomic):
        for number in range(10, 20):
            send.send(number)

    assert hooks.before == hooks.after == list(range(20))
    assert hooks.delays == [60_000] * 10 + [None] * 10


@BOTH
def test_after_enqueue_waits_until_the_message_is_stored(
    proxy: Proxy, namespace: str, admin: Admin, atomic: bool
) -> None:
    with closing(JetStreamBroker(proxy.url, namespace=namespace)) as broker:
        hooks = Hooks()
        broker.add_middleware(hooks)
        broker.enqueue(message_to("default", 0))

        proxy.drop_replies()
        enqueueing = in_background(lambda: broker.enqueue_many(messages_to("default", range(1, 10)), atomic=atomic))
        eventually(lambda: admin.count(broker.names.stream("default")) == 10)
        assert hooks.after == [0]
        proxy.resume()

        enqueueing.result(timeout=10)
        assert hooks.before == hooks.after == list(range(10))
        assert numbers_in(admin, broker) == list(range(10))


def test_hooks_of_a_message_that_is_refused_do_not_say_it_was_enqueued(limited: JetStreamBroker) -> None:
    hooks = Hooks()
    limited.add_middleware(hooks)

    with pytest.raises(BatchFailed):
        limited.enqueue_many(messages_to("full", range(10)))

    assert hooks.before == list(range(10))
    assert hooks.after == list(range(ROOM))


def test_message_sent_by_a_hook_of_the_batch_is_stored(broker: JetStreamBroker, admin: Admin) -> None:
    class Echo(Middleware):
        def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
            if message.queue_name == "default":
                broker.enqueue(message_to("echo", *message.args))

    broker.add_middleware(Echo())
    broker.enqueue_many(messages_to("default", range(20)))

    assert numbers_in(admin, broker, "echo") == list(range(20))


# Failures


def test_message_that_is_too_large_is_named_and_the_others_are_stored(broker: JetStreamBroker, admin: Admin) -> None:
    messages = messages_to("default", range(10))
    messages[4] = message_to("default", 4, "x" * 2**21)

    with pytest.raises(
        BatchFailed, match=rf"1 of 10 messages .*\n  {messages[4].message_id} .*takes \d+ bytes"
    ) as raised:
        broker.enqueue_many(messages)

    [failure] = raised.value.failures
    assert failure.message == messages[4]
    assert isinstance(failure.error, MessageTooLarge)
    assert not isinstance(raised.value, BatchUnconfirmed)
    assert numbers_in(admin, broker) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_message_that_cannot_be_written_is_named_and_the_others_are_stored(
    broker: JetStreamBroker, admin: Admin
) -> None:
    messages = messages_to("default", range(5))
    messages[2] = message_to("default", 2, object())

    with pytest.raises(BatchFailed) as raised:
        broker.enqueue_many(messages)

    assert failed_numbers(raised.value) == [2]
    assert numbers_in(admin, broker) == [0, 1, 3, 4]


def test_message_over_a_limit_that_only_the_server_knows_is_named(broker: JetStreamBroker, admin: Admin) -> None:
    broker.enqueue(message_to("default", 0))
    config = admin.stream(broker.names.stream("default"))["config"]
    admin.api(f"STREAM.UPDATE.{config['name']}", config | {"max_msg_size": 512})
    messages = [message_to("default", number, "x" * 512 * (number == 3)) for number in range(1, 6)]

    with pytest.raises(BatchFailed, match="raise the stream's max_msg_size") as raised:
        broker.enqueue_many(messages)

    assert failed_numbers(raised.value) == [3]
    assert isinstance(raised.value.failures[0].error, MessageTooLarge)
    assert numbers_in(admin, broker) == [0, 1, 2, 4, 5]


def test_full_stream_names_exactly_the_messages_it_refuses(limited: JetStreamBroker, admin: Admin) -> None:
    with pytest.raises(BatchFailed, match="maximum messages exceeded") as raised:
        limited.enqueue_many([message_to(("full", "default")[n % 2], n) for n in range(20)])

    assert failed_numbers(raised.value) == list(range(2 * ROOM, 20, 2))
    assert all(isinstance(failure.error, EnqueueRejected) for failure in raised.value.failures)
    assert not isinstance(raised.value, BatchUnconfirmed)
    assert numbers_in(admin, limited, "full") == list(range(0, 2 * ROOM, 2))
    assert numbers_in(admin, limited) == list(range(1, 20, 2))


def test_what_was_refused_can_be_retried_once_there_is_room(limited: JetStreamBroker, admin: Admin) -> None:
    with pytest.raises(BatchFailed) as raised:
        limited.enqueue_many(messages_to("full", range(8)))
    with pytest.raises(BatchFailed, match="3 of 3") as again:
        raised.value.retry()
    limited.flush("full")

    assert [message.args[0] for message in again.value.retry()] == [5, 6, 7]

    assert numbers_in(admin, limited, "full") == [5, 6, 7]


@BOTH
def test_retry_does_not_pass_over_a_message_that_could_not_even_be_sent(
    broker: JetStreamBroker, admin: Admin, atomic: bool
) -> None:
    messages = [*messages_to("default", range(3)), message_to("default", 3, "x" * 2**21)]
    with pytest.raises(BatchFailed) as raised:
        broker.enqueue_many(messages, atomic=atomic)

    with pytest.raises(BatchFailed) as again:
        raised.value.retry()

    assert failed_numbers(again.value) == failed_numbers(raised.value)
    assert 3 in failed_numbers(again.value)
    assert numbers_in(admin, broker) == ([] if atomic else [0, 1, 2])


@BOTH
def test_stream_that_may_not_be_made_fails_the_batch_after_one_wait(
    nats_url: str, namespace: str, admin: Admin, atomic: bool
) -> None:
    with closing(JetStreamBroker(nats_url, namespace=namespace, declare="never", timeout=500)) as broker:
        started = time.monotonic()
        with pytest.raises(BatchFailed, match="no stream listens on") as raised:
            broker.enqueue_many(messages_to("default", range(60)), atomic=atomic)

        # One wait for each would take thirty seconds.
        assert time.monotonic() - started < 10
        assert sorted(failed_numbers(raised.value)) == list(range(60))
        assert all(isinstance(failure.error, StreamNotFound) for failure in raised.value.failures)


def test_first_batch_without_a_server_fails_after_one_wait_and_can_be_retried(
    proxy: Proxy, namespace: str, admin: Admin
) -> None:
    with closing(JetStreamBroker(proxy.url, namespace=namespace, timeout=500)) as broker:
        proxy.cut()
        started = time.monotonic()
        with pytest.raises(BatchUnconfirmed, match="is it running") as raised:
            broker.enqueue_many(messages_to("default", range(60)))

        assert time.monotonic() - started < 10
        assert failed_numbers(raised.value) == list(range(60))
        proxy.resume()
        assert [message.args[0] for message in raised.value.retry()] == list(range(60))
        assert numbers_in(admin, broker) == list(range(60))


def test_exception_in_the_block_leaves_what_was_sent_and_waits_for_it(
    broker: JetStreamBroker, admin: Admin, hooks: Hooks, send: dramatiq.Actor[..., Any]
) -> None:
    def fill() -> None:
        with broker.batch():
            for number in range(20):
                send.send(number)
            raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose"):
        fill()

    assert numbers_in(admin, broker) == hooks.after == list(range(20))
    send.send(20)
    assert hooks.after[-1] == 20


def test_exception_in_an_atomic_block_sends_nothing(
    broker: JetStreamBroker, admin: Admin, hooks: Hooks, send: dramatiq.Actor[..., Any]
) -> None:
    send.send(0)

    def fill() -> None:
        with broker.batch(atomic=True):
            send.send(1)
            raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose"):
        fill()

    send.send(2)
    assert numbers_in(admin, broker) == hooks.after == [0, 2]


def test_what_failed_in_a_block_that_raised_is_logged(
    limited: JetStreamBroker, caplog: pytest.LogCaptureFixture
) -> None:
    def fill() -> None:
        with limited.batch():
            for message in messages_to("full", range(ROOM + 2)):
                limited.enqueue(message)
            raise LookupError("on purpose")

    with pytest.raises(LookupError):
        fill()

    assert f"2 of {ROOM + 2} messages of a batch were not enqueued" in caplog.text


def test_message_that_is_too_large_raises_at_once_inside_a_block(
    broker: JetStreamBroker, admin: Admin, send: dramatiq.Actor[..., Any]
) -> None:
    with broker.batch():
        send.send(1)
        with pytest.raises(MessageTooLarge):
            broker.enqueue(message_to("default", 2, "x" * 2**21))
        send.send(3)

    assert numbers_in(admin, broker) == [1, 3]


def test_message_comes_back_if_a_hook_that_followed_it_could_not_enqueue_its_batch(limited: JetStreamBroker) -> None:
    runs: list[int] = []

    class HandOn(Middleware):
        def after_process_message(
            self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
        ) -> None:
            if len(runs) > 1:
                limited.flush("full")
            with limited.batch():
                for number in range(ROOM):
                    limited.enqueue(message_to("full", number))

    @dramatiq.actor(broker=limited)
    def parent() -> None:
        runs.append(1)

    limited.add_middleware(HandOn())
    limited.enqueue(message_to("full", -1))
    parent.send()
    with run_worker(limited, threads=1, queues={"default"}):
        limited.join("default", timeout=10_000)

    assert len(runs) == 2
    assert limited.get_queue_message_counts("full")[0] == ROOM


# One batch beside another


def test_end_of_an_inner_batch_is_not_the_end_of_the_outer(
    broker: JetStreamBroker, admin: Admin, send: dramatiq.Actor[..., Any]
) -> None:
    with broker.batch(atomic=True):
        send.send(0)
        with broker.batch():
            send.send(1)
        assert numbers_in(admin, broker) == [1]
        broker.enqueue_many(messages_to("default", [2, 3]))
        assert numbers_in(admin, broker) == [1, 2, 3]
        send.send(4)

    assert numbers_in(admin, broker) == [1, 2, 3, 0, 4]


def test_batch_takes_only_what_is_enqueued_on_its_own_broker(
    broker: JetStreamBroker, nats_url: str, namespace: str, admin: Admin
) -> None:
    with closing(JetStreamBroker(nats_url, namespace=f"{namespace}-other")) as other, broker.batch(atomic=True):
        broker.enqueue(message_to("default", 1))
        other.enqueue(message_to("default", 2))

        assert numbers_in(admin, other) == [2]
        assert numbers_in(admin, broker) == []


def test_two_threads_with_a_batch_each_do_not_mix(broker: JetStreamBroker, admin: Admin) -> None:
    turns = threading.Barrier(2, timeout=10)

    def fill(start: int, fail: bool) -> None:
        with broker.batch(atomic=True):
            for number in range(start, start + 50):
                turns.wait()
                broker.enqueue(message_to("default", number))
            if fail:
                raise LookupError("on purpose")

    failing, storing = in_background(fill, 0, True), in_background(fill, 100, False)

    with pytest.raises(LookupError):
        failing.result(timeout=10)
    storing.result(timeout=10)
    assert numbers_in(admin, broker) == list(range(100, 150))


def test_tasks_that_take_turns_do_not_mix_their_batches(
    broker: JetStreamBroker, admin: Admin, send: dramatiq.Actor[..., Any]
) -> None:
    broker.enqueue(message_to("default", -1))

    async def fill(start: int, fail: bool) -> None:
        with broker.batch(atomic=True):
            for number in range(start, start + 10):
                send.send(number)
                await asyncio.sleep(0)
            if fail:
                raise LookupError("on purpose")

    async def without() -> None:
        for number in range(200, 203):
            before = admin.count(broker.names.stream("default"))
            send.send(number)
            assert admin.count(broker.names.stream("default")) == before + 1
            await asyncio.sleep(0)

    async def together() -> list[BaseException | None]:
        return list(await asyncio.gather(fill(0, True), fill(100, False), without(), return_exceptions=True))

    failed, *others = asyncio.run(together())

    assert isinstance(failed, LookupError)
    assert others == [None, None]
    assert numbers_in(admin, broker) == [-1, 200, 201, 202, *range(100, 110)]


@BOTH
def test_task_that_outlives_the_block_it_began_in_has_its_messages_stored(
    broker: JetStreamBroker, admin: Admin, hooks: Hooks, send: dramatiq.Actor[..., Any], atomic: bool
) -> None:
    async def run() -> None:
        ended = asyncio.Event()

        async def late() -> None:
            await ended.wait()
            send.send(2)
            assert admin.count(broker.names.stream("default")) == 2

        with broker.batch(atomic=atomic):
            send.send(1)
            task = asyncio.create_task(late())
            await asyncio.sleep(0)
        ended.set()
        await task

    asyncio.run(run())

    assert numbers_in(admin, broker) == hooks.after == [1, 2]


@BOTH
def test_thread_that_a_task_calls_from_its_batch_sends_for_itself(
    broker: JetStreamBroker, admin: Admin, send: dramatiq.Actor[..., Any], atomic: bool
) -> None:
    async def run() -> None:
        with broker.batch(atomic=atomic):
            send.send(0)
            await asyncio.gather(*(asyncio.to_thread(send.send, number) for number in range(1, 40)))
            stored = set(numbers_in(admin, broker))
            assert stored >= set(range(1, 40))

    asyncio.run(run())

    assert sorted(numbers_in(admin, broker)) == list(range(40))


FORKING = """
import os
from dramatiq import Message
from dramatiq_jetstream import JetStreamBroker

def messages(*numbers):
    return [Message(queue_name="default", actor_name="anyone", args=(n,), kwargs={}, options={}) for n in numbers]

def fork(function):
    pid = os.fork()
    if pid == 0:
        try:
            function()
            broker.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0

def fill():
    broker.enqueue_many(messages(3, 4))
    broker.enqueue_many(messages(5, 6), atomic=True)
    with broker.batch():
        broker.enqueue(messages(7)[0])

broker = JetStreamBroker(os.environ["NATS_URL"], namespace=os.environ["BATCH_NAMESPACE"])
broker.enqueue_many(messages(1, 2))
fork(fill)
with broker.batch(atomic=True):
    broker.enqueue(messages(9)[0])
    fork(lambda: broker.enqueue(messages(8)[0]))
broker.close()
"""


def test_child_of_a_fork_has_batches_of_its_own(
    nats_url: str, namespace: str, broker: JetStreamBroker, admin: Admin, tmp_path: Path
) -> None:
    variables = {"NATS_URL": nats_url, "BATCH_NAMESPACE": namespace}

    with Program([sys.executable, "-c", FORKING], tmp_path / "fork.log", variables) as program:
        status = program.wait()

    assert status == 0, program.log
    assert numbers_in(admin, broker) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


# More than may be on its way at once


@pytest.mark.parametrize(("limit", "size"), [("WINDOW", 10), ("WINDOW_BYTES", 2_000)])
def test_large_batch_has_few_messages_on_their_way_at_once(
    broker: JetStreamBroker, admin: Admin, monkeypatch: pytest.MonkeyPatch, limit: str, size: int
) -> None:
    monkeypatch.setattr(f"dramatiq_jetstream.sending.batch.{limit}", size)
    broker.enqueue(message_to("default", -1))
    publisher = broker.connection.session().publisher
    waiting = []

    with broker.batch():
        for message in messages_to("default", range(500)):
            broker.enqueue(message)
            waiting.append(publisher.waiting)

    assert max(waiting) <= 15
    assert publisher.waiting == 0
    assert numbers_in(admin, broker) == list(range(-1, 500))


def test_failures_beyond_the_window_are_named_too(
    limited: JetStreamBroker, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq_jetstream.sending.batch.WINDOW", 4)

    with pytest.raises(BatchFailed, match=r"95 of 100 messages .*(\n  .*){5}\n  and 90 more$") as raised:
        limited.enqueue_many(messages_to("full", range(100)))

    assert failed_numbers(raised.value) == list(range(ROOM, 100))


# All or nothing


def test_atomic_batch_is_stored_at_the_end_of_its_block(
    broker: JetStreamBroker, admin: Admin, send: dramatiq.Actor[..., Any]
) -> None:
    with broker.batch(atomic=True):
        for number in range(30):
            send.send(number)
        assert admin.count(broker.names.stream("default")) == 0

    sequences = [stored.sequence for stored in admin.stored(broker.names.stream("default"))]
    assert sequences == list(range(sequences[0], sequences[0] + 30))
    assert numbers_in(admin, broker) == list(range(30))


@pytest.mark.parametrize("count", [1, 2, 1_000])
def test_atomic_batch_may_have_as_many_messages_as_the_server_takes(
    broker: JetStreamBroker, admin: Admin, count: int
) -> None:
    broker.enqueue_many(messages_to("default", range(count)), atomic=True)

    assert admin.count(broker.names.stream("default")) == count


def test_larger_atomic_batch_is_refused_with_the_limit(broker: JetStreamBroker, admin: Admin) -> None:
    with pytest.raises(ValueError, match=r"at most 1000 messages, and this one has 1001: make smaller ones"):
        broker.enqueue_many(messages_to("default", range(1_001)), atomic=True)

    assert admin.count(broker.names.stream("default")) == 0
    assert broker.connection.session().publisher.waiting == 0


def test_atomic_batch_for_two_queues_is_refused_with_their_names(broker: JetStreamBroker, admin: Admin) -> None:
    with pytest.raises(ValueError, match=r"one queue, and this one has messages for queue 'a' .*queue 'b'"):
        broker.enqueue_many([message_to("a", 1), message_to("b", 2)], atomic=True)

    assert numbers_in(admin, broker, "a") == numbers_in(admin, broker, "b") == []


def test_stream_that_stores_nothing_together_says_what_to_switch_on(
    nats_url: str, namespace: str, admin: Admin
) -> None:
    name = f"{namespace}-theirs"
    admin.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [name], "retention": "workqueue"})
    theirs = WorkQueue(stream=name, subject=name, consumer="workers", payload="dramatiq")
    with closing(JetStreamBroker(nats_url, namespace=namespace, queues={"theirs": theirs})) as broker:
        with pytest.raises(BatchFailed, match="allow_atomic must be on for the stream") as raised:
            broker.enqueue_many(messages_to("theirs", range(5)), atomic=True)

        assert failed_numbers(raised.value) == list(range(5))
        assert all(isinstance(failure.error, EnqueueRejected) for failure in raised.value.failures)
        assert admin.count(name) == 0
        broker.enqueue_many(messages_to("theirs", range(5)))
        assert admin.count(name) == 5


def test_one_bad_message_keeps_an_atomic_batch_from_being_sent(broker: JetStreamBroker, admin: Admin) -> None:
    messages = messages_to("default", range(5))
    messages[2] = message_to("default", 2, "x" * 2**21)

    with pytest.raises(BatchFailed, match="5 of 5 messages") as raised:
        broker.enqueue_many(messages, atomic=True)

    errors = {failure.message.args[0]: failure.error for failure in raised.value.failures}
    assert sorted(errors) == list(range(5))
    assert isinstance(errors.pop(2), MessageTooLarge)
    assert all("another message of the same atomic batch failed" in str(error) for error in errors.values())
    assert admin.count(broker.names.stream("default")) == 0


def test_full_stream_stores_nothing_of_an_atomic_batch(limited: JetStreamBroker, admin: Admin) -> None:
    limited.enqueue_many(messages_to("full", range(3)), atomic=True)

    with pytest.raises(BatchFailed, match="maximum messages exceeded") as raised:
        limited.enqueue_many(messages_to("full", range(3, 6)), atomic=True)

    assert failed_numbers(raised.value) == [3, 4, 5]
    assert numbers_in(admin, limited, "full") == [0, 1, 2]
    limited.flush("full")
    raised.value.retry()
    assert numbers_in(admin, limited, "full") == [3, 4, 5]


def test_message_over_a_limit_that_only_the_server_knows_fails_an_atomic_batch_with_the_reason(
    broker: JetStreamBroker, admin: Admin
) -> None:
    broker.enqueue(message_to("default", 0))
    config = admin.stream(broker.names.stream("default"))["config"]
    admin.api(f"STREAM.UPDATE.{config['name']}", config | {"max_msg_size": 512})
    messages = [message_to("default", number, "x" * 512 * (number == 3)) for number in range(1, 6)]

    with pytest.raises(BatchFailed, match="max_msg_size") as raised:
        broker.enqueue_many(messages, atomic=True)

    assert sorted(failed_numbers(raised.value)) == [1, 2, 3, 4, 5]
    assert numbers_in(admin, broker) == [0]


# Broken links


class CuttingProxy(Proxy):
    """Cuts the link once the server has got so many bytes more."""

    left: int | None = None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, replies_of: Any = None) -> None:
        if replies_of is not None:
            await super()._pump(reader, writer, replies_of)
        while data := await reader.read(1_024):
            writer.write(data if self.left is None else data[: self.left])
            await writer.drain()
            if self.left is not None:
                self.left -= len(data)
                if self.left <= 0:
                    self.left = None
                    # Not aborted, which might take back what the server has not read yet.
                    return


@pytest.fixture
def cutting(nats_server: NatsServer) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(nats_server.port)
    yield proxy
    proxy.stop()


def once_connected(url: str, namespace: str, **settings: Any) -> JetStreamBroker:
    """A broker that has stored one message already."""
    broker = JetStreamBroker(url, namespace=namespace, reconnect_time_wait=0.05, **settings)
    broker.enqueue(message_to("default", -1))
    return broker


@BOTH
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_batch_that_the_server_saw_a_part_of_is_stored_once(
    cutting: CuttingProxy, namespace: str, admin: Admin, atomic: bool, part: float
) -> None:
    count = 1_000 if atomic else 3_000
    with closing(once_connected(cutting.url, namespace)) as broker:
        # What a message takes on its way, at least.
        cutting.left = int(250 * count * part)
        broker.enqueue_many(messages_to("default", range(count)), atomic=atomic)

        assert broker.connection.session().client.stats["reconnects"] == 1
        assert sorted(numbers_in(admin, broker)) == list(range(-1, count))


@BOTH
def test_batch_whose_confirmations_were_cut_off_is_stored_once(
    proxy: Proxy, namespace: str, admin: Admin, atomic: bool
) -> None:
    with closing(once_connected(proxy.url, namespace)) as broker:
        proxy.drop_replies()
        enqueueing = in_background(lambda: broker.enqueue_many(messages_to("default", range(900)), atomic=atomic))
        eventually(lambda: admin.count(broker.names.stream("default")) == 901)
        proxy.cut()
        assert not enqueueing.done()
        proxy.resume()

        enqueueing.result(timeout=10)
        assert numbers_in(admin, broker) == list(range(-1, 900))


@BOTH
def test_unconfirmed_batch_names_all_and_its_retry_stores_each_once(
    proxy: Proxy, namespace: str, admin: Admin, atomic: bool
) -> None:
    with closing(once_connected(proxy.url, namespace, timeout=1_000)) as broker:
        hooks = Hooks()
        broker.add_middleware(hooks)
        proxy.drop_replies()

        with pytest.raises(BatchUnconfirmed, match=r"(?s)900 of 900 .* it may or may not be stored") as raised:
            broker.enqueue_many(messages_to("default", range(900)), atomic=atomic)
        assert isinstance(raised.value, BrokerConnectionError)
        assert failed_numbers(raised.value) == list(range(900))
        assert admin.count(broker.names.stream("default")) == 901
        with pytest.raises(BatchUnconfirmed) as again:
            raised.value.retry()
        assert hooks.after == []
        proxy.resume()

        retried = retry_until_stored(again.value)
        assert [message.args[0] for message in retried] == list(range(900))
        assert numbers_in(admin, broker) == list(range(-1, 900))
        assert hooks.before == hooks.after == list(range(900))
        assert again.value.retry() == []


def retry_until_stored(error: BatchFailed) -> list[Message[Any]]:
    """Retry what failed until all of it is stored, while the client reconnects."""
    retried: list[Message[Any]] = []

    def stored() -> bool:
        nonlocal error
        try:
            retried.extend(error.retry())
        except BatchUnconfirmed as next_error:
            error = next_error
            return False
        return True

    eventually(stored)
    return retried


def test_batch_that_hears_nothing_does_not_wait_for_each_window(
    proxy: Proxy, namespace: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq_jetstream.sending.batch.WINDOW", 10)
    with closing(once_connected(proxy.url, namespace, timeout=1_000)) as broker:
        proxy.drop_replies()
        started = time.monotonic()
        with pytest.raises(BatchUnconfirmed, match="500 of 500 messages") as raised:
            broker.enqueue_many(messages_to("default", range(500)))

        # A wait for each window would take fifty seconds or more.
        assert time.monotonic() - started < 20
        proxy.resume()
        retry_until_stored(raised.value)
        assert sorted(numbers_in(admin, broker)) == list(range(-1, 500))


@BOTH
def test_batch_goes_on_when_the_server_is_killed_and_comes_back(namespace: str, atomic: bool) -> None:
    with NatsServer() as server, closing(once_connected(server.url, namespace)) as broker:
        confirmed: list[int] = []

        def fill(start: int) -> None:
            messages = broker.enqueue_many(messages_to("default", range(start, start + 1_000)), atomic=atomic)
            confirmed.extend(message.args[0] for message in messages)

        fill(0)
        filling = [in_background(fill, start) for start in (1_000, 2_000)]
        server.kill()
        filling.append(in_background(fill, 3_000))
        eventually(lambda: not broker.connection.session().client.is_connected)
        server.start()
        for each in filling:
            each.result(timeout=20)

        assert sorted(confirmed) == list(range(4_000))
        with Admin(server.url) as admin:
            assert sorted(numbers_in(admin, broker)) == list(range(-1, 4_000))
