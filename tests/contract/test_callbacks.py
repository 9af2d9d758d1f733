"""Actors that hear of the success or failure of others."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest
from dramatiq import Worker

from tests.contract.helpers import AnyBroker, failing, finish


@pytest.fixture
def heard(broker: AnyBroker) -> list[tuple[str, dict[str, Any], Any]]:
    """What the two callback actors were told."""
    heard: list[tuple[str, dict[str, Any], Any]] = []

    @dramatiq.actor
    def succeeded(message_data: dict[str, Any], result: object) -> None:
        heard.append(("succeeded", message_data, result))

    @dramatiq.actor
    def failed(message_data: dict[str, Any], exception_data: dict[str, str]) -> None:
        heard.append(("failed", message_data, exception_data))

    return heard


def test_on_success_is_told_the_result(
    broker: AnyBroker, worker: Worker, heard: list[tuple[str, dict[str, Any], Any]]
) -> None:
    @dramatiq.actor(on_success="succeeded", on_failure="failed")
    def work() -> dict[str, int]:
        return {"answer": 42}

    sent = work.send()
    finish(broker, worker)

    [(kind, message_data, result)] = heard
    assert (kind, result) == ("succeeded", {"answer": 42})
    assert message_data["message_id"] == sent.message_id


def test_on_failure_is_told_the_exception(
    broker: AnyBroker, worker: Worker, heard: list[tuple[str, dict[str, Any], Any]]
) -> None:
    @dramatiq.actor(on_success="succeeded", on_failure="failed", max_retries=0)
    def work() -> None:
        raise RuntimeError("on purpose")

    sent = work.send()
    finish(broker, worker)

    [(kind, message_data, exception_data)] = heard
    assert (kind, exception_data) == ("failed", {"type": "RuntimeError", "message": "on purpose"})
    assert message_data["message_id"] == sent.message_id


def test_on_failure_is_told_of_each_attempt(
    broker: AnyBroker, worker: Worker, heard: list[tuple[str, dict[str, Any], Any]]
) -> None:
    attempt = failing(2)

    @dramatiq.actor(on_success="succeeded", on_failure="failed", min_backoff=1, max_backoff=1)
    def work() -> int:
        return attempt()

    work.send()
    finish(broker, worker)

    assert sorted(kind for kind, *_ in heard) == ["failed", "failed", "succeeded"]


def test_callbacks_can_be_chosen_for_a_single_message(
    broker: AnyBroker, worker: Worker, heard: list[tuple[str, dict[str, Any], Any]]
) -> None:
    @dramatiq.actor
    def work() -> int:
        return 1

    work.send_with_options(on_success=broker.get_actor("succeeded"))
    work.send()
    finish(broker, worker)

    assert [(kind, result) for kind, _, result in heard] == [("succeeded", 1)]
