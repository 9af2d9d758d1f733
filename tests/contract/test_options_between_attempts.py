"""What a failed attempt leaves in a message's options, the next one sees."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import dramatiq
import pytest
from dramatiq import MessageProxy, Middleware, Worker
from dramatiq.common import current_millis
from dramatiq.middleware import CurrentMessage, Retries

from tests.contract.helpers import DRAMATIQ_2, AnyBroker, finish

SOON: dict[str, Any] = {"min_backoff": 1, "max_backoff": 1}

#: The second continues, on a broker that counts deliveries, as a copy after the first attempt.
BUDGETS = pytest.mark.parametrize("budget", [{}, {"max_retries": 0}], ids=["of-the-queue", "beyond-the-queue"])


def observe() -> tuple[list[dict[str, Any]], Callable[[], None]]:
    """The options that each attempt saw, and a function that notes them and fails twice."""
    seen: list[dict[str, Any]] = []

    def attempt() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        seen.append(deepcopy(message.options))
        if len(seen) < 3:
            raise RuntimeError(f"failure number {len(seen)}")

    return seen, attempt


@BUDGETS
def test_retries_are_counted_in_the_options(broker: AnyBroker, worker: Worker, budget: dict[str, Any]) -> None:
    seen, attempt = observe()
    actor = dramatiq.actor(actor_name="observed", **budget, **SOON)(attempt)

    actor.send_with_options(max_retries=5)
    finish(broker, worker)

    assert [options.get("retries", 0) for options in seen] == [0, 1, 2]


@BUDGETS
def test_traceback_of_the_last_failure_is_in_the_options(
    broker: AnyBroker, worker: Worker, budget: dict[str, Any]
) -> None:
    seen, attempt = observe()
    actor = dramatiq.actor(actor_name="observed", **budget, **SOON)(attempt)

    actor.send_with_options(max_retries=5)
    finish(broker, worker)

    assert "traceback" not in seen[0]
    assert "failure number 1" in seen[1]["traceback"]
    assert "failure number 2" in seen[2]["traceback"]


@pytest.mark.skipif(not DRAMATIQ_2, reason="dramatiq 1 does not set this option")
@BUDGETS
def test_time_of_the_last_failure_is_in_the_options(broker: AnyBroker, worker: Worker, budget: dict[str, Any]) -> None:
    seen, attempt = observe()
    actor = dramatiq.actor(actor_name="observed", **budget, **SOON)(attempt)

    started_at = current_millis()
    actor.send_with_options(max_retries=5)
    finish(broker, worker)

    assert "requeue_timestamp" not in seen[0]
    assert started_at <= seen[1]["requeue_timestamp"] <= seen[2]["requeue_timestamp"] <= current_millis()


class Diary(Middleware):
    """Leaves something in the options of a message at each step of a failed attempt."""

    def before_process_message(self, broker: Any, message: MessageProxy) -> None:
        message.options["begun"] = message.options.get("begun", 0) + 1

    def after_process_message(self, broker: Any, message: MessageProxy, **outcome: Any) -> None:
        message.options.setdefault("notes", []).append(str(outcome["exception"]))

    def before_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
        message.options["enqueued"] = message.options.get("enqueued", 0) + (1 if "retries" in message.options else 0)


@BUDGETS
def test_options_that_middleware_adds_are_seen_by_the_next_attempt(
    broker: AnyBroker, worker: Worker, budget: dict[str, Any]
) -> None:
    # Ahead of Retries when it comes to notes: the hooks after an attempt run from the last to the first.
    broker.add_middleware(Diary(), after=Retries)
    seen, attempt = observe()
    actor = dramatiq.actor(actor_name="observed", **budget, **SOON)(attempt)

    actor.send_with_options(max_retries=5, color="red")
    finish(broker, worker)

    assert [options["begun"] for options in seen] == [1, 2, 3]
    assert seen[1]["notes"] == ["failure number 1"]
    assert seen[2]["notes"] == ["failure number 1", "failure number 2"]
    assert seen[2]["enqueued"] >= 2
    assert {options["color"] for options in seen} == {"red"}


@BUDGETS
def test_options_that_the_actor_adds_are_seen_by_its_next_attempt(
    broker: AnyBroker, worker: Worker, budget: dict[str, Any]
) -> None:
    progress: list[int] = []

    @dramatiq.actor(min_backoff=1, max_backoff=1, **budget)
    def stepwise() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        done = message.options.get("done", 0)
        progress.append(done)
        message.options["done"] = done + 10
        if done < 20:
            raise RuntimeError("not finished")

    stepwise.send_with_options(max_retries=5)
    finish(broker, worker)

    assert progress == [0, 10, 20]


@BUDGETS
def test_option_that_was_removed_stays_away_from_the_next_attempt(
    broker: AnyBroker, worker: Worker, budget: dict[str, Any]
) -> None:
    seen: list[bool] = []

    @dramatiq.actor(min_backoff=1, max_backoff=1, **budget)
    def once() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        seen.append("only_once" in message.options)
        message.options.pop("only_once", None)
        if len(seen) < 3:
            raise RuntimeError("not yet")

    once.send_with_options(max_retries=5, only_once=True)
    finish(broker, worker)

    assert seen == [True, False, False]


@BUDGETS
def test_change_within_an_option_that_was_sent_is_seen_by_the_next_attempt(
    broker: AnyBroker, worker: Worker, budget: dict[str, Any]
) -> None:
    seen: list[list[int]] = []

    @dramatiq.actor(min_backoff=1, max_backoff=1, **budget)
    def collect() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        seen.append(list(message.options["collected"]))
        message.options["collected"].append(len(seen))
        if len(seen) < 3:
            raise RuntimeError("not yet")

    collect.send_with_options(max_retries=5, collected=[])
    finish(broker, worker)

    assert seen == [[], [1], [1, 2]]


def test_no_message_is_current_outside_of_actors(broker: AnyBroker, worker: Worker) -> None:
    inside: list[object] = []

    @dramatiq.actor
    def note() -> None:
        inside.append(CurrentMessage.get_current_message())

    note.send()
    finish(broker, worker)

    assert inside != [None]
    assert CurrentMessage.get_current_message() is None
