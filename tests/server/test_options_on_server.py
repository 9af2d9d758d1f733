"""Options that are unusual and allowed mean on the server what they mean with dramatiq's own brokers."""

from __future__ import annotations

import math
import time
from typing import Any

import dramatiq
import pytest
from dramatiq import Retry
from dramatiq.middleware import Retries, TimeLimit

from dramatiq_jetstream import JetStreamBroker
from tests.support.admin import Admin
from tests.support.waiting import eventually
from tests.support.workers import run_worker


class Failing:
    """An actor that fails so many times before it succeeds."""

    def __init__(self, broker: JetStreamBroker, times: int, error: Exception | None = None, **options: Any) -> None:
        self.ran: list[float] = []
        self.times = times
        self.error = error or ValueError("not yet")
        self.actor = dramatiq.actor(broker=broker, actor_name="run", **options)(self.run)

    def run(self) -> None:
        self.ran.append(time.monotonic())
        if len(self.ran) <= self.times:
            raise self.error

    @property
    def is_done(self) -> bool:
        return len(self.ran) == self.times + 1


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": math.inf, "time_limit": math.inf},
        {"max_retries": 10**30},
        {"max_retries": 24.5},
        {"max_retries": None},
    ],
    ids=repr,
)
@pytest.mark.parametrize("where", ["actor", "message", "middleware"])
def test_number_of_retries_is_followed_beyond_what_the_server_allows(
    nats_url: str, namespace: str, where: str, options: dict[str, Any]
) -> None:
    defaults = [Retries(max_retries=options["max_retries"], min_backoff=1), TimeLimit()]
    middleware = defaults if where == "middleware" else [Retries(min_backoff=1), TimeLimit()]
    broker = JetStreamBroker(nats_url, namespace=namespace, middleware=middleware)
    failing = Failing(broker, 25, max_backoff=1, **(options if where == "actor" else {}))

    failing.actor.send_with_options(**(options if where == "message" else {}))

    with run_worker(broker):
        eventually(lambda: failing.is_done)
        broker.join("default", timeout=10_000)
    assert broker.get_queue_message_counts("default") == (0, 0, 0)
    broker.close()


@pytest.mark.parametrize("delay", [300.5, 300])
def test_retry_waits_for_a_delay_that_is_a_fraction(broker: JetStreamBroker, delay: float) -> None:
    failing = Failing(broker, 1, Retry(delay=delay))  # type: ignore[arg-type]

    failing.actor.send()

    with run_worker(broker):
        eventually(lambda: failing.is_done)
    assert failing.ran[1] - failing.ran[0] >= 0.3


@pytest.mark.parametrize("delay", ["soon", math.nan, math.inf, 10**400, [1]], ids=lambda delay: f"{delay!r:.10}")
def test_retry_after_anything_else_is_neither_lost_nor_at_once(
    broker: JetStreamBroker, admin: Admin, delay: Any
) -> None:
    failing = Failing(broker, 1, Retry(delay=delay))

    failing.actor.send()

    with run_worker(broker):
        # The record of its first attempt is written just before the server is asked for the next.
        eventually(lambda: admin.count(f"KV_{broker.attempts.bucket}") == 1)
        assert admin.count(broker.names.stream("default")) == 1
        assert len(failing.ran) == 1


def test_infinite_lifetime_of_a_dead_letter_is_for_ever(broker: JetStreamBroker) -> None:
    failing = Failing(broker, 1, max_retries=0, dead_message_ttl=1_000)

    failing.actor.send_with_options(dead_message_ttl=math.inf)

    with run_worker(broker):
        [letter] = eventually(lambda: list(broker.dead_letters.list()))
    assert "Nats-TTL" not in letter.headers
