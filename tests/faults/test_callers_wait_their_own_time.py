"""However many callers wait for a server that is away, each waits for its own timeout; closing is bounded as well."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from dramatiq_jetstream import JetStreamBroker, NatsServer
from dramatiq_jetstream.errors import BrokerConnectionError, ServerUnreachable
from tests.support.admin import Admin
from tests.support.ports import free_ports
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tests.support.workers import in_background, run_worker

#: Milliseconds; and seconds within which all callers must have ended, far less than one timeout after the other.
TIMEOUT = 1_000
CALLERS = 12
BOUND = 6.0


def message() -> Message[Any]:
    return Message(queue_name="default", actor_name="keep", args=(), kwargs={}, options={})


CALLS: dict[str, Callable[[JetStreamBroker], object]] = {
    "send": lambda broker: broker.enqueue(message()),
    "enqueue_many": lambda broker: broker.enqueue_many([message()]),
    "counts": lambda broker: broker.get_queue_message_counts("default"),
    "subscribe": lambda broker: broker.subscribe("noon", print),
}


def seconds_until_it_fails(call: Callable[[JetStreamBroker], object], broker: JetStreamBroker) -> float:
    begun = time.monotonic()
    with pytest.raises(dramatiq.errors.BrokerError):
        call(broker)
    return time.monotonic() - begun


@pytest.mark.parametrize("call", CALLS)
def test_each_caller_waits_for_its_own_timeout_without_a_server(namespace: str, call: str) -> None:
    [port] = free_ports(1)
    broker = JetStreamBroker(f"nats://127.0.0.1:{port}", namespace=namespace, timeout=TIMEOUT)
    broker.declare_queue("default")
    with closing(broker):
        callers = [in_background(seconds_until_it_fails, CALLS[call], broker) for _ in range(CALLERS)]

        assert max(caller.result(30) for caller in callers) < BOUND


def test_caller_that_comes_late_waits_for_its_own_timeout(namespace: str) -> None:
    [port] = free_ports(1)
    broker = JetStreamBroker(f"nats://127.0.0.1:{port}", namespace=namespace, timeout=TIMEOUT)
    with closing(broker):
        first = in_background(seconds_until_it_fails, CALLS["send"], broker)
        eventually(lambda: broker.connection._openings)
        time.sleep(TIMEOUT / 2000)
        late = seconds_until_it_fails(CALLS["send"], broker)

        assert first.result(10) >= TIMEOUT / 1000 * 0.9
        assert late >= TIMEOUT / 1000 * 0.9


@pytest.mark.parametrize("call", ["send", "enqueue_many", "counts"])
def test_each_caller_waits_for_its_own_timeout_on_a_silent_link(
    proxy: Proxy, namespace: str, admin: Admin, call: str
) -> None:
    with closing(JetStreamBroker(proxy.url, namespace=namespace, timeout=TIMEOUT)) as broker:
        broker.enqueue(message())
        proxy.black_hole()
        callers = [in_background(seconds_until_it_fails, CALLS[call], broker) for _ in range(CALLERS)]

        assert max(caller.result(30) for caller in callers) < BOUND
        proxy.resume()


def test_callers_share_one_connection(nats_url: str, namespace: str, admin: Admin) -> None:
    with closing(JetStreamBroker(nats_url, namespace=namespace)) as broker:
        callers = [in_background(broker.connection.session) for _ in range(CALLERS)]

        assert len({id(caller.result(10)) for caller in callers}) == 1


def test_failed_opening_does_not_keep_the_next_from_working(namespace: str) -> None:
    with NatsServer() as server, closing(JetStreamBroker(server.url, namespace=namespace, timeout=TIMEOUT)) as broker:
        server.stop()
        with pytest.raises(ServerUnreachable):
            broker.enqueue(message())
        server.start()
        broker.enqueue(message())


def test_broker_closed_before_its_worker_ends_in_time_and_answers_what_ran(
    broker: JetStreamBroker, admin: Admin
) -> None:
    started: list[int] = []
    released: list[bool] = []

    def hold(number: int) -> None:
        started.append(number)
        eventually(lambda: released, 30_000)

    actor = dramatiq.actor(actor_name="hold", broker=broker)(hold)
    with run_worker(broker, threads=2):
        for number in range(6):
            actor.send(number)
        eventually(lambda: len(started) == 2)
        in_background(broker.close).result(10)
        released.append(True)
    assert len(started) == 2
    assert admin.count(broker.names.stream("default")) == 4


@pytest.mark.parametrize("fault", ["black_hole", "cut"])
def test_closing_is_bounded_while_the_link_is_gone(proxy: Proxy, namespace: str, admin: Admin, fault: str) -> None:
    with closing(JetStreamBroker(proxy.url, namespace=namespace, timeout=TIMEOUT)) as broker:
        actor = dramatiq.actor(actor_name="keep", broker=broker)(lambda: None)
        actor.send()
        with run_worker(broker), broker.subscribe("noon", print):
            getattr(proxy, fault)()
            with pytest.raises(BrokerConnectionError):
                actor.send()
            in_background(broker.close).result(20)
            # The worker's consumers begin anew.
            proxy.resume()
