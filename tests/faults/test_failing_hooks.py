"""Enqueues that fail inside of dramatiq's hooks: what should have led on is not acknowledged, it comes back."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Message, MessageProxy, Middleware, group, pipeline
from dramatiq.middleware import GroupCallbacks, MiddlewareError

from dramatiq_jetstream.deliveries.delivery import JetStreamMessage
from dramatiq_jetstream.errors import BrokerConnectionError
from dramatiq_jetstream.worker.consumer import JetStreamConsumer
from dramatiq_jetstream.worker.handling import MAX_HANDOFFS
from tests.contract.helpers import RateLimiterBackend
from tests.support.faults import SOON, Application, take
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tests.support.workers import run_worker


class Cut(Middleware):
    """Cuts the link after each of the first attempts of an actor, and mends it before the message is answered."""

    def __init__(self, proxy: Proxy, actor_name: str, times: int = 1) -> None:
        self.proxy = proxy
        self.actor_name = actor_name
        self.times = times

    # dramatiq calls the hooks that follow a message in the reverse order of its middleware: this comes first.
    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        if message.actor_name == self.actor_name and self.times > 0:
            self.times -= 1
            self.proxy.cut()

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        self.proxy.resume()

    before_nack = before_ack


@pytest.fixture
def wired(application: Application, proxy: Proxy) -> Application:
    """The application, its broker behind the breakable link and quick to give up."""
    application.configure(timeout=500)
    application.rewire(proxy.url)
    return application


def test_parent_comes_back_when_the_next_step_of_its_pipeline_cannot_be_enqueued(
    wired: Application, proxy: Proxy
) -> None:
    wired.broker.add_middleware(Cut(proxy, "parent"))
    runs: list[str] = []

    @dramatiq.actor(broker=wired.broker, max_retries=0)
    def parent() -> str:
        runs.append("parent")
        return "result"

    @dramatiq.actor(broker=wired.broker)
    def child(result: str = "") -> None:
        runs.append(f"child of {result}")

    pipeline([parent.message(), child.message()], broker=wired.broker).run()
    with run_worker(wired.broker, threads=1):
        eventually(lambda: "child of result" in runs, SOON, message="the next step")
        wired.await_empty()

    assert runs.count("parent") == 2
    assert not wired.dead_letters()


def test_last_of_a_group_comes_back_when_the_callback_cannot_be_enqueued(wired: Application, proxy: Proxy) -> None:
    wired.broker.add_middleware(GroupCallbacks(RateLimiterBackend()))
    wired.broker.add_middleware(Cut(proxy, "member"))
    runs: list[str] = []

    @dramatiq.actor(broker=wired.broker)
    def member() -> None:
        runs.append("member")

    @dramatiq.actor(broker=wired.broker)
    def callback() -> None:
        runs.append("callback")

    members = group([member.message()], broker=wired.broker)
    members.add_completion_callback(callback.message())
    members.run()
    with run_worker(wired.broker, threads=1):
        eventually(lambda: "callback" in runs, SOON, message="the callback")
        wired.await_empty()

    assert runs.count("member") == 2


def test_message_comes_back_when_its_exhaustion_cannot_be_reported(wired: Application, proxy: Proxy) -> None:
    wired.broker.add_middleware(Cut(proxy, "fail"))
    runs: list[str] = []

    @dramatiq.actor(broker=wired.broker, max_retries=0, on_retry_exhausted="report")
    def fail() -> None:
        runs.append("fail")
        raise RuntimeError("on purpose")

    @dramatiq.actor(broker=wired.broker)
    def report(message: dict[str, Any], retries: dict[str, int]) -> None:
        runs.append("report")

    fail.send()
    with run_worker(wired.broker, threads=1):
        eventually(lambda: "report" in runs, SOON, message="the report")
        wired.await_empty()

    # The report whose confirmation was cut off may be stored all the same.
    assert runs.count("fail") == 2
    [letter] = wired.dead_letters()
    assert letter.reason == "retries exhausted"


def test_message_comes_back_when_its_retry_cannot_be_enqueued(application: Application) -> None:
    runs: list[int] = []

    class Refuse(Middleware):
        refusals = 2

        def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
            if "retries" in message.options and self.refusals:
                self.refusals -= 1
                raise MiddlewareError("refused on purpose")

    application.broker.add_middleware(Refuse())

    @dramatiq.actor(broker=application.broker, max_retries=1, min_backoff=1, max_backoff=1)
    def fail(number: int) -> None:
        runs.append(number)
        raise RuntimeError("on purpose")

    fail.send(1)
    with run_worker(application.broker, threads=1):
        letter = application.await_dead_letter()
        application.await_empty()

    # Twice the failure was no attempt, since nothing could follow it.
    assert len(runs) == 4
    assert letter.reason == "retries exhausted"


def test_long_outage_does_not_use_up_the_times_a_message_may_come_back(wired: Application, proxy: Proxy) -> None:
    wired.configure(timeout=200)

    @dramatiq.actor(broker=wired.broker, max_retries=0)
    def parent() -> None: ...

    parent.send()
    consumer = wired.broker.consume("default", timeout=100)
    message = take(consumer)
    message.hook_error = ConnectionError("the next step was cut off")
    proxy.cut()
    for _ in range(MAX_HANDOFFS + 1):
        with pytest.raises(BrokerConnectionError):
            consumer.ack(message)
    proxy.resume()

    eventually(lambda: acknowledged(consumer, message), SOON)
    assert not wired.dead_letters()
    # The copy is stored before the first one is removed, whose acknowledgement nobody waits for.
    eventually(lambda: wired.stored() == 1, SOON)


def acknowledged(consumer: JetStreamConsumer, message: JetStreamMessage) -> bool:
    """Whether a message could be acknowledged now."""
    try:
        consumer.ack(message)
    except BrokerConnectionError:
        return False
    return True
