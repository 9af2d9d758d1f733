"""Sentry's dramatiq integration, with a transport that keeps what would be sent."""

from __future__ import annotations

import json
from typing import Any

from tests.frameworks.conftest import Start


def test_exceptions_and_transactions_are_reported_with_their_message(start: Start) -> None:
    program = start("python", "-m", "tests.frameworks.apps.reported")
    assert program.wait() == 0, program.log
    sent: list[dict[str, Any]] = json.loads(program.log.splitlines()[-1])

    errors = [event for event in sent if event.get("exception")]
    assert [error["exception"]["values"][-1]["value"] for error in errors] == ["order 7 cannot be shipped"] * 2
    for error in errors:
        assert error["transaction"] == "fail"
        assert error["contexts"]["dramatiq"]["data"]["args"] == [7]
    assert errors[0]["extra"]["dramatiq_message_id"] == errors[1]["extra"]["dramatiq_message_id"]
    transactions = [event["transaction"] for event in sent if event.get("type") == "transaction"]
    assert sorted(transactions) == ["expected", "fail", "fail"]
