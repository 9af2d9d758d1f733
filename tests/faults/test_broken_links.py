"""Links that break at the worst moment: what was not confirmed is repeated, and done once."""

from __future__ import annotations

import threading
from contextlib import closing

import dramatiq
import pytest

from dramatiq_jetstream import JetStreamBroker, NatsServer
from dramatiq_jetstream.client import outbox
from dramatiq_jetstream.errors import BrokerConnectionError
from tests.support.admin import Admin
from tests.support.faults import SOON, Application, take
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tests.support.workers import in_background, run_worker


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have dramatiq repeat an acknowledgement sooner than after five seconds."""
    monkeypatch.setattr("dramatiq.worker.POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.1)


@pytest.mark.faults
def test_worker_on_a_half_open_link_reconnects(application: Application, proxy: Proxy) -> None:
    with application.workers(url=proxy.url) as workers:
        application.send("before")
        application.await_notes("end", "before")
        proxy.black_hole()
        workers.await_line("Lost the connection")
        proxy.resume()

        application.send("after")
        application.await_notes("end", "after")
        application.await_empty()


def test_message_whose_confirmation_was_cut_off_is_stored_once(application: Application, proxy: Proxy) -> None:
    application.send("before")
    application.rewire(proxy.url)
    application.send("first through the link")
    proxy.drop_replies()
    sending = in_background(application.send, "cut off")
    eventually(lambda: application.stored() == 3, SOON)
    proxy.cut()
    proxy.resume()
    sending.result(SOON / 1000)

    assert application.stored() == 3
    with application.workers():
        application.await_empty()
    assert len(application.notes("end", "cut off")) == 1


@pytest.mark.parametrize("confirm", [False, True])
def test_acknowledgement_lost_with_its_link_is_repeated_and_nothing_runs_twice(
    application: Application, proxy: Proxy, confirm: bool
) -> None:
    application.configure(timeout=1_000)
    application.rewire(proxy.url, confirm_acks=confirm, ack_wait=60_000)
    acknowledged = threading.Event()
    runs = []

    class Watch(dramatiq.Middleware):
        def after_ack(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            acknowledged.set()

    application.broker.add_middleware(Watch())

    @dramatiq.actor(broker=application.broker, actor_name="run", max_retries=3)
    def run(key: str) -> None:
        runs.append(key)
        proxy.cut()

    application.send("cut off")
    with run_worker(application.broker, threads=1):
        eventually(lambda: runs, SOON)
        assert application.stored() == 1
        proxy.resume()
        assert acknowledged.wait(SOON / 1000)
        application.await_empty()

    assert runs == ["cut off"]


def test_acknowledgement_that_the_server_saw_a_moment_ago_is_repeated(
    application: Application, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "KEPT", SOON)
    application.rewire(proxy.url)
    acknowledgements = application.admin.subscribe(f"$JS.ACK.{application.broker.names.stream('default')}.>")
    dramatiq.actor(broker=application.broker, actor_name="run", max_retries=3)(print)
    with run_worker(application.broker, threads=1):
        application.send("seen")
        first = acknowledgements.get(timeout=SOON / 1000)
        application.await_empty()
        eventually(lambda: application.broker.connection.session().outbox.size == 0, SOON, message="the pong")
        proxy.cut()
        proxy.resume()
        again = acknowledgements.get(timeout=SOON / 1000)

    assert (again.subject, again.data) == (first.subject, first.data)
    assert application.deliveries() == 1


def test_confirmed_acknowledgement_whose_answer_is_lost_is_sent_again_without_waiting(
    application: Application, proxy: Proxy
) -> None:
    application.configure(timeout=500)
    application.rewire(proxy.url, confirm_acks=True, ack_wait=60_000)
    acknowledged = threading.Event()

    class Watch(dramatiq.Middleware):
        def after_ack(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            acknowledged.set()

    application.broker.add_middleware(Watch())
    runs = []

    @dramatiq.actor(broker=application.broker, actor_name="run", max_retries=3)
    def run(key: str) -> None:
        runs.append(key)
        if key == "unheard":
            proxy.drop_replies()

    application.send("unheard")
    with run_worker(application.broker, threads=1):
        assert acknowledged.wait(SOON / 1000)
        proxy.resume()
        application.send_until_stored("next")
        application.await_empty()

    assert runs == ["unheard", "next"]
    assert application.deliveries() == 2


def test_acknowledgement_after_the_connection_was_closed_goes_over_the_next_one(
    broker: JetStreamBroker, admin: Admin
) -> None:
    broker.declare_actor(dramatiq.actor(broker=broker, actor_name="run")(lambda: None))
    broker.enqueue(broker.actors["run"].message())
    consumer = broker.consume("default", timeout=100)
    message = take(consumer)
    broker.connection.close()

    consumer.ack(message)

    eventually(lambda: admin.count(broker.names.stream("default")) == 0)


def test_acknowledgement_after_the_connection_was_closed_raises_what_dramatiq_retries_without_a_server(
    namespace: str,
) -> None:
    with NatsServer() as server, closing(JetStreamBroker(server.url, namespace=namespace, timeout=500)) as broker:
        broker.declare_actor(dramatiq.actor(broker=broker, actor_name="run")(lambda: None))
        broker.enqueue(broker.actors["run"].message())
        message = take(consumer := broker.consume("default", timeout=100))
        broker.connection.close()
        server.kill()

        with pytest.raises(BrokerConnectionError):
            consumer.ack(message)

        server.start()
        consumer.ack(message)
