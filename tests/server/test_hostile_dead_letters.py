"""Entries of the dead-letter stream that this package did not write: shown as they stand, and no obstacle to others."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest

from dramatiq_jetstream import JetStreamBroker
from dramatiq_jetstream.errors import BrokerError, UnsupportedMessage
from tests.support.admin import Admin
from tests.support.raw import publish_raw
from tests.support.waiting import eventually

BLOCKS = {
    "no headers": b"X: y",
    "quoted bytes that are not UTF-8": b"Dramatiq-Actor: %FF\r\nDramatiq-Message-Id: %FF\r\nDramatiq-Queue: %FF",
    "bytes that are not UTF-8": b"Dramatiq-Queue: \xff\r\nDramatiq-Reason: \xff\xfe",
    "a traceback that is no JSON": b"Dramatiq-Traceback: notjson\r\nDramatiq-Exception-Text: [1",
    "JSON of other types": b'Dramatiq-Traceback: {"a": 1}\r\nDramatiq-Exception-Text: null',
    "deep JSON": b"Dramatiq-Traceback: " + b"[" * 20_000,
    "a huge number as JSON": b"Dramatiq-Traceback: " + b"1" * 20_000,
    "numbers that are none": b"Dramatiq-Attempts: many\r\nDramatiq-Enqueued: \xb2\r\nDramatiq-Sequence: -1",
    "huge numbers": b"Dramatiq-Attempts: " + b"9" * 5_000 + b"\r\nDramatiq-Failed: 1e400",
    "a queue of an odd name": b"Dramatiq-Queue: a%0Ab*%3E",
    "a queue of a long name": b"Dramatiq-Queue: " + b"q" * 5_000,
    "a queue nobody declared": b"Dramatiq-Queue: nosuch",
    "kept where nothing is": b"Dramatiq-Kept: 1\r\nDramatiq-Stream: nosuch\r\nDramatiq-Sequence: 1",
    "kept in a stream of an odd name": b"Dramatiq-Kept: 1\r\nDramatiq-Stream: a b.>\r\nDramatiq-Sequence: 1",
    "kept in no stream": b"Dramatiq-Queue: default\r\nDramatiq-Kept: 1",
    "a part": b"Dramatiq-Part: 1/2\r\nDramatiq-Queue: default",
    "a part of nonsense": b"Dramatiq-Part: x",
    "a line feed": b"Dramatiq-Queue: default\r\nDramatiq-Reason: a\nb\r\nNats-Msg-Id: c\rd",
}


@pytest.fixture
def letters(broker: JetStreamBroker, nats_url: str, admin: Admin) -> list[int]:
    """Good letters around all the bad ones; the numbers of the good ones."""

    @dramatiq.actor(broker=broker)
    def run() -> None: ...

    broker.setup()
    names = broker.names
    body = run.message().encode()
    good = {"Dramatiq-Queue": "default", "Dramatiq-Actor": "run", "Dramatiq-Reason": "retries exhausted"}
    subject = names.dead_subject("default", "run")
    first = admin.store(subject, body, good)["seq"]
    for number, block in enumerate(BLOCKS.values()):
        publish_raw(nats_url, subject, block, body if number % 2 else b"\xff")
    eventually(lambda: admin.count(names.dead_letters) == len(BLOCKS) + 1)
    last = admin.store(subject, body, good)["seq"]
    return [first, last]


def test_list_and_get_show_every_entry(broker: JetStreamBroker, letters: list[int]) -> None:
    found = list(broker.dead_letters.list())

    assert len(found) == len(BLOCKS) + 2
    assert [each.number for each in found if each.reason == "retries exhausted"] == letters
    assert [broker.dead_letters.get(each.number) for each in found] == found


def test_requeue_all_moves_the_good_ones_and_says_what_is_wrong_with_each_other(
    broker: JetStreamBroker, letters: list[int]
) -> None:
    outcome: dict[int, Any] = {
        entry.number: error for entry, error in broker.dead_letters.requeue_all(broker.dead_letters.list())
    }

    assert len(outcome) == len(BLOCKS) + 2
    assert [outcome[number] for number in letters] == [None, None]
    assert all(error is None or isinstance(error, BrokerError) for error in outcome.values())


def test_requeue_of_a_bad_one_says_what_is_wrong(broker: JetStreamBroker, letters: list[int]) -> None:
    for entry in broker.dead_letters.list():
        if entry.kept or not entry.queue_name:
            with pytest.raises(UnsupportedMessage):
                broker.dead_letters.requeue(entry)


def test_delete_and_purge_remove_every_entry(broker: JetStreamBroker, letters: list[int]) -> None:
    entries = list(broker.dead_letters.list())

    assert broker.dead_letters.delete_all(entries[:5]) == 5
    assert broker.dead_letters.purge() == len(entries) - 5
    assert list(broker.dead_letters.list()) == []
