"""Groups whose members' processes are killed: each member counts once, and the callback runs exactly once."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.middleware import GroupCallbacks

from dramatiq_jetstream import JetStreamBroker, NatsServer
from dramatiq_jetstream.rate_limits import RECENT_MEMBERS, JetStreamBackend
from tests.support.bw import Program
from tests.support.faults import ACK_WAIT, SOON, Note, make_settings, notes_of
from tests.support.waiting import eventually

#: One, few, and more than a barrier's value remembers.
SIZES = [1, 2, RECENT_MEMBERS + 8, 200]

#: When the process of a member dies; :mod:`tests.support.apps.grouping` says what they mean.
MOMENTS = ["counted", "clearing", "cleared"]


#: How many groups run at once: each mostly waits for a lease to end.
AT_ONCE = 3


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


def survive(url: str, folder: Path, moment: str, size: int) -> list[Note]:
    """Run a group, have its first worker die, and have others go on; return what they noted."""
    queues = {"default": {"ack_wait": ACK_WAIT}, "callbacks": {"ack_wait": ACK_WAIT}}
    settings: dict[str, Any] = {"namespace": f"{moment}-{size}", "queues": queues}
    with closing(JetStreamBroker(url, **make_settings(settings))) as broker:
        broker.add_middleware(GroupCallbacks(JetStreamBackend(broker=broker)))
        broker.declare_queue("default")
        broker.declare_queue("callbacks")
        run_group(broker, size)
        with work(url, settings, folder, "default", moment) as first:
            eventually(lambda: not first.is_running, SOON, message="the end of the first worker")
        assert (folder / "died").exists()
        # Only now, or the callback might run in the process that dies, and rightly run again.
        with work(url, settings, folder, "default"), work(url, settings, folder, "callbacks"):
            broker.join("default", timeout=SOON)
            broker.join("callbacks", timeout=SOON)
    return notes_of(folder)


@pytest.fixture(scope="module")
def surviving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, int], Future[list[Note]]]]:
    """Every group with every moment."""
    with NatsServer() as server, ThreadPoolExecutor(AT_ONCE) as threads:
        yield {
            (moment, size): threads.submit(survive, server.url, tmp_path_factory.mktemp(moment), moment, size)
            for moment in MOMENTS
            for size in SIZES
        }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_callback_runs_exactly_once_whenever_a_member_is_killed(
    surviving: dict[tuple[str, int], Future[list[Note]]], moment: str, size: int
) -> None:
    notes = surviving[moment, size].result()

    [completed] = [note for note in notes if note.what == "complete"]
    first_runs: dict[str, float] = {}
    for note in notes:
        if note.what == "member":
            first_runs.setdefault(note.key, note.at)
    assert first_runs.keys() == {str(number) for number in range(size)}
    assert completed.at >= max(first_runs.values())
