"""Asynchronous and generic actors, and actors with a priority."""

from __future__ import annotations

import asyncio
import threading

import dramatiq
from dramatiq.middleware import AsyncIO, CurrentMessage

from tests.contract.helpers import AnyBroker, StartWorker, dead_letter_count, finish, wait_for
from tests.support.waiting import eventually


def test_coroutine_actors_run_side_by_side(broker: AnyBroker, start_worker: StartWorker) -> None:
    broker.add_middleware(AsyncIO())
    ran: list[int] = []
    # Not bound to a loop before an actor waits for it.
    met = asyncio.Event()
    here: set[int] = set()

    @dramatiq.actor
    async def meet(number: int) -> None:
        here.add(number)
        if len(here) == 3:
            met.set()
        await met.wait()
        ran.append(number)

    for number in range(3):
        meet.send(number)
    finish(broker, start_worker())

    assert sorted(ran) == [0, 1, 2]


def test_coroutine_actor_is_retried_and_sees_its_message(broker: AnyBroker, start_worker: StartWorker) -> None:
    broker.add_middleware(AsyncIO())
    retries: list[int] = []

    @dramatiq.actor(max_retries=2, min_backoff=1, max_backoff=1)
    async def fail() -> None:
        await asyncio.sleep(0)
        message = CurrentMessage.get_current_message()
        assert message is not None
        retries.append(message.options.get("retries", 0))
        raise RuntimeError("on purpose")

    fail.send()
    finish(broker, start_worker())

    assert retries == [0, 1, 2]
    assert dead_letter_count(broker) == 1


def test_generic_actors_run_with_the_options_of_their_base(broker: AnyBroker, start_worker: StartWorker) -> None:
    ran: list[str] = []

    class Base(dramatiq.GenericActor):
        class Meta:
            abstract = True
            queue_name = "generic"
            max_retries = 1
            min_backoff = 1
            max_backoff = 1

        def get_name(self) -> str:
            raise NotImplementedError

        def perform(self, fail: bool) -> None:
            ran.append(self.get_name())
            if fail:
                raise RuntimeError("on purpose")

    class First(Base):
        def get_name(self) -> str:
            return "first"

    class Second(Base):
        def get_name(self) -> str:
            return "second"

    First.send(False)
    Second.send(True)
    finish(broker, start_worker(), "generic")

    assert sorted(ran) == ["first", "second", "second"]
    assert broker.get_declared_actors() == {"First", "Second"}
    assert dead_letter_count(broker, "generic") == 1


def test_more_urgent_actor_of_those_prefetched_runs_first(broker: AnyBroker, start_worker: StartWorker) -> None:
    started, release = threading.Event(), threading.Event()
    ran: list[str] = []

    @dramatiq.actor
    def gate() -> None:
        started.set()
        wait_for(release)

    @dramatiq.actor(priority=10)
    def low() -> None:
        ran.append("low")

    @dramatiq.actor(priority=0)
    def high() -> None:
        ran.append("high")

    worker = start_worker(threads=1, prefetch=8)
    gate.send()
    wait_for(started)
    low.send()
    low.send()
    high.send()
    eventually(lambda: worker.work_queue.qsize() == 3, message="prefetching")
    release.set()
    finish(broker, worker)

    assert ran == ["high", "low", "low"]
