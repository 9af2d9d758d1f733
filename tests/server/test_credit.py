"""What a worker asks for in advance: no more of it than its threads take, once messages are slow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import dramatiq
import pytest

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.worker.consumer import MAX_RETURNS
from tests.support.admin import Admin
from tests.support.waiting import eventually
from tests.support.workers import run_worker

THREADS = 4


class Application:
    """Quick messages, and slow ones that end when the test does."""

    def __init__(self, url: str, namespace: str, over: threading.Event) -> None:
        self.broker = JetStreamBroker(url, namespace=namespace)
        self.quick_ran: list[int] = []
        self.slow_ran: list[int] = []

        @dramatiq.actor(broker=self.broker)
        def quick(number: int) -> None:
            self.quick_ran.append(number)

        @dramatiq.actor(broker=self.broker)
        def slow(number: int) -> None:
            self.slow_ran.append(number)
            over.wait()

        self.quick, self.slow = quick, slow

    def held(self, admin: Admin) -> int:
        found = admin.consumer(self.broker.names.stream("default"), self.broker.names.consumer)
        return int(found["num_ack_pending"])


@contextmanager
def released(over: threading.Event) -> Iterator[None]:
    """Let the slow messages end, however the test does, before their worker waits for them."""
    try:
        yield
    finally:
        over.set()


@pytest.fixture
def over() -> threading.Event:
    return threading.Event()


@pytest.mark.parametrize("one_by_one", [False, True], ids=["as a backlog", "one by one"])
def test_slow_messages_after_a_burst_of_quick_ones_are_left_to_other_workers(
    nats_url: str, namespace: str, admin: Admin, over: threading.Event, one_by_one: bool
) -> None:
    first, second = Application(nats_url, namespace, over), Application(nats_url, namespace, over)
    with closing(first.broker), closing(second.broker), run_worker(first.broker, threads=THREADS), released(over):
        if one_by_one:
            for number in range(500):
                first.quick.send(number)
        else:
            first.broker.enqueue_many([first.quick.message(number) for number in range(3_000)])
        eventually(lambda: first.broker.get_queue_message_counts("default")[0] == first.held(admin) == 0)

        first.broker.enqueue_many([first.slow.message(number) for number in range(60)])
        eventually(lambda: len(first.slow_ran) == THREADS)
        assert first.held(admin) == THREADS

        with run_worker(second.broker, threads=THREADS), released(over):
            eventually(lambda: len(second.slow_ran) == THREADS)
            assert first.held(admin) == 2 * THREADS
            over.set()
            eventually(lambda: sorted(first.slow_ran + second.slow_ran) == list(range(60)))


def test_slow_messages_prefetched_behind_quick_ones_go_to_an_idle_worker(
    nats_url: str, namespace: str, admin: Admin, over: threading.Event
) -> None:
    first, second = Application(nats_url, namespace, over), Application(nats_url, namespace, over)
    with closing(first.broker), closing(second.broker), run_worker(first.broker, threads=THREADS), released(over):
        quick = [first.quick.message(number) for number in range(3_000)]
        first.broker.enqueue_many([*quick, *(first.slow.message(number) for number in range(40))])
        eventually(lambda: len(first.slow_ran) == THREADS)

        with run_worker(second.broker, threads=THREADS), released(over):
            eventually(lambda: len(second.slow_ran) == THREADS)
            over.set()
            eventually(lambda: sorted(first.slow_ran + second.slow_ran) == list(range(40)))
            # Each was given back so often at most.
            assert delivered(first, admin) <= 3_000 + (1 + MAX_RETURNS) * 40
            assert first.broker.get_queue_message_counts("default")[2] == 0


def delivered(application: Application, admin: Admin) -> int:
    names = application.broker.names
    return int(admin.consumer(names.stream("default"), names.consumer)["delivered"]["consumer_seq"])
