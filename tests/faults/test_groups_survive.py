"""Groups whose members' processes are killed: each member counts once, and the callback runs exactly once."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.middleware import GroupCallbacks

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.rate_limits import RECENT_MEMBERS, JetStreamBackend
from tests.support.admin import Admin
from tests.support.bw import Program
from tests.support.faults import ACK_WAIT, SOON, Note, make_settings, notes_of
from tests.support.waiting import eventually

#: One, few, and more than a barrier's value remembers.
SIZES = [1, 2, RECENT_MEMBERS + 8, 200]


@pytest.fixture
def settings(namespace: str) -> dict[str, Any]:
    queues = {"default": {"ack_wait": ACK_WAIT}, "callbacks": {"ack_wait": ACK_WAIT}}
    return {"namespace": namespace, "queues": queues}


@pytest.fixture
def broker(nats_url: str, settings: dict[str, Any], admin: Admin) -> Iterator[JetStreamBroker]:
    broker = JetStreamBroker(nats_url, **make_settings(settings))
    broker.add_middleware(GroupCallbacks(JetStreamBackend(broker=broker)))
    broker.declare_queue("default")
    broker.declare_queue("callbacks")
    yield broker
    broker.close()


def message(actor_name: str, key: str, queue_name: str = "default") -> Message[Any]:
    return Message(queue_name=queue_name, actor_name=actor_name, args=(key,), kwargs={}, options={})


def run_group(broker: JetStreamBroker, size: int) -> None:
    group = dramatiq.group([message("member", str(number)) for number in range(size)], broker=broker)
    group.add_completion_callback(message("complete", "done", "callbacks"))
    group.run()


def work(url: str, settings: dict[str, Any], folder: Path, queue_name: str, moment: str | None = None) -> Program:
    """A worker of one queue, whose process dies at a moment if one is given."""
    variables = {"NATS_URL": url, "FAULTS_FOLDER": str(folder), "FAULTS_SETTINGS": json.dumps(settings)}
    command = [
        sys.executable,
        "-m",
        "dramatiq",
        "tests.support.apps.grouping",
        "--processes",
        "1",
        "--threads",
        "4",
        "--queues",
    ]
    return Program(
        [*command, queue_name],
        folder / f"{queue_name}-{moment}.log",
        variables | ({"GROUPING_MOMENT": moment} if moment else {}),
    )


def notes(folder: Path, what: str) -> list[Note]:
    return [note for note in notes_of(folder) if note.what == what]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("moment", ["counted", "clearing", "cleared"])
def test_callback_runs_exactly_once_whenever_a_member_is_killed(
    nats_url: str, settings: dict[str, Any], broker: JetStreamBroker, tmp_path: Path, moment: str, size: int
) -> None:
    run_group(broker, size)
    with work(nats_url, settings, tmp_path, "default", moment) as first:
        eventually(lambda: not first.is_running, SOON, message="the end of the first worker")
    assert (tmp_path / "died").exists()
    # Only now, or the callback might run in the process that dies, and rightly run again.
    with work(nats_url, settings, tmp_path, "default"), work(nats_url, settings, tmp_path, "callbacks"):
        broker.join("default", timeout=SOON)
        broker.join("callbacks", timeout=SOON)

    [completed] = notes(tmp_path, "complete")
    first_runs: dict[str, float] = {}
    for note in notes(tmp_path, "member"):
        first_runs.setdefault(note.key, note.at)
    assert first_runs.keys() == {str(number) for number in range(size)}
    assert completed.at >= max(first_runs.values())
