"""What makes nats-py stop reading while it says that it is connected."""

from __future__ import annotations

import asyncio
from typing import Any

import dramatiq
import pytest

from dramatiq_jetstream import JetStreamBroker
from tests.support.waiting import eventually


@pytest.fixture
def actor(broker: JetStreamBroker) -> dramatiq.Actor[..., Any]:
    @dramatiq.actor(broker=broker)
    def do_nothing() -> None:
        pass

    do_nothing.send()
    return do_nothing


def test_pong_that_nobody_waits_for_does_not_stop_the_reading(
    broker: JetStreamBroker, actor: dramatiq.Actor[..., Any]
) -> None:
    session = broker.connection.session()

    async def give_up_a_pong() -> None:
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        await session.client._send_ping(pong)
        pong.cancel()
        await session.client.ping()

    session.thread.run(give_up_a_pong)
    actor.send()

    assert session.client.stats["reconnects"] == 0


def test_client_that_stopped_reading_connects_anew(
    broker: JetStreamBroker, actor: dramatiq.Actor[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    session = broker.connection.session()

    async def stop_reading() -> None:
        assert session.client._reading_task is not None
        session.client._reading_task.cancel()

    session.thread.run(stop_reading)
    eventually(lambda: session.client.stats["reconnects"] == 1)
    actor.send()

    assert "stopped reading from NATS" in caplog.text


def test_connection_that_cannot_be_closed_cleanly_is_ended(nats_url: str, namespace: str) -> None:
    broker = JetStreamBroker(nats_url, namespace=namespace, timeout=300)
    session = broker.connection.session()

    async def never() -> None:
        await asyncio.Event().wait()

    session.outbox.settle = never  # type: ignore[method-assign]
    broker.close()

    assert not session.thread.is_alive
    assert session.client.is_closed
