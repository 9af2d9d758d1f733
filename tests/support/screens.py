"""A namespace in which every field that a screen shows holds something odd."""

from __future__ import annotations

import json
import logging
from typing import NamedTuple

from dramatiq_jetstream import JetStreamBroker, admin
from dramatiq_jetstream.deliveries.attempts import ATTEMPT
from dramatiq_jetstream.names import escape
from dramatiq_jetstream.wire import TTL, quote_text
from tests.support.admin import Admin
from tests.support.apps.names import HOSTILE, HOSTILE_NAME, LONG_ACTOR, LONG_QUEUE
from tests.support.raw import publish_raw
from tests.support.waiting import eventually
from tests.support.workers import run_worker

#: The application.
APP = "tests.support.apps.hostile"

#: Timestamps that are none, or out of every range.
MOMENTS = (
    "1" + "0" * 30,
    "-1",
    "-1" + "0" * 30,
    "1" + "0" * 400,
    "0",
    "1e400",
    "NaN",
    "-Infinity",
    '"text"',
    "null",
    "[]",
)

#: What stands where arguments are expected.
ARGUMENTS = (
    '["x"]',
    "[NaN, Infinity, -Infinity]",
    '"abc"',
    "null",
    "7",
    "{}",
    f"[{'[' * 400}{']' * 400}]",
    '["\\udcff"]',
)

#: Options of types that nobody expects.
OPTIONS = (
    "null",
    "[1]",
    '"text"',
    '{"max_retries": "many"}',
    '{"max_retries": -5}',
    '{"max_retries": 1e400}',
    '{"retries": 99999999999999999999}',
    '{"retries": "x", "traceback": 7, "requeue_timestamp": "never"}',
    '{"retries": 2, "traceback": {"a": [null]}, "max_retries": null}',
    '{"retries": 2, "traceback": "", "requeue_timestamp": 1e300}',
    '{"eta": "soon"}',
    '{"eta": 1e400}',
    '{"pipe_target": {"x": NaN}, "\\u001b[31m": "\\u202e"}',
)

#: Bodies that are no messages.
BODIES = (
    b"",
    b"[]",
    b"{}",
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b"[" * 10_000,
    b"1" * 5_000,
    b'"' + b"x" * 10_000 + b'"',
)

#: Headers of dead letters: all of them odd, or none.
LETTERS = (
    b"X: y",
    b"Dramatiq-Queue: \xff\r\nDramatiq-Reason: \xff\x1b[31m\r\nDramatiq-Actor: %FF%1B\r\nDramatiq-Message-Id: %FF",
    b"Dramatiq-Traceback: notjson\r\nDramatiq-Exception-Text: [1\r\nDramatiq-Failed: -5\r\nDramatiq-Enqueued: 1e400",
    b"Dramatiq-Attempts: " + b"9" * 19 + b"\r\nDramatiq-Failed: " + b"9" * 19 + b"\r\nDramatiq-Enqueued: " + b"9" * 19,
    b"Dramatiq-Sequence: " + b"9" * 5_000 + b"\r\nDramatiq-Part: x\x1b\r\nDramatiq-Worker: " + b"w" * 10_000,
)


class Populated(NamedTuple):
    """What stands in a populated namespace.

    Parameters:
      retrying(str): The id of a message that waits for its retry.
      bound(str): The id of one in a stream of somebody else.
      dead(str): The id of a dead letter.
      copied(str): The id of a copy that the server holds back for its next attempt.
    """

    retrying: str
    bound: str
    dead: str
    copied: str


def populate(broker: JetStreamBroker, client: Admin, url: str) -> Populated:
    """Leave messages in every state behind, with odd content in every field."""
    broker.setup()
    actors = broker.actors
    retrying = actors[LONG_ACTOR].send(HOSTILE, "x" * 10_000, **{HOSTILE: {HOSTILE: HOSTILE}})
    dead = actors["fail"].send(HOSTILE)
    bound = [actors["develop"].send(number=number) for number in range(2)]
    # dramatiq logs the arguments, and a log with half a surrogate pair cannot be sent from one process to another.
    logging.disable(logging.CRITICAL)
    try:
        with run_worker(broker, threads=2):
            eventually(lambda: _has_failed(broker), message="the messages' failing")
    finally:
        logging.disable(logging.NOTSET)
    _store_odd_records(broker, client)
    _store_odd_messages(broker, client)
    _store_odd_letters(broker, client, url)
    return Populated(retrying.message_id, bound[0].message_id, dead.message_id, "copied")


def _has_failed(broker: JetStreamBroker) -> bool:
    views = {view.queue: view for view in admin.views(broker)}
    return bool(views[LONG_QUEUE].dead and views[LONG_QUEUE].retrying and views["photos"].retrying == 2)


def _store_odd_records(broker: JetStreamBroker, client: Admin) -> None:
    """Replace the record of the second message in the stream of somebody else."""
    bucket = broker.names.bucket("attempts")
    subject = f"$KV.{bucket}.{escape(broker.queue('photos').route.stream)}.2."
    [found] = [record for record in client.stored(f"KV_{bucket}") if record.subject.startswith(subject)]
    client.store(found.subject, b"{no JSON", {ATTEMPT: "many", TTL: "24h"})


def message(
    actor: str = '"fail"', args: str = "[]", options: str = "{}", moment: str = "1700000000000", id: str = '"odd"'
) -> bytes:
    """A message in JSON, of which each field is given in JSON."""
    fields = {"queue_name": '"default"', "actor_name": actor, "args": args, "kwargs": "{}", "options": options}
    fields |= {"message_id": id, "message_timestamp": moment}
    return ("{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}").encode()


def odd_messages() -> list[bytes]:
    """Messages with something odd in each of their fields, and bodies that are no messages."""
    odd = json.dumps(HOSTILE)
    return [
        *(message(moment=moment) for moment in MOMENTS),
        *(message(args=args) for args in ARGUMENTS),
        *(message(options=options) for options in OPTIONS),
        message(actor=odd, args=f"[{odd}]", options=f"{{{odd}:{odd}}}", id=odd),
        message(actor=json.dumps("a" * 10_000), id=json.dumps("i" * 10_000)),
        message(actor=json.dumps("e" + "\u0301" * 10_000), id=json.dumps("語" * 10_000)),
        message(id='"copied"', options='{"retries":2,"max_retries":4,"traceback":"Traceback\\nOSError: no paper"}'),
        *BODIES,
    ]


def _store_odd_messages(broker: JetStreamBroker, client: Admin) -> None:
    names = broker.names
    for body in odd_messages():
        client.store(names.work_subject(HOSTILE_NAME, "odd"), body, {"X": "y"})
    for number, body in enumerate([*odd_messages()[-15:], message(id='"due"')]):
        subject, target = (names.delayed_subject(LONG_QUEUE, "odd", str(number)), names.work_subject(LONG_QUEUE, "odd"))
        schedule = ("@at 2200-12-31T23:59:59Z", "@every 8760h", "@at 2261-12-31T23:59:59-23:59")[number % 3]
        answer = client.store(subject, body, {"Nats-Schedule": schedule, "Nats-Schedule-Target": target})
        assert "error" not in answer, answer
    client.store(names.delayed_subject(LONG_QUEUE, "never", "1"), message(id='"never"'), {"X": "y"})


def _store_odd_letters(broker: JetStreamBroker, client: Admin, url: str) -> None:
    subject = broker.names.dead_subject(LONG_QUEUE, LONG_ACTOR)
    for block in LETTERS:
        publish_raw(url, subject, block, b"\xff")
    quoted = quote_text(HOSTILE.replace("\udcff", ""))
    fields = ("Queue", "Actor", "Message-Id", "Exception", "Worker")
    texts = {f"Dramatiq-{name}": json.dumps(HOSTILE * 100) for name in ("Exception-Text", "Traceback")}
    answer = client.store(subject, message(), {f"Dramatiq-{field}": quoted for field in fields} | texts)
    assert "error" not in answer, answer
